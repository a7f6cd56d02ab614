package import FarmModel
import SystemIO
import Zstandard

/// How a chunk's bytes are stored.
package enum ChunkCodec: UInt8, Sendable, Hashable {
    case raw = 0
    case zstd = 1
}

/// Where one chunk lies in a pack.
package struct PackEntry: Sendable, Hashable {
    package var digest: Digest
    /// Bytes from the pack's start.
    package var offset: Int64
    /// No more than `size`; as many where the chunk lies as it is.
    package var storedSize: Int
    package var size: Int

    package init(digest: Digest, offset: Int64, storedSize: Int, size: Int) {
        self.digest = digest
        self.offset = offset
        self.storedSize = storedSize
        self.size = size
    }

    /// What does not shrink is stored raw.
    package var codec: ChunkCodec { storedSize < size ? .zstd : .raw }

    /// The bytes of this chunk as they lie in the pack.
    package var range: Range<Int64> { offset..<offset + Int64(storedSize) }

    /// Undoes the codec and checks the digest; throws `chunk.damaged`.
    ///
    /// - Parameter source: where the bytes came from, for the message.
    package func open(_ stored: UnsafeRawBufferPointer, source: String) throws -> [UInt8] {
        let bytes = try decode(stored, source)
        guard Digest(hashing: bytes) == digest else { throw damaged(source) }
        return bytes
    }

    /// The same for several chunks at once, which is faster.
    ///
    /// - Parameter stored: the bytes of each, as they lie in the pack.
    static func open(_ entries: [PackEntry], _ stored: (PackEntry) throws -> UnsafeRawBufferPointer, source: String) throws -> [[UInt8]] {
        let chunks = try entries.map { try $0.decode(try stored($0), source) }
        let digests = Digest.several(borrowing: chunks)
        for (entry, digest) in zip(entries, digests) where entry.digest != digest { throw entry.damaged(source) }
        return chunks
    }

    private func damaged(_ source: String) -> FarmError {
        FarmError("chunk.damaged", .corrupt, "chunk \(digest.short) at byte \(offset) of \(source) is damaged")
    }

    /// Undoes the codec.
    private func decode(_ stored: UnsafeRawBufferPointer, _ source: String) throws -> [UInt8] {
        guard stored.count == storedSize else { throw damaged(source) }
        switch codec {
        case .raw: return Array(stored)
        case .zstd:
            guard let opened = try? Zstandard.decompress(stored, size: size), opened.count == size else { throw damaged(source) }
            return opened
        }
    }
}

/// An immutable object that holds many chunks (`docs/formats/chunk-store.md`, "Packs"): magic, stored chunks, a table
/// of 38-byte entries, the table's length and the magic again. Its name is the SHA-256 of all of it.
package enum Pack {
    package static let magic = Array("SFPACK2\n".utf8)
    static let entrySize = 38
    /// No chunk and no table of ours comes near this.
    package static let largest = 1 << 30
    /// A larger chunk is refused before it is opened: a small frame may claim to hold much.
    package static let largestChunk = 16 << 20

    /// The object's key.
    package static func key(_ digest: Digest) -> String { "packs/\(digest.hex.prefix(2))/\(digest.hex)" }

    /// Bytes of a pack that are none of its chunks'.
    static func overhead(chunks: Int) -> Int { 2 * magic.count + 4 + chunks * entrySize }

    /// The length of a pack with these chunks.
    package static func size(of entries: [PackEntry]) -> Int64 {
        Int64(overhead(chunks: entries.count)) + entries.reduce(0) { $0 + Int64($1.storedSize) }
    }

    /// Reads the table of a whole pack; throws `pack.damaged`, naming `source`.
    package static func entries(of pack: [UInt8], source: String) throws -> [PackEntry] {
        func damaged(_ why: String) -> FarmError { FarmError("pack.damaged", .corrupt, "\(source) is no pack: \(why)") }
        let footer = magic.count + 4
        guard pack.count >= magic.count + footer, pack.count <= largest, Array(pack.prefix(magic.count)) == magic,
            Array(pack.suffix(magic.count)) == magic
        else { throw damaged("the magic is missing") }
        return try pack.withUnsafeBytes { raw in
            let count = ByteFields.number(raw, at: pack.count - footer, bytes: 4)
            let tableStart = pack.count - footer - count * entrySize
            guard count <= pack.count / entrySize, tableStart >= magic.count else { throw damaged("the table is too long") }
            var entries: [PackEntry] = []
            entries.reserveCapacity(count)
            var end = Int64(magic.count)
            for number in 0..<count {
                let start = tableStart + number * entrySize
                let entry = PackEntry(
                    digest: ByteFields.digest(raw, at: start), offset: end,
                    storedSize: ByteFields.number(raw, at: start + 32, bytes: 3) + 1,
                    size: ByteFields.number(raw, at: start + 35, bytes: 3) + 1)
                guard entry.storedSize <= entry.size else { throw damaged("entry \(number) has more bytes than its chunk") }
                end = entry.range.upperBound
                entries.append(entry)
            }
            guard end == Int64(tableStart) else { throw damaged("its chunks do not end where its table begins") }
            return entries
        }
    }

    static func append(_ entry: PackEntry, to bytes: inout [UInt8]) {
        bytes += entry.digest.bytes
        bytes.append(number: entry.storedSize - 1, bytes: 3)
        bytes.append(number: entry.size - 1, bytes: 3)
    }
}

/// A chunk as a pack holds it.
package struct StoredChunk: Sendable {
    package let digest: Digest
    /// Opened.
    package let size: Int
    package let bytes: ArraySlice<UInt8>
}

/// Brings chunks into the form that packs hold; one thread at a time.
package final class ChunkPacker {
    private let compressor = Zstandard.Compressor()
    private let level: Int32

    /// - Parameter level: zstd's, for chunks that shrink.
    package init(level: Int32 = 3) { self.level = level }

    /// Whether compressing may be worth its while: not where 4 KiB out of sixteen places have all bytes equally often, as images' blocks do,
    /// which are compressed already. 256 values in n random bytes give a sum of squared counts of n + n (n - 1) / 256; a twentieth more than
    /// that is far from chance.
    private static func mayShrink(_ bytes: UnsafeRawBufferPointer) -> Bool {
        let (places, piece) = (16, 256)
        guard bytes.count >= 2 * places * piece else { return true }
        return withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 256) { counts in
            counts.initialize(repeating: 0)
            for number in 0..<places {
                let start = (bytes.count - piece) / (places - 1) * number
                for byte in bytes[start..<start + piece] { counts[Int(byte)] += 1 }
            }
            let squares = counts.reduce(UInt64(0)) { $0 + UInt64($1) * UInt64($1) }
            let n = UInt64(places * piece)
            return squares > (n + n * (n - 1) / 256) * 21 / 20
        }
    }

    /// Compresses a chunk where that saves at least a sixty-fourth.
    package func pack(_ digest: Digest, _ bytes: ArraySlice<UInt8>) throws -> StoredChunk {
        guard bytes.withUnsafeBytes(ChunkPacker.mayShrink) else {
            return StoredChunk(digest: digest, size: bytes.count, bytes: bytes)
        }
        let packed = try bytes.withUnsafeBytes { try Zstandard.compress($0, level: level, using: compressor) }
        if packed.count > bytes.count - bytes.count / 64 {
            return StoredChunk(digest: digest, size: bytes.count, bytes: bytes)
        }
        return StoredChunk(digest: digest, size: bytes.count, bytes: packed[...])
    }
}

/// A pack that takes no more chunks.
package struct FinishedPack: Sendable {
    package let digest: Digest
    package let bytes: [UInt8]
    package let entries: [PackEntry]

    /// Hashes the pack for its name.
    package init(_ pack: PackBuilder.Closed) {
        digest = Digest(hashing: pack.bytes)
        (bytes, entries) = (pack.bytes, pack.entries)
    }

    /// The same chunks under another name: with one more, random and of no use.
    package func renamed() -> FinishedPack {
        let salt = Nonce.bytes(16)
        let end = entries.last?.range.upperBound ?? Int64(Pack.magic.count)
        let entry = PackEntry(digest: Digest(hashing: salt), offset: end, storedSize: salt.count, size: salt.count)
        return FinishedPack(PackBuilder.Closed(body: Array(bytes[..<Int(end)]) + salt, entries: entries + [entry]))
    }
}

/// Gathers chunks until a pack is full.
package struct PackBuilder: Sendable {
    /// Packs are closed when they reach this size.
    package static let fullSize = 32 << 20

    private var body: [UInt8] = Pack.magic
    private var entries: [PackEntry] = []

    package init() {}

    package var isEmpty: Bool { entries.isEmpty }
    package var size: Int { body.count + Pack.overhead(chunks: entries.count) - Pack.magic.count }

    /// A pack without its name.
    package struct Closed: Sendable {
        fileprivate let bytes: [UInt8]
        fileprivate let entries: [PackEntry]

        fileprivate init(body: consuming [UInt8], entries: [PackEntry]) {
            var bytes = body
            for entry in entries { Pack.append(entry, to: &bytes) }
            bytes.append(number: entries.count, bytes: 4)
            bytes += Pack.magic
            (self.bytes, self.entries) = (bytes, entries)
        }
    }

    /// Puts a chunk behind those that are there.
    package mutating func add(_ chunk: StoredChunk) {
        if entries.isEmpty { body.reserveCapacity(PackBuilder.fullSize + PackBuilder.fullSize / 16) }
        entries.append(
            PackEntry(
                digest: chunk.digest, offset: Int64(body.count), storedSize: chunk.bytes.count, size: chunk.size))
        body += chunk.bytes
    }

    /// The pack, which only lacks its name; the builder is empty afterwards.
    package mutating func close() -> Closed {
        var (bytes, chunks) = (Pack.magic, [PackEntry]())
        swap(&bytes, &body)
        swap(&chunks, &entries)
        return Closed(body: bytes, entries: chunks)
    }

    /// The finished pack with its name; the builder is empty afterwards.
    package mutating func finish() -> FinishedPack { FinishedPack(close()) }
}
