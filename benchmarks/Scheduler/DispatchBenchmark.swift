import CoordinatorCore
import FarmMessages
import FarmModel
import Foundation
import Microarchitecture

/// How long a pass over 10,000 queued jobs and 200 workers takes, with its commit to a real journal, after a history of many jobs.
struct DispatchBenchmark {
    let directory: String

    func run() throws {
        var chance = Chance(seed: 1)
        let journal = try SQLiteJournal(path: "\(directory)/journal.sqlite")
        let kinds = ["x86_64_v2", "x86_64_v3", "zen2", "zen3", "zen4", "icelake", "cascadelake", "neoverse_n1"]
        var state = FarmState(try journal.load(recent: 1000), rules: FarmState.Rules(silenceSeconds: 1e9), now: .now)
        func commit() throws {
            let changes = state.drainChanges().changes
            if !changes.isEmpty { try journal.commit(changes) }
            state.accept()
        }
        let names = (0..<200).map { WorkerName("w\($0)") }
        for name in names {
            try state.enrol(name, trusted: true, keyDigest: Digest(hashing: name.rawValue), now: .now)
            try state.hello(name, facts: VirtualFarm.facts(chance.pick(kinds)), now: .now)
        }
        try commit()
        func submit() {
            let recipe = "recipe-\(chance.next() % 400)"
            let target = chance.pick([("x86_64", 50.0), ("x86_64_v2", 10), ("x86_64_v3", 20), ("zen3", 5), ("icelake", 5), ("aarch64", 10)])
            var job = state.newJob(
                kind: .build, title: "\(recipe) 1.0 for \(target)", recipe: recipe, version: "1.0", target: target,
                requestedBy: "user-\(chance.next() % 20)", now: .now)
            job.priority = chance.pick([.interactive, .release, .nightly, .nightly, .background])
            state.enqueue(
                job, key: Digest(hashing: "key \(job.number)"), needs: JobNeeds(diskBytes: Int64(1 + chance.next() % 40) << 30), now: .now)
        }
        for index in 0..<10_000 {
            submit()
            if index % 1000 == 999 { try commit() }
        }
        let idle = WorkerReport(sequence: 1, attempts: [], diskFreeBytes: 1 << 42, refusal: "", freeSlots: 1, renewalRequest: [])
        // All 200 have their hands free at once: the longest pass that there can be.
        for name in names { try state.setDrained(name, true) }
        for name in names { _ = try state.report(name, idle, now: .now) }
        for name in names { try state.setDrained(name, false) }
        try commit()
        var whole = 0.0
        var isOver = false
        while !isOver {
            whole = max(
                whole,
                try timed {
                    isOver = state.dispatch(now: .now).isEmpty
                    try commit()
                })
        }
        var held: [WorkerName: AttemptID] = [:]
        for name in names { held[name] = state.openAttempts(on: name).first?.id }
        var passes: [Double] = []
        for round in 0..<2000 {
            submit()
            try commit()
            let name = names[round % names.count]
            guard let attempt = held[name] else { continue }
            let failed = AttemptOutcome.failed(Failure(.recipe, code: "build.step-failed", message: "step 3/9 ended with status 1"))
            let outcome = AttemptReport(id: attempt, phase: .build, progressPermille: 0, note: "", outcome: failed)
            let report = WorkerReport(
                sequence: 1, attempts: [outcome], diskFreeBytes: 1 << 42, refusal: "", freeSlots: 1, renewalRequest: [])
            passes.append(
                try timed {
                    let desired = try state.report(name, report, now: .now)
                    try commit()
                    held[name] = desired.assignments.first?.attempt
                })
        }
        passes.sort()
        figure(
            "dispatch_p99_ms", passes[passes.count * 99 / 100] * 1000, "ms",
            [
                "p50_ms": passes[passes.count / 2] * 1000, "bulk_ms": whole * 1000, "passes": Double(passes.count),
            ])
    }

    private func timed(_ body: () throws -> Void) rethrows -> Double {
        let start = ContinuousClock.now
        try body()
        return (ContinuousClock.now - start) / .seconds(1)
    }

    /// Writes jobs that ended long ago, with their attempts; in a process of its own, for a coordinator has not just done that.
    func fill(_ history: Int) throws {
        let journal = try SQLiteJournal(path: "\(directory)/journal.sqlite")
        defer { sync() }
        for start in stride(from: 1, through: history, by: 5000) {
            var changes: [JournalChange] = []
            for number in start..<min(start + 5000, history + 1) {
                var job = JobRecord(
                    id: JobID(number: number), number: number, kind: .build, state: .succeeded, title: "old",
                    recipe: "recipe-\(number % 400)",
                    version: "1.0", target: "x86_64", requestedBy: "user-\(number % 20)", createdAt: Timestamp(seconds: Int64(number)))
                job.key = Digest(hashing: "old \(number)")
                job.finishedAt = Timestamp(seconds: Int64(number) + 600)
                var attempt = AttemptRecord(
                    id: AttemptID(job: job.id, number: 1), worker: WorkerName("w\(number % 200)"), state: .succeeded,
                    startedAt: job.createdAt)
                attempt.finishedAt = job.finishedAt
                changes += [.job(job), .attempt(attempt)]
            }
            try journal.commit(changes)
        }
    }
}
