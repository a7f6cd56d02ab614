package import FarmModel

/// The functional tests beside a recipe: `fulltest.yaml`, in the format of Neurodesk's collection.
package enum RecipeSuite {
    /// The outcomes of all must fit into one report.
    private static let mostTests = 1000

    /// Keys that the format knows; others do nothing there, and the lint says so.
    static let suiteKeys: Set<String> = [
        "name", "version", "tests", "setup", "test_data", "cleanup", "required_files", "default_timeout", "env_setup", "env",
        "script_runner", "matlab_runtime", "container", "pin_container", "description",
    ]
    static let testKeys: Set<String> = [
        "name", "command", "description", "expected_output_contains", "validate", "expected_exit_code", "depends_on", "ignore_exit_code",
        "timeout", "script", "env",
    ]
    static let validators: Set<String> = ["output_exists", "same_dimensions"]

    /// The suite; empty when there is none. Throws errors that name file and line, also for a key that is nearly a known one.
    package static func read(_ source: RecipeSource) throws -> TestSuite {
        guard let bytes = source.files["fulltest.yaml"] else { return TestSuite() }
        let document = try RecipeDocument(bytes, path: source.location(of: "fulltest.yaml"))
        let top = try mapping(document.root, in: document, "the test suite", suiteKeys)
        var suite = TestSuite()
        if let node = top["setup"], !node.isNull {
            suite.setup = try mapping(node, in: document, "setup", ["script", "host_script"]).text("script") ?? ""
        }
        let prelude = try prelude(top)
        if !suite.setup.isEmpty { suite.setup = prelude + suite.setup }
        let timeout = try top.integer("default_timeout") ?? 120
        guard let tests = try top.require("tests").sequence, tests.count > 0 else {
            throw document.fail("suite.empty", try top.require("tests"), "the suite has no tests")
        }
        guard tests.count <= mostTests else {
            throw document.fail(
                "suite.too-large", try top.require("tests"), "the suite has \(tests.count) tests, \(mostTests) are the most")
        }
        suite.tests = try tests.map { try readTest($0, prelude: prelude, timeout: timeout, in: document) }
        for (key, what) in [
            ("required_files", "datasets"), ("script_runner", "a script runner"), ("matlab_runtime", "a runner for MATLAB"),
        ] where !(top[key]?.sequence?.isEmpty ?? top[key]?.isNull ?? true) {
            (suite.tests, suite.setup) = ([], "")
            suite.skipped = "they want \(what) (\(key)), which the farm does not have"
        }
        return suite
    }

    /// A mapping in which a slip of the pen is an error, and a key that is nothing like a known one does nothing.
    private static func mapping(_ node: RecipeNode, in document: RecipeDocument, _ what: String, _ known: Set<String>) throws
        -> RecipeMapping
    {
        let mapping = try RecipeMapping(node, in: document, what: what, keys: nil)
        for entry in mapping.entries where !known.contains(entry.key.printed) {
            guard let near = NearestWord.find(entry.key.printed, among: known) else { continue }
            throw document.fail(
                "recipe.unknown-key", entry.key, "\"\(entry.key.printed)\" is not a key of \(what)", hint: "did you mean \"\(near)\"?")
        }
        return mapping
    }

    /// What runs before every script: variables, and what the suite sets up.
    private static func prelude(_ top: RecipeMapping) throws -> String {
        var lines: [String] = []
        for key in ["env", "test_data"] {
            guard let node = top[key], !node.isNull else { continue }
            for entry in try RecipeMapping(node, in: top.document, what: key, keys: nil).entries {
                guard VariableName.isValid(entry.key.printed), entry.value.text != nil else {
                    throw top.document.fail("suite.variable", entry.key, "\"\(entry.key.printed)\" is no variable with a text")
                }
                lines.append("export \(entry.key.printed)=\(ShellWord.quoted(entry.value.printed))")
            }
        }
        if let script = try top.text("env_setup") { lines.append(script) }
        return lines.isEmpty ? "" : lines.joined(separator: "\n") + "\n"
    }

    private static func readTest(_ node: RecipeNode, prelude: String, timeout: Int, in document: RecipeDocument) throws -> FunctionalTest {
        let test = try mapping(node, in: document, "a test", testKeys)
        guard var command = try test.text("command") ?? test.text("script") else {
            throw document.fail("recipe.missing-key", node, "a test needs a command or a script")
        }
        var files: [String] = []
        for entry in test["validate"]?.sequence ?? [] {
            files += try mapping(entry, in: document, "validate", validators).texts("output_exists")
        }
        for file in files where file.hasPrefix("/") || file.split(separator: "/").contains("..") {
            throw document.fail("suite.path", node, "\"\(file)\" must lie in the tests' working directory")
        }
        if try test.flag("ignore_exit_code") ?? false { command = "(\n\(command)\n) || true" }
        return FunctionalTest(
            name: try test.requireText("name"), command: prelude + command,
            expectedExitCode: Int32(clamping: try test.integer("expected_exit_code") ?? 0),
            expectedOutput: try test.texts("expected_output_contains"), outputFiles: files,
            timeoutSeconds: try test.integer("timeout") ?? timeout)
    }
}
