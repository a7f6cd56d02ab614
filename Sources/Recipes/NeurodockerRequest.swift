import FarmModel

/// What a user of neurodocker asks for: instructions in their order, from its command line or from its JSON files
/// (ReproNim/neurodocker 2.1).
package struct NeurodockerRequest: Sendable, Hashable {
    /// What stands behind a key.
    package enum Value: Sendable, Hashable {
        case text(String)
        case list([String])
        case none
    }

    /// A key with its value.
    package struct Argument: Sendable, Hashable {
        package var name: String
        package var value: Value
    }

    /// One instruction, with the names that the JSON files use: `from_`, `env`, `run`, …, or a template's name.
    package struct Instruction: Sendable, Hashable {
        package var name: String
        package var arguments: [Argument]

        init(_ name: String, _ arguments: [Argument]) {
            self.name = name
            self.arguments = arguments
        }

        func text(_ key: String) -> String? {
            if case .text(let text)? = arguments.first(where: { $0.name == key })?.value { text } else { nil }
        }

        func list(_ key: String) -> [String] {
            switch arguments.first(where: { $0.name == key })?.value {
            case .list(let items): items
            case .text(let text): [text]
            default: []
            }
        }

        var pairs: [(String, String)] {
            arguments.compactMap { if case .text(let text) = $0.value { ($0.name, text) } else { nil } }
        }
    }

    package var packageManager: String
    package var instructions: [Instruction]

    static let plainNames: Set<String> = [
        "from_", "arg", "copy", "add", "env", "entrypoint", "install", "label", "run", "run_bash", "user", "workdir",
    ]

    // MARK: command line

    /// Reads a command line; throws `generate.*` errors that name the word.
    package init(arguments words: [String]) throws {
        packageManager = ""
        instructions = []
        var rest = words[...]
        while let word = rest.popFirst() {
            guard word.hasPrefix("-") else {
                throw NeurodockerRequest.fail("\"\(word)\" follows no option", "options begin with --; quote a command that has spaces")
            }
            var option = word
            var first: String?
            if word.hasPrefix("--"), let equals = word.firstIndex(of: "=") {
                option = String(word[..<equals])
                first = String(word[word.index(after: equals)...])
            }
            func one() throws -> String {
                guard let value = first ?? rest.popFirst() else { throw NeurodockerRequest.fail("\(option) wants a value") }
                return value
            }
            /// Everything up to the next option.
            func all() throws -> [String] {
                var values = [try one()]
                while let next = rest.first, !next.hasPrefix("-") { values.append(next); rest.removeFirst() }
                return values
            }
            switch option {
            case "-p", "--pkg-manager": packageManager = try one().lowercased()
            case "--yes": break
            default: instructions.append(try NeurodockerRequest.instruction(option, one, all))
            }
        }
        try check()
    }

    private static func instruction(_ option: String, _ one: () throws -> String, _ all: () throws -> [String]) throws -> Instruction {
        switch option {
        case "-b", "--base-image": return Instruction("from_", [.init(name: "base_image", value: .text(try one()))])
        case "--arg":
            let (key, value) = try pair(try one(), option)
            return Instruction("arg", [.init(name: "key", value: .text(key)), .init(name: "value", value: .text(value))])
        case "--copy", "--add":
            let paths = try all()
            guard paths.count >= 2, let destination = paths.last else { throw fail("\(option) wants a source and a destination") }
            let sources = Array(paths.dropLast())
            guard option == "--copy" || sources.count == 1 else { throw fail("--add wants one source and one destination") }
            return Instruction(
                option == "--copy" ? "copy" : "add",
                [
                    .init(name: "source", value: option == "--copy" ? .list(sources) : .text(sources[0])),
                    .init(name: "destination", value: .text(destination)),
                ])
        case "--env", "--label":
            return Instruction(String(option.dropFirst(2)), try all().map { try argument($0, option) })
        case "--entrypoint":
            let words = try all().flatMap { $0.split(whereSeparator: \.isWhitespace).map(String.init) }
            return Instruction("entrypoint", [.init(name: "args", value: .list(words))])
        case "--install":
            let values = try all()
            let options = values.last { $0.hasPrefix("opts=") }.map { String($0.dropFirst(5)) }
            let packages = values.filter { !$0.hasPrefix("opts=") }
            guard !packages.isEmpty else { throw fail("--install names no package") }
            return Instruction(
                "install",
                [.init(name: "pkgs", value: .list(packages)), .init(name: "opts", value: options.map { .text($0) } ?? .none)])
        case "--run": return Instruction("run", [.init(name: "command", value: .text(try one()))])
        case "--run-bash": return Instruction("run_bash", [.init(name: "command", value: .text(try one()))])
        case "--user": return Instruction("user", [.init(name: "user", value: .text(try one()))])
        case "--workdir": return Instruction("workdir", [.init(name: "path", value: .text(try one()))])
        default:
            let name = String(option.drop { $0 == "-" }).lowercased()
            guard option.hasPrefix("--"), BundledTemplates.names.contains(name) else {
                let near = NearestWord.find(name, among: BundledTemplates.names + NeurodockerRequest.optionNames)
                throw fail(
                    "\"\(option)\" is neither an option nor a template",
                    "\(near.map { "did you mean --\($0)? " } ?? "")options: \(optionNames.map { "--\($0)" }.joined(separator: " ")); templates: \(BundledTemplates.names.map { "--\($0)" }.joined(separator: " "))"
                )
            }
            return Instruction(name, try all().map { try argument($0, option) })
        }
    }

    static let optionNames = [
        "pkg-manager", "base-image", "arg", "copy", "add", "env", "entrypoint", "install", "label", "run", "run-bash", "user", "workdir",
        "yes", "json",
    ]

    private static func pair(_ text: String, _ option: String) throws -> (String, String) {
        guard let equals = text.firstIndex(of: "="), equals > text.startIndex else {
            throw fail("\(option) has \"\(text)\", which is no key=value")
        }
        return (String(text[..<equals]), String(text[text.index(after: equals)...]))
    }

    private static func argument(_ text: String, _ option: String) throws -> Argument {
        let (name, value) = try pair(text, option)
        return Argument(name: name, value: .text(value))
    }

    static func fail(_ message: String, _ hint: String? = nil) -> FarmError {
        FarmError("generate.arguments", .usage, message, hint: hint ?? "sciferry recipe generate --help shows all options")
    }

    private func check() throws {
        guard ["apt", "yum"].contains(packageManager) else {
            throw NeurodockerRequest.fail(
                packageManager.isEmpty ? "the package manager is not given" : "\"\(packageManager)\" is no package manager",
                "--pkg-manager apt or --pkg-manager yum")
        }
        let bases = instructions.filter { $0.name == "from_" }
        guard bases.count == 1, instructions.first?.name == "from_" || instructions.first?.name == "arg" else {
            throw NeurodockerRequest.fail(
                bases.isEmpty
                    ? "the base image is not given"
                    : bases.count > 1 ? "several base images are given; a recipe has one" : "the base image must come first",
                "--base-image debian:bookworm")
        }
    }

    // MARK: JSON

    /// Reads a file that `neurodocker generate --json` wrote; throws errors that name file and line.
    package init(json bytes: [UInt8], path: String) throws {
        let document = try RecipeDocument(bytes, path: path)
        let top = try RecipeMapping(document.root, in: document, what: "the file", keys: ["pkg_manager", "instructions", "existing_users"])
        packageManager = try top.requireText("pkg_manager")
        instructions = try top.nodes("instructions").map { node in
            let entry = try RecipeMapping(node, in: document, what: "an instruction", keys: ["name", "kwds"])
            let name = try entry.requireText("name")
            guard NeurodockerRequest.plainNames.contains(name) || BundledTemplates.names.contains(name) else {
                throw document.fail(
                    "generate.instruction", node, "\"\(name)\" is neither an instruction nor a template",
                    hint: "templates: \(BundledTemplates.names.joined(separator: ", "))")
            }
            let words = try RecipeMapping(try entry.require("kwds"), in: document, what: "kwds", keys: nil)
            return Instruction(
                name,
                words.entries.map { entry in
                    let value: Value =
                        entry.value.isNull ? .none : entry.value.sequence.map { .list($0.map(\.printed)) } ?? .text(entry.value.printed)
                    return Argument(name: entry.key.printed, value: value)
                })
        }
        try check()
    }

    /// The request as a JSON file that `genfromjson` reads.
    package func json() throws -> String {
        func quoted(_ text: String) throws -> String { String(decoding: try CanonicalJSON.encode(text), as: UTF8.self) }
        let steps = try instructions.map { instruction in
            let words = try instruction.arguments.map { argument in
                let value =
                    switch argument.value {
                    case .text(let text): try quoted(text)
                    case .list(let items): "[\(try items.map(quoted).joined(separator: ", "))]"
                    case .none: "null"
                    }
                return "\(try quoted(argument.name)): \(value)"
            }
            return "    {\"name\": \(try quoted(instruction.name)), \"kwds\": {\(words.joined(separator: ", "))}}"
        }
        return """
            {
              "pkg_manager": \(try quoted(packageManager)),
              "instructions": [
            \(steps.joined(separator: ",\n"))
              ]
            }

            """
    }
}
