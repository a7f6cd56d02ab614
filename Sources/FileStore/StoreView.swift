import ChunkStore
import FarmModel
import ObjectStorage

/// What a bucket holds, at a moment: where its chunks lie, and what is condemned.
struct StoreView: Sendable {
    var shelf = IndexShelf()
    /// Indexes by their names.
    var indexes: [Digest: PackIndex] { shelf.indexes }
    /// Since when keys are condemned.
    var condemned: [String: Timestamp] = [:]
    /// Packs that are there, by their keys, with their lengths.
    var packs: [String: Int64] = [:]

    /// Reads all indexes and marks.
    static func read(_ bucket: any ObjectStore) async throws -> StoreView {
        var view = StoreView()
        view.condemned = Condemnation.times(try await Condemnation.all(in: bucket))
        let objects = try await bucket.all(prefix: "indexes/")
        view.shelf = try await IndexShelf.read(
            objects.compactMap { object in Digest(object.key.dropFirst("indexes/".count)).map { ($0, object.size) } },
            from: RegionReader(regions: [bucket]))
        // Packs last: what the indexes list was there before them.
        for object in try await bucket.all(prefix: "packs/") { view.packs[object.key] = object.size }
        return view
    }

    /// The chunks that somebody may rely on: those of indexes that are not condemned, and whose packs are all there and none condemned.
    func reliable() async throws -> KnownChunks {
        var sound: [PackIndex] = []
        var owners: [Digest: Digest] = [:]
        for (name, index) in indexes where condemned[PackIndex.key(name)] == nil {
            let packs = index.packs.filter { $0.chunks > 0 }
            let isSound = packs.allSatisfy { condemned[Pack.key($0.pack)] == nil && self.packs[Pack.key($0.pack)] == $0.size }
            guard isSound else { continue }
            sound.append(index)
            for record in packs { owners[record.pack] = name }
        }
        return KnownChunks(chunks: try await IndexShelf.merged(sound), owners: owners)
    }
}

/// Chunks of a store that an addition may rely on.
struct KnownChunks: Sendable {
    fileprivate let chunks: PackIndex
    /// An index that lists a pack, whole: whoever reads through it takes the first of its packs that has a chunk.
    fileprivate let owners: [Digest: Digest]

    func has(_ chunk: Digest) throws -> Bool { try !chunks.locations(of: chunk).isEmpty }

    /// A pack that has the chunk, and an index that lists it.
    func holder(of chunk: Digest) throws -> (pack: Digest, index: Digest)? {
        guard let pack = try chunks.locations(of: chunk).first?.pack, let index = owners[pack] else { return nil }
        return (pack, index)
    }
}
