import FarmModel

/// A Dockerfile that a maintainer wrote (https://docs.docker.com/reference/dockerfile/), understood as far as pinning its
/// base images needs.
struct PlainDockerfile {
    /// An instruction with the lines it stands on.
    private struct Instruction {
        var word: String
        var rest: String
        var line: Int
    }

    /// External images in the order in which they are named, each once; `scratch` and stages are none.
    private(set) var bases: [String] = []
    private let instructions: [Instruction]
    private let path: String
    private var globals: [String: String] = [:]
    private var stages: Set<String> = []

    /// Throws errors that name file and line.
    init(_ text: String, path: String) throws {
        self.path = path
        instructions = PlainDockerfile.split(text)
        var sawStage = false
        for instruction in instructions {
            switch instruction.word {
            case "ARG" where !sawStage:
                let parts = instruction.rest.split(separator: "=", maxSplits: 1).map(String.init)
                if parts.count == 2 { globals[parts[0]] = PlainDockerfile.unquoted(parts[1]) }
            case "FROM":
                sawStage = true
                let from = try readFrom(instruction)
                note(from.image)
                if let name = from.stage { stages.insert(name.lowercased()) }
            default:
                guard sawStage || instruction.word == "ARG" else { throw fail(instruction, "a Dockerfile begins with FROM") }
                for image in PlainDockerfile.fromWords(instruction) where Int(image) == nil { note(image) }
            }
        }
        guard sawStage else {
            throw FarmError("recipe.dockerfile", .invalid, "\(path) has no FROM", hint: "name a base image: FROM debian:bookworm")
        }
    }

    private mutating func note(_ image: String) {
        guard image != "scratch", !stages.contains(image.lowercased()), !bases.contains(image) else { return }
        bases.append(image)
    }

    /// The text with each base image replaced by what `pin` gives for it.
    func text(_ pin: (String) -> String) throws -> String {
        var known: Set<String> = []
        return try instructions.map { instruction in
            switch instruction.word {
            case "FROM":
                let from = try readFrom(instruction)
                defer { if let stage = from.stage { known.insert(stage.lowercased()) } }
                let isExternal = from.image != "scratch" && !known.contains(from.image.lowercased())
                let image = isExternal ? pin(from.image) : from.image
                return "FROM \(image)\(from.stage.map { " AS \($0)" } ?? "")"
            default:
                var rest = instruction.rest
                for image in PlainDockerfile.fromWords(instruction) where bases.contains(image) {
                    rest = rest.replacing("from=\(image)", with: "from=\(pin(image))")
                }
                return "\(instruction.word) \(rest)"
            }
        }.joined(separator: "\n") + "\n"
    }

    private func readFrom(_ instruction: Instruction) throws -> (image: String, stage: String?) {
        let words = instruction.rest.split(whereSeparator: \.isWhitespace).map(String.init).filter { !$0.hasPrefix("--platform") }
        guard let first = words.first, words.count == 1 || words.count == 3 && words[1].uppercased() == "AS" else {
            throw fail(instruction, "\"FROM \(instruction.rest)\" is not understood", "write FROM IMAGE, or FROM IMAGE AS STAGE")
        }
        let image = try expanded(first, instruction)
        guard !image.isEmpty, !image.contains("$") else {
            throw fail(instruction, "\"\(first)\" stands for no image", "give its ARG a value")
        }
        let tagged = image.contains(":") || image == "scratch" || stages.contains(image.lowercased()) ? image : "\(image):latest"
        return (tagged, words.count == 3 ? words[2] : nil)
    }

    /// With `$NAME`, `${NAME}` and `${NAME:-otherwise}` of arguments that stand before the first FROM.
    private func expanded(_ word: String, _ instruction: Instruction) throws -> String {
        var result = ""
        var rest = word[...]
        while let dollar = rest.firstIndex(of: "$") {
            result += rest[..<dollar]
            rest = rest[rest.index(after: dollar)...]
            if rest.first == "{" {
                guard let close = rest.firstIndex(of: "}") else { throw fail(instruction, "a brace is not closed") }
                let inner = rest[rest.index(after: rest.startIndex)..<close]
                let name = inner.prefix { $0.isLetter || $0.isNumber || $0 == "_" }
                let otherwise = inner.dropFirst(name.count)
                let value = globals[String(name)] ?? ""
                result += value.isEmpty && otherwise.hasPrefix(":-") ? String(otherwise.dropFirst(2)) : value
                rest = rest[rest.index(after: close)...]
            } else {
                let name = rest.prefix { $0.isLetter || $0.isNumber || $0 == "_" }
                result += globals[String(name)] ?? ""
                rest = rest.dropFirst(name.count)
            }
        }
        return result + rest
    }

    /// What `COPY --from=` and `RUN --mount=…,from=` name.
    private static func fromWords(_ instruction: Instruction) -> [String] {
        guard ["COPY", "ADD", "RUN"].contains(instruction.word) else { return [] }
        let flags = instruction.rest.split(whereSeparator: \.isWhitespace).prefix { $0.hasPrefix("--") || $0 == "\\" }
        return flags.flatMap { flag -> [String] in
            if flag.hasPrefix("--from=") { return [String(flag.dropFirst(7))] }
            guard flag.hasPrefix("--mount=") else { return [] }
            return flag.dropFirst(8).split(separator: ",").filter { $0.hasPrefix("from=") }.map { String($0.dropFirst(5)) }
        }
    }

    private func fail(_ instruction: Instruction, _ message: String, _ hint: String? = nil) -> FarmError {
        FarmError("recipe.dockerfile", .invalid, "\(path):\(instruction.line): \(message)", hint: hint)
    }

    private static func unquoted(_ text: String) -> String {
        let text = text.trimmingSpace
        for quote in ["\"", "'"] where text.count >= 2 && text.hasPrefix(quote) && text.hasSuffix(quote) {
            return String(text.dropFirst().dropLast())
        }
        return text
    }

    /// Instructions with their continuation lines; comments go, and with them `# syntax=`, which would fetch another
    /// builder from somewhere.
    private static func split(_ text: String) -> [Instruction] {
        var result: [Instruction] = []
        var open = false
        for (index, line) in text.replacing("\r\n", with: "\n").split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let start = line.drop(while: \.isWhitespace)
            if start.isEmpty || start.hasPrefix("#") { continue }
            if open {
                result[result.count - 1].rest += "\n\(line)"
            } else {
                let word = start.prefix { !$0.isWhitespace }
                result.append(
                    Instruction(
                        word: word.uppercased(), rest: String(start.dropFirst(word.count).drop(while: \.isWhitespace)), line: index + 1))
            }
            open = line.reversed().first { !$0.isWhitespace } == "\\"
        }
        return result
    }
}
