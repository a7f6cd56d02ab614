package import ChunkStore
import FarmModel
import Glibc
package import ObjectStorage
import Synchronization
import SystemIO

/// Any files in a bucket, each chunk once, without a farm.
///
/// Writers need no lock: objects are named by their content, a file's pointer is written last, and what a collection takes away is
/// condemned long before (see `Condemnation`).
package struct FileStore: Sendable {
    package let bucket: any ObjectStore
    package let chunker: ChunkerParameters

    /// Hours for which condemned objects stay.
    package static let grace: Double = 24

    /// Opens a bucket; throws `store.absent` for one that holds no store and `store.foreign` for a farm's.
    package init(_ bucket: any ObjectStore) async throws {
        guard try await bucket.head(StoreHeader.key) != nil else {
            throw FarmError("store.absent", .notFound, "\(bucket.name) holds no store", hint: "sciferry store add makes one")
        }
        let source = "\(StoreHeader.key) in \(bucket.name)"
        let header = try CanonicalJSON.decode(StoreHeader.self, from: try await bucket.get(StoreHeader.key), source: source)
        guard header.format == StoreHeader.currentFormat else {
            throw FarmError("store.format", .invalid, "\(source) has format \(header.format), which this version does not know")
        }
        guard header.farm.isEmpty else {
            throw FarmError(
                "store.foreign", .conflict, "\(bucket.name) belongs to the farm \(header.farm), which alone may change it",
                hint: "give files a bucket of their own")
        }
        try header.chunker.check()
        self.bucket = bucket
        chunker = header.chunker
    }

    /// Opens a bucket, which becomes a store if it is none.
    ///
    /// - Parameter chunker: of a new store; an old one keeps its own.
    package static func open(_ bucket: any ObjectStore, making chunker: ChunkerParameters) async throws -> FileStore {
        if try await bucket.head(StoreHeader.key) == nil {
            try chunker.check()
            guard try await bucket.list(prefix: "", after: nil).objects.isEmpty else {
                throw FarmError(
                    "store.foreign", .conflict, "\(bucket.name) is not empty and holds no store", hint: "give the store a bucket of its own"
                )
            }
            try await bucket.put(StoreHeader.key, try CanonicalJSON.encode(StoreHeader(farm: "", chunker: chunker)))
        }
        return try await FileStore(bucket)
    }

    // MARK: files

    /// All files, by name.
    package func files() async throws -> [StoredFile] {
        var files: [StoredFile] = []
        for object in try await bucket.all(prefix: StoredFile.keys) {
            if let file = try await file(at: object.key) { files.append(file) }
        }
        return files.sorted { $0.name < $1.name }
    }

    /// One file; throws `file.absent`.
    package func file(_ name: String) async throws -> StoredFile {
        guard let file = try await file(at: try StoredFile.key(name)) else {
            throw FarmError(
                "file.absent", .notFound, "\(bucket.name) has no file \(name.printable())", hint: "sciferry store list shows what it has")
        }
        return file
    }

    private func file(at key: String) async throws -> StoredFile? {
        do { return try StoredFile.read(try await bucket.get(key), key: key) } catch let error as FarmError
            where error.category == .notFound
        {
            return nil
        }
    }

    /// Forgets a file. Its chunks stay until a collection finds that no other file has them.
    package func remove(_ name: String) async throws {
        _ = try await file(name)
        try await bucket.delete(try StoredFile.key(name))
    }

    // MARK: adding

    /// What an addition came to.
    package struct Addition: Codable, Sendable, Hashable {
        package var file: StoredFile
        package var chunks: Int
        package var newChunks: Int
        /// Of new chunks, as they were.
        package var newBytes: Int64
        /// What was sent, packs alone.
        package var sentBytes: Int64
        /// Packs that a broken addition had left.
        package var packsFound: Int
    }

    /// Takes a file in.
    ///
    /// - Parameters:
    ///   - jobs: parts that are hashed and compressed at once.
    ///   - level: zstd's.
    ///   - grace: hours for which collections of this store leave what they condemned.
    ///   - progress: called with the bytes that are done.
    package func add(
        _ path: String, as name: String, jobs: Int, level: Int32 = 3, grace: Double = FileStore.grace,
        progress: @escaping (Int64) -> Void = { _ in }
    ) async throws -> Addition {
        let key = try StoredFile.key(name)
        let source = try OpenFile(path, flags: O_RDONLY)
        defer { source.close() }
        let facts = try source.facts()
        guard facts.isRegular else { throw FarmError("file.kind", .usage, "\(path) is no regular file", hint: "pack a directory with tar") }
        let ingest = try ChunkIngest(parameters: chunker, level: level, jobs: jobs)
        var last: FarmError?
        for _ in 0..<3 {
            let start = Timestamp.now
            let places = try await StoreView.read(bucket).reliable()
            let found = Atomic<Int>(0)
            let outcome = try await ingest.run(
                source,
                to: ChunkIngest.Store(
                    has: { places[$0] != nil }, image: { try await image(of: $0, first: key) },
                    send: { pack in
                        if try await bucket.head(Pack.key(pack.digest))?.size == Int64(pack.bytes.count) {
                            found.add(1, ordering: .relaxed)
                        } else {
                            try await bucket.put(Pack.key(pack.digest), pack.bytes)
                        }
                    }), progress: progress)
            guard try source.facts() == facts else {
                throw FarmError("file.changed", .conflict, "\(path) changed while it was read", hint: "add it again when nobody writes it")
            }
            let (manifest, keys) = try await describe(outcome, places)
            // What is on its way out when the pointer is written would be gone when somebody reads.
            if let lost = try await endangered(keys, since: start, grace: grace) {
                last = FarmError(
                    "store.collected", .unavailable, "a collection is taking \(lost) away while the file is added", hint: "add it again")
                continue
            }
            let file = StoredFile(
                name: name, manifest: manifest, digest: outcome.manifest.image, size: outcome.manifest.size,
                chunks: StoredFile.digest(of: outcome.manifest.chunks), mode: facts.mode, modified: facts.modified, added: .now)
            try await bucket.put(key, try CanonicalJSON.encode(file))
            return Addition(
                file: file, chunks: outcome.manifest.chunks.count, newChunks: outcome.newChunks, newBytes: outcome.newBytes,
                sentBytes: outcome.storedBytes, packsFound: found.load(ordering: .relaxed))
        }
        throw last ?? FarmError("store.collected", .unavailable, "collections take away what is added", hint: "add it again")
    }

    /// Writes what says where a file's chunks lie: index, manifest, cover. Gives the manifest's name and all keys that the file relies on.
    private func describe(_ outcome: ChunkIngest.Outcome, _ places: [Digest: StoreView.Place]) async throws -> (Digest, Set<String>) {
        let (manifest, own) = (outcome.manifest, Set(outcome.listings.flatMap { $0.entries.map(\.digest) }))
        let relied = Set(manifest.chunks.lazy.filter { !own.contains($0.digest) }.compactMap { places[$0.digest] })
        var indexes = Set(relied.map(\.index))
        if !outcome.listings.isEmpty {
            let bytes = PackIndex(listings: outcome.listings).bytes
            let name = Digest(hashing: bytes)
            try await bucket.put(PackIndex.key(name), bytes)
            indexes.insert(name)
        }
        let document = try CanonicalJSON.encode(manifest)
        let name = Digest(hashing: document)
        try await bucket.put(ImageManifest.key(name), document)
        try await bucket.put(ImageManifest.coverKey(name), try CanonicalJSON.encode(ManifestCover(indexes: indexes.sorted())))
        let packs = Set(relied.map(\.pack)).union(outcome.listings.map(\.pack))
        return (
            name, Set(packs.map(Pack.key) + indexes.map(PackIndex.key) + [ImageManifest.key(name), ImageManifest.coverKey(name)])
        )
    }

    /// One of the objects that a collection takes or has taken away, before anybody could see that they are needed.
    ///
    /// - Parameter start: when it was looked what is there.
    private func endangered(_ keys: Set<String>, since start: Timestamp, grace: Double) async throws -> String? {
        let condemned = Condemnation.times(try await Condemnation.all(in: bucket))
        if let key = keys.first(where: { condemned[$0].map { Timestamp.now.seconds(since: $0) > grace * 1800 } ?? false }) { return key }
        guard Timestamp.now.seconds(since: start) > grace * 1800 else { return nil }
        // So long that something may have been condemned and gone, with its mark.
        for key in keys where try await bucket.head(key) == nil { return key }
        return nil
    }

    /// The digest of a file of these chunks, if one is here.
    private func image(of chunks: [ImageManifest.Chunk], first key: String) async throws -> Digest? {
        let list = StoredFile.digest(of: chunks)
        if let file = try await file(at: key), file.chunks == list { return file.digest }
        return try await files().first { $0.chunks == list }?.digest
    }

    // MARK: restoring

    /// Plans the writing of a file.
    ///
    /// - Parameters:
    ///   - others: further buckets with the same objects, asked where this one fails.
    ///   - seeds: files on this machine that may share chunks.
    package func restoration(
        of file: StoredFile, others: [any ObjectStore] = [], seeds: [String] = []
    ) async throws -> (rebuild: ImageRebuild, reader: RegionReader) {
        let reader = RegionReader(regions: [bucket] + others)
        let manifest = try await reader.manifest(file.manifest)
        guard manifest.image == file.digest, manifest.size == file.size else {
            throw FarmError("file.pointer", .corrupt, "the pointer of \(file.name.printable()) and its manifest disagree")
        }
        let locations = try await reader.locations(of: manifest, digest: file.manifest)
        let parameters = manifest.chunker
        var cut: [ImageRebuild.Seed] = []
        for path in seeds {
            cut.append(.init(path: path, manifest: try await Blocking.run { try ImageChunker.manifest(of: path, parameters: parameters) }))
        }
        return (ImageRebuild(manifest: manifest, locations: locations, seeds: cut), reader)
    }

    /// Writes a planned file to `path`, whole or not at all, with its permissions and time.
    package static func restore(
        _ file: StoredFile, _ plan: (rebuild: ImageRebuild, reader: RegionReader), to path: String,
        progress: @escaping @Sendable (Int64) -> Void = { _ in }
    ) async throws {
        let temporary = "\(path).part-\(Nonce.hex(bytes: 6))"
        try await plan.rebuild.write(to: temporary, from: plan.reader, checksWhole: false, progress: progress)
        do {
            try Disk.setFacts(temporary, mode: file.mode, modified: file.modified)
            try Disk.rename(temporary, to: path)
        } catch {
            unlink(temporary)
            throw error
        }
    }
}
