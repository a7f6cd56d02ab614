import FarmModel
import SystemIO
import TemplateEngine
import Yams

extension Recipe {
    private static let topKeys: Set<String> = [
        "name", "version", "architectures", "build", "categories", "icon", "readme", "copyright", "deploy", "files",
        "structured_readme", "variables", "description", "x-sciferry",
    ]
    private static let directiveKeys: Set<String> = [
        "run", "install", "environment", "workdir", "user", "entrypoint", "copy", "file", "deploy", "condition",
    ]

    /// Reads a recipe and the suite beside it. Throws, for the first thing that is wrong, an error that names file, line
    /// and key.
    package static func read(_ source: RecipeSource) throws -> Recipe {
        guard let bytes = source.files["build.yaml"] else {
            throw FarmError("recipe.absent", .notFound, "\(source.path) does not exist", hint: "a recipe is a directory with a build.yaml")
        }
        let document = try RecipeDocument(bytes, path: source.path)
        let top = try RecipeMapping(document.root, in: document, what: "the recipe", keys: topKeys)
        let name = try top.requireText("name")
        guard PlainName.isValid(name), !name.contains("_") else {
            throw document.fail(
                "recipe.name", try top.require("name"), "\"\(name)\" is no recipe name", hint: "use letters, digits and hyphens")
        }
        let version = try top.requireText("version")
        guard PlainName.isValid(version) else {
            throw document.fail(
                "recipe.version", try top.require("version"), "\"\(version)\" is no version", hint: "use letters, digits, dots and hyphens")
        }
        let architectures = try top.texts("architectures")
        for architecture in architectures where !["x86_64", "aarch64"].contains(architecture) {
            throw document.fail(
                "recipe.architecture", try top.require("architectures"), "\"\(architecture)\" is no architecture", hint: "x86_64 or aarch64"
            )
        }
        let build = try RecipeMapping(
            try top.require("build"), in: document, what: "build",
            keys: ["kind", "base-image", "pkg-manager", "directives", "add-tzdata", "add-default-template", "fix-locale-def"])
        let manager = try build.text("pkg-manager") ?? "apt"
        guard manager == "apt" else {
            throw document.fail(
                "recipe.package-manager", try build.require("pkg-manager"), "package manager \"\(manager)\" is not supported",
                hint: "use apt")
        }
        let (bins, path) = try readDeploy(top["deploy"], in: document)
        let files = try readFiles(top["files"], source, in: document)
        let description = try readDescription(top)
        let base = try build.requireText("base-image")
        guard !base.contains(where: { $0.isWhitespace || $0 == "{" }) else {
            throw document.fail(
                "recipe.base", try build.require("base-image"), "\"\(base)\" is no image name", hint: "expressions are not read here yet")
        }
        return Recipe(
            name: name, version: version, architectures: architectures.isEmpty ? ["x86_64"] : architectures,
            categories: try top.texts("categories"), description: description, licences: try readLicences(top),
            baseImage: base, addsTimeZone: try build.flag("add-tzdata") ?? false,
            variables: try readVariables(top["variables"], in: document), files: files,
            directives: try readDirectives(try build.require("directives"), source, in: document), deployBins: bins,
            deployPath: path, suite: try RecipeSuite.read(source, recipe: name), limits: try readLimits(top["x-sciferry"], in: document))
    }

    private static func readDescription(_ top: RecipeMapping) throws -> String {
        if let text = try top.text("description") { return text }
        guard let node = top["structured_readme"] else { return try top.text("readme") ?? "" }
        let readme = try RecipeMapping(
            node, in: top.document, what: "structured_readme", keys: ["description", "example", "documentation", "citation"])
        return try readme.text("description") ?? ""
    }

    private static func readLicences(_ top: RecipeMapping) throws -> [String] {
        guard let sequence = top["copyright"]?.sequence else { return [] }
        return try sequence.map { node in
            let entry = try RecipeMapping(node, in: top.document, what: "copyright", keys: ["license", "name", "url"])
            return try entry.text("license") ?? entry.text("name") ?? ""
        }
    }

    private static func readDeploy(_ node: Node?, in document: RecipeDocument) throws -> ([String], [String]) {
        guard let node else { return ([], []) }
        let deploy = try RecipeMapping(node, in: document, what: "deploy", keys: ["bins", "path"])
        let bins = try deploy.texts("bins")
        for bin in bins where !bin.contains("{{") && !CommandName.isValid(bin) {
            throw document.fail(
                "recipe.command", try deploy.require("bins"), "\"\(bin)\" is no command name",
                hint: "name the program alone; directories go under \"path\"")
        }
        return (bins, try deploy.texts("path"))
    }

    private static func readLimits(_ node: Node?, in document: RecipeDocument) throws -> Limits {
        var limits = Limits()
        guard let node else { return limits }
        let block = try RecipeMapping(node, in: document, what: "x-sciferry", keys: ["disk-gib"])
        if let gib = try block.integer("disk-gib") { limits.diskGiB = max(1, min(4096, gib)) }
        return limits
    }

    private static func readVariables(
        _ node: Node?, in document: RecipeDocument
    ) throws -> [(name: String, value: TemplateValue)] {
        guard let node else { return [] }
        let mapping = try RecipeMapping(node, in: document, what: "variables", keys: nil)
        return try mapping.keys.map { key in
            (key, try value(of: try mapping.require(key), in: document, what: "variable \"\(key)\""))
        }
    }

    private static func value(of node: Node, in document: RecipeDocument, what: String) throws -> TemplateValue {
        if let sequence = node.sequence {
            return .list(try sequence.map { try value(of: $0, in: document, what: what) })
        }
        if node.mapping != nil {
            let mapping = try RecipeMapping(node, in: document, what: what, keys: nil)
            if mapping.keys == ["try"] {
                throw document.fail("recipe.unsupported", node, "\(what) uses \"try\", which this version does not read")
            }
            let entries = try mapping.keys.map { ($0, try value(of: try mapping.require($0), in: document, what: what)) }
            return .mapping(Dictionary(entries) { first, _ in first })
        }
        if node.scalar?.style == .plain {
            if let flag = node.bool { return .bool(flag) }
            if let integer = node.int { return .integer(integer) }
            if let decimal = node.float { return .decimal(decimal) }
            if node.null != nil { return .none }
        }
        return .text(try RecipeMapping.text(node, in: document, what: what))
    }

    private static func readFiles(_ node: Node?, _ source: RecipeSource, in document: RecipeDocument) throws -> [RecipeFile] {
        guard let node else { return [] }
        guard let sequence = node.sequence else { throw document.fail("recipe.type", node, "files must be a list") }
        return try sequence.map { try readFile($0, source, in: document) }
    }

    private static func readFile(_ node: Node, _ source: RecipeSource, in document: RecipeDocument) throws -> RecipeFile {
        let file = try RecipeMapping(
            node, in: document, what: "a file", keys: ["name", "url", "filename", "contents", "executable"])
        let name = try file.requireText("name")
        guard PlainName.isValid(name) else {
            throw document.fail(
                "recipe.file", try file.require("name"), "\"\(name)\" is no file name", hint: "use letters, digits, dots and hyphens")
        }
        let executable = try file.flag("executable") ?? false
        let line = node.mark?.line ?? 1
        let given = ["url", "filename", "contents"].filter { file[$0] != nil }
        guard given.count == 1 else {
            throw document.fail("recipe.file", node, "file \"\(name)\" needs exactly one of url, filename, contents")
        }
        if let url = try file.text("url") { return RecipeFile(name: name, source: .url(url), executable: executable, line: line) }
        if let beside = try file.text("filename") {
            guard source.files[beside] != nil else {
                throw document.fail(
                    "recipe.missing-file", try file.require("filename"), "\(source.location(of: beside)) does not exist",
                    hint: "put the file beside build.yaml")
            }
            return RecipeFile(name: name, source: .beside(beside), executable: executable, line: line)
        }
        return RecipeFile(name: name, source: .contents(try file.requireText("contents")), executable: executable, line: line)
    }

    private static func readDirectives(_ node: Node, _ source: RecipeSource, in document: RecipeDocument) throws -> [Directive] {
        guard let sequence = node.sequence else { throw document.fail("recipe.type", node, "directives must be a list") }
        return try sequence.map { entry in
            let directive = try RecipeMapping(entry, in: document, what: "a directive", keys: directiveKeys)
            let kinds = directive.keys.filter { $0 != "condition" }
            guard kinds.count == 1, let kind = kinds.first else {
                throw document.fail("recipe.directive", entry, "a directive has one kind, this one has: \(kinds.joined(separator: ", "))")
            }
            return Directive(
                kind: try readKind(kind, directive, source, in: document), condition: try directive.text("condition"),
                line: entry.mark?.line ?? 1)
        }
    }

    private static func readKind(
        _ kind: String, _ directive: RecipeMapping, _ source: RecipeSource, in document: RecipeDocument
    ) throws -> Directive.Kind {
        let node = try directive.require(kind)
        switch kind {
        case "run": return .run(try directive.texts("run"))
        case "install":
            let words = try directive.texts("install").flatMap { $0.split(whereSeparator: \.isWhitespace).map(String.init) }
            return .install(words)
        case "workdir": return .workdir(try directive.requireText(kind))
        case "user": return .user(try directive.requireText(kind))
        case "entrypoint": return .entrypoint(try directive.texts(kind))
        case "file": return .file(try readFile(node, source, in: document))
        case "deploy":
            let (bins, path) = try readDeploy(node, in: document)
            return .deploy(bins: bins, path: path)
        case "copy":
            let words = try directive.texts(kind).flatMap { $0.split(whereSeparator: \.isWhitespace).map(String.init) }
            guard words.count >= 2, let destination = words.last else {
                throw document.fail("recipe.copy", node, "copy needs a source and a destination")
            }
            for word in words.dropLast() where source.files[word] == nil {
                throw document.fail(
                    "recipe.missing-file", node, "\(source.location(of: word)) does not exist", hint: "put the file beside build.yaml")
            }
            return .copy(from: Array(words.dropLast()), to: destination)
        default:
            let mapping = try RecipeMapping(node, in: document, what: "environment", keys: nil)
            return .environment(
                try mapping.keys.map { Variable(name: $0, value: try mapping.requireText($0)) })
        }
    }
}

/// The functional tests beside a recipe: `fulltest.yaml`.
enum RecipeSuite {
    /// The outcomes of all must fit into one report.
    private static let mostTests = 1000

    static func read(_ source: RecipeSource, recipe: String) throws -> TestSuite {
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

    private static func readTest(_ node: Node, timeout: Int, in document: RecipeDocument) throws -> FunctionalTest {
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
