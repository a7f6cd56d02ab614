/// One step of a build as it went: an instruction that makes a layer.
package struct BuildStep: Codable, Sendable, Hashable {
    /// Whether builders make a layer of an instruction, and tell of it as a step.
    ///
    /// - Parameters:
    ///   - word: in capital letters, for example `RUN`.
    ///   - rest: what comes after it.
    package static func isMade(of word: some StringProtocol, _ rest: some StringProtocol) -> Bool {
        ["RUN", "COPY", "ADD"].contains { $0 == word } || word == "WORKDIR" && rest != "/"
    }

    /// Where its layer came from.
    package enum Origin: String, Codable, Sendable, Hashable {
        /// The step was run.
        case run
        /// The worker had the layer.
        case worker
        /// The farm had it, and the worker took it from there.
        case farm
        /// It ended badly, or the build was ended in it.
        case failed
    }

    /// As its stage counts it, and how many that stage has; the first is the base.
    package var number: Int
    package var count: Int
    package var instruction: String
    package var seconds: Double
    package var origin: Origin

    /// Whether it was run, to whatever end.
    package var isMade: Bool { origin == .run || origin == .failed }

    /// More of them than any build has; what is reported rides in a frame of bounded size.
    package static let most = 120

    package init(number: Int, count: Int, instruction: String, seconds: Double, origin: Origin) {
        self.number = number
        self.count = count
        self.instruction = String(instruction.prefix(100))
        self.seconds = seconds
        self.origin = origin
    }
}

extension [BuildStep] {
    /// For people: `5 of 8 steps were there, 3 took 12.3 s`.
    package var title: String {
        let made = filter(\.isMade)
        let brought = count { $0.origin == .farm }
        let whence = brought == 0 ? "" : brought == 1 ? ", one of them in the farm" : ", \(brought) of them in the farm"
        if isEmpty { return "no steps" }
        let time = (made.reduce(0) { $0 + $1.seconds } * 10).rounded() / 10
        if made.isEmpty { return (count == 1 ? "its step was there" : "all \(count) steps were there") + whence }
        return "\(count - made.count) of \(count) steps were there\(whence), \(made.count) took \(time) s"
    }

    /// As much as is believed of a worker's word.
    package var bounded: [BuildStep] {
        prefix(BuildStep.most).map {
            BuildStep(
                number: $0.number, count: $0.count, instruction: $0.instruction,
                seconds: $0.seconds.isFinite ? Swift.max(0, $0.seconds) : 0,
                origin: $0.origin)
        }
    }

    /// The first that had to be run.
    package var firstMiss: BuildStep? { first(where: \.isMade) }
}
