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

    /// A file or a release with what it needs.
    struct Reach: Sendable {
        /// Its pointer, or its release.
        var key: String
        var name: String
        var size: Int64
        var digest: Digest
        var manifest: Digest
        /// What the pointer says of the list of chunks.
        var chunks: Digest?
        /// Its manifest, cover, indexes, packs and documents.
        var keys: Set<String> = []
        /// Of a release: its tool.
        var tool: String?

        init(_ file: StoredFile) throws {
            (key, name, size, digest) = (try StoredFile.key(file.name), file.name.printable(), file.size, file.digest)
            (manifest, chunks) = (file.manifest, file.chunks)
        }

        init(_ named: ChannelContents.Named) {
            let release = named.release
            (key, name, size, digest) = (named.keys[0], release.title, release.image.size, release.image.digest)
            (manifest, keys, tool) = (release.image.manifest, Set(named.keys), release.name)
        }
    }

    var view: StoreView
    var reaches: [Reach] = []
    var findings: [Finding] = []
    /// Packs with chunks that some file has; only places that a file's own cover names.
    var live: Set<Digest> = []

    /// Reads pointers, then manifests, covers and all indexes. What one pointer needs and is not there becomes a finding.
    static func read(_ store: FileStore) async throws -> StoreSurvey {
        // Pointers first: what they name was there before them.
        let (pointers, findings) = store.farm.isEmpty ? try await files(store) : try await releases(store)
        var survey = StoreSurvey(view: try await StoreView.read(store.bucket))
        survey.findings = findings
        for pointer in pointers { try await survey.reach(pointer, store) }
        survey.findMissing()
        return survey
    }

    /// What the channels of a farm's bucket name.
    private static func releases(_ store: FileStore) async throws -> ([Reach], [Finding]) {
        var (found, findings) = ([Reach](), [Finding]())
        for object in try await store.bucket.all(prefix: "channels/") {
            guard object.key.hasSuffix(".json") else { continue }
            do {
                let contents = try await ChannelContents.read(
                    String(object.key.dropFirst("channels/".count).dropLast(".json".count)), from: store.bucket)
                found += contents.releases.map(Reach.init)
                findings += contents.findings.map { Finding(key: $0.key, message: "\($0.title) needs it: \($0.error.message)") }
            } catch let error as FarmError where error.isOfTheObject || error.category == .denied {
                findings.append(Finding(key: object.key, message: error.message))
            }
        }
        for reach in found {
            for key in reach.keys.sorted() where try await store.bucket.head(key) == nil {
                findings.append(Finding(key: key, message: "\(reach.name) needs it: it is not there"))
            }
        }
        return (found, findings)
    }

    private static func files(_ store: FileStore) async throws -> ([Reach], [Finding]) {
        var pointers: [Reach] = []
        var findings: [Finding] = []
        for object in try await store.bucket.all(prefix: StoredFile.keys) {
            do { pointers.append(try Reach(try StoredFile.read(try await store.bucket.get(object.key), key: object.key))) } catch let error
                as FarmError
                where error.isOfTheObject
            {
                // One that went away meanwhile is no damage.
                if error.category != .notFound { findings.append(Finding(key: object.key, message: error.message)) }
            }
        }
        return (pointers, findings)
    }

    private mutating func reach(_ pointer: Reach, _ store: FileStore) async throws {
        let title = pointer.name
        let keys = (manifest: ImageManifest.key(pointer.manifest), cover: ImageManifest.coverKey(pointer.manifest))
        var reach = pointer
        reach.keys.formUnion([keys.manifest, keys.cover])
        defer { reaches.append(reach) }
        let reader = RegionReader(regions: [store.bucket])
        func note(_ key: String, _ error: any Error) throws {
            // What was refused or broken off says nothing of the object.
            guard let error = error as? FarmError, error.isOfTheObject else { throw error }
            findings.append(Finding(key: key, message: "\(title) needs it: \(error.message)"))
        }
        var missing: Set<Digest>
        do {
            let manifest = try await reader.manifest(pointer.manifest)
            missing = Set(manifest.chunks.map(\.digest))
            let isMeant = pointer.chunks.map { StoredFile.digest(of: manifest.chunks) == $0 } ?? true
            guard manifest.image == pointer.digest, manifest.size == pointer.size, isMeant else {
                return findings.append(Finding(key: pointer.key, message: "the pointer of \(title) and its manifest disagree"))
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
        /// Of a farm's bucket: all images of each tool.
        package var tools: [File]
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
        let reader = RegionReader(regions: [bucket])
        let named = Set(survey.reaches.flatMap(\.keys))
        let index = try await IndexShelf.merged(survey.view.indexes.filter { named.contains(PackIndex.key($0.key)) }.map(\.value))
        let tools = Set(survey.reaches.compactMap(\.tool)).sorted()
        let (byFile, byTool) = (ChunkUsage(index), ChunkUsage(index))
        for (number, reach) in survey.reaches.enumerated() {
            // What is damaged counts for nothing; a check tells it.
            guard let manifest = try? await reader.manifest(reach.manifest) else { continue }
            let tool = tools.firstIndex { $0 == reach.tool }
            try await Blocking.run {
                for chunk in manifest.chunks {
                    _ = try byFile.use(chunk.digest, by: number)
                    if let tool { _ = try byTool.use(chunk.digest, by: tool) }
                }
            }
        }
        let own = (try byFile.own(users: survey.reaches.count), try byTool.own(users: tools.count))
        let shares = try byFile.shares()
        let packs = survey.view.packs
        return Figures(
            files: zip(survey.reaches, own.0).map { .init(name: $0.name, size: $0.size, ownBytes: $1) },
            tools: zip(tools, own.1).map { tool, bytes in
                .init(name: tool, size: survey.reaches.reduce(0) { $1.tool == tool ? $0 + $1.size : $0 }, ownBytes: bytes)
            },
            fileBytes: survey.reaches.reduce(0) { $0 + $1.size }, liveBytes: shares.reduce(0) { $0 + $1.bytes },
            packBytes: packs.values.reduce(0, +), packs: packs.count, chunks: shares.reduce(0) { $0 + $1.chunks },
            condemned: survey.view.condemned.count)
    }
}
