package import Attestation
package import FarmModel
package import ObjectStorage

/// What the channel in a bucket names, as the bucket itself vouches for it: signatures are compared with the bucket's own roots. That tells
/// damage; whether the farm is the right one tells the root that a reader was given.
package struct ChannelContents: Sendable {
    /// A release with the keys of the objects that it needs, other than indexes and packs.
    package struct Named: Sendable {
        package var entry: ChannelEntry
        package var release: Release
        package var keys: [String]
    }

    /// Something that is missing or damaged.
    package struct Finding: Sendable {
        package var key: String
        package var title: String
        package var error: FarmError
    }

    /// Its key and bytes, as they are signed.
    package private(set) var key: String
    package private(set) var bytes: [UInt8]
    package private(set) var channel: ReleaseChannel
    package private(set) var releases: [Named] = []
    package private(set) var findings: [Finding] = []
    /// The roots, from number 1.
    package private(set) var roots: [[UInt8]] = []

    /// Reads channel and releases.
    ///
    /// - Parameter wanted: whether a release is asked for.
    /// - Throws: what is wrong with channel or roots; what is wrong with a release becomes a finding.
    package static func read(
        _ name: String, from bucket: any ObjectStore, where wanted: (ChannelEntry) -> Bool = { _ in true }
    ) async throws -> ChannelContents {
        let key = ReleaseChannel.key(name)
        // The pointer first: all that it names is there then.
        let bytes = try await bucket.get(key, range: nil, limit: ReleaseChannel.largest)
        let (root, roots) = try await ChannelContents.roots(bucket)
        let channel: ReleaseChannel = try CanonicalJSON.decode(Envelope.self, from: bytes, source: "\(key) in \(bucket.name)")
            .verified(payloadType: PayloadType.channel, by: root.channelKeys, source: "\(key) in \(bucket.name)")
        guard channel.name == name, channel.farm == root.farm else {
            throw FarmError("channel.swapped", .corrupt, "\(key) in \(bucket.name) is the channel \(channel.name) of farm \(channel.farm)")
        }
        var contents = ChannelContents(key: key, bytes: bytes, channel: channel)
        contents.roots = roots
        let reader = RegionReader(regions: [bucket])
        for entry in channel.entries where wanted(entry) {
            let key = ReleaseDocument.key(name: entry.name, version: entry.version, digest: entry.release)
            do {
                let document = try await reader.content(entry.release, key: key)
                let release: Release = try CanonicalJSON.decode(Envelope.self, from: document, source: key)
                    .verified(payloadType: PayloadType.release, by: root.imageKeys, source: key)
                guard release.name == entry.name, release.version == entry.version, release.image.target == entry.target else {
                    throw FarmError("release.swapped", .corrupt, "\(key) in \(bucket.name) is \(release.title)")
                }
                let records = (release.records ?? [:]).sorted { $0.key < $1.key }.flatMap { kind, digest in
                    [ImageRecord.key(digest)] + (ImageRecord.isSigned(kind) ? [ImageRecord.attestationKey(digest)] : [])
                }
                contents.releases.append(Named(entry: entry, release: release, keys: [key] + records))
            } catch let error as FarmError where !error.category.isTransient {
                contents.findings.append(Finding(key: key, title: "\(entry.name) \(entry.version) (\(entry.target))", error: error))
            }
        }
        return contents
    }

    private init(key: String, bytes: [UInt8], channel: ReleaseChannel) { (self.key, self.bytes, self.channel) = (key, bytes, channel) }

    /// The newest root that follows from the first that a bucket has.
    package static func newestRoot(_ bucket: any ObjectStore) async throws -> TrustRoot { try await roots(bucket).newest }

    private static func roots(_ bucket: any ObjectStore) async throws -> (newest: TrustRoot, documents: [[UInt8]]) {
        var documents = [try await bucket.get(TrustRoot.key(1), range: nil, limit: TrustRoot.largest)]
        var newest = try TrustRoot(documents[0], source: TrustRoot.key(1))
        while documents.count < 1024 {
            let key = TrustRoot.key(documents.count + 1)
            do {
                let bytes = try await bucket.get(key, range: nil, limit: TrustRoot.largest)
                newest = try newest.successor(bytes, source: key)
                documents.append(bytes)
            } catch let error as FarmError where error.category == .notFound { break }
        }
        return (newest, documents)
    }
}
