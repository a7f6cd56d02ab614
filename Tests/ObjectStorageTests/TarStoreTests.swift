import FarmModel
import Glibc
import ObjectStorage
import ProcessRunner
import Support
import SystemIO
import Testing

/// A bucket in one file.
@Suite struct TarStoreTests {
    private let scratch: Scratch
    private let objects: [String: [UInt8]]

    init() throws {
        scratch = try Scratch()
        var generator = SeededGenerator(3)
        let long = "releases/\(String(repeating: "n", count: 90))/1.0/\(Digest(hashing: "x").hex)"
        objects = ["a": [], "b/c": [1], "b/d": generator.bytes(512), "packs/00/x": generator.bytes(70_001), long: generator.bytes(513)]
    }

    private func write() throws -> String {
        let path = "\(scratch.path)/archive.tar"
        let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
        defer { file.close() }
        var writer = TarStoreWriter(file)
        for (key, bytes) in objects.sorted(by: { $0.key < $1.key }) { try writer.add(key, bytes) }
        #expect(throws: FarmError.self) { try writer.add(String(repeating: "x", count: 101), [1]) }
        try writer.finish()
        #expect(try file.size() == writer.size)
        return path
    }

    private func check(_ store: TarStore) async throws {
        #expect(try await store.all().map(\.key).sorted() == objects.keys.sorted())
        for (key, bytes) in objects {
            #expect(try await store.get(key) == bytes)
            #expect(try await store.head(key)?.size == Int64(bytes.count))
        }
        #expect(try await store.get("b/d", range: 10..<20) == Array(objects["b/d"]?[10..<20] ?? []))
        await #expect(throws: FarmError.self) { try await store.get("b/d", range: 510..<520) }
        await #expect(throws: FarmError.self) { try await store.get("packs/00/x", range: nil, limit: 1000) }
        await #expect(throws: FarmError.self) { try await store.get("none") }
        await #expect(throws: FarmError.self) { try await store.put("a", [1]) }
        #expect(try await store.list(prefix: "b/", after: nil).objects.map(\.key) == ["b/c", "b/d"])
    }

    /// What it reads other programs read, and the other way round.
    @Test func otherProgramsKnowTheForm() async throws {
        let path = try write()
        try await check(try TarStore(path))
        try await ProcessRunner.require(
            Command(
                "sh", ["-c", "mkdir un && tar xf archive.tar -C un && tar cf again.tar --format=ustar -C un ."], directory: scratch.path))
        try await check(try TarStore("\(scratch.path)/again.tar"))
        for (key, bytes) in objects { #expect(try Disk.read("\(scratch.path)/un/\(key)") == bytes) }
    }

    /// Whatever is done to an archive, it is read right or refused.
    @Test(arguments: 0..<200) func damageIsRefused(_ seed: UInt64) async throws {
        var bytes = try Disk.read(try write())
        var generator = SeededGenerator(seed)
        if seed % 2 == 0 {
            bytes = Array(bytes.prefix(Int(generator.next() % UInt64(bytes.count - 1024))))
        } else {
            bytes[Int(generator.next() % 1024)] ^= UInt8(1 + generator.next() % 255)
        }
        let path = "\(scratch.path)/damaged.tar"
        try Disk.replace(path, with: bytes)
        do {
            let store = try TarStore(path)
            for object in try await store.all() { #expect(try await Int64(store.get(object.key).count) == object.size) }
            #expect(seed % 2 == 1)
        } catch is FarmError {}
    }
}
