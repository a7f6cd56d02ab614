import Attestation
import ChunkStore
import FarmModel
import Foundation
import Logging
import ObjectStorage
import SiteDelivery
import SystemIO

/// Releases on their way to readers: what this coordinator may publish, its publications step by step, and its channel.
extension Coordinator {
    /// Carries publications on and keeps the channel in date, until cancelled; `coordinator.fenced` ends it.
    func publish() async throws {
        try await prepareRegions()
        try await awaitFirstRegion()
        try await adoptChannel()
        isAdopted = true
        await sweepIncoming()
        var (nextRenewal, nextRepair) = (Timestamp.now, Timestamp.now)
        while !Task.isCancelled {
            for record in state.duePublications(now: .now) { try await work(on: record) }
            if min(nextRenewal, channelIsStale || !unrenewed.subtracting(unfilled).isEmpty ? nextRepair : nextRenewal) <= .now {
                nextRepair = Timestamp.now.adding(seconds: 30)
                do { try await renewChannel() } catch let error as FarmError where error.code == "coordinator.fenced" {
                    throw error
                } catch { report(error) }
                warnOfExpiry()
                await sweepIncoming()
                nextRenewal = Timestamp.now.adding(seconds: 3600)
            }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// A bucket that is away now is waited for, the first before anything is published, the others when their turn comes;
    /// one that belongs to another farm ends the coordinator.
    private func prepareRegions() async throws {
        for (index, region) in configuration.regions.enumerated() {
            var isReady = false
            repeat {
                do {
                    try await publisher.prepare(region: region.name)
                    isReady = true
                } catch let error as FarmError where error.category != .conflict {
                    report(error)
                    if index == 0 { try await Task.sleep(for: .seconds(5)) }
                }
            } while index == 0 && !isReady
        }
    }

    /// Makes sure that nobody has published more than this journal knows, or goes on from there when the operator has said so.
    private func adoptChannel() async throws {
        let name = configuration.channel
        let isTakeOver = Disk.exists(home.takeOver)
        var shown: [(region: String, Publisher.Shown?)] = []
        for (index, region) in configuration.regions.enumerated() {
            // What is taken over must be the newest of all; and the first region has what was published last.
            while true {
                do {
                    shown.append((region.name, try await publisher.published(name, region: region.name)))
                    break
                } catch let error as FarmError where error.category.isTransient {
                    report(error)
                    guard index == 0 || isTakeOver else { break }
                    try await Task.sleep(for: .seconds(5))
                }
            }
        }
        let highest = shown.compactMap { $0.1?.channel }.max { $0.isBehind($1) }
        if let highest, !isTakeOver, state.isBehind(highest) {
            throw FarmError(
                "coordinator.behind", .conflict,
                "the regions show version \(highest.version) of epoch \(highest.epoch) of the channel \(name), of which this home knows nothing: it is an older copy, or another coordinator publishes for this farm",
                hint: "make sure that no other one runs, then go on from there: sciferry trust take-over")
        }
        let taken = isTakeOver ? highest : nil
        if let taken { try transition { $0.takeOver(taken, now: .now) } }
        try await fillFirstRegion()
        if let taken {
            try await renewInTheEnd()
            logger.notice(
                "the farm was taken over", metadata: ["channel": "\(name)", "version": "\(taken.version)", "epoch": "\(taken.epoch)"])
        } else if !(shown.first?.1?.isCurrent ?? false), state.channels[name] != nil {
            // By a key that has been replaced since, for one.
            try await renewInTheEnd()
        } else if let first = shown.first?.1?.channel {
            unrenewed = Set(shown.dropFirst().filter { !($0.1?.isCurrent ?? false) || $0.1?.channel != first }.map(\.region))
        }
        try Disk.remove(home.takeOver)
    }

    /// Signs the channel anew before anything else is published; a region that is away is waited for.
    private func renewInTheEnd() async throws {
        while true {
            do { return try await renew() } catch let error as FarmError where error.category.isTransient {
                report(error)
                try await Task.sleep(for: .seconds(5))
            }
        }
    }

    private func renew() async throws {
        let bytes = try signNextChannel()
        try await publisher.point(bytes, name: configuration.channel, region: configuration.regions[0].name)
        unrenewed = Set(configuration.regions.dropFirst().map(\.name))
    }

    /// A channel must not expire while nothing is released: it is signed anew when half of its time is gone.
    private func renewChannel() async throws {
        guard let record = state.channels[configuration.channel] else { return }
        let isOld = Timestamp.now.seconds(since: record.issuedAt) > Double(configuration.channelDays) * 43200
        if channelIsStale || isOld, try await !mustBeFilled(configuration.regions[0].name) {
            try await renew()
            channelIsStale = false
        }
        // A mirror that still lacks a release gets its pointer with that release, not before.
        for region in unrenewed.sorted() {
            let waits = state.openPublications.contains { [.pointer, .mirrors].contains($0.step) && !$0.regionsDone.contains(region) }
            guard !waits else { continue }
            do {
                try checkFitness(of: region)
                try await publisher.prepare(region: region)
                if try await mustBeFilled(region) { continue }
                let bytes = try await firstRegion.get(ReleaseChannel.key(configuration.channel))
                try await publisher.point(bytes, name: configuration.channel, region: region)
                unrenewed.remove(region)
            } catch let error as FarmError where error.category.isTransient { report(error) }
        }
    }

    /// Readers refuse everything once the root has expired, and only its offline keys renew it.
    private func warnOfExpiry() {
        let days = root.expiresAt.seconds(since: .now) / 86400
        guard days < 60 else { return }
        logger.warning(
            "the farm's root expires soon: renew it with sciferry trust renew",
            metadata: ["root.version": "\(root.version)", "days": "\(Int(days))"])
    }

    private func signNextChannel() throws -> [UInt8] {
        let name = configuration.channel
        let (farm, days) = (configuration.farm, configuration.channelDays)
        return try publisher.sign(try transition { $0.nextChannel(name, farm: farm, days: days, now: .now) })
    }

    /// Uploads of attempts that nothing will come of any more are removed.
    private func sweepIncoming() async {
        guard let objects = try? await firstRegion.all(prefix: "incoming/") else { return }
        let publishing = Set(state.openPublications.map(\.attempt))
        for object in objects {
            let parts = object.key.split(separator: "/")
            guard parts.count == 3, let attempt = AttemptID(String(parts[1])) else { continue }
            if publishing.contains(attempt) || (state.attempts[attempt]?.isOpen ?? false) { continue }
            try? await firstRegion.delete(object.key)
        }
    }

    private func work(on record: PublicationRecord) async throws {
        do {
            switch record.step {
            // Somebody has to decide.
            case .held: break
            case .compare:
                guard let candidate = state.jobs[record.job].flatMap(state.candidate(of:)) else {
                    return try transition { $0.review(record, "the candidate that it should be compared with is gone") }
                }
                let comparison = try await publisher.compare(record, with: candidate)
                try transition { $0.compared(record.job, comparison) }
            case .packs: try take(try await publisher.takePacks(record))
            case .manifest:
                try take(try await publisher.writeManifest(record, plan: try plan(record.plan)))
                // All has its place now; the release may have to wait for tests.
                try? await publisher.cleanUp(record)
            // Verify jobs carry it on.
            case .verify: break
            case .release:
                try take(
                    try await publisher.signRelease(
                        record, plan: try plan(record.plan), candidate: state.origin(of: record), now: .now))
            case .pointer: try await point(record)
            case .mirrors: try await mirror(record)
            case .cleanup:
                try await publisher.cleanUp(record)
                var next = record
                next.step = .done
                try take(Publisher.StepResult(record: next))
            case .done: break
            }
        } catch let lost as Publisher.LostPack {
            // The next build brings the chunks again.
            let error = FarmError(
                "store.lost", .corrupt,
                "chunks of an earlier image are lost in all regions (pack \(lost.pack.short)); the image is built again to bring them back",
                cause: lost.cause)
            logger.error("pack lost in all regions", metadata: ["pack": "\(lost.pack.hex)", "reason": "\(lost.cause.message)"])
            let retry = configuration.retrySeconds
            try? transition { state in
                state.forget(lost.pack)
                state.publicationFailed(record, error, retrySeconds: retry, now: .now)
            }
        } catch let error as FarmError where error.code == "coordinator.fenced" {
            // Whatever this one hands out or publishes from now on, nobody wants it.
            throw error
        } catch {
            let known = error as? FarmError ?? FarmError("publication.fault", .fault, "publication failed", cause: error)
            logger.warning(
                "publication step failed",
                metadata: [
                    "job.id": "\(record.job)", "step": "\(record.step.rawValue)", "error.code": "\(known.code.rawValue)",
                    "reason": "\(known.message)",
                ])
            let retry = configuration.retrySeconds
            try? transition { $0.publicationFailed(record, known, retrySeconds: retry, now: .now) }
        }
    }

    private func take(_ result: Publisher.StepResult) throws {
        try transition { $0.advance(result.record, result.changes, now: .now) }
    }

    func plan(_ digest: Digest) throws -> Plan { try Plan.read(try blobs.get(digest)) }

    private func point(_ record: PublicationRecord) async throws {
        let first = configuration.regions[0].name
        if try await mustBeFilled(first) { throw Coordinator.filling(first) }
        let bytes = try signNextChannel()
        try await publisher.point(bytes, name: configuration.channel, region: first)
        var next = record
        next.step = .mirrors
        next.regionsDone = [first]
        let document = Digest(hashing: Array((record.document ?? "").utf8))
        try transition {
            $0.advance(next, [], now: .now)
            $0.released(record.job, document: document, now: .now)
        }
        logger.notice("released", metadata: ["job.id": "\(record.job)", "release.digest": "\(document)"])
    }

    private func mirror(_ record: PublicationRecord) async throws {
        let first = configuration.regions[0].name
        var failure: FarmError?
        for region in configuration.regions.map(\.name) where region != first {
            guard let now = state.publications[record.job], !now.regionsDone.contains(region) else { continue }
            do { try await mirror(to: region) } catch let error as FarmError where error.category.isTransient { failure = failure ?? error }
        }
        if let failure { throw failure }
        guard var next = state.publications[record.job] else { return }
        next.step = .cleanup
        try take(Publisher.StepResult(record: next))
    }

    private static func filling(_ region: String) -> FarmError {
        FarmError("region.filling", .unavailable, "region \(region) is new, and gets what the others have first")
    }

    /// Brings everything that one region lacks of what has been published.
    private func mirror(to region: String) async throws {
        try checkFitness(of: region)
        try await publisher.prepare(region: region)
        if try await mustBeFilled(region) { throw Coordinator.filling(region) }
        // The pointer is read before anything is copied, so that all it names is among what is copied now.
        let pointer = try await firstRegion.get(ReleaseChannel.key(configuration.channel))
        // The pointer names a release as soon as it is signed, whoever was the one to write it.
        let lacking = state.jobsLacking(in: region)
        let pending = state.openPublications.filter { lacking.contains($0.job) }
        for other in pending { try await publisher.mirror(other, plan: try plan(other.plan), to: region) }
        try await publisher.point(pointer, name: configuration.channel, region: region)
        for other in pending {
            guard var next = state.publications[other.job], next.step == .mirrors else { continue }
            next.regionsDone.append(region)
            try take(Publisher.StepResult(record: next))
        }
    }
}
