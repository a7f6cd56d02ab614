package import ChunkStore
package import FarmModel
package import SiteDelivery

/// An image as it is offered.
package struct ServedImage: Sendable, Hashable, Codable {
    /// For example `fsl_6.0.7_x86_64.sif`.
    package var file: String
    package var name: String
    package var version: String
    package var target: String
    package var size: Int64
    package var sha256: Digest
    package var publishedAt: Timestamp
    var manifest: Digest

    init(_ release: Release) {
        name = release.name
        version = release.version
        target = release.image.target
        size = release.image.size
        sha256 = release.image.digest
        publishedAt = release.publishedAt
        manifest = release.image.manifest
        file = "\(name)_\(version)_\(target).sif"
    }

    private enum CodingKeys: String, CodingKey { case file, name, version, target, size, sha256, publishedAt, manifest }
}

/// The images that a channel points at, read out of the farm's regions: signatures are verified, and the channel is asked for again when
/// it may have changed.
package actor ImageLibrary {
    private let pull: SitePull
    private let cache = ChunkCache(bytes: 64 << 20)
    private var entries: [ChannelEntry] = []
    private var images: [ServedImage] = []
    private var releases: [Digest: Release] = [:]
    private var readers: [Digest: ImageReader] = [:]
    private var lookedAt: Timestamp?

    /// How long an answer of the channel counts, in seconds.
    private static let freshness: Double = 15
    /// Manifests of so many images are kept open.
    private static let mostReaders = 32

    package init(_ pull: SitePull) { self.pull = pull }

    /// Everything that is offered, by file name. When the channel cannot be read any more, what it said last counts until it expires.
    package func all(now: Timestamp) async throws -> [ServedImage] {
        if let lookedAt, now.seconds(since: lookedAt) < ImageLibrary.freshness { return images }
        let channel: ReleaseChannel
        do { channel = try await pull.channel(now: now) } catch let error as FarmError
            where error.code == "channel.absent" && images.isEmpty
        {
            return []
        }
        if channel.entries != entries {
            var found: [Digest: Release] = [:]
            for entry in channel.entries {
                if let known = releases[entry.release] {
                    found[entry.release] = known
                } else {
                    found[entry.release] = try await pull.release(entry)
                }
            }
            releases = found
            entries = channel.entries
            images = found.values.map(ServedImage.init).sorted { $0.file < $1.file }
        }
        lookedAt = now
        return images
    }

    /// An image by its file name or, as `HEX.sif`, by its digest; throws `image.absent`.
    package func image(_ file: String, now: Timestamp) async throws -> ServedImage {
        let all = try await all(now: now)
        guard let found = all.first(where: { $0.file == file || "\($0.sha256.hex).sif" == file }) else {
            throw FarmError("image.absent", .notFound, "there is no image \(file.printable())", hint: "/index.json lists what there is")
        }
        return found
    }

    /// What reads an image's bytes.
    package func reader(of image: ServedImage) async throws -> ImageReader {
        if let reader = readers[image.manifest] { return reader }
        let reader = try await ImageReader(manifest: image.manifest, from: pull.reader, cache: cache)
        guard reader.manifest.image == image.sha256, reader.manifest.size == image.size else {
            throw FarmError("manifest.invalid", .corrupt, "the manifest of \(image.file) is of another image")
        }
        if readers.count >= ImageLibrary.mostReaders { readers = [:] }
        readers[image.manifest] = reader
        return reader
    }
}
