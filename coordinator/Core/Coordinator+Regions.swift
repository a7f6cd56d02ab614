import Attestation
import FarmModel
import Foundation
import Logging
import ObjectStorage
import SiteDelivery
import SystemIO

/// What a region was last seen to be.
struct RegionWatch: Sendable {
    /// The question that has no answer yet.
    var askingSince: Timestamp?
    var answeredAt: Timestamp?
    var error: String?
    var version: Int?
    /// The channel as it was when the version was read.
    var channel: ObjectInfo?
}

/// Watches the regions, audits them when it is time, and fills those that are new (`docs/regions.md`).
extension Coordinator {
    /// Seconds between two questions to a region.
    private static let watchPause: Double = 10
    /// Seconds that an answer may take before it counts as none.
    private static let watchPatience: Double = 10
    /// Seconds between two trials of a store that a farm cannot rely on.
    private static let trialPause: Double = 60

    func keepRegions() async throws {
        if let bytes = try? Disk.read(home.regionRecords, limit: 1 << 26) {
            regionRecords = (try? CanonicalJSON.decode(from: bytes, source: home.regionRecords)) ?? [:]
        }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for region in configuration.regions { tasks.addTask { try await self.watch(region.name) } }
            tasks.addTask { try await self.auditInTime() }
            defer { tasks.cancelAll() }
            try await tasks.next()
        }
    }

    private func watch(_ name: String) async throws {
        var trialAt = Timestamp.now
        while !Task.isCancelled {
            watches[name, default: RegionWatch()].askingSince = .now
            do {
                if fit[name] != true, trialAt <= .now {
                    fit[name] = try await tryOut(name)
                    trialAt = Timestamp.now.adding(seconds: Coordinator.trialPause)
                }
                try await look(name)
            } catch let error as FarmError {
                watches[name]?.error = error.message
                if watches[name]?.answeredAt == nil { report(error) }
            }
            watches[name]?.askingSince = nil
            try await Task.sleep(for: .seconds(Coordinator.watchPause))
        }
    }

    /// Reads the channel where it has changed.
    private func look(_ name: String) async throws {
        guard let store = publisher.regions.first(where: { $0.name == name })?.store else { return }
        let channel = try await store.head(ReleaseChannel.key(configuration.channel))
        var version = watches[name]?.version
        if channel == nil || channel != watches[name]?.channel {
            version = channel == nil ? nil : try await publisher.published(configuration.channel, region: name)?.channel.version
        }
        saw(name, version, channel)
        // One that has lost its channel gets back what it had published, before it is pointed at it again.
        if isAdopted, version == nil, name == configuration.regions[0].name { _ = try await mustBeFilled(name) }
    }

    /// Finds out what a region's store does, and whether a farm can rely on it.
    private func tryOut(_ name: String) async throws -> Bool {
        guard let store = publisher.regions.first(where: { $0.name == name })?.store else { return false }
        var trial = StoreTrial(store, in: "incoming/trial/")
        let abilities: StoreAbilities
        do { abilities = try await trial.run() } catch let error as FarmError where !error.category.isTransient {
            // A full one, for example: what it does was found out when it had room.
            guard let known = regionRecords[name]?.abilities, (try? known.checkFitness(name)) != nil else { throw error }
            report(error)
            return true
        }
        regionRecords[name, default: RegionRecord()].abilities = abilities
        keepRecords()
        do { try abilities.checkFitness("region \(name)") } catch {
            report(error)
            return false
        }
        for remark in abilities.remarks { logger.notice("a region's store", metadata: ["region": "\(name)", "remark": "\(remark)"]) }
        return true
    }

    /// Throws `region.unfit` for a region to which nothing is published, because nobody knows what its store does with it.
    func checkFitness(of region: String) throws {
        guard fit[region] != true else { return }
        throw FarmError(
            "region.unfit", .unavailable,
            fit[region] == nil
                ? "region \(region) has not been tried out yet" : "region \(region) is on a store that a farm cannot rely on",
            hint: "sciferry regions status --stores")
    }

    /// Waits until the first region is known to be one that can be relied on.
    func awaitFirstRegion() async throws {
        while fit[configuration.regions[0].name] != true { try await Task.sleep(for: .milliseconds(100)) }
    }

    /// Has the first region get what it has published and lost, when another one has it: an empty bucket was put in its place, for one.
    func fillFirstRegion() async throws {
        let first = configuration.regions[0].name
        while true {
            do {
                guard try await mustBeFilled(first) else { return }
                logger.warning(
                    "the first region lacks what it has published: it is brought from the others", metadata: ["region": "\(first)"])
                await audit(AuditRequest(kind: .listing, regions: [first], repairs: true), by: "filling")
                if !unfilled.contains(first) { return }
            } catch let error as FarmError where error.category.isTransient { report(error) }
            try await Task.sleep(for: .seconds(15))
        }
    }

    private func saw(_ name: String, _ version: Int?, _ channel: ObjectInfo?) {
        watches[name] = RegionWatch(askingSince: nil, answeredAt: .now, error: nil, version: version, channel: channel)
        let isBehind = version != state.channels[configuration.channel]?.version
        let known = regionRecords[name]?.behindSince
        // It was pointed at the channel, or has lost it again.
        if !isBehind || known == nil { filled.remove(name) }
        if isBehind, name != configuration.regions[0].name, state.jobsLacking(in: name).isEmpty { unrenewed.insert(name) }
        if isBehind == (known != nil) { return }
        regionRecords[name, default: RegionRecord()].behindSince = isBehind ? .now : nil
        keepRecords()
    }

    private func keepRecords() {
        reportingFaults { try Disk.replace(home.regionRecords, with: try CanonicalJSON.encode(regionRecords)) }
    }

    // MARK: New regions

    /// Whether a region, the first one among them, shows a channel without releases that have been published and are not on their way to it,
    /// or none: then it gets these first, so that its channel never names what it does not have.
    func mustBeFilled(_ region: String) async throws -> Bool {
        if filled.contains(region) { return false }
        let shown = try await publisher.published(configuration.channel, region: region)?.channel.entries ?? []
        let pending = state.jobsLacking(in: region)
        let coming = Set(state.releases.values.filter { pending.contains($0.job) }.map(\.digest))
        let current = Set(state.channelEntries(carrying: state.channels[configuration.channel]?.carried).map(\.release))
        if current.subtracting(coming).isSubset(of: shown.map(\.release)) { return false }
        unfilled.insert(region)
        return true
    }

    // MARK: Audits

    private func auditInTime() async throws {
        let policy = configuration.audits
        let start = Timestamp.now
        func due(_ hours: Double, _ last: Timestamp?) -> Bool {
            guard hours > 0 else { return false }
            // A coordinator that starts does not begin with it.
            let next = last?.adding(seconds: hours * 3600) ?? start
            return max(next, start.adding(seconds: min(300, hours * 3600))) <= .now
        }
        var filledAt = Timestamp(seconds: 0)
        while !Task.isCancelled {
            try await Task.sleep(for: .seconds(1))
            guard isAdopted, !isAuditing else { continue }
            let records = configuration.regions.map { regionRecords[$0.name] ?? RegionRecord() }
            // The region that waits longest counts: what was asked for one of them does not put the others off.
            func oldest(_ times: [Timestamp?]) -> Timestamp? { times.contains(nil) ? nil : times.compactMap(\.self).min() }
            let failedReadings = configuration.regions.map(\.name).filter { regionRecords[$0]?.reading?.error != nil }
            let readAt = oldest(records.map(\.reading?.startedAt))
            let listedAt = oldest(records.map(\.lastAudit?.startedAt))
            // What failed for a while is tried again sooner.
            let hasFailed = records.contains { $0.lastAudit?.error != nil }
            if !unfilled.isEmpty, Timestamp.now.seconds(since: filledAt) >= 30 {
                filledAt = .now
                await audit(AuditRequest(kind: .listing, regions: unfilled.sorted(), repairs: true), by: "filling")
            } else if due(policy.readingHours, readAt) {
                await audit(AuditRequest(kind: .reading, repairs: policy.repairs), by: "schedule")
            } else if !failedReadings.isEmpty,
                due(min(1, policy.readingHours), oldest(failedReadings.map { regionRecords[$0]?.reading?.startedAt }))
            {
                await audit(AuditRequest(kind: .reading, regions: failedReadings, repairs: policy.repairs), by: "schedule")
            } else if due(hasFailed ? min(1, policy.listingHours) : policy.listingHours, listedAt) {
                await audit(AuditRequest(kind: .listing, repairs: policy.repairs), by: "schedule")
            }
        }
    }

    /// Begins an audit; throws `audit.running` beside another one, `audit.early`, and `audit.region` for a name that no region has.
    package func startAudit(_ request: AuditRequest, by who: String) throws {
        let names = configuration.regions.map(\.name)
        if let unknown = request.regions.first(where: { !names.contains($0) }) {
            throw FarmError(
                "audit.region", .notFound, "there is no region \(unknown)", hint: "there are \(names.joined(separator: ", "))")
        }
        guard !isAuditing else {
            throw FarmError("audit.running", .conflict, "an audit is under way", hint: "sciferry regions status shows when it has ended")
        }
        guard isAdopted else {
            throw FarmError(
                "audit.early", .unavailable, "the coordinator has not asked its regions yet", hint: "try again in a moment")
        }
        isAuditing = true
        Task { await audit(request, by: who) }
    }

    private func audit(_ request: AuditRequest, by who: String) async {
        isAuditing = true
        let auditor = RegionAuditor(publisher: publisher, imageKeys: root.imageKeys, owner: self)
        let started = Timestamp.now
        let slices = configuration.regions.reduce(into: [String: RegionAuditor.Slice]()) {
            let record = regionRecords[$1.name]
            $0[$1.name] = .init(record?.nextSlice ?? 0, of: configuration.audits.slices, suspects: record?.suspects ?? [])
        }
        do {
            try await auditor.audit(request, by: who, slices: slices) { name, found in await self.take(found, of: name) }
        } catch {
            report(error)
            for region in configuration.regions.map(\.name) where request.regions.isEmpty || request.regions.contains(region) {
                var failed = RegionAudit(request, by: who, startedAt: started)
                (failed.endedAt, failed.error) = (.now, (error as? FarmError)?.message ?? "\(error)")
                take(failed, of: region)
            }
        }
        isAuditing = false
    }

    private func take(_ audit: RegionAudit, of name: String) {
        regionRecords[name, default: RegionRecord()].take(audit, slices: configuration.audits.slices)
        keepRecords()
        let isChannelBroken = audit.faults.contains { $0.key == ReleaseChannel.key(configuration.channel) }
        if name == configuration.regions[0].name {
            channelIsStale = channelIsStale || isChannelBroken
        } else if isChannelBroken {
            unrenewed.insert(name)
        }
        // What is still missing no other region has.
        if audit.error == nil, audit.repairs, unfilled.remove(name) != nil {
            filled.insert(name)
            if name == configuration.regions[0].name { channelIsStale = true } else { unrenewed.insert(name) }
        }
        let level: Logger.Level = audit.isSound ? .notice : .error
        logger.log(
            level: level, "region audited",
            metadata: [
                "region": "\(name)", "kind": "\(audit.kind.rawValue)", "by": "\(audit.by)", "objects": "\(audit.objects)",
                "missing": "\(audit.missing)", "damaged": "\(audit.damaged)", "repaired": "\(audit.repaired)",
                "packs.read": "\(audit.packsRead)",
                "reason": "\(audit.error ?? audit.faults.first.map { "\($0.key): \($0.message)" } ?? "")",
            ])
    }

    // MARK: Views

    /// How each region stands, in the order of `farm.json`.
    package func regionStatuses() -> [RegionStatus] {
        publisher.regions.map { region in
            var status = RegionStatus(name: region.name, bucket: region.store.name)
            let watch = watches[region.name] ?? RegionWatch()
            status.askedAt = watch.answeredAt
            status.error = watch.error
            if let since = watch.askingSince, Timestamp.now.seconds(since: since) > Coordinator.watchPatience {
                status.error = "it has not answered for \(Int(Timestamp.now.seconds(since: since))) s"
            }
            status.version = watch.version
            status.newest = state.channels[configuration.channel]?.version
            status.record = regionRecords[region.name] ?? RegionRecord()
            status.behindSince = status.record.behindSince
            status.waiting = region.name == configuration.regions[0].name ? 0 : state.jobsLacking(in: region.name).count
            status.isFilling = unfilled.contains(region.name)
            status.isAudited = isAuditing
            return status
        }
    }
}
