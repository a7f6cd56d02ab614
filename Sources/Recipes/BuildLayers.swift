import FarmModel

/// The beginnings of a build: two builds share layers as far as base, instructions and the files that these take in are the same.
enum BuildLayers {
    /// One number for the base image and one for each instruction, standing for all up to it.
    static func identities(of plan: Plan) throws -> [UInt64] {
        var state = Digest(hashing: ([plan.base] + plan.moreBases).map(\.reference).joined(separator: "\n") + "\n" + plan.architecture)
        var result = [identity(state)]
        for instruction in try DockerfileInstruction.split(plan.dockerfile, path: "Dockerfile") where instruction.word != "FROM" {
            let text = "\(state.hex)\n\(instruction.word) \(instruction.rest)\n"
            state = Digest(
                hashing: text + files(of: instruction, plan.context).map { "\($0.path) \($0.digest.hex)" }.joined(separator: "\n"))
            result.append(identity(state))
        }
        return result
    }

    /// Numbers that JSON keeps exactly.
    private static func identity(_ digest: Digest) -> UInt64 { digest.leading >> 12 }

    /// Files of the context that an instruction names, by themselves or by a directory.
    private static func files(of instruction: DockerfileInstruction, _ context: [ContextFile]) -> [ContextFile] {
        guard ["COPY", "ADD", "RUN"].contains(instruction.word) else { return [] }
        // Of a step that runs something, only what it mounts.
        let text = instruction.word == "RUN" ? instruction.rest.prefix { $0 != "\n" } : instruction.rest[...]
        let isSeparator: (Character) -> Bool = { $0.isWhitespace || ",=\"[]'".contains($0) }
        let words = Set(
            text.split(whereSeparator: isSeparator).map { word in
                var name = word.drop { $0 == "/" || $0 == "." }
                while name.last == "/" { name.removeLast() }
                return String(name)
            })
        let takesAll = instruction.word != "RUN" && text.split(whereSeparator: isSeparator).contains { [".", "./", "/"].contains($0) }
        return context.filter { file in
            if takesAll || words.contains(file.path) { return true }
            return file.path.indices.contains { file.path[$0] == "/" && words.contains(String(file.path[..<$0])) }
        }
    }
}
