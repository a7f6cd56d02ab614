import ChunkStore
import FarmModel
import ObjectStorage
import SystemIO

/// All that a store's files reach, found from the pointers down, and what is wrong with it.
struct StoreSurvey: Sendable {
    /// Something that is missing or damaged.
    struct Finding: Sendable, Hashable {
        var key: String
        var message: String
    }

    /// A file with what it needs.
    struct Reach: Sendable {
        var file: StoredFile
        /// Each once with its stored bytes; only where a survey measures.
        var chunks: [Digest: Int]
        /// Its manifest, cover, indexes and packs.
        var keys: Set<String>
    }

    var view: StoreView
    var reaches: [Reach] = []
    var findings: [Finding] = []
    /// Packs with chunks that some file has; only places that a file's own cover names.
    var live: Set<Digest> = []

    /// Reads pointers, then manifests, covers and all indexes. What one pointer needs and is not there becomes a finding.
    ///
    /// - Parameter measures: whether it is to say which chunks each file has.
    static func read(_ store: FileStore, measures: Bool = false) async throws -> StoreSurvey {
        // Pointers first: what they name was there before them.
        var pointers: [StoredFile] = []
        var findings: [Finding] = []
        for object in try await store.bucket.all(prefix: StoredFile.keys) {
            do { pointers.append(try StoredFile.read(try await store.bucket.get(object.key), key: object.key)) } catch let error
                as FarmError
                where error.isOfTheObject
            {
                // One that went away meanwhile is no damage.
                if error.category != .notFound { findings.append(Finding(key: object.key, message: error.message)) }
            }
        }
        var survey = StoreSurvey(view: try await StoreView.read(store.bucket))
        survey.findings = findings
        for file in pointers { try await survey.reach(file, store, measures) }
        survey.findMissing()
        return survey
    }

    private mutating func reach(_ file: StoredFile, _ store: FileStore, _ measures: Bool) async throws {
        let title = file.name.printable()
        let keys = (manifest: ImageManifest.key(file.manifest), cover: ImageManifest.coverKey(file.manifest))
        var reach = Reach(file: file, chunks: [:], keys: [keys.manifest, keys.cover])
        defer { reaches.append(reach) }
        let reader = RegionReader(regions: [store.bucket])
        func note(_ key: String, _ error: any Error) throws {
            // What was refused or broken off says nothing of the object.
            guard let error = error as? FarmError, error.isOfTheObject else { throw error }
            findings.append(Finding(key: key, message: "\(title) needs it: \(error.message)"))
        }
        var missing: Set<Digest>
        do {
            let manifest = try await reader.manifest(file.manifest)
            missing = Set(manifest.chunks.map(\.digest))
            guard manifest.image == file.digest, manifest.size == file.size, StoredFile.digest(of: manifest.chunks) == file.chunks else {
                let pointer = try StoredFile.key(file.name)
                return findings.append(Finding(key: pointer, message: "the pointer of \(title) and its manifest disagree"))
            }
        } catch { return try note(keys.manifest, error) }
        let cover: ManifestCover
        do {
            cover = try CanonicalJSON.decode(ManifestCover.self, from: try await store.bucket.get(keys.cover), source: keys.cover)
        } catch { return try note(keys.cover, error) }
        for name in cover.indexes {
            reach.keys.insert(PackIndex.key(name))
            guard let index = try await index(name, store) else {
                // A damaged one that no file needs is of no account.
                let why = view.shelf.damaged.first { $0.name == name }?.error.message ?? "it is not there"
                findings.append(Finding(key: PackIndex.key(name), message: "\(title) needs it: \(why)"))
                continue
            }
            let wanted = missing
            let found = try await Blocking.run { try wanted.compactMap { try index.locations(of: $0).first } }
            for location in found {
                missing.remove(location.entry.digest)
                live.insert(location.pack)
                if measures { reach.chunks[location.entry.digest] = location.entry.storedSize }
            }
            reach.keys.formUnion(Set(found.map(\.pack)).map(Pack.key))
        }
        if !missing.isEmpty {
            findings.append(Finding(key: keys.cover, message: "\(title): \(missing.count) of its chunks lie nowhere"))
        }
    }

    /// An index that came since the others were read counts, too.
    private mutating func index(_ name: Digest, _ store: FileStore) async throws -> PackIndex? {
        if let index = view.indexes[name] { return index }
        switch try await IndexShelf.index(name, 1 << 20, RegionReader(regions: [store.bucket])) {
        case .success(let index):
            try await view.shelf.put(index, as: name)
            for record in index.packs where view.packs[Pack.key(record.pack)] == nil {
                view.packs[Pack.key(record.pack)] = try await store.bucket.head(Pack.key(record.pack))?.size
            }
            return index
        case .failure, nil: return nil
        }
    }

    /// Packs with chunks that files have, and that are not there or have another length than an index says.
    private mutating func findMissing() {
        for index in view.indexes.values {
            for record in index.packs where live.contains(record.pack) {
                let key = Pack.key(record.pack)
                if let size = view.packs[key] {
                    if size != record.size { findings.append(Finding(key: key, message: "it has \(size) bytes, not \(record.size)")) }
                } else {
                    findings.append(Finding(key: key, message: "it is not there"))
                }
            }
        }
    }

    /// All that files need, but for their pointers, and the other packs of the indexes among it.
    var kept: Set<String> {
        var keys: Set<String> = reaches.reduce(into: []) { $0.formUnion($1.keys) }
        for (name, index) in view.indexes where keys.contains(PackIndex.key(name)) {
            keys.formUnion(index.packs.lazy.filter { $0.chunks > 0 }.map { Pack.key($0.pack) })
        }
        return keys
    }
}

extension FarmError {
    /// Whether it tells that an object is damaged or missing.
    var isOfTheObject: Bool { category == .corrupt || category == .notFound || category == .invalid }
}

// MARK: figures

extension FileStore {
    /// What a store holds, and what each file costs.
    package struct Figures: Codable, Sendable, Hashable {
        /// One file's share.
        package struct File: Codable, Sendable, Hashable {
            package var name: String
            package var size: Int64
            /// Stored bytes of chunks that no other file has: what its removal frees, once the packs that they lie in are not needed.
            package var ownBytes: Int64
        }

        package var files: [File]
        /// Of all files together.
        package var fileBytes: Int64
        /// Stored bytes of their chunks, each once.
        package var liveBytes: Int64
        /// All packs, as the bucket lists them.
        package var packBytes: Int64
        package var packs: Int
        package var chunks: Int
        /// Objects that collections have condemned.
        package var condemned: Int
    }

    /// Measures the store.
    package func figures() async throws -> Figures {
        let survey = try await StoreSurvey.read(self, measures: true)
        var owners: [Digest: (files: Int, bytes: Int)] = [:]
        for reach in survey.reaches { for (chunk, bytes) in reach.chunks { owners[chunk, default: (0, bytes)].files += 1 } }
        let packs = survey.view.packs
        return Figures(
            files: survey.reaches.map { reach in
                let own = reach.chunks.reduce(Int64(0)) { owners[$1.key]?.files == 1 ? $0 + Int64($1.value) : $0 }
                return .init(name: reach.file.name, size: reach.file.size, ownBytes: own)
            },
            fileBytes: survey.reaches.reduce(0) { $0 + $1.file.size }, liveBytes: owners.values.reduce(0) { $0 + Int64($1.bytes) },
            packBytes: packs.values.reduce(0, +), packs: packs.count, chunks: owners.count, condemned: survey.view.condemned.count)
    }
}
