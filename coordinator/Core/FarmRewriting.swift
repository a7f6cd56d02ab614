import ChunkStore
import FarmModel
import Foundation
import ObjectStorage
import SiteDelivery
import SystemIO

/// Which packs are written anew, and which are not needed as a whole.
struct RewritingPlan: Sendable {
    /// Their needed chunks move to other packs.
    var moving: Set<Digest> = []
    /// Bytes that are read, and written once.
    var movedBytes: Int64 = 0
    /// Nothing of them is needed.
    var dead: Set<Digest> = []

    /// No cover shall name an index that lists them.
    var dropped: Set<Digest> { moving.union(dead) }

    /// Packs smaller than this are put together when a tool has many of them.
    private static let small: Int64 = 4 << 20
    private static let fewSmall = 8

    /// Where most is won for what it costs goes first, as far as the budget reaches.
    init(_ survey: FarmSurvey, _ policy: RetentionPolicy, regions: Int) throws {
        var crumbs: Set<Digest> = []
        let sizes = Dictionary(survey.shelf.indexes.values.flatMap { $0.packs.map { ($0.pack, $0.size) } }) { first, _ in first }
        for (_, images) in Dictionary(grouping: survey.images, by: \.name) {
            let packs = images.reduce(into: Set<Digest>()) { $0.formUnion($1.packs) }.filter { sizes[$0] ?? .max < RewritingPlan.small }
            if packs.count >= RewritingPlan.fewSmall { crumbs.formUnion(packs) }
        }
        let lost = Set(survey.lost)
        var loose: [(share: Double, use: ChunkUsage.Share)] = []
        for use in try survey.usage.shares() where use.record.chunks > 0 && !survey.brought.contains(use.record.pack) {
            let pack = use.record.pack
            if use.chunks == 0 {
                dead.insert(pack)
            } else if !lost.contains(pack) {
                let share = Double(use.bytes) / Double(max(1, use.record.size))
                if share < policy.sparseShare || crumbs.contains(pack) { loose.append((share, use)) }
            }
        }
        let budget = Int64(policy.repackMegabytes) * 1_000_000
        for (_, use) in loose.sorted(by: { ($0.share, $0.use.record.pack) < ($1.share, $1.use.record.pack) }) {
            guard (movedBytes + use.bytes) * Int64(regions + 1) <= budget else { continue }
            moving.insert(use.record.pack)
            movedBytes += use.bytes
        }
        // A lone pack that is needed whole would only become itself.
        if moving.count == 1, let only = moving.first, crumbs.contains(only),
            loose.first(where: { $0.use.record.pack == only }).map({ $0.share >= policy.sparseShare }) ?? false
        {
            (moving, movedBytes) = ([], 0)
        }
    }
}

/// Writes needed chunks of sparse packs into new ones, side by side with those of the same tool, and covers that do without the old.
struct FarmRewriting: Sendable {
    let regions: [(name: String, store: any ObjectStore)]
    let reader: RegionReader
    /// Called with keys before they are written.
    let claim: @Sendable ([String]) async throws -> Void

    init(_ regions: [(name: String, store: any ObjectStore)], claim: @escaping @Sendable ([String]) async throws -> Void) {
        self.regions = regions
        reader = RegionReader(regions: regions.map(\.store))
        self.claim = claim
    }

    /// What was written, and is needed by no cover yet.
    struct Outcome: Sendable {
        /// New packs.
        var listings: [PackIndex.Listing] = []
        /// For packs of images whose cover changes: an index that lists it from now on.
        var homes: [Digest: Digest] = [:]
        /// New covers by their manifests.
        var covers: [Digest: Digest] = [:]
        /// Packs whose chunks cannot be read in any region: they stay as they are.
        var broken: Set<Digest> = []
    }

    /// Writes packs and indexes to all regions.
    func write(_ plan: inout RewritingPlan, _ survey: inout FarmSurvey) async throws -> Outcome {
        var outcome = Outcome()
        if !plan.moving.isEmpty { (outcome.listings, outcome.broken) = try await move(plan, survey) }
        plan.moving.subtract(outcome.broken)
        let (moving, dropped, lost) = (plan.moving, plan.dropped, Set(survey.lost).union(outcome.broken))
        var moved: [Digest: Digest] = [:]
        for listing in outcome.listings { for entry in listing.entries { moved[entry.digest] = listing.pack } }
        var owners: [Digest: Digest] = [:]
        for (name, index) in survey.shelf.indexes { for record in index.packs { owners[record.pack] = name } }
        let fresh = try PackIndex(try PackIndex.bytes(of: outcome.listings), source: "the new index")
        for image in survey.images where outcome.covers[image.manifest] == nil && changes(image, dropped, survey) {
            // What cannot be read whole is left as it is, to be mended.
            guard image.packs.isDisjoint(with: lost) else { continue }
            var packs = image.packs.subtracting(moving)
            if packs.count < image.packs.count {
                let (usage, known) = (survey.usage, moved)
                let manifest = try await reader.manifest(image.manifest)
                packs.formUnion(
                    try await Blocking.run {
                        try Set(
                            manifest.chunks.compactMap { chunk in
                                try usage.location(of: chunk.digest).flatMap { moving.contains($0.pack) ? known[chunk.digest] : nil }
                            })
                    })
            }
            let sources = Set(packs.compactMap { owners[$0] }).sorted().compactMap { survey.shelf.indexes[$0] } + [fresh]
            let wanted = packs
            let bytes = try await Blocking.run { try PackIndex.merged(sources, only: wanted) }
            let name = Digest(hashing: bytes)
            if survey.shelf.indexes[name] == nil {
                try await put(PackIndex.key(name), bytes)
                try await survey.shelf.put(try PackIndex(bytes, source: PackIndex.key(name)), as: name)
            }
            outcome.covers[image.manifest] = name
            for pack in packs { outcome.homes[pack] = name }
        }
        return outcome
    }

    /// Whether an image's cover is to be written anew: it names what shall go, or regions disagree.
    private func changes(_ image: FarmSurvey.Image, _ dropped: Set<Digest>, _ survey: FarmSurvey) -> Bool {
        guard image.damagedCovers.isEmpty, Set(image.covers.values).count == 1, let names = image.covers.values.first else { return true }
        return names.contains { name in survey.shelf.indexes[name]?.packs.contains { dropped.contains($0.pack) } ?? false }
    }

    /// Points readers at the new indexes.
    func point(_ outcome: Outcome, _ survey: inout FarmSurvey) async throws {
        let new = Set(outcome.listings.map(\.pack))
        for number in survey.images.indices {
            let image = survey.images[number]
            guard let index = outcome.covers[image.manifest] else { continue }
            let key = ImageManifest.coverKey(image.manifest)
            let bytes = try CanonicalJSON.encode(ManifestCover(indexes: [index]))
            for place in Set(image.covers.keys).union(image.damagedCovers).sorted() where image.covers[place] != [index] {
                // A chunk may have been found in a pack that came with an image which this region lacks.
                for record in survey.shelf.indexes[index]?.packs ?? [] where !new.contains(record.pack) {
                    let pack = Pack.key(record.pack)
                    guard survey.present[place][pack] != record.size else { continue }
                    try await regions[place].store.put(pack, try await reader.content(record.pack, key: pack, size: record.size))
                    survey.present[place][pack] = record.size
                }
                let home = PackIndex.key(index)
                if survey.present[place][home] == nil {
                    try await claim([home])
                    try await regions[place].store.put(home, try await reader.content(index, key: home))
                    survey.present[place][home] = Int64(survey.shelf.indexes[index]?.size ?? 0)
                }
                try await regions[place].store.put(key, bytes)
                survey.images[number].covers[place] = [index]
            }
        }
    }

    private func move(
        _ plan: RewritingPlan, _ survey: FarmSurvey
    ) async throws -> (listings: [PackIndex.Listing], broken: Set<Digest>) {
        var listings: [PackIndex.Listing] = []
        var broken: Set<Digest> = []
        var taken: Set<Digest> = []
        var builder = PackBuilder()
        var (waiting, waitingBytes) = ([ChunkLocation](), 0)
        func flush(closes: Bool) async throws {
            let chunks = waiting
            (waiting, waitingBytes) = ([], 0)
            var data: [Digest: [UInt8]] = [:]
            for (pack, places) in Dictionary(grouping: chunks, by: \.pack) where !broken.contains(pack) {
                do { data.merge(try await reader.chunks(places.map(\.entry), in: pack)) { first, _ in first } } catch let error as FarmError
                    where !error.category.isTransient
                { broken.insert(pack) }
            }
            let read = data
            let stored = try await Blocking.run {
                let packer = ChunkPacker()
                return try chunks.compactMap { place in try read[place.entry.digest].map { try packer.pack(place.entry.digest, $0[...]) } }
            }
            for chunk in stored {
                builder.add(chunk)
                if builder.size >= PackBuilder.fullSize { listings.append(try await send(builder.finish())) }
            }
            if closes, !builder.isEmpty { listings.append(try await send(builder.finish())) }
        }
        // Versions of a tool side by side, each in its own order: who reads one of them reads runs.
        let order = survey.images.filter { !$0.packs.isDisjoint(with: plan.moving) }.sorted { one, other in
            if one.name != other.name { return one.name < other.name }
            if one.version != other.version { return VersionOrder.precedes(one.version, other.version) }
            return (one.target, one.manifest) < (other.target, other.manifest)
        }
        for image in order {
            let (manifest, usage) = (try await reader.manifest(image.manifest), survey.usage)
            let places = try await Blocking.run { try manifest.chunks.compactMap { try usage.location(of: $0.digest) } }
            for place in places where plan.moving.contains(place.pack) && taken.insert(place.entry.digest).inserted {
                waiting.append(place)
                waitingBytes += place.entry.size
                if waitingBytes >= 16 << 20 { try await flush(closes: false) }
            }
        }
        try await flush(closes: true)
        return (listings, broken)
    }

    private func send(_ pack: FinishedPack) async throws -> PackIndex.Listing {
        try await put(Pack.key(pack.digest), pack.bytes)
        return PackIndex.Listing(pack: pack.digest, entries: pack.entries)
    }

    private func put(_ key: String, _ bytes: [UInt8]) async throws {
        try await claim([key])
        for region in regions { try await region.store.put(key, bytes) }
    }
}
