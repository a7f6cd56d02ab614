import ChunkStore
import FarmModel
import Glibc
import ObjectStorage
import SystemIO

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
    /// Bytes of indexes that are held in memory; what is more lies in a file.
    private static let mostInMemory: Int64 = 16 << 20

    /// Reads all indexes and marks.
    static func read(_ bucket: any ObjectStore) async throws -> StoreView {
        var view = StoreView()
        view.condemned = Condemnation.times(try await Condemnation.all(in: bucket))
        let objects = try await bucket.all(prefix: "indexes/")
        var names = objects.compactMap { Digest($0.key.dropFirst("indexes/".count)) }[...]
        let spill = objects.reduce(0) { $0 + $1.size } > mostInMemory ? try StoreView.scratch() : nil
        var spilled: Int64 = 0
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
                case .success(let index):
                    guard let spill else {
                        view.indexes[name] = index
                        continue
                    }
                    let place = spilled
                    view.indexes[name] = try await Blocking.run { try index.moved(to: spill, at: place) }
                    spilled += Int64(index.size)
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

    private static func scratch() throws -> OpenFile {
        try OpenFile(nameless: getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp")
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
        let (indexes, holders) = (sound, owners)
        return try await Blocking.run {
            let source = "the index of all chunks"
            guard indexes.reduce(0, { $0 + Int64($1.size) }) > StoreView.mostInMemory else {
                return KnownChunks(chunks: try PackIndex(try PackIndex.merged(indexes), source: source), owners: holders)
            }
            let file = try StoreView.scratch()
            try PackIndex.merge(indexes, into: file)
            return KnownChunks(chunks: try PackIndex(file, source: source), owners: holders)
        }
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
