import Attestation
import ChunkStore
package import FarmModel
package import ObjectStorage

extension FileStore {
    /// What a check found.
    package struct Health: Codable, Sendable, Hashable {
        /// Something that is missing or damaged.
        package struct Damage: Codable, Sendable, Hashable {
            package var key: String
            package var message: String
            /// Files that cannot be restored without it.
            package var files: [String]
        }

        package var damages: [Damage] = []
        package var files = 0
        package var packs = 0
        package var packsRead = 0
        /// Of the packs that were read.
        package var bytes: Int64 = 0
        /// Keys that were brought whole from elsewhere.
        package var repaired: [String] = []
    }

    /// Which packs are read whole, and their digests compared.
    package enum Reading: Sendable, Hashable {
        /// None; that they are there with the right length has to do.
        case none
        case all
        /// One of so many parts of all, from 0, and some more.
        case slice(Int, of: Int, and: Set<Digest> = [])

        func includes(_ pack: Digest) -> Bool {
            switch self {
            case .none: false
            case .all: true
            case .slice(let number, let count, let others):
                others.contains(pack) || pack.bytes.suffix(4).reduce(0) { $0 << 8 | Int($1) } % count == number
            }
        }
    }

    /// Looks whether every file can be restored.
    ///
    /// - Parameters:
    ///   - reading: the packs, of those that files need, that are read.
    ///   - sources: where damaged and missing objects are brought from, verified; the first one that has them.
    ///   - admit: asked before an object is written; a refusal leaves it as it is.
    package func check(
        _ reading: Reading, repairingFrom sources: [any ObjectStore] = [],
        admit: @Sendable (String) async throws -> Bool = { _ in true }, progress: @escaping (Int64) -> Void = { _ in }
    ) async throws -> Health {
        var health = try await look(reading, progress)
        guard !sources.isEmpty, !health.damages.isEmpty else { return health }
        // A repaired manifest or cover may lead to more that is damaged.
        var tried: Set<String> = []
        while true {
            let new = health.damages.map(\.key).filter { tried.insert($0).inserted }
            var repaired = health.repaired
            for key in new where try await admit(key) {
                if try await bring(key, fromAnyOf: sources) { repaired.append(key) }
            }
            guard repaired.count > health.repaired.count else { break }
            health = try await look(reading, progress)
            health.repaired = repaired
        }
        return health
    }

    private func look(_ reading: Reading, _ progress: (Int64) -> Void) async throws -> Health {
        let survey = try await StoreSurvey.read(self)
        var damages: [String: Health.Damage] = [:]
        func note(_ key: String, _ message: String) {
            let files = survey.reaches.filter { $0.keys.contains(key) }.map(\.name).sorted()
            damages[key] = damages[key] ?? Health.Damage(key: key, message: message, files: files)
        }
        for finding in survey.findings { note(finding.key, finding.message) }
        var packs: [Digest: PackIndex] = [:]
        for index in survey.view.indexes.values {
            for record in index.packs where survey.live.contains(record.pack) { packs[record.pack] = index }
        }
        var health = Health(files: survey.reaches.count, packs: packs.count)
        for (pack, index) in packs.sorted(by: { $0.key < $1.key }) {
            let key = Pack.key(pack)
            guard reading.includes(pack), damages[key] == nil, let size = survey.view.packs[key] else { continue }
            do {
                let bytes = try await bucket.get(key)
                (health.packsRead, health.bytes) = (health.packsRead + 1, health.bytes + size)
                progress(health.bytes)
                if Int64(bytes.count) != size {
                    note(key, "it has \(bytes.count) bytes, not \(size)")
                } else if Digest(hashing: bytes) != pack {
                    note(key, FileStore.wrong(bytes))
                } else if !(try FileStore.lists(index, try Pack.entries(of: bytes, source: key), of: pack)) {
                    note(key, "its table and an index disagree")
                }
            } catch let error as FarmError where error.isOfTheObject { note(key, error.message) }
        }
        if reading != .none, !survey.reaches.isEmpty, !farm.isEmpty {
            let root = try await ChannelContents.newestRoot(bucket)
            for key in Set(survey.reaches.flatMap(\.keys)).sorted() where key.hasPrefix("records/") && damages[key] == nil {
                do {
                    let bytes = try await bucket.get(key)
                    let isWhole: Bool
                    if let name = Digest(key.split(separator: "/").last ?? "") {
                        isWhole = Digest(hashing: bytes) == name
                    } else {
                        isWhole = try FileStore.isSigned(bytes, key, root)
                    }
                    if !isWhole { note(key, "its bytes are not those of its name, or nobody of the farm signed it") }
                } catch let error as FarmError where error.isOfTheObject { note(key, error.message) }
            }
        }
        health.damages = damages.values.sorted { $0.key < $1.key }
        return health
    }

    /// Whether an index says of a pack what its own table does.
    private static func lists(_ index: PackIndex, _ entries: [PackEntry], of pack: Digest) throws -> Bool {
        guard index.record(of: pack)?.chunks == entries.count else { return false }
        return try entries.allSatisfy { try index.locations(of: $0.digest).contains(ChunkLocation(pack: pack, entry: $0)) }
    }

    /// Which chunks of a damaged pack are.
    private static func wrong(_ bytes: [UInt8]) -> String {
        guard let entries = try? Pack.entries(of: bytes, source: "") else { return "its table is damaged" }
        let bad = bytes.withUnsafeBytes { raw in
            entries.filter { entry in
                let range = Int(entry.range.lowerBound)..<Int(entry.range.upperBound)
                return (try? entry.open(UnsafeRawBufferPointer(rebasing: raw[range]), source: "")) == nil
            }
        }
        guard let first = bad.first else { return "its bytes are not those of its name; all its chunks are whole" }
        return "\(bad.count) of its \(entries.count) chunks \(bad.count == 1 ? "is" : "are") damaged, from byte \(first.offset)"
    }

    private static func isSigned(_ bytes: [UInt8], _ key: String, _ root: TrustRoot) throws -> Bool {
        let envelope = try CanonicalJSON.decode(Envelope.self, from: bytes, source: key)
        guard key.hasPrefix("channels/") else { return envelope.isSigned(by: root.imageKeys) }
        let channel: ReleaseChannel? = try? envelope.verified(payloadType: PayloadType.channel, by: root.channelKeys, source: key)
        return channel.map { ReleaseChannel.key($0.name) == key } ?? false
    }

    /// Brings one object from the first of some buckets that has it whole; whether it came. Throws what keeps a source from answering
    /// when no other one has it.
    package func bring(_ key: String, fromAnyOf sources: [any ObjectStore]) async throws -> Bool {
        var failure: FarmError?
        for source in sources {
            do { if try await bring(key, from: source) { return true } } catch let error as FarmError where error.category.isTransient {
                failure = failure ?? error
            }
        }
        // One that is away may have it.
        if let failure { throw failure }
        return false
    }

    /// Brings one object that can be verified; whether it came.
    private func bring(_ key: String, from source: any ObjectStore) async throws -> Bool {
        do {
            let bytes = try await source.get(key)
            if key.hasPrefix(StoredFile.keys) {
                _ = try StoredFile.read(bytes, key: key)
                try await bucket.put(key, bytes)
                return true
            }
            if key.hasPrefix("channels/") || key.hasSuffix(".dsse.json") {
                // Signed by this bucket's own keys, or it is of no use.
                guard try FileStore.isSigned(bytes, key, try await ChannelContents.newestRoot(bucket)) else { return false }
                try await bucket.put(key, bytes)
                return true
            }
            guard let name = Digest(key.split(separator: "/").last ?? "") else { return false }
            // A cover has its manifest's name: it is believed for what its indexes hold, which the next look finds out.
            if key.hasPrefix("covers/") {
                _ = try CanonicalJSON.decode(ManifestCover.self, from: bytes, source: key)
            } else if Digest(hashing: bytes) != name {
                return false
            }
            try await bucket.put(key, bytes)
            return true
        } catch let error as FarmError where error.isOfTheObject { return false }
    }
}
