import FarmModel
import TemplateEngine

/// One method of a template, with its arguments: what the template's texts know as `self`.
///
/// The format is neurodocker's: `arguments` with defaults, `urls`, `dependencies`, `env`, and `instructions` or `directives`.
/// All argument values are texts. Templates of a collection are taken as leniently as its own builder takes them; of those that
/// come with Sciferry every argument is checked, and texts may name further keys of the method.
final class CollectionTemplate: TemplateObject {
    private let method: RecipeNode
    private let arguments: [String: TemplateValue]
    private let packageManager: String
    private let isBundled: Bool

    private static let mostPasses = 20

    init(method: RecipeNode, parameters: [(name: String, value: TemplateValue)], packageManager: String, isBundled: Bool) {
        self.method = method
        self.isBundled = isBundled
        self.packageManager = packageManager
        var arguments: [String: TemplateValue] = [:]
        for entry in method["arguments"]?["optional"]?.mapping ?? [] { arguments[entry.key.printed] = .text(entry.value.printed) }
        for parameter in parameters where parameter.name != "method" { arguments[parameter.name] = .text(parameter.value.printed) }
        self.arguments = arguments
    }

    /// Arguments that must be given and are not.
    var missing: [String] {
        (method["arguments"]?["required"]?.sequence ?? []).map(\.printed).filter { arguments[$0] == nil }
    }

    /// Refuses arguments and versions that a bundled template does not know; throws `template.argument`.
    func checkArguments(_ given: [String]) throws {
        guard isBundled else { return }
        func refuse(_ message: String, _ hint: String) -> FarmError { FarmError("template.argument", .invalid, message, hint: hint) }
        let known =
            (method["arguments"]?["required"]?.sequence ?? []).map(\.printed)
            + (method["arguments"]?["optional"]?.mapping ?? []).map(\.key.printed)
        if let stray = given.first(where: { !known.contains($0) && !["method", "arch"].contains($0) }) {
            let near = NearestWord.find(stray, among: known).map { "did you mean \"\($0)\"?" }
            throw refuse("\"\(stray)\" is no argument", near ?? "known: \((known + ["method"]).joined(separator: ", "))")
        }
        guard missing.isEmpty else { throw refuse("it needs: \(missing.joined(separator: ", "))", "give them beside \"name\"") }
        let urls = (method["urls"]?.mapping ?? []).map(\.key.printed)
        let versions = (method["versions"]?.sequence ?? []).map(\.printed) + urls.filter { !["*", "installer"].contains($0) }
        if case .text(let version)? = arguments["version"], !urls.contains("*") || method["versions"] != nil, !urls.isEmpty,
            !versions.contains(version)
        {
            throw refuse("version \"\(version)\" is not known", "known: \(versions.joined(separator: ", "))")
        }
    }

    /// A step that the template asks for.
    enum Step {
        case environment([(name: String, value: String)])
        case install([String])
        case run(String)
    }

    /// The steps in order, rendered.
    func steps() throws -> [Step] {
        guard let directives = method["directives"], !directives.isNull else {
            var steps: [Step] = []
            if let environment = method["env"]?.mapping, !environment.isEmpty { steps.append(.environment(try pairs(environment))) }
            let instructions = try render(method["instructions"]?.printed ?? "")
            return steps + (instructions.trimmingSpace.isEmpty ? [] : [.run(instructions)])
        }
        return try (directives.sequence ?? []).compactMap { directive in
            if let environment = directive["environment"]?.mapping {
                return environment.isEmpty ? nil : .environment(try pairs(environment))
            }
            if let packages = directive["install"]?.sequence { return .install(try packages.map { try render($0.printed) }) }
            if let run = directive["run"] {
                let text =
                    try run.sequence.map { items in
                        try items.filter { !$0.isNull }.map { try render($0.printed) }.joined(separator: " \\\n && ")
                    } ?? render(run.printed)
                return text.trimmingSpace.isEmpty ? nil : .run(text)
            }
            throw FarmError("template.directive", .invalid, "a template's directive is none of environment, install, run")
        }
    }

    private func pairs(_ entries: [RecipeNode.Entry]) throws -> [(name: String, value: String)] {
        try entries.map { (try render($0.key.printed), try render($0.value.printed)) }
    }

    /// Renders until no expression is left, because arguments hold expressions themselves.
    private func render(_ text: String) throws -> String {
        var text = text
        var passes = 0
        while text.contains("{{"), text.contains("}}") {
            passes += 1
            guard passes <= CollectionTemplate.mostPasses else {
                throw FarmError(
                    "template.limit", .invalid, "the text is not done after \(CollectionTemplate.mostPasses) passes",
                    hint: "an argument that names itself never comes to an end")
            }
            let template = try Template(TemplateTexts.replacingSelf(text), dialect: .collection)
            text = try template.render(["template": .object(self), "raise": CollectionTemplate.raise])
        }
        return text
    }

    private static let raise = TemplateValue.function(
        TemplateFunction("raise") { arguments, _ in
            throw FarmError("template.raised", .invalid, arguments.first?.printed ?? "the template refuses its arguments")
        })

    func attribute(_ name: String) throws -> TemplateValue? {
        if name == "pkg_manager" { return .text(packageManager) }
        if let value = arguments[name] { return value }
        switch name {
        case "urls": return method["urls"]?.value ?? .mapping([:])
        case "env": return .mapping(environment())
        case "install":
            return .function(
                TemplateFunction(name) { [unowned self] arguments, named in
                    guard let packages = arguments.first, case .list(let items) = packages else {
                        throw TemplateFailure.plain("install wants a list of packages")
                    }
                    return .text(
                        PackageCommands.install(
                            packageManager, items.map(\.printed), options: try options(arguments.dropFirst().first, named)))
                })
        case "install_dependencies":
            return .function(
                TemplateFunction(name) { [unowned self] arguments, named in .text(try installation(options(arguments.first, named))) })
        case "dependencies":
            return TemplateFunction.ofText(name) { [unowned self] manager in .list(try dependencies(manager).map { .text($0) }) }
        default: return isBundled ? method[name]?.value : nil
        }
    }

    private func options(_ value: TemplateValue?, _ named: [String: TemplateValue]) throws -> String? {
        switch value ?? named["opts"] {
        case nil, .some(.none): nil
        case let value?: value.printed
        }
    }

    /// What the directives set; the older `env` is not seen here, as in the collection's builder.
    private func environment() -> TemplateMapping {
        var result = TemplateMapping()
        for directive in method["directives"]?.sequence ?? [] {
            for entry in directive["environment"]?.mapping ?? [] { result[entry.key.value] = entry.value.value }
        }
        return result
    }

    private func dependencies(_ manager: String) throws -> [String] {
        try (method["dependencies"]?[manager]?.sequence ?? []).map { try render($0.printed) }
    }

    private func installation(_ options: String?) throws -> String {
        let packages = try dependencies(packageManager)
        var command = packages.isEmpty ? "" : PackageCommands.install(packageManager, packages, options: options)
        if packageManager == "apt" {
            let archives = try dependencies("debs")
            if !archives.isEmpty { command += "\n" + PackageCommands.installArchives(archives) }
        }
        return command
    }
}

extension TemplateTexts {
    /// In template files the object is called `self`, a word that the language keeps for itself.
    static func replacingSelf(_ text: String) -> String { replace("self.", with: "template.", in: text) }
}

/// Commands of package managers, as the texts of templates embed them.
enum PackageCommands {
    static func install(_ manager: String, _ packages: [String], options: String?) -> String {
        let list = packages.sorted { $0.unicodeScalars.lexicographicallyPrecedes($1.unicodeScalars) }.joined(separator: " \\\n    ")
        if manager == "apt" {
            return """
                apt-get update -qq
                apt-get install -y \(options ?? "-q --no-install-recommends") \\
                    \(list)
                rm -rf /var/lib/apt/lists/*
                """
        }
        return """
            yum install -y \(options ?? "-q") \\
                \(list)
            yum clean all
            rm -rf /var/cache/yum/*
            """
    }

    /// Package files by URL.
    static func installArchives(_ urls: [String]) -> String {
        let steps = urls.sorted().map { url in
            """
            _reproenv_tmppath="$(mktemp -t tmp.XXXXXXXXXX.deb)"
            curl -fsSL --retry 5 -o "${_reproenv_tmppath}" \(url)
            apt-get install --yes -q "${_reproenv_tmppath}"
            rm "${_reproenv_tmppath}"
            """
        }
        return (steps + ["apt-get update -qq\napt-get install --yes --quiet --fix-missing\nrm -rf /var/lib/apt/lists/*"])
            .joined(separator: "\n")
    }
}

extension RecipeInterpreter {
    mutating func applyTemplate(_ node: RecipeNode) throws {
        guard let entries = node.mapping else { throw failure("recipe.type", node.line, "template must be a mapping") }
        let name = try node["name"].map { try rendered($0).printed } ?? ""
        guard let (document, isBundled) = try source.collection.template(name) else {
            let near = NearestWord.find(name, among: source.collection.templateNames).map { "did you mean \"\($0)\"? " } ?? ""
            throw failure(
                "recipe.template", node.line, "there is no template \"\(name)\"",
                hint: "\(near)known: \(source.collection.templateNames.joined(separator: ", "))")
        }
        share(document)
        var parameters: [(name: String, value: TemplateValue)] = []
        for entry in entries where entry.key.text != "name" { parameters.append((entry.key.printed, try rendered(entry.value))) }
        if !parameters.contains(where: { $0.name == "arch" }) { parameters.append(("arch", .text(definition.architecture))) }
        let wanted = parameters.first { $0.name == "method" }?.value.printed ?? ""
        let method = wanted.isEmpty ? (document.root["binaries"] == nil ? "source" : "binaries") : wanted
        guard let body = document.root[method], body.mapping != nil else {
            throw failure("recipe.template", node.line, "template \"\(name)\" has no method \"\(method)\"")
        }
        let template = CollectionTemplate(
            method: body, parameters: parameters, packageManager: definition.packageManager, isBundled: isBundled)
        let steps: [CollectionTemplate.Step]
        do {
            try template.checkArguments(parameters.map(\.name))
            steps = try template.steps()
        } catch let error as FarmError {
            var hint = error.hint
            if !isBundled, !template.missing.isEmpty { hint = "it needs: \(template.missing.joined(separator: ", "))" }
            throw failure(error.code, node.line, "template \"\(name)\": \(error.message)", hint: hint)
        }
        for step in steps {
            switch step {
            case .environment(let pairs): add(.environment(pairs.map { .init(name: $0.name, value: $0.value) }), node.line)
            case .install(let packages): add(.install(packages), node.line)
            case .run(let text): add(.run(.init(commands: [text], isVerbatim: true)), node.line)
            }
        }
    }
}
