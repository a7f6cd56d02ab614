import BucketSync
import FarmModel
import ObjectStorage
import Support
import Synchronization
import SystemIO
import Testing

/// Two buckets and what was told of a run between them.
struct SyncBench {
    var source: any ObjectStore
    var destination: any ObjectStore
    var backup: (any ObjectStore)?
    var memory: SyncMemory?

    init(
        _ source: any ObjectStore = MemoryStore(name: "memory:source"),
        _ destination: any ObjectStore = MemoryStore(name: "memory:destination")
    ) {
        self.source = source
        self.destination = destination
    }

    final class Events: Sendable {
        private let found = Mutex<[SyncEvent]>([])
        func add(_ event: SyncEvent) { found.withLock { $0.append(event) } }
        var all: [SyncEvent] { found.withLock { $0 } }
        /// The combined report.
        var signs: [String] {
            all.compactMap { if case .found(let key, let sign) = $0 { "\(sign.rawValue) \(key)" } else { nil } }.sorted()
        }
        var errors: [String] {
            all.compactMap { if case .failed(let key, let error) = $0 { "\(key) \(error.code.rawValue)" } else { nil } }
        }
    }

    /// What the next run knows of earlier ones, as another process would find it.
    mutating func remember(in directory: String) throws {
        memory?.release()
        memory = try SyncMemory(directory: directory, source: "a", destination: "b")
    }

    @discardableResult
    func run(_ build: (inout SyncOptions) throws -> Void = { _ in }, events: Events = Events()) async throws -> SyncReport {
        var options = SyncOptions()
        (options.rounds, options.tries) = (1, 1)
        try build(&options)
        return try await BucketSync(from: source, to: destination, backup: backup, options: options, memory: memory) { events.add($0) }
            .run()
    }

    static func content(_ store: any ObjectStore) async throws -> [String: String] {
        var found: [String: String] = [:]
        for object in try await store.all() { found[object.key] = String(decoding: try await store.get(object.key), as: UTF8.self) }
        return found
    }

    static func fill(_ store: any ObjectStore, _ content: [String: String]) async throws {
        for (key, text) in content { try await store.put(key, Array(text.utf8)) }
    }

    func fill(_ here: [String: String], _ there: [String: String] = [:]) async throws {
        try await SyncBench.fill(source, here)
        try await SyncBench.fill(destination, there)
    }

    var here: [String: String] { get async throws { try await SyncBench.content(source) } }
    var there: [String: String] { get async throws { try await SyncBench.content(destination) } }
}

/// rclone's behaviours, by the names of its own tests (docs/sync.md has the list).
@Suite struct BucketSyncTests {
    @Test func copyBringsWhatLacksAndRemovesNothing() async throws {
        let bench = SyncBench()
        try await bench.fill(["a": "1", "d/b": "22", "same": "s"], ["extra": "e", "d/b": "xx", "same": "s"])
        let events = SyncBench.Events()
        let report = try await bench.run(events: events)
        #expect(try await bench.there == ["a": "1", "d/b": "22", "same": "s", "extra": "e"])
        #expect(report.copied == 2 && report.copiedBytes == 3 && report.same == 1 && report.deleted == 0 && report.examined == 4)
        #expect(events.signs == ["* d/b", "+ a", "- extra", "= same"])
        let again = try await bench.run()
        #expect(again.copied == 0 && again.same == 3)
    }

    @Test func aDryRunSaysWhatItWouldDo() async throws {
        let bench = SyncBench()
        try await bench.fill(["a": "1", "b": "2"], ["b": "x", "c": "3"])
        let events = SyncBench.Events()
        let report = try await bench.run({ ($0.dryRun, $0.deletes) = (true, .after) }, events: events)
        #expect(events.signs == ["* b", "+ a", "- c"])
        #expect(report.copied == 2 && report.deleted == 1 && report.dryRun)
        #expect(try await bench.there == ["b": "x", "c": "3"])
    }

    @Test(arguments: SyncOptions.Deletion.allCases) func whatTheSourceLacksGoes(when: SyncOptions.Deletion) async throws {
        let bench = SyncBench()
        try await bench.fill(["a": "1"], ["a": "1", "b": "2", "d/c": "3"])
        let report = try await bench.run { $0.deletes = when }
        #expect(try await bench.there == ["a": "1"])
        #expect(report.deleted == 2 && report.deletedBytes == 2)
    }

    /// After copying nothing goes if anything failed, unless that is wished.
    @Test func nothingGoesAfterAnError() async throws {
        var bench = SyncBench()
        try await bench.fill(["good": "1", "bad": "2"], ["extra": "e"])
        bench.source = BrokenStore(bench.source, reading: ["bad"])
        let events = SyncBench.Events()
        let report = try await bench.run({ $0.deletes = .after }, events: events)
        #expect(report.failed == 1 && report.copied == 1 && report.deleted == 0)
        #expect(events.errors == ["bad test.broken"])
        #expect(try await bench.there == ["good": "1", "extra": "e"])
        try await bench.run { ($0.deletes, $0.ignoresErrors) = (.after, true) }
        #expect(try await bench.there == ["good": "1"])
    }

    @Test func deletionsHaveCaps() async throws {
        let bench = SyncBench()
        try await bench.fill(["a": "1"], ["b": "22", "c": "333", "d": "4"])
        let events = SyncBench.Events()
        for build: @Sendable (inout SyncOptions) -> Void in [{ $0.mostDeleted = 2 }, { $0.mostDeletedBytes = 5 }] {
            let report = try await bench.run(
                {
                    $0.deletes = .after
                    build(&$0)
                }, events: events)
            #expect(report.failed == 1 && report.deleted == 0)
        }
        #expect(events.errors == [" sync.max-delete", " sync.max-delete"])
        #expect(try await bench.there.count == 4)
        try await bench.run { ($0.deletes, $0.mostDeleted, $0.mostDeletedBytes) = (.before, 3, 6) }
        #expect(try await bench.there == ["a": "1"])
    }

    @Test func anEmptySourceRemovesNothing() async throws {
        let bench = SyncBench()
        try await bench.fill([:], ["a": "1"])
        #expect(await code(of: { try await bench.run { $0.deletes = .after } }) == "sync.empty")
        #expect(try await bench.there == ["a": "1"])
    }

    /// Arguments in the wrong order do not empty a farm's bucket.
    @Test func aFarmIsNotSyncedOver() async throws {
        let bench = SyncBench()
        try await bench.fill(["a": "1"], ["sciferry.json": "{}", "packs/x": "2"])
        let error = await #expect(throws: FarmError.self) { try await bench.run { $0.deletes = .before } }
        #expect(error?.code == "store.foreign")
        #expect(try await bench.there == ["sciferry.json": "{}", "packs/x": "2"])
    }

    /// Each side knows only when its own copy was written.
    @Test func agesAndDeletionsDoNotMix() async throws {
        let bench = SyncBench()
        try await bench.fill(["a": "1"], ["a": "1", "b": "2"])
        var rules = ObjectFilter.Options()
        rules.notBefore = Timestamp(seconds: 5)
        let filter = try ObjectFilter(rules)
        let error = await #expect(throws: FarmError.self) {
            try await bench.run {
                $0.filter = filter
                $0.deletes = .after
            }
        }
        #expect(error?.code == "sync.ages")
        #expect(try await bench.there == ["a": "1", "b": "2"])
    }

    @Test func filtersHoldForBothSides() async throws {
        let bench = SyncBench()
        try await bench.fill(["keep.txt": "1", "new.jpg": "2"], ["old.jpg": "3", "old.txt": "4"])
        var rules = ObjectFilter.Options()
        rules.exclude = ["*.jpg"]
        let filter = try ObjectFilter(rules)
        try await bench.run { ($0.filter, $0.deletes) = (filter, .after) }
        #expect(try await bench.there == ["keep.txt": "1", "old.jpg": "3"])
        try await bench.run { ($0.filter, $0.deletes, $0.deletesExcluded) = (filter, .after, true) }
        #expect(try await bench.there == ["keep.txt": "1"])
    }

    @Test func comparisonsSeeWhatTheySay() async throws {
        for (comparison, copied) in [(Comparison.checksum, 2), (.size, 1), (.time, 2)] {
            let bench = SyncBench()
            try await bench.fill(["size": "12", "content": "ab"], ["size": "1", "content": "xy"])
            #expect(try await bench.run { $0.comparison = comparison }.copied == copied, "\(comparison)")
        }
    }

    @Test func settingsLeaveAlone() async throws {
        let existing = SyncBench()
        try await existing.fill(["a": "1", "b": "2"], ["a": "x"])
        let report = try await existing.run { $0.ignoresExisting = true }
        #expect(try await existing.there == ["a": "x", "b": "2"])
        #expect(report.left == 1)
        let times = SyncBench()
        try await times.fill(["a": "1"], ["a": "1"])
        #expect(try await times.run { $0.ignoresTimes = true }.copied == 1)
        let immutable = SyncBench()
        try await immutable.fill(["a": "1", "b": "2"], ["a": "x"])
        let events = SyncBench.Events()
        #expect(try await immutable.run({ $0.isImmutable = true }, events: events).failed == 1)
        #expect(events.errors == ["a sync.immutable"])
        #expect(try await immutable.there == ["a": "x", "b": "2"])
    }

    @Test func newerOnesAreLeftAlone() async throws {
        let scratch = try Scratch()
        let bench = SyncBench(DirectoryStore("\(scratch.path)/a"), DirectoryStore("\(scratch.path)/b"))
        try await bench.fill(["old": "new one", "new": "old one"], ["old": "x", "new": "y"])
        try Disk.setFacts("\(scratch.path)/a/new", mode: 0o644, modified: Timestamp(seconds: 1000))
        try Disk.setFacts("\(scratch.path)/b/old", mode: 0o644, modified: Timestamp(seconds: 1000))
        #expect(try await bench.run { $0.updatesOnly = true }.left == 1)
        #expect(try await bench.there == ["old": "new one", "new": "y"])
    }

    @Test func backupsTakeWhatIsReplacedAndRemoved() async throws {
        var bench = SyncBench()
        let backup = MemoryStore(name: "memory:backup")
        bench.backup = backup
        try await bench.fill(["a": "new", "same": "s"], ["a": "old", "gone": "g", "same": "s"])
        try await bench.run { ($0.deletes, $0.suffix) = (.after, ".bak") }
        #expect(try await bench.there == ["a": "new", "same": "s"])
        #expect(try await SyncBench.content(backup) == ["a.bak": "old", "gone.bak": "g"])
        // What cannot be backed up stays.
        try await bench.fill(["a": "newer"], ["gone": "g"])
        bench.backup = BrokenStore(backup, writing: true)
        let report = try await bench.run { $0.deletes = .after }
        #expect(report.failed > 0)
        #expect(try await bench.there == ["a": "new", "same": "s", "gone": "g"])
    }

    @Test func limitsEndARun() async throws {
        let bench = SyncBench()
        try await bench.fill(
            Dictionary(uniqueKeysWithValues: (0..<40).map { ("k\($0)", String(repeating: "x", count: 100)) }), ["extra": "e"])
        for cutoff in SyncOptions.Cutoff.allCases {
            let report = try await bench.run { ($0.mostBytes, $0.cutoff, $0.transfers, $0.deletes) = (950, cutoff, 1, .after) }
            #expect(report.limit == "max-transfer" && report.deleted == 0)
            if cutoff == .cautious { #expect(report.copiedBytes <= 950) }
            for key in try await bench.there.keys where key != "extra" { try await bench.destination.delete(key) }
        }
        #expect(try await bench.run { $0.mostSeconds = 0 }.limit == "max-duration")
        #expect(try await bench.run().copied == 40)
    }

    @Test func runsIntoThemselvesAreRefused() async throws {
        let scratch = try Scratch()
        let (outer, inner) = (DirectoryStore(scratch.path), DirectoryStore("\(scratch.path)/in"))
        try await outer.put("a", [1])
        try await inner.put("b", [2])
        #expect(await code(of: { try await SyncBench(outer, outer).run() }) == "sync.overlap")
        #expect(await code(of: { try await SyncBench(outer, inner).run() }) == "sync.overlap")
        var rules = ObjectFilter.Options()
        rules.exclude = ["/in/**"]
        let filter = try ObjectFilter(rules)
        try await SyncBench(outer, inner).run { $0.filter = filter }
        #expect(try await inner.all().map(\.key) == ["a", "b"])
    }

    /// Objects above a megabyte go from thread to thread, and keep their time.
    @Test func largeObjectsStream() async throws {
        let scratch = try Scratch()
        let bench = SyncBench(DirectoryStore("\(scratch.path)/a"), DirectoryStore("\(scratch.path)/b"))
        var generator = SeededGenerator(4)
        let sizes = [0, 1, 2 << 20, (2 << 20) + 1, 5_000_001]
        for size in sizes { try await bench.source.put("s\(size)", generator.bytes(size)) }
        try Disk.setFacts("\(scratch.path)/a/s5000001", mode: 0o644, modified: Timestamp(seconds: 1_000_000))
        #expect(try await bench.run().copied == sizes.count)
        for size in sizes { #expect(try await bench.destination.get("s\(size)") == bench.source.get("s\(size)")) }
        #expect(try await bench.destination.head("s5000001")?.modified == Timestamp(seconds: 1_000_000))
        #expect(try await bench.run { $0.comparison = .time }.copied == 0)
    }

    /// What two stores' tags do not tell is remembered, so that nothing is read again; what changes is seen though its size and time stay.
    @Test func whatWasComparedIsRemembered() async throws {
        let scratch = try Scratch()
        var bench = SyncBench(CountingStore(DirectoryStore("\(scratch.path)/a")), CountingStore(DirectoryStore("\(scratch.path)/b")))
        func reads() throws -> Int {
            try #require(bench.source as? CountingStore).reads + #require(bench.destination as? CountingStore).reads
        }
        try bench.remember(in: "\(scratch.path)/memory")
        try await bench.fill(["x": "one", "y": "two"])
        #expect(try await bench.run().copied == 2)
        try bench.remember(in: "\(scratch.path)/memory")
        let before = try reads()
        #expect(try await bench.run().same == 2)
        #expect(try reads() == before, "nothing was read to know that nothing changed")
        let time = try #require(Disk.entry("\(scratch.path)/a/x")?.modified)
        try Disk.replace("\(scratch.path)/a/x", with: Array("ONE".utf8))
        try Disk.setFacts("\(scratch.path)/a/x", mode: 0o644, modified: time)
        try bench.remember(in: "\(scratch.path)/memory")
        #expect(try await bench.run().copied == 1)
        #expect(try await bench.there == ["x": "ONE", "y": "two"])
    }

    /// Somebody writes over what was just written: this run's memory must not hide that from the next one.
    @Test func aDestinationThatChangesIsSeenByTheNextRun() async throws {
        let scratch = try Scratch()
        let (here, there) = (DirectoryStore("\(scratch.path)/a"), DirectoryStore("\(scratch.path)/b"))
        try await SyncBench.fill(here, ["x": "one", "y": "two"])
        var bench = SyncBench(here, MeddledStore(there, key: "x", bytes: Array("ONE".utf8)))
        try bench.remember(in: "\(scratch.path)/memory")
        #expect(try await bench.run().copied == 2)
        #expect(try await SyncBench.content(there) == ["x": "ONE", "y": "two"])
        bench.memory?.release()
        bench.destination = there
        try bench.remember(in: "\(scratch.path)/memory")
        let report = try await bench.run()
        #expect(report.copied == 1 && report.same == 1)
        #expect(try await bench.there == ["x": "one", "y": "two"])
    }

    @Test func oneRunAtATimeForAPair() throws {
        let scratch = try Scratch()
        let first = try SyncMemory(directory: scratch.path, source: "a", destination: "b")
        let error = #expect(throws: FarmError.self) { try SyncMemory(directory: scratch.path, source: "a", destination: "b") }
        #expect(error?.code == "home.locked")
        #expect(throws: Never.self) { try SyncMemory(directory: scratch.path, source: "b", destination: "a") }
        withExtendedLifetime(first) {}
    }

    @Test func keysThatADirectoryCannotHoldAreNamed() async throws {
        let scratch = try Scratch()
        let bench = SyncBench(OpenStore(["a/../b": "1", "plain": "2", "x//y": "3", "dir/": "4"]), DirectoryStore("\(scratch.path)/b"))
        let events = SyncBench.Events()
        let report = try await bench.run(events: events)
        #expect(report.failed == 3 && report.copied == 1)
        #expect(events.errors.sorted() == ["a/../b storage.key", "dir/ storage.key", "x//y storage.key"])
    }
}

/// Forbids to read some objects, or to write any.
final class BrokenStore: ObjectStore {
    private let bucket: any ObjectStore
    private let unreadable: Set<String>
    private let isUnwritable: Bool
    var name: String { bucket.name }

    init(_ bucket: any ObjectStore, reading: Set<String> = [], writing: Bool = false) {
        (self.bucket, unreadable, isUnwritable) = (bucket, reading, writing)
    }

    private var broken: FarmError { FarmError("test.broken", .fault, "broken") }

    func head(_ key: String) async throws -> ObjectInfo? { try await bucket.head(key) }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        if unreadable.contains(key) { throw broken }
        return try await bucket.get(key, range: range, limit: limit)
    }
    func put(_ key: String, _ source: ObjectSource) async throws {
        if isUnwritable { throw broken }
        try await bucket.put(key, source)
    }
    func delete(_ key: String) async throws { try await bucket.delete(key) }
    func list(prefix: String, after: String?) async throws -> ObjectPage { try await bucket.list(prefix: prefix, after: after) }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}

/// A directory in which somebody else writes over an object right after us.
struct MeddledStore: ObjectStore {
    private let bucket: DirectoryStore
    private let key: String
    private let bytes: [UInt8]
    var name: String { bucket.name }

    init(_ bucket: DirectoryStore, key: String, bytes: [UInt8]) { (self.bucket, self.key, self.bytes) = (bucket, key, bytes) }

    func head(_ key: String) async throws -> ObjectInfo? { try await bucket.head(key) }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try await bucket.get(key, range: range, limit: limit)
    }
    func put(_ key: String, _ source: ObjectSource) async throws { _ = try await write(key, source, ObjectFacts()) }
    func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        let tag = try await bucket.write(key, source, facts)
        if key == self.key { try await bucket.put(key, bytes) }
        return tag
    }
    func delete(_ key: String) async throws { try await bucket.delete(key) }
    func list(prefix: String, after: String?) async throws -> ObjectPage { try await bucket.list(prefix: prefix, after: after) }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}

/// Counts how often an object's bytes are read.
final class CountingStore: ObjectStore {
    private let bucket: any ObjectStore
    private let count = Mutex(0)
    var name: String { bucket.name }
    var reads: Int { count.withLock { $0 } }

    init(_ bucket: any ObjectStore) { self.bucket = bucket }

    func head(_ key: String) async throws -> ObjectInfo? { try await bucket.head(key) }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        count.withLock { $0 += 1 }
        return try await bucket.get(key, range: range, limit: limit)
    }
    func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        count.withLock { $0 += 1 }
        try await bucket.read(key, range: range, tag: tag, sink: sink)
    }
    func md5(of object: ObjectInfo) async throws -> [UInt8]? {
        count.withLock { $0 += 1 }
        return try await bucket.md5(of: object)
    }
    func put(_ key: String, _ source: ObjectSource) async throws { try await bucket.put(key, source) }
    func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try await bucket.write(key, source, facts)
    }
    func delete(_ key: String) async throws { try await bucket.delete(key) }
    func list(prefix: String, after: String?) async throws -> ObjectPage { try await bucket.list(prefix: prefix, after: after) }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}

/// A bucket whose keys may be anything, as other people's are.
struct OpenStore: ObjectStore {
    private let objects: [String: String]
    var name: String { "open:" }

    init(_ objects: [String: String]) { self.objects = objects }

    func head(_ key: String) async throws -> ObjectInfo? { objects[key].map { ObjectInfo(key: key, size: Int64($0.utf8.count)) } }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] { Array((objects[key] ?? "").utf8) }
    func put(_ key: String, _ source: ObjectSource) async throws {}
    func delete(_ key: String) async throws {}
    func list(prefix: String, after: String?) async throws -> ObjectPage {
        ObjectPage(objects: objects.map { ObjectInfo(key: $0.key, size: Int64($0.value.utf8.count)) }, next: nil)
    }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
