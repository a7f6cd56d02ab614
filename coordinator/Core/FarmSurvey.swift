import Attestation
import ChunkStore
import FarmModel
import Foundation
import ObjectStorage
import SiteDelivery
import SystemIO

/// What a farm's regions hold and what of it is needed, found from the journal down.
struct FarmSurvey: Sendable {
    /// An image that a release or an open publication has.
    struct Image: Sendable {
        var name: String
        var version: String
        var target: String
        var size: Int64
        var manifest: Digest
        /// Indexes that its cover names, by the regions' numbers; of regions without a cover that can be read there are none.
        var covers: [Int: [Digest]] = [:]
        /// Regions with a cover that cannot be read.
        var damagedCovers: Set<Int> = []
        /// Packs that hold its chunks.
        var packs: Set<Digest> = []

        var title: String { "\(name) \(version) (\(target))" }
    }

    var images: [Image] = []
    /// Objects of each region with their sizes.
    var present: [[String: Int64]] = []
    /// Keys that releases and open publications need, other than indexes and packs of images.
    var fixed: Set<String> = []
    /// Packs that open publications have brought.
    var brought: Set<Digest> = []
    var shelf = IndexShelf()
    /// By versions: which chunks releases need.
    var usage = ChunkUsage(.empty)
    /// By names.
    var toolUsage = ChunkUsage(.empty)
    /// Why it cannot be told what is needed.
    var findings: [String] = []
    /// Needed packs that no region has whole.
    var lost: [Digest] = []

    /// Below these a farm's regions hold nothing but what a collection knows of.
    static let prefixes = ["releases/", "covers/", "manifests/", "records/", "indexes/", "packs/"]

    /// Whether any region has an object.
    func has(_ key: String) -> Bool { present.contains { $0[key] != nil } }

    var versions: [String] { Set(images.map { "\($0.name)\n\($0.version)" }).sorted() }
    var tools: [String] { Set(images.map(\.name)).sorted() }

    /// Indexes that covers name.
    var neededIndexes: Set<Digest> { images.reduce(into: []) { $0.formUnion($1.covers.values.flatMap(\.self)) } }

    /// Keys that are needed as the covers stand now: an index that a cover names keeps all its packs, as readers may look in any of them.
    var needed: Set<String> {
        var keys = fixed
        for image in images { keys.formUnion([ImageManifest.key(image.manifest), ImageManifest.coverKey(image.manifest)]) }
        for name in neededIndexes {
            keys.insert(PackIndex.key(name))
            for record in shelf.indexes[name]?.packs ?? [] { keys.insert(Pack.key(record.pack)) }
        }
        return keys
    }
}

extension FarmSurvey {
    /// Lists regions; throws what they throw: with one that is away nothing can be decided.
    init(listing regions: [(name: String, store: any ObjectStore)]) async throws {
        for region in regions {
            var objects: [String: Int64] = [:]
            for prefix in FarmSurvey.prefixes {
                for object in try await region.store.all(prefix: prefix) { objects[object.key] = object.size }
            }
            present.append(objects)
        }
    }

    /// Finds out what is needed of what was listed.
    ///
    /// - Parameter standing: from after the listing, so that whatever brought one of the objects is known.
    static func read(
        _ listed: FarmSurvey, _ standing: FarmState.Standing, _ publisher: Publisher, by keys: [VerifyingKey]
    ) async throws -> FarmSurvey {
        let regions = publisher.regions
        var survey = listed
        let reader = RegionReader(regions: regions.map(\.store))
        try await survey.findImages(standing, reader, keys)
        try await survey.readCovers(regions)
        try await survey.readIndexes(reader, publisher)
        try await survey.measure(reader)
        try await survey.findLost(regions)
        return survey
    }

    private mutating func findImages(_ standing: FarmState.Standing, _ reader: RegionReader, _ keys: [VerifyingKey]) async throws {
        var releases = standing.releases.map { (digest: $0.digest, release: $0.release) }
        for entry in standing.carried {
            let key = ReleaseDocument.key(name: entry.name, version: entry.version, digest: entry.release)
            do {
                let bytes = try await reader.content(entry.release, key: key)
                let release: Release = try CanonicalJSON.decode(Envelope.self, from: bytes, source: key)
                    .verified(payloadType: PayloadType.release, by: keys, source: key)
                releases.append((entry.release, release))
            } catch let error as FarmError where !error.category.isTransient {
                findings.append("\(entry.name) \(entry.version): its release cannot be read: \(error.message)")
            }
        }
        for (digest, release) in releases {
            fixed.insert(ReleaseDocument.key(name: release.name, version: release.version, digest: digest))
            for (kind, record) in release.records ?? [:] { keep(record, kind) }
            images.append(
                Image(
                    name: release.name, version: release.version, target: release.image.target, size: release.image.size,
                    manifest: release.image.manifest))
        }
        let known = Set(images.map(\.manifest))
        for publication in standing.publications {
            let manifest = publication.result.manifest.digest
            fixed.formUnion([ImageManifest.key(manifest), ImageManifest.coverKey(manifest)])
            for pack in publication.result.packs {
                fixed.insert(Pack.key(pack.digest))
                brought.insert(pack.digest)
            }
            if let index = publication.index { fixed.insert(PackIndex.key(index)) }
            for item in publication.result.records { keep(item.object.digest, item.kind.rawValue) }
            let isWritten: Set<PublicationRecord.Step> = [.verify, .release, .pointer, .mirrors, .cleanup]
            if isWritten.contains(publication.step), !known.contains(manifest), has(ImageManifest.key(manifest)) {
                images.append(
                    Image(
                        name: "in publication", version: "\(publication.job)", target: publication.result.hostTarget,
                        size: publication.result.imageSize, manifest: manifest))
            }
        }
    }

    private mutating func keep(_ record: Digest, _ kind: String) {
        fixed.insert(ImageRecord.key(record))
        if ImageRecord.isSigned(kind) { fixed.insert(ImageRecord.attestationKey(record)) }
    }

    private mutating func readCovers(_ regions: [(name: String, store: any ObjectStore)]) async throws {
        var read: [Digest: Image] = [:]
        for number in images.indices {
            let manifest = images[number].manifest
            let key = ImageManifest.coverKey(manifest)
            if let there = read[manifest] {
                (images[number].covers, images[number].damagedCovers) = (there.covers, there.damagedCovers)
                continue
            }
            // What a publication has written since the listing is asked for by its name.
            let isListed = has(key)
            for (place, region) in regions.enumerated() where present[place][key] != nil || !isListed {
                do {
                    let cover = try CanonicalJSON.decode(
                        ManifestCover.self, from: try await region.store.get(key), source: "\(key) in \(region.name)")
                    images[number].covers[place] = cover.indexes
                } catch let error as FarmError where error.category == .notFound { continue } catch let error as FarmError
                    where !error.category.isTransient
                { images[number].damagedCovers.insert(place) }
            }
            read[manifest] = images[number]
            if images[number].covers.isEmpty {
                findings.append("\(images[number].title): no region has a cover of its manifest that can be read")
            }
        }
    }

    private mutating func readIndexes(_ reader: RegionReader, _ publisher: Publisher) async throws {
        let names = Set(images.flatMap { $0.covers.values.flatMap(\.self) })
        shelf = try await IndexShelf.read(
            names.sorted().map { name in (name, present.compactMap { $0[PackIndex.key(name)] }.max() ?? 0) }, from: reader)
        for name in names.sorted() where shelf.indexes[name] == nil {
            let why = shelf.damaged.first { $0.name == name }?.error.message ?? "no region has it"
            findings.append("\(PackIndex.key(name)): \(why)")
        }
        let merged = try await IndexShelf.merged(Array(shelf.indexes.values))
        // What the journal has forgotten was lost once, and some region may be without what another one has.
        let known = try await publisher.listings(of: Set(merged.packs.map(\.pack)))
        let doubtful = Set(
            merged.packs.filter { record in
                known[record.pack] == nil || present.contains { $0[Pack.key(record.pack)].map { $0 != record.size } ?? false }
                    || !present.contains { $0[Pack.key(record.pack)] == record.size }
            }.map(\.pack))
        (usage, toolUsage) = (ChunkUsage(merged, avoiding: doubtful), ChunkUsage(merged, avoiding: doubtful))
    }

    private mutating func measure(_ reader: RegionReader) async throws {
        let versions = Dictionary(uniqueKeysWithValues: versions.enumerated().map { ($1, $0) })
        let tools = Dictionary(uniqueKeysWithValues: tools.enumerated().map { ($1, $0) })
        for number in images.indices {
            let image = images[number]
            let manifest: ImageManifest
            do { manifest = try await reader.manifest(image.manifest) } catch let error as FarmError where !error.category.isTransient {
                findings.append("\(image.title): \(error.message)")
                continue
            }
            guard let version = versions["\(image.name)\n\(image.version)"], let tool = tools[image.name] else { continue }
            let counts = (usage, toolUsage)
            let (packs, missing) = try await Blocking.run {
                var (packs, missing) = (Set<Digest>(), 0)
                for chunk in manifest.chunks {
                    if let place = try counts.0.use(chunk.digest, by: version) { packs.insert(place.pack) } else { missing += 1 }
                    _ = try counts.1.use(chunk.digest, by: tool)
                }
                return (packs, missing)
            }
            images[number].packs = packs
            if missing > 0 { findings.append("\(image.title): \(missing) of its chunks lie in no index that its cover names") }
        }
    }

    private mutating func findLost(_ regions: [(name: String, store: any ObjectStore)]) async throws {
        let sizes = Dictionary(
            shelf.indexes.values.flatMap { $0.packs.map { ($0.pack, $0.size) } }
        ) { first, _ in first }
        for pack in images.reduce(into: Set<Digest>(), { $0.formUnion($1.packs) }).sorted() {
            let key = Pack.key(pack)
            guard !present.contains(where: { $0[key] == sizes[pack] }) else { continue }
            var isThere = false
            for region in regions where !isThere { isThere = try await region.store.head(key)?.size == sizes[pack] }
            if !isThere { lost.append(pack) }
        }
    }
}

extension FarmSurvey {
    /// What a tool, or one of its versions, costs.
    struct Cost: Sendable {
        var name: String
        var size: Int64
        var ownBytes: Int64
    }

    /// Sizes of all images of each version, and of each tool, with what nobody else has of them.
    func costs() throws -> (versions: [Cost], tools: [Cost]) {
        func costs(_ names: [String], _ usage: ChunkUsage, _ name: (Image) -> String) throws -> [Cost] {
            let own = try usage.own(users: names.count)
            var sizes: [String: Int64] = [:]
            for image in images { sizes[name(image), default: 0] += image.size }
            return zip(names, own).map { Cost(name: $0, size: sizes[$0] ?? 0, ownBytes: $1) }
        }
        return (try costs(versions, usage) { "\($0.name)\n\($0.version)" }, try costs(tools, toolUsage, \.name))
    }
}
