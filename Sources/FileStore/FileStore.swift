package import ChunkStore
package import FarmModel
import Glibc
package import ObjectStorage
import Synchronization
import SystemIO

/// Any files in a bucket, each chunk once, without a farm.
///
/// Writers need no lock: objects are named by their content, a file's pointer is written last, and what a collection takes away is
/// condemned long before (`docs/formats/chunk-store.md`, "Files without a farm", has the rules).
package struct FileStore: Sendable {
    /// Where it lies.
    package let bucket: any ObjectStore
    /// The sizes of its chunks, for good.
    package let chunker: ChunkerParameters
    /// The farm whose bucket it is, to be looked at and repaired but changed by the farm alone; empty for a store of files.
    package let farm: String
    let clock: @Sendable () -> Timestamp
    private let packSize: Int

    /// Hours for which condemned objects stay; no addition takes longer than half of it to point at what it relies on.
    package static let grace: Double = 24

    /// Opens a bucket; throws `store.absent` for one that holds no store and `store.foreign` for a farm's.
    ///
    /// - Parameters:
    ///   - packSize: bytes at which new packs are closed.
    ///   - takesFarms: whether a farm's bucket will do: for looking and repairing.
    package init(
        _ bucket: any ObjectStore, packSize: Int = PackBuilder.fullSize, takesFarms: Bool = false,
        clock: @escaping @Sendable () -> Timestamp = { .now }
    ) async throws {
        guard try await bucket.head(StoreHeader.key) != nil else {
            throw FarmError("store.absent", .notFound, "\(bucket.name) holds no store", hint: "sciferry store add makes one")
        }
        let source = "\(StoreHeader.key) in \(bucket.name)"
        let header = try CanonicalJSON.decode(StoreHeader.self, from: try await bucket.get(StoreHeader.key), source: source)
        guard header.format == StoreHeader.currentFormat else {
            throw FarmError("store.format", .invalid, "\(source) has format \(header.format), which this version does not know")
        }
        guard header.farm.isEmpty || takesFarms else {
            throw FarmError(
                "store.foreign", .conflict, "\(bucket.name) belongs to the farm \(header.farm), which alone may change it",
                hint: "give files a bucket of their own")
        }
        try header.chunker.check()
        guard header.chunker.maximum <= Pack.largestChunk else {
            throw FarmError("chunk.parameters", .invalid, "\(source) has larger chunks than packs hold")
        }
        (self.bucket, self.farm, self.clock, self.packSize) = (bucket, header.farm, clock, packSize)
        chunker = header.chunker
    }

    /// Opens a bucket, which becomes a store if it is none.
    ///
    /// - Parameter chunker: of a new store; an old one keeps its own.
    package static func open(
        _ bucket: any ObjectStore, making chunker: ChunkerParameters, packSize: Int = PackBuilder.fullSize,
        clock: @escaping @Sendable () -> Timestamp = { .now }
    ) async throws -> FileStore {
        if try await bucket.head(StoreHeader.key) == nil {
            try chunker.check()
            let isEmpty = try await bucket.list(prefix: "", after: nil).objects.isEmpty
            // Somebody else may have made it since.
            if isEmpty {
                let header = StoreHeader(farm: "", chunker: chunker, store: Nonce.hex(bytes: 16))
                try await bucket.put(StoreHeader.key, try CanonicalJSON.encode(header))
            } else if try await bucket.head(StoreHeader.key) == nil {
                throw FarmError(
                    "store.foreign", .conflict, "\(bucket.name) is not empty and holds no store", hint: "give the store a bucket of its own"
                )
            }
        }
        return try await FileStore(bucket, packSize: packSize, clock: clock)
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
        guard let file = try await file(at: try StoredFile.key(name)) else { throw absent(name) }
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
        // One that is damaged can be forgotten, too.
        let key = try StoredFile.key(name)
        guard try await bucket.head(key) != nil else { throw absent(name) }
        try await bucket.delete(key)
    }

    private func absent(_ name: String) -> FarmError {
        FarmError(
            "file.absent", .notFound, "\(bucket.name) has no file \(name.printable())", hint: "sciferry store list shows what it has")
    }

    // MARK: adding

    /// What an addition came to.
    package struct Addition: Codable, Sendable, Hashable {
        package var file: StoredFile
        package var chunks: Int
        package var newChunks: Int
        /// Of new chunks, as they were.
        package var newBytes: Int64
        /// Of the packs of new chunks.
        package var sentBytes: Int64
        /// Packs that a broken addition had left.
        package var packsFound: Int
        /// Whether another file of that name was there before.
        package var replaces: Bool
    }

    /// Takes a file in.
    ///
    /// - Parameters:
    ///   - jobs: parts that are hashed and compressed at once.
    ///   - level: zstd's.
    ///   - progress: called with the bytes that are done.
    package func add(
        _ path: String, as name: String, jobs: Int, level: Int32 = 3, progress: @escaping (Int64) -> Void = { _ in }
    ) async throws -> Addition {
        let key = try StoredFile.key(name)
        let source = try OpenFile(path, flags: O_RDONLY)
        defer { source.close() }
        let facts = try source.facts()
        guard facts.isRegular else { throw FarmError("file.kind", .usage, "\(path) is no regular file", hint: "pack a directory with tar") }
        let ingest = try ChunkIngest(parameters: chunker, level: level, jobs: jobs, packSize: packSize)
        for _ in 0..<3 {
            let start = clock()
            let view = try await StoreView.read(bucket)
            let known = try await view.reliable()
            let found = Atomic<Int>(0)
            let outcome = try await ingest.run(
                source,
                to: ChunkIngest.Store(
                    has: { try known.has($0) }, image: { try await image(of: $0, first: key) },
                    send: { try await put($0, view.condemned, found) }), progress: progress)
            guard try source.facts() == facts else {
                throw FarmError("file.changed", .conflict, "\(path) changed while it was read", hint: "add it again when nobody writes it")
            }
            // What has become useless meanwhile may be gone by now; at the second time nearly all of it is there.
            guard isInTime(start) else { continue }
            guard let manifest = try await describe(outcome, known, view, since: start), isInTime(start) else { continue }
            let before = try? await self.file(at: key)
            let file = StoredFile(
                name: name, manifest: manifest, digest: outcome.manifest.image, size: outcome.manifest.size,
                chunks: StoredFile.digest(of: outcome.manifest.chunks), mode: facts.mode, modified: facts.modified, added: clock())
            try await bucket.put(key, try CanonicalJSON.encode(file))
            return Addition(
                file: file, chunks: outcome.manifest.chunks.count, newChunks: outcome.newChunks, newBytes: outcome.newBytes,
                sentBytes: outcome.storedBytes, packsFound: found.load(ordering: .relaxed),
                replaces: before.map { $0.digest != file.digest } ?? false)
        }
        throw FarmError(
            "store.slow", .unavailable,
            "adding \(path) takes longer than \(Int(FileStore.grace / 2)) hours, after which its chunks may be taken away",
            hint: "add it again from a faster place: what was sent is found")
    }

    private func isInTime(_ start: Timestamp) -> Bool { clock().seconds(since: start) < FileStore.grace * 1800 }

    /// Writes a pack where none of that name lies, under another name where that one is condemned: a collection may remove it at any time.
    private func put(_ pack: FinishedPack, _ condemned: [String: Timestamp], _ found: borrowing Atomic<Int>) async throws -> FinishedPack {
        let pack = condemned[Pack.key(pack.digest)] == nil ? pack : pack.renamed()
        if try await bucket.head(Pack.key(pack.digest))?.size == Int64(pack.bytes.count) {
            found.add(1, ordering: .relaxed)
        } else {
            try await bucket.put(Pack.key(pack.digest), pack.bytes)
        }
        return pack
    }

    /// Indexes in a cover; where there would be more, one is written that says what all of them do of the packs that matter.
    private static let mostIndexes = 4

    /// Writes what says where a file's chunks lie: index, manifest, cover, under names that nobody has condemned. Gives the manifest's name.
    /// Nothing when too much time has passed since `start`.
    private func describe(
        _ outcome: ChunkIngest.Outcome, _ known: KnownChunks, _ view: StoreView, since start: Timestamp
    ) async throws -> Digest? {
        var (indexes, packs) = (Set<Digest>(), Set(outcome.listings.map(\.pack)))
        let own = Set(outcome.listings.flatMap { $0.entries.map(\.digest) })
        for chunk in outcome.manifest.chunks where !own.contains(chunk.digest) {
            guard let holder = try known.holder(of: chunk.digest) else { continue }
            indexes.insert(holder.index)
            packs.insert(holder.pack)
        }
        let merges = indexes.count + (outcome.listings.isEmpty ? 0 : 1) > FileStore.mostIndexes
        if merges || !outcome.listings.isEmpty {
            let others = merges ? indexes.compactMap { view.indexes[$0] } : []
            let wanted = packs
            let bytes = try await Blocking.run { try FileStore.index(of: outcome.listings, others, wanted, view.condemned) }
            let name = Digest(hashing: bytes)
            try await bucket.put(PackIndex.key(name), bytes)
            indexes = merges ? [name] : indexes.union([name])
        }
        var manifest = outcome.manifest
        let names = { (digest: Digest) in [ImageManifest.key(digest), ImageManifest.coverKey(digest)] }
        if names(Digest(hashing: manifest.bytes)).contains(where: { view.condemned[$0] != nil }) { manifest.salt = Nonce.bytes(8) }
        let name = Digest(hashing: manifest.bytes)
        try await bucket.put(ImageManifest.key(name), manifest.bytes)
        // Another file may have the same cover: it must not be made to name what is gone by now.
        guard isInTime(start) else { return nil }
        try await bucket.put(ImageManifest.coverKey(name), try CanonicalJSON.encode(ManifestCover(indexes: indexes.sorted())))
        return name
    }

    /// An index of new packs, and of those packs of other indexes that matter.
    private static func index(
        of listings: [PackIndex.Listing], _ others: [PackIndex], _ wanted: Set<Digest>, _ condemned: [String: Timestamp]
    ) throws -> [UInt8] {
        func index(_ listings: [PackIndex.Listing]) throws -> [UInt8] {
            let own = try PackIndex.bytes(of: listings)
            guard !others.isEmpty else { return own }
            return try PackIndex.merged([try PackIndex(own, source: "the new index")] + others, only: wanted.union(listings.map(\.pack)))
        }
        let bytes = try index(listings)
        guard condemned[PackIndex.key(Digest(hashing: bytes))] != nil else { return bytes }
        return try index(listings + [.init(pack: Digest(hashing: Nonce.bytes(16)), entries: [])])
    }

    /// The digest of a file of these chunks, if one is here.
    private func image(of chunks: [ImageManifest.Chunk], first key: String) async throws -> Digest? {
        let list = StoredFile.digest(of: chunks)
        if let file = try? await file(at: key), file.chunks == list { return file.digest }
        for object in try await bucket.all(prefix: StoredFile.keys) {
            if let file = try? await file(at: object.key), file.chunks == list { return file.digest }
        }
        return nil
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
            cut.append(
                .init(path: path, manifest: try await Blocking.run { try SeedIndex.ofUser.manifest(of: path, parameters: parameters) }))
        }
        return (ImageRebuild(manifest: manifest, locations: locations, seeds: cut), reader)
    }

    /// Writes a planned file to `path`, whole or not at all, with its permissions and time.
    ///
    /// - Parameter replaces: whether a file that is there goes; else `file.exists` is thrown when one is, at the end too.
    package static func restore(
        _ file: StoredFile, _ plan: (rebuild: ImageRebuild, reader: RegionReader), to path: String, replaces: Bool = false,
        progress: @escaping @Sendable (Int64) -> Void = { _ in }
    ) async throws {
        guard !Disk.isDirectory(path) else {
            throw FarmError("file.exists", .conflict, "\(path) is a directory", hint: "name the file with -o")
        }
        func check() throws {
            guard replaces || !Disk.exists(path) else {
                throw FarmError("file.exists", .conflict, "\(path) exists", hint: "choose another place with -o, or --force")
            }
        }
        try check()
        let temporary = "\(path).part-\(Nonce.hex(bytes: 6))"
        try await plan.rebuild.write(to: temporary, mode: 0o600, from: plan.reader, checksWhole: false, progress: progress)
        do {
            try Disk.setFacts(temporary, mode: file.mode & 0o777, modified: file.modified)
            try check()
            try Disk.rename(temporary, to: path)
            try Disk.syncDirectory(Disk.parent(of: Disk.absolute(path)))
        } catch {
            unlink(temporary)
            throw error
        }
    }
}
