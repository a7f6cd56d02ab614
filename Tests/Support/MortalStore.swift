package import FarmModel
package import ObjectStorage
import Synchronization

/// A clock that tests turn.
package final class TestClock: Sendable {
    private let time = Mutex(Timestamp(seconds: 1_800_000_000))

    package init() {}

    package var read: @Sendable () -> Timestamp { { self.time.withLock { $0 } } }

    package func pass(hours: Double) { time.withLock { $0 = $0.adding(seconds: hours * 3600) } }
}

/// A bucket as one process sees it: others get between any two of its steps, time passes, and it may be killed at any of them.
package final class MortalStore: ObjectStore {
    package let name: String
    private let bucket: any ObjectStore
    private let clock: TestClock
    private let state: Mutex<(generator: SeededGenerator, left: Int)>
    private let longestStep: Double

    /// - Parameters:
    ///   - steps: after so many it throws `test.killed`.
    ///   - longestStep: in hours.
    package init(_ bucket: any ObjectStore, _ clock: TestClock, seed: UInt64, killedAfter steps: Int?, longestStep: Double) {
        (self.bucket, self.clock, self.longestStep, name) = (bucket, clock, longestStep, bucket.name)
        state = Mutex((SeededGenerator(seed), steps ?? .max))
    }

    private func step() async throws {
        let (yields, hours, isKilled) = state.withLock { state in
            state.left -= 1
            return (Int(state.generator.next() % 4), Double(state.generator.next() % 1000) / 1000 * longestStep, state.left < 0)
        }
        for _ in 0..<yields { await Task.yield() }
        if isKilled { throw FarmError("test.killed", .unavailable, "killed") }
        clock.pass(hours: hours)
    }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try await step()
        return try await bucket.head(key)
    }
    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try await step()
        return try await bucket.get(key, range: range, limit: limit)
    }
    package func put(_ key: String, _ source: ObjectSource) async throws {
        try await step()
        try await bucket.put(key, source)
    }
    package func delete(_ key: String) async throws {
        try await step()
        try await bucket.delete(key)
    }
    package func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try await step()
        return try await bucket.write(key, source, facts)
    }
    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        try await step()
        try await bucket.read(key, range: range, tag: tag, sink: sink)
    }
    package func md5(of object: ObjectInfo) async throws -> [UInt8]? {
        try await step()
        return try await bucket.md5(of: object)
    }
    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        try await step()
        return try await bucket.list(prefix: prefix, after: after)
    }
    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
