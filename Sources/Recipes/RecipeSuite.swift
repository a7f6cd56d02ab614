package import FarmModel

/// The functional tests beside a recipe: `fulltest.yaml`.
package enum RecipeSuite {
    /// The outcomes of all must fit into one report.
    private static let mostTests = 1000

    /// The suite; empty when there is none. Throws errors that name file and line.
    package static func read(_ source: RecipeSource) throws -> TestSuite {
        guard let bytes = source.files["fulltest.yaml"] else { return TestSuite() }
        let document = try RecipeDocument(bytes, path: source.location(of: "fulltest.yaml"))
        let top = try RecipeMapping(
            document.root, in: document, what: "the test suite",
            keys: ["name", "version", "setup", "tests", "default_timeout"])
        var suite = TestSuite()
        if let node = top["setup"] {
            suite.setup = try RecipeMapping(node, in: document, what: "setup", keys: ["script"]).text("script") ?? ""
        }
        let timeout = try top.integer("default_timeout") ?? 120
        guard let tests = try top.require("tests").sequence, tests.count > 0 else {
            throw document.fail("suite.empty", try top.require("tests"), "the suite has no tests")
        }
        guard tests.count <= mostTests else {
            throw document.fail(
                "suite.too-large", try top.require("tests"), "the suite has \(tests.count) tests, \(mostTests) are the most")
        }
        suite.tests = try tests.map { try readTest($0, timeout: timeout, in: document) }
        return suite
    }

    private static func readTest(_ node: RecipeNode, timeout: Int, in document: RecipeDocument) throws -> FunctionalTest {
        let test = try RecipeMapping(
            node, in: document, what: "a test",
            keys: ["name", "description", "command", "script", "expected_output_contains", "expected_exit_code", "timeout", "validate"])
        guard let command = try test.text("command") ?? test.text("script") else {
            throw document.fail("recipe.missing-key", node, "a test needs a command or a script")
        }
        var files: [String] = []
        for entry in test["validate"]?.sequence ?? [] {
            let validation = try RecipeMapping(entry, in: document, what: "validate", keys: ["output_exists"])
            files += try validation.texts("output_exists")
        }
        for file in files where file.hasPrefix("/") || file.split(separator: "/").contains("..") {
            throw document.fail("suite.path", node, "\"\(file)\" must lie in the tests' working directory")
        }
        return FunctionalTest(
            name: try test.requireText("name"), command: command,
            expectedExitCode: Int32(clamping: try test.integer("expected_exit_code") ?? 0),
            expectedOutput: try test.texts("expected_output_contains"), outputFiles: files,
            timeoutSeconds: try test.integer("timeout") ?? timeout)
    }
}
