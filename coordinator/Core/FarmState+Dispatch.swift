package import FarmModel
import Microarchitecture

/// What one pass over the queue has looked up; nothing in it outlives the pass.
struct DispatchPass {
    /// A class of jobs with what decides its turn.
    struct Turn {
        var awaited: Int
        var rank: Int
        /// Worker seconds of 24 h over what the requester is due.
        var share: Double
        var kind: JobQueue.Kind
    }

    /// The classes in the order of their turns.
    var turns: [Turn] = []
    /// Expected seconds until the work that can wait is done, by the CPU target that it needs.
    var horizon: [String: Double] = [:]
    /// Workers that run a CPU target.
    var able: [String: [Able]] = [:]

    /// A worker with the seconds until its hands are free.
    struct Able {
        var worker: WorkerRecord
        var rest: Double
        var speed: Double
    }
}

/// Who gets what next.
///
/// Among the classes of jobs that a worker can do, the order is: what others wait for; the more urgent, where hours of waiting make
/// urgent; the requester who has used the least of what is due, give or take a little for a job whose layers the worker has; and then,
/// for what somebody waits for, the older, and for what runs overnight the class of work that will be done last, and of that the
/// longest (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969, for why). A slow worker leaves alone what another would
/// finish sooner.
extension FarmState {
    /// Gives work to workers that have a free slot, the fastest first; those that got some.
    ///
    /// - Parameter most: after so many a pass ends, so that none takes long; the next one goes on.
    package mutating func dispatch(now: Timestamp, most: Int = 64) -> [WorkerName] {
        guard table.queue.count > 0 else { return [] }
        let free = workers.values.filter { freeHands(of: $0.name) > 0 && absence(of: $0, now: now) == nil && strain(of: $0) == nil }
        guard !free.isEmpty else { return [] }
        var pass = newPass(now: now)
        var served: [WorkerName] = []
        for worker in free.sorted(by: { (-presentSpeed(of: $0), $0.name) < (-presentSpeed(of: $1), $1.name) }) {
            if assign(to: worker.name, &pass, now: now) { served.append(worker.name) }
            if served.count == most { break }
        }
        return served
    }

    /// How fast a worker is likely to be, with what strains it now.
    private func presentSpeed(of worker: WorkerRecord) -> Double { (worker.speed ?? 1) * (1 - (worker.pressure?.strain ?? 0) / 200) }

    /// Gives a worker work for its free slots.
    mutating func assign(to name: WorkerName, now: Timestamp) {
        guard freeHands(of: name) > 0, table.queue.count > 0, let worker = workers[name], strain(of: worker) == nil else { return }
        var pass = newPass(now: now)
        _ = assign(to: name, &pass, now: now)
    }

    /// Slots that a worker has left, as it said last, without those for what it has been given since.
    private func freeHands(of name: WorkerName) -> Int {
        let slots = slots(of: name)
        return slots <= 0 ? 0 : slots - openAttempts(on: name).filter { $0.state == .assigned }.count
    }

    private mutating func assign(to name: WorkerName, _ pass: inout DispatchPass, now: Timestamp) -> Bool {
        var free = freeHands(of: name)
        var gave = false
        while free > 0, let worker = workers[name], let entry = next(for: worker, pass, now: now), var job = jobs[entry.id] {
            let warmth = warmth(of: job, on: name)
            job.attempts += 1
            job.failure = nil
            job.notBefore = nil
            put(job)
            var attempt = AttemptRecord(
                id: AttemptID(job: job.id, number: job.attempts), worker: name, state: .assigned, startedAt: now)
            attempt.expectedSeconds = entry.length / (worker.speed ?? 1)
            attempt.choice = warmth
            put(attempt)
            began(attempt, job)
            reorder(&pass, after: job.requestedBy, now: now)
            free -= 1
            gave = true
        }
        return gave
    }

    /// How many jobs of the queue come before one on a worker, and a word on what makes them; `nil` for a job that does not wait.
    package func turn(of job: JobRecord, on worker: WorkerRecord, now: Timestamp) -> String? {
        guard let facts = worker.facts, let own = table.queue.kind(of: job.id) else { return nil }
        var before = 0
        for turn in turns(now: now) {
            guard mayServe(turn.kind, worker, facts) else { continue }
            let members = table.queue.classes[turn.kind]
            if turn.kind == own {
                let list = own.isPatient ? members?.byLength : members?.byAge
                before += list?.firstIndex { $0.id == job.id } ?? 0
                break
            }
            before += members?.byAge.count ?? 0
        }
        let warm = warmth(of: job, on: worker.name) ?? ""
        let time = "expected \(Int((job.expectedSeconds ?? JobQueue.unknownLength) / (worker.speed ?? 1))) s"
        let place = before == 0 ? "next in turn" : "at most \(before) jobs come before it"
        return [place, heldBack(job, own, worker, now: now), time, warm].filter { !$0.isEmpty }.joined(separator: "; ")
    }

    /// Why a job that a worker may have is left to another one; empty when it is not.
    private func heldBack(_ job: JobRecord, _ kind: JobQueue.Kind, _ worker: WorkerRecord, now: Timestamp) -> String {
        guard let entry = table.queue.entry(of: job.id) else { return "" }
        if kind.isPatient, finishesSoonerElsewhere(entry, worker, kind, newPass(now: now)) {
            return "another worker would finish it sooner"
        }
        let isWarm = ledger.isWarm(worker.name, entry.affinity)
        return !isWarm && warmthElsewhere(entry, kind, worker, now: now) ?? false ? "it waits for a worker that has its layers" : ""
    }

    // MARK: the order

    /// A job that a worker could take, with what speaks for it.
    private struct Candidate {
        var kind: JobQueue.Kind
        var entry: JobQueue.Entry
        var fit: Fit
        var share: Double
    }

    /// How well a job suits a worker's disk.
    private enum Fit: Int {
        /// The worker has its layers.
        case warm
        /// No worker that could have it has them.
        case cold
        /// Another one has them.
        case warmElsewhere
    }

    private func next(for worker: WorkerRecord, _ pass: DispatchPass, now: Timestamp) -> JobQueue.Entry? {
        guard absence(of: worker, now: now) == nil, let facts = worker.facts else { return nil }
        var best: Candidate?
        var group = (awaited: -1, rank: -1, limit: 0.0)
        for item in pass.turns {
            guard mayServe(item.kind, worker, facts) else { continue }
            if (item.awaited, item.rank) != (group.awaited, group.rank) {
                if let best { return best.entry }
                // Who is behind by little gives way to a job whose layers are here.
                group = (item.awaited, item.rank, item.share * 1.05 + 1200)
            }
            if let best, item.share > group.limit { return best.entry }
            guard let members = table.queue.classes[item.kind],
                let (entry, fit) = pick(item.kind, members, worker, facts, pass, now: now)
            else { continue }
            let candidate = Candidate(kind: item.kind, entry: entry, fit: fit, share: item.share)
            if best.map({ goesBefore(candidate, $0, pass) }) ?? true { best = candidate }
        }
        return best?.entry
    }

    /// Lower is more urgent.
    private func rank(_ priority: JobPriority, waited: Double) -> Int {
        max(0, priority.rank - Int(max(0, waited) / (rules.scheduling.agingHours * 3600)))
    }

    private func share(of requester: String, now: Timestamp) -> Double {
        ledger.usage(requester, now: now) / max(0.001, rules.scheduling.shares[requester] ?? 1)
    }

    private func turns(now: Timestamp) -> [DispatchPass.Turn] {
        var shares: [String: Double] = [:]
        var turns: [DispatchPass.Turn] = []
        for (kind, members) in table.queue.classes {
            guard let oldest = members.byAge.first else { continue }
            let share = shares[kind.requester] ?? share(of: kind.requester, now: now)
            shares[kind.requester] = share
            let rank = rank(kind.priority, waited: now.seconds(since: oldest.queuedAt))
            turns.append(.init(awaited: kind.isAwaited ? 0 : 1, rank: rank, share: share, kind: kind))
        }
        return turns.sorted { ($0.awaited, $0.rank, $0.share) < ($1.awaited, $1.rank, $1.share) }
    }

    /// A requester has got something: its turn comes later now.
    private func reorder(_ pass: inout DispatchPass, after requester: String, now: Timestamp) {
        let share = share(of: requester, now: now)
        for index in pass.turns.indices where pass.turns[index].kind.requester == requester { pass.turns[index].share = share }
        pass.turns.sort { ($0.awaited, $0.rank, $0.share) < ($1.awaited, $1.rank, $1.share) }
    }

    private func goesBefore(_ one: Candidate, _ other: Candidate, _ pass: DispatchPass) -> Bool {
        guard one.kind.isPatient, other.kind.isPatient, one.kind.requester == other.kind.requester else {
            return (one.fit.rawValue, one.share, one.entry.number) < (other.fit.rawValue, other.share, other.entry.number)
        }
        let (urgency, otherUrgency) = (pass.horizon[one.kind.target] ?? 0, pass.horizon[other.kind.target] ?? 0)
        if urgency != otherUrgency { return urgency > otherUrgency }
        return (-one.entry.length, one.entry.number) < (-other.entry.length, other.entry.number)
    }

    // MARK: one class

    /// How far down a list a job is looked for that suits better than the first.
    private static let window = 48

    /// Whether any job of a class could go to a worker.
    private func mayServe(_ kind: JobQueue.Kind, _ worker: WorkerRecord, _ facts: HostFacts) -> Bool {
        isOfPool(worker, isCandidate: kind.isCandidate)
            && (kind.labels.isEmpty || kind.labels.obstacle(facts.labels ?? []) == nil)
            && (isPlain(kind, facts) || kind.isVerification || kind.allowsEmulation)
    }

    /// What a worker has of a build already, in words; `nil` when it has nothing.
    private func warmth(of job: JobRecord, on name: WorkerName) -> String? {
        if let layers = job.layers {
            let have = ledger.warmLayers(name, layers)
            // The base alone is what many have.
            return have > 1 ? "it has \(have - 1) of its \(layers.count - 1) steps" : nil
        }
        return ledger.isWarm(name, job.affinity) ? "it has built \(job.recipe) for \(job.target) before" : nil
    }

    /// Whether all jobs of a class run on a worker's own CPU, and no other worker is to be preferred.
    private func isPlain(_ kind: JobQueue.Kind, _ facts: HostFacts) -> Bool {
        !kind.isVerification && (kind.target.isEmpty || Microarchitecture.runs(facts.target, kind.target))
    }

    /// The first job of a class that a worker may have, or one not far behind whose layers it has.
    private func pick(
        _ kind: JobQueue.Kind, _ members: JobQueue.Class, _ worker: WorkerRecord, _ facts: HostFacts, _ pass: DispatchPass, now: Timestamp
    ) -> (JobQueue.Entry, Fit)? {
        let isPlain = isPlain(kind, facts)
        var best: (entry: JobQueue.Entry, fit: Fit)?
        var seen = 0
        for entry in kind.isPatient ? members.byLength : members.byAge {
            if let best {
                seen += 1
                if seen > FarmState.window || kind.isPatient && entry.length < best.entry.length / 2 { break }
            }
            let isWarm = ledger.isWarm(worker.name, entry.affinity)
            if best != nil, !isWarm, best?.fit == .cold { continue }
            guard fits(entry, kind, worker, facts, isPlain: isPlain, now: now) else { continue }
            if kind.isPatient, finishesSoonerElsewhere(entry, worker, kind, pass) { continue }
            if isWarm { return (entry, .warm) }
            switch warmthElsewhere(entry, kind, worker, now: now) {
            case .none: if best?.fit != .cold { best = (entry, .cold) }
            case .some(let mayWait): if best == nil, !mayWait { best = (entry, .warmElsewhere) }
            }
        }
        return best
    }

    private func fits(
        _ entry: JobQueue.Entry, _ kind: JobQueue.Kind, _ worker: WorkerRecord, _ facts: HostFacts, isPlain: Bool, now: Timestamp
    ) -> Bool {
        if entry.memoryBytes > facts.memoryBytes { return false }
        let free = freeBytes(of: worker)
        if entry.diskBytes > free, jobs[entry.id].map({ diskNeed(of: $0, on: worker.name) > free }) ?? true {
            return false
        }
        if let notBefore = entry.notBefore, notBefore > now { return false }
        if capObstacle(requester: kind.requester, recipe: entry.recipe, isAwaited: kind.isAwaited) != nil { return false }
        if isPlain, entry.avoided.isEmpty { return true }
        guard let job = jobs[entry.id] else { return false }
        return lastingObstacle(job, worker, now: now) == nil && !avoids(entry.avoided, worker.name, job, now: now)
    }

    /// Whether a patient job would still run here when all the rest is done, and be done earlier on another worker that may have it
    /// and takes it up when its hands are free.
    private func finishesSoonerElsewhere(
        _ entry: JobQueue.Entry, _ worker: WorkerRecord, _ kind: JobQueue.Kind, _ pass: DispatchPass
    ) -> Bool {
        let here = entry.length / (worker.speed ?? 1)
        guard here > pass.horizon[kind.target] ?? 0 else { return false }
        return (pass.able[kind.target] ?? []).contains { other in
            guard other.worker.name != worker.name, other.rest + entry.length / other.speed < here, let facts = other.worker.facts else {
                return false
            }
            // One that would not take it must not keep it from those who would.
            return mayServe(kind, other.worker, facts) && !entry.avoided.contains(other.worker.name)
                && entry.diskBytes <= facts.diskFreeBytes
                && entry.memoryBytes <= facts.memoryBytes
        }
    }

    /// Whether another worker has a job's layers and could have it: `nil` when none does, else whether the job may wait for that one,
    /// which will be free soon.
    private func warmthElsewhere(_ entry: JobQueue.Entry, _ kind: JobQueue.Kind, _ worker: WorkerRecord, now: Timestamp) -> Bool? {
        let holders = ledger.holders(of: entry.affinity).filter { name in
            guard name != worker.name, let other = workers[name], let facts = other.facts, absence(of: other, now: now) == nil else {
                return false
            }
            return mayServe(kind, other, facts) && isPlain(kind, facts) && entry.diskBytes <= facts.diskFreeBytes
                && !entry.avoided.contains(name)
        }
        guard !holders.isEmpty else { return nil }
        let limit = min(rules.scheduling.warmSeconds, entry.length * rules.scheduling.warmShare)
        let left = limit - now.seconds(since: entry.queuedAt)
        guard left > 0 else { return false }
        return holders.contains { name in
            if freeHands(of: name) > 0 { return true }
            return openAttempts(on: name).contains { ($0.expectedSeconds ?? 0) - now.seconds(since: $0.startedAt) < left }
        }
    }

    // MARK: the rest of the night

    private func newPass(now: Timestamp) -> DispatchPass {
        var pass = DispatchPass()
        pass.turns = turns(now: now)
        var work: [String: Double] = [:]
        for (kind, members) in table.queue.classes where kind.isPatient { work[kind.target, default: 0] += members.work }
        guard !work.isEmpty else { return pass }
        var capacity: [String: Double] = [:]
        var running: [String: Double] = [:]
        for worker in workers.values where worker.trusted && absence(of: worker, now: now) == nil {
            guard let host = worker.facts?.target else { continue }
            let speed = worker.speed ?? 1
            let attempts = openAttempts(on: worker.name)
            // One that offers nothing and does nothing takes nothing up.
            if attempts.isEmpty, slots(of: worker.name) <= 0 { continue }
            let slots = Double(max(1, slots(of: worker.name) + attempts.filter { $0.state == .running }.count))
            let rest = attempts.reduce(0) { $0 + max(0, ($1.expectedSeconds ?? 0) - now.seconds(since: $1.startedAt)) }
            for target in work.keys where target.isEmpty || Microarchitecture.runs(host, target) {
                capacity[target, default: 0] += speed * slots
                running[target, default: 0] += rest * speed
                pass.able[target, default: []].append(
                    .init(worker: worker, rest: slots > Double(attempts.count) && strain(of: worker) == nil ? 0 : rest, speed: speed))
            }
        }
        var alone: [String: Double] = [:]
        for target in work.keys {
            // Whatever needs this target or a higher one can run nowhere else.
            let all = work.reduce(0) { $1.key == target || Microarchitecture.runs($1.key, target) ? $0 + $1.value : $0 }
            alone[target] = (all + (running[target] ?? 0)) / max(0.001, capacity[target] ?? 0)
        }
        for target in work.keys {
            pass.horizon[target] = alone.reduce(0) { $1.key == target || Microarchitecture.runs(target, $1.key) ? max($0, $1.value) : $0 }
        }
        return pass
    }
}

extension JobQueue.Kind {
    /// Nobody sits and waits: such work is ordered for an early end of all of it.
    var isPatient: Bool { !isAwaited && !isCandidate && (priority == .nightly || priority == .background) }
}
