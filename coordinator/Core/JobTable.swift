package import FarmModel

/// The jobs, attempts and publications that matter now, each found by what the farm asks for without a look at all the others.
/// A change can be taken back until it is accepted, so that nothing is copied to try one.
package struct JobTable: Sendable {
    package private(set) var jobs: [JobID: JobRecord] = [:]
    package private(set) var attempts: [AttemptID: AttemptRecord] = [:]
    package private(set) var publications: [JobID: PublicationRecord] = [:]

    /// Jobs that have not ended.
    private(set) var open: Set<JobID> = []
    private(set) var resolving: Set<JobID> = []
    /// Publications that are not done.
    private(set) var publishing: Set<JobID> = []
    /// Jobs that could begin, but for a pause after a failure.
    private(set) var queue = JobQueue()
    private var leads: [Digest: JobID] = [:]
    private var followers: [JobID: Set<JobID>] = [:]
    private var dependants: [JobID: Set<JobID>] = [:]
    private var children: [JobID: Set<JobID>] = [:]
    private var byKey: [Digest: Set<JobID>] = [:]
    private var tries: [JobID: Set<AttemptID>] = [:]
    private var openTries: [JobID: AttemptID] = [:]
    private var held: [WorkerName: Set<AttemptID>] = [:]
    /// Ended jobs, the one that ended first in front; those at the front are let go when there are too many.
    private var ended: [JobID] = []
    private var endedStart = 0

    private enum Undo: Sendable {
        case job(JobID, JobRecord?)
        case attempt(AttemptID, AttemptRecord?)
        case publication(JobID, PublicationRecord?)
    }
    private var undo: [Undo] = []

    init() {}

    // MARK: changes

    mutating func put(_ job: JobRecord) {
        undo.append(.job(job.id, jobs[job.id]))
        set(job.id, job)
    }

    mutating func put(_ attempt: AttemptRecord) {
        undo.append(.attempt(attempt.id, attempts[attempt.id]))
        set(attempt.id, attempt)
    }

    mutating func put(_ publication: PublicationRecord) {
        undo.append(.publication(publication.job, publications[publication.job]))
        set(publication.job, publication)
    }

    /// What was changed stays; ended jobs beyond `keep` that nothing waits for are let go.
    mutating func accept(keep: Int) {
        var seen: Set<JobID> = []
        for step in undo {
            // The first step of a job tells what it was before.
            guard case .job(let id, let before) = step, seen.insert(id).inserted else { continue }
            if !(before?.state.isFinal ?? false), jobs[id]?.state.isFinal ?? false { ended.append(id) }
        }
        undo = []
        var tried = 0
        while ended.count - endedStart > keep, tried < 8 {
            let id = ended[endedStart]
            endedStart += 1
            tried += 1
            if isNeeded(id) { ended.append(id) } else { forget(id) }
        }
        if endedStart > 4096, endedStart * 2 > ended.count {
            ended.removeFirst(endedStart)
            endedStart = 0
        }
    }

    /// Everything is as it was at the last acceptance.
    mutating func rollBack() {
        for step in undo.reversed() {
            switch step {
            case .job(let id, let record): set(id, record)
            case .attempt(let id, let record): set(id, record)
            case .publication(let id, let record): set(id, record)
            }
        }
        undo = []
    }

    private func isNeeded(_ id: JobID) -> Bool {
        if publishing.contains(id) || dependants[id] != nil || followers[id] != nil { return true }
        if let parent = jobs[id]?.parent, open.contains(parent) || publishing.contains(parent) { return true }
        return children[id]?.contains { open.contains($0) } ?? false
    }

    private mutating func forget(_ id: JobID) {
        for attempt in tries[id] ?? [] { set(attempt, nil) }
        set(id, nil as PublicationRecord?)
        set(id, nil as JobRecord?)
    }

    // MARK: indexes

    private mutating func set(_ id: JobID, _ job: JobRecord?) {
        if let old = jobs[id] { index(old, present: false) }
        jobs[id] = job
        if let job { index(job, present: true) }
        requeue(id)
    }

    private mutating func index(_ job: JobRecord, present: Bool) {
        func mark<Key: Hashable>(_ sets: inout [Key: Set<JobID>], _ key: Key?) {
            guard let key else { return }
            if present { sets[key, default: []].insert(job.id) } else { sets[key]?.remove(job.id) }
            if sets[key]?.isEmpty ?? false { sets[key] = nil }
        }
        if let lead = job.lead {
            if present { leads[lead] = job.id } else if leads[lead] == job.id { leads[lead] = nil }
        }
        mark(&children, job.parent)
        guard !job.state.isFinal else { return }
        if present { open.insert(job.id) } else { open.remove(job.id) }
        if job.state == .resolving { if present { resolving.insert(job.id) } else { resolving.remove(job.id) } }
        mark(&followers, job.joined)
        for other in job.waitsFor { mark(&dependants, other) }
        if job.joined == nil { mark(&byKey, job.key) }
    }

    private mutating func set(_ id: AttemptID, _ attempt: AttemptRecord?) {
        if let old = attempts[id] {
            tries[id.job]?.remove(id)
            if tries[id.job]?.isEmpty ?? false { tries[id.job] = nil }
            if old.isOpen {
                if openTries[id.job] == id { openTries[id.job] = nil }
                held[old.worker]?.remove(id)
                if held[old.worker]?.isEmpty ?? false { held[old.worker] = nil }
            }
        }
        attempts[id] = attempt
        if let attempt {
            tries[id.job, default: []].insert(id)
            if attempt.isOpen {
                openTries[id.job] = id
                held[attempt.worker, default: []].insert(id)
            }
        }
        requeue(id.job)
    }

    private mutating func set(_ id: JobID, _ publication: PublicationRecord?) {
        publications[id] = publication
        if let publication, publication.step != .done { publishing.insert(id) } else { publishing.remove(id) }
    }

    private mutating func requeue(_ id: JobID) {
        let job = jobs[id]
        let isReady = job.map { $0.state == .queued && $0.joined == nil } ?? false && openTries[id] == nil
        if isReady, let job { queue.insert(job) } else { queue.remove(id) }
    }

    // MARK: questions

    /// The open job that leads a key.
    func leader(of lead: Digest) -> JobRecord? { leads[lead].flatMap { jobs[$0] } }

    /// Open jobs that joined another, oldest first.
    func followers(of id: JobID) -> [JobRecord] { records(followers[id]) }

    /// Open jobs that wait for another, oldest first.
    func dependants(of id: JobID) -> [JobRecord] { records(dependants[id]) }

    /// Verify jobs of a build, oldest first.
    func children(of id: JobID) -> [JobRecord] { records(children[id]) }

    /// Open jobs of a build key that joined no other, oldest first.
    func wanting(_ key: Digest) -> [JobRecord] { records(byKey[key]) }

    /// All tries of a job, oldest first.
    func attempts(of job: JobID) -> [AttemptRecord] {
        (tries[job] ?? []).compactMap { attempts[$0] }.sorted { $0.id.number < $1.id.number }
    }

    func openAttempt(of job: JobID) -> AttemptRecord? { openTries[job].flatMap { attempts[$0] } }

    /// What a worker holds, oldest first.
    func openAttempts(on worker: WorkerName) -> [AttemptRecord] {
        (held[worker] ?? []).compactMap { attempts[$0] }.sorted { ($0.startedAt, $0.id.description) < ($1.startedAt, $1.id.description) }
    }

    /// Everything that workers hold, oldest first.
    var openAttempts: [AttemptRecord] {
        openTries.values.compactMap { attempts[$0] }.sorted { ($0.startedAt, $0.id.description) < ($1.startedAt, $1.id.description) }
    }

    /// What the indexes say otherwise than the records do; for tests.
    package func inconsistencies() -> [String] {
        var fresh = JobTable()
        for job in jobs.values { fresh.set(job.id, job) }
        for attempt in attempts.values { fresh.set(attempt.id, attempt) }
        for publication in publications.values { fresh.set(publication.job, publication) }
        let pairs: [(String, Bool)] = [
            ("open", open == fresh.open), ("resolving", resolving == fresh.resolving), ("publishing", publishing == fresh.publishing),
            ("leads", leads == fresh.leads), ("followers", followers == fresh.followers), ("dependants", dependants == fresh.dependants),
            ("children", children == fresh.children), ("byKey", byKey == fresh.byKey), ("tries", tries == fresh.tries),
            ("openTries", openTries == fresh.openTries), ("held", held == fresh.held),
            ("queue", queue.entries == fresh.queue.entries),
        ]
        return pairs.filter { !$0.1 }.map(\.0)
    }

    private func records(_ ids: Set<JobID>?) -> [JobRecord] {
        (ids ?? []).compactMap { jobs[$0] }.sorted { $0.number < $1.number }
    }
}
