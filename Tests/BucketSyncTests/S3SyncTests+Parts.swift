import BucketSync
import FarmModel
import ObjectStorage
import Support
import SystemIO
import Testing

/// Objects in parts: made sure of as a whole, and gone on with.
extension S3SyncTests {
    /// A bit that turns on the way from the source is seen, whether the source's tag is one of the whole or one of parts.
    @Test(.timeLimit(.minutes(4)), arguments: [true, false]) func whatIsLargeIsComparedAsAWhole(isWhole: Bool) async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        var generator = SeededGenerator(15)
        let bytes = generator.bytes(40 << 20)
        let from = store(server.endpoint, "from-\(run)")
        if isWhole {
            try await from.put("large", bytes)
        } else {
            let memory = MemoryStore()
            try await memory.put("large", bytes)
            try await SyncBench(memory, from).run { $0.partsAbove = 10 << 20 }
        }
        let tag = try #require(try await from.head("large")?.tag)
        #expect((ContentTag(tag).md5 != nil) == isWhole)
        // Once: it is read again. Always: it is not written.
        for times in [1, 1000] {
            let proxy = try FaultProxy(before: server.endpoint, [.init("^GET .*/large", "corrupt", times: times)])
            let to = store(server.endpoint, "to-\(run)-\(times)")
            let events = SyncBench.Events()
            let report = try await SyncBench(store(proxy.endpoint, "from-\(run)"), to).run(
                { ($0.partsAbove, $0.tries, $0.copiesOnServer) = (10 << 20, 3, false) }, events: events)
            if times == 1 {
                #expect(report.copied == 1 && report.failed == 0, "\(events.errors)")
                #expect(try await to.get("large") == bytes)
            } else if isWhole {
                #expect(report.failed == 1 && events.errors == ["large sync.digest"], "\(events.errors)")
                #expect(try await to.head("large") == nil)
            }
        }
    }

    /// A farm's objects are compared with their names, however large they are; of one that is damaged nothing stays.
    @Test(.timeLimit(.minutes(3))) func largeObjectsOfFarmsAreTheirNames() async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        var generator = SeededGenerator(16)
        let (from, to) = (MemoryStore(), store(server.endpoint, "to-\(run)"))
        let good = generator.bytes(23 << 20)
        let bad = generator.bytes(23 << 20)
        let name = "packs/\(Digest(hashing: good).hex)"
        let wrong = "packs/\(Digest(hashing: [1]).hex)"
        try await from.put(SyncOrder.identity, [1])
        try await from.put(name, good)
        try await from.put(wrong, bad)
        let report = try await SyncBench(from, to).run { $0.partsAbove = 10 << 20 }
        #expect(report.damaged == [wrong])
        #expect(try await to.get(name) == good)
        #expect(try await to.head(wrong) == nil)
    }

    /// What streams without anybody knowing its sum goes in parts: cut off it is nothing, where a single upload would be half an object.
    @Test(.timeLimit(.minutes(2))) func whatHasNoKnownSumIsNeverHalfThere() async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        var generator = SeededGenerator(17)
        let from = MemoryStore()
        let bytes = generator.bytes(3_000_000)
        try await from.put("medium", bytes)
        let proxy = try FaultProxy(before: server.endpoint, [.init("^PUT .*/medium", "reset-upload", times: 100)])
        let untagged = UntaggedStore(from)
        #expect(try await SyncBench(untagged, store(proxy.endpoint, "to-\(run)")).run().failed == 1)
        let to = store(server.endpoint, "to-\(run)")
        #expect(try await to.head("medium") == nil)
        #expect(try await SyncBench(untagged, to).run().copied == 1)
        #expect(try await to.get("medium") == bytes)
    }

    /// Parts that were there do not count as sent by this run.
    @Test(.timeLimit(.minutes(3)), arguments: [true, false]) func whatWasThereIsNoTransfer(isWhole: Bool) async throws {
        let server = try Self.server.get()
        let scratch = try Scratch()
        let run = Nonce.hex(bytes: 4)
        var generator = SeededGenerator(18)
        let bytes = generator.bytes(80 << 20)
        let source: any ObjectStore = isWhole ? store(server.endpoint, "from-\(run)") : DirectoryStore("\(scratch.path)/here")
        try await source.put("large", bytes)
        func bench(_ endpoint: String) throws -> SyncBench {
            var bench = SyncBench(source, store(endpoint, "to-\(run)"))
            try bench.remember(in: "\(scratch.path)/memory")
            return bench
        }
        let settings: (inout SyncOptions) -> Void = { ($0.partsAbove, $0.partsAtOnce, $0.copiesOnServer) = (20 << 20, 1, false) }
        let proxy = try FaultProxy(before: server.endpoint, [.init("^PUT .*partNumber=5&", "500", times: 100)])
        let first = try bench(proxy.endpoint)
        #expect(try await first.run(settings).failed == 1)
        first.memory?.release()
        let counted = try FaultProxy(before: server.endpoint, [])
        let second = try bench(counted.endpoint)
        let events = SyncBench.Events()
        // Nor do those that are read again for the sum of the whole.
        let report = try await second.run(
            {
                settings(&$0)
                $0.mostBytes = 20 << 20
            }, events: events)
        #expect(report.copied == 1 && report.limit == nil, "\(events.errors)")
        #expect(counted.log.filter { $0.contains("partNumber=") }.count == 1)
        #expect(try await store(server.endpoint, "to-\(run)").get("large") == bytes)
    }
}

/// Tells no tags, and no sums.
struct UntaggedStore: ObjectStore {
    private let bucket: any ObjectStore
    var name: String { bucket.name }

    init(_ bucket: any ObjectStore) { self.bucket = bucket }

    func head(_ key: String) async throws -> ObjectInfo? {
        var found = try await bucket.head(key)
        found?.tag = nil
        return found
    }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try await bucket.get(key, range: range, limit: limit)
    }
    func put(_ key: String, _ source: ObjectSource) async throws { try await bucket.put(key, source) }
    func delete(_ key: String) async throws { try await bucket.delete(key) }
    func list(prefix: String, after: String?) async throws -> ObjectPage {
        var page = try await bucket.list(prefix: prefix, after: after)
        for place in page.objects.indices { page.objects[place].tag = nil }
        return page
    }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
