import FarmModel

/// An Apptainer definition file that a maintainer wrote
/// (https://apptainer.org/docs/user/latest/definition_files.html), as a Dockerfile that does the same.
struct ApptainerDefinition {
    private struct Section {
        var name: String
        var arguments: [String]
        var body: [String] = []
        var line: Int

        var text: String {
            var lines = body
            while lines.last?.trimmingSpace.isEmpty ?? false { lines.removeLast() }
            return lines.joined(separator: "\n") + "\n"
        }
    }

    private struct Stage {
        var header: [String: String] = [:]
        var sections: [Section] = []
        var line: Int

        /// A section; several of one name are one, as Apptainer has it.
        func section(_ name: String) -> Section? {
            let all = sections.filter { $0.name == name }
            guard var whole = all.first else { return nil }
            whole.body = all.flatMap(\.body)
            whole.arguments = all.last { !$0.arguments.isEmpty }?.arguments ?? []
            return whole
        }
    }

    /// Keys that a header may have.
    private static let headerKeys: Set<String> = ["bootstrap", "from", "stage", "registry", "namespace"]
    private static let longest = 1 << 20

    /// External images, each once.
    private(set) var bases: [String] = []
    /// What `%help` says.
    private(set) var help = ""
    /// The script of `%test`; empty for none.
    private(set) var test = ""
    private var stages: [Stage] = []
    private let path: String

    private static let known: Set<String> = [
        "post", "files", "environment", "runscript", "startscript", "labels", "help", "test", "arguments",
    ]

    /// Throws errors that name file and line.
    init(_ text: String, path: String) throws {
        self.path = path
        guard text.utf8.count <= ApptainerDefinition.longest else {
            throw FarmError("recipe.definition", .invalid, "\(path) is longer than \(ApptainerDefinition.longest) bytes")
        }
        stages = try ApptainerDefinition.split(text, path)
        try fillIn()
        for stage in stages {
            let bootstrap = stage.header["bootstrap"] ?? ""
            guard bootstrap == "docker" else {
                throw fail(stage.line, "\"Bootstrap: \(bootstrap)\" cannot be built here", "use Bootstrap: docker, and From: IMAGE")
            }
            if let name = stage.header["stage"], !PlainName.isValid(name) { throw fail(stage.line, "\"\(name)\" is no name of a stage") }
            let base = try reference(stage)
            if !bases.contains(base) { bases.append(base) }
        }
        guard stages.count <= 64 else { throw fail(1, "there are more than 64 stages") }
        help = stages.last?.section("help")?.text ?? ""
        test = stages.last?.section("test")?.text ?? ""
    }

    private func reference(_ stage: Stage) throws -> String {
        let parts = [stage.header["registry"], stage.header["namespace"], stage.header["from"]].compactMap { $0 }.filter { !$0.isEmpty }
        return try ImageName.checked(parts.joined(separator: "/")) {
            fail(stage.line, "\"\($0)\" is no image", "write From: IMAGE:VERSION")
        }
    }

    /// The Dockerfile; `files` gives the context's path of a file that a section brings, which `written` holds.
    func dockerfile(_ pin: (String) throws -> String) throws -> (text: String, written: [String: (bytes: [UInt8], executable: Bool)]) {
        var lines: [String] = []
        var written: [String: (bytes: [UInt8], executable: Bool)] = [:]
        for (index, stage) in stages.enumerated() {
            let isLast = index == stages.count - 1
            let name = stage.header["stage"].map { " AS \($0)" } ?? ""
            lines.append("FROM \(try pin(reference(stage)))\(name)")
            lines.append("USER 0:0")
            for section in stage.sections where section.name == "files" { lines += try copies(section, before: index) }
            if let post = stage.section("post") {
                let shell = post.arguments.first == "-c" ? Array(post.arguments.dropFirst()) : ["/bin/sh"]
                let preamble =
                    "mkdir -p /.singularity.d/env; export APPTAINER_ENVIRONMENT=/.singularity.d/env/91-environment.sh "
                    + "SINGULARITY_ENVIRONMENT=/.singularity.d/env/91-environment.sh\n"
                let words = try (shell + ["-ex", "-c", preamble + post.text]).map(ApptainerDefinition.quoted)
                lines.append("RUN [\(words.joined(separator: ", "))]")
            }
            guard isLast else { continue }
            for section in stage.sections where section.name == "labels" { lines += try labels(section) }
            if let environment = stage.section("environment") {
                written["environment.sh"] = (Array("#!/bin/sh\n\(environment.text)".utf8), true)
                lines.append("COPY \(BuildContextNames.about)/environment.sh /.singularity.d/env/90-environment.sh")
            }
            for (section, file) in [("runscript", "runscript"), ("startscript", "startscript")] {
                guard let script = stage.section(section) else { continue }
                let shebang = script.body.first?.hasPrefix("#!") ?? false ? "" : "#!/bin/sh\n"
                written[file] = (Array("\(shebang)\(script.text)".utf8), true)
                lines.append("COPY \(BuildContextNames.about)/\(file) /.singularity.d/\(file)")
            }
        }
        return (lines.joined(separator: "\n") + "\n", written)
    }

    private func copies(_ section: Section, before stage: Int) throws -> [String] {
        let from = section.arguments.first == "from" ? section.arguments.dropFirst().first.map { "--from=\($0) " } : ""
        guard let from else { throw fail(section.line, "%files from wants the name of a stage") }
        if let name = section.arguments.dropFirst().first, !stages[..<stage].contains(where: { $0.header["stage"] == name }) {
            throw fail(section.line, "there is no stage \"\(name)\" before this one")
        }
        return try section.body.enumerated().compactMap { index, line in
            let line = line.trimmingSpace
            if line.isEmpty || line.hasPrefix("#") { return nil }
            guard let words = ShellWords.split(line), (1...2).contains(words.count) else {
                throw fail(section.line + 1 + index, "\"\(line)\" is not understood", "write SOURCE, or SOURCE DESTINATION")
            }
            guard !words.contains(where: { $0.split(separator: "/").contains("..") }) else {
                throw fail(section.line + 1 + index, "\"\(line)\" leaves its directory")
            }
            guard !from.isEmpty || !words[0].hasPrefix("/") else {
                throw fail(section.line + 1 + index, "\(words[0]) lies on the builder's own disk", "put the file beside the definition")
            }
            let target = words.count == 2 ? words[1] : words[0].hasPrefix("/") ? words[0] : "/\(words[0])"
            // Docker would take a dollar sign for a variable of its own.
            let paths = try [words[0], target].map { try ApptainerDefinition.quoted($0.replacing("$", with: "\\$")) }
            return "COPY \(from)[\(paths.joined(separator: ", "))]"
        }
    }

    private func labels(_ section: Section) throws -> [String] {
        try section.body.compactMap { line in
            let line = line.trimmingSpace
            guard !line.isEmpty, !line.hasPrefix("#") else { return nil }
            let key = line.prefix { !$0.isWhitespace }
            let value = String(line.dropFirst(key.count)).trimmingSpace
            return
                "LABEL \(try ApptainerDefinition.quoted(String(key)))=\(try ApptainerDefinition.quoted(value).replacing("$", with: "\\$"))"
        }
    }

    private static func quoted(_ text: String) throws -> String { String(decoding: try CanonicalJSON.encode(text), as: UTF8.self) }

    /// `{{ name }}` of `%arguments`.
    private mutating func fillIn() throws {
        var values: [String: String] = [:]
        for stage in stages {
            for line in stage.section("arguments")?.body ?? [] {
                let parts = line.split(separator: "=", maxSplits: 1).map { String($0).trimmingSpace }
                if parts.count == 2 { values[parts[0]] = parts[1].trimmingQuotes }
            }
        }
        func filled(_ text: String, _ line: Int) throws -> String {
            var result = ""
            var rest = text[...]
            while let open = rest.firstRange(of: "{{") {
                guard let close = rest[open.upperBound...].firstRange(of: "}}") else { break }
                let name = String(rest[open.upperBound..<close.lowerBound]).trimmingSpace
                // Only a lone word is a variable; other braces are the script's own.
                guard !name.isEmpty, name.utf8.allSatisfy({ $0.isAlphanumeric || $0 == UInt8(ascii: "_") }) else {
                    result += rest[..<open.upperBound]
                    rest = rest[open.upperBound...]
                    continue
                }
                guard let value = values[name] else {
                    throw fail(line, "\"{{ \(name) }}\" has no value", "give it a default under %arguments")
                }
                result += rest[..<open.lowerBound] + value
                rest = rest[close.upperBound...]
            }
            return result + rest
        }
        for index in stages.indices {
            let line = stages[index].line
            stages[index].header = try stages[index].header.mapValues { try filled($0, line) }
            for section in stages[index].sections.indices where stages[index].sections[section].name != "arguments" {
                let first = stages[index].sections[section].line + 1
                stages[index].sections[section].arguments = try stages[index].sections[section].arguments.map { try filled($0, first - 1) }
                stages[index].sections[section].body = try stages[index].sections[section].body.enumerated().map {
                    try filled($0.element, first + $0.offset)
                }
            }
        }
    }

    private func fail(_ line: Int, _ message: String, _ hint: String? = nil) -> FarmError {
        ApptainerDefinition.fail(path, line, message, hint)
    }

    private static func fail(_ path: String, _ line: Int, _ message: String, _ hint: String?) -> FarmError {
        FarmError("recipe.definition", .invalid, "\(path):\(line): \(message)", hint: hint)
    }

    private static func split(_ text: String, _ path: String) throws -> [Stage] {
        var stages: [Stage] = []
        var inHeader = false
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            let number = index + 1
            if line.hasPrefix("%") {
                var words = line.dropFirst().split(whereSeparator: \.isWhitespace).map(String.init)
                let name = words.isEmpty ? "" : words.removeFirst().lowercased()
                guard known.contains(name) else {
                    let hint =
                        name == "setup" || name == "pre"
                        ? "it would run on the builder's own system; do it in %post"
                        : "known: \(known.sorted().map { "%\($0)" }.joined(separator: " "))"
                    throw fail(path, number, "a section %\(name) cannot be built here", hint)
                }
                guard !stages.isEmpty else {
                    throw fail(path, number, "a section stands before the header", "begin with Bootstrap: docker")
                }
                stages[stages.count - 1].sections.append(Section(name: name, arguments: words, line: number))
                inHeader = false
                continue
            }
            let lower = line.lowercased()
            if lower.hasPrefix("bootstrap:") {
                stages.append(Stage(line: number))
                inHeader = true
            }
            if inHeader {
                let start = line.trimmingSpace
                if start.isEmpty || start.hasPrefix("#") { continue }
                guard let colon = start.firstIndex(of: ":") else {
                    throw fail(path, number, "\"\(start)\" is no line of a header", "write Key: value")
                }
                let key = start[..<colon].lowercased()
                guard headerKeys.contains(key) else {
                    throw fail(
                        path, number, "\"\(start[..<colon])\" is no key of a header here",
                        "known: Bootstrap, From, Stage, Registry, Namespace")
                }
                let value = start[start.index(after: colon)...].prefix { $0 != "#" }
                stages[stages.count - 1].header[key] = value.trimmingSpace
            } else if let stage = stages.indices.last, let section = stages[stage].sections.indices.last {
                stages[stage].sections[section].body.append(String(line))
            } else if !line.trimmingSpace.isEmpty, !line.trimmingSpace.hasPrefix("#") {
                throw fail(path, number, "the file does not begin with a header", "begin with Bootstrap: docker")
            }
        }
        guard !stages.isEmpty else { throw fail(path, 1, "the file has no header", "begin with Bootstrap: docker") }
        return stages
    }
}

extension String {
    fileprivate var trimmingQuotes: String {
        for quote in ["\"", "'"] where count >= 2 && hasPrefix(quote) && hasSuffix(quote) { return String(dropFirst().dropLast()) }
        return self
    }
}
