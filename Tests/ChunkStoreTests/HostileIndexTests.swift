import ChunkStore
import FarmModel
import ObjectStorage
import Support
import Testing

/// Covers and indexes carry no signature: whatever they say, readers get the right bytes or an error.
@Suite struct HostileIndexTests {
    private let bucket = MemoryStore(name: "memory:bucket")
    private let pack: FinishedPack
    private let manifest: ImageManifest
    private let name: Digest
    private let chunks: [[UInt8]]

    init() async throws {
        var generator = SeededGenerator(5)
        chunks = [generator.bytes(200), generator.bytes(100), generator.bytes(3000)]
        var builder = PackBuilder()
        for chunk in chunks { builder.add(try ChunkPacker().pack(Digest(hashing: chunk), chunk[...])) }
        pack = builder.finish()
        let image = chunks.flatMap { $0 }
        manifest = ImageManifest(
            image: Digest(hashing: image), size: Int64(image.count), chunker: .standard,
            chunks: chunks.map { .init(digest: Digest(hashing: $0), size: $0.count) })
        name = Digest(hashing: manifest.bytes)
        try await bucket.put(Pack.key(pack.digest), pack.bytes)
        try await bucket.put(ImageManifest.key(name), manifest.bytes)
    }

    private func cover(_ indexes: [[UInt8]]) async throws {
        for bytes in indexes { try await bucket.put(PackIndex.key(Digest(hashing: bytes)), bytes) }
        let cover = ManifestCover(indexes: indexes.map { Digest(hashing: $0) })
        try await bucket.put(ImageManifest.coverKey(name), try CanonicalJSON.encode(cover))
    }

    private func image() async throws -> [UInt8] {
        let reader = RegionReader(regions: [bucket])
        let places = try await reader.locations(of: manifest, digest: name)
        let data = try await reader.chunks(at: places.values)
        return manifest.chunks.flatMap { data[$0.digest] ?? [] }
    }

    /// Chunks that overlap, the first of which reaches far beyond the others.
    @Test func overlappingChunksAreDamageAndNoCrash() async throws {
        var entries = pack.entries
        entries[0].offset = 8
        entries[1].offset = 9
        entries[2].offset = 10
        try await cover([try PackIndex.bytes(of: [.init(pack: pack.digest, entries: entries)])])
        let error = await #expect(throws: FarmError.self) { try await image() }
        #expect(error?.code == "chunk.damaged")
    }

    @Test func aChunkOfAnotherSizeIsNotTaken() async throws {
        var entries = pack.entries
        entries[0].size = 300
        try await cover([try PackIndex.bytes(of: [.init(pack: pack.digest, entries: entries)])])
        let error = await #expect(throws: FarmError.self) { try await image() }
        #expect(error?.code == "manifest.uncovered")
    }

    /// A manifest may lie about sizes as long as they add up: nobody reads such an image in part and gets wrong bytes.
    @Test func sizesThatAreNotTheChunksAreRefused() async throws {
        var parts = manifest.chunks
        (parts[0].size, parts[1].size) = (100, 200)
        let lying = ImageManifest(image: manifest.image, size: manifest.size, chunker: .standard, chunks: parts)
        let other = Digest(hashing: lying.bytes)
        try await bucket.put(ImageManifest.key(other), lying.bytes)
        let index = try PackIndex.bytes(of: [.init(pack: pack.digest, entries: pack.entries)])
        try await bucket.put(PackIndex.key(Digest(hashing: index)), index)
        try await bucket.put(
            ImageManifest.coverKey(other), try CanonicalJSON.encode(ManifestCover(indexes: [Digest(hashing: index)])))
        await #expect(throws: FarmError.self) {
            _ = try await ImageReader(manifest: other, from: RegionReader(regions: [bucket]), cache: ChunkCache(bytes: 1 << 20))
        }
    }

    @Test func aDamagedIndexBesideAWholeOneDoesNoHarm() async throws {
        let whole = try PackIndex.bytes(of: [.init(pack: pack.digest, entries: pack.entries)])
        try await cover([Array("no index".utf8), whole])
        #expect(try await image() == chunks.flatMap { $0 })
    }

    /// The cover of one region names what is not there; another region's is right.
    @Test func anotherRegionsCoverIsTaken() async throws {
        try await cover([try PackIndex.bytes(of: [.init(pack: pack.digest, entries: pack.entries)])])
        let wrong = MemoryStore(name: "memory:wrong")
        try await wrong.put(
            ImageManifest.coverKey(name), try CanonicalJSON.encode(ManifestCover(indexes: [Digest(hashing: "of nothing")])))
        let reader = RegionReader(regions: [wrong, bucket])
        #expect(try await reader.locations(of: manifest, digest: name).count == 3)
        #expect(reader.incidents.contains { $0.object == ImageManifest.coverKey(name) })
    }

    @Test func whoNeedsAChunkIsCounted() throws {
        let index = try PackIndex(try PackIndex.bytes(of: [.init(pack: pack.digest, entries: pack.entries)]), source: "i")
        let usage = ChunkUsage(index)
        let digests = manifest.chunks.map(\.digest)
        for (chunk, user) in [(0, 0), (1, 0), (1, 1), (1, 0), (0, 0)] {
            #expect(try usage.use(digests[chunk], by: user)?.pack == pack.digest)
        }
        #expect(try usage.use(Digest(hashing: "of nobody"), by: 0) == nil)
        #expect(try usage.own(users: 2) == [200, 0])
        #expect(try usage.location(of: digests[2]) == nil && usage.location(of: digests[1]) != nil)
        // Of two packs the one that is in doubt is needed only for what the other lacks.
        let twin = Digest(hashing: "twin")
        let both = try PackIndex(
            try PackIndex.bytes(of: [
                .init(pack: pack.digest, entries: pack.entries), .init(pack: twin, entries: Array(pack.entries.dropLast())),
            ]), source: "b")
        for (avoided, other) in [(pack.digest, twin), (twin, pack.digest)] {
            let choice = ChunkUsage(both, avoiding: [avoided])
            #expect(try choice.use(digests[0], by: 0)?.pack == other && choice.use(digests[2], by: 0)?.pack == pack.digest)
        }
        let share = try #require(try usage.shares().first)
        #expect(share.chunks == 2 && share.bytes == 300 && share.record.chunks == 3)
    }
}
