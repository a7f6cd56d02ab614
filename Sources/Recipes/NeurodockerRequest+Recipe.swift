import FarmModel

extension NeurodockerRequest {
    /// The text of a `build.yaml` that asks for the same.
    ///
    /// - Parameters:
    ///   - name: the recipe's name; `nil` takes that of the only template, or "generated".
    ///   - version: the recipe's version; `nil` takes that of the only template, or "1.0".
    package func recipe(name: String? = nil, version: String? = nil) throws -> String {
        let templates = instructions.filter { !NeurodockerRequest.plainNames.contains($0.name) }
        let alone = templates.count == 1 ? templates.first : nil
        let named = alone?.text("version").flatMap { PlainName.isValid($0) ? $0 : nil }
        var lines = [
            "name: \(try scalar(name ?? alone?.name.replacing("_", with: "-") ?? "generated"))",
            "version: \(try scalar(version ?? named ?? "1.0"))", "categories: [data organisation]", "build:", "  kind: neurodocker",
            "  base-image: \(try scalar(instructions.first { $0.name == "from_" }?.text("base_image") ?? ""))",
            "  pkg-manager: \(packageManager)", "  add-tzdata: false",
        ]
        let directives = try instructions.flatMap(directive)
        lines.append(directives.isEmpty ? "  directives: []" : "  directives:")
        lines += directives
        let labels = instructions.filter { $0.name == "label" }.flatMap(\.pairs)
        let arguments = instructions.filter { $0.name == "arg" }.compactMap { step in
            step.text("key").map { ($0, step.text("value") ?? "") }
        }
        if !labels.isEmpty || !arguments.isEmpty { lines.append("x-sciferry:") }
        if !arguments.isEmpty { lines += ["  arguments:"] + (try arguments.map { "    \(try scalar($0.0)): \(try scalar($0.1))" }) }
        if !labels.isEmpty { lines += ["  labels:"] + (try labels.map { "    \(try scalar($0.0)): \(try scalar($0.1))" }) }
        return lines.joined(separator: "\n") + "\n"
    }

    private func directive(_ step: Instruction) throws -> [String] {
        func list(_ items: [String]) throws -> String { "[\(try items.map(scalar).joined(separator: ", "))]" }
        func pairs(_ key: String, _ values: [(String, String)]) throws -> [String] {
            ["    - \(key):"] + (try values.map { "        \(try scalar($0.0)): \(try scalar($0.1))" })
        }
        func run(_ commands: [String]) throws -> [String] { ["    - run:"] + (try commands.map { "        - \(try scalar(plain($0)))" }) }
        switch step.name {
        case "from_", "arg", "label": return []
        case "env": return step.pairs.isEmpty ? [] : try pairs("environment", step.pairs.map { ($0.0, plain($0.1)) })
        case "copy": return ["    - copy: \(try list(step.list("source") + [step.text("destination") ?? ""]))"]
        case "add":
            // Docker's ADD unpacks a local archive; so does this, for every builder.
            let source = step.list("source").first ?? ""
            let destination = step.text("destination") ?? ""
            let place = "/tmp/sciferry-add/\(source.split(separator: "/").last.map(String.init) ?? "archive")"
            let (from, to) = (ShellWord.quoted(place), ShellWord.quoted(destination))
            return ["    - copy: \(try list([source, place]))"]
                + (try run([
                    "mkdir -p \(to)", "if tar -tf \(from) >/dev/null 2>&1; then tar -xf \(from) -C \(to); else cp -a \(from) \(to); fi",
                    "rm -rf /tmp/sciferry-add",
                ]))
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

extension UInt8 {
    fileprivate var isLetter: Bool { isAlphanumeric && !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }
}
