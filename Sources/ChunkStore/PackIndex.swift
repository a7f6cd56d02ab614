package import FarmModel

/// An immutable object that says, for a set of packs, where each of their chunks lies
/// (`docs/formats/chunk-store.md`, "Indexes").
package struct PackIndex: Sendable, Hashable {
    package struct Listing: Sendable, Hashable {
        package var pack: Digest
        package var entries: [PackEntry]

        package init(pack: Digest, entries: [PackEntry]) {
            self.pack = pack
            self.entries = entries
        }
    }

    package var listings: [Listing]

    package static let magic = Array("SFINDEX1".utf8)

    package init(listings: [Listing]) { self.listings = listings }

    /// The object's key.
    package static func key(_ digest: Digest) -> String { "indexes/\(digest.hex)" }

    /// The canonical bytes: packs in ascending order of their names.
    package var bytes: [UInt8] {
        var bytes = PackIndex.magic + Pack.bigEndian(UInt64(listings.count), bytes: 4)
        for listing in listings.sorted(by: { $0.pack < $1.pack }) {
            bytes += listing.pack.bytes + Pack.bigEndian(UInt64(listing.entries.count), bytes: 4)
            for entry in listing.entries { bytes += Pack.encode(entry) }
        }
        return bytes
    }

    /// Reads an index; throws `index.damaged`, naming `source`.
    package init(_ bytes: [UInt8], source: String) throws {
        func damaged(_ why: String) -> FarmError { FarmError("index.damaged", .corrupt, "\(source) is no index: \(why)") }
        guard bytes.count >= 12, Array(bytes.prefix(8)) == PackIndex.magic else { throw damaged("the magic is missing") }
        var position = 12
        var listings: [Listing] = []
        for _ in 0..<Int(Pack.integer(bytes, at: 8, bytes: 4)) {
            guard bytes.count - position >= 36, let pack = Digest(bytes: bytes[position..<position + 32]) else {
                throw damaged("it ends inside a pack's name")
            }
            let count = Int(Pack.integer(bytes, at: position + 32, bytes: 4))
            position += 36
            guard count <= (bytes.count - position) / Pack.entrySize else { throw damaged("it ends inside a listing") }
            var entries: [PackEntry] = []
            var end = Int64(Pack.magic.count)
            for number in 0..<count {
                let entry = try Pack.entry(bytes, at: position + number * Pack.entrySize, damaged)
                guard entry.offset == end, entry.range.upperBound <= Int64(Pack.largest) else {
                    throw damaged("an entry does not follow the one before")
                }
                end = entry.range.upperBound
                entries.append(entry)
            }
            position += count * Pack.entrySize
            listings.append(Listing(pack: pack, entries: entries))
        }
        guard position == bytes.count else { throw damaged("there are bytes behind its end") }
        self.listings = listings
    }
}
