import Attestation
import ChunkStore
import FarmModel
import Foundation
import Logging
import SystemIO

/// Keeps the regions free of what nothing needs (`docs/collection.md`).
extension Coordinator {
    /// Collects when it is time, until cancelled.
    func keepStore() async throws {
        collection = try? CanonicalJSON.decode(
            from: try Disk.read(home.collectionReport, limit: 1 << 26), source: home.collectionReport)
        if collection?.endedAt == nil { collection = nil }
        // A new farm has nothing to collect; one that starts does not begin with it.
        let hours = configuration.retention.everyHours
        hasCollected = collection?.error == nil
        collectedAt = collection?.startedAt ?? Timestamp.now.adding(seconds: 300 - hours * 3600)
        var resumedAt = Timestamp.now
        while !Task.isCancelled {
            try await Task.sleep(for: .seconds(1))
            guard isAdopted, !isCollecting else { continue }
            // What failed for a while is tried again sooner.
            if hours > 0, Timestamp.now.seconds(since: collectedAt) >= (hasCollected ? hours : min(hours, 1)) * 3600 {
                await collect(isDryRun: false, by: "schedule")
            } else if Timestamp.now.seconds(since: resumedAt) >= 60, state.condemned.values.contains(where: \.isGoing) {
                resumedAt = .now
                // Two that remove the same could remove what was written in between.
                isCollecting = true
                do { try await collector.resume() } catch { report(error) }
                isCollecting = false
            }
        }
    }

    private var collector: FarmCollector {
        FarmCollector(
            publisher: publisher, channel: configuration.channel, imageKeys: root.imageKeys,
            policy: configuration.retention, owner: self)
    }

    /// Begins a collection; throws `collection.running` beside another one, and `collection.early` before it is known that nobody else has
    /// published for the farm.
    package func startCollection(isDryRun: Bool, by who: String) throws -> CollectionReport {
        guard !isCollecting else {
            throw FarmError("collection.running", .conflict, "a collection is under way", hint: "sciferry collect --last shows it")
        }
        guard isAdopted else {
            throw FarmError(
                "collection.early", .unavailable, "the coordinator has not asked its regions yet", hint: "try again in a moment")
        }
        let report = CollectionReport(startedAt: .now, by: who, isDryRun: isDryRun)
        collection = report
        isCollecting = true
        Task { await collect(isDryRun: isDryRun, by: who) }
        return report
    }

    /// The last collection, or the one that goes on; throws `collection.none`.
    package func lastCollection() throws -> CollectionReport {
        guard let collection else {
            throw FarmError("collection.none", .notFound, "nothing has been collected yet", hint: "sciferry collect --dry-run")
        }
        return collection
    }

    /// Those of some packs that may be taken away, or the indexes that list them.
    func condemned(_ packs: [Digest: Digest]) -> Set<Digest> { Set(packs.filter { state.mayGo(pack: $0, index: $1) }.keys) }

    func claim(_ keys: [String]) throws { try transition { try $0.claim(keys) } }

    private func collect(isDryRun: Bool, by who: String) async {
        isCollecting = true
        var report = CollectionReport(startedAt: .now, by: who, isDryRun: isDryRun)
        collection = report
        do {
            // What a store lists wrongly would be missed in the wrong place.
            for region in configuration.regions.map(\.name) where fit[region] == false { try checkFitness(of: region) }
            try await collector.collect(&report)
        } catch {
            report.error = (error as? FarmError)?.message ?? "\(error)"
            self.report(error)
        }
        report.endedAt = .now
        channelIsStale = channelIsStale || report.isChannelStale
        if !isDryRun { (collectedAt, hasCollected) = (report.startedAt, report.error == nil) }
        collection = report
        isCollecting = false
        if !isDryRun { try? Disk.replace(home.collectionReport, with: (try? CanonicalJSON.encode(report)) ?? []) }
        logger.notice(
            "collection",
            metadata: [
                "by": "\(who)", "dry": "\(isDryRun)", "retired": "\(report.retired.count)", "condemned": "\(report.condemned.objects)",
                "removed": "\(report.removed.objects)", "removed.bytes": "\(report.removed.bytes)", "repacked": "\(report.repackedPacks)",
                "lost": "\(report.lostPacks.count)",
            ])
        if let lost = report.lostPacks.first {
            logger.error("packs are lost in all regions", metadata: ["packs": "\(report.lostPacks.count)", "pack": "\(lost.hex)"])
        }
    }
}

extension Coordinator: FarmStateOwner {
    package func apply<Value: Sendable>(_ body: @Sendable (inout FarmState) throws -> Value) throws -> Value { try transition(body) }
}
