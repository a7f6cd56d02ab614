import BucketSync
import FarmModel
import Foundation
import ObjectStorage
import Support
import Testing

/// Seeded histories: objects change, runs are killed at any step, listings and tags of both sides are their own; in the end one whole run makes
/// the destination hold what the source holds, and the next finds nothing to do.
@Suite struct SyncModelTests {
    private static let seeds = UInt64(ProcessInfo.processInfo.environment["SCIFERRY_SYNC_SEEDS"] ?? "") ?? 60

    @Test func everyHistoryEndsInTheSourcesContent() async throws {
        for seed in 0..<SyncModelTests.seeds { #expect(try await history(seed) == [], "seed \(seed)") }
    }

    /// What is wrong in the end.
    private func history(_ seed: UInt64) async throws -> [String] {
        var generator = SeededGenerator(seed)
        let scratch = try Scratch()
        let stores: [any ObjectStore] = [MemoryStore(name: "memory:a"), MemoryStore(name: "memory:b")]
        let isDirectory = generator.next() % 2 == 0
        let source: any ObjectStore = isDirectory ? DirectoryStore("\(scratch.path)/source") : stores[0]
        let destination = stores[1]
        try await source.put("anchor", [0])
        for _ in 0..<8 {
            for _ in 0..<Int(generator.next() % 6) { try await change(generator.next() % 4 == 0 ? destination : source, &generator) }
            let clock = TestClock()
            var bench = SyncBench(
                MortalStore(source, clock, seed: generator.next(), killedAfter: Int(generator.next() % 40), longestStep: 0),
                MortalStore(destination, clock, seed: generator.next(), killedAfter: Int(generator.next() % 60), longestStep: 0))
            try bench.remember(in: "\(scratch.path)/memory")
            let deletion = SyncOptions.Deletion.allCases[Int(generator.next() % 3)]
            _ = try? await bench.run { ($0.deletes, $0.transfers) = (deletion, 2) }
            bench.memory?.release()
        }
        var bench = SyncBench(source, destination)
        try bench.remember(in: "\(scratch.path)/memory")
        let report = try await bench.run { $0.deletes = .after }
        var wrong: [String] = []
        if report.failed != 0 { wrong.append("\(report.failed) objects failed") }
        let (here, there) = (try await bench.here, try await bench.there)
        if here != there { wrong.append("the sides differ: \(here) and \(there)") }
        try bench.remember(in: "\(scratch.path)/memory")
        let again = try await bench.run { $0.deletes = .after }
        if again.copied != 0 || again.deleted != 0 { wrong.append("the next run copied \(again.copied) and deleted \(again.deleted)") }
        return wrong
    }

    private func change(_ store: any ObjectStore, _ generator: inout SeededGenerator) async throws {
        let key = ["a", "a-b", "ab/c", "b/d/e", "z"][Int(generator.next() % 5)]
        // Few contents, so that old ones come back.
        if generator.next() % 4 == 0 { try await store.delete(key) } else { try await store.put(key, [UInt8(generator.next() % 3)]) }
    }
}
