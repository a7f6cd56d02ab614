package import Attestation
import ChunkStore
package import FarmModel
import Foundation
import ObjectStorage

/// Whoever owns a farm's state.
package protocol FarmStateOwner: Sendable {
    /// Runs a transition: its changes are durable when this returns, or never happened.
    func apply<Value: Sendable>(_ body: @Sendable (inout FarmState) throws -> Value) async throws -> Value
}

/// Takes away from a farm's regions what nothing needs, and writes sparse packs anew (`docs/collection.md`).
///
/// Runs beside builds, publications and readers. Killed anywhere, the next one goes on.
package struct FarmCollector: Sendable {
    private let publisher: Publisher
    private let channel: String
    private let imageKeys: [VerifyingKey]
    private let policy: RetentionPolicy
    private let owner: any FarmStateOwner
    private let clock: @Sendable () -> Timestamp

    private var regions: [(name: String, store: any ObjectStore)] { publisher.regions }

    package init(
        publisher: Publisher, channel: String, imageKeys: [VerifyingKey], policy: RetentionPolicy, owner: any FarmStateOwner,
        clock: @escaping @Sendable () -> Timestamp = { .now }
    ) {
        (self.publisher, self.channel, self.imageKeys) = (publisher, channel, imageKeys)
        (self.policy, self.owner, self.clock) = (policy, owner, clock)
    }

    /// Collects, noting in the report what it does.
    ///
    /// - Throws: `coordinator.fenced`, `store.damaged` when it cannot be told what images need, and what regions throw: nothing that is
    ///   needed has been taken away then.
    package func collect(_ report: inout CollectionReport) async throws {
        let before = try await owner.apply(\.self)
        if !report.isDryRun { try await resume() }
        let reliance = before.oldestReliance
        // Whoever has published since knows of objects that this journal does not.
        let shown = try await shownReleases()
        let leavers = before.leavers(policy, now: clock())
        report.isChannelStale = !report.isDryRun && (!leavers.isEmpty || shown.contains { before.releases[$0]?.retiredAt != nil })
        report.retired = leavers.map { .init(title: $0.title, why: $0.why) }
        if !report.isDryRun, !leavers.isEmpty {
            try await owner.apply { $0.retire(leavers.map(\.digest), now: clock()) }
        }
        let gone = report.isDryRun ? Set(leavers.map(\.digest)) : []
        let listed = try await FarmSurvey(listing: regions)
        let asked = clock()
        let state = try await owner.apply(\.self)
        var standing = state.standing
        standing.releases.removeAll { gone.contains($0.digest) }
        // What some region's channel still names stays.
        standing.releases += state.releases.values.filter { $0.retiredAt != nil && shown.contains($0.digest) }
        var survey = try await FarmSurvey.read(listed, standing, publisher, by: imageKeys)
        try measure(survey, &report)
        guard survey.findings.isEmpty else {
            throw FarmError(
                "store.damaged", .corrupt,
                "what images need cannot be told, so nothing is taken away: \(survey.findings.prefix(3).joined(separator: "; "))",
                hint: "sciferry store check BUCKET names what is damaged, sciferry store repair brings it from another region")
        }
        var plan = try RewritingPlan(survey, policy, regions: regions.count)
        (report.repackedPacks, report.movedBytes) = (plan.moving.count, plan.movedBytes)
        if report.isDryRun {
            for key in plan.dropped.map(Pack.key) { report.condemned.add(survey.present.reduce(0) { $0 + ($1[key] ?? 0) }) }
        } else {
            try await rewrite(&plan, &survey, &report)
        }
        try await sweep(survey, asked, reliance, &report)
    }

    /// Goes on with removals that broke off, so that what they name can be written again.
    package func resume() async throws {
        try await remove(try await owner.apply { state in state.condemned.values.filter(\.isGoing).map(\.key) })
    }

    /// Releases that the channels of the regions name. Throws `coordinator.fenced` where somebody else has published.
    private func shownReleases() async throws -> Set<Digest> {
        var shown: Set<Digest> = []
        for region in regions {
            guard let channel = try await publisher.published(channel, region: region.name)?.channel else { continue }
            guard try await !owner.apply({ $0.isBehind(channel) }) else {
                throw FarmError(
                    "coordinator.fenced", .conflict,
                    "region \(region.name) shows version \(channel.version) of epoch \(channel.epoch), of which this coordinator knows nothing: nothing is taken away"
                )
            }
            shown.formUnion(channel.entries.map(\.release))
        }
        return shown
    }

    private func rewrite(_ plan: inout RewritingPlan, _ survey: inout FarmSurvey, _ report: inout CollectionReport) async throws {
        let rewriting = FarmRewriting(regions, claim: publisher.claim)
        let outcome = try await rewriting.write(&plan, &survey)
        report.newPacks = outcome.listings.count
        report.repackedPacks = plan.moving.count
        report.lostPacks += outcome.broken.sorted()
        let moving = plan.moving.sorted().map(Pack.key)
        let listings = Dictionary(uniqueKeysWithValues: outcome.listings.map { ($0.pack, $0) })
        try await owner.apply { state in
            // First, so that their chunks are found in the new packs.
            state.condemn(moving, sparing: [], now: clock())
            for (index, packs) in Dictionary(grouping: outcome.homes, by: \.value) {
                state.add(.packs(packs.map(\.key).sorted().map { listings[$0] ?? .init(pack: $0, entries: []) }, index: index))
            }
        }
        try await rewriting.point(outcome, &survey)
    }

    /// Condemns what nothing needs, and takes away what was condemned long enough ago.
    private func sweep(_ survey: FarmSurvey, _ asked: Timestamp, _ reliance: Timestamp?, _ report: inout CollectionReport) async throws {
        let needed = survey.needed
        let all = survey.present.reduce(into: Set<String>()) { $0.formUnion($1.keys) }
        func bytes(_ key: String) -> Int64 { survey.present.reduce(0) { $0 + ($1[key] ?? 0) } }
        let state = try await owner.apply(\.self)
        let useless = all.subtracting(needed)
        for key in useless where state.condemned[key].map({ $0.at >= asked }) ?? true { report.condemned.add(bytes(key)) }
        let old = state.condemned.values.filter { $0.at < asked && !$0.isGoing }
        for object in old where needed.contains(object.key) { report.spared.add(bytes(object.key)) }
        let due = old.map(\.key).filter { !needed.contains($0) }
        guard !report.isDryRun else {
            for key in due { report.waiting.add(bytes(key)) }
            return
        }
        let grace = policy.graceHours * 3600
        let listings = due.contains { $0.hasPrefix("packs/") } ? try await self.listings(of: useless) : [:]
        let homes = try await newHomes(survey)
        let going = try await owner.apply { state in
            for (index, packs) in Dictionary(grouping: homes, by: \.value) {
                state.add(.packs(packs.map(\.key).sorted().map { .init(pack: $0, entries: []) }, index: index))
            }
            state.condemn(useless.sorted(), sparing: needed.filter { state.condemned[$0].map { $0.at < asked } ?? false }, now: clock())
            return state.beginRemoval(due, asked: asked, reliance: reliance, listings: listings, graceSeconds: grace, now: clock())
        }
        for key in going { report.removed.add(bytes(key)) }
        for key in Set(due).subtracting(going) { report.waiting.add(bytes(key)) }
        try await remove(going)
    }

    /// The packs that the indexes among some objects list; those that cannot be read lead nobody anywhere.
    private func listings(of keys: Set<String>) async throws -> [String: Set<String>] {
        let reader = RegionReader(regions: regions.map(\.store))
        var found: [String: Set<String>] = [:]
        for key in keys.sorted() where key.hasPrefix("indexes/") {
            guard let name = Digest(key.split(separator: "/").last ?? "") else { continue }
            do {
                let index = try PackIndex(try await reader.content(name, key: key), source: key)
                found[key] = Set(index.packs.map { Pack.key($0.pack) })
            } catch let error as FarmError where !error.category.isTransient { continue }
        }
        return found
    }

    /// For packs that are needed, and that the journal would have new covers find through an index which is not: one that is.
    private func newHomes(_ survey: FarmSurvey) async throws -> [Digest: Digest] {
        var homes: [Digest: Digest] = [:]
        let indexes = survey.neededIndexes
        for name in indexes.sorted() { for record in survey.shelf.indexes[name]?.packs ?? [] { homes[record.pack] = name } }
        let listed = try await publisher.listings(of: Set(homes.keys))
        return homes.filter { pack, _ in listed[pack].map { !indexes.contains($0) } ?? false }
    }

    /// Deletes objects that are going; those that some region keeps stay marked, for `resume`.
    private func remove(_ keys: [String]) async throws {
        guard !keys.isEmpty else { return }
        _ = try await shownReleases()
        var failure: (any Error)?
        let order = FarmSurvey.prefixes
        let sorted = keys.sorted { one, other in
            let (a, b) = (order.firstIndex { one.hasPrefix($0) } ?? 0, order.firstIndex { other.hasPrefix($0) } ?? 0)
            return (a, one) < (b, other)
        }
        for start in stride(from: 0, to: sorted.count, by: 100) {
            var done: [String] = []
            for key in sorted[start..<min(start + 100, sorted.count)] {
                do {
                    for region in regions { try await region.store.delete(key) }
                    done.append(key)
                } catch { failure = failure ?? error }
            }
            let gone = done
            try await owner.apply { $0.removed(gone) }
        }
        if let failure { throw failure }
    }

    private func measure(_ survey: FarmSurvey, _ report: inout CollectionReport) throws {
        let costs = try survey.costs()
        report.costs =
            costs.tools.map { .init(name: $0.name, version: "", imageBytes: $0.size, ownBytes: $0.ownBytes) }
            + costs.versions.map { cost in
                let parts = cost.name.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
                return .init(name: parts[0], version: parts.last ?? "", imageBytes: cost.size, ownBytes: cost.ownBytes)
            }
        report.costs.sort { ($0.name, $0.version) < ($1.name, $1.version) }
        report.images = survey.images.count
        report.imageBytes = survey.images.reduce(0) { $0 + $1.size }
        report.neededBytes = try survey.usage.shares().reduce(0) { $0 + $1.bytes }
        let packs = (survey.present.first ?? [:]).filter { $0.key.hasPrefix("packs/") }
        (report.packs, report.packBytes) = (packs.count, packs.values.reduce(0, +))
        report.lostPacks = survey.lost
    }
}
