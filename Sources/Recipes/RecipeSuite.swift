package import FarmModel
import TemplateEngine
import TestSuites

/// The functional tests beside a recipe: `fulltest.yaml`, in the format of Neurodesk's collection, and with what that format lacks.
///
/// A suite with a block `x-sciferry` is strict: what is not understood is an error. Another one is read as the collection's own runner reads it,
/// and what that runner passes over in silence is a finding.
package struct RecipeSuite: Sendable {
    package var suite = TestSuite()
    package private(set) var findings: [RecipeFinding] = []

    /// How a suite is read.
    package enum Mode: Sendable {
        case strict, compatible
        /// As the suite itself wants it.
        case own
    }

    /// The outcomes of all must fit into one report.
    private static let mostTests = 1000

    /// Keys that the format knows.
    static let suiteKeys: Set<String> = [
        "name", "version", "tests", "setup", "test_data", "cleanup", "required_files", "default_timeout", "env_setup", "env",
        "script_runner", "script_ext", "matlab_runtime", "container", "pin_container", "description", "x-sciferry",
    ]
    static let testKeys: Set<String> = [
        "name", "command", "description", "expected_output_contains", "validate", "expected_exit_code", "expected_exit_code_not",
        "depends_on", "ignore_exit_code", "timeout", "script", "env_setup",
    ]
    private static let settingKeys: Set<String> = ["network", "parallel", "memory_mib", "not_started"]
    /// Keys whose scalars are no variables.
    private static let reserved: Set<String> = [
        "container", "pin_container", "test_data", "setup", "cleanup", "tests", "env_setup", "default_timeout", "matlab_runtime",
        "script_runner", "script_ext", "required_files",
    ]

    private let document: RecipeDocument
    private var isStrict = false
    private var names: Set<String> = []
    private var usesOutput = false

    /// The suite beside a recipe; empty when there is none. Throws errors that name file and line, also for a key that is nearly a known one.
    package static func read(_ source: RecipeSource) throws -> TestSuite {
        guard let bytes = source.files["fulltest.yaml"] else { return TestSuite() }
        let reading = try RecipeSuite(bytes, path: source.location(of: "fulltest.yaml"), mode: .own)
        if let first = reading.findings.first(where: { $0.severity == .error }) { throw reading.error(first) }
        return reading.suite
    }

    /// A finding as an error.
    package func error(_ finding: RecipeFinding) -> FarmError {
        FarmError(
            FarmError.Code(rawValue: finding.code), .invalid, "\(finding.file):\(finding.line): \(finding.message)", hint: finding.advice)
    }

    /// Reads a suite with all that there is to say of it. Throws for what is no suite at all.
    package init(_ bytes: [UInt8], path: String, mode: Mode) throws {
        document = try RecipeDocument(bytes, path: path)
        let top = try RecipeMapping(document.root, in: document, what: "the test suite", keys: nil)
        isStrict = mode == .strict || (mode == .own && top["x-sciferry"] != nil)
        suite.isStrict = isStrict ? true : nil
        try readSettings(top)
        try readVariables(top)
        check(keys: top.node, "the suite", RecipeSuite.suiteKeys) { RecipeSuite.isVariable($0) }
        try readSurroundings(top)
        try readTests(top)
    }

    // MARK: findings

    private mutating func find(
        _ code: String, _ node: RecipeNode, _ message: String, advice: String, _ severity: RecipeFinding.Severity? = nil
    ) {
        findings.append(
            RecipeFinding(code, severity ?? (isStrict ? .error : .warning), file: document.path, node, message, advice: advice))
    }

    /// Finds keys that nobody reads. One that is nearly a known one is a slip of the pen, whatever the mode.
    private mutating func check(
        keys node: RecipeNode, _ what: String, _ known: Set<String>, passes: (RecipeNode.Entry) -> Bool = { _ in false }
    ) {
        for entry in node.mapping ?? [] where !known.contains(entry.key.printed) && !passes(entry) {
            let key = entry.key.printed
            if let near = NearestWord.find(key, among: known) {
                find("recipe.unknown-key", entry.key, "\"\(key)\" is not a key of \(what)", advice: "did you mean \"\(near)\"?", .error)
            } else {
                find(
                    "suite.idle-key", entry.key, "\"\(key)\" of \(what) does nothing",
                    advice: "known: \(known.sorted().joined(separator: ", "))")
            }
        }
    }

    // MARK: what concerns all tests

    private mutating func readSettings(_ top: RecipeMapping) throws {
        if !isStrict {
            // The collection's format has no word for a network, and its runner gives one.
            suite.network = true
        }
        guard let node = top["x-sciferry"], !node.isNull else { return }
        check(keys: node, "x-sciferry", RecipeSuite.settingKeys)
        let settings = try RecipeMapping(node, in: document, what: "x-sciferry", keys: nil)
        suite.network = try settings.flag("network") ?? suite.network
        suite.isParallel = try settings.flag("parallel") ?? true
        suite.memoryMiB = try settings.integer("memory_mib")
        if let memory = suite.memoryMiB, !(16...(4 << 20)).contains(memory) {
            throw document.fail("suite.memory", node, "\(memory) MiB is no memory for a test", hint: "from 16 MiB to 4 TiB")
        }
        suite.unstarted = try settings.texts("not_started")
    }

    private static func isVariable(_ entry: RecipeNode.Entry) -> Bool {
        guard !reserved.contains(entry.key.printed), case .scalar(let value, _) = entry.value.content else { return false }
        if case .none = value { return false }
        return true
    }

    /// Scalars of the suite's own level, and its test data.
    private mutating func readVariables(_ top: RecipeMapping) throws {
        var variables: [SuiteVariable] = []
        for entry in top.entries where RecipeSuite.isVariable(entry) && !["description", "env"].contains(entry.key.printed) {
            variables.append(SuiteVariable(name: entry.key.printed, value: entry.value.printed, kind: .text))
        }
        if let node = top["test_data"], !node.isNull {
            for entry in try RecipeMapping(node, in: document, what: "test_data", keys: nil).entries {
                guard VariableName.isValid(entry.key.printed), entry.value.text != nil else {
                    throw document.fail("suite.variable", entry.key, "\"\(entry.key.printed)\" is no variable with a text")
                }
                let (name, value) = (entry.key.printed, entry.value.printed)
                try checkPath(value, entry.value)
                variables.removeAll { $0.name == name }
                variables.append(SuiteVariable(name: name, value: value, kind: name == "output_dir" ? .output : .data))
            }
        }
        names = Set(variables.map(\.name))
        suite.variables = variables.isEmpty ? nil : variables
    }

    private func checkPath(_ path: String, _ node: RecipeNode) throws {
        if path.split(separator: "/").contains("..") {
            throw document.fail("suite.path", node, "\"\(path)\" must lie in the tests' working directory")
        }
    }

    /// What the reference would replace, and we do not.
    private mutating func check(text: String, _ node: RecipeNode) {
        for word in Set(RecipeSuite.prefixed(text, names)).sorted() {
            find(
                "suite.prefix", node, "$\(word) stays as it is; the collection's own runner replaces its beginning",
                advice: "write ${…} around the name that is meant", .warning)
        }
    }

    private static func prefixed(_ text: String, _ names: Set<String>) -> [String] { SuiteVariables.prefixed(in: text, names: names) }

    private mutating func readSurroundings(_ top: RecipeMapping) throws {
        for (key, known) in [("setup", Set(["script", "host_script"])), ("cleanup", ["script"])] {
            guard let node = top[key], !node.isNull else { continue }
            check(keys: node, key, known)
            let block = try RecipeMapping(node, in: document, what: key, keys: nil)
            for word in ["script", "host_script"] where block[word] != nil { check(text: try block.text(word) ?? "", node) }
            if key == "setup" {
                suite.setup = try block.text("script") ?? ""
                suite.hostSetup = try block.text("host_script")
            } else {
                suite.cleanup = try block.text("script")
            }
        }
        var lines: [String] = []
        if let node = top["env"], !node.isNull {
            for entry in try RecipeMapping(node, in: document, what: "env", keys: nil).entries {
                guard VariableName.isValid(entry.key.printed), entry.value.text != nil else {
                    throw document.fail("suite.variable", entry.key, "\"\(entry.key.printed)\" is no variable with a text")
                }
                // In double quotes, as the collection's own runner writes them: what the value names is replaced.
                lines.append("export \(entry.key.printed)=\"\(entry.value.printed)\"")
            }
        }
        if let script = try top.text("env_setup") { lines.append(script) }
        suite.preparation = lines.isEmpty ? nil : lines.joined(separator: "\n")
        check(text: suite.preparation ?? "", top.node)
        var files: [SuiteFile] = []
        for node in try top.nodes("required_files") {
            check(keys: node, "required_files", ["dataset", "files"])
            let entry = try RecipeMapping(node, in: document, what: "required_files", keys: nil)
            let dataset = try entry.requireText("dataset")
            guard dataset.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9._-]{0,99}/) != nil else {
                throw document.fail("suite.dataset", node, "\"\(dataset)\" is no name of a dataset")
            }
            for path in try entry.texts("files") {
                if path.hasPrefix("/") || path.isEmpty { throw document.fail("suite.path", node, "\"\(path)\" is no path in a dataset") }
                try checkPath(path, node)
                files.append(SuiteFile(dataset: dataset, path: path))
            }
        }
        suite.files = files.isEmpty ? nil : files
        if let node = top["container"] ?? top["pin_container"] {
            find("suite.container", node, "which image is tested is not the suite's to say", advice: "leave it out", .note)
        }
    }

    // MARK: tests

    private mutating func readTests(_ top: RecipeMapping) throws {
        let timeout = try top.integer("default_timeout") ?? 120
        guard let tests = try top.require("tests").sequence, tests.count > 0 else {
            throw document.fail("suite.empty", try top.require("tests"), "the suite has no tests")
        }
        guard tests.count <= RecipeSuite.mostTests else {
            throw document.fail(
                "suite.too-large", try top.require("tests"), "the suite has \(tests.count) tests, \(RecipeSuite.mostTests) are the most")
        }
        var (runner, suffix) = (try top.text("script_runner") ?? "", try top.text("script_ext") ?? ".sh")
        if runner.isEmpty, let node = top["matlab_runtime"], !node.isNull {
            check(keys: node, "matlab_runtime", ["runner", "path"])
            let runtime = try RecipeMapping(node, in: document, what: "matlab_runtime", keys: nil)
            if let program = try runtime.text("runner") {
                (runner, suffix) = ([program, try runtime.text("path") ?? ""].filter { !$0.isEmpty }.joined(separator: " "), ".m")
            }
        }
        guard suffix.wholeMatch(of: /[A-Za-z0-9._]{0,16}/) != nil else {
            throw document.fail("suite.suffix", try top.require("script_ext"), "\"\(suffix)\" is no ending of a file's name")
        }
        var seen: Set<String> = []
        let all = Set(tests.compactMap { $0["name"]?.printed })
        for node in tests {
            let test = try readTest(node, timeout: timeout, runner: runner, suffix: suffix)
            if !seen.insert(test.name).inserted {
                find("suite.name", node, "another test has the name \"\(test.name)\"", advice: "names tell tests apart in histories")
            }
            for name in test.dependsOn ?? [] where !seen.contains(name) || name == test.name {
                let what = all.contains(name) ? "a test that does not stand before it" : "\"\(name)\", which is no test"
                find("suite.dependency", node["depends_on"] ?? node, "\"\(test.name)\" depends on \(what)", advice: "it counts as none")
            }
            suite.tests.append(test)
        }
    }

    private mutating func readTest(_ node: RecipeNode, timeout: Int, runner: String, suffix: String) throws -> FunctionalTest {
        let test = try RecipeMapping(node, in: document, what: "a test", keys: nil)
        check(keys: node, "a test", RecipeSuite.testKeys)
        let (command, text) = (try test.text("command") ?? "", try test.text("script") ?? "")
        guard !command.isEmpty || !text.isEmpty else {
            throw document.fail("recipe.missing-key", node, "a test needs a command or a script")
        }
        if !command.isEmpty, !text.isEmpty {
            find("suite.script", node, "with a command beside it a script does nothing", advice: "leave one of them out")
        }
        var result = FunctionalTest(
            name: try test.requireText("name"), command: command,
            expectedExitCode: Int32(clamping: try test.integer("expected_exit_code") ?? 0),
            expectedOutput: try test.texts("expected_output_contains"), timeoutSeconds: try test.integer("timeout") ?? timeout)
        guard result.name.count <= 200 else { throw document.fail("suite.name", node, "a test's name has 200 characters at most") }
        guard (1...604_800).contains(result.timeoutSeconds) else {
            throw document.fail("suite.timeout", node, "\(result.timeoutSeconds) s is no time for a test", hint: "from 1 s to a week")
        }
        if command.isEmpty { result.script = TestScript(text: text, suffix: suffix, runner: runner) }
        result.description = try test.text("description")
        result.preparation = try test.text("env_setup")
        let dependencies = try test.texts("depends_on")
        result.dependsOn = dependencies.isEmpty ? nil : dependencies
        result.ignoresExitCode = try test.flag("ignore_exit_code") ?? false ? true : nil
        result.rejectedExitCode = try test.integer("expected_exit_code_not").map { Int32(clamping: $0) }
        if result.ignoresExitCode != nil, let idle = test["expected_exit_code"] ?? test["expected_exit_code_not"] {
            find("suite.exit-code", idle, "with ignore_exit_code no exit code is expected", advice: "leave one of them out")
        }
        for text in [command, text, result.preparation ?? ""] + result.expectedOutput { check(text: text, node) }
        if result.expectedOutput.contains("") {
            find("suite.nothing", test["expected_output_contains"] ?? node, "every output contains nothing", advice: "name a text")
        }
        var checks = SuiteChecks(document: document)
        for entry in try checkList(test) {
            for item in entry.mapping ?? [] { try read(item, into: &result, &checks) }
            if entry.mapping == nil { find("suite.check", entry, "\"\(entry.printed)\" is no check", advice: SuiteChecks.advice) }
        }
        return result
    }

    private func checkList(_ test: RecipeMapping) throws -> [RecipeNode] {
        guard let node = test["validate"], !node.isNull else { return [] }
        if node.mapping != nil { return [node] }
        return try test.nodes("validate")
    }

    private mutating func read(_ item: RecipeNode.Entry, into test: inout FunctionalTest, _ checks: inout SuiteChecks) throws {
        let word = item.key.printed
        switch word {
        case "output_exists":
            let paths = item.value.sequence?.map(\.printed) ?? [item.value.printed]
            for path in paths { try checkPath(path, item.value) }
            test.outputFiles += paths
        case "same_dimensions" where item.value.sequence?.count != 2:
            find("suite.check", item.value, "same_dimensions needs two files", advice: "[one, other]")
        case _ where SuiteChecks.words.contains(word):
            test.checks = (test.checks ?? []) + (try checks.read(item))
        default:
            if let near = NearestWord.find(word, among: SuiteChecks.words.union(["output_exists"])) {
                find("recipe.unknown-key", item.key, "\"\(word)\" is not a key of validate", advice: "did you mean \"\(near)\"?", .error)
            } else {
                find("suite.idle-key", item.key, "\"\(word)\" of validate does nothing", advice: SuiteChecks.advice)
            }
        }
    }
}
