import FarmModel

/// What builders say that carry out one instruction after the other.
///
/// Docker's classic one begins a step with `Step 2/5 : RUN …` and ends it with ` ---> 52805e7b2a9b`, before that says ` ---> Using cache`
/// if it had it; buildah says `STEP 2/5: RUN …` (with `[1/2] ` before it where there are several stages) and `--> Using cache …`, and nothing
/// of ends where it writes the image's name to a file: the next step has begun then, or `COMMIT …` comes.
struct SequenceOutput: Sendable {
    /// An instruction of a stage.
    struct Entry: Sendable {
        var stage: Int
        var step: BuildStep
        /// Whether it is one of those that make layers.
        var makesLayer: Bool
        var isDone = false
    }

    private(set) var entries: [Entry] = []
    /// The image that the last instruction left that was carried out.
    private(set) var image: String?
    private let isBuildah: Bool
    private let stages: Int
    private var stage = 0
    private var began = Timestamp(seconds: 0)
    private var last: BuildOutput.Step?

    /// - Parameter stages: of the Dockerfile: of others than its last nothing is told.
    init(isBuildah: Bool, stages: Int) {
        self.isBuildah = isBuildah
        self.stages = stages
    }

    /// What a line is.
    enum Event {
        case begins(BuildOutput.Step)
        /// The builder's own words.
        case mark
        /// What a step says.
        case said
    }

    mutating func note(_ line: String, now: Timestamp) -> Event {
        if let step = SequenceOutput.step(line), isNext(step) {
            last = step
            begin(step, now: now)
            return .begins(step)
        }
        if isBuildah, line.hasPrefix("COMMIT") {
            end(nil)
            return .mark
        }
        if let last = entries.indices.last, !entries[last].isDone { entries[last].step.seconds = now.seconds(since: began) }
        let text = line.drop { $0 == " " }
        guard let arrow = ["---> ", "--> "].first(where: { text.hasPrefix($0) }) else { return .said }
        let rest = text.dropFirst(arrow.count)
        if rest.hasPrefix("Running in ") { return .mark }
        if rest.hasPrefix("Using cache") {
            if let last = entries.indices.last { (entries[last].step.origin, entries[last].step.seconds) = (.worker, 0) }
            let name = rest.dropFirst("Using cache".count).drop { $0 == " " }
            if SequenceOutput.isIdentifier(name) { end(name) }
            return .mark
        }
        guard SequenceOutput.isIdentifier(rest) else { return .said }
        end(rest)
        return .mark
    }

    /// Whether a step can come now; what steps print may look like one.
    private func isNext(_ step: BuildOutput.Step) -> Bool {
        let isBase = step.instruction.prefix(5).uppercased() == "FROM "
        guard let last else { return step.number == 1 || isBase }
        if step.number == last.number + 1, step.count == last.count { return isBase ? !isBuildah : true }
        // buildah counts each stage by itself.
        return isBuildah && last.number == last.count && step.number == 1 && isBase
    }

    private mutating func begin(_ step: BuildOutput.Step, now: Timestamp) {
        // What comes next comes after what went well.
        if isBuildah, stage > 0 { end(nil) }
        began = now
        let word = step.instruction.prefix { $0 != " " }.uppercased()
        // A base is none of the steps.
        if word == "FROM" { return stage += 1 }
        guard entries.count < BuildStep.most else { return }
        let rest = step.instruction.dropFirst(word.count).drop { $0 == " " }
        entries.append(
            Entry(
                stage: stage,
                step: BuildStep(number: step.number, count: step.count, instruction: step.instruction, seconds: 0, origin: .failed),
                makesLayer: BuildStep.isMade(of: word, rest)))
    }

    private mutating func end(_ identifier: Substring?) {
        guard let last = entries.indices.last, !entries[last].isDone else { return }
        entries[last].isDone = true
        if entries[last].step.origin == .failed { entries[last].step.origin = .run }
        image = identifier.map(String.init) ?? image
    }

    private static func isIdentifier(_ text: Substring) -> Bool {
        text.utf8.count >= 10 && text.utf8.count <= 71 && (text.hasPrefix("sha256:") ? text.dropFirst(7) : text).allSatisfy(\.isHexDigit)
    }

    /// `Step 2/5 : RUN …` or `[1/2] STEP 2/5: RUN …`
    private static func step(_ line: String) -> BuildOutput.Step? {
        var text = line[...]
        if text.hasPrefix("["), let close = text.firstIndex(of: "]") { text = text[text.index(after: close)...].drop { $0 == " " } }
        guard text.hasPrefix("Step ") || text.hasPrefix("STEP "), let colon = text.firstIndex(of: ":") else { return nil }
        let numbers = text[..<colon].dropFirst(5).filter { $0 != " " }.split(separator: "/")
        guard numbers.count == 2, let number = Int(numbers[0]), let count = Int(numbers[1]) else { return nil }
        return BuildOutput.Step(
            number: number, count: count, instruction: text[text.index(after: colon)...].drop { $0 == " " }.description)
    }

    /// How the last stage's steps went, which are so many; those that were never begun are told as failed.
    func lastStage(layers: Int) -> [BuildStep] {
        var steps = entries.filter { $0.stage == stage && $0.makesLayer }.map(\.step)
        guard steps.count <= layers, stage == stages else { return [] }
        while steps.count < layers {
            steps.append(BuildStep(number: 0, count: 0, instruction: "", seconds: 0, origin: .failed))
        }
        return steps
    }

    /// Each instruction of the last stage that was carried out, and whether it makes a layer.
    var lastStageEntries: [Bool] { stage != stages ? [] : entries.filter { $0.stage == stage && $0.isDone }.map(\.makesLayer) }
}
