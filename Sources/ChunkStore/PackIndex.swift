package import FarmModel
package import SystemIO

/// An immutable object that says, for a set of packs, where each of their chunks lies (`docs/formats/chunk-store.md`, "Indexes"). Its entries
/// are sorted, and a table says where those of each beginning lie: one small read finds a chunk. It is read in memory or from a file; then
/// only packs and table are in memory.
package struct PackIndex: Sendable {
    /// The chunks of one pack.
    package struct Listing: Sendable, Hashable {
        package var pack: Digest
        package var entries: [PackEntry]

        package init(pack: Digest, entries: [PackEntry]) {
            self.pack = pack
            self.entries = entries
        }
    }

    /// What an index says of a pack as a whole.
    package struct PackRecord: Sendable, Hashable {
        package var pack: Digest
        /// The pack's bytes.
        package var size: Int64
        package var chunks: Int
    }

    /// In ascending order of their names.
    package let packs: [PackRecord]
    private let layout: Layout
    /// For each beginning, how many entries there are up to its end.
    private let ends: [UInt32]
    private let storage: Storage

    private enum Storage: Sendable {
        case bytes([UInt8])
        /// Behind that many bytes of it.
        case file(OpenFile, Int64)

        func read(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
            switch self {
            case .bytes(let bytes): try bytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[range])) }
            case .file(let file, let start): try file.read(at: start + Int64(range.lowerBound), count: range.count).withUnsafeBytes(body)
            }
        }
    }

    /// How many chunks there are, those that lie twice counted twice.
    package var count: Int { layout.chunks }
    /// Bytes of the object.
    package var size: Int { layout.size }

    /// The object's key.
    package static func key(_ digest: Digest) -> String { "indexes/\(digest.hex)" }

    /// Reads an index; throws `index.damaged`, naming `source`.
    package init(_ bytes: [UInt8], source: String) throws { try self.init(.bytes(bytes), size: bytes.count, source: source) }

    /// Reads an index that a file holds, which must not change; throws `index.damaged`, naming `source`.
    package init(_ file: OpenFile, source: String) throws { try self.init(.file(file, 0), size: Int(try file.size()), source: source) }

    private init(_ storage: Storage, size: Int, source: String) throws {
        func damaged(_ why: String) -> FarmError { FarmError("index.damaged", .corrupt, "\(source) is no index: \(why)") }
        guard size >= Layout.headerSize else { throw damaged("it is too short") }
        var read: Layout?
        try storage.read(0..<Layout.headerSize) { read = Layout($0) }
        guard let layout = read else { throw damaged("the magic is missing") }
        // Before memory is taken for what it claims to hold.
        guard layout.size == size else { throw damaged("it has \(size) bytes, not \(layout.size)") }
        var packs: [PackRecord] = []
        try storage.read(Layout.headerSize..<layout.tableStart) { raw in
            packs.reserveCapacity(layout.packs)
            for number in 0..<layout.packs { packs.append(PackRecord(raw, at: number * Layout.packSize)) }
        }
        var ends: [UInt32] = []
        try storage.read(layout.tableStart..<layout.entriesStart) { raw in
            ends = (0..<raw.count / 4).map { UInt32(ByteFields.number(raw, at: 4 * $0, bytes: 4)) }
        }
        guard zip(packs, packs.dropFirst()).allSatisfy({ $0.pack < $1.pack }), packs.allSatisfy(\.isSound) else {
            throw damaged("its list of packs is wrong")
        }
        guard ends.last ?? 0 == UInt32(layout.chunks), zip(ends, ends.dropFirst()).allSatisfy({ $0 <= $1 }) else {
            throw damaged("its table is wrong")
        }
        (self.packs, self.layout, self.ends, self.storage) = (packs, layout, ends, storage)
        try checkEntries(damaged)
    }

    /// An index of nothing.
    package static let empty = PackIndex(
        packs: [], layout: Layout(packs: 0, chunks: 0), ends: [0], storage: .bytes(magic + [UInt8](repeating: 0, count: 12)))

    /// The same index, whose entries lie in a file behind that many bytes.
    package func moved(to file: OpenFile, at offset: Int64) throws -> PackIndex {
        try storage.read(0..<size) { try file.write($0, at: offset) }
        return PackIndex(packs: packs, layout: layout, ends: ends, storage: .file(file, offset))
    }

    private init(packs: [PackRecord], layout: Layout, ends: [UInt32], storage: Storage) {
        (self.packs, self.layout, self.ends, self.storage) = (packs, layout, ends, storage)
    }

    private func checkEntries(_ damaged: (String) -> FarmError) throws {
        var counts = [Int](repeating: 0, count: packs.count)
        var before: Entry?
        var number = 0
        try forEach { entry in
            guard Int(entry.pack) < packs.count, before.map({ $0 < entry }) ?? true, range(entry.key).contains(number) else {
                throw damaged("entry \(number) is out of order")
            }
            let end = packs[Int(entry.pack)].size - Int64(Pack.overhead(chunks: packs[Int(entry.pack)].chunks) - Pack.magic.count)
            guard entry.offset >= Pack.magic.count, entry.offset + entry.storedSize <= end, entry.storedSize <= entry.size else {
                throw damaged("entry \(number) is out of range")
            }
            counts[Int(entry.pack)] += 1
            (before, number) = (entry, number + 1)
        }
        guard counts == packs.map(\.chunks) else { throw damaged("its packs have other numbers of chunks") }
    }

    // MARK: looking up

    /// Where a chunk lies: in no pack, in one, or in several.
    package func locations(of digest: Digest) throws -> [ChunkLocation] { try places(of: digest).map(\.location) }

    /// Where a chunk lies, with the numbers of its entries.
    func places(of digest: Digest) throws -> [(number: Int, location: ChunkLocation)] {
        let key = ChunkKey(digest)
        let range = range(key)
        guard !range.isEmpty else { return [] }
        var found: [(Int, ChunkLocation)] = []
        try storage.read(layout.bytes(of: range)) { raw in
            var (low, high) = (0, range.count)
            while low < high {
                let middle = (low + high) / 2
                if ChunkKey(raw, at: middle * Layout.entrySize) < key { low = middle + 1 } else { high = middle }
            }
            while low < range.count {
                let entry = Entry(raw, at: low * Layout.entrySize)
                guard entry.key == key else { break }
                found.append((range.lowerBound + low, ChunkLocation(pack: packs[Int(entry.pack)].pack, entry: entry.named(digest))))
                low += 1
            }
        }
        return found
    }

    /// Entries with the beginning of a key.
    private func range(_ key: ChunkKey) -> Range<Int> {
        guard layout.chunks > 0 else { return 0..<0 }
        let beginning = layout.bits == 0 ? 0 : Int(key.high >> UInt64(64 - layout.bits))
        return (beginning == 0 ? 0 : Int(ends[beginning - 1]))..<Int(ends[beginning])
    }

    /// What it says of a pack; `nil` for one that it does not list.
    package func record(of pack: Digest) -> PackRecord? {
        var (low, high) = (0, packs.count)
        while low < high {
            let middle = (low + high) / 2
            if packs[middle].pack < pack { low = middle + 1 } else { high = middle }
        }
        return low < packs.count && packs[low].pack == pack ? packs[low] : nil
    }

    /// Passes on all entries in ascending order.
    func forEach(_ body: (Entry) throws -> Void) throws {
        for start in stride(from: 0, to: count, by: 16384) {
            let range = start..<min(start + 16384, count)
            try storage.read(layout.bytes(of: range)) { raw in
                for number in 0..<range.count { try body(Entry(raw, at: number * Layout.entrySize)) }
            }
        }
    }

    /// Entries from a number on, at most so many.
    func entries(from start: Int, most: Int) throws -> [Entry] {
        let range = start..<min(start + most, count)
        var entries: [Entry] = []
        entries.reserveCapacity(range.count)
        try storage.read(layout.bytes(of: range)) { raw in
            for number in 0..<range.count { entries.append(Entry(raw, at: number * Layout.entrySize)) }
        }
        return entries
    }
}

// MARK: the form of the object

/// The first 16 bytes of a chunk's digest: no two chunks share them but by an effort of 2 to the 64th.
struct ChunkKey: Hashable, Comparable, Sendable {
    var high: UInt64
    var low: UInt64

    init(_ digest: Digest) { (high, low) = (digest.leading, digest.following) }

    init(_ raw: UnsafeRawBufferPointer, at start: Int) {
        high = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: start, as: UInt64.self))
        low = UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: start + 8, as: UInt64.self))
    }

    static func < (left: ChunkKey, right: ChunkKey) -> Bool { (left.high, left.low) < (right.high, right.low) }
}

extension PackIndex {
    static let magic = Array("SFINDEX2".utf8)

    /// Where the parts of an index lie.
    struct Layout: Sendable {
        var packs: Int
        var chunks: Int

        static let headerSize = 16
        static let packSize = 40
        static let entrySize = 30
        /// Entries that share a beginning, in the mean at most.
        private static let share = 128

        init(packs: Int, chunks: Int) { (self.packs, self.chunks) = (packs, chunks) }

        init?(_ header: UnsafeRawBufferPointer) {
            guard header.prefix(8).elementsEqual(PackIndex.magic) else { return nil }
            packs = ByteFields.number(header, at: 8, bytes: 4)
            chunks = ByteFields.number(header, at: 12, bytes: 4)
        }

        /// How many bits of a chunk's key the table tells apart.
        var bits: Int {
            let shares = (chunks + Layout.share - 1) / Layout.share
            return shares <= 1 ? 0 : Int.bitWidth - (shares - 1).leadingZeroBitCount
        }
        var tableStart: Int { Layout.headerSize + packs * Layout.packSize }
        var entriesStart: Int { tableStart + 4 << bits }
        var size: Int { entriesStart + chunks * Layout.entrySize }

        func bytes(of entries: Range<Int>) -> Range<Int> {
            entriesStart + entries.lowerBound * Layout.entrySize..<entriesStart + entries.upperBound * Layout.entrySize
        }
    }

    /// One chunk in one pack.
    struct Entry: Comparable, Sendable {
        var key: ChunkKey
        /// The pack's number in the index.
        var pack: UInt32
        var offset: Int
        var storedSize: Int
        var size: Int

        init(key: ChunkKey, pack: Int, _ entry: PackEntry) {
            (self.key, self.pack) = (key, UInt32(pack))
            (offset, storedSize, size) = (Int(entry.offset), entry.storedSize, entry.size)
        }

        init(_ raw: UnsafeRawBufferPointer, at start: Int) {
            key = ChunkKey(raw, at: start)
            pack = UInt32(ByteFields.number(raw, at: start + 16, bytes: 4))
            offset = ByteFields.number(raw, at: start + 20, bytes: 4)
            storedSize = ByteFields.number(raw, at: start + 24, bytes: 3) + 1
            size = ByteFields.number(raw, at: start + 27, bytes: 3) + 1
        }

        func write(to bytes: inout [UInt8]) {
            bytes.append(number: Int(bitPattern: UInt(key.high)), bytes: 8)
            bytes.append(number: Int(bitPattern: UInt(key.low)), bytes: 8)
            bytes.append(number: Int(pack), bytes: 4)
            bytes.append(number: offset, bytes: 4)
            bytes.append(number: storedSize - 1, bytes: 3)
            bytes.append(number: size - 1, bytes: 3)
        }

        func named(_ digest: Digest) -> PackEntry { PackEntry(digest: digest, offset: Int64(offset), storedSize: storedSize, size: size) }

        static func < (left: Entry, right: Entry) -> Bool {
            (left.key.high, left.key.low, left.pack, left.offset) < (right.key.high, right.key.low, right.pack, right.offset)
        }
    }
}

extension PackIndex.PackRecord {
    init(_ raw: UnsafeRawBufferPointer, at start: Int) {
        pack = ByteFields.digest(raw, at: start)
        size = Int64(ByteFields.number(raw, at: start + 32, bytes: 4))
        chunks = ByteFields.number(raw, at: start + 36, bytes: 4)
    }

    /// Whether a pack of that length holds so many chunks.
    var isSound: Bool { size <= Int64(Pack.largest) && size >= Int64(Pack.overhead(chunks: chunks) + chunks) }

    func write(to bytes: inout [UInt8]) {
        bytes += pack.bytes
        bytes.append(number: Int(size), bytes: 4)
        bytes.append(number: chunks, bytes: 4)
    }
}
