import FarmModel
import Microarchitecture

/// Tests of a built image on further CPUs, which a release waits for.
extension FarmState {
    /// The image lies in the store: asks for its tests on every CPU that the recipe names.
    mutating func startVerification(_ id: JobID, now: Timestamp) {
        guard let job = jobs[id], var record = publications[id], record.step == .verify else { return }
        if record.attempt.job != record.job {
            // Which tests there are is not for a builder of the untrusted pool to say.
            record.result.tests.removeAll { $0.wasLeft ?? false }
        } else if askForRest(of: record, for: job, now: now) {
            return
        }
        var found: [Verification] = []
        var asking = job.verifyJobs ?? []
        for asked in job.verifyOn ?? [] {
            if let own = ownTests(of: record, on: asked, for: job, now: now) {
                found.append(own)
            } else {
                let test = verifyJob(asked, of: record, for: job, now: now)
                put(test)
                asking.append(test.id)
            }
        }
        record.verified = found
        put(record)
        var next = job
        next.state = .verifying
        next.verifyJobs = asking
        put(next)
        finishVerification(id)
    }

    /// The builder has run the tests already; where no worker is nearer to what is asked, that is the answer.
    private func ownTests(of record: PublicationRecord, on asked: String, for job: JobRecord, now: Timestamp) -> Verification? {
        let result = record.result
        // Whoever could run the tests counts, not whoever could have built.
        var job = job
        job.kind = .verify
        job.diskBytes = FarmState.verificationBytes(record)
        job.avoided = nil
        guard record.attempt.job == record.job, result.emulator == nil, let host = Microarchitecture.named(result.hostTarget),
            let target = Microarchitecture.named(asked),
            host >= target, nearer(than: host, to: target, for: job, now: now) == nil
        else { return nil }
        return Verification(
            asked: asked, hostTarget: result.hostTarget, emulator: nil, worker: record.builtOn, runtime: result.testRuntime,
            tests: result.tests)
    }

    /// Most jobs that the rest of a long suite is spread over.
    private static let mostShards = 16

    /// Spreads tests that the builder has left over the workers that can run them. Returns whether there are such.
    private mutating func askForRest(of record: PublicationRecord, for parent: JobRecord, now: Timestamp) -> Bool {
        let left = record.result.tests.filter { $0.wasLeft ?? false }.map(\.name)
        guard !left.isEmpty else { return false }
        let able = workers.values.count { worker in
            worker.trusted && !worker.revoked && (worker.facts.map { Microarchitecture.runs($0.target, parent.target) } ?? false)
        }
        let shards = max(1, min(able, left.count, FarmState.mostShards))
        var asking: [JobID] = []
        for shard in 0..<shards {
            // Tests that stand beside each other often stand on each other, too.
            let names = Array(left[left.count * shard / shards..<left.count * (shard + 1) / shards])
            var test = verifyJob(parent.target, of: record, for: parent, now: now)
            test.title = "test \(parent.title), part \(shard + 1) of \(shards)"
            test.verify?.only = names
            put(test)
            asking.append(test.id)
        }
        var next = parent
        next.state = .verifying
        next.verifyJobs = asking
        put(next)
        return true
    }

    /// A part of a long suite is done; once all are, what else a release waits for may begin.
    private mutating func merge(_ found: Verification, into parent: JobID, now: Timestamp) {
        guard var record = publications[parent] else { return }
        let came = Dictionary(found.tests.map { ($0.name, $0) }) { first, _ in first }
        record.result.tests = record.result.tests.map { test in
            guard test.wasLeft ?? false, var outcome = came[test.name] else { return test }
            (outcome.worker, outcome.host, outcome.runtime) = (found.worker, found.emulator ?? found.hostTarget, found.runtime)
            outcome.wasLeft = nil
            return outcome
        }
        put(record)
        if !record.result.tests.contains(where: { $0.wasLeft ?? false }) { startVerification(parent, now: now) }
    }

    private mutating func verifyJob(_ asked: String, of record: PublicationRecord, for parent: JobRecord, now: Timestamp) -> JobRecord {
        var job = newJob(
            kind: .verify, title: "test \(parent.title) on \(asked)", recipe: parent.recipe, version: parent.version, target: asked,
            requestedBy: parent.requestedBy, now: now)
        job.verify = VerifyOrder(
            plan: record.plan, manifest: record.result.manifest.digest, on: asked, regions: rules.regions)
        job.parent = parent.id
        job.allowsEmulation = parent.allowsEmulation
        job.priority = parent.priority
        job.memoryBytes = parent.memoryBytes
        job.labels = parent.labels
        job.diskBytes = FarmState.verificationBytes(record)
        job.state = .queued
        return job
    }

    /// A verify job's tests passed.
    mutating func verified(_ job: JobRecord, _ found: Verification, by worker: WorkerName, now: Timestamp) {
        guard let parent = job.parent, var record = publications[parent], record.step == .verify else { return }
        var found = found
        found.worker = worker.rawValue
        found.runtime = String(found.runtime.prefix(100))
        (found.hostTarget, found.emulator) = cpu(of: worker, job)
        if job.verify?.only != nil { return merge(found, into: parent, now: now) }
        record.verified = ((record.verified ?? []).filter { $0.asked != found.asked } + [found]).sorted { $0.asked < $1.asked }
        put(record)
        finishVerification(parent)
    }

    /// What ran a job on a worker by what the farm knows of that worker: its CPU, or an emulator.
    private func cpu(of name: WorkerName, _ job: JobRecord) -> (target: String, emulator: String?) {
        guard let facts = workers[name]?.facts else { return ("", nil) }
        if Microarchitecture.runs(facts.target, job.target) { return (facts.target, nil) }
        let family = Microarchitecture.named(job.target)?.family
        return (facts.target, facts.hardware?.emulated?.first { $0.architecture == family }?.emulator ?? "an unknown emulator")
    }

    /// A result in which what concerns the worker is what the farm knows of it.
    func attested(_ result: BuildResult, by worker: WorkerName, _ job: JobRecord) -> BuildResult {
        var result = result
        (result.hostTarget, result.emulator) = cpu(of: worker, job)
        return result
    }

    /// Whether a verification ran the very tests of the build that it belongs to, and all passed.
    func areTestsOfBuild(_ tests: [TestOutcome], of job: JobRecord) -> Bool {
        guard let record = job.parent.flatMap({ publications[$0] }) else { return false }
        if let only = job.verify?.only { return tests.allSatisfy(\.passed) && Set(tests.map(\.name)) == Set(only) }
        // Which tests there are is not for a builder of the untrusted pool to say.
        if record.attempt.job != record.job { return tests.allSatisfy(\.passed) }
        // Some want what not every machine has.
        func names(_ tests: [TestOutcome]) -> [String] { tests.filter { !($0.wantsMore ?? false) }.map(\.name) }
        return tests.allSatisfy(\.passed) && names(tests) == names(record.result.tests)
    }

    /// Room for an image, and for what its tests write.
    private static func verificationBytes(_ record: PublicationRecord) -> Int64 { record.result.imageSize + (1 << 30) }

    /// Goes on to the release once every CPU has its tests.
    private mutating func finishVerification(_ id: JobID) {
        guard var job = jobs[id], var record = publications[id], record.step == .verify else { return }
        guard Set(job.verifyOn ?? []).isSubset(of: (record.verified ?? []).map(\.asked)),
            !record.result.tests.contains(where: { $0.wasLeft ?? false })
        else { return }
        record.step = .release
        put(record)
        job.state = .publishing
        put(job)
    }

    /// A verify job failed or was cancelled: so is the build that waits for it, and nothing of it is released.
    mutating func giveUpVerification(_ job: JobRecord, now: Timestamp) {
        guard let parent = job.parent, let order = job.verify else { return }
        var failure = job.failure
        failure?.message = "on \(order.on), tested by \(job.id): \(job.failure?.message ?? "")"
        let note =
            job.failure == nil ? "\(job.id), its test on \(order.on), was cancelled" : "not released: sciferry logs \(job.id) tells more"
        // Others may want the build still.
        if failure == nil { handLead(of: parent, now: now) }
        finish(parent, failure == nil ? .cancelled : .failed, failure: failure, note: note, now: now)
        dropVerification(of: parent, now: now)
    }

    /// Ends what was to be published and the verify jobs that are still open.
    mutating func dropVerification(of id: JobID, now: Timestamp) {
        if var record = publications[id], record.step == .verify {
            // Uploads of a candidate that is promoted as it is belong to the candidate.
            record.step = record.attempt.job == id ? .cleanup : .done
            put(record)
        }
        for job in table.children(of: id) where !job.state.isFinal {
            if let attempt = table.openAttempt(of: job.id) { end(attempt, .cancelled, failure: nil, now: now) }
            finish(job.id, .cancelled, note: "ended with \(id)", now: now)
        }
    }
}

extension ReleaseRecord {
    /// Whether a wish for its build key is fulfilled by it.
    func satisfies(_ job: JobRecord) -> Bool { release.emulator == nil || job.allowsEmulation ?? false }
}
