package import FarmModel

/// Candidates, which the untrusted pool builds, and how they become releases.
///
/// A candidate's bytes stay under `incoming/` until somebody decides. Promotion is a job of its own: it publishes the candidate's very
/// image once a trusted worker has run its tests, or has a trusted worker build the same plan again and compares.
extension FarmState {
    /// Candidates that wait for a decision, oldest first.
    package var candidates: [JobFile] {
        openPublications.filter { $0.step == .held }.compactMap { file(of: $0.job) }.filter { $0.job.isCandidate ?? false }
            .sorted { $0.job.number < $1.job.number }
    }

    /// The candidate that a job builds again, while it is there to be compared with.
    func candidate(of job: JobRecord) -> PublicationRecord? {
        job.promotes.flatMap { publications[$0] }.flatMap { $0.step == .held ? $0 : nil }
    }

    /// Brings a candidate to a release, or lets one built again go on although it differs; the job that does it.
    ///
    /// - Throws: `job.unknown`, `promotion.candidate` for a job that is none, `promotion.policy` for bytes where the farm builds again.
    package mutating func promote(_ id: JobID, _ request: PromotionRequest, by who: String, now: Timestamp) throws -> JobID {
        guard let job = jobs[id] else { throw FarmState.unknown(id) }
        if job.state == .review { return approve(job, by: who) }
        guard job.isCandidate ?? false, let record = publications[id], record.step == .held, let key = job.key else {
            throw FarmError(
                "promotion.candidate", .conflict, "\(id) is no candidate that waits: \(job.note ?? job.state.rawValue)",
                hint: "sciferry candidates lists them")
        }
        if let there = table.open.compactMap({ jobs[$0] }).first(where: { $0.promotes == id }) {
            throw FarmError("promotion.under-way", .conflict, "\(id) is being promoted by \(there.id)", hint: "sciferry job \(there.id)")
        }
        if request.bytes, rules.promotion != .bytes {
            throw FarmError(
                "promotion.policy", .denied, "this farm releases no image of the untrusted pool as it is",
                hint: "leave --bytes away to have it built again, or set \"promotion\": \"bytes\" in farm.json")
        }
        var next = newJob(
            kind: .build, title: job.title, recipe: job.recipe, version: job.version, target: job.target, requestedBy: who, now: now)
        next.submission = job.submission
        next.promotes = id
        next.priority = .release
        next.acceptsDifferences = request.acceptsDifferences
        next.verifyOn = job.verifyOn
        if request.bytes {
            next.key = key
            next.state = .publishing
            next.labels = job.labels
            // A trusted worker tests it before it is released, whatever the recipe asks for.
            next.verifyOn = Set((job.verifyOn ?? []) + [job.target]).sorted()
            put(next)
            // What the builder says of its image is not for the farm to sign.
            var result = record.result
            result.records = []
            put(
                PublicationRecord(
                    job: next.id, attempt: record.attempt, plan: record.plan, result: result, builtOn: record.builtOn, startedAt: now
                ))
        } else {
            let needs = JobNeeds(
                diskBytes: job.diskBytes, declaresDisk: true, memoryBytes: job.memoryBytes ?? 0, labels: job.labels ?? LabelWish(),
                layers: job.layers ?? [])
            next.allowsEmulation = job.allowsEmulation
            enqueue(next, key: job.releaseKey ?? key, needs: needs, now: now)
            if jobs[next.id]?.state == .succeeded { drop(record, "the same was released already", now: now) }
        }
        return next.id
    }

    private mutating func approve(_ job: JobRecord, by who: String) -> JobID {
        var job = job
        job.state = .publishing
        job.note = "accepted by \(who)"
        put(job)
        if var record = publications[job.id], record.step == .held {
            record.step = .packs
            put(record)
        }
        return job.id
    }

    /// What building a candidate again has shown.
    package mutating func compared(_ id: JobID, _ comparison: ImageComparison) {
        guard let job = jobs[id], var record = publications[id], record.step == .compare else { return }
        record.comparison = comparison
        if comparison.hasSameFiles || comparison.isSameImage || job.acceptsDifferences ?? false {
            record.step = .packs
            put(record)
        } else {
            review(record, comparison.title)
        }
    }

    /// Leaves it to a releaser whether what was built again is released.
    package mutating func review(_ record: PublicationRecord, _ why: String) {
        guard var job = jobs[record.job], !job.state.isFinal else { return }
        var record = record
        record.step = .held
        put(record)
        job.state = .review
        job.note = "\(why): sciferry job \(job.id) tells more, sciferry promote \(job.id) releases it, sciferry cancel \(job.id) does not"
        put(job)
    }

    /// A candidate's image is not released after all.
    mutating func endPromotion(_ record: PublicationRecord, _ why: String, now: Timestamp) {
        guard [.packs, .manifest, .verify].contains(record.step) else { return }
        var record = record
        record.step = .done
        put(record)
        finish(record.job, .cancelled, note: why, now: now)
        dropVerification(of: record.job, now: now)
    }

    /// What a release says of the candidate behind it.
    package func origin(of record: PublicationRecord) -> CandidateOrigin? {
        guard let job = jobs[record.job], let candidate = job.promotes.flatMap({ jobs[$0] }) else { return nil }
        let isSame = record.attempt.job != record.job
        let builtOn = publications[candidate.id]?.builtOn ?? "a worker that is not known any more"
        let comparison = record.comparison
        let equality =
            isSame
            ? "bytes"
            : comparison == nil
                ? "uncompared" : comparison?.isSameImage ?? false ? "image" : comparison?.hasSameFiles ?? false ? "files" : "differs"
        return CandidateOrigin(
            requestedBy: candidate.requestedBy, builtOn: builtOn, promotedBy: job.requestedBy, equality: equality,
            differenceCount: comparison?.count ?? 0)
    }

    /// Candidates that nobody has wanted for long go.
    package mutating func expireCandidates(now: Timestamp) {
        for record in openPublications
        where record.step == .held && now.seconds(since: record.startedAt) > rules.candidateSeconds
            && !table.open.contains(where: { jobs[$0]?.promotes == record.job })
        {
            drop(record, "nobody has promoted it in \(Int(rules.candidateSeconds / 86400)) days", now: now)
        }
    }

    mutating func drop(_ record: PublicationRecord, _ why: String, now: Timestamp) {
        var record = record
        record.step = .cleanup
        put(record)
        guard var job = jobs[record.job] else { return }
        if job.state == .review { return finish(job.id, .cancelled, note: why, now: now) }
        job.note = job.isCandidate ?? false ? "a candidate: \(why)" : why
        put(job)
    }
}
