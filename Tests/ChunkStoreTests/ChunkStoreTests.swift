import ChunkStore
import FarmModel
import Foundation
import ObjectStorage
import Support
import SystemIO
import Testing
import Zstandard

@Suite struct ChunkerTests {
    private func cuts(_ bytes: [UInt8], _ parameters: ChunkerParameters = .standard) throws -> [Int] {
        let chunker = try Chunker(parameters)
        return bytes.withUnsafeBytes { chunker.lengths(in: $0, isLast: true) }
    }

    /// docs/formats/chunk-store.md, "Golden vectors".
    @Test func agreesWithTheGoldenVectors() throws {
        #expect(Chunker.gear[0] == Chunker.gear[0] && Chunker.gear.count == 256)
        let document = String(decoding: try Repository.file("docs/formats/chunk-store.md"), as: UTF8.self)
        #expect(document.contains(String(Chunker.gear[0], radix: 16)))
        #expect(document.contains(String(Chunker.gear[255], radix: 16)))
        var generator = SeededGenerator(1)
        let lengths = try cuts(generator.bytes(1 << 20))
        #expect(document.contains(lengths.map(String.init).joined(separator: " ")), "\(lengths)")
    }

    /// The specification word by word, against what looks at four places at once.
    @Test func lanesCutWhereTheSpecificationDoes() throws {
        func plain(_ bytes: [UInt8], _ sizes: ChunkerParameters) -> [Int] {
            let bits = UInt64(sizes.average.trailingZeroBitCount)
            var lengths: [Int] = []
            var start = 0
            while start < bytes.count {
                let left = bytes.count - start
                var length = min(left, sizes.maximum)
                if left > sizes.minimum {
                    var hash: UInt64 = 0
                    for byte in bytes[start + sizes.minimum - 64..<start + sizes.minimum] { hash = (hash &<< 1) &+ Chunker.gear[Int(byte)] }
                    for number in sizes.minimum..<length {
                        let mask = ~UInt64(0) << (64 - (number < sizes.average ? bits + 2 : bits - 2))
                        if hash & mask == 0 {
                            length = number
                            break
                        }
                        hash = (hash &<< 1) &+ Chunker.gear[Int(bytes[start + number])]
                    }
                }
                lengths.append(length)
                start += length
            }
            return lengths
        }
        let small = ChunkerParameters(minimum: 64, average: 256, maximum: 1024)
        for seed in 0..<200 {
            var generator = SeededGenerator(UInt64(seed))
            var bytes = generator.bytes(Int(generator.next() % 9000))
            if seed % 3 == 0 { bytes += [UInt8](repeating: UInt8(seed), count: Int(generator.next() % 3000)) + bytes }
            #expect(try cuts(bytes, small) == plain(bytes, small), "seed \(seed)")
        }
        var generator = SeededGenerator(77)
        let bytes = generator.bytes(3_000_000)
        #expect(try cuts(bytes) == plain(bytes, .standard))
    }

    @Test func chunksKeepTheirBounds() throws {
        for seed in 0..<6 {
            var generator = SeededGenerator(UInt64(seed))
            let size = Int(generator.next() % 3_000_000)
            let lengths = try cuts(generator.bytes(size))
            #expect(lengths.reduce(0, +) == size)
            for length in lengths.dropLast() { #expect(length >= 16 << 10 && length <= 256 << 10) }
        }
        #expect(try cuts([]) == [])
        #expect(try cuts([1]) == [1])
        // Nothing to cut at: every chunk has the full size.
        #expect(try cuts([UInt8](repeating: 0, count: 600_000)).dropLast().allSatisfy { $0 == 256 << 10 || $0 >= 16 << 10 })
    }

    @Test func anInsertionChangesOnlyItsSurroundings() throws {
        var generator = SeededGenerator(9)
        let before = generator.bytes(4 << 20)
        var after = before
        after.insert(contentsOf: [1, 2, 3], at: 2 << 20)
        func digests(_ bytes: [UInt8]) throws -> Set<Digest> {
            var start = 0
            return Set(
                try cuts(bytes).map { length in
                    defer { start += length }
                    return Digest(hashing: bytes[start..<start + length])
                })
        }
        let new = try digests(after).subtracting(digests(before))
        #expect(new.count <= 3, "\(new.count) chunks differ")
    }

    @Test func theCutsDoNotDependOnHowTheFileIsRead() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(3)
        let bytes = generator.bytes(9_000_000)
        try Disk.replace("\(scratch.path)/x", with: bytes)
        let manifest = try ImageChunker.manifest(of: "\(scratch.path)/x", parameters: .standard)
        #expect(manifest.chunks.map(\.size) == (try cuts(bytes)))
        #expect(manifest.image == Digest(hashing: bytes))
    }

    @Test func senselessParametersAreRefused() {
        for wrong in [(0, 64, 128), (64, 100, 256), (64, 1024, 512), (8, 256, 1024)] {
            #expect(throws: FarmError.self) {
                try Chunker(ChunkerParameters(minimum: wrong.0, average: wrong.1, maximum: wrong.2))
            }
        }
    }
}

@Suite struct PackTests {
    private func pack() throws -> (Digest, [UInt8], [PackEntry], [[UInt8]]) {
        var generator = SeededGenerator(4)
        let chunks = [generator.bytes(20_000), [UInt8](repeating: 7, count: 50_000), Array("text".utf8)]
        var builder = PackBuilder()
        let packer = ChunkPacker()
        for chunk in chunks { builder.add(try packer.pack(Digest(hashing: chunk), chunk[...])) }
        let pack = builder.finish()
        return (pack.digest, pack.bytes, pack.entries, chunks)
    }

    @Test func roundTrips() throws {
        let (digest, bytes, entries, chunks) = try pack()
        #expect(Digest(hashing: bytes) == digest)
        #expect(try Pack.entries(of: bytes, source: "p") == entries)
        #expect(entries.map(\.codec) == [.raw, .zstd, .raw])
        for (entry, chunk) in zip(entries, chunks) {
            let stored = bytes[Int(entry.range.lowerBound)..<Int(entry.range.upperBound)]
            #expect(try Array(stored).withUnsafeBytes { try entry.open($0, source: "p") } == chunk)
        }
        let index = try PackIndex(try PackIndex.bytes(of: [.init(pack: digest, entries: entries)]), source: "i")
        for entry in entries { #expect(try index.locations(of: entry.digest) == [ChunkLocation(pack: digest, entry: entry)]) }
        #expect(index.record(of: digest)?.size == Int64(bytes.count))
    }

    @Test func everyFlippedByteIsNoticed() throws {
        let (digest, bytes, _, _) = try pack()
        for position in stride(from: 0, to: bytes.count, by: 97) {
            var damaged = bytes
            damaged[position] ^= 0x40
            #expect(Digest(hashing: damaged) != digest)
            // Without the pack's own digest, either the table or a chunk tells.
            let verdict = Result { () throws -> Void in
                for entry in try Pack.entries(of: damaged, source: "p") {
                    let stored = Array(damaged[Int(entry.range.lowerBound)..<Int(entry.range.upperBound)])
                    _ = try stored.withUnsafeBytes { try entry.open($0, source: "p") }
                }
            }
            if case .success = verdict { Issue.record("byte \(position) was flipped unnoticed") }
        }
    }

    @Test func hostileTablesNeverCrash() throws {
        let (_, bytes, _, _) = try pack()
        for seed in 0..<3000 {
            var generator = SeededGenerator(UInt64(seed))
            var hostile = seed % 2 == 0 ? Array(bytes.suffix(200)) : bytes
            for _ in 0..<(1 + seed % 7) {
                hostile[Int(generator.next() % UInt64(hostile.count))] = UInt8(truncatingIfNeeded: generator.next())
            }
            hostile = Pack.magic + hostile.dropFirst(8)
            _ = try? Pack.entries(of: hostile, source: "p")
            _ = try? PackIndex(Array("SFINDEX2".utf8) + hostile, source: "i")
            #expect(hostile.count > 0)
        }
    }

    @Test func aFrameThatLiesAboutItsSizeIsRefused() throws {
        let bytes = [UInt8](repeating: 1, count: 1000)
        let frame = try bytes.withUnsafeBytes { try Zstandard.compress($0, level: 3, using: Zstandard.Compressor()) }
        #expect(throws: FarmError.self) { try frame.withUnsafeBytes { try Zstandard.decompress($0, size: 999) } }
        #expect(try frame.withUnsafeBytes { try Zstandard.decompress($0, size: 1000) } == bytes)
    }
}

@Suite struct RegionReaderTests {
    /// A store of two regions with one image in both.
    private func regions() async throws -> (MemoryStore, MemoryStore, ImageManifest, Digest, [UInt8], Digest) {
        let scratch = try Scratch()
        var generator = SeededGenerator(5)
        let image = generator.bytes(700_000) + [UInt8](repeating: 0, count: 400_000)
        try Disk.replace("\(scratch.path)/i", with: image)
        let manifest = try ImageChunker.manifest(of: "\(scratch.path)/i", parameters: .standard)
        var builder = PackBuilder()
        let packer = ChunkPacker()
        var start = 0
        var seen: Set<Digest> = []
        for chunk in manifest.chunks {
            if seen.insert(chunk.digest).inserted {
                builder.add(try packer.pack(chunk.digest, image[start..<start + chunk.size]))
            }
            start += chunk.size
        }
        let finished = builder.finish()
        let (pack, bytes) = (finished.digest, finished.bytes)
        let index = try PackIndex.bytes(of: [.init(pack: pack, entries: finished.entries)])
        let document = manifest.bytes
        let a = MemoryStore(name: "memory:a")
        let b = MemoryStore(name: "memory:b")
        for store in [a, b] {
            try await store.put(Pack.key(pack), bytes)
            try await store.put(PackIndex.key(Digest(hashing: index)), index)
            try await store.put(ImageManifest.key(Digest(hashing: document)), document)
            let cover = ManifestCover(indexes: [Digest(hashing: index)])
            try await store.put(ImageManifest.coverKey(Digest(hashing: document)), try CanonicalJSON.encode(cover))
        }
        return (a, b, manifest, Digest(hashing: document), image, pack)
    }

    private func rebuild(_ stores: [any ObjectStore], _ name: Digest, seeds: [ImageRebuild.Seed] = []) async throws -> (
        [UInt8], RegionReader, ImageRebuild.Quote
    ) {
        let scratch = try Scratch()
        let reader = RegionReader(regions: stores)
        let manifest = try await reader.manifest(name)
        let rebuild = ImageRebuild(manifest: manifest, locations: try await reader.locations(of: manifest, digest: name), seeds: seeds)
        try await rebuild.write(to: "\(scratch.path)/out", from: reader) { _ in }
        return (try Disk.read("\(scratch.path)/out"), reader, rebuild.quote)
    }

    @Test func rebuildsTheVeryBytes() async throws {
        let (a, b, _, name, image, _) = try await regions()
        let (bytes, reader, quote) = try await rebuild([a, b], name)
        #expect(bytes == image)
        #expect(reader.incidents.isEmpty)
        #expect(quote.fetchBytes > 0 && quote.seedBytes == 0)
    }

    /// Any part, in any order, with a cache that holds little of it: the image's own bytes.
    @Test func anyPartIsReadOutOfTheStore() async throws {
        let (a, b, manifest, name, image, pack) = try await regions()
        let cache = ChunkCache(bytes: 300_000)
        let reader = try await ImageReader(manifest: name, from: RegionReader(regions: [a, b]), cache: cache)
        var generator = SeededGenerator(11)
        var ranges = (0..<60).map { _ in
            let from = Int(generator.next() % UInt64(image.count))
            return from..<min(image.count, from + Int(generator.next() % 300_000))
        }
        let first = manifest.chunks[0].size
        ranges += [0..<image.count, 0..<1, image.count - 1..<image.count, first - 1..<first + 1, first..<first, image.count..<image.count]
        for range in ranges {
            let bytes = try await reader.read(Int64(range.lowerBound)..<Int64(range.upperBound))
            #expect(bytes == Array(image[range]), "\(range)")
        }
        #expect(cache.size > 0 && cache.size <= 300_000 + 256 << 10)
        #expect(await code(of: { _ = try await reader.read(0..<Int64(image.count) + 1) }) == "image.range")
        for store in [a, b] { try await store.put(Pack.key(pack), [UInt8](repeating: 0, count: 1_200_000)) }
        let empty = try await ImageReader(manifest: name, from: RegionReader(regions: [a, b]), cache: ChunkCache(bytes: 0))
        #expect(await code(of: { _ = try await empty.read(0..<10) }) == "chunk.damaged")
    }

    @Test(arguments: [10, 5000, 300_000]) func aDamagedRegionIsGoneAroundAndReported(_ position: Int) async throws {
        let (a, b, _, name, image, pack) = try await regions()
        var bytes = try await a.get(Pack.key(pack))
        bytes[position] ^= 1
        try await a.put(Pack.key(pack), bytes)
        let (rebuilt, reader, _) = try await rebuild([a, b], name)
        #expect(rebuilt == image)
        #expect(reader.incidents.contains { $0.region == "memory:a" && $0.message.contains("damaged") })
    }

    @Test func aTruncatedOrAbsentPackIsGoneAround() async throws {
        let (a, b, _, name, image, pack) = try await regions()
        try await a.put(Pack.key(pack), Array(try await a.get(Pack.key(pack)).prefix(1000)))
        #expect(try await rebuild([a, b], name).0 == image)
        try await a.delete(Pack.key(pack))
        #expect(try await rebuild([a, b], name).0 == image)
        try await b.delete(Pack.key(pack))
        #expect(await code(of: { _ = try await rebuild([a, b], name) }) == "storage.absent")
    }

    /// Damage of one chunk here and of another there is gone around chunk by chunk, also while a third region is away.
    @Test func damageInEveryRegionIsGoneAroundWhileOneIsAway() async throws {
        let (a, b, _, name, image, pack) = try await regions()
        for (store, position) in [(a, 5000), (b, 600_000)] {
            var bytes = try await store.get(Pack.key(pack))
            bytes[position] ^= 1
            try await store.put(Pack.key(pack), bytes)
        }
        #expect(try await rebuild([a, b, AwayStore()], name).0 == image)
        #expect(try await rebuild([AwayStore(), b, a], name).0 == image)
    }

    @Test func aRegionThatIsAwayLeavesTheQuestionOpen() async throws {
        let (_, b, _, name, _, pack) = try await regions()
        try await b.delete(Pack.key(pack))
        #expect(await code(of: { _ = try await rebuild([AwayStore(), b], name) }) == "http.unreachable")
        #expect(await code(of: { _ = try await rebuild([b, AwayStore()], name) }) == "http.unreachable")
    }

    @Test func aCoverThatLiesIsGoneAround() async throws {
        let (a, b, _, name, image, _) = try await regions()
        try await a.put(ImageManifest.coverKey(name), try CanonicalJSON.encode(ManifestCover(indexes: [])))
        let (bytes, reader, _) = try await rebuild([a, b], name)
        #expect(bytes == image)
        #expect(reader.incidents.contains { $0.region == "memory:a" && $0.message.contains("lie in none of the indexes") })
        #expect(await code(of: { _ = try await rebuild([a], name) }) == "manifest.uncovered")
    }

    @Test func seedsAreUsedAndNotTrusted() async throws {
        let (a, _, manifest, name, image, _) = try await regions()
        let scratch = try Scratch()
        try Disk.replace("\(scratch.path)/seed", with: image)
        let seed = ImageRebuild.Seed(path: "\(scratch.path)/seed", manifest: manifest)
        let (bytes, _, quote) = try await rebuild([a], name, seeds: [seed])
        #expect(bytes == image && quote.fetchBytes == 0)
        var damaged = image
        damaged[50_000] ^= 1
        try Disk.replace("\(scratch.path)/seed", with: damaged)
        #expect(try await rebuild([a], name, seeds: [seed]).0 == image)
    }

    /// A region goes away in the middle: what had come need not come again, and nothing of it is trusted.
    @Test func whatABrokenRebuildLeftIsUsed() async throws {
        let (a, _, manifest, name, image, _) = try await regions()
        let scratch = try Scratch()
        let locations = try await RegionReader(regions: [a]).locations(of: manifest, digest: name)
        let whole = ImageRebuild(manifest: manifest, locations: locations)
        // What is there of it: the first half, some of that wrong, and a hole.
        let path = "\(scratch.path)/image.sif"
        var half = Array(image[..<(image.count / 2)])
        half[70_000] ^= 1
        try Disk.replace(path, with: half)
        var rebuild = whole
        try rebuild.take(fromPartial: path)
        #expect(rebuild.quote.seedBytes > Int64(image.count / 4) && rebuild.quote.fetchBytes > Int64(image.count / 4) && !rebuild.isLocal)
        try await rebuild.write(to: "\(scratch.path)/out", from: RegionReader(regions: [a])) { _ in }
        #expect(try Disk.read("\(scratch.path)/out") == image)

        // One that fails for a reason that may pass leaves its file, any other takes it away.
        let gone = RegionReader(regions: [AwayStore()])
        for (keeps, stays) in [(true, true), (false, false)] {
            await #expect(throws: FarmError.self) {
                try await whole.write(to: "\(scratch.path)/left", from: gone, keepsRemains: keeps) { _ in }
            }
            #expect(Disk.exists("\(scratch.path)/left") == stays)
        }
        await #expect(throws: FarmError.self) {
            try await whole.write(to: "\(scratch.path)/left", from: RegionReader(regions: [MemoryStore()]), keepsRemains: true) { _ in }
        }
        #expect(!Disk.exists("\(scratch.path)/left"))
    }

    private static let sharingDirectory = ProcessInfo.processInfo.environment["SCIFERRY_REFLINK_DIR"]

    /// On a file system that shares blocks (`scripts/test --slow` mounts one) what lies there already takes no room twice.
    @Test(.enabled(if: sharingDirectory != nil)) func remainsTakeNoRoomTwice() async throws {
        let directory = "\(try #require(Self.sharingDirectory))/\(Nonce.hex(bytes: 4))"
        try Disk.makeDirectory(directory)
        var generator = SeededGenerator(9)
        let image = generator.bytes(24 << 20)
        let path = "\(directory)/left"
        try Disk.replace(path, with: image)
        let manifest = try ImageChunker.manifest(of: path, parameters: .standard)
        var rebuild = ImageRebuild(manifest: manifest, locations: [:])
        try rebuild.take(fromPartial: path)
        #expect(rebuild.isLocal)
        sync()
        let before = try Disk.freeBytes(at: directory)
        try await rebuild.write(to: "\(directory)/out", from: RegionReader(regions: [])) { _ in }
        sync()
        #expect(try Disk.read("\(directory)/out") == image)
        #expect(before - (try Disk.freeBytes(at: directory)) < 4 << 20)
    }

    @Test func aSeedIsCutOnceAsLongAsItStays() throws {
        let scratch = try Scratch()
        var generator = SeededGenerator(4)
        let (path, cache) = ("\(scratch.path)/seed", "\(scratch.path)/cache")
        try Disk.replace(path, with: generator.bytes(300_000))
        let index = SeedIndex(cache)
        let first = try index.manifest(of: path, parameters: .standard)
        #expect(try first == ImageChunker.manifest(of: path, parameters: .standard))
        let kept = try #require(try Disk.list(cache).first)
        let remembered = try Disk.read("\(cache)/\(kept)")
        #expect(try index.manifest(of: path, parameters: .standard) == first)
        try Disk.replace(path, with: generator.bytes(300_001))
        #expect(try index.manifest(of: path, parameters: .standard) != first)
        #expect(try Disk.list(cache) == [kept] && Disk.read("\(cache)/\(kept)") != remembered)
        // Damage, and a place that cannot be written to, cost time and nothing else.
        try Disk.replace("\(cache)/\(kept)", with: Array("rubbish".utf8))
        #expect(try index.manifest(of: path, parameters: .standard).size == 300_001)
        #expect(try SeedIndex("/proc/none").manifest(of: path, parameters: .standard).size == 300_001)
        #expect(throws: FarmError.self) { try index.manifest(of: scratch.path, parameters: .standard) }
    }

    @Test func manifestsThatDoNotAddUpAreRefused() throws {
        let chunk = ImageManifest.Chunk(digest: Digest(hashing: "x"), size: 5)
        var manifest = ImageManifest(image: Digest(hashing: "i"), size: 6, chunker: .standard, chunks: [chunk])
        #expect(throws: FarmError.self) { try ImageManifest(manifest.bytes, source: "m") }
        manifest.size = 5
        #expect(try ImageManifest(manifest.bytes, source: "m") == manifest)
        manifest.salt = [1, 2, 3]
        #expect(try ImageManifest(manifest.bytes, source: "m") == manifest)
        #expect(throws: FarmError.self) { try ImageManifest(manifest.bytes.dropLast(), source: "m") }
        #expect(throws: FarmError.self) { try ImageManifest(Array("SFMANIF3".utf8) + manifest.bytes.dropFirst(8), source: "m") }
    }
}

/// A bucket that nobody can reach.
private struct AwayStore: ObjectStore {
    let name = "memory:away"
    private var away: FarmError { FarmError("http.unreachable", .unavailable, "nobody answers") }

    func head(_ key: String) async throws -> ObjectInfo? { throw away }
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] { throw away }
    func put(_ key: String, _ source: ObjectSource) async throws { throw away }
    func delete(_ key: String) async throws { throw away }
    func list(prefix: String, after: String?) async throws -> ObjectPage { throw away }
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { throw away }

    /// Cut while it grows, in whatever steps, with its head written last: the same chunks as of the whole, and each is given once.
    @Test func anImageIsCutWhileItGrows() throws {
        for seed in 0..<12 {
            var generator = SeededGenerator(UInt64(seed))
            let scratch = try Scratch()
            let path = "\(scratch.path)/image"
            let size = 200_000 + Int(generator.next() % 3_000_000)
            var bytes = (0..<size).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
            if seed % 3 == 0 { for index in size / 3..<size / 2 { bytes[index] = 0 } }
            let head = 36864
            let file = try OpenFile(path, flags: O_RDWR | O_CREAT)
            var growing = GrowingImage(file, from: Int64(head), parameters: .standard)
            var given: [ImageChunker.Cut] = []
            var end = head
            while end < size - 5000 {
                let next = min(size - 5000, end + 1 + Int(generator.next() % 900_000))
                try file.write(Array(bytes[end..<next]), at: Int64(end))
                end = next
                given += try growing.advance(to: Int64(end))
            }
            try file.write(bytes, at: 0)
            let (manifest, new) = try growing.finish()
            let whole = try ImageChunker.manifest(of: path, parameters: .standard)
            #expect(manifest == whole, "seed \(seed)")
            let known = Set((given + new).map(\.chunk.digest))
            #expect(Set(whole.chunks.map(\.digest)).isSubset(of: known), "seed \(seed)")
            #expect(Set((given + new).map(\.offset)).count >= whole.chunks.count - 1)
            for cut in given + new { #expect(Digest(hashing: try file.read(at: cut.offset, count: cut.chunk.size)) == cut.chunk.digest) }
        }
    }
}
