package import FarmModel

extension FarmState {
    /// Publications that are not done.
    package var openPublications: [PublicationRecord] { table.publishing.compactMap { publications[$0] } }

    /// The publication that should be worked on now.
    package func duePublications(now: Timestamp) -> [PublicationRecord] {
        openPublications.filter { $0.step != .verify && $0.step != .held && ($0.notBefore.map { $0 <= now } ?? true) }
            .sorted { ($0.startedAt, $0.job.rawValue) < ($1.startedAt, $1.job.rawValue) }
    }

    /// Takes over a step's result.
    package mutating func advance(_ record: PublicationRecord, _ more: [JournalChange], now: Timestamp) {
        var record = record
        record.lastError = nil
        record.notBefore = nil
        // Two wishes for one build, one of which would have taken an emulator's, may have been built side by side.
        if more.contains(where: { if case .release = $0 { true } else { false } }), let job = jobs[record.job], !job.state.isFinal,
            let there = fulfilment(of: job), there.job != job.id
        {
            record.step = .cleanup
            put(record)
            if let candidate = candidate(of: job) { drop(candidate, "released by \(there.job)", now: now) }
            return finish(job.id, .succeeded, release: there.digest, note: "\(there.job) has built the same meanwhile", now: now)
        }
        put(record)
        for change in more {
            if case .release(var release) = change {
                release.yanked = yanked(release.release.name, release.release.version)
                put(release)
            } else {
                add(change)
            }
        }
        if record.step == .verify { startVerification(record.job, now: now) }
    }

    /// The channel as it should stand, with the next version. Deterministic: the newest release of each name, version
    /// and target.
    package mutating func nextChannel(_ name: String, farm: String, days: Int, now: Timestamp) -> ReleaseChannel {
        var record = channels[name] ?? ChannelRecord(name: name, version: 0, issuedAt: now)
        record.version += 1
        record.issuedAt = now
        put(record)
        return ReleaseChannel(
            farm: farm, name: name, epoch: record.epoch ?? 1, version: record.version, issuedAt: now,
            expiresAt: now.adding(seconds: Double(days) * 86400), entries: channelEntries(carrying: record.carried))
    }

    /// Whether a region shows more than this journal knows: then this is an older copy of it, or another coordinator publishes.
    package func isBehind(_ channel: ReleaseChannel) -> Bool {
        let record = channels[channel.name]
        return (record?.epoch ?? 1, record?.version ?? 0) < (channel.epoch, channel.version)
    }

    /// Goes on from what another coordinator, or this one before its journal was restored, has published, in an epoch of its own. What it
    /// had released stays in the channel until something newer of the same name, version and target is released here.
    package mutating func takeOver(_ channel: ReleaseChannel, now: Timestamp) {
        let record = channels[channel.name]
        // What an older journal meant to remove may be needed by what came since; it is found anew where it is not.
        for key in condemned.keys.sorted() { settle(key) }
        put(
            ChannelRecord(
                name: channel.name, version: max(record?.version ?? 0, channel.version), issuedAt: record?.issuedAt ?? now,
                epoch: max(record?.epoch ?? 1, channel.epoch) + 1, carried: .init(entries: channel.entries, at: now)))
    }

    /// Why a version should not be used, if it should not: a build of it that comes later does not change that.
    func yanked(_ name: String, _ version: String) -> String? {
        releases.values.first { $0.release.name == name && $0.release.version == version && $0.yanked != nil }?.yanked
    }

    /// Marks all releases of a version, or takes the mark from them. Throws `release.absent`.
    ///
    /// - Returns: how many there are.
    package mutating func yank(_ request: YankRequest) throws -> Int {
        let meant = releases.values.filter { $0.release.name == request.name && $0.release.version == request.version }
        guard meant.contains(where: { $0.retiredAt == nil }) else {
            throw FarmError(
                "release.absent", .notFound, "the farm has released no \(request.name)/\(request.version)",
                hint: "sciferry list shows what it has")
        }
        for var record in meant.sorted(by: { $0.digest < $1.digest }) where record.yanked != request.reason {
            record.yanked = request.reason
            put(record)
        }
        return meant.count { $0.retiredAt == nil }
    }

    func channelEntries(carrying carried: ChannelRecord.Carried?) -> [ChannelEntry] {
        var newest: [String: ReleaseRecord] = [:]
        // Only what has reached the pointer step may be pointed at; of one build key what no emulator made goes before the rest.
        for record in Set(releases.values.map(\.release.image.buildKey)).compactMap(release(ofKey:)) {
            let release = record.release
            let key = "\(release.name)\n\(release.version)\n\(release.image.target)"
            if let there = newest[key], isBetter(there, than: record) { continue }
            newest[key] = record
        }
        var entries: [String: ChannelEntry] = [:]
        for (key, record) in newest {
            let release = record.release
            entries[key] = ChannelEntry(
                name: release.name, version: release.version, target: release.image.target, release: record.digest,
                yanked: record.yanked)
        }
        for entry in carried?.entries ?? [] {
            let key = "\(entry.name)\n\(entry.version)\n\(entry.target)"
            if let own = newest[key], let carried, own.release.publishedAt > carried.at { continue }
            entries[key] = entry
        }
        return entries.sorted { $0.key < $1.key }.map(\.value)
    }

    /// What the farm has built goes before what it took in, and then the newer.
    private func isBetter(_ one: ReleaseRecord, than other: ReleaseRecord) -> Bool {
        let isBuilt = (one.release.imported == nil, other.release.imported == nil)
        if isBuilt.0 != isBuilt.1 { return isBuilt.0 }
        return (one.release.publishedAt, one.digest) > (other.release.publishedAt, other.digest)
    }

    /// The first region shows the release: the job is done, whatever the mirrors do.
    package mutating func released(_ job: JobID, document: Digest, now: Timestamp) {
        finish(job, .succeeded, release: document, now: now)
        if let ended = jobs[job], let candidate = candidate(of: ended) { drop(candidate, "released by \(job)", now: now) }
        guard let record = releases[document] else { return }
        for other in table.wanting(record.release.image.buildKey)
        where other.state == .queued && record.satisfies(other) && table.openAttempt(of: other.id) == nil {
            finish(other.id, .succeeded, release: document, note: "\(job) has built the same meanwhile", now: now)
        }
    }

    /// A pack is lost in all regions.
    package mutating func forget(_ pack: Digest) { add(.forget(pack: pack)) }

    /// A step failed. What may pass is tried again later; damage done by the worker costs the attempt.
    package mutating func publicationFailed(_ record: PublicationRecord, _ error: FarmError, retrySeconds: Double, now: Timestamp) {
        // What the step had done before it failed stays done: mirrors have what was brought to them.
        var record = publications[record.job] ?? record
        record.lastError = error.message
        record.setbacks += 1
        let worker = [
            "upload.damaged", "upload.incomplete", "pack.damaged", "chunk.damaged", "manifest.invalid", "storage.absent", "store.lost",
        ]
        if record.step == .packs || record.step == .manifest, worker.contains(error.code.rawValue) {
            record.step = .done
            put(record)
            // A candidate's image is not another one's to replace.
            if record.attempt.job != record.job { return finish(record.job, .failed, failure: Failure(.infrastructure, error), now: now) }
            retry(record.job, Failure(.infrastructure, error), now: now)
            return
        }
        if record.step == .compare, [.invalid, .corrupt, .notFound].contains(error.category) {
            return review(record, "it cannot be compared with the candidate: \(error.message)")
        }
        record.notBefore = now.adding(seconds: min(300, retrySeconds * Double(1 << min(record.setbacks - 1, 8))))
        put(record)
        if var job = jobs[record.job], !job.state.isFinal {
            job.note = "publication is delayed: \(error.message)"
            put(job)
        }
    }
}
