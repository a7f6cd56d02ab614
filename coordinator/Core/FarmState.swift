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
        /// Failures of a server that the recipe names, after which a job is given up.
        package var mostUpstreamSetbacks = 3
        /// Seconds before the second try; doubled for each further one.
        package var retrySeconds: Double
        /// Ended jobs that are kept at hand.
        package var keptJobs = 1000
        package var scheduling = SchedulingRules()
        /// How many regions the farm has.
        package var regions = 1
        /// Seconds for which a candidate is kept.
        package var candidateSeconds: Double = 14 * 86400
        /// Labels that a worker must have to be given one.
        package var candidateNeeds = LabelWish()
        package var promotion = PromotionPolicy.rebuild

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
    /// Jobs that are open or ended lately, with what belongs to them; older ones lie in the journal.
    package private(set) var table = JobTable()
    package internal(set) var workers: [WorkerName: WorkerRecord] = [:]
    /// Container engines that workers of both pools use.
    private(set) var mixedEngines: Set<String> = []
    /// Whether the farm has, or had, workers of the untrusted pool.
    private(set) var hasUntrusted = false
    package internal(set) var inputs: [String: LockedInput] = [:]
    package private(set) var releases: [Digest: ReleaseRecord] = [:]
    /// What regions have and nothing needs, by its key.
    package private(set) var condemned: [String: CondemnedObject] = [:]
    /// What catalogues offer, by the entries' keys.
    package private(set) var imports: [String: ImportRecord] = [:]
    package internal(set) var channels: [String: ChannelRecord] = [:]
    package private(set) var ledger = RunLedger()
    /// The newest night; its entries only while it goes on.
    package private(set) var night: NightFile?
    private var releasesByKey: [Digest: [Digest]] = [:]
    private var undo: [Undo] = []

    /// What a record was before the changes that are not accepted yet.
    private enum Undo: Sendable {
        case worker(WorkerName, WorkerRecord?)
        case input(String, LockedInput?)
        case release(Digest, ReleaseRecord?)
        case condemned(String, CondemnedObject?)
        case imported(String, ImportRecord?)
        case channel(String, ChannelRecord?)
        case number(Int)
        case night(NightFile?)
    }

    package var jobs: [JobID: JobRecord] { table.jobs }
    package var attempts: [AttemptID: AttemptRecord] { table.attempts }
    package var publications: [JobID: PublicationRecord] { table.publications }
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
            table.put(job)
            nextNumber = max(nextNumber, job.number + 1)
        }
        nextNumber = max(nextNumber, snapshot.nextNumber)
        for attempt in snapshot.attempts { table.put(attempt) }
        for worker in snapshot.workers { workers[worker.name] = worker }
        for input in snapshot.inputs { inputs[input.key] = input }
        for publication in snapshot.publications { table.put(publication) }
        for release in snapshot.releases { keep(release) }
        for record in snapshot.imports { imports[record.entry.key] = record }
        for object in snapshot.condemned { condemned[object.key] = object }
        for channel in snapshot.channels { channels[channel.name] = channel }
        night = snapshot.night
        ledger = RunLedger(snapshot.histories, attempts: snapshot.attempts, jobs: table.jobs, now: now)
        for attempt in table.openAttempts { heard[attempt.worker] = now }
        findMixedEngines()
        table.accept(keep: rules.keptJobs)
    }

    /// Hands over what is to be committed and logged.
    package mutating func drainChanges() -> (changes: [JournalChange], remarks: [Remark]) {
        defer {
            changes = []
            remarks = []
        }
        return (changes, remarks)
    }

    /// The changes are in the journal.
    package mutating func accept() {
        undo = []
        table.accept(keep: rules.keptJobs)
        ledger.accept()
    }

    /// The changes could not be made: everything is as before them, except when workers were heard last.
    package mutating func rollBack() {
        changes = []
        remarks = []
        table.rollBack()
        ledger.rollBack()
        for step in undo.reversed() {
            switch step {
            case .worker(let name, let record):
                workers[name] = record
                findMixedEngines()
            case .input(let key, let input): inputs[key] = input
            case .condemned(let key, let object): condemned[key] = object
            case .release(let digest, let record?): releases[digest] = record
            case .release(let digest, nil):
                if let key = releases.removeValue(forKey: digest)?.release.image.buildKey { releasesByKey[key]?.removeAll { $0 == digest } }
            case .imported(let key, let record): imports[key] = record
            case .channel(let name, let record): channels[name] = record
            case .number(let before): nextNumber = before
            case .night(let before): night = before
            }
        }
        undo = []
    }

    // MARK: records

    mutating func put(_ job: JobRecord) {
        table.put(job)
        changes.append(.job(job))
    }

    package mutating func put(_ attempt: AttemptRecord) {
        table.put(attempt)
        changes.append(.attempt(attempt))
    }

    /// Progress, which is for the eyes only and lost with the process.
    mutating func note(_ attempt: AttemptRecord) { table.put(attempt) }

    mutating func put(_ worker: WorkerRecord) {
        note(worker)
        changes.append(.worker(worker))
    }

    /// Facts that change all the time and are worth no row.
    mutating func note(_ worker: WorkerRecord) {
        let before = workers.updateValue(worker, forKey: worker.name)
        undo.append(.worker(worker.name, before))
        if before?.facts?.engineID != worker.facts?.engineID || before?.trusted != worker.trusted || before?.revoked != worker.revoked {
            findMixedEngines()
        }
    }

    /// What an engine of the untrusted pool has on its disk stays there when its worker is shut out.
    private mutating func findMixedEngines() {
        let untrusted = Set(workers.values.filter { !$0.trusted }.flatMap { $0.engines ?? [] })
        let trusted = Set(workers.values.filter { $0.trusted && !$0.revoked }.compactMap { $0.facts?.engineID })
        mixedEngines = untrusted.intersection(trusted)
        hasUntrusted = !untrusted.isEmpty
    }

    /// Somebody whom it matters to waits for a job that only candidates waited for.
    package mutating func hasten(_ id: JobID) {
        guard var job = jobs[id], job.kind == .resolve, job.priority != nil else { return }
        job.priority = nil
        put(job)
    }

    package mutating func put(_ publication: PublicationRecord) {
        table.put(publication)
        changes.append(.publication(publication))
    }

    mutating func put(_ input: LockedInput) {
        undo.append(.input(input.key, inputs[input.key]))
        inputs[input.key] = input
        changes.append(.input(input))
    }

    mutating func put(_ release: ReleaseRecord) {
        undo.append(.release(release.digest, releases[release.digest]))
        keep(release)
        changes.append(.release(release))
    }

    private mutating func keep(_ release: ReleaseRecord) {
        guard releases.updateValue(release, forKey: release.digest) == nil else { return }
        releasesByKey[release.release.image.buildKey, default: []].append(release.digest)
    }

    mutating func put(_ object: CondemnedObject) {
        undo.append(.condemned(object.key, condemned.updateValue(object, forKey: object.key)))
        changes.append(.condemned(object))
    }

    /// An object is needed again, or gone.
    mutating func settle(_ key: String) {
        guard let before = condemned.removeValue(forKey: key) else { return }
        undo.append(.condemned(key, before))
        changes.append(.settled(key: key))
    }

    /// Kept by the journal alone.
    mutating func put(_ run: TestRun) { changes.append(.testRun(run)) }

    mutating func put(_ record: ImportRecord) {
        undo.append(.imported(record.entry.key, imports.updateValue(record, forKey: record.entry.key)))
        changes.append(.imported(record))
    }

    mutating func put(_ channel: ChannelRecord) {
        undo.append(.channel(channel.name, channels[channel.name]))
        channels[channel.name] = channel
        changes.append(.channel(channel))
    }

    /// Changes the night in its place: only the first change of a transition keeps what was before.
    mutating func changeNight(_ body: (inout NightFile?) -> Void) {
        if !undo.contains(where: { if case .night = $0 { true } else { false } }) { undo.append(.night(night)) }
        body(&night)
    }

    /// What a build took up on its worker's disks is known.
    mutating func measured(_ job: JobRecord, diskBytes: Int64) {
        if let history = ledger.measured(job, diskBytes: diskBytes) { changes.append(.history(history)) }
    }

    /// A worker has got an attempt.
    mutating func began(_ attempt: AttemptRecord, _ job: JobRecord) { ledger.began(attempt, job) }

    package mutating func add(_ change: JournalChange) { changes.append(change) }

    mutating func remark(_ message: String, _ metadata: [String: String]) {
        remarks.append(Remark(message: message, metadata: metadata))
    }

    // MARK: jobs

    /// A new job, not yet queued.
    package mutating func newJob(
        kind: JobKind, title: String, recipe: String, version: String, target: String, requestedBy: String, now: Timestamp
    ) -> JobRecord {
        undo.append(.number(nextNumber))
        defer { nextNumber += 1 }
        return JobRecord(
            id: JobID(number: nextNumber), number: nextNumber, kind: kind, state: .resolving, title: title, recipe: recipe,
            version: version, target: target, requestedBy: requestedBy, createdAt: now)
    }

    /// The open job that leads a key.
    package func leader(of lead: Digest) -> JobRecord? { table.leader(of: lead) }

    /// The published release of a build key, one that no emulator built where there is one.
    package func release(ofKey key: Digest) -> ReleaseRecord? {
        let all = (releasesByKey[key] ?? []).compactMap { releases[$0] }.filter { $0.retiredAt == nil }
        return all.max { one, other in
            let (isNative, otherIsNative) = (one.release.emulator == nil, other.release.emulator == nil)
            if isNative != otherIsNative { return otherIsNative }
            return (one.release.publishedAt, one.digest) < (other.release.publishedAt, other.digest)
        }
    }

    /// Workers that have something to do with a job: with itself, with its tests, or with those that are tested beside it.
    package func busyWorkers(with id: JobID) -> Set<WorkerName> {
        let family = [id] + table.children(of: id).map(\.id) + (jobs[id]?.parent.map { table.children(of: $0).map(\.id) } ?? [])
        return Set(family.compactMap { table.openAttempt(of: $0)?.worker })
    }

    /// A job with what belongs to it; `nil` for one that is not at hand any more.
    package func file(of id: JobID) -> JobFile? {
        jobs[id].map { JobFile(job: $0, attempts: table.attempts(of: id), publication: publications[id]) }
    }

    /// All jobs that have not ended, with what belongs to them, oldest first.
    package var openJobs: [JobFile] { table.open.compactMap { file(of: $0) }.sorted { $0.job.number < $1.job.number } }

    /// Jobs that wait for their inputs.
    package var resolvingJobs: [JobRecord] { table.resolving.compactMap { jobs[$0] } }

    /// The release that a build job asks for, when it is there already.
    func fulfilment(of job: JobRecord) -> ReleaseRecord? {
        guard job.kind == .build else { return nil }
        // A candidate asks for what its release would be.
        return [job.key, job.releaseKey].compactMap(\.self).compactMap(release(ofKey:)).first { $0.satisfies(job) }
    }

    /// Adds a job that waits for resolve jobs.
    package mutating func wait(_ job: JobRecord, for waits: [JobID]) {
        var job = job
        job.waitsFor = waits
        put(job)
    }

    /// A worker said what its engine holds.
    mutating func noteLayers(_ summary: LayerSummary, of name: WorkerName) {
        ledger.holds(name, summary, wanted: table.queue.entries.values.joined().compactMap { jobs[$0.id]?.layers })
    }

    /// Gives a job its key: it is done already, joins the one in flight, or is queued.
    package mutating func enqueue(_ job: JobRecord, key: Digest, needs: JobNeeds, now: Timestamp) {
        var job = job
        job.key = key
        job.waitsFor = []
        job.diskBytes = needs.diskBytes
        job.memoryBytes = needs.memoryBytes
        if !needs.labels.isEmpty { job.labels = needs.labels }
        if job.kind == .build {
            job.expectedSeconds = ledger.expectation(recipe: job.recipe, target: job.target).seconds
            if let learned = ledger.diskBytes(recipe: job.recipe, target: job.target) {
                job.diskBytes = needs.declaresDisk ? max(learned, needs.diskBytes) : learned
            }
            job.layers = needs.layers.isEmpty ? nil : needs.layers
            let isTrusted = !(job.isCandidate ?? false)
            ledger.wants(needs.layers)
            job.warmth = ledger.warmth(of: needs.layers) { workers[$0]?.trusted == isTrusted }
        }
        // The leader first: its release is known a step before readers see it.
        if let leader = job.lead.flatMap(leader(of:)), leader.id != job.id {
            job.state = leader.state
            job.joined = leader.id
            job.note = "the same build is under way as \(leader.id)"
        } else if let there = fulfilment(of: job) {
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
        for follower in table.followers(of: id) {
            finish(follower.id, state, failure: failure, release: release, note: "ended with \(id)", now: now)
        }
        if job.kind == .verify, state != .succeeded { giveUpVerification(job, now: now) }
        guard job.kind == .resolve, state != .succeeded else { return }
        for waiting in table.dependants(of: id) {
            finish(waiting.id, .failed, failure: failure, note: "\(job.title) could not be resolved (\(id))", now: now)
        }
    }

    /// Fails a job before it ever ran, for example because its recipe does not render.
    package mutating func fail(_ id: JobID, _ failure: Failure, now: Timestamp) { finish(id, .failed, failure: failure, now: now) }

    /// Stops a job; its worker hears of it at once. Throws when there is nothing left to stop.
    package mutating func cancel(_ id: JobID, by who: String, now: Timestamp) throws {
        guard let job = jobs[id] else { throw FarmState.unknown(id) }
        let step = publications[id]?.step
        if job.isCandidate ?? false, let record = publications[id], step == .held {
            return drop(record, "given up by \(who)", now: now)
        }
        guard !job.state.isFinal, job.state != .publishing || job.joined != nil || step == .compare else {
            throw FarmError("job.ended", .conflict, "\(id) is \(job.state.rawValue); there is nothing to cancel")
        }
        if let attempt = table.openAttempt(of: id) { end(attempt, .cancelled, failure: nil, now: now) }
        handLead(of: id, now: now)
        finish(id, .cancelled, note: "cancelled by \(who)", now: now)
        if job.state == .verifying { dropVerification(of: id, now: now) }
        if step == .held || step == .compare, var record = publications[id] {
            record.step = .cleanup
            put(record)
        }
    }

    /// Others who joined a job that is cancelled still want it: the first of them leads from now on.
    mutating func handLead(of id: JobID, now: Timestamp) {
        let followers = table.followers(of: id)
        for (index, follower) in followers.enumerated() {
            if let there = fulfilment(of: follower) {
                finish(follower.id, .succeeded, release: there.digest, note: "\(there.job) has built the same meanwhile", now: now)
                continue
            }
            var job = follower
            job.joined = index == 0 ? nil : followers[0].id
            job.state = .queued
            job.note = index == 0 ? "leads since \(id) was cancelled" : "the same build is under way as \(followers[0].id)"
            put(job)
        }
        for waiting in table.dependants(of: id) where followers.first != nil {
            var job = waiting
            job.waitsFor = job.waitsFor.map { $0 == id ? followers[0].id : $0 }
            put(job)
        }
    }

    static func unknown(_ id: JobID) -> FarmError {
        FarmError("job.unknown", .notFound, "there is no job \(id)", hint: "sciferry jobs lists them")
    }

    // MARK: attempts

    package func openAttempts(on worker: WorkerName) -> [AttemptRecord] { table.openAttempts(on: worker) }

    /// Whether a worker holds an attempt now.
    package func holds(_ worker: WorkerName, _ attempt: AttemptID) -> Bool {
        attempts[attempt].map { $0.worker == worker && $0.isOpen } ?? false
    }

    mutating func end(_ attempt: AttemptRecord, _ state: AttemptState, failure: Failure?, now: Timestamp) {
        var ended = attempt
        ended.state = state
        ended.failure = failure
        ended.finishedAt = now
        put(ended)
        guard let job = jobs[attempt.id.job] else { return }
        let speed = workers[attempt.worker]?.speed ?? 1
        let expectation = ledger.expectation(recipe: job.recipe, target: job.target)
        if let history = ledger.ended(ended, job, speed: speed) { changes.append(.history(history)) }
        noteStanding(of: attempt.worker, ended, job, expected: expectation.isKnown ? expectation.seconds : nil)
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

    /// What is known of a worker's speed from elsewhere, for simulations.
    package mutating func setSpeed(_ name: WorkerName, _ speed: Double) {
        guard var worker = workers[name] else { return }
        worker.speed = speed
        put(worker)
    }

    func slots(of worker: WorkerName) -> Int { freeSlots[worker] ?? 0 }
}
