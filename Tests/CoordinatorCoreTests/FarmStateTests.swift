import CoordinatorCore
import FarmMessages
import FarmModel
import Foundation
import Microarchitecture
import Support
import Testing

@Suite struct FarmStateTests {
    @Test func aJobGoesFromQueueToPublication() throws {
        var bench = Bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        let desired = try bench.report("w")
        let attempt = try #require(desired.assignments.first?.attempt)
        #expect(desired.assignments.first?.order == .build(plan: Digest(hashing: "a")))
        #expect(try bench.report("w", [bench.running(attempt)], slots: 0).assignments.count == 1)
        #expect(try bench.job(id).state == .running)
        #expect(try bench.report("w", [bench.running(attempt, .built(Bench.result))]).assignments.isEmpty)
        #expect(try bench.job(id).state == .publishing)
        #expect(bench.state.duePublications(now: bench.now).map(\.job) == [id])
        // The same outcome again changes nothing.
        _ = try bench.report("w", [bench.running(attempt, .built(Bench.result))])
        #expect(bench.state.publications.count == 1)
    }

    @Test func theSameKeyIsOneJob() throws {
        var bench = Bench()
        try bench.enrol("w")
        try bench.enrol("v")
        let first = try bench.submit("a")
        let second = try bench.submit("a")
        #expect(try bench.job(second).joined == first)
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        #expect(try bench.report("v").assignments.isEmpty)
        _ = try bench.report("w", [bench.running(attempt, .failed(Failure(.recipe, code: "build.step-failed", message: "x")))])
        #expect(try bench.job(first).state == .failed && bench.job(second).state == .failed)
        #expect(try bench.job(first).attempts == 1, "the recipe's own failure is not tried again")
    }

    @Test func silenceEndsALeaseAndALateWorkerKeepsItsWorkUnlessOvertaken() throws {
        var bench = Bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        bench.now = bench.now.adding(seconds: 61)
        bench.state.expireLeases(now: bench.now)
        try bench.commit()
        #expect(try bench.job(id).state == .queued)
        // Back with the attempt still running: taken back.
        #expect(try bench.report("w", [bench.running(attempt)], slots: 0).assignments.map(\.attempt) == [attempt])
        #expect(try bench.job(id).state == .running)
        // Silent again; this time another worker has begun a newer attempt.
        bench.now = bench.now.adding(seconds: 61)
        bench.state.expireLeases(now: bench.now)
        try bench.commit()
        try bench.enrol("v")
        bench.now = bench.now.adding(seconds: 10)
        let newer = try #require(try bench.report("v").assignments.first?.attempt)
        #expect(newer.number == 2)
        #expect(try bench.report("w", [bench.running(attempt, .built(Bench.result))], slots: 0).assignments.isEmpty)
        #expect(try bench.job(id).state != .publishing, "a late result of a lost lease is refused")
    }

    @Test func aRestartedWorkerLosesItsAttemptAndAnUnconfirmedOneIsSaidAgain() throws {
        var bench = Bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        #expect(try bench.report("w").assignments.map(\.attempt) == [attempt])
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        #expect(try bench.report("w").assignments.isEmpty)
        #expect(try bench.job(id).state == .queued && bench.job(id).setbacks == 1)
        bench.now = bench.now.adding(seconds: 2)
        #expect(try bench.report("w").assignments.map(\.attempt.number) == [2])
    }

    @Test func sayingHelloDoesNotRenewALease() throws {
        var bench = Bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        _ = try bench.report("w", [bench.running(attempt)])
        let facts = try #require(bench.state.workers[WorkerName("w")]?.facts)
        for _ in 0..<4 {
            bench.now = bench.now.adding(seconds: 20)
            try bench.state.hello(WorkerName("w"), facts: facts, now: bench.now)
            bench.state.expireLeases(now: bench.now)
        }
        #expect(bench.state.attempts[attempt]?.state == .lost)
        #expect(try bench.job(id).state == .queued)
    }

    @Test func infrastructureFailuresAreTriedAgainButNotForever() throws {
        var bench = Bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        for _ in 0..<4 {
            bench.now = bench.now.adding(seconds: 30)
            let attempt = try #require(try bench.report("w").assignments.first?.attempt)
            _ = try bench.report(
                "w", [bench.running(attempt, .failed(Failure(.infrastructure, code: "disk.full", message: "full")))], slots: 0)
        }
        #expect(try bench.job(id).state == .failed && bench.job(id).failure?.code == "disk.full")
    }

    @Test func everyRefusalHasAReason() throws {
        var bench = Bench()
        try bench.enrol("w")
        try bench.enrol("stranger", trusted: false)
        _ = try bench.report("w", slots: 1)
        _ = try bench.report("stranger", slots: 1)
        func why(_ worker: String, _ id: JobID) throws -> String? {
            bench.state.obstacle(try bench.job(id), try #require(bench.state.workers[WorkerName(worker)]), now: bench.now)
        }
        let wide = try bench.submit("wide", target: "x86_64_v4")
        #expect(try why("w", wide) == "its CPU (x86_64_v3) cannot run x86_64_v4")
        let big = try bench.submit("big", disk: 100 << 30)
        #expect(try why("w", big) == "has 50 GiB free, the job wants 100 GiB")
        #expect(try why("stranger", big) == "not trusted with releases")
        _ = try bench.report("w", refusal: "its disk has 1 MiB free")
        #expect(try why("w", big) == "its disk has 1 MiB free")
        try bench.state.setDrained(WorkerName("w"), true)
        #expect(try why("w", big) == "drained by an operator")
        #expect(try bench.report("w").assignments.isEmpty)
    }

    /// 1000 requests for any target at workers of four kinds, against an oracle that walks up the targets' parents itself.
    @Test func placementKeepsToTheOrderOfTargets() throws {
        let hosts = ["x86_64_v2", "zen3", "icelake", "neoverse_n1"]
        func runs(_ host: String, _ target: String) -> Bool {
            var reached: Set<String> = []
            var open = [host]
            while let name = open.popLast() { if reached.insert(name).inserted { open += Microarchitecture.named(name)?.parents ?? [] } }
            return reached.contains(target)
        }
        var generator = SeededGenerator(2026)
        var bench = Bench()
        for host in hosts { try bench.enrol(host, target: Microarchitecture.named(host)) }
        let targets = Microarchitecture.names
        var (placed, waited) = (0, 0)
        for number in 0..<1000 {
            let target = targets[Int(generator.next() % UInt64(targets.count))]
            let id = try bench.submit("job \(number)", target: target)
            let host = hosts[Int(generator.next() % UInt64(hosts.count))]
            // Every worker says hello and asks; whoever gets the job must be one that runs its code.
            for name in [host] + hosts {
                for assignment in try bench.report(name).assignments where assignment.attempt.job == id {
                    #expect(runs(name, target), "\(target) was given to \(name)")
                    _ = try bench.report(name, [bench.running(assignment.attempt, .built(Bench.result))])
                    placed += 1
                }
            }
            let job = try bench.job(id)
            guard job.state == .queued else { continue }
            waited += 1
            for name in hosts {
                let worker = try #require(bench.state.workers[WorkerName(name)])
                #expect(
                    !runs(name, target) && bench.state.obstacle(job, worker, now: bench.now) == "its CPU (\(name)) cannot run \(target)")
            }
            try bench.state.cancel(id, by: "me", now: bench.now)
        }
        #expect(placed > 200 && waited > 200 && placed + waited == 1000, "\(placed) placed, \(waited) waited")
    }

    @Test func anAttemptThatWasNeverGivenChangesNothing() throws {
        var bench = Bench()
        try bench.enrol("w")
        try bench.enrol("v")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        let report = WorkerReport(
            sequence: 1, attempts: [bench.running(attempt, .built(Bench.result))], diskFreeBytes: 1, refusal: "", freeSlots: 1,
            renewalRequest: [])
        #expect(try bench.state.report(WorkerName("v"), report, now: bench.now).assignments.isEmpty)
        #expect(bench.state.drainChanges().remarks.map(\.message) == ["attempt not held"])
        #expect(try bench.job(id).state == .queued && bench.state.publications.isEmpty)
    }

    @Test func cancelAndRevokeTakeEffectAtOnce() throws {
        var bench = Bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        try bench.state.cancel(id, by: "me", now: bench.now)
        #expect(bench.state.desired(WorkerName("w"), sequence: 0).assignments.isEmpty)
        #expect(throws: FarmError.self) { try bench.state.cancel(id, by: "me", now: bench.now) }
        let other = try bench.submit("b")
        _ = try bench.report("w")
        try bench.state.revoke(WorkerName("w"), now: bench.now)
        try bench.commit()
        #expect(try bench.job(other).state == .queued)
        #expect(throws: FarmError.self) { try bench.report("w") }
    }

    @Test func cancellingOnesOwnWishLeavesThatOfOthers() throws {
        var bench = Bench()
        try bench.enrol("w")
        let ids = try (0..<3).map { _ in try bench.submit("a") }
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        try bench.state.cancel(ids[0], by: "me", now: bench.now)
        try bench.commit()
        #expect(try bench.job(ids[0]).state == .cancelled)
        #expect(try bench.job(ids[1]).joined == nil && bench.job(ids[1]).state == .queued && bench.job(ids[2]).joined == ids[1])
        #expect(try bench.report("w").assignments.map(\.attempt.job) == [ids[1]])
    }

    static let lives = ProcessInfo.processInfo.environment["SCIFERRY_LIVES"].flatMap { Int($0) } ?? 60

    /// Random lives of a farm: whatever happens, in whatever order, the invariants hold and the journal, read again after
    /// every step, gives the same farm.
    @Test(arguments: 0..<FarmStateTests.lives) func randomLivesKeepTheInvariants(_ seed: Int) throws {
        var generator = SeededGenerator(UInt64(seed))
        func pick(_ count: Int) -> Int { Int(generator.next() % UInt64(count)) }
        var bench = Bench(rules: FarmState.Rules(silenceSeconds: 20, mostSetbacks: 3, retrySeconds: 1))
        let names = ["a", "b", "c"]
        for (name, target) in zip(names, ["x86_64_v3", "zen2", "x86_64_v2"]) {
            try bench.enrol(name, target: Microarchitecture.named(target), emulates: ["aarch64"])
        }
        var held: [String: [AttemptID]] = [:]
        for _ in 0..<300 {
            bench.now = bench.now.adding(seconds: Double(pick(4)))
            let name = names[pick(3)]
            switch pick(10) {
            case 0:
                let target = ["x86_64", "x86_64_v3", "aarch64"][pick(3)]
                _ = try bench.submit(
                    "key \(pick(6))", target: target, emulated: pick(2) == 0,
                    verifyOn: target == "aarch64" ? [] : [[], ["x86_64_v3"], ["x86_64_v3", "zen2"]][pick(3)])
            case 1: held[name] = []
            case 2: bench.state.expireLeases(now: bench.now)
            case 3:
                if let job = bench.state.jobs.values.filter({ !$0.state.isFinal }).min(by: { $0.number < $1.number }),
                    job.state != .publishing
                {
                    try bench.state.cancel(job.id, by: "x", now: bench.now)
                }
            case 4:
                // The coordinator is killed and starts from its journal.
                try bench.commit()
                bench.crash()
            case 5:
                if let record = bench.state.publications.values.first(where: { $0.step == .packs }) { try bench.stored(record.job) }
                if let record = bench.state.publications.values.first(where: { $0.step == .release }) {
                    _ = try bench.released(record.job, emulator: try bench.job(record.job).target == "aarch64" ? "qemu" : nil)
                }
            default:
                var mine = held[name] ?? []
                var reports = mine.map { bench.running($0) }
                if !reports.isEmpty, pick(3) == 0 {
                    let outcomes: [AttemptOutcome] = [
                        .built(pick(2) == 0 ? Bench.result : Bench.partly), .failed(Failure(.recipe, code: "r", message: "")),
                        .failed(Failure(.infrastructure, code: "i", message: "")),
                    ]
                    reports[0].outcome = outcomes[pick(3)]
                    if let order = bench.state.jobs[mine[0].job]?.verify, pick(2) == 0 {
                        reports[0].outcome = .verified(Bench.answer(to: order))
                    }
                }
                let slots = max(0, 2 - mine.count)
                switch pick(12) {
                case 0:
                    // Killed before the commit: nothing was said.
                    let unheard = bench.report(of: reports, slots: slots)
                    _ = try bench.raw { try $0.report(WorkerName(name), unheard, now: $1) }
                    bench.crash()
                case 1:
                    // Killed after it: the answer never arrived.
                    _ = try bench.report(name, reports, slots: slots)
                    bench.crash()
                default:
                    mine = try bench.report(name, reports, slots: slots).assignments.map(\.attempt)
                    held[name] = mine
                }
            }
            try bench.commit()
            try bench.checkInvariants()
        }
    }

    /// A transition whose commit fails leaves nothing behind.
    @Test(arguments: 0..<20) func whatIsTakenBackNeverWas(_ seed: Int) throws {
        var generator = SeededGenerator(UInt64(seed))
        func pick(_ count: Int) -> Int { Int(generator.next() % UInt64(count)) }
        var bench = Bench()
        for name in ["a", "b"] { try bench.enrol(name) }
        for _ in 0..<100 {
            bench.now = bench.now.adding(seconds: 3)
            let before = bench.state
            for _ in 0..<2 {
                let name = ["a", "b"][pick(2)]
                let mine = bench.state.openAttempts(on: WorkerName(name)).map(\.id)
                // A revoked worker's report throws, which takes everything back.
                do {
                    switch pick(6) {
                    case 0:
                        bench.raw {
                            $0.enqueue(
                                Bench.newJob(&$0, "key \(pick(5))", $1), key: Digest(hashing: "\(pick(5))"), needs: JobNeeds(diskBytes: 1),
                                now: $1)
                        }
                    case 1:
                        let report = bench.report(of: mine.map { bench.running($0, pick(2) == 0 ? .built(Bench.result) : nil) })
                        try bench.raw { _ = try $0.report(WorkerName(name), report, now: $1) }
                    case 2: bench.raw { $0.expireLeases(now: $1.adding(seconds: 100)) }
                    case 3: try bench.raw { try $0.revoke(WorkerName("b"), now: $1) }
                    default: bench.raw { _ = $0.dispatch(now: $1) }
                    }
                } catch is FarmError { bench.state.rollBack() }
            }
            if pick(2) == 0 {
                bench.state.rollBack()
                #expect(bench.state.jobs == before.jobs && bench.state.attempts == before.attempts)
                #expect(bench.state.publications == before.publications && bench.state.workers == before.workers)
            } else {
                try bench.commit()
            }
            #expect(bench.state.table.inconsistencies().isEmpty, "\(bench.state.table.inconsistencies())")
        }
    }

    /// Memory holds what matters now; the rest lies in the journal and is found there.
    @Test func oldJobsAreLetGo() throws {
        var rules = FarmState.Rules(silenceSeconds: 60)
        rules.keptJobs = 10
        var bench = Bench(rules: rules)
        try bench.enrol("w")
        for number in 0..<50 {
            let id = try bench.submit("key \(number)")
            let attempt = try #require(try bench.report("w").assignments.first?.attempt)
            _ = try bench.report("w", [bench.running(attempt, .failed(Failure(.recipe, code: "r", message: "")))])
            #expect(bench.state.jobs.count <= 11)
            #expect(try bench.journal.job(id)?.attempts.count == 1)
        }
        #expect(try bench.journal.jobs(before: 31, limit: 5) == (26...30).map { JobID("j\($0)") })
        let reloaded = FarmState(try bench.journal.load(recent: 10), rules: rules, now: bench.now)
        #expect(reloaded.jobs.count == 10)
        var again = reloaded
        #expect(again.newJob(kind: .build, title: "", recipe: "", version: "", target: "", requestedBy: "", now: bench.now).number == 51)
    }
}
