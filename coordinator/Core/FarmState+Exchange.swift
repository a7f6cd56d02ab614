package import FarmMessages
package import FarmModel

extension FarmState {
    /// A worker connected with these facts.
    package mutating func hello(_ name: WorkerName, facts: HostFacts, now: Timestamp) throws {
        guard var worker = workers[name] else {
            throw FarmError("identity.unknown", .denied, "the farm does not know the worker \(name)")
        }
        try checkAdmitted(worker)
        let engine = worker.facts?.engineID
        worker.facts = facts
        // One that does not answer now is the one that answered before.
        worker.facts?.engineID = facts.engineID ?? engine
        if !worker.trusted, let engine = worker.facts?.engineID, !(worker.engines ?? []).contains(engine) {
            worker.engines = ((worker.engines ?? []) + [engine]).suffix(64)
        }
        worker.lastSeen = now
        // Only a STATE renews leases: a worker that can say hello and no more must not keep its work.
        put(worker)
    }

    /// Throws `identity.revoked` for a worker that may not take part.
    package func checkAdmitted(_ worker: WorkerRecord) throws {
        if worker.revoked {
            throw FarmError("identity.revoked", .denied, "the worker \(worker.name) was revoked", hint: "enrol it anew with a fresh token")
        }
    }

    /// A worker said what it is doing; the answer is what it should be doing.
    package mutating func report(_ name: WorkerName, _ report: WorkerReport, now: Timestamp) throws -> DesiredWork {
        guard var worker = workers[name] else {
            throw FarmError("identity.unknown", .denied, "the farm does not know the worker \(name)")
        }
        try checkAdmitted(worker)
        noteContact(name, freeSlots: report.freeSlots, now: now)
        let known = (worker.refusal, worker.facts?.diskFreeBytes, worker.pressure)
        if known != (report.refusal, report.diskFreeBytes, report.pressure) || worker.diskUse ?? [] != report.diskUse
            || worker.inputCache != report.inputCache
        {
            (worker.diskUse, worker.inputCache) = (report.diskUse, report.inputCache)
            worker.refusal = report.refusal
            worker.facts?.diskFreeBytes = report.diskFreeBytes
            worker.pressure = report.pressure
            // The others change all the time; a refusal is worth a row.
            if workers[name]?.refusal != worker.refusal { put(worker) } else { note(worker) }
        }
        for attempt in report.attempts { take(attempt, from: name, now: now) }
        // After its outcomes: a build that it tells of has changed what its engine holds.
        if let layers = report.layers { noteLayers(layers, of: name) }
        giveUpLost(name, Set(report.attempts.map(\.id)), now: now)
        assign(to: name, now: now)
        return desired(name, sequence: report.sequence)
    }

    /// What a worker should be doing by the present state.
    package func desired(_ name: WorkerName, sequence: UInt64) -> DesiredWork {
        let assignments = openAttempts(on: name).compactMap { attempt -> DesiredWork.Assignment? in
            guard let job = jobs[attempt.id.job] else { return nil }
            let order: WorkOrder? = job.resolve.map { .resolve($0) } ?? job.verify.map { .verify($0) } ?? job.key.map { .build(plan: $0) }
            return order.map { DesiredWork.Assignment(attempt: attempt.id, order: $0, diskBytes: diskNeed(of: job, on: name)) }
        }
        return DesiredWork(
            sequence: sequence, assignments: assignments, nextContactSeconds: rules.contactSeconds,
            draining: workers[name]?.drained ?? false)
    }

    /// Ends the leases of workers that have been silent for too long.
    package mutating func expireLeases(now: Timestamp) {
        for attempt in table.openAttempts {
            if !isConnected(attempt.worker, now: now) {
                lose(attempt, "the worker \(attempt.worker) was silent for \(Int(rules.silenceSeconds)) s", now: now)
            } else if attempt.state == .assigned, now.seconds(since: max(attempt.startedAt, openedAt)) > rules.scheduling.assignSeconds {
                let seconds = Int(rules.scheduling.assignSeconds)
                lose(attempt, "the worker \(attempt.worker) did not take it up within \(seconds) s", now: now)
            } else if attempt.state == .running, attempt.phase == .prepare,
                now.seconds(since: max(attempt.movedAt ?? attempt.startedAt, openedAt)) > rules.scheduling.startSeconds
            {
                let seconds = Int(rules.scheduling.startSeconds)
                lose(
                    attempt, "the worker \(attempt.worker) has got no further with its preparation for \(seconds) s",
                    code: FarmState.stalled, now: now)
            }
        }
    }

    /// Stops giving a worker work, or goes on.
    package mutating func setDrained(_ name: WorkerName, _ drained: Bool) throws {
        guard var worker = workers[name] else { throw FarmState.unknownWorker(name) }
        worker.drained = drained
        if !drained {
            worker.quarantine = nil
            worker.failuresInARow = 0
        }
        put(worker)
    }

    /// Shuts a worker out; what it was doing is given to others.
    package mutating func revoke(_ name: WorkerName, now: Timestamp) throws {
        guard var worker = workers[name] else { throw FarmState.unknownWorker(name) }
        worker.revoked = true
        // Should it be admitted again, what it did before is not taken back.
        worker.enrolledAt = now
        put(worker)
        for attempt in openAttempts(on: name) { lose(attempt, "the worker \(name) was revoked", now: now) }
        // Nobody can tell what it has built.
        for record in openPublications where record.step == .held && record.builtOn == name.rawValue {
            drop(record, "its builder, \(name), was revoked", now: now)
        }
        for record in openPublications where record.builtOn == name.rawValue && record.attempt.job != record.job {
            endPromotion(record, "the candidate's builder, \(name), was revoked", now: now)
        }
    }

    static func unknownWorker(_ name: WorkerName) -> FarmError {
        FarmError("worker.unknown", .notFound, "there is no worker \(name)", hint: "sciferry workers lists them")
    }

    /// Adds a worker, or takes a known name's new key: the identity before it is worth nothing any more.
    ///
    /// - Throws: `worker.pool` for a name of the untrusted pool that shall be trusted: what is on its disk must not get into releases.
    package mutating func enrol(_ name: WorkerName, trusted: Bool, keyDigest: Digest, now: Timestamp) throws {
        if let there = workers[name], !there.trusted, trusted {
            throw FarmError(
                "worker.pool", .denied, "the worker \(name) is of the untrusted pool; what is on its disk must not get into releases",
                hint: "set the machine up anew and enrol it under another name")
        }
        // Another machine, or another pool: what was given to the worker is nobody's now.
        if let there = workers[name], there.keyDigest != keyDigest || there.trusted != trusted {
            for attempt in openAttempts(on: name) { lose(attempt, "the worker \(name) was enrolled anew", now: now) }
        }
        var worker = workers[name] ?? WorkerRecord(name: name, trusted: trusted, enrolledAt: now)
        if worker.keyDigest != keyDigest { worker.enrolledAt = now }
        worker.trusted = trusted
        worker.keyDigest = keyDigest
        worker.revoked = false
        put(worker)
    }

    // MARK: what a report leads to

    private mutating func take(_ seen: AttemptReport, from name: WorkerName, now: Timestamp) {
        guard var attempt = attempts[seen.id], attempt.worker == name else {
            remark("attempt not held", ["worker.name": name.rawValue, "attempt.id": seen.id.description])
            return
        }
        if attempt.state == .lost, !readopt(&attempt) {
            remark("attempt not held", ["worker.name": name.rawValue, "attempt.id": seen.id.description])
            return
        }
        guard attempt.isOpen else { return }
        if let outcome = seen.outcome { return settle(attempt, outcome, now: now) }
        let changed = attempt.state != .running || attempt.phase != seen.phase
        if changed || attempt.progressPermille != seen.progressPermille || attempt.note != seen.note { attempt.movedAt = now }
        attempt.state = .running
        attempt.phase = seen.phase
        attempt.progressPermille = seen.progressPermille
        attempt.note = seen.note
        if attempt.phaseStarts[seen.phase.rawValue] == nil { attempt.phaseStarts[seen.phase.rawValue] = now }
        // Progress within a phase is for the eyes only.
        if changed { put(attempt) } else { note(attempt) }
        if var job = jobs[attempt.id.job], job.state != .running {
            job.state = .running
            put(job)
        }
    }

    /// A worker came back with an attempt whose lease had ended: it keeps it unless a newer one has begun.
    private mutating func readopt(_ attempt: inout AttemptRecord) -> Bool {
        guard let job = jobs[attempt.id.job], job.state == .queued, job.attempts == attempt.id.number, let worker = workers[attempt.worker],
            // Not what it had before it was shut out or enrolled anew, nor what it would not get as it is now, nor what stood still.
            attempt.startedAt >= worker.enrolledAt, worker.trusted != (job.isCandidate ?? false), attempt.failure?.code != FarmState.stalled
        else { return false }
        attempt.state = .running
        attempt.finishedAt = nil
        attempt.failure = nil
        remark("attempt re-adopted", ["worker.name": attempt.worker.rawValue, "attempt.id": attempt.id.description])
        put(attempt)
        // Its end had been taken into account; it runs again.
        began(attempt, job)
        return true
    }

    private mutating func settle(_ attempt: AttemptRecord, _ outcome: AttemptOutcome, now: Timestamp) {
        guard let job = jobs[attempt.id.job] else { return }
        var (attempt, outcome) = (attempt, outcome)
        attempt.steps = outcome.steps?.bounded
        outcome.steps = nil
        remember(&outcome, of: attempt, job, now: now)
        switch outcome {
        case .built(let result):
            guard job.kind == .build, let plan = job.key else { return refuse(attempt, "a build for another kind of job", now: now) }
            end(attempt, .succeeded, failure: nil, now: now)
            guard var job = jobs[job.id] else { return }
            if let there = fulfilment(of: job) {
                return finish(job.id, .succeeded, release: there.digest, note: "\(there.job) has built the same meanwhile", now: now)
            }
            job.state = .publishing
            put(job)
            let result = attested(result, by: attempt.worker, job)
            var record = PublicationRecord(
                job: job.id, attempt: attempt.id, plan: plan, result: result, builtOn: attempt.worker.rawValue, startedAt: now)
            record.step = job.isCandidate ?? false ? .held : job.promotes == nil ? .packs : .compare
            put(record)
            if job.isCandidate ?? false {
                finish(job.id, .succeeded, note: "a candidate, tested and not released; sciferry promote \(job.id)", now: now)
            }
            if let disk = result.diskBytes { measured(job, diskBytes: disk) }
        case .resolved(var input):
            guard let order = job.resolve, order.kind == input.kind, order.name == input.name,
                order.architecture == input.architecture
            else { return refuse(attempt, "an answer to another question", now: now) }
            input.lockedAt = now
            if input.kind == .base, input.origin == .registry {
                guard order.pinned.map({ $0 == input.digest }) ?? true, input.archive != nil else {
                    return refuse(attempt, "a base image that it did not bring, or another one; upgrade it", now: now)
                }
                put(input.held)
                input.archive = nil
            }
            end(attempt, .succeeded, failure: nil, now: now)
            // One that was asked for by its digest says nothing of what its name stands for now.
            if order.pinned == nil { put(input) }
            finish(job.id, .succeeded, now: now)
        case .verified(let found):
            guard let order = job.verify, found.asked == order.on, areTestsOfBuild(found.tests, of: job) else {
                return refuse(attempt, "a verification that was not asked for", now: now)
            }
            end(attempt, .succeeded, failure: nil, now: now)
            finish(job.id, .succeeded, now: now)
            verified(job, found, by: attempt.worker, now: now)
        case .failed(let failure):
            end(attempt, .failed, failure: failure, now: now)
            if failure.failureClass == .recipe || failure.retry == .never {
                finish(job.id, .failed, failure: failure, now: now)
            } else {
                if failure.reason == "disk.full" || failure.code == "disk.full" { expectMore(of: job.id) }
                retry(job.id, failure, now: now)
            }
        }
    }

    /// How a suite went is part of its tool's history. What the untrusted pool says is not.
    private mutating func remember(_ outcome: inout AttemptOutcome, of attempt: AttemptRecord, _ job: JobRecord, now: Timestamp) {
        let tests: [TestOutcome]
        switch outcome {
        case .built(let result): tests = result.tests
        case .verified(let found): tests = found.tests
        case .failed(var failure):
            tests = failure.tests ?? []
            failure.tests = nil
            outcome = .failed(failure)
        case .resolved: tests = []
        }
        guard !tests.isEmpty, let key = job.verify?.plan ?? job.key, !(job.isCandidate ?? false) else { return }
        put(
            TestRun(
                name: job.recipe, version: job.version, target: job.target, buildKey: key, attempt: attempt.id.description,
                worker: attempt.worker.rawValue, host: workers[attempt.worker]?.facts?.target ?? "", at: now, tests: tests))
    }

    /// A build that has filled a disk goes to a larger one, and so do those of its recipe that come after it.
    private mutating func expectMore(of id: JobID) {
        guard var job = jobs[id], job.kind == .build else { return }
        // More than anybody has would keep it from all of them.
        let most =
            workers.values.filter { isOfPool($0, isCandidate: job.isCandidate ?? false) && !$0.revoked }
            .compactMap { $0.facts?.diskFreeBytes }.max() ?? 0
        let more = min(job.diskBytes / 2 * 3, most)
        guard more > job.diskBytes else { return }
        job.diskBytes = more
        put(job)
        measured(job, diskBytes: job.diskBytes)
    }

    private mutating func refuse(_ attempt: AttemptRecord, _ what: String, now: Timestamp) {
        let failure = Failure(.infrastructure, code: "attempt.outcome", message: "the worker \(attempt.worker) reported \(what)")
        end(attempt, .failed, failure: failure, now: now)
        retry(attempt.id.job, failure, now: now)
    }

    /// Attempts that the worker had confirmed and no longer speaks of are gone: it restarted.
    private mutating func giveUpLost(_ name: WorkerName, _ reported: Set<AttemptID>, now: Timestamp) {
        for attempt in openAttempts(on: name) where attempt.state == .running && !reported.contains(attempt.id) {
            lose(attempt, "the worker \(name) no longer has it; it was restarted", now: now)
        }
    }

    /// An attempt that stood still is not taken back when its worker speaks of it again.
    private static let stalled = "attempt.stalled"

    private mutating func lose(_ attempt: AttemptRecord, _ why: String, code: String = "attempt.lost", now: Timestamp) {
        // The end of another may have ended this one too.
        guard attempts[attempt.id]?.isOpen ?? false else { return }
        let failure = Failure(.infrastructure, code: code, message: why)
        remark("attempt lost", ["attempt.id": attempt.id.description, "reason": why])
        end(attempt, .lost, failure: failure, now: now)
        retry(attempt.id.job, failure, now: now)
    }

    /// Seconds until the next try: doubled with each, and far longer where somebody else has to mend something.
    private func pause(_ setbacks: Int, _ failure: Failure) -> Double {
        let patience: Double = failure.retry == .later || failure.failureClass == .upstream && failure.retry == nil ? 30 : 1
        return min(1800, min(300, rules.retrySeconds * Double(1 << min(setbacks - 1, 10))) * patience)
    }

    /// Puts a job back into the queue after a failure that is not the recipe's.
    mutating func retry(_ id: JobID, _ failure: Failure, now: Timestamp) {
        guard var job = jobs[id], !job.state.isFinal else { return }
        if let there = fulfilment(of: job) {
            return finish(id, .succeeded, release: there.digest, note: "\(there.job) has built the same meanwhile", now: now)
        }
        job.setbacks += 1
        // A build that is done is not thrown away because its tests cannot be run just now.
        guard job.setbacks < rules.mostSetbacks || job.kind == .verify else {
            put(job)
            return finish(id, .failed, failure: failure, note: "given up after \(job.setbacks) failures of the infrastructure", now: now)
        }
        if failure.failureClass == .upstream, job.setbacks >= rules.mostUpstreamSetbacks {
            put(job)
            return finish(id, .failed, failure: failure, note: "given up after \(job.setbacks) failures of what the recipe needs", now: now)
        }
        job.state = .queued
        job.failure = failure
        job.notBefore = now.adding(seconds: pause(job.setbacks, failure))
        put(job)
    }
}
