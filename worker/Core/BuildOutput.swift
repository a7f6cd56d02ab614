package import FarmModel

/// Follows what a builder says: which step runs, and what it said last.
///
/// In BuildKit's plain output a step begins with `#6 [stage-0 2/5] RUN …` (newer clients leave the name of a lone stage out), speaks in lines
/// `#6 0.209 …`, and ends with `#6 DONE`, `#6 CACHED` or `#6 ERROR: …`.
package struct BuildOutput: Sendable {
    /// A step of the Dockerfile.
    package struct Step: Sendable, Hashable {
        package var number: Int
        package var count: Int
        package var instruction: String
        /// Empty where there is but one.
        var stage = ""
    }

    /// The step that began last.
    package private(set) var step = Step(number: 0, count: 0, instruction: "")
    /// The same for people: `step 3/7: RUN make`.
    package var place: String { "step \(step.number)/\(step.count): \(step.instruction)" }
    private var steps: [Substring: Step] = [:]
    /// How they went, in the order in which they were first named.
    private var went: [(vertex: Substring, stage: String, step: BuildStep)] = []
    private var failed: Step?
    private var lines: [String] = []
    private var partial: [UInt8] = []
    package let builder: EngineBuilder
    private var sequence: SequenceOutput

    /// Whether the builder was shown an image whose steps it may take as done.
    package let wasShown: Bool

    /// - Parameter stages: of the Dockerfile.
    package init(_ builder: EngineBuilder = .buildkit, stages: Int = 1, wasShown: Bool = false) {
        self.builder = builder
        sequence = SequenceOutput(isBuildah: builder == .buildah, stages: stages)
        self.wasShown = wasShown
    }

    /// Takes output as it comes; whether a step began with it.
    package mutating func take(_ bytes: [UInt8], now: Timestamp = .now) -> Bool {
        var began = false
        partial += bytes
        while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: partial[..<end], as: UTF8.self)
            partial.removeFirst(end + 1)
            began = (builder == .buildkit ? note(line) : noteInSequence(line, now)) || began
        }
        if partial.count > 64 * 1024 { partial = [] }
        return began
    }

    /// What steps and engine said last, at most 30 lines, without BuildKit's own marks.
    package var tail: [String] {
        Array((lines + [String(decoding: partial, as: UTF8.self)]).filter { !$0.isEmpty && $0 != "------" }.suffix(30))
    }

    private mutating func note(_ line: String) -> Bool {
        guard line.hasPrefix("#"), let space = line.firstIndex(of: " ") else {
            // A failed step's output comes once more at the end, without its times.
            keep(line)
            return false
        }
        let vertex = line[..<space]
        let rest = line[line.index(after: space)...]
        if rest.hasPrefix("["), let step = BuildOutput.step(rest) {
            steps[vertex] = step
            self.step = step
            begin(step, vertex)
            return true
        }
        let word = rest.prefix { $0 != " " }
        if word == "CACHED" { note(vertex) { $0.origin = .worker } }
        if word == "DONE", rest.hasSuffix("s"), let seconds = Double(rest.dropFirst(5).dropLast()) {
            note(vertex) { ($0.origin, $0.seconds) = (.run, seconds) }
        }
        if word == "ERROR:" {
            failed = steps[vertex] ?? failed
            keep(String(rest))
        } else if word.allSatisfy({ $0.isNumber || $0 == "." }), !word.isEmpty {
            // What fails never says how long it took.
            if let seconds = Double(word) { note(vertex) { $0.seconds = max($0.seconds, seconds) } }
            keep(String(rest.dropFirst(word.count + 1)))
        }
        return false
    }

    private mutating func noteInSequence(_ line: String, _ now: Timestamp) -> Bool {
        switch sequence.note(line, now: now) {
        case .begins(let step):
            self.step = step
            return true
        case .said: keep(line)
        case .mark: break
        }
        return false
    }

    /// Of a classic build: the image that the last instruction left that was carried out.
    package var lastImage: String? { builder == .classic && !sequence.lastStageEntries.isEmpty ? sequence.image : nil }

    /// Of builders that carry out one instruction after the other: each one of the last stage that was, and whether it makes a layer.
    package var lastStageEntries: [Bool] { sequence.lastStageEntries }

    /// Told several times of each step; how it ended is told once.
    private mutating func begin(_ step: Step, _ vertex: Substring) {
        guard !step.instruction.hasPrefix("FROM "), went.count < BuildStep.most, !went.contains(where: { $0.vertex == vertex }) else {
            return
        }
        let record = BuildStep(number: step.number, count: step.count, instruction: step.instruction, seconds: 0, origin: .failed)
        went.append((Substring(String(vertex)), step.stage, record))
    }

    private mutating func note(_ vertex: Substring, _ change: (inout BuildStep) -> Void) {
        if let index = went.firstIndex(where: { $0.vertex == vertex }) { change(&went[index].step) }
    }

    /// How the build's steps went, the base's aside, stage after stage; engines tell of them as it comes.
    package var outcome: [BuildStep] {
        if builder != .buildkit { return sequence.entries.filter(\.makesLayer).map(\.step) }
        var stages: [String] = []
        for item in went where !stages.contains(item.stage) { stages.append(item.stage) }
        return stages.flatMap { stage in went.filter { $0.stage == stage }.map(\.step).sorted { $0.number < $1.number } }
    }

    /// How the steps of the Dockerfile's last stage went, which has so many that make layers; nothing where it cannot be told which stage
    /// that was.
    package func lastStage(layers: Int) -> [BuildStep] {
        if builder != .buildkit { return sequence.lastStage(layers: layers) }
        let stages = Dictionary(grouping: went, by: \.stage).filter { $0.value.allSatisfy { $0.step.count == layers + 1 } }
        guard let only = stages.first, stages.count == 1 else { return [] }
        let steps = only.value.map(\.step).sorted { $0.number < $1.number }
        guard steps.enumerated().allSatisfy({ $0.element.number == $0.offset + 2 }) else { return [] }
        return steps
    }

    private mutating func keep(_ line: String) {
        lines.append(line)
        if lines.count > 400 { lines.removeFirst(200) }
    }

    /// `[stage-0 2/5] RUN …`
    private static func step(_ text: Substring) -> Step? {
        guard let close = text.firstIndex(of: "]") else { return nil }
        let place = text[text.index(after: text.startIndex)..<close].split(separator: " ")
        let numbers = (place.last ?? "").split(separator: "/")
        guard numbers.count == 2, let number = Int(numbers[0]), let count = Int(numbers[1]) else { return nil }
        return Step(
            number: number, count: count, instruction: text[text.index(after: close)...].drop { $0 == " " }.description,
            stage: place.count > 1 ? String(place[0]) : "")
    }

    /// The status of the step that failed, if the builder tells.
    package var exitCode: String? {
        let marks = ["exit code: ", "returned a non-zero code: ", "while running runtime: exit status "]
        return lines.suffix(60).last { line in marks.contains { line.contains($0) } }?.split(separator: " ").last.map(String.init)
    }

    /// Why a build failed. The recipe is to blame when a step of it returned an error, or when an engine that still
    /// answers refused the Dockerfile or gave up in a step.
    package func failure(status: Int32, engineAnswers: Bool, emulator: String? = nil) -> Failure {
        let step = failed ?? step
        let place = "step \(step.number)/\(step.count)"
        let end = lines.suffix(60)
        let known = FailureCatalogue.shared.explain(end)
        // What an emulator cannot do, the CPU could; where there is none, it is the recipe's own.
        if let known, known.class.owner != .recipe, emulator != nil || known.class.code != "emulator.failed" {
            return Failure(
                known.class.owner, code: known.class.code,
                message: "\(known.class.sentence) (\(place): \(step.instruction); \(known.line.prefix(200)))", tail: tail,
                reason: known.class.code, retry: known.class.retry)
        }
        let text = end.joined(separator: "\n")
        let refusals = [
            "dockerfile parse error", "unknown instruction", "failed to compute cache key", "unable to find user",
            "failed to load cache key: invalid response status",
        ]
        let isEnginesOwn = ["rpc error", "context canceled", "Cannot connect", "i/o timeout", "connection re", "toomanyrequests"].contains {
            text.contains($0)
        }
        let isRefused = refusals.contains { text.contains($0) } || engineAnswers && step.number > 0 && !isEnginesOwn
        guard exitCode != nil || isRefused else {
            return Failure(
                .infrastructure, code: "engine.failed",
                message: step.number == 0
                    ? "the engine gave up with status \(status) before the first step: \(tail.last ?? "it said nothing")"
                    : "the engine gave up with status \(status) in \(place): \(step.instruction)", tail: tail)
        }
        let reason = exitCode.map { "ended with status \($0)" } ?? "failed (\(tail.last ?? ""))"
        let sentence = known.map { ". \($0.class.sentence)" } ?? ""
        return Failure(
            .recipe, code: "build.step-failed", message: "\(place) \(reason): \(step.instruction)\(sentence)", tail: tail,
            reason: known?.class.code)
    }
}
