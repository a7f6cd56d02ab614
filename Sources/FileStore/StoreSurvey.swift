import ChunkStore
import FarmModel
import ObjectStorage

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
        var chunks: [ImageManifest.Chunk]
        /// Its manifest, cover, indexes and packs.
        var keys: Set<String>
    }

    var view: StoreView
    var reaches: [Reach] = []
    var findings: [Finding] = []
    /// Packs with chunks that some file has; only places that a file's own cover names.
    var live: Set<Digest> = []

    /// Reads pointers, then manifests, covers and all indexes. What one pointer needs and is not there becomes a finding.
    static func read(_ store: FileStore) async throws -> StoreSurvey {
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
        for file in pointers { try await survey.reach(file, store) }
        survey.findMissing()
        return survey
    }

    private mutating func reach(_ file: StoredFile, _ store: FileStore) async throws {
        let title = file.name.printable()
        let keys = (manifest: ImageManifest.key(file.manifest), cover: ImageManifest.coverKey(file.manifest))
        var reach = Reach(file: file, chunks: [], keys: [keys.manifest, keys.cover])
        defer { reaches.append(reach) }
        let reader = RegionReader(regions: [store.bucket])
        func note(_ key: String, _ error: any Error) throws {
            // What was refused or broken off says nothing of the object.
            guard let error = error as? FarmError, error.isOfTheObject else { throw error }
            findings.append(Finding(key: key, message: "\(title) needs it: \(error.message)"))
        }
        do {
            let manifest = try await reader.manifest(file.manifest)
            reach.chunks = manifest.chunks
            guard manifest.image == file.digest, manifest.size == file.size, StoredFile.digest(of: manifest.chunks) == file.chunks else {
                let pointer = try StoredFile.key(file.name)
                return findings.append(Finding(key: pointer, message: "the pointer of \(title) and its manifest disagree"))
            }
        } catch { return try note(keys.manifest, error) }
        let cover: ManifestCover
        do {
            cover = try CanonicalJSON.decode(ManifestCover.self, from: try await store.bucket.get(keys.cover), source: keys.cover)
        } catch { return try note(keys.cover, error) }
        var missing = Set(reach.chunks.map(\.digest))
        for name in cover.indexes {
            reach.keys.insert(PackIndex.key(name))
            guard let index = try await index(name, store) else {
                // A damaged one that no file needs is of no account.
                let why = view.damaged.first { $0.name == name }?.error.message ?? "it is not there"
                findings.append(Finding(key: PackIndex.key(name), message: "\(title) needs it: \(why)"))
                continue
            }
            for listing in index.listings {
                let found = listing.entries.map(\.digest).filter { missing.contains($0) }
                guard !found.isEmpty else { continue }
                missing.subtract(found)
                live.insert(listing.pack)
                reach.keys.insert(Pack.key(listing.pack))
            }
        }
        if !missing.isEmpty {
            findings.append(Finding(key: keys.cover, message: "\(title): \(missing.count) of its chunks lie nowhere"))
        }
    }

    /// An index that came since the others were read counts, too.
    private mutating func index(_ name: Digest, _ store: FileStore) async throws -> PackIndex? {
        if let index = view.indexes[name] { return index }
        switch try await StoreView.index(name, store.bucket) {
        case .success(let index):
            view.indexes[name] = index
            for listing in index.listings where view.packs[Pack.key(listing.pack)] == nil {
                view.packs[Pack.key(listing.pack)] = try await store.bucket.head(Pack.key(listing.pack))?.size
            }
            return index
        case .failure, nil: return nil
        }
    }

    /// Packs with chunks that files have, and that are not there or have another length than an index says.
    private mutating func findMissing() {
        for index in view.indexes.values {
            for listing in index.listings where live.contains(listing.pack) {
                let (key, expected) = (Pack.key(listing.pack), StoreSurvey.size(of: listing.entries))
                if let size = view.packs[key] {
                    if size != expected { findings.append(Finding(key: key, message: "it has \(size) bytes, not \(expected)")) }
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
            keys.formUnion(index.listings.lazy.filter { !$0.entries.isEmpty }.map { Pack.key($0.pack) })
        }
        return keys
    }

    /// A pack's length as its listing has it.
    static func size(of entries: [PackEntry]) -> Int64 {
        (entries.last?.range.upperBound ?? Int64(Pack.magic.count)) + Int64(entries.count * Pack.entrySize + 4 + Pack.magic.count)
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
        let survey = try await StoreSurvey.read(self)
        var stored: [Digest: Int] = [:]
        for index in survey.view.indexes.values {
            for listing in index.listings { for entry in listing.entries { stored[entry.digest] = entry.storedSize } }
        }
        var owners: [Digest: Int] = [:]
        let sets = survey.reaches.map { Set($0.chunks.map(\.digest)) }
        for set in sets { for chunk in set { owners[chunk, default: 0] += 1 } }
        func bytes(_ chunks: some Sequence<Digest>) -> Int64 { chunks.reduce(0) { $0 + Int64(stored[$1] ?? 0) } }
        let packs = survey.view.packs
        return Figures(
            files: zip(survey.reaches, sets).map { reach, set in
                .init(name: reach.file.name, size: reach.file.size, ownBytes: bytes(set.lazy.filter { owners[$0] == 1 }))
            },
            fileBytes: survey.reaches.reduce(0) { $0 + $1.file.size }, liveBytes: bytes(owners.keys),
            packBytes: packs.values.reduce(0, +), packs: packs.count, chunks: owners.count, condemned: survey.view.condemned.count)
    }
}
