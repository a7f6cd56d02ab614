import FarmModel

/// A Dockerfile that a maintainer wrote (https://docs.docker.com/reference/dockerfile/), understood as far as pinning its
/// base images needs. What would hide an image from that is refused: heredocs, another escape character, variables in `--from`.
struct PlainDockerfile {
    /// A piece of the text: as it stands, or a reference to an external image.
    private enum Piece {
        case text(String)
        case image(String)
    }

    /// External images in the order in which they are named, each once; `scratch` and stages are none.
    private(set) var bases: [String] = []
    /// The line of the first ADD that fetches something; `nil` for none.
    private(set) var remoteAdd: Int?
    private var pieces: [Piece] = []
    private let path: String
    private var globals: [String: String] = [:]
    private var stages: Set<String> = []
    private var stageCount = 0

    /// No Dockerfile comes near these; they bound what a hostile one can cost.
    private static let longest = 1 << 20
    private static let mostInstructions = 5000
    private static let mostBases = 64

    /// Throws errors that name file and line.
    init(_ text: String, path: String) throws {
        self.path = path
        guard text.utf8.count <= PlainDockerfile.longest else {
            throw FarmError("recipe.dockerfile", .invalid, "\(path) is longer than \(PlainDockerfile.longest) bytes")
        }
        let instructions = try DockerfileInstruction.split(text, path: path)
        guard instructions.count <= PlainDockerfile.mostInstructions else {
            throw FarmError("recipe.dockerfile", .invalid, "\(path) has more than \(PlainDockerfile.mostInstructions) instructions")
        }
        for instruction in instructions { try read(instruction) }
        guard stageCount > 0 else {
            throw FarmError("recipe.dockerfile", .invalid, "\(path) has no FROM", hint: "name a base image: FROM debian:bookworm")
        }
    }

    /// The text with each base image replaced by what `pin` gives for it.
    func text(_ pin: (String) throws -> String) rethrows -> String {
        try pieces.map { piece in
            switch piece {
            case .text(let text): text
            case .image(let name): try pin(name)
            }
        }.joined()
    }

    private mutating func read(_ instruction: DockerfileInstruction) throws {
        switch instruction.word {
        case "ARG" where stageCount == 0:
            for word in instruction.rest.split(whereSeparator: \.isWhitespace) {
                let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
                if parts.count == 2 { globals[parts[0]] = try expanded(PlainDockerfile.unquoted(parts[1]), instruction) }
            }
            pieces.append(.text("ARG \(instruction.rest)\n"))
        case "FROM": try readFrom(instruction)
        default:
            guard stageCount > 0 else { throw fail(instruction, "a Dockerfile begins with FROM") }
            pieces.append(.text("\(instruction.word) "))
            try readFlags(instruction)
            pieces.append(.text("\n"))
        }
    }

    private mutating func readFrom(_ instruction: DockerfileInstruction) throws {
        let words = instruction.rest.split(whereSeparator: \.isWhitespace).map(String.init).filter { !$0.hasPrefix("--platform=") }
        guard let first = words.first, words.count == 1 || words.count == 3 && words[1].uppercased() == "AS", !first.hasPrefix("--") else {
            throw fail(instruction, "\"FROM \(instruction.rest)\" is not understood", "write FROM IMAGE, or FROM IMAGE AS STAGE")
        }
        let image = try expanded(PlainDockerfile.unquoted(first), instruction)
        guard !image.isEmpty else { throw fail(instruction, "\"\(first)\" stands for no image", "give its ARG a value") }
        pieces.append(.text("FROM "))
        try name(image, instruction)
        if words.count == 3 {
            guard PlainName.isValid(words[2]) else { throw fail(instruction, "\"\(words[2])\" is no name of a stage") }
            pieces.append(.text(" AS \(words[2])"))
        }
        pieces.append(.text("\n"))
        stageCount += 1
        if words.count == 3 { stages.insert(words[2].lowercased()) }
    }

    /// An image or a stage that came before.
    private mutating func name(_ image: String, _ instruction: DockerfileInstruction) throws {
        if image == "scratch" || stages.contains(image.lowercased()) { return pieces.append(.text(image)) }
        let reference = try ImageName.checked(image) { fail(instruction, "\"\($0)\" is no image") }
        if !bases.contains(reference) {
            guard bases.count < PlainDockerfile.mostBases else {
                throw fail(instruction, "more than \(PlainDockerfile.mostBases) images are named")
            }
            bases.append(reference)
        }
        pieces.append(.image(reference))
    }

    /// Copies an instruction's flags, in which `--from=` and a mount's `from=` name images, and then what follows them.
    private mutating func readFlags(_ instruction: DockerfileInstruction) throws {
        var rest = instruction.rest[...]
        if instruction.word == "ONBUILD" {
            let inner = rest.prefix { !$0.isWhitespace }.uppercased()
            guard !["FROM", "COPY", "ADD", "RUN"].contains(inner) || !rest.contains("from=") else {
                throw fail(instruction, "an image behind ONBUILD cannot be pinned")
            }
            return pieces.append(.text(String(rest)))
        }
        guard ["COPY", "ADD", "RUN"].contains(instruction.word) else { return pieces.append(.text(String(rest))) }
        while rest.hasPrefix("--") {
            let flag = String(rest.prefix { !$0.isWhitespace })
            rest = rest.dropFirst(flag.count)
            // BuildKit takes quotes and backslashes away before it looks at a flag.
            guard !flag.contains(where: { "\"'\\".contains($0) }) else {
                throw fail(instruction, "quotes and backslashes in \(flag) are not understood", "write the flag without them")
            }
            if flag.hasPrefix("--from=") {
                pieces.append(.text("--from="))
                try from(String(flag.dropFirst(7)), instruction)
            } else if flag.hasPrefix("--mount=") {
                pieces.append(.text("--mount="))
                try readMount(flag.dropFirst(8), instruction)
            } else {
                pieces.append(.text(flag))
            }
            // White space and line ends between flags.
            let gap = rest.prefix { $0.isWhitespace || $0 == "\\" }
            pieces.append(.text(String(gap)))
            rest = rest.dropFirst(gap.count)
        }
        if instruction.word == "ADD", rest.contains("://") || rest.contains("git@") { remoteAdd = remoteAdd ?? instruction.line }
        pieces.append(.text(String(rest)))
    }

    /// The fields of a mount, whose keys BuildKit takes in any case.
    private mutating func readMount(_ fields: Substring, _ instruction: DockerfileInstruction) throws {
        for (index, field) in fields.split(separator: ",", omittingEmptySubsequences: false).enumerated() {
            if index > 0 { pieces.append(.text(",")) }
            let parts = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            let (key, value) = (parts[0].lowercased(), parts.count == 2 ? parts[1] : "")
            // A cache's name is shared by everything that one engine builds.
            if key == "id", value.hasPrefix("apt-") || value.hasPrefix("yum-") {
                throw fail(instruction, "the cache \"\(value)\" belongs to the farm", "choose another id")
            }
            if key == "from" {
                pieces.append(.text("from="))
                try from(value, instruction)
            } else {
                pieces.append(.text(String(field)))
            }
        }
    }

    private mutating func from(_ word: String, _ instruction: DockerfileInstruction) throws {
        guard !word.contains("$") else {
            throw fail(instruction, "a variable in \"from=\(word)\" cannot be pinned", "name the image or the stage")
        }
        if let number = Int(word), number < stageCount { return pieces.append(.text(word)) }
        try name(word, instruction)
    }

    /// With `$NAME`, `${NAME}` and `${NAME:-otherwise}` of arguments that stand before the first FROM.
    private func expanded(_ word: String, _ instruction: DockerfileInstruction) throws -> String {
        var result = ""
        var rest = word[...]
        while let dollar = rest.firstIndex(of: "$") {
            result += rest[..<dollar]
            rest = rest[rest.index(after: dollar)...]
            func isName(_ character: Character) -> Bool { character.isLetter || character.isNumber || character == "_" }
            if rest.first == "{" {
                guard let close = rest.firstIndex(of: "}") else { throw fail(instruction, "a brace is not closed") }
                let inner = rest[rest.index(after: rest.startIndex)..<close]
                let name = inner.prefix(while: isName)
                let otherwise = inner.dropFirst(name.count)
                guard otherwise.isEmpty || otherwise.hasPrefix(":-") else { throw fail(instruction, "\"${\(inner)}\" is not understood") }
                let value = globals[String(name)] ?? ""
                guard !value.isEmpty || !otherwise.isEmpty else {
                    throw fail(instruction, "\"${\(inner)}\" stands for no image", "give its ARG a value")
                }
                result += value.isEmpty ? String(otherwise.dropFirst(2)) : value
                rest = rest[rest.index(after: close)...]
            } else {
                let name = rest.prefix(while: isName)
                guard let value = globals[String(name)], !value.isEmpty else {
                    throw fail(instruction, "\"$\(name)\" stands for no image", "give its ARG a value")
                }
                result += value
                rest = rest.dropFirst(name.count)
            }
        }
        return result + rest
    }

    private func fail(_ instruction: DockerfileInstruction, _ message: String, _ hint: String? = nil) -> FarmError {
        FarmError("recipe.dockerfile", .invalid, "\(path):\(instruction.line): \(message)", hint: hint)
    }

    private static func unquoted(_ text: String) -> String {
        for quote in ["\"", "'"] where text.utf8.count >= 2 && text.hasPrefix(quote) && text.hasSuffix(quote) {
            return String(text.dropFirst().dropLast())
        }
        return text
    }
}

/// One instruction of a Dockerfile, with the lines that it goes on over.
struct DockerfileInstruction {
    /// In capitals.
    var word: String
    /// What follows, without comment lines.
    var rest: String
    var line: Int

    /// Splits a text by BuildKit's rules: a backslash that no backslash precedes continues a line; comments go, and with them
    /// `# syntax=`, which would fetch another builder from somewhere. Throws for what is not understood.
    static func split(_ text: String, path: String) throws -> [DockerfileInstruction] {
        func fail(_ line: Int, _ message: String, _ hint: String) -> FarmError {
            FarmError("recipe.dockerfile", .invalid, "\(path):\(line): \(message)", hint: hint)
        }
        var result: [DockerfileInstruction] = []
        var rest: [Substring] = []
        var open = false
        func close() { if let last = result.indices.last, !rest.isEmpty { result[last].rest = rest.joined(separator: "\n"); rest = [] } }
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            let start = line.drop(while: \.isWhitespace)
            if start.hasPrefix("#") {
                let remark = start.dropFirst().lowercased().filter { !$0.isWhitespace }
                if result.isEmpty, remark.hasPrefix("escape=") {
                    throw fail(index + 1, "another escape character is not understood", "use \\")
                }
                continue
            }
            if start.isEmpty { continue }
            if open {
                rest.append(line)
            } else {
                close()
                let word = start.prefix { !$0.isWhitespace }
                result.append(DockerfileInstruction(word: word.uppercased(), rest: "", line: index + 1))
                rest = [start.dropFirst(word.count).drop(while: \.isWhitespace)]
            }
            if ["RUN", "COPY", "ADD"].contains(result.last?.word), let mark = line.firstRange(of: "<<"),
                let next = line[mark.upperBound...].drop(while: { $0 == "-" }).first, next.isLetter || "_'\"".contains(next)
            {
                throw fail(index + 1, "heredocs are not understood", "put the text into a file beside the Dockerfile")
            }
            let end = line.reversed().drop { $0 == " " || $0 == "\t" }
            open = end.first == "\\" && end.dropFirst().first != "\\"
        }
        close()
        if open, let last = result.last { throw fail(last.line, "the last line ends with a backslash", "take it away") }
        return result
    }
}

/// Names of images (https://github.com/distribution/reference, "grammar").
enum ImageName {
    /// With a tag; throws what `refusal` gives for a text that is no image's name.
    static func checked(_ text: String, _ refusal: (String) -> FarmError) throws -> String {
        let isSound =
            text.utf8.allSatisfy { $0.isAlphanumeric || "._-/:@".utf8.contains($0) } && text.utf8.first?.isAlphanumeric ?? false
            && text.utf8.last?.isAlphanumeric ?? false && text.utf8.count <= 512
        guard isSound else { throw refusal(text) }
        let last = text.split(separator: "/").last ?? ""
        return last.contains(":") || last.contains("@") ? text : "\(text):latest"
    }
}
