package import FarmModel
import Microarchitecture

/// Which worker gets which job.
extension FarmState {
    mutating func assign(to name: WorkerName, slots: Int, now: Timestamp) {
        var free = slots - openAttempts(on: name).filter { $0.state == .assigned }.count
        while free > 0, let job = nextJob(for: name, now: now) {
            var job = job
            job.attempts += 1
            job.failure = nil
            job.notBefore = nil
            put(job)
            put(AttemptRecord(id: AttemptID(job: job.id, number: job.attempts), worker: name, state: .assigned, startedAt: now))
            free -= 1
        }
    }

    private func nextJob(for name: WorkerName, now: Timestamp) -> JobRecord? {
        // Resolving and verifying first: others wait for it.
        jobs.values.filter { $0.state == .queued && $0.joined == nil && openAttempts(of: $0.id).isEmpty }
            .sorted { ($0.kind == .build ? 1 : 0, $0.number) < ($1.kind == .build ? 1 : 0, $1.number) }
            .first { job in
                guard let worker = workers[name] else { return false }
                return obstacle(job, worker, now: now) == nil
            }
    }

    /// Why a worker does not get a job, in words; `nil` when it may have it.
    package func obstacle(_ job: JobRecord, _ worker: WorkerRecord, now: Timestamp) -> String? {
        if let why = lastingObstacle(job, worker, now: now) { return why }
        if slots(of: worker.name) <= 0 { return "busy" }
        if let notBefore = job.notBefore, notBefore > now {
            return "the job waits \(Int(notBefore.seconds(since: now)) + 1) s after a failure"
        }
        return nil
    }

    /// Why a worker would not get a job even with its hands free.
    private func lastingObstacle(_ job: JobRecord, _ worker: WorkerRecord, now: Timestamp) -> String? {
        if worker.revoked { return "revoked" }
        guard isConnected(worker.name, now: now) else { return "not connected" }
        if worker.drained { return "drained by an operator" }
        if !worker.trusted { return "not trusted with releases" }
        if !worker.refusal.isEmpty { return worker.refusal }
        guard let facts = worker.facts, let host = Microarchitecture.named(facts.target) else { return "its CPU is unknown" }
        // A download is the same bytes for whatever CPU they are meant.
        if job.resolve?.kind ?? .base == .base, let target = Microarchitecture.named(job.target) {
            let why = host.dominates(target) ? farther(job, host, from: target, now: now) : emulation(job, facts, target, now: now)
            if let why { return why }
        }
        if facts.diskFreeBytes < job.diskBytes {
            return "has \(facts.diskFreeBytes >> 30) GiB free, the job wants \(job.diskBytes >> 30) GiB"
        }
        if let memory = job.memoryBytes, facts.memoryBytes < memory {
            return "has \(facts.memoryBytes >> 30) GiB of memory, the job wants \(memory >> 30) GiB"
        }
        return nil
    }

    /// Tests that shall show what runs on a CPU run on the nearest one, not on a far better one.
    private func farther(_ job: JobRecord, _ host: Microarchitecture, from target: Microarchitecture, now: Timestamp) -> String? {
        guard job.kind == .verify, let near = nearer(than: host, to: target, for: job, now: now) else { return nil }
        return "\(near.name) is nearer to \(target) than its CPU (\(host))"
    }

    /// A worker that could have the job and whose CPU lies between a host's and what is asked for.
    func nearer(than host: Microarchitecture, to target: Microarchitecture, for job: JobRecord, now: Timestamp) -> WorkerRecord? {
        workers.values.sorted { $0.name < $1.name }.first { other in
            guard let between = other.facts.flatMap({ Microarchitecture.named($0.target) }) else { return false }
            return between < host && between >= target && lastingObstacle(job, other, now: now) == nil
        }
    }

    /// Why a worker without the CPU does not get a job: it does not emulate it, it may not, or another has it.
    private func emulation(_ job: JobRecord, _ facts: HostFacts, _ target: Microarchitecture, now: Timestamp) -> String? {
        guard let platform = facts.hardware?.emulated?.first(where: { $0.architecture == target.family }) else {
            return "its CPU (\(facts.target)) cannot run \(target)"
        }
        guard platform.architecture == target.name else {
            return "its CPU (\(facts.target)) cannot run \(target); it emulates plain \(platform.architecture) only"
        }
        guard job.allowsEmulation ?? false else {
            let cost = (platform.cost * 10).rounded() / 10
            return
                "its CPU (\(facts.target)) cannot run \(target), only emulate it, \(cost) times slower, which was not allowed (--emulated)"
        }
        let able = workers.values.sorted { $0.name < $1.name }.filter { other in
            other.trusted && !other.revoked && other.facts.flatMap { Microarchitecture.named($0.target) }?.dominates(target) ?? false
        }
        if let native = able.first(where: { lastingObstacle(job, $0, now: now) == nil }) {
            return "it would emulate \(target), and \(native.name) has such a CPU"
        }
        // After a start of the coordinator nobody has been heard yet.
        if now.seconds(since: openedAt) < rules.silenceSeconds, let native = able.first(where: { !$0.drained && lastHeard($0.name) == nil })
        {
            return "it would emulate \(target), and \(native.name), which has such a CPU, may be back any moment"
        }
        return nil
    }
}
