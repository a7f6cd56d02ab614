import FarmModel
import TemplateEngine

/// Finds what a recipe says without meaning it, or does without saying it. The recipe must be one that can be read.
package struct RecipeLint {
    private let source: RecipeSource
    private let document: RecipeDocument
    private var findings: [RecipeFinding] = []

    /// All findings of a recipe and its test suite, in order of place.
    package static func findings(_ source: RecipeSource) throws -> [RecipeFinding] {
        guard let bytes = source.files["build.yaml"] else { return [] }
        var lint = RecipeLint(source: source, document: try RecipeDocument(bytes, path: source.path))
        lint.checkTop()
        for directive in lint.document.root["build"]?["directives"]?.sequence ?? [] { lint.check(directive) }
        try lint.checkSuite()
        return lint.findings.sorted { ($0.file, $0.line, $0.column) < ($1.file, $1.line, $1.column) }
    }

    private init(source: RecipeSource, document: RecipeDocument) {
        self.source = source
        self.document = document
    }

    private mutating func add(
        _ code: String, _ severity: RecipeFinding.Severity, _ node: RecipeNode, _ message: String, advice: String,
        edit: RecipeFinding.Edit? = nil
    ) {
        findings.append(RecipeFinding(code, severity, file: source.path, node, message, advice: advice, edit: edit))
    }

    // MARK: the whole recipe

    private mutating func checkTop() {
        let root = document.root
        if let version = root["version"] { checkSpelling(version, "the version") }
        if root["copyright"]?.sequence?.isEmpty ?? true {
            add(
                "licence.absent", .note, root["name"] ?? root, "the recipe names no licence",
                advice: "add copyright: [{license: SPDX-ID, url: …}]")
        }
        if let tests = root["tests"] {
            add("tests.dead", .warning, tests, "\"tests\" does nothing", advice: "functional tests stand in fulltest.yaml")
        }
        if let base = root["build"]?["base-image"] { checkBase(base) }
        for file in root["files"]?.sequence ?? [] { checkFile(file) }
    }

    private mutating func checkBase(_ base: RecipeNode) {
        guard let name = base.text, !name.contains("@sha256:") else { return }
        let tag = name.split(separator: "/").last?.split(separator: ":").dropFirst().first
        if tag == nil || tag == "latest" {
            add(
                "base.latest", .warning, base, "the base image \(name) means another image tomorrow",
                advice: "name a version, for example \(name.split(separator: ":")[0]):VERSION")
        } else if !name.contains("{{") {
            add(
                "base.unpinned", .note, base, "the base image \(name) is not pinned",
                advice: "the farm's lock pins it; sciferry recipe lock writes the digest")
        }
    }

    private mutating func checkFile(_ file: RecipeNode) {
        guard let url = file["url"] else { return }
        if url.text?.hasPrefix("http://") ?? false { plainHTTP(url) }
    }

    private mutating func plainHTTP(_ node: RecipeNode) {
        add(
            "download.plain-http", .warning, node, "the download comes over plain http, which anybody on the way may change",
            advice: "use https where the server has it")
    }

    /// A scalar that YAML reads as something else than is written, as 1.10 or yes.
    private mutating func checkSpelling(_ node: RecipeNode, _ what: String) {
        guard case .scalar(let value, let text) = node.content, value.printed != text, value.isScalarChanged else { return }
        let edit = RecipeFinding.Edit(line: node.line, column: node.column, old: text, new: "\"\(text)\"")
        add(
            "yaml.reads-as", .warning, node, "\(what) is written \(text) and read as \(value.printed)", advice: "write \"\(text)\"",
            edit: edit)
    }

    // MARK: directives

    private mutating func check(_ directive: RecipeNode) {
        if let run = directive["run"] { checkRun(run) }
        if let environment = directive["environment"] {
            for entry in environment.mapping ?? [] { checkSpelling(entry.value, entry.key.printed) }
        }
        if let template = directive["template"] { checkTemplate(template) }
        if let file = directive["file"] { checkFile(file) }
        if let test = directive["test"] {
            add("tests.dead", .warning, test, "a test directive does nothing", advice: "functional tests stand in fulltest.yaml")
        }
        for child in directive["group"]?.sequence ?? [] { check(child) }
    }

    private mutating func checkTemplate(_ template: RecipeNode) {
        guard let name = template["name"]?.text, let (document, isBundled) = try? source.collection.template(name), !isBundled else {
            return
        }
        let wanted = template["method"]?.text ?? (document.root["binaries"] == nil ? "source" : "binaries")
        guard let method = document.root[wanted] else { return }
        let text = method.value.printed
        let known = Set(
            (method["arguments"]?["optional"]?.mapping ?? []).map(\.key.printed)
                + (method["arguments"]?["required"]?.sequence ?? []).map(\.printed))
        for entry in template.mapping ?? [] {
            let key = entry.key.printed
            if ["name", "method", "arch"].contains(key) { continue }
            if !known.contains(key), !text.contains("self.\(key)") {
                let near = NearestWord.find(key, among: known).map { "did you mean \"\($0)\"?" }
                add(
                    "template.unknown-argument", .warning, entry.key, "template \"\(name)\" takes no argument \"\(key)\"",
                    advice: near ?? "known: \(known.sorted().joined(separator: ", "))")
            }
            if case .scalar(.bool(let flag), let spelling) = entry.value.content, !text.contains("self.\(key).lower()") {
                let edit = RecipeFinding.Edit(
                    line: entry.value.line, column: entry.value.column, old: spelling, new: flag ? "\"true\"" : "\"false\"")
                add(
                    "template.truth-value", .warning, entry.value,
                    "\(key): \(spelling) reaches the template as \"\(flag ? "True" : "False")\", which is not the \"\(flag)\" that it looks for",
                    advice: "write \"\(flag)\" in quotes", edit: edit)
            }
        }
    }

    private mutating func checkRun(_ run: RecipeNode) {
        let items = run.sequence ?? [run]
        let whole = items.compactMap(\.text).joined(separator: "\n")
        if whole.contains("apt-get install") || whole.contains("apt install"), !whole.contains("/var/lib/apt/lists"),
            let node = items.first(where: { $0.text?.contains("apt") ?? false })
        {
            add(
                "packages.left-behind", .note, node, "package lists stay in the layer",
                advice: "end the step with: rm -rf /var/lib/apt/lists/*")
        }
        for node in items {
            guard let text = node.text else { continue }
            checkDownloads(text, node, whole)
        }
    }

    private mutating func checkDownloads(_ text: String, _ node: RecipeNode, _ whole: String) {
        let words = text.split(whereSeparator: { $0.isWhitespace || "\"';()|&".contains($0) })
        guard words.contains("curl") || words.contains("wget") else { return }
        if words.contains(where: { $0.hasPrefix("http://") && !$0.hasPrefix("http://localhost") }) { plainHTTP(node) }
        let isChecked = ["sha256sum", "sha512sum", "md5sum", "gpg --verify", "--checksum"].contains { whole.contains($0) }
        let fetches = words.contains { $0.hasPrefix("http://") || $0.hasPrefix("https://") }
        if fetches, !isChecked {
            add(
                "download.unchecked", .note, node, "what this step downloads is neither locked nor checked",
                advice: "declare it under files with its url, and use get_file")
        }
    }

    // MARK: the test suite

    private mutating func checkSuite() throws {
        guard let bytes = source.files["fulltest.yaml"] else {
            add(
                "suite.absent", .note, document.root["name"] ?? document.root, "there are no functional tests",
                advice: "write fulltest.yaml beside build.yaml")
            return
        }
        let file = source.location(of: "fulltest.yaml")
        findings += try RecipeSuite(bytes, path: file, mode: .own).findings
    }
}

extension TemplateValue {
    /// A scalar whose reading may surprise; texts and plain whole numbers never do.
    fileprivate var isScalarChanged: Bool {
        switch self {
        case .text, .none: false
        default: true
        }
    }
}
