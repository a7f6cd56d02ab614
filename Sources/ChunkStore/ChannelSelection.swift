import Attestation
package import FarmModel
package import ObjectStorage
import SystemIO

extension ChannelContents {
    /// What the image of a release needs beside its documents.
    struct Needs: Sendable {
        var manifest: Digest
        /// The cover's bytes as they were when the rest was read: what it names is what the others are.
        var cover: [UInt8]
        var indexes: [Digest]
        var packs: [Digest]
    }

    /// Throws what is wrong with the image's manifest, cover and indexes.
    static func needs(of release: Release, in bucket: any ObjectStore, _ reader: RegionReader) async throws -> Needs {
        let manifest = release.image.manifest
        let parsed = try await reader.manifest(manifest)
        let key = ImageManifest.coverKey(manifest)
        let cover = try await bucket.get(key, range: nil, limit: ManifestCover.largest)
        let indexes = try CanonicalJSON.decode(ManifestCover.self, from: cover, source: key)
        let places = try await reader.locations(of: parsed, cover: indexes, source: key)
        return Needs(manifest: manifest, cover: cover, indexes: indexes.indexes, packs: Set(places.values.map(\.pack)).sorted())
    }
}

/// A part of a farm's bucket that is a bucket by itself: a channel, and all that some of its releases need. Read-only.
///
/// The channel still names the other releases; who asks for one of those finds nothing here, as in a region that has lost it.
package struct ChannelSelection: ObjectStore {
    private let bucket: any ObjectStore
    private let keys: Set<String>
    /// Objects that are replaced under their names, as they were when the rest was chosen.
    private let seen: [String: [UInt8]]

    package var name: String { bucket.name }

    /// Reads what the releases need.
    ///
    /// - Parameter contents: of that bucket; throws the first of its findings: what is damaged is not passed on.
    package init(_ contents: ChannelContents, of bucket: any ObjectStore) async throws {
        if let finding = contents.findings.first { throw finding.error }
        var keys: Set<String> = [StoreHeader.key, contents.key]
        var seen = [contents.key: contents.bytes]
        for (index, root) in contents.roots.enumerated() {
            keys.insert(TrustRoot.key(index + 1))
            seen[TrustRoot.key(index + 1)] = root
        }
        let reader = RegionReader(regions: [bucket])
        for named in contents.releases {
            let needs = try await ChannelContents.needs(of: named.release, in: bucket, reader)
            seen[ImageManifest.coverKey(needs.manifest)] = needs.cover
            keys.formUnion(named.keys + [ImageManifest.key(needs.manifest), ImageManifest.coverKey(needs.manifest)])
            keys.formUnion(needs.indexes.map(PackIndex.key) + needs.packs.map(Pack.key))
        }
        (self.bucket, self.keys, self.seen) = (bucket, keys, seen)
    }

    package func head(_ key: String) async throws -> ObjectInfo? { keys.contains(key) ? try await bucket.head(key) : nil }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        guard keys.contains(key) else { throw StorageFailure.absent(key, in: name) }
        // The newest channel may name what has not been chosen; this one is signed as well.
        if key.hasPrefix("channels/"), range == nil, let bytes = seen[key] { return bytes }
        let bytes = try await bucket.get(key, range: range, limit: limit)
        if range == nil, let before = seen[key], before != bytes { throw StorageFailure.changed(key, in: name) }
        return bytes
    }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        let page = try await bucket.list(prefix: prefix, after: after)
        return ObjectPage(objects: page.objects.filter { keys.contains($0.key) }, next: page.next)
    }

    package func each(prefix: String, _ body: ([ObjectInfo]) async throws -> Void) async throws {
        try await bucket.each(prefix: prefix) { objects in try await body(objects.filter { keys.contains($0.key) }) }
    }

    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        guard seen[key] == nil else {
            let bytes = try await get(key, range: range)
            return try await Blocking.run { try bytes.withUnsafeBytes { try sink($0) } }
        }
        guard keys.contains(key) else { throw StorageFailure.absent(key, in: name) }
        try await bucket.read(key, range: range, tag: tag, sink: sink)
    }

    package func tagIsMD5(of object: ObjectInfo) async throws -> Bool { try await bucket.tagIsMD5(of: object) }
    package func md5(of object: ObjectInfo) async throws -> [UInt8]? { try await bucket.md5(of: object) }
    package func modified(of object: ObjectInfo) async throws -> Timestamp? { try await bucket.modified(of: object) }

    package func put(_ key: String, _ source: ObjectSource) async throws { throw readOnly }
    package func delete(_ key: String) async throws { throw readOnly }
    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { throw readOnly }

    private var readOnly: FarmError { FarmError("storage.read-only", .usage, "a selection of \(name) can only be read") }
}
