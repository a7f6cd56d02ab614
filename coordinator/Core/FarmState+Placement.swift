package import FarmModel
import Microarchitecture

/// Why a worker gets a job or does not.
extension FarmState {
    /// Why a worker does not get a job, in words; `nil` when it may have it as soon as it is the job's turn.
    package func obstacle(_ job: JobRecord, _ worker: WorkerRecord, now: Timestamp) -> String? {
        if let why = lastingObstacle(job, worker, now: now) { return why }
        if slots(of: worker.name) <= 0 { return "busy" }
        if let strain = strain(of: worker) { return strain }
        if let notBefore = job.notBefore, notBefore > now {
            return "the job waits \(Int(notBefore.seconds(since: now)) + 1) s after a failure"
        }
        if avoids(job.avoided ?? [], worker.name, job, now: now) { return "the job failed there, and another worker may have it" }
        return capObstacle(requester: job.requestedBy, recipe: job.recipe, isAwaited: job.kind != .build)
    }

    /// Why a worker would not get a job even with its hands free.
    func lastingObstacle(_ job: JobRecord, _ worker: WorkerRecord, now: Timestamp) -> String? {
        if let why = inability(job, worker, now: now) { return why }
        guard job.kind == .verify, let host = worker.facts.flatMap({ Microarchitecture.named($0.target) }),
            let target = Microarchitecture.named(job.target), host.dominates(target)
        else { return nil }
        // Tests that shall show what runs on a CPU run on the nearest one, not on a far better one.
        return nearer(than: host, to: target, for: job, now: now).map { "\($0.name) is nearer to \(target) than its CPU (\(host))" }
    }

    /// Why a worker could not do a job, whoever else could.
    private func inability(_ job: JobRecord, _ worker: WorkerRecord, now: Timestamp) -> String? {
        if let why = absence(of: worker, now: now) ?? poolObstacle(worker, isCandidate: job.isCandidate ?? false) { return why }
        guard let facts = worker.facts, let host = Microarchitecture.named(facts.target) else { return "its CPU is unknown" }
        if job.needsCPU, let target = Microarchitecture.named(job.target), !host.dominates(target),
            let why = emulation(job, facts, target, now: now)
        {
            return why
        }
        if let why = job.labels?.obstacle(facts.labels ?? []) { return why }
        let (free, need) = (freeBytes(of: worker), diskNeed(of: job, on: worker.name))
        if facts.diskFreeBytes >= need, free < need {
            return
                "what runs there may need all but \(FarmState.gib(max(0, free))) GiB of its disk, the job wants \(FarmState.gib(need)) GiB"
        }
        if free < need {
            let source = ledger.diskBytes(recipe: job.recipe, target: job.target) == job.diskBytes ? ", as earlier builds took up" : ""
            return "has \(FarmState.gib(facts.diskFreeBytes)) GiB free, the job wants \(FarmState.gib(job.diskBytes)) GiB\(source)"
        }
        if let memory = job.memoryBytes, facts.memoryBytes < memory {
            return "has \(facts.memoryBytes >> 30) GiB of memory, the job wants \(memory >> 30) GiB"
        }
        return nil
    }

    /// Free bytes that are promised to nobody. Of what running jobs were given for, half is taken to be written already, and missing from
    /// what the worker says is free.
    func freeBytes(of worker: WorkerRecord) -> Int64 {
        let open = openAttempts(on: worker.name)
        let free = worker.facts?.diskFreeBytes ?? 0
        return open.isEmpty ? free : free - open.reduce(0) { sum, attempt in sum + (jobs[attempt.id.job]?.diskBytes ?? 0) / 2 }
    }

    /// A worker that has the layers already needs room for the image only.
    func diskNeed(of job: JobRecord, on name: WorkerName) -> Int64 {
        guard let layers = job.layers, ledger.warmLayers(name, layers) > layers.count / 2 else { return job.diskBytes }
        return job.diskBytes / 2
    }

    /// How many of a build's layers a worker is believed to have, its base's among them.
    package func warmSteps(of id: JobID, on name: WorkerName) -> Int { ledger.warmLayers(name, jobs[id]?.layers ?? []) }

    private static func gib(_ bytes: Int64) -> String {
        let tenths = (bytes * 10) >> 30
        return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
    }

    /// Why a worker that has work should get no more for now; `nil` for one that is not strained.
    func strain(of worker: WorkerRecord) -> String? {
        guard let pressure = worker.pressure, pressure.strain >= rules.scheduling.mostStrain, !openAttempts(on: worker.name).isEmpty else {
            return nil
        }
        return "strained: in the last minute work stood still for \(Int(pressure.memory)) % for memory, \(Int(pressure.io)) % for disks, "
            + "\(Int(pressure.cpu)) % for processors"
    }

    /// Why a worker gets no job at all; `nil` for one that is there and in good standing.
    func absence(of worker: WorkerRecord, now: Timestamp) -> String? {
        if worker.revoked { return "revoked" }
        guard isConnected(worker.name, now: now) else { return "not connected" }
        if worker.drained { return "drained by an operator" }
        if let quarantine = worker.quarantine { return "quarantined: \(quarantine)" }
        return worker.refusal.isEmpty ? nil : worker.refusal
    }

    /// Whether a worker is of the pool that a job is for; `poolObstacle` says why not.
    func isOfPool(_ worker: WorkerRecord, isCandidate: Bool) -> Bool {
        if isCandidate, rules.candidateNeeds.obstacle(worker.facts?.labels ?? []) != nil { return false }
        return worker.trusted != isCandidate && worker.facts?.engineID.map { !mixedEngines.contains($0) } ?? !hasUntrusted
    }

    /// Why a worker is not of the pool that a job is for. Layers of one pool must not get into images of the other, so an engine that
    /// both pools use is used by neither.
    func poolObstacle(_ worker: WorkerRecord, isCandidate: Bool) -> String? {
        if isOfPool(worker, isCandidate: isCandidate) { return nil }
        if worker.trusted == isCandidate {
            return isCandidate ? "trusted with releases; candidates are for the untrusted pool" : "not trusted with releases"
        }
        if isCandidate, let why = rules.candidateNeeds.obstacle(worker.facts?.labels ?? []) {
            return why.replacing("which the job needs", with: "which candidates need on this farm")
        }
        guard let engine = worker.facts?.engineID else {
            return "it does not say which container engine it uses, and there are two pools; upgrade it"
        }
        let other = workers.values.sorted { $0.name < $1.name }.first {
            $0.trusted != worker.trusted && ($0.facts?.engineID == engine || $0.engines?.contains(engine) ?? false)
        }
        return
            "its container engine is also that of \(other?.name.rawValue ?? "another worker"), which is \(worker.trusted ? "not " : "")trusted with releases"
    }

    /// A worker on which a job failed gets it again only when no other may have it.
    func avoids(_ avoided: [WorkerName], _ name: WorkerName, _ job: JobRecord, now: Timestamp) -> Bool {
        guard avoided.contains(name) else { return false }
        return workers.values.contains { !avoided.contains($0.name) && lastingObstacle(job, $0, now: now) == nil }
    }

    func capObstacle(requester: String, recipe: String, isAwaited: Bool) -> String? {
        if isAwaited { return nil }
        let rules = rules.scheduling
        let running = ledger.accounts[requester]?.runningCount ?? 0
        if rules.mostPerRequester > 0, running >= rules.mostPerRequester {
            return "\(requester) has \(running) jobs running, \(rules.mostPerRequester) are allowed"
        }
        let builds = ledger.runningRecipes[recipe] ?? 0
        if rules.mostPerRecipe > 0, builds >= rules.mostPerRecipe {
            return "\(builds) builds of \(recipe) are running, \(rules.mostPerRecipe) are allowed"
        }
        return nil
    }

    /// A worker that could do the job and whose CPU lies between a host's and what is asked for. One on which it failed is out of
    /// the question; one that has not been heard since the coordinator's start may be back any moment.
    func nearer(than host: Microarchitecture, to target: Microarchitecture, for job: JobRecord, now: Timestamp) -> WorkerRecord? {
        workers.values.filter { other in
            guard let between = other.facts.flatMap({ Microarchitecture.named($0.target) }) else { return false }
            guard between < host, between >= target, !(job.avoided ?? []).contains(other.name) else { return false }
            let isOfPool = isOfPool(other, isCandidate: job.isCandidate ?? false)
            return inability(job, other, now: now) == nil || isOfPool && mayBeBack(other, now: now)
        }.min { $0.name < $1.name }
    }

    /// After a start of the coordinator nobody has been heard yet.
    private func mayBeBack(_ worker: WorkerRecord, now: Timestamp) -> Bool {
        now.seconds(since: openedAt) < rules.silenceSeconds && lastHeard(worker.name) == nil && !worker.revoked && !worker.drained
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
            isOfPool(other, isCandidate: job.isCandidate ?? false) && !other.revoked
                && other.facts.flatMap { Microarchitecture.named($0.target) }?.dominates(target) ?? false
        }
        if let native = able.first(where: { inability(job, $0, now: now) == nil }) {
            return "it would emulate \(target), and \(native.name) has such a CPU"
        }
        if let native = able.first(where: { mayBeBack($0, now: now) }) {
            return "it would emulate \(target), and \(native.name), which has such a CPU, may be back any moment"
        }
        return nil
    }
}
