package import FarmModel
import Foundation
package import ObjectStorage
import SystemIO

/// A region and the bucket that holds its objects.
package struct RegionConfiguration: Codable, Sendable, Hashable {
    package var name: String
    package var bucket: BucketLocation

    package init(name: String, bucket: BucketLocation) {
        self.name = name
        self.bucket = bucket
    }
}

/// How a candidate becomes a release.
package enum PromotionPolicy: String, Codable, Sendable, Hashable {
    /// A trusted worker builds it again, and what differs is listed.
    case rebuild
    /// Its very image may be released too, once a trusted worker has run its tests.
    case bytes
}

/// How the images of a farm's channel are packed.
package struct ImageRules: Codable, Sendable, Hashable {
    /// gzip for sites whose kernels read nothing else.
    package var compression: ImageFormat.Compression
    package var level: Int
    /// The level of candidates in zstd: their tests begin sooner, and what is released of them is built again.
    package var candidateLevel: Int

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        let usual = ImageRules()
        compression = try values.decodeIfPresent(ImageFormat.Compression.self, forKey: .compression) ?? usual.compression
        level = try values.decodeIfPresent(Int.self, forKey: .level) ?? usual.level
        candidateLevel = try values.decodeIfPresent(Int.self, forKey: .candidateLevel) ?? usual.candidateLevel
    }

    package init() {
        let usual = ImageFormat()
        (compression, level, candidateLevel) = (usual.compression, usual.level, 3)
    }

    /// The format of images of a recipe that does not ask for another one.
    package func format(isCandidate: Bool) -> ImageFormat {
        isCandidate && compression == .zstd
            ? ImageFormat(compression: compression, level: min(level, candidateLevel)) : ImageFormat(compression: compression, level: level)
    }

    /// Throws `farm.images`, naming `source`.
    func check(_ source: String) throws {
        let levels = compression == .zstd ? 1...19 : 1...9
        guard levels.contains(level), (1...19).contains(candidateLevel) else {
            throw FarmError(
                "farm.images", .invalid, "\(source): \(compression.rawValue) has no level \(level), or zstd no level \(candidateLevel)",
                hint: "levels of \(compression.rawValue) are \(levels.lowerBound) to \(levels.upperBound)")
        }
    }
}

/// `farm.json` in a farm's home: what an operator sets. Every key has a default except the regions.
package struct FarmConfiguration: Codable, Sendable, Hashable {
    package var farm: String
    /// Address and port of the worker protocol; port 0 takes a free one.
    package var linkHost: String
    package var linkPort: Int
    /// Address and port of the HTTPS API.
    package var apiHost: String
    package var apiPort: Int
    /// The name or address under which workers and people reach the coordinator.
    package var advertise: String
    /// `HOST:PORT` where every image is offered as an ordinary file over HTTP; empty for nowhere.
    package var imageAddress: String
    /// The first is where builds are streamed to; the others mirror it.
    package var regions: [RegionConfiguration]
    package var channel: String
    /// Days until a channel that is not renewed expires.
    package var channelDays: Int
    /// Seconds for which a worker's certificate is valid; it renews itself after half of them.
    package var leafSeconds: Double
    package var silenceSeconds: Double
    package var contactSeconds: Double
    /// Seconds before a failed publication step is tried again.
    package var retrySeconds: Double
    /// Base images that may be bootstrapped when no registry offers them.
    package var bootstrap: [String: BootstrapSource]
    /// Registries that have the same images as another and are asked first, by the host that they stand for, for example `docker.io`.
    package var mirrors: [String: [String]]
    package var scheduling: SchedulingRules
    /// How candidates of the untrusted pool become releases.
    package var promotion: PromotionPolicy
    /// Days for which a candidate is kept.
    package var candidateDays: Double
    /// Labels that a worker must have to be given candidates, for example `userns`.
    package var candidateNeeds: [String]
    /// How images are packed where the recipe does not say it.
    package var images: ImageRules
    package var nightly: NightlySettings
    package var retention: RetentionPolicy
    package var audits: AuditPolicy
    package var layers: LayerPolicy

    package init(farm: String, regions: [RegionConfiguration]) {
        self.farm = farm
        linkHost = "127.0.0.1"
        linkPort = 0
        apiHost = "127.0.0.1"
        apiPort = 0
        advertise = "127.0.0.1"
        imageAddress = ""
        self.regions = regions
        channel = "main"
        channelDays = 30
        leafSeconds = 86400
        silenceSeconds = 60
        contactSeconds = 2
        retrySeconds = 2
        scheduling = SchedulingRules()
        promotion = .rebuild
        candidateDays = 14
        candidateNeeds = []
        images = ImageRules()
        nightly = NightlySettings()
        retention = RetentionPolicy()
        audits = AuditPolicy()
        layers = LayerPolicy()
        mirrors = [:]
        bootstrap = [
            "debian:bookworm": BootstrapSource(suite: "bookworm", snapshot: "20261101T000000Z", mirror: "")
        ]
    }

    /// The same by the names under which registries are asked; `nil` for none.
    var registryMirrors: [String: [String]]? {
        let named = mirrors.map { host, others in (["docker.io", "index.docker.io"].contains(host) ? "registry-1.docker.io" : host, others)
        }
        return named.isEmpty ? nil : Dictionary(named) { $0 + $1 }
    }

    package static func read(_ path: String) throws -> FarmConfiguration {
        let configuration = try CanonicalJSON.decodeSettings(
            try Disk.read(path, limit: 1 << 20), defaults: FarmConfiguration(farm: "", regions: []), source: path)
        guard !configuration.farm.isEmpty else {
            throw FarmError("farm.name", .invalid, "\(path) gives the farm no name", hint: "add one under \"farm\"")
        }
        guard !configuration.regions.isEmpty else {
            throw FarmError("farm.regions", .invalid, "\(path) names no region", hint: "add one under \"regions\"")
        }
        try configuration.images.check(path)
        try configuration.retention.check(path)
        try configuration.audits.check(path)
        try configuration.layers.check(path)
        guard configuration.imageAddress.isEmpty || configuration.imageEndpoint != nil else {
            throw FarmError(
                "farm.image-address", .invalid, "\(path): \"\(configuration.imageAddress)\" is no address to offer images at",
                hint: "write HOST:PORT, for example 0.0.0.0:8080")
        }
        return configuration
    }
}

extension FarmConfiguration {
    /// Where images are offered.
    package var imageEndpoint: (host: String, port: Int)? {
        guard let colon = imageAddress.lastIndex(of: ":"), let port = UInt16(imageAddress[imageAddress.index(after: colon)...]), port > 0
        else { return nil }
        let host = imageAddress[..<colon].trimmingPrefix("[").replacing("]", with: "")
        return host.isEmpty ? nil : (String(host), Int(port))
    }
}

/// The directories of a farm's home.
package struct FarmHome: Sendable, Hashable {
    package let root: String

    package init(_ path: String) { root = Disk.absolute(path) }

    package var configuration: String { "\(root)/farm.json" }
    package var identity: String { "\(root)/identity" }
    package var releaseKey: String { "\(root)/identity/release.key" }
    package var channelKey: String { "\(root)/identity/channel.key" }
    /// Made here, to be taken away: only whoever renews or changes the other keys needs it.
    package var rootKey: String { "\(root)/identity/root.key" }
    /// The signed roots, from 1.json.
    package var roots: String { "\(root)/identity/roots" }
    /// There while the next start is to take the farm over.
    package var takeOver: String { "\(root)/identity/take-over" }
    package var journal: String { "\(root)/journal.sqlite" }
    /// What the coordinator follows its own channel with when it offers images.
    package var readingSite: String { "\(root)/reading-site" }
    /// What the last collection of the regions came to.
    package var collectionReport: String { "\(root)/collection-report.json" }
    /// What is remembered of regions: audits, and what their stores can do.
    package var regionRecords: String { "\(root)/regions.json" }
    /// What data for tests consists of, a file for each dataset.
    package var datasets: String { "\(root)/datasets" }
    package var blobs: String { "\(root)/blobs" }
    package var logs: String { "\(root)/logs" }
    package var uploads: String { "\(root)/uploads" }
    package var lock: String { "\(root)/coordinator.lock" }
    package var endpoints: String { "\(root)/endpoints.json" }
    package var adminToken: String { "\(root)/identity/admin.token" }
    /// Where the collection is fetched to when `farm.json` names its repository.
    package var collection: String { "\(root)/collection" }
    package var uploadKey: String { "\(root)/identity/upload.key" }
}

/// Where a running coordinator can be reached; written at every start.
package struct FarmEndpoints: Codable, Sendable, Hashable {
    package var link: String
    package var api: String
    package var process: Int32

    package init(link: String, api: String, process: Int32) {
        self.link = link
        self.api = api
        self.process = process
    }
}
