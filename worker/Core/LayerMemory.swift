package import FarmModel
import Synchronization
import SystemIO

/// What a worker knows of its engine's layers: which steps the builder is believed to have, what they took when they were run, and how fast
/// layers come. It may be wrong, since others may tidy the engine up; then a step is run, and it is right again.
package struct LayerMemory: Codable, Sendable, Hashable {
    package struct Step: Codable, Sendable, Hashable {
        package var usedAt: Timestamp
        /// 0 where it was never run here.
        package var seconds: Double
    }

    /// The engine that it speaks of.
    package private(set) var engine: String = ""
    package private(set) var steps: [String: Step] = [:]
    package var rates = LayerRates()
    /// Images that builds have left, by the engine's name for them.
    package private(set) var images: [String: Image]? = [:]

    /// What an image of an earlier build is worth.
    package struct Image: Codable, Sendable, Hashable {
        package var usedAt: Timestamp
        /// What its steps took.
        package var seconds: Double
        package var bytes: Int64
    }

    /// An image was built, or served a build.
    package mutating func left(_ image: String, seconds: Double, bytes: Int64, now: Timestamp) {
        var all = images ?? [:]
        all[image] = Image(usedAt: now, seconds: seconds, bytes: bytes)
        images = all
    }

    /// Images in the order in which they should go: by what their steps took, halved with each week without use, for a byte.
    package func leastWorth(_ names: [String], now: Timestamp) -> [String] {
        func worth(_ name: String) -> Double {
            guard let image = images?[name] else { return 0 }
            var worth = (image.seconds + 1) / Double(max(1, image.bytes))
            for _ in 0..<min(60, Int(max(0, now.seconds(since: image.usedAt)) / (7 * 86400))) { worth /= 2 }
            return worth
        }
        return names.map { ($0, worth($0), images?[$0]?.usedAt ?? Timestamp(seconds: 0)) }
            .sorted { ($0.1, $0.2, $0.0) < ($1.1, $1.2, $1.0) }.map(\.0)
    }

    /// Images are gone, and with them some of what the builder had, nobody knows what.
    package mutating func forget(_ names: [String]) {
        for name in names { images?[name] = nil }
        steps = [:]
    }

    /// Steps that are remembered: of some 400 recipes.
    private static let most = 8192

    /// What is believed to be there, for the farm.
    package var summary: LayerSummary { LayerSummary(steps.keys.compactMap(UInt64.init)) }

    package init() {}

    /// Another engine has none of what the last one had.
    package mutating func speaks(of engine: String) {
        guard engine != self.engine else { return }
        self.engine = engine
        (steps, images) = ([:], [:])
    }

    /// How many of a build's steps are there, from the first on.
    package func held(_ identities: [UInt64]) -> Int { identities.prefix { steps["\($0)"] != nil }.count }

    /// What a step took when it was run; `nil` where that is not known.
    package func seconds(_ identity: UInt64) -> Double? { steps["\(identity)"].flatMap { $0.seconds > 0 ? $0.seconds : nil } }

    /// A build has used these steps, which are there now.
    ///
    /// - Parameter seconds: of those that were run.
    package mutating func used(_ identities: some Collection<UInt64>, seconds: [UInt64: Double], now: Timestamp) {
        for identity in identities {
            let known = steps["\(identity)"]?.seconds ?? 0
            steps["\(identity)"] = Step(usedAt: now, seconds: seconds[identity] ?? known)
        }
        guard steps.count > LayerMemory.most else { return }
        let oldest = steps.sorted { $0.value.usedAt < $1.value.usedAt }.prefix(steps.count - LayerMemory.most * 3 / 4)
        for (name, _) in oldest { steps[name] = nil }
    }

    /// A step that was believed to be there was not, so nor is what was made upon it.
    package mutating func lost(_ identities: some Sequence<UInt64>) { for identity in identities { steps["\(identity)"] = nil } }
}

/// A worker's memory of layers in its home, shared by its attempts.
package final class LayerNotes: Sendable {
    private let path: String
    private struct State: Sendable {
        var memory: LayerMemory
        /// Of the memory as it is, once somebody has asked.
        var summary: LayerSummary?
    }

    private let state: Mutex<State>

    /// What cannot be read is begun anew: it is worth time and nothing else.
    package init(_ path: String) {
        self.path = path
        let known = try? CanonicalJSON.decode(LayerMemory.self, from: try Disk.read(path, limit: 16 << 20), source: path)
        state = Mutex(State(memory: known ?? LayerMemory()))
    }

    package var memory: LayerMemory { state.withLock(\.memory) }

    /// The memory's summary; contacts come often, and changes do not.
    package var summary: LayerSummary {
        state.withLock { state in
            let summary = state.summary ?? state.memory.summary
            state.summary = summary
            return summary
        }
    }

    package func change(_ body: (inout LayerMemory) -> Void) {
        let bytes = state.withLock { state -> [UInt8]? in
            let before = state.memory
            body(&state.memory)
            guard state.memory != before else { return nil }
            state.summary = nil
            return try? CanonicalJSON.encode(state.memory)
        }
        if let bytes { try? Disk.replace(path, with: bytes) }
    }
}
