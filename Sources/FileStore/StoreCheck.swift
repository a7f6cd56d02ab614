import Attestation
import ChunkStore
import FarmModel
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
        /// Read, where every byte was.
        package var bytes: Int64 = 0
        /// Keys that were brought whole from elsewhere.
        package var repaired: [String] = []
    }

    /// Looks whether every file can be restored.
    ///
    /// - Parameters:
    ///   - readsAll: whether all packs that files need are read and their digests compared; else only their presence and length.
    ///   - source: where damaged and missing objects are brought from, verified; `nil` repairs nothing.
    package func check(
        readsAll: Bool, repairingFrom source: (any ObjectStore)? = nil, progress: @escaping (Int64) -> Void = { _ in }
    ) async throws -> Health {
        var health = try await look(readsAll, progress)
        guard let source, !health.damages.isEmpty else { return health }
        // A repaired manifest or cover may lead to more that is damaged.
        var tried: Set<String> = []
        while true {
            let new = health.damages.map(\.key).filter { tried.insert($0).inserted }
            var repaired = health.repaired
            for key in new where try await repair(key, from: source) { repaired.append(key) }
            guard repaired.count > health.repaired.count else { break }
            health = try await look(readsAll, progress)
            health.repaired = repaired
        }
        return health
    }

    private func look(_ readsAll: Bool, _ progress: (Int64) -> Void) async throws -> Health {
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
            guard readsAll, damages[key] == nil, let size = survey.view.packs[key] else { continue }
            do {
                let bytes = try await bucket.get(key)
                health.bytes += size
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
        if readsAll, !survey.reaches.isEmpty, !farm.isEmpty {
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

    /// Brings one object whose name is its digest; whether it came.
    private func repair(_ key: String, from source: any ObjectStore) async throws -> Bool {
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
            guard key.hasPrefix("covers/") || Digest(hashing: bytes) == name else { return false }
            try await bucket.put(key, bytes)
            return true
        } catch let error as FarmError where error.isOfTheObject { return false }
    }
}
