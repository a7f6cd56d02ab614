package import FarmModel

extension FarmState {
    /// The publication that should be worked on now.
    package func duePublications(now: Timestamp) -> [PublicationRecord] {
        publications.values.filter { $0.step != .done && $0.step != .verify && ($0.notBefore.map { $0 <= now } ?? true) }
            .sorted { ($0.startedAt, $0.job.rawValue) < ($1.startedAt, $1.job.rawValue) }
    }

    /// Takes over a step's result.
    package mutating func advance(_ record: PublicationRecord, _ more: [JournalChange], now: Timestamp) {
        var record = record
        record.lastError = nil
        record.notBefore = nil
        put(record)
        for change in more {
            if case .release(let release) = change { releases[release.digest] = release }
            add(change)
        }
        if record.step == .verify { startVerification(record.job, now: now) }
    }

    /// The channel as it should stand, with the next version. Deterministic: the newest release of each name, version
    /// and target.
    package mutating func nextChannel(_ name: String, days: Int, now: Timestamp) -> ReleaseChannel {
        var record = channels[name] ?? ChannelRecord(name: name, version: 0, issuedAt: now)
        record.version += 1
        record.issuedAt = now
        channels[name] = record
        add(.channel(record))
        return ReleaseChannel(
            name: name, version: record.version, issuedAt: now, expiresAt: now.adding(seconds: Double(days) * 86400),
            entries: channelEntries())
    }

    /// Never go back behind a version that was found in a region.
    package mutating func raiseChannel(_ name: String, to version: Int, now: Timestamp) {
        let record = channels[name] ?? ChannelRecord(name: name, version: 0, issuedAt: now)
        guard record.version < version else { return }
        let raised = ChannelRecord(name: name, version: version, issuedAt: record.issuedAt)
        channels[name] = raised
        add(.channel(raised))
    }

    private func channelEntries() -> [ChannelEntry] {
        var newest: [String: ReleaseRecord] = [:]
        // Only what has reached the pointer step may be pointed at.
        for record in releases.values {
            let release = record.release
            let key = "\(release.name)\n\(release.version)\n\(release.image.target)"
            if let there = newest[key], there.standsBefore(record) { continue }
            newest[key] = record
        }
        return newest.sorted { $0.key < $1.key }.map { _, record in
            ChannelEntry(
                name: record.release.name, version: record.release.version, target: record.release.image.target,
                release: record.digest)
        }
    }

    /// The first region shows the release: the job is done, whatever the mirrors do.
    package mutating func released(_ job: JobID, document: Digest, now: Timestamp) {
        finish(job, .succeeded, release: document, now: now)
        guard let record = releases[document] else { return }
        let key = record.release.image.buildKey
        for other in jobs.values.filter({ $0.state == .queued && $0.joined == nil && $0.key == key }).sorted(by: { $0.number < $1.number })
        where record.satisfies(other) && openAttempts(of: other.id).isEmpty {
            finish(other.id, .succeeded, release: document, note: "\(job) has built the same meanwhile", now: now)
        }
    }

    /// A pack is lost in all regions.
    package mutating func forget(_ pack: Digest) { add(.forget(pack: pack)) }

    /// A step failed. What may pass is tried again later; damage done by the worker costs the attempt.
    package mutating func publicationFailed(_ record: PublicationRecord, _ error: FarmError, retrySeconds: Double, now: Timestamp) {
        var record = record
        record.lastError = error.message
        record.setbacks += 1
        let worker = [
            "upload.damaged", "upload.incomplete", "pack.damaged", "chunk.damaged", "manifest.invalid", "storage.absent", "store.lost",
        ]
        if record.step == .packs || record.step == .manifest, worker.contains(error.code.rawValue) {
            record.step = .done
            put(record)
            retry(record.job, Failure(.infrastructure, error), now: now)
            return
        }
        record.notBefore = now.adding(seconds: min(300, retrySeconds * Double(1 << min(record.setbacks - 1, 8))))
        put(record)
        if var job = jobs[record.job], !job.state.isFinal {
            job.note = "publication is delayed: \(error.message)"
            put(job)
        }
    }
}

extension ReleaseRecord {
    /// Whether a channel shows this one rather than the other: of the same build the one that no emulator made, else the newer.
    fileprivate func standsBefore(_ other: ReleaseRecord) -> Bool {
        if release.image.buildKey == other.release.image.buildKey, (release.emulator == nil) != (other.release.emulator == nil) {
            return release.emulator == nil
        }
        return (release.publishedAt, digest) > (other.release.publishedAt, other.digest)
    }
}
