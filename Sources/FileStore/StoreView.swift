import ChunkStore
import FarmModel
import ObjectStorage

/// What a bucket holds, at a moment: where its chunks lie, and what is condemned.
struct StoreView: Sendable {
    /// Indexes by their names.
    var indexes: [Digest: PackIndex] = [:]
    /// Indexes that were listed and could not be read whole, and why.
    var damaged: [(name: Digest, error: FarmError)] = []
    /// Since when keys are condemned.
    var condemned: [String: Timestamp] = [:]
    /// Packs that are there, by their keys, with their lengths.
    var packs: [String: Int64] = [:]

    private static let atOnce = 8

    /// Reads all indexes and marks.
    static func read(_ bucket: any ObjectStore) async throws -> StoreView {
        var view = StoreView()
        view.condemned = Condemnation.times(try await Condemnation.all(in: bucket))
        var names = try await bucket.all(prefix: "indexes/").compactMap { Digest($0.key.dropFirst("indexes/".count)) }[...]
        try await withThrowingTaskGroup(of: (Digest, Result<PackIndex, FarmError>)?.self) { tasks in
            var running = 0
            while running > 0 || !names.isEmpty {
                while running < atOnce, let name = names.popFirst() {
                    running += 1
                    tasks.addTask { try await index(name, bucket).map { (name, $0) } }
                }
                let found = try await tasks.next()
                running -= 1
                guard let (name, result) = found ?? nil else { continue }
                switch result {
                case .success(let index): view.indexes[name] = index
                case .failure(let error): view.damaged.append((name, error))
                }
            }
        }
        // Packs last: what the indexes list was there before them.
        for object in try await bucket.all(prefix: "packs/") { view.packs[object.key] = object.size }
        return view
    }

    /// An index; `nil` when it went away since it was listed.
    static func index(_ name: Digest, _ bucket: any ObjectStore) async throws -> Result<PackIndex, FarmError>? {
        do {
            let key = PackIndex.key(name)
            return .success(try PackIndex(try await RegionReader(regions: [bucket]).content(name, key: key), source: key))
        } catch let error as FarmError where error.category == .notFound {
            return nil
        } catch let error as FarmError where error.category == .corrupt {
            return .failure(error)
        }
    }

    /// The chunks that somebody may rely on, each with an index that locates it: one that is not condemned, and whose packs are all there and
    /// none condemned.
    ///
    /// The index as a whole, for whoever reads through it takes the first pack that it finds.
    func reliable() -> [Digest: Digest] {
        var chunks: [Digest: Digest] = [:]
        for (name, index) in indexes where condemned[PackIndex.key(name)] == nil {
            let isSound = index.listings.allSatisfy { listing in
                let key = Pack.key(listing.pack)
                return listing.entries.isEmpty || condemned[key] == nil && packs[key] == StoreSurvey.size(of: listing.entries)
            }
            guard isSound else { continue }
            for listing in index.listings { for entry in listing.entries { chunks[entry.digest] = name } }
        }
        return chunks
    }
}
