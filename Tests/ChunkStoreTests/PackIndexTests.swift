import ChunkStore
import FarmModel
import Support
import SystemIO
import Testing

/// Where chunks lie, among few and many.
@Suite struct PackIndexTests {
    /// Listings of packs whose chunks have random names.
    private func listings(_ packs: Int, chunks: Int, seed: UInt64) -> [PackIndex.Listing] {
        var generator = SeededGenerator(seed)
        return (0..<packs).map { number in
            var offset = Int64(Pack.magic.count)
            let entries = (0..<chunks).map { _ in
                let size = 1 + Int(generator.next() % 32768)
                let stored = generator.next() % 2 == 0 ? size : 1 + size / 2
                defer { offset += Int64(stored) }
                return PackEntry(digest: Digest(hashing: generator.bytes(8)), offset: offset, storedSize: stored, size: size)
            }
            return .init(pack: Digest(hashing: "\(seed) \(number)"), entries: entries)
        }
    }

    private func check(_ index: PackIndex, _ listings: [PackIndex.Listing]) throws {
        #expect(index.packs.map(\.pack) == listings.map(\.pack).sorted())
        #expect(index.count == listings.reduce(0) { $0 + $1.entries.count })
        for listing in listings {
            #expect(index.record(of: listing.pack)?.size == Pack.size(of: listing.entries))
            for entry in listing.entries {
                #expect(try index.locations(of: entry.digest) == [ChunkLocation(pack: listing.pack, entry: entry)])
            }
        }
        #expect(try index.locations(of: Digest(hashing: "of nobody")).isEmpty)
        #expect(index.record(of: Digest(hashing: "of nobody")) == nil)
    }

    @Test(arguments: [(0, 0), (1, 0), (1, 1), (3, 50), (2, 64), (1, 129), (7, 1000)])
    func everyChunkIsFound(_ packs: Int, _ chunks: Int) throws {
        let listings = listings(packs, chunks: chunks, seed: 1)
        let bytes = try PackIndex.bytes(of: listings)
        #expect(try PackIndex.bytes(of: listings.reversed()) == bytes)
        try check(try PackIndex(bytes, source: "i"), listings)
    }

    @Test func manyIndexesBecomeOne() throws {
        let scratch = try Scratch()
        let parts = (0..<9).map { listings(1 + $0 % 3, chunks: $0 * 2000, seed: UInt64($0)) }
        let indexes = try parts.map { try PackIndex(try PackIndex.bytes(of: $0), source: "i") }
        let all = parts.flatMap(\.self)
        let merged = try PackIndex.merged(indexes + [indexes[8]])
        #expect(try merged == PackIndex.bytes(of: all))

        let file = try OpenFile(nameless: scratch.path)
        try PackIndex.merge(indexes, into: file)
        let read = try PackIndex(file, source: "f")
        try check(read, all)
        #expect(read.size == merged.count)

        let wanted = [parts[3][0], parts[8][1]]
        let some = try PackIndex.merged([indexes[3], read], only: Set(wanted.map(\.pack)))
        #expect(try some == PackIndex.bytes(of: wanted))
        try check(try PackIndex(some, source: "s").moved(to: file, at: 1 << 22), wanted)
    }

    @Test func aChunkThatLiesTwiceIsFoundTwice() throws {
        let entry = PackEntry(digest: Digest(hashing: "c"), offset: 8, storedSize: 5, size: 9)
        let packs = [Digest(hashing: "a"), Digest(hashing: "b")]
        let index = try PackIndex(try PackIndex.bytes(of: packs.map { .init(pack: $0, entries: [entry]) }), source: "i")
        #expect(try index.locations(of: entry.digest) == packs.sorted().map { ChunkLocation(pack: $0, entry: entry) })
    }

    /// What an index claims is checked before memory is taken and before anybody relies on it.
    @Test func liesAreRefused() throws {
        let bytes = try PackIndex.bytes(of: listings(2, chunks: 300, seed: 3))
        #expect(throws: FarmError.self) { try PackIndex(bytes.dropLast(), source: "i") }
        #expect(throws: FarmError.self) { try PackIndex([], source: "i") }
        var refused = 0
        for position in stride(from: 0, to: bytes.count, by: 7) {
            var changed = bytes
            changed[position] ^= 0x80
            if (try? PackIndex(changed, source: "i")) == nil { refused += 1 }
        }
        // What is left are bytes of digests and of lengths that still are possible.
        #expect(refused > bytes.count / 7 / 4)
        var many = bytes
        many.replaceSubrange(12..<16, with: [0xFF, 0xFF, 0xFF, 0xFF])
        #expect { try PackIndex(many, source: "i") } throws: { ($0 as? FarmError)?.code == "index.damaged" }
    }
}
