import FarmModel
package import Microarchitecture
import TemplateEngine

/// Interprets a recipe for one container: a pure function of the recipe, its files and the settings. No clock, no network,
/// no host.
package struct RecipeInterpreter {
    /// What the caller chooses.
    package struct Settings: Sendable {
        package var variant: RecipeVariant
        /// What the recipe sees as `parallel_jobs`.
        package var parallelJobs = 4
        /// Keys of local contexts.
        package var locals: Set<String> = []
        /// Options of the recipe, over defaults and variant.
        package var options: [String: Bool] = [:]
        /// What expressions may ask of the CPU.
        package var target: Microarchitecture?
        /// The upstream source's commit; until it is resolved, expressions see zeros.
        package var commit = String(repeating: "0", count: 40)

        package init(variant: RecipeVariant) { self.variant = variant }
    }

    let recipe: Recipe
    let source: RecipeSource
    let settings: Settings
    let scope: RecipeScope
    var definition: ImageDefinition
    private var deployBins: [String] = []
    private var deployPath: [String] = []
    private var depth = 0
    private var steps = 0

    private init(_ recipe: Recipe, _ source: RecipeSource, _ settings: Settings) throws {
        self.recipe = recipe
        self.source = source
        self.settings = settings
        var options: [String: Bool] = [:]
        for option in recipe.options { options[option.name] = option.isOn }
        for (name, isOn) in settings.variant.options.merging(settings.options, uniquingKeysWith: { _, given in given }) {
            guard options[name] != nil else {
                throw FarmError("recipe.option", .invalid, "\(recipe.name) has no option \"\(name)\"")
            }
            options[name] = isOn
        }
        let version = recipe.options.filter { options[$0.name] == true }.reduce(recipe.version) { $0 + $1.versionSuffix }
        let architecture = settings.variant.architecture
        scope = RecipeScope(
            facts: [
                "name": .text(settings.variant.name), "version": .text(version), "original_version": .text(recipe.version),
                "arch": .text(architecture), "variant": .text(settings.variant.selector),
                "parallel_jobs": .integer(settings.parallelJobs), "cpu_target": .text(settings.target?.name ?? ""),
                "cpu_march": .text(settings.target?.march ?? ""), "target": .text(settings.target?.name ?? ""),
                "cflags": .text(settings.target?.flags(compiler: "gcc") ?? ""), "flags": RecipeInterpreter.flags(settings.target),
                "commit": .text(settings.commit),
                "options": .mapping(TemplateMapping(options.sorted { $0.key < $1.key }.map { (.text($0.key), .bool($0.value)) })),
            ], locals: settings.locals)
        definition = ImageDefinition(
            name: settings.variant.name, baseName: recipe.name, version: version, architecture: architecture, baseImage: "",
            packageManager: "apt")
    }

    /// `context.flags("gcc", "12.2")`.
    private static func flags(_ target: Microarchitecture?) -> TemplateValue {
        .function(
            TemplateFunction("flags") { arguments, _ in
                guard let target, arguments.count == 2 else { throw TemplateFailure.plain("flags wants a compiler and its version") }
                switch target.flags(compiler: arguments[0].printed, version: arguments[1].printed) {
                case .flags(let text, _): return .text(text)
                case .unsupported(let why): throw TemplateFailure.plain(why)
                }
            })
    }

    /// The definition; throws errors that name file and line.
    package static func definition(_ recipe: Recipe, _ source: RecipeSource, _ settings: Settings) throws -> ImageDefinition {
        var interpreter = try RecipeInterpreter(recipe, source, settings)
        try interpreter.run()
        return interpreter.definition
    }

    private mutating func run() throws {
        for (name, value) in recipe.variables { scope.values[name] = try rendered(value) }
        for file in recipe.files { try register(file) }
        if let upstream = recipe.settings.upstream {
            let (address, reference) = (try rendered(upstream.git).printed, try rendered(upstream.reference).printed)
            guard address.hasPrefix("https://") || address.hasPrefix("http://"), !address.contains(where: \.isWhitespace) else {
                throw failure("recipe.upstream", upstream.git.line, "\"\(address)\" is no repository", hint: "give its https:// address")
            }
            guard !reference.isEmpty, !reference.contains(where: \.isWhitespace) else {
                throw failure("recipe.upstream", upstream.reference.line, "\"\(reference)\" is no tag or branch")
            }
            definition.upstream = "\(address) \(reference)"
        }
        definition.readme = try readme()
        definition.citation = try citation()
        definition.description = try rendered(text: recipe.description, 1)
        if let node = recipe.categories { definition.categories = try (node.sequence ?? [node]).map { try rendered($0).printed } }
        if recipe.build.foreign != nil { return try finishDeploy() }
        let base = try rendered(recipe.build.baseImage).printed
        definition.baseImage = try ImageName.checked(base) { failure("recipe.base", recipe.build.baseImage.line, "\"\($0)\" is no image") }
        if let manager = recipe.build.packageManager { definition.packageManager = try rendered(manager).printed }
        guard ["apt", "yum", "rpm"].contains(definition.packageManager) else {
            throw failure(
                "recipe.package-manager", recipe.build.packageManager?.line ?? 1,
                "package manager \"\(definition.packageManager)\" is not supported", hint: "use apt or yum")
        }
        add(.from(definition.baseImage), recipe.build.baseImage.line)
        for directive in recipe.build.directives { try apply(directive) }
        definition.mounts = scope.mountNames
        try finishDeploy()
    }

    mutating func add(_ kind: ImageDefinition.Instruction.Kind, _ line: Int) {
        definition.instructions.append(.init(kind: kind, line: line))
    }

    func failure(_ code: FarmError.Code, _ line: Int, _ message: String, hint: String? = nil) -> FarmError {
        FarmError(code, .invalid, "\(source.path):\(line): \(message)", hint: hint)
    }

    // MARK: rendering values

    /// Adds the recipe's file and line to an error of the template room.
    func at<Value>(_ line: Int, _ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as FarmError where error.code.rawValue.hasPrefix("template.") {
            guard !error.message.hasPrefix(source.path) else { throw error }
            throw failure(error.code, line, error.message, hint: error.hint)
        }
    }

    func rendered(text: String, _ line: Int) throws -> String {
        // Most texts hold nothing to render; one line end goes all the same.
        guard Template.isActive(text) || text.utf8.contains(0x0D) else { return text.hasSuffix("\n") ? String(text.dropLast()) : text }
        return try at(line) { try Template(text).render(scope.namespace) }
    }

    func holds(_ condition: String, _ line: Int) throws -> Bool {
        try at(line) { try Template("{{ \(condition) }}").render(scope.namespace) }.trimmingSpace == "True"
    }

    /// A value with everything in it rendered; `try` lists give their first match.
    func rendered(_ node: RecipeNode) throws -> TemplateValue {
        switch node.content {
        case .scalar(.text(let text), _): return .text(try rendered(text: text, node.line))
        case .scalar(let value, _): return value
        case .sequence(let items): return .list(try items.map(rendered))
        case .mapping(let entries):
            if let options = node["try"]?.sequence {
                for option in options {
                    guard let condition = option["condition"]?.text, try holds(condition, option.line) else { continue }
                    return try option["value"].map(rendered) ?? .none
                }
                throw failure(
                    "recipe.try", node.line, "no condition of this \"try\" is true", hint: "end the list with: condition: \"True\"")
            }
            return .mapping(TemplateMapping(try entries.map { (.text(try rendered($0.key).printed), try rendered($0.value)) }))
        }
    }

    /// A list of texts from a text or a list.
    private func texts(_ value: TemplateValue, _ node: RecipeNode, _ what: String) throws -> [String] {
        switch value {
        case .text(let text): return [text]
        case .list(let items): return items.filter { if case .none = $0 { false } else { true } }.map(\.printed)
        default: throw failure("recipe.type", node.line, "\(what) must be a text or a list")
        }
    }

    private func words(_ value: TemplateValue, _ node: RecipeNode, _ what: String) throws -> [String] {
        if case .text(let text) = value {
            guard let words = ShellWords.split(text) else {
                throw failure("recipe.words", node.line, "\(what) has a quote that is not closed")
            }
            return words
        }
        return try texts(value, node, what)
    }

    // MARK: directives

    /// - Parameter given: values of a group, seen by this directive only; its condition does not see them.
    private mutating func apply(_ directive: Recipe.Directive, given: [(String, TemplateValue)] = []) throws {
        steps += 1
        depth += 1
        defer { depth -= 1 }
        guard steps < 20_000, depth < 32 else {
            throw failure("recipe.depth", directive.node.line, "groups and includes go too deep, or in a circle")
        }
        let line = directive.node.line
        if let condition = directive.condition, !(try holds(condition, line)) { return }
        let outside = scope.values
        scope.values.merge(given) { _, new in new }
        defer { if !given.isEmpty { scope.values = outside } }
        switch directive.kind {
        case .install(let node): add(.install(try words(rendered(node), node, "install").filter { !$0.isEmpty }), line)
        case .run(let node): try applyRun(node, directive.node)
        case .workdir(let node): add(.workdir(try rendered(node).printed), line)
        case .user(let node): add(.user(try rendered(node).printed), line)
        case .entrypoint(let node): add(.entrypoint(try texts(rendered(node), node, "entrypoint")), line)
        case .environment(let node):
            guard case .mapping(let values) = try rendered(node) else {
                throw failure("recipe.type", line, "environment must be a mapping")
            }
            for entry in values.entries { add(.environment([.init(name: entry.key.printed, value: entry.value.printed)]), line) }
        case .copy(let node): try applyCopy(node)
        case .variables(let node):
            guard let entries = node.mapping else { throw failure("recipe.type", line, "variables must be a mapping") }
            for entry in entries { scope.values[entry.key.printed] = try rendered(entry.value) }
        case .group(let children, let with):
            let given = try with.map { ($0.name, try rendered($0.value)) }
            for child in children { try apply(child, given: given) }
        case .include(let node): try applyInclude(node)
        case .file(let file): try register(file)
        case .deploy(let node): try applyDeploy(rendered(node), node)
        case .template(let node): try applyTemplate(node)
        case .boutique(let node): try applyBoutique(node)
        case .test: break
        }
    }

    private mutating func applyRun(_ node: RecipeNode, _ directive: RecipeNode) throws {
        let mount = "h\(Digest(hashing: directive.value.printed).hex.prefix(8))"
        let (value, usedFiles, locals) = try scope.mounted(mount) { try rendered(node) }
        let commands = try texts(value, node, "run").filter { !$0.isEmpty }
        var seen: Set<String> = []
        add(
            .run(.init(commands: commands, mount: usedFiles ? mount : "", locals: locals.filter { seen.insert($0).inserted })),
            directive.line)
    }

    private mutating func applyCopy(_ node: RecipeNode) throws {
        let parts = try words(rendered(node), node, "copy")
        guard parts.count >= 2, let destination = parts.last else {
            throw failure("recipe.copy", node.line, "copy needs a source and a destination")
        }
        var sources: [String] = []
        for part in parts.dropLast() {
            let guest = scope.guest(of: part)
            sources.append(guest ?? part)
            definition.copies.append((guest ?? part, guest == nil ? nil : part, node.line))
        }
        add(.copy(sources: sources, to: destination), node.line)
    }

    private mutating func applyInclude(_ node: RecipeNode) throws {
        let name = try rendered(node).printed
        guard let document = try source.collection.document(name) else {
            throw failure(
                "recipe.include", node.line, "there is no \(name) in the recipe's collection",
                hint: "the path counts from the collection's root")
        }
        share(document)
        for child in try Recipe.readDirectives(document.root["directives"], source, in: document) { try apply(child) }
    }

    mutating func share(_ document: RecipeDocument) { definition.shared[document.path] = source.collection.digest(of: document.path) }

    private mutating func applyDeploy(_ value: TemplateValue, _ node: RecipeNode) throws {
        guard case .mapping(let deploy) = value else { return }
        func list(_ key: String) throws -> [String] {
            switch deploy[key] {
            case nil, .some(.none): return []
            case .list(let items): return items.map(\.printed)
            default: throw failure("recipe.type", node.line, "\"\(key)\" of deploy must be a list")
            }
        }
        deployBins += try list("bins")
        deployPath += try list("path")
    }

    /// What directives say goes before what stands at the top, each list by itself.
    private mutating func finishDeploy() throws {
        (definition.deployBins, definition.deployPath) = (deployBins, deployPath)
        guard let node = recipe.deploy, deployBins.isEmpty || deployPath.isEmpty else { return }
        (deployBins, deployPath) = ([], [])
        try applyDeploy(rendered(node), node)
        if definition.deployBins.isEmpty { definition.deployBins = deployBins }
        if definition.deployPath.isEmpty { definition.deployPath = deployPath }
    }

    private mutating func applyBoutique(_ node: RecipeNode) throws {
        guard node.mapping != nil else { throw failure("recipe.type", node.line, "boutique must be a mapping") }
        let file = "\(node["name"]?.printed ?? "tool").json"
        guard PlainName.isValid(file) else { throw failure("recipe.boutique", node.line, "\"\(file)\" is no file name") }
        add(.run(.init(commands: ["mkdir -p /boutique"], isVerbatim: true)), node.line)
        add(.copy(sources: [file], to: "/boutique/\(file)"), node.line)
        definition.written[file] = try BoutiqueDescriptor.json(node)
        definition.copies.append((file, nil, node.line))
    }

    // MARK: files

    private mutating func register(_ file: Recipe.FileDeclaration) throws {
        if let condition = file.condition, !(try holds(condition, file.line)) { return }
        let name = try rendered(text: file.name, file.line)
        guard !definition.files.contains(where: { $0.name == name }) else {
            throw failure("recipe.file", file.line, "file \"\(name)\" is declared twice")
        }
        var url: String?
        let source: ImageDefinition.StagedFile.Source
        switch file.source {
        case .url(let node):
            let text = try rendered(node).printed
            (url, source) = (text, .url(text))
        case .beside(let node): source = .beside(try rendered(node).printed)
        case .contents(let node):
            // Rendering takes the last line end, which belongs to the file.
            source = .contents(try rendered(node).printed + (node.text?.hasSuffix("\n") ?? false ? "\n" : ""))
        }
        let guest = RecipeScope.guestName(name, url: url)
        for part in [name, guest] where part.split(separator: "/", omittingEmptySubsequences: false).contains("..") || part.hasPrefix("/") {
            throw failure("recipe.path", file.line, "\"\(part)\" leaves the build's directory")
        }
        let identity: String
        switch source {
        case .url(let url): identity = "url:\(url)"
        case .beside(let path): identity = "beside:\(path)"
        case .contents: identity = "contents:\(name)"
        }
        scope.declare(name, guest: guest, source: identity)
        definition.files.append(.init(name: name, source: source, executable: file.executable, guest: guest, line: file.line))
    }
}
