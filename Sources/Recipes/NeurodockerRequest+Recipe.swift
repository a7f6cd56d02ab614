import FarmModel

extension NeurodockerRequest {
    /// The text of a `build.yaml` that asks for the same.
    ///
    /// - Parameters:
    ///   - name: the recipe's name; `nil` takes that of the only template, or "generated".
    ///   - version: the recipe's version; `nil` takes that of the only template, or "1.0".
    package func recipe(name: String? = nil, version: String? = nil) throws -> String {
        // Of two values for one key the later counts.
        func merged(_ pairs: [(String, String)]) -> [(String, String)] {
            var order: [String] = []
            var values: [String: String] = [:]
            for (key, value) in pairs { if values.updateValue(value, forKey: key) == nil { order.append(key) } }
            return order.map { ($0, values[$0] ?? "") }
        }
        let arguments = merged(
            instructions.filter { $0.name == "arg" }.compactMap { step in step.text("key").map { ($0, step.text("value") ?? "") } })
        let labels = merged(instructions.filter { $0.name == "label" }.flatMap(\.pairs))
        // A base image may stand on an argument that comes before it.
        var base = instructions.first { $0.name == "from_" }?.text("base_image") ?? ""
        for (key, value) in arguments { base = base.replacing("${\(key)}", with: value).replacing("$\(key)", with: value) }
        let templates = instructions.filter { !NeurodockerRequest.plainNames.contains($0.name) }
        let alone = templates.count == 1 ? templates.first : nil
        let named = alone?.text("version").flatMap { PlainName.isValid($0) ? $0 : nil }
        var lines = [
            "name: \(try scalar(name ?? alone?.name.replacing("_", with: "-") ?? "generated"))",
            "version: \(try scalar(version ?? named ?? "1.0"))", "categories: [data organisation]", "build:", "  kind: neurodocker",
            "  base-image: \(try scalar(base))",
            "  pkg-manager: \(packageManager)", "  add-tzdata: false",
        ]
        var user = "root"
        let directives = try instructions.flatMap { step in
            if step.name == "user" { user = step.text("user") ?? user }
            return try directive(step, user: user)
        }
        lines.append(directives.isEmpty ? "  directives: []" : "  directives:")
        lines += directives
        if !labels.isEmpty || !arguments.isEmpty { lines.append("x-sciferry:") }
        if !arguments.isEmpty { lines += ["  arguments:"] + (try arguments.map { "    \(try scalar($0.0)): \(try scalar($0.1))" }) }
        if !labels.isEmpty { lines += ["  labels:"] + (try labels.map { "    \(try scalar($0.0)): \(try scalar($0.1))" }) }
        return lines.joined(separator: "\n") + "\n"
    }

    private func directive(_ step: Instruction, user: String) throws -> [String] {
        func list(_ items: [String]) throws -> String { "[\(try items.map(scalar).joined(separator: ", "))]" }
        func pairs(_ key: String, _ values: [(String, String)]) throws -> [String] {
            ["    - \(key):"] + (try values.map { "        \(try scalar($0.0)): \(try scalar($0.1))" })
        }
        func run(_ commands: [String]) throws -> [String] { ["    - run:"] + (try commands.map { "        - \(try scalar(plain($0)))" }) }
        switch step.name {
        case "from_", "arg", "label": return []
        case "env":
            let last = step.pairs.enumerated().filter { index, pair in !step.pairs[(index + 1)...].contains { $0.0 == pair.0 } }
            return last.isEmpty ? [] : try pairs("environment", last.map { ($0.element.0, plain($0.element.1)) })
        case "copy": return ["    - copy: \(try list(step.list("source") + [step.text("destination") ?? ""]))"]
        case "add":
            // Docker's ADD unpacks a local archive; so does this, for every builder.
            let source = step.list("source").first ?? ""
            let destination = step.text("destination") ?? ""
            guard !source.contains("://") else {
                throw NeurodockerRequest.fail(
                    "--add \(source) would fetch something at build time", "fetch it with --run, or put the file beside")
            }
            let place = "/tmp/sciferry-add/\(source.split(separator: "/").last.map(String.init) ?? "archive")"
            let (from, to) = (ShellWord.quoted(place), ShellWord.quoted(destination))
            let steps = try run([
                "if tar -tf \(from) >/dev/null 2>&1; then mkdir -p \(to) && tar -xf \(from) -C \(to); elif [ -d \(to) ] || [ \(to) != \(ShellWord.quoted(destination.droppingSlash)) ]; then mkdir -p \(to) && cp -a \(from) \(to); else mkdir -p \"$(dirname \(to))\" && cp -a \(from) \(to); fi",
                "rm -rf /tmp/sciferry-add",
            ])
            // As ADD does it: by root, whoever the steps belong to.
            let isRoot = user == "root"
            return (isRoot ? [] : ["    - user: root"]) + ["    - copy: \(try list([source, place]))"] + steps
                + (isRoot ? [] : ["    - user: \(try scalar(user))"])
        case "entrypoint": return ["    - entrypoint: \(try list(step.list("args")))"]
        case "install":
            guard let options = step.text("opts"), !options.isEmpty else { return ["    - install: \(try list(step.list("pkgs")))"] }
            let packages = step.list("pkgs").sorted().joined(separator: " ")
            return packageManager == "apt"
                ? try run(["apt-get update -qq", "apt-get install -y \(options) \(packages)", "rm -rf /var/lib/apt/lists/*"])
                : try run(["yum install -y \(options) \(packages)", "yum clean all", "rm -rf /var/cache/yum/*"])
        case "run": return try run([step.text("command") ?? ""])
        case "run_bash": return try run(["bash -c \(ShellWord.quoted(step.text("command") ?? ""))"])
        case "user": return ["    - user: \(try scalar(step.text("user") ?? ""))"]
        case "workdir": return ["    - workdir: \(try scalar(step.text("path") ?? ""))"]
        default: return try pairs("template", [("name", step.name)] + step.pairs.map { ($0.0, plain($0.1)) })
        }
    }

    /// A text of which nothing is taken for an expression.
    private func plain(_ text: String) -> String {
        guard ["{{", "{%", "{#"].contains(where: text.contains) else { return text }
        var result = ""
        var rest = text[...]
        while let brace = rest.firstIndex(of: "{") {
            result += rest[..<brace]
            let mark = rest[brace...].prefix(2)
            if ["{{", "{%", "{#"].contains(mark) {
                result += "{{ '\(mark)' }}"
                rest = rest[rest.index(brace, offsetBy: 2)...]
            } else {
                result += "{"
                rest = rest[rest.index(after: brace)...]
            }
        }
        return result + rest
    }

    /// A YAML scalar: bare where nothing else could be meant.
    private func scalar(_ text: String) throws -> String {
        let isBare =
            text.utf8.first?.isLetter ?? false
            && text.utf8.allSatisfy { $0.isAlphanumeric || "-_./".utf8.contains($0) }
            && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(text.lowercased())
        return isBare ? text : String(decoding: try CanonicalJSON.encode(text), as: UTF8.self)
    }
}

extension String {
    /// Without slashes at the end; of the root itself one stays.
    fileprivate var droppingSlash: String {
        var text = self
        while text.count > 1, text.hasSuffix("/") { text.removeLast() }
        return text
    }
}

extension UInt8 {
    fileprivate var isLetter: Bool { isAlphanumeric && !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }
}
