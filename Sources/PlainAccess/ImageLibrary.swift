package import ChunkStore
package import FarmModel
package import Logging
package import SiteDelivery

/// An image as it is offered.
package struct ServedImage: Sendable, Hashable, Codable {
    /// Its address below `/images/`, for example `fsl/6.0.7/fsl_6.0.7_x86_64.sif`.
    package var path: String
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
        path = "\(name)/\(version)/\(name)_\(version)_\(target).sif"
    }

    private enum CodingKeys: String, CodingKey { case path, name, version, target, size, sha256, publishedAt, manifest }
}

/// The images that a channel points at, read out of the farm's regions: signatures are verified, and the channel is asked for again when
/// it may have changed.
package actor ImageLibrary {
    private let pull: SitePull
    private let logger: Logger
    private let cache = ChunkCache(bytes: 64 << 20)
    private var channel: ReleaseChannel?
    private var images: [ServedImage] = []
    private var releases: [Digest: ServedImage] = [:]
    private var byPath: [String: ServedImage] = [:]
    /// All that was ever offered here: a download by digest goes on when the channel has moved on.
    private var byDigest: [Digest: ServedImage] = [:]
    private var readers: [Digest: (reader: ImageReader, openedAt: Timestamp)] = [:]
    private var lookedAt: Timestamp?
    private var looking: Task<Void, any Error>?

    /// How long an answer of the channel counts, in seconds.
    private static let freshness: Double = 15
    /// Manifests of so many chunks are kept open; a chunk takes some hundred bytes.
    private static let mostChunks = 1_000_000
    /// Seconds after which an image is opened anew.
    private static let longestOpen: Double = 3600
    /// Release documents that are fetched side by side.
    private static let width = 16

    package init(_ pull: SitePull, logger: Logger) {
        self.pull = pull
        self.logger = logger
    }

    /// Everything that is offered, by path. When the channel cannot be read any more, what it said last counts until it expires.
    package func all(now: Timestamp) async throws -> [ServedImage] {
        let isExpired = channel.map { $0.expiresAt <= now } ?? false
        if let lookedAt, !isExpired, now.seconds(since: lookedAt) < ImageLibrary.freshness { return images }
        let task = looking ?? Task { try await look(now: now) }
        looking = task
        do { try await task.value } catch let error as FarmError {
            guard let channel, channel.expiresAt > now else { throw error }
            logger.warning("the channel cannot be read", metadata: ["error.code": "\(error.code.rawValue)", "reason": "\(error.message)"])
        }
        return images
    }

    private func look(now: Timestamp) async throws {
        defer {
            looking = nil
            // A region that is away is not asked for every request.
            if channel != nil { lookedAt = now }
            for incident in pull.reader.takeIncidents() {
                logger.warning(
                    "another region had to serve",
                    metadata: ["region": "\(incident.region)", "object": "\(incident.object)", "reason": "\(incident.message)"])
            }
        }
        let next: ReleaseChannel
        do { next = try await pull.channel(now: now) } catch let error as FarmError where error.code == "channel.absent" && channel == nil {
            return lookedAt = now
        }
        let isWhole = releases.count == Set(next.entries.map(\.release)).count
        if channel?.entries != next.entries || !isWhole { try await take(next.entries) }
        channel = next
    }

    private func take(_ entries: [ChannelEntry]) async throws {
        var missing = entries.filter { releases[$0.release] == nil }[...]
        var found = releases
        let pull = pull
        try await withThrowingTaskGroup(of: (ChannelEntry, Result<Release, any Error>).self) { tasks in
            for number in 0..<(missing.count + ImageLibrary.width) {
                if number >= ImageLibrary.width, let (entry, result) = try await tasks.next() {
                    switch result {
                    case .success(let release): found[entry.release] = ServedImage(release)
                    // The others are served; this one is asked for again with the next look.
                    case .failure(let error):
                        logger.error(
                            "a release cannot be read", metadata: ["release": "\(entry.name) \(entry.version)", "reason": "\(error)"])
                    }
                }
                guard let entry = missing.popFirst() else { continue }
                tasks.addTask {
                    do { return (entry, .success(try await pull.release(entry))) } catch { return (entry, .failure(error)) }
                }
            }
        }
        let wanted = Set(entries.map(\.release))
        releases = found.filter { wanted.contains($0.key) }
        images = releases.values.sorted { ($0.path, $0.publishedAt, $0.sha256) < ($1.path, $1.publishedAt, $1.sha256) }
        byPath = Dictionary(images.map { ($0.path, $0) }) { first, _ in first }
        byDigest.merge(images.map { ($0.sha256, $0) }) { _, new in new }
    }

    /// An image by its path; throws `image.absent`.
    package func image(_ path: String, now: Timestamp) async throws -> ServedImage {
        _ = try await all(now: now)
        guard let found = byPath[path] else { throw ImageLibrary.absent(path) }
        return found
    }

    /// An image by its digest; throws `image.absent`.
    package func image(_ digest: Digest, now: Timestamp) async throws -> ServedImage {
        _ = try await all(now: now)
        guard let found = byDigest[digest] else { throw ImageLibrary.absent(digest.hex) }
        return found
    }

    static func absent(_ what: String) -> FarmError {
        FarmError("image.absent", .notFound, "there is no image \(what.printable())", hint: "/index.json lists what there is")
    }

    /// What reads an image's bytes.
    package func reader(of image: ServedImage) async throws -> ImageReader {
        // Where chunks lie may change, and the old places go after a day or two.
        if let known = readers[image.manifest], Timestamp.now.seconds(since: known.openedAt) < ImageLibrary.longestOpen {
            return known.reader
        }
        let reader = try await ImageReader(manifest: image.manifest, from: pull.reader, cache: cache)
        guard reader.manifest.image == image.sha256, reader.manifest.size == image.size else {
            throw FarmError("manifest.invalid", .corrupt, "the manifest of \(image.path) is of another image")
        }
        let open = readers.values.reduce(reader.manifest.chunks.count) { $0 + $1.reader.manifest.chunks.count }
        if open > ImageLibrary.mostChunks { readers = [:] }
        readers[image.manifest] = (reader, .now)
        return reader
    }
}
