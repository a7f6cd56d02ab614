package import FarmModel

/// A night as the farm goes through it: begun with a plan, its jobs submitted one after the other, ended when they have.
extension FarmState {
    /// The night that is going on.
    package var openNight: NightFile? { night.flatMap { $0.night.endedAt == nil ? $0 : nil } }

    /// Begins a night; one that is still going on ends, whatever is left of it.
    ///
    /// - Parameter entries: in the order of the plan; night and position are set here.
    package mutating func beginNight(_ record: NightRecord, _ entries: [NightEntry], now: Timestamp) -> Int {
        if openNight != nil { endNight(now: now) }
        var record = record
        record.number = (night?.night.number ?? 0) + 1
        changeNight { $0 = NightFile(night: record, entries: []) }
        add(.night(record))
        for (position, entry) in entries.enumerated() {
            var entry = entry
            entry.night = record.number
            entry.position = position
            changeNight { $0?.entries.append(entry) }
            add(.nightEntry(entry))
        }
        return record.number
    }

    /// The entries that no job was made for yet, in their order.
    package var nightToSubmit: [NightEntry] { openNight?.entries.filter { $0.isOpen && $0.job == nil } ?? [] }

    /// An entry has its job; throws `night.none` when it is not wanted any more, so that there will be no job.
    package mutating func submitted(_ entry: NightEntry, as job: JobID) throws {
        guard var entry = current(entry), entry.isOpen, entry.job == nil else {
            throw FarmError("night.none", .conflict, "night \(entry.night) has ended")
        }
        entry.job = job
        put(entry)
    }

    /// An entry has come to its end.
    package mutating func settle(_ entry: NightEntry, _ outcome: NightEntry.Outcome) {
        guard var entry = current(entry), entry.isOpen else { return }
        entry.outcome = outcome
        put(entry)
    }

    private func current(_ entry: NightEntry) -> NightEntry? {
        guard let night = openNight, night.night.number == entry.night, night.entries.indices.contains(entry.position) else { return nil }
        return night.entries[entry.position]
    }

    /// What has become of a job; `nil` as long as it goes on.
    package func outcome(of file: JobFile) -> NightEntry.Outcome? {
        var outcome = ending(of: file)
        outcome?.plan = file.job.key
        outcome?.endedAt = file.job.finishedAt
        return outcome
    }

    /// Seconds of a worker of speed 1.
    private func seconds(_ attempt: AttemptRecord, now: Timestamp) -> Double {
        max(0, (attempt.finishedAt ?? now).seconds(since: attempt.startedAt)) * (workers[attempt.worker]?.speed ?? 1)
    }

    private func ending(of file: JobFile) -> NightEntry.Outcome? {
        let job = file.job
        let seconds = file.attempts.reduce(0) { $0 + self.seconds($1, now: $1.startedAt) }
        switch job.state {
        case .succeeded where job.isCandidate ?? false:
            return .init(.candidate, job.note ?? "waits for a releaser", seconds: seconds)
        case .succeeded where file.attempts.isEmpty && job.joined == nil:
            return .init(.unchanged, job.note ?? "nothing to build", release: job.release)
        case .succeeded: return .init(.released, job.note ?? "released", seconds: seconds, release: job.release)
        case .failed:
            return .init(
                .failed, job.failure?.message ?? job.note ?? "failed", failureClass: job.failure?.failureClass, seconds: seconds)
        case .cancelled: return .init(.cancelled, job.note ?? "cancelled", seconds: seconds)
        default: return nil
        }
    }

    /// Ends the night: what is left of it is left to the next one.
    ///
    /// - Parameter who: stopped it, with its jobs; `nil` when it came to its end.
    package mutating func endNight(stoppedBy who: String? = nil, now: Timestamp) {
        guard var record = openNight?.night else { return }
        for entry in openNight?.entries ?? [] where entry.isOpen {
            let words: String
            if let id = entry.job {
                if let who { try? cancel(id, by: who, now: now) }
                words = "\(id) is \(jobs[id]?.state.rawValue ?? "not at hand")"
            } else {
                words = "it was not its turn"
            }
            settle(entry, .init(.unfinished, words))
        }
        record.endedAt = now
        record.stoppedBy = who
        put(record)
    }

    /// The night is over when all its entries are; its record is closed then.
    package mutating func endNightWhenDone(now: Timestamp) {
        if let night = openNight, !night.entries.contains(where: \.isOpen) { endNight(now: now) }
    }

    /// What a night has used of its hours.
    ///
    /// - Parameter now: builds that go on count up to here.
    package func nightSeconds(now: Timestamp) -> Double {
        (openNight?.entries ?? []).reduce(0) { sum, entry in
            if let outcome = entry.outcome { return sum + outcome.seconds }
            guard let id = entry.job else { return sum }
            return sum + table.attempts(of: id).reduce(0) { $0 + seconds($1, now: now) }
        }
    }

    /// The hours of the night are spent: what no worker has begun is cancelled.
    package mutating func endBudget(now: Timestamp) {
        for entry in openNight?.entries ?? [] where entry.isOpen {
            if let id = entry.job {
                guard let job = jobs[id], [.queued, .resolving].contains(job.state), table.attempts(of: id).isEmpty else { continue }
                try? cancel(id, by: "the night", now: now)
            }
            settle(entry, .init(.unfinished, "the night's hours are spent"))
        }
    }

    /// Something that the reader of the report should know.
    package mutating func noteProblem(_ problem: String) {
        guard var record = openNight?.night else { return }
        record.problems.append(problem)
        put(record)
    }

    /// How delivering the report of a night has gone.
    package mutating func noticed(_ record: NightRecord) {
        if night?.night.number == record.number { put(record) } else { add(.night(record)) }
    }

    private mutating func put(_ record: NightRecord) {
        changeNight { $0?.night = record }
        add(.night(record))
    }

    private mutating func put(_ entry: NightEntry) {
        changeNight { $0?.entries[entry.position] = entry }
        add(.nightEntry(entry))
    }
}
