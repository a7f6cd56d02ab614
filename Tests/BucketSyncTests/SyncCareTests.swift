import BucketSync
import FarmModel
import Foundation
import ObjectStorage
import Support
import Synchronization
import SystemIO
import Testing

/// What a run must not lose, whatever it is given.
@Suite struct SyncCareTests {
    /// A second try does not put what the first one wrote over the backup of what was there before.
    @Test func backupsKeepWhatWasThereBefore() async throws {
        var bench = SyncBench()
        try await bench.fill(["a": "new", "b": "new"], ["a": "old", "b": "old", "c": "gone"])
        bench.destination = LateStore(bench.destination, failing: ["a": 3])
        let backup = MemoryStore(name: "memory:backup")
        bench.backup = backup
        let report = try await bench.run { ($0.rounds, $0.tries, $0.deletes) = (3, 2, .after) }
        #expect(report.failed == 0 && report.copied == 2 && report.deleted == 1)
        #expect(try await bench.there == ["a": "new", "b": "new"])
        #expect(try await SyncBench.content(backup) == ["a": "old", "b": "old", "c": "gone"])
    }

    @Test func backupsLieElsewhere() async throws {
        let scratch = try Scratch()
        let (a, b) = (DirectoryStore("\(scratch.path)/a"), DirectoryStore("\(scratch.path)/b"))
        try await a.put("x", [1])
        for place in ["a", "b", "a/old", "b/old"] {
            var bench = SyncBench(a, b)
            bench.backup = DirectoryStore("\(scratch.path)/\(place)")
            #expect(await code(of: { try await bench.run { $0.suffix = ".bak" } }) == "sync.overlap", "\(place)")
        }
        var bench = SyncBench(a, b)
        bench.backup = DirectoryStore("\(scratch.path)/b/old")
        var rules = ObjectFilter.Options()
        rules.exclude = ["/old/**"]
        let filter = try ObjectFilter(rules)
        try await bench.run { $0.filter = filter }
        #expect(try await b.all().map(\.key) == ["x"])
    }

    /// Names that programs use for what they are about to write are names like others below the root; and where one is not, that is said.
    @Test func nothingIsPassedOverInSilence() async throws {
        let scratch = try Scratch()
        let bench = SyncBench(
            OpenStore([".staging/x": "1", "a/.sciferry-staging/x": "2", ".sciferry-staging/x": "3"]), DirectoryStore(scratch.path))
        let events = SyncBench.Events()
        let report = try await bench.run(events: events)
        #expect(report.copied == 2 && events.errors == [".sciferry-staging/x storage.key"])
        #expect(try await bench.destination.all().map(\.key) == [".staging/x", "a/.sciferry-staging/x"])
        try await bench.destination.sweep()
        #expect(try await bench.destination.all().count == 2)
    }

    /// A pipe without a writer would be waited for until somebody gives up.
    @Test(.timeLimit(.minutes(1))) func pipesAreNoObjects() async throws {
        let scratch = try Scratch()
        let bench = SyncBench(DirectoryStore(scratch.path))
        try await bench.source.put("a", [1])
        #expect(mkfifo("\(scratch.path)/pipe", 0o600) == 0)
        #expect(try await bench.run().copied == 1)
        #expect(try await bench.source.head("pipe") == nil)
        #expect(await code(of: { _ = try await bench.source.get("pipe") }) == "storage.absent")
    }

    @Test func directoriesOfBucketsComeByThemselves() async throws {
        let scratch = try Scratch()
        let bench = SyncBench(OpenStore(["d/": "", "d/x": "1"]), DirectoryStore(scratch.path))
        let events = SyncBench.Events()
        let report = try await bench.run({ $0.deletes = .after }, events: events)
        #expect(report.copied == 1 && report.failed == 0, "\(events.errors)")
        #expect(try await BucketCheck(bench.source, bench.destination).run().isSame)
    }

    /// What had failed when a limit ended the run is told all the same.
    @Test func failuresAreToldAtALimit() async throws {
        var bench = SyncBench()
        try await bench.fill(Dictionary(uniqueKeysWithValues: (0..<20).map { ("k\($0)", String(repeating: "x", count: 100)) }))
        bench.source = BrokenStore(bench.source, reading: ["k0", "k1", "k2"])
        let events = SyncBench.Events()
        let report = try await bench.run({ ($0.mostBytes, $0.cutoff, $0.rounds, $0.transfers) = (1_700, .soft, 3, 1) }, events: events)
        #expect(report.limit == "max-transfer" && report.failed == 3)
        #expect(events.errors.sorted() == ["k0 test.broken", "k1 test.broken", "k2 test.broken"])
        #expect(report.examined == 20)
    }
}

/// Writes, and then says that it has failed, so many times for a key.
final class LateStore: ObjectStore {
    private let bucket: any ObjectStore
    private let left: Mutex<[String: Int]>
    var name: String { bucket.name }

    init(_ bucket: any ObjectStore, failing: [String: Int]) {
        self.bucket = bucket
        left = Mutex(failing)
    }

    func head(_ key: String) async throws -> ObjectInfo? { try await bucket.head(key) }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try await bucket.get(key, range: range, limit: limit)
    }
    func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        try await bucket.read(key, range: range, tag: tag, sink: sink)
    }
    func put(_ key: String, _ source: ObjectSource) async throws { _ = try await write(key, source, ObjectFacts()) }
    func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        let tag = try await bucket.write(key, source, facts)
        let fails = left.withLock { left in
            guard let count = left[key], count > 0 else { return false }
            left[key] = count - 1
            return true
        }
        if fails { throw FarmError("test.late", .unavailable, "its answer was lost") }
        return tag
    }
    func delete(_ key: String) async throws { try await bucket.delete(key) }
    func list(prefix: String, after: String?) async throws -> ObjectPage { try await bucket.list(prefix: prefix, after: after) }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
