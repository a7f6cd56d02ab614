import FarmMessages
package import FarmModel
import Microarchitecture

/// The farm's brain as a value: events go in through methods, changes for the journal come out in `changes`. No I/O, no
/// clock of its own; whoever owns it commits the changes before anyone hears of them.
package struct FarmState: Sendable {
    /// Limits that operators set.
    package struct Rules: Sendable, Hashable {
        /// Silence after which a worker's leases end, in seconds.
        package var silenceSeconds: Double
        /// Seconds between two contacts of a busy or an idle worker.
        package var contactSeconds: Double
        /// Infrastructure failures after which a job is given up.
        package var mostSetbacks: Int
        /// Seconds before the second try; doubled for each further one.
        package var retrySeconds: Double

        package init(
            silenceSeconds: Double = 60, contactSeconds: Double = 2, mostSetbacks: Int = 5, retrySeconds: Double = 2
        ) {
            self.silenceSeconds = silenceSeconds
            self.contactSeconds = contactSeconds
            self.mostSetbacks = mostSetbacks
            self.retrySeconds = retrySeconds
        }
    }

    package let rules: Rules
    package internal(set) var jobs: [JobID: JobRecord] = [:]
    package internal(set) var attempts: [AttemptID: AttemptRecord] = [:]
    package internal(set) var workers: [WorkerName: WorkerRecord] = [:]
    package internal(set) var inputs: [String: LockedInput] = [:]
    package internal(set) var publications: [JobID: PublicationRecord] = [:]
    package internal(set) var releases: [Digest: ReleaseRecord] = [:]
    package internal(set) var channels: [String: ChannelRecord] = [:]
    /// When each worker was last heard in this process; lease clocks restart with it.
    private var heard: [WorkerName: Timestamp] = [:]
    private var freeSlots: [WorkerName: Int] = [:]
    private var nextNumber = 1
    /// When this process took over.
    let openedAt: Timestamp

    /// What must be in the journal before the new state counts.
    package private(set) var changes: [JournalChange] = []
    /// Things that an operator should find in the log.
    package private(set) var remarks: [Remark] = []

    /// A line for the log.
    package struct Remark: Sendable, Hashable {
        package var message: String
        package var metadata: [String: String]
    }

    package init(_ snapshot: JournalSnapshot, rules: Rules, now: Timestamp) {
        self.rules = rules
        openedAt = now
        for job in snapshot.jobs {
            jobs[job.id] = job
            nextNumber = max(nextNumber, job.number + 1)
        }
        for attempt in snapshot.attempts { attempts[attempt.id] = attempt }
        for worker in snapshot.workers { workers[worker.name] = worker }
        for input in snapshot.inputs { inputs[input.key] = input }
        for publication in snapshot.publications { publications[publication.job] = publication }
        for release in snapshot.releases { releases[release.digest] = release }
        for channel in snapshot.channels { channels[channel.name] = channel }
        for attempt in attempts.values where attempt.isOpen { heard[attempt.worker] = now }
    }

    /// Hands over what is to be committed and logged.
    package mutating func drainChanges() -> (changes: [JournalChange], remarks: [Remark]) {
        defer {
            changes = []
            remarks = []
        }
        return (changes, remarks)
    }

    // MARK: records

    mutating func put(_ job: JobRecord) {
        jobs[job.id] = job
        changes.append(.job(job))
    }

    mutating func put(_ attempt: AttemptRecord) {
        attempts[attempt.id] = attempt
        changes.append(.attempt(attempt))
    }

    mutating func put(_ worker: WorkerRecord) {
        workers[worker.name] = worker
        changes.append(.worker(worker))
    }

    mutating func put(_ publication: PublicationRecord) {
        publications[publication.job] = publication
        changes.append(.publication(publication))
    }

    package mutating func add(_ change: JournalChange) { changes.append(change) }

    mutating func remark(_ message: String, _ metadata: [String: String]) {
        remarks.append(Remark(message: message, metadata: metadata))
    }

    // MARK: jobs

    /// A new job, not yet queued.
    package mutating func newJob(
        kind: JobKind, title: String, recipe: String, version: String, target: String, requestedBy: String, now: Timestamp
    ) -> JobRecord {
        defer { nextNumber += 1 }
        return JobRecord(
            id: JobID("j\(nextNumber)"), number: nextNumber, kind: kind, state: .resolving, title: title, recipe: recipe,
            version: version, target: target, requestedBy: requestedBy, createdAt: now)
    }

    /// The open job that leads a key.
    package func leader(of lead: Digest) -> JobRecord? { jobs.values.first { $0.lead == lead } }

    /// The published release of a build key, one that no emulator built where there is one.
    package func release(ofKey key: Digest) -> ReleaseRecord? {
        let all = releases.values.filter { $0.release.image.buildKey == key }
        return all.first { $0.release.emulator == nil } ?? all.first
    }

    /// Lets an emulator have a job.
    package mutating func allowEmulation(_ id: JobID) {
        guard var job = jobs[id], !job.state.isFinal else { return }
        job.allowsEmulation = true
        put(job)
    }

    /// Adds a job that waits for resolve jobs.
    package mutating func wait(_ job: JobRecord, for waits: [JobID]) {
        var job = job
        job.waitsFor = waits
        put(job)
    }

    /// Gives a job its key: it is done already, joins the one in flight, or is queued.
    package mutating func enqueue(_ job: JobRecord, key: Digest, diskBytes: Int64, memoryBytes: Int64 = 0, now: Timestamp) {
        var job = job
        job.key = key
        job.waitsFor = []
        job.diskBytes = diskBytes
        job.memoryBytes = memoryBytes
        // The leader first: its release is known a step before readers see it.
        if let leader = job.lead.flatMap(leader(of:)), leader.id != job.id {
            job.state = leader.state
            job.joined = leader.id
            job.note = "the same build is under way as \(leader.id)"
        } else if job.kind == .build, let there = release(ofKey: key), there.satisfies(job) {
            job.state = .succeeded
            job.finishedAt = now
            job.release = there.digest
            job.note = "nothing to build: the same recipe, inputs and CPU target were released by \(there.job)"
        } else {
            job.state = .queued
        }
        put(job)
    }

    /// Ends a job, and with it those that joined it.
    mutating func finish(
        _ id: JobID, _ state: JobState, failure: Failure? = nil, release: Digest? = nil, note: String? = nil, now: Timestamp
    ) {
        guard var job = jobs[id], !job.state.isFinal else { return }
        job.state = state
        job.finishedAt = now
        job.failure = failure
        job.release = release
        job.note = note
        put(job)
        for follower in jobs.values.filter({ $0.joined == id && !$0.state.isFinal }).sorted(by: { $0.number < $1.number }) {
            finish(follower.id, state, failure: failure, release: release, note: "ended with \(id)", now: now)
        }
        if job.kind == .verify, state != .succeeded { giveUpVerification(job, now: now) }
        guard job.kind == .resolve, state != .succeeded else { return }
        for waiting in jobs.values.filter({ $0.waitsFor.contains(id) && !$0.state.isFinal }).sorted(by: { $0.number < $1.number }) {
            finish(waiting.id, .failed, failure: failure, note: "\(job.title) could not be resolved (\(id))", now: now)
        }
    }

    /// Fails a job before it ever ran, for example because its recipe does not render.
    package mutating func fail(_ id: JobID, _ failure: Failure, now: Timestamp) { finish(id, .failed, failure: failure, now: now) }

    /// Stops a job; its worker hears of it at once. Throws when there is nothing left to stop.
    package mutating func cancel(_ id: JobID, by who: String, now: Timestamp) throws {
        guard let job = jobs[id] else { throw FarmState.unknown(id) }
        guard !job.state.isFinal, job.state != .publishing else {
            throw FarmError("job.ended", .conflict, "\(id) is \(job.state.rawValue); there is nothing to cancel")
        }
        for attempt in openAttempts(of: id) { end(attempt, .cancelled, failure: nil, now: now) }
        handLead(of: id)
        finish(id, .cancelled, note: "cancelled by \(who)", now: now)
        if job.state == .verifying { dropVerification(of: id, now: now) }
    }

    /// Others who joined a job that is cancelled still want it: the first of them leads from now on.
    private mutating func handLead(of id: JobID) {
        let followers = jobs.values.filter { $0.joined == id && !$0.state.isFinal }.sorted { $0.number < $1.number }
        for (index, follower) in followers.enumerated() {
            var job = follower
            job.joined = index == 0 ? nil : followers[0].id
            job.state = .queued
            job.note = index == 0 ? "leads since \(id) was cancelled" : "the same build is under way as \(followers[0].id)"
            put(job)
        }
        for waiting in jobs.values where waiting.waitsFor.contains(id) && !waiting.state.isFinal && followers.first != nil {
            var job = waiting
            job.waitsFor = job.waitsFor.map { $0 == id ? followers[0].id : $0 }
            put(job)
        }
    }

    static func unknown(_ id: JobID) -> FarmError {
        FarmError("job.unknown", .notFound, "there is no job \(id)", hint: "sciferry jobs lists them")
    }

    // MARK: attempts

    func openAttempts(of job: JobID) -> [AttemptRecord] { attempts.values.filter { $0.id.job == job && $0.isOpen } }

    package func openAttempts(on worker: WorkerName) -> [AttemptRecord] {
        attempts.values.filter { $0.worker == worker && $0.isOpen }.sorted { $0.startedAt < $1.startedAt }
    }

    /// Whether a worker holds an attempt now.
    package func holds(_ worker: WorkerName, _ attempt: AttemptID) -> Bool {
        attempts[attempt].map { $0.worker == worker && $0.isOpen } ?? false
    }

    mutating func end(_ attempt: AttemptRecord, _ state: AttemptState, failure: Failure?, now: Timestamp) {
        var attempt = attempt
        attempt.state = state
        attempt.failure = failure
        attempt.finishedAt = now
        put(attempt)
    }

    // MARK: leases

    mutating func noteContact(_ worker: WorkerName, freeSlots slots: Int, now: Timestamp) {
        heard[worker] = now
        freeSlots[worker] = slots
    }

    package func lastHeard(_ worker: WorkerName) -> Timestamp? { heard[worker] }

    package func isConnected(_ worker: WorkerName, now: Timestamp) -> Bool {
        heard[worker].map { now.seconds(since: $0) < rules.silenceSeconds } ?? false
    }

    func slots(of worker: WorkerName) -> Int { freeSlots[worker] ?? 0 }
}
