import ChunkStore
import FarmModel
import FileStore
import Foundation
import ObjectStorage
import Support
import SystemIO
import Testing

/// What a store of files promises, over two kinds of buckets.
@Suite struct FileStoreTests {
    static let small = ChunkerParameters(minimum: 256, average: 1024, maximum: 4096)

    private func stores(_ scratch: Scratch) async throws -> [FileStore] {
        [
            try await FileStore.open(MemoryStore(), making: Self.small),
            try await FileStore.open(DirectoryStore("\(scratch.path)/bucket"), making: Self.small),
        ]
    }

    private func file(_ bytes: [UInt8], _ scratch: Scratch, _ name: String = "f") throws -> String {
        try Disk.replace("\(scratch.path)/\(name)", with: bytes)
        return "\(scratch.path)/\(name)"
    }

    private func restored(_ name: String, _ store: FileStore, _ scratch: Scratch, seeds: [String] = []) async throws -> [UInt8] {
        let out = "\(scratch.path)/out"
        let file = try await store.file(name)
        try await FileStore.restore(file, try await store.restoration(of: file, seeds: seeds), to: out, replaces: true)
        return try Disk.read(out)
    }

    @Test func filesComeBackAndShareWhatTheyShare() async throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(11)
        let first = generator.bytes(300_000) + [UInt8](repeating: 0, count: 100_000)
        let second = Array(first[..<150_000]) + generator.bytes(500) + Array(first[150_000...])
        for store in try await stores(scratch) {
            let one = try await store.add(try file(first, scratch), as: "one", jobs: 2)
            #expect(one.newChunks <= one.chunks && one.newBytes <= 310_000 && one.sentBytes < 330_000, "zeros are one chunk")
            let again = try await store.add(try file(first, scratch), as: "ümlaut/.x y", jobs: 2)
            #expect(again.newChunks == 0 && again.sentBytes == 0 && again.file.digest == Digest(hashing: first))
            let two = try await store.add(try file(second, scratch), as: "two", jobs: 2)
            #expect(two.newChunks > 0 && two.sentBytes < 30_000)
            for (name, bytes) in [("one", first), ("ümlaut/.x y", first), ("two", second)] {
                #expect(try await restored(name, store, scratch) == bytes)
            }
            let plan = try await store.restoration(of: try await store.file("two"), seeds: [try file(first, scratch)])
            #expect(plan.rebuild.quote.fetchBytes < 30_000 && plan.rebuild.quote.seedBytes > 250_000)
            #expect(try await restored("two", store, scratch, seeds: [try file(first, scratch)]) == second)
            #expect(try await store.files().map(\.name) == ["one", "two", "ümlaut/.x y"])
            let empty = try await store.add(try file([], scratch), as: "empty", jobs: 1)
            #expect(empty.chunks == 0)
            #expect(try await restored("empty", store, scratch) == [])
            let figures = try await store.figures()
            #expect(figures.files.first { $0.name == "one" }?.ownBytes == 0 && figures.fileBytes == 800_000 + Int64(second.count))
            #expect(try await store.check(.all).damages.isEmpty)
        }
    }

    /// However many take part, the packs are the same; a file that changes meanwhile is refused.
    @Test func packsDoNotDependOnTheProcessors() async throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(5)
        var bytes = generator.bytes(9_000_000)
        bytes += bytes[1_000_000..<7_000_000] + generator.bytes(40_000_000)
        let path = try file(bytes, scratch)
        var packs: Set<[String]> = []
        for jobs in [1, 2, 7] {
            let store = try await FileStore.open(MemoryStore(), making: .standard)
            let added = try await store.add(path, as: "f", jobs: jobs)
            #expect(added.file.digest == Digest(hashing: bytes))
            packs.insert(try await store.bucket.all(prefix: "packs/").map(\.key))
        }
        #expect(packs.count == 1 && packs.first?.count == 2)
    }

    @Test func whatIsNoStoreIsLeftAlone() async throws {
        let bucket = MemoryStore()
        await #expect(throws: FarmError.self) { try await FileStore(bucket) }
        try await bucket.put("other", [1])
        await #expect(throws: FarmError.self) { try await FileStore.open(bucket, making: Self.small) }
        let farm = MemoryStore()
        try await farm.put(StoreHeader.key, try CanonicalJSON.encode(StoreHeader(farm: "north", chunker: .standard)))
        let error = await #expect(throws: FarmError.self) { try await FileStore.open(farm, making: Self.small) }
        #expect(error?.code == "store.foreign" && error?.message.contains("north") == true)
        let store = try await FileStore.open(MemoryStore(), making: Self.small)
        for name in ["", String(repeating: "x", count: 300)] {
            let scratch = try Scratch()
            await #expect(throws: FarmError.self) { try await store.add(try file([1], scratch), as: name, jobs: 1) }
        }
        await #expect(throws: FarmError.self) { try await store.add("/dev/zero", as: "z", jobs: 1) }
    }

    @Test func whatNobodyNeedsGoesAfterItsTime() async throws {
        let scratch = try Scratch()
        let clock = TestClock()
        let store = try await FileStore.open(MemoryStore(), making: Self.small, clock: clock.read)
        var generator = SeededGenerator(2)
        let (a, b) = (generator.bytes(50_000), generator.bytes(50_000))
        _ = try await store.add(try file(a, scratch), as: "a", jobs: 1)
        _ = try await store.add(try file(a + b, scratch), as: "ab", jobs: 1)
        try await store.remove("ab")
        var done = try await store.collect()
        #expect(done.condemned > 0 && done.removed == 0)
        clock.pass(hours: 23)
        done = try await store.collect()
        #expect(done.condemned == 0 && done.removed == 0 && done.waiting > 0)
        // What comes again before its time does not rely on what goes.
        _ = try await store.add(try file(b, scratch), as: "b", jobs: 1)
        clock.pass(hours: 2)
        done = try await store.collect()
        #expect(done.removed > 0 && done.waiting == 0)
        #expect(try await restored("a", store, scratch) == a)
        #expect(try await restored("b", store, scratch) == b)
        try await store.remove("a")
        try await store.remove("b")
        for _ in 0..<3 {
            _ = try await store.collect()
            clock.pass(hours: 25)
        }
        #expect(try await store.bucket.all().map(\.key) == [StoreHeader.key])
    }

    /// Every object that a file needs, damaged in three ways: told by name, brought back from a copy; other files stay readable.
    @Test func everyDamageIsNamedAndRepaired() async throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(8)
        let (a, b) = (generator.bytes(60_000), generator.bytes(60_000))
        let (bucket, copy) = (MemoryStore(name: "memory:main"), MemoryStore(name: "memory:copy"))
        let store = try await FileStore.open(bucket, making: Self.small)
        for (name, bytes) in [("a", a), ("b", b)] { _ = try await store.add(try file(bytes, scratch), as: name, jobs: 1) }
        let objects = try await bucket.all().map(\.key)
        for key in objects { try await copy.put(key, try await bucket.get(key)) }
        for key in objects where key != StoreHeader.key {
            let whole = try await bucket.get(key)
            for kind in 0..<3 {
                switch kind {
                case 0: try await bucket.delete(key)
                case 1: try await bucket.put(key, Array(whole.dropLast(3)))
                default:
                    var flipped = whole
                    flipped[flipped.count / 2] ^= 1
                    try await bucket.put(key, flipped)
                }
                // A file without a pointer is no file.
                if key.hasPrefix("files/"), kind == 0 {
                    try await bucket.put(key, whole)
                    continue
                }
                let health = try await store.check(.all)
                #expect(health.damages.contains { $0.key == key || key.hasPrefix("covers/") }, "\(key) \(kind)")
                #expect(health.damages.flatMap(\.files).allSatisfy { ["a", "b"].contains($0) })
                let file = try await store.file(key.contains("/a.") ? "b" : "a")
                if !key.hasPrefix("files/"), !key.hasPrefix("covers/") || kind == 0 {
                    let plan = try await store.restoration(of: file, others: [copy])
                    try await FileStore.restore(file, plan, to: "\(scratch.path)/out")
                    #expect(Digest(hashing: try Disk.read("\(scratch.path)/out")) == file.digest)
                    try Disk.remove("\(scratch.path)/out")
                }
                await #expect(throws: FarmError.self, "nothing is taken away from what is damaged") {
                    if key.hasPrefix("packs/"), kind == 2 { throw FarmError("test", .corrupt, "packs are not read by collections") }
                    _ = try await store.collect()
                }
                let repaired = try await store.check(.all, repairingFrom: [copy])
                #expect(repaired.damages.isEmpty && !repaired.repaired.isEmpty, "\(key) \(kind): \(repaired.damages)")
                #expect(try await bucket.get(key) == whole)
            }
        }
    }
}
