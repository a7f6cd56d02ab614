package import FarmModel

/// The beginnings of a build: two builds share layers as far as base, instructions and the files that these take in are the same.
package enum BuildLayers {
    /// An instruction with what it takes in of the context.
    private struct Link {
        var instruction: DockerfileInstruction
        var files: [ContextFile]

        /// Whether an engine makes a layer of it, and tells of it as a step.
        var isStep: Bool { BuildStep.isMade(of: instruction.word, instruction.rest) }

        var title: String { "\(instruction.word) \(instruction.rest.prefix { $0 != "\n" }.prefix(100))" }
    }

    private static func links(of plan: Plan) throws -> [Link] {
        try DockerfileInstruction.split(plan.dockerfile, path: "Dockerfile").filter { $0.word != "FROM" }.map {
            Link(instruction: $0, files: files(of: $0, plan.context))
        }
    }

    /// One number for the base image and one for each instruction, standing for all up to it.
    static func identities(of plan: Plan) throws -> [UInt64] {
        var state = Digest(hashing: ([plan.base] + plan.moreBases).map(\.reference).joined(separator: "\n") + "\n" + plan.architecture)
        var result = [identity(state)]
        for link in try links(of: plan) {
            let text = "\(state.hex)\n\(link.instruction.word) \(link.instruction.rest)\n"
            state = Digest(hashing: text + link.files.map { "\($0.path) \($0.digest.hex)" }.joined(separator: "\n"))
            result.append(identity(state))
        }
        return result
    }

    /// What the steps of the last stage that make layers stand for, each with all that comes before it, in order.
    package static func lastStage(of plan: Plan) throws -> [UInt64] {
        let instructions = try DockerfileInstruction.split(plan.dockerfile, path: "Dockerfile")
        let last = instructions.lastIndex { $0.word == "FROM" } ?? 0
        let before = instructions[..<last].count { $0.word != "FROM" }
        let steps = zip(try links(of: plan), try identities(of: plan).dropFirst())
        return steps.dropFirst(before).filter(\.0.isStep).map(\.1)
    }

    /// Where a plan leaves an earlier one.
    package struct Difference: Sendable, Hashable {
        /// Steps that are the same, as an engine counts what makes layers, the bases aside.
        package var sameSteps: Int
        /// Why the next one is another, in words.
        package var why: String

        package init(sameSteps: Int, why: String) {
            self.sameSteps = sameSteps
            self.why = why
        }
    }

    /// The first thing in which a plan differs from an earlier one as far as layers go; `nil` when all of it is the same.
    package static func difference(of plan: Plan, from earlier: Plan) throws -> Difference? {
        for (new, old) in zip([plan.base] + plan.moreBases, [earlier.base] + earlier.moreBases) where new.reference != old.reference {
            let why =
                new.name == old.name
                ? "the base image \(new.name) is another one, \(new.digest.short) instead of \(old.digest.short)"
                : "the base image is \(new.name) instead of \(old.name)"
            return Difference(sameSteps: 0, why: why)
        }
        guard plan.moreBases.count == earlier.moreBases.count else {
            return Difference(sameSteps: 0, why: "it takes something from other images than before")
        }
        let (links, before) = (try links(of: plan), try self.links(of: earlier))
        for (index, link) in links.enumerated() {
            let same = links[..<index].count(where: \.isStep)
            guard index < before.count else { return Difference(sameSteps: same, why: "\(link.title) is new") }
            let old = before[index]
            if link.instruction.word != old.instruction.word || link.instruction.rest != old.instruction.rest {
                let isKnown = before.contains {
                    $0.instruction.word == link.instruction.word && $0.instruction.rest == link.instruction.rest
                }
                let why =
                    link.title == old.title
                    ? "\(link.title) goes on otherwise than before"
                    : isKnown ? "\(link.title) stands elsewhere than before" : "\(link.title) stands where \(old.title) stood"
                return Difference(sameSteps: same, why: why)
            }
            let known = Set(old.files.map { "\($0.path) \($0.digest.hex)" })
            let changed = link.files.filter { !known.contains("\($0.path) \($0.digest.hex)") }.map(\.path)
            if !changed.isEmpty || link.files.count != old.files.count {
                let gone = Set(old.files.map(\.path)).subtracting(link.files.map(\.path)).sorted()
                let names = (changed.isEmpty ? gone : changed).prefix(3).joined(separator: ", ")
                return Difference(
                    sameSteps: same, why: "\(link.title) takes in \(names), which \(changed.isEmpty ? "is gone" : "has changed")")
            }
        }
        return nil
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
