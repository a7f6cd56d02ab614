import FarmModel

extension Recipe {
    /// In the order in which the collection's builder looks for them.
    static let directiveKinds = [
        "install", "run", "workdir", "user", "entrypoint", "environment", "copy", "variables", "group", "include", "file", "deploy",
        "template", "boutique", "test",
    ]

    /// Reads a recipe and the suite beside it. Throws, for the first thing that is wrong, an error that names file, line
    /// and key.
    package static func read(_ source: RecipeSource) throws -> Recipe {
        guard let bytes = source.files["build.yaml"] else {
            throw FarmError("recipe.absent", .notFound, "\(source.path) does not exist", hint: "a recipe is a directory with a build.yaml")
        }
        return try read(try RecipeDocument(bytes, path: source.path), source)
    }

    /// Reads a recipe from its parsed `build.yaml`; throws as above.
    package static func read(_ document: RecipeDocument, _ source: RecipeSource) throws -> Recipe {
        let top = try RecipeMapping(document.root, in: document, what: "the recipe", keys: RecipeSchema.names(RecipeSchema.top))
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
        var settings = try RecipeSettings.read(top["x-sciferry"], in: document)
        settings.updates = settings.updates ?? RecipeSettings.autoUpdate(top["auto_update"])
        return Recipe(
            name: name, version: version, architectures: try readArchitectures(top), categories: top["categories"],
            description: try readDescription(top), readme: try top.text("readme"), readmeURL: try top.text("readme_url"),
            structuredReadme: top["structured_readme"], licences: try readLicences(top), build: try readBuild(top, source),
            variables: try readVariables(top), options: try readOptions(top), variants: try readVariants(top),
            files: try top.nodes("files").map { try readFile($0, source, in: document) },
            deploy: try top["deploy"].map { try checkedDeploy($0, in: document) },
            programs: try readPrograms(top), runtimeArguments: try top.texts("apptainer_args"),
            settings: settings)
    }

    private static func readArchitectures(_ top: RecipeMapping) throws -> [String] {
        let aliases = [
            "x86_64": "x86_64", "AMD64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64", "ARM64": "aarch64",
        ]
        let architectures = try top.texts("architectures").map { text in
            guard let architecture = aliases[text] else {
                throw top.document.fail(
                    "recipe.architecture", try top.require("architectures"), "\"\(text)\" is no architecture", hint: "x86_64 or aarch64")
            }
            return architecture
        }
        if architectures.isEmpty { return ["x86_64"] }
        let first = architectures.contains("x86_64") ? "x86_64" : architectures[0]
        return [first] + architectures.filter { $0 != first }
    }

    private static func readBuild(_ top: RecipeMapping, _ source: RecipeSource) throws -> Build {
        let block = try RecipeMapping(try top.require("build"), in: top.document, what: "build", keys: nil)
        let kind = try block.text("kind") ?? "neurodocker"
        if let kind = ForeignKind(rawValue: kind) { return try readForeign(kind, block) }
        guard kind == "neurodocker" else {
            throw top.document.fail(
                "recipe.kind", try block.require("kind"), "\"\(kind)\" is no kind of build",
                hint: "neurodocker, \(ForeignKind.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        let build = try RecipeMapping(
            block.node, in: top.document, what: "build",
            keys: RecipeSchema.names(RecipeSchema.neurodocker))
        _ = try build.requireText("base-image")
        return Build(
            baseImage: try build.require("base-image"), packageManager: build["pkg-manager"],
            addsDefaults: build["add-default-template"]?.isTrue ?? true, addsTimeZone: build["add-tzdata"]?.isTrue,
            fixesLocale: build["fix-locale-def"]?.isTrue ?? false,
            directives: try readDirectives(build["directives"], source, in: top.document))
    }

    private static func readForeign(_ kind: ForeignKind, _ block: RecipeMapping) throws -> Build {
        let build = try RecipeMapping(
            block.node, in: block.document, what: "a build of kind \(kind.rawValue)", keys: RecipeSchema.names(RecipeSchema.foreign))
        let file = try build.text("file") ?? kind.usualFile
        return Build(
            baseImage: build.node, packageManager: nil, addsDefaults: false, addsTimeZone: nil, fixesLocale: false, directives: [],
            foreign: (kind, file, build["file"]?.line ?? build.node.line))
    }

    private static func readDescription(_ top: RecipeMapping) throws -> String {
        if let text = try top.text("description") { return text }
        guard let node = top["structured_readme"], !node.isNull else { return try top.text("readme") ?? "" }
        let readme = try RecipeMapping(
            node, in: top.document, what: "structured_readme", keys: RecipeSchema.keys(RecipeSchema.top, under: "structured_readme"))
        return try readme.text("description") ?? ""
    }

    private static func readLicences(_ top: RecipeMapping) throws -> [String] {
        try top.nodes("copyright").map { node in
            let entry = try RecipeMapping(node, in: top.document, what: "copyright", keys: ["license", "name", "url"])
            return try entry.text("license") ?? entry.requireText("name")
        }
    }

    private static func readPrograms(_ top: RecipeMapping) throws -> [GraphicalProgram] {
        try top.nodes("gui_apps").map { node in
            let entry = try RecipeMapping(node, in: top.document, what: "an entry of gui_apps", keys: ["name", "exec"])
            return GraphicalProgram(name: try entry.requireText("name"), command: try entry.requireText("exec"))
        }
    }

    static func checkedDeploy(_ node: RecipeNode, in document: RecipeDocument) throws -> RecipeNode {
        if !node.isNull { _ = try RecipeMapping(node, in: document, what: "deploy", keys: RecipeSchema.names(RecipeSchema.deploy)) }
        return node
    }

    private static func readVariables(_ top: RecipeMapping) throws -> [(name: String, value: RecipeNode)] {
        guard let node = top["variables"], !node.isNull else { return [] }
        return try RecipeMapping(node, in: top.document, what: "variables", keys: nil).entries.map { ($0.key.printed, $0.value) }
    }

    private static func readOptions(_ top: RecipeMapping) throws -> [Option] {
        guard let node = top["options"], !node.isNull else { return [] }
        return try RecipeMapping(node, in: top.document, what: "options", keys: nil).entries.map { entry in
            let option = try RecipeMapping(
                entry.value, in: top.document, what: "option \"\(entry.key.printed)\"", keys: ["description", "default", "version_suffix"])
            return Option(
                name: entry.key.printed, isOn: option["default"]?.isTrue ?? false,
                versionSuffix: try option.text("version_suffix") ?? "")
        }
    }

    private static func readVariants(_ top: RecipeMapping) throws -> [Variant] {
        guard let node = top["variants"], !node.isNull else { return [] }
        return try RecipeMapping(node, in: top.document, what: "variants", keys: nil).entries.map { entry in
            let name = entry.key.printed
            let variant = try RecipeMapping(
                entry.value, in: top.document, what: "variant \"\(name)\"",
                keys: ["architecture", "architectures", "description", "options"])
            guard PlainName.isValid(name) else { throw top.document.fail("recipe.variant", entry.key, "\"\(name)\" is no variant's name") }
            var options: [String: Bool] = [:]
            if let node = variant["options"], !node.isNull {
                for option in try RecipeMapping(node, in: top.document, what: "options", keys: nil).entries {
                    options[option.key.printed] = option.value.isTrue
                }
            }
            let several = try variant.texts("architectures")
            return Variant(
                name: name, architectures: several.isEmpty ? try variant.text("architecture").map { [$0] } ?? [] : several,
                options: options)
        }
    }

    private static func readFile(_ node: RecipeNode, _ source: RecipeSource, in document: RecipeDocument) throws -> FileDeclaration {
        let file = try RecipeMapping(
            node, in: document, what: "a file",
            keys: RecipeSchema.names(RecipeSchema.file))
        let name = try file.requireText("name")
        let given = ["url", "filename", "contents"].filter { !(file[$0]?.isNull ?? true) }
        guard given.count == 1 else {
            throw document.fail("recipe.file", node, "file \"\(name)\" needs exactly one of url, filename, contents")
        }
        let content = try file.require(given[0])
        _ = try file.text(given[0])
        let kind: FileDeclaration.Source =
            switch given[0] {
            case "url": .url(content)
            case "filename": .beside(content)
            default: .contents(content)
            }
        return FileDeclaration(
            name: name, source: kind, executable: file["executable"]?.isTrue ?? false, condition: try file.text("condition"),
            line: node.line)
    }

    /// Directives, also those of an include.
    static func readDirectives(_ node: RecipeNode?, _ source: RecipeSource, in document: RecipeDocument) throws -> [Directive] {
        guard let node, !node.isNull else { return [] }
        guard let sequence = node.sequence else { throw document.fail("recipe.type", node, "directives must be a list") }
        return try sequence.map { entry in
            let directive = try RecipeMapping(entry, in: document, what: "a directive", keys: nil)
            let keys = directive.entries.compactMap(\.key.text)
            guard let kind = directiveKinds.first(where: keys.contains) else {
                let key = keys.first { $0 != "condition" } ?? ""
                let near = NearestWord.find(key, among: directiveKinds)
                throw document.fail(
                    "recipe.unknown-key", entry, "\"\(key)\" is not a key of a directive",
                    hint: near.map { "did you mean \"\($0)\"?" } ?? "known: \(directiveKinds.sorted().joined(separator: ", "))")
            }
            let beside: Set<String> = kind == "group" ? ["condition", "with", "custom", "customParams"] : ["condition"]
            for stray in keys where stray != kind && !beside.contains(stray) {
                throw document.fail(
                    directiveKinds.contains(stray) ? "recipe.directive" : "recipe.unknown-key", entry,
                    directiveKinds.contains(stray)
                        ? "a directive has one kind, this one has: \(keys.filter(directiveKinds.contains).joined(separator: ", "))"
                        : "\"\(stray)\" is not a key of a directive",
                    hint: "give each directive its own list entry")
            }
            return Directive(
                kind: try readKind(kind, directive, source), condition: try directive.text("condition"), node: entry)
        }
    }

    private static func readKind(_ kind: String, _ directive: RecipeMapping, _ source: RecipeSource) throws -> Directive.Kind {
        let node = try directive.require(kind)
        switch kind {
        case "run": return .run(node)
        case "install": return .install(node)
        case "workdir": return .workdir(node)
        case "user": return .user(node)
        case "entrypoint": return .entrypoint(node)
        case "environment": return .environment(node)
        case "copy": return .copy(node)
        case "variables": return .variables(node)
        case "include": return .include(node)
        case "file": return .file(try readFile(node, source, in: directive.document))
        case "deploy": return .deploy(try checkedDeploy(node, in: directive.document))
        case "template": return .template(node)
        case "boutique": return .boutique(node)
        case "test": return .test
        default:
            let with = try directive["with"].map { try RecipeMapping($0, in: directive.document, what: "with", keys: nil).entries } ?? []
            return .group(
                try readDirectives(node, source, in: directive.document), with: with.map { ($0.key.printed, $0.value) })
        }
    }
}
