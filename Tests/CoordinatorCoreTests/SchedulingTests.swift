import CoordinatorCore
import FarmMessages
import FarmModel
import Microarchitecture
import Support
import Testing

@Suite struct SchedulingTests {
    private func bench(_ scheduling: (inout SchedulingRules) -> Void = { _ in }) -> Bench {
        var rules = FarmState.Rules(silenceSeconds: 1e6, mostSetbacks: 9, retrySeconds: 1)
        scheduling(&rules.scheduling)
        return Bench(rules: rules)
    }

    /// The jobs that a worker gets, one after the other, each of which takes so long.
    private func order(_ bench: inout Bench, _ worker: String, _ count: Int, seconds: Double = 60) throws -> [String] {
        var titles: [String] = []
        var held: [AttemptReport] = []
        for _ in 0...count {
            guard let attempt = try bench.report(worker, held, slots: 1).assignments.first?.attempt else { break }
            titles.append(try bench.job(attempt.job).title)
            bench.now = bench.now.adding(seconds: seconds)
            held = [bench.running(attempt, .failed(Failure(.recipe, code: "r", message: "")))]
        }
        return Array(titles.prefix(count))
    }

    @Test func theMoreUrgentGoesFirstAndWaitingMakesUrgent() throws {
        var bench = bench()
        try bench.enrol("w")
        _ = try bench.submit("old", priority: .background)
        bench.now = bench.now.adding(seconds: 13 * 3600)
        for priority in [JobPriority.background, .nightly, .release, .interactive] {
            _ = try bench.submit(priority.rawValue, priority: priority)
        }
        // 13 hours have raised the old one by two classes.
        #expect(try order(&bench, "w", 5) == ["interactive", "old", "release", "nightly", "background"])
    }

    @Test func requestersShareWhatThereIsByTheirDue() throws {
        var bench = bench { $0.shares = ["ann": 3] }
        try bench.enrol("w")
        for number in 0..<40 {
            for requester in ["ann", "bob"] { _ = try bench.submit("\(requester) \(number)", by: requester) }
        }
        let titles = try order(&bench, "w", 40, seconds: 3600)
        let anns = titles.filter { $0.hasPrefix("ann") }.count
        #expect((28...32).contains(anns), "\(anns) of 40, due are 30")
        // Whoever comes late and has used nothing comes next.
        _ = try bench.submit("carl", by: "carl")
        let held = bench.state.openAttempts(on: WorkerName("w")).map {
            bench.running($0.id, .failed(Failure(.recipe, code: "r", message: "")))
        }
        let next = try #require(try bench.report("w", held).assignments.first?.attempt)
        #expect(try bench.job(next.job).title == "carl")
    }

    /// What a worker keeps after a silence counts as running, as before.
    @Test func aReadoptedAttemptCountsAgainstTheCap() throws {
        var rules = FarmState.Rules(silenceSeconds: 60, mostSetbacks: 9, retrySeconds: 1)
        rules.scheduling.mostPerRequester = 1
        var bench = Bench(rules: rules)
        try bench.enrol("w")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        bench.now = bench.now.adding(seconds: 61)
        bench.state.expireLeases(now: bench.now)
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        #expect(try bench.job(id).state == .running)
        _ = try bench.submit("b")
        try bench.enrol("v")
        #expect(try bench.report("v").assignments.isEmpty)
        _ = try bench.report("w", [bench.running(attempt, .failed(Failure(.recipe, code: "r", message: "")))], slots: 0)
        #expect(try bench.report("v").assignments.count == 1)
    }

    @Test func capsHold() throws {
        var bench = bench {
            $0.mostPerRequester = 2
            $0.mostPerRecipe = 1
        }
        for name in ["a", "b", "c", "d"] { try bench.enrol(name) }
        for number in 0..<3 { _ = try bench.submit("one \(number)", recipe: "one", by: "ann") }
        let last = try bench.submit("two", recipe: "two", by: "ann")
        _ = try bench.submit("three", recipe: "three", by: "bob")
        for name in ["a", "b", "c", "d"] { _ = try bench.report(name) }
        let running = bench.state.attempts.values.filter { !$0.state.isFinal }.compactMap { bench.state.jobs[$0.id.job]?.title }.sorted()
        #expect(running == ["one 0", "three", "two"])
        let waiting = try #require(bench.state.jobs.values.first { $0.title == "one 1" })
        let idle = try #require(bench.state.workers[WorkerName("d")])
        #expect(bench.state.obstacle(waiting, idle, now: bench.now) == "ann has 2 jobs running, 2 are allowed")
        #expect(try bench.job(last).state == .queued)
    }

    /// Overnight the longest goes first, to the fastest; a slow worker leaves alone what another finishes sooner.
    @Test func theNightIsOrderedForAnEarlyEnd() throws {
        var bench = bench()
        for (name, speed) in [("fast", 2.0), ("slow", 0.25)] {
            try bench.enrol(name)
            bench.state.setSpeed(WorkerName(name), speed)
        }
        try learn(&bench, ["short": 60, "middle": 600, "long": 6000])
        for recipe in ["short", "long", "middle"] { _ = try bench.submit("night \(recipe)", recipe: recipe, priority: .nightly) }
        for name in ["fast", "slow"] { _ = try bench.report(name, slots: 1) }
        func held(_ name: String) throws -> [String] {
            try bench.state.openAttempts(on: WorkerName(name)).map { try bench.job($0.id.job).recipe }
        }
        #expect(try held("fast") == ["long"])
        // 600 s would take the slow one 2,400 s, and the fast one is free in 3,000.
        #expect(try held("slow") == ["middle"])
    }

    /// A faster worker that may not have a job, or does not have the room, does not keep it from those who do.
    @Test func nothingIsLeftToAWorkerThatWouldNotTakeIt() throws {
        for isFull in [true, false] {
            var bench = bench()
            try learn(&bench, ["long": 6000])
            for (name, speed) in [("fast", 4.0), ("slow", 0.25)] {
                try bench.enrol(name)
                bench.state.setSpeed(WorkerName(name), speed)
            }
            let id = try bench.submit("night", disk: isFull ? 60 << 30 : 1, recipe: "long", priority: .nightly)
            func report(_ name: String, _ attempts: [AttemptReport] = [], free: Int64) throws -> AttemptID? {
                let report = WorkerReport(
                    sequence: 1, attempts: attempts, diskFreeBytes: free << 30, refusal: "", freeSlots: 1, renewalRequest: [])
                return try bench.state.report(WorkerName(name), report, now: bench.now).assignments.first?.attempt
            }
            if !isFull {
                // It fails on the fast one, through no fault of its own.
                _ = try bench.report("slow", slots: 0)
                let attempt = try #require(try report("fast", free: 99))
                bench.now = bench.now.adding(seconds: 100)
                _ = try report(
                    "fast", [bench.running(attempt, .failed(Failure(.infrastructure, code: "engine.failed", message: "")))], free: 99)
                bench.now = bench.now.adding(seconds: 100)
            }
            #expect(try report("fast", free: isFull ? 10 : 99) == nil)
            #expect(try report("slow", free: 99)?.job == id, "\(isFull)")
        }
    }

    /// No worker is to blame for a network that is down, nor for a bucket that is full.
    @Test func anOutageTakesOutNoWorker() throws {
        var bench = bench { $0.mostFailuresInARow = 2 }
        try bench.enrol("w")
        for (number, phase) in [Phase.build, .build, .build, .upload, .upload, .upload].enumerated() {
            let id = try bench.submit("job \(number)")
            let attempt = try #require(try bench.report("w").assignments.first?.attempt)
            var report = bench.running(attempt)
            report.phase = phase
            _ = try bench.report("w", [report], slots: 0)
            let code = phase == .build ? "name.unresolved" : "disk.full"
            report.outcome = .failed(Failure(.infrastructure, code: .init(code), message: "m"))
            _ = try bench.report("w", [report])
            try bench.state.cancel(id, by: "me", now: bench.now)
            try bench.commit()
        }
        #expect(bench.state.workers[WorkerName("w")]?.quarantine == nil)
    }

    /// Builds of each recipe that took so long, on a worker of their own.
    private func learn(_ bench: inout Bench, _ seconds: [String: Double]) throws {
        try bench.enrol("teacher")
        for (recipe, time) in seconds.sorted(by: { $0.key < $1.key }) {
            let id = try bench.submit("teach \(recipe)", recipe: recipe)
            let attempt = try #require(try bench.report("teacher").assignments.first?.attempt)
            bench.now = bench.now.adding(seconds: time)
            _ = try bench.report("teacher", [bench.running(attempt, .built(Bench.result))], slots: 0)
            try bench.stored(id)
            _ = try bench.released(id)
        }
        try bench.state.setDrained(WorkerName("teacher"), true)
        try bench.commit()
    }

    @Test func aRepeatedBuildGoesWhereItsLayersAre() throws {
        var bench = bench()
        for name in ["a", "b"] { try bench.enrol(name) }
        _ = try bench.submit("first", recipe: "r")
        let attempt = try #require(try bench.report("b").assignments.first?.attempt)
        bench.now = bench.now.adding(seconds: 600)
        _ = try bench.report("b", [bench.running(attempt, .failed(Failure(.recipe, code: "r", message: "")))], slots: 0)
        let again = try bench.submit("again", recipe: "r")
        let other = try bench.submit("other", recipe: "s")
        // Both are free; what b has built before is for b.
        _ = try bench.report("b", slots: 1)
        #expect(try bench.report("a").assignments.map(\.attempt.job) == [other])
        #expect(bench.state.openAttempts(on: WorkerName("b")).map(\.id.job) == [again])
        #expect(bench.state.openAttempts(on: WorkerName("b")).first?.choice == "it has built r for x86_64 before")
    }

    @Test func aBadWorkerIsTakenOutAndSaysWhy() throws {
        var bench = bench { $0.mostFailuresInARow = 3 }
        try bench.enrol("bad")
        for number in 0..<3 {
            let id = try bench.submit("job \(number)")
            let attempt = try #require(try bench.report("bad").assignments.first?.attempt)
            let failure = Failure(.infrastructure, code: "engine.failed", message: "the engine gave up")
            _ = try bench.report("bad", [bench.running(attempt, .failed(failure))])
            try bench.state.cancel(id, by: "me", now: bench.now)
            try bench.commit()
        }
        let id = try bench.submit("next")
        #expect(try bench.report("bad").assignments.isEmpty)
        let worker = try #require(bench.state.workers[WorkerName("bad")])
        let why = bench.state.obstacle(try bench.job(id), worker, now: bench.now)
        #expect(why == "quarantined: 3 failures in a row that were not the recipes', the last: the engine gave up")
        // An operator has mended it.
        try bench.state.setDrained(WorkerName("bad"), false)
        #expect(try bench.report("bad").assignments.count == 1)
    }

    /// What fails everywhere says nothing of the workers, and a job that failed on one is tried on another.
    @Test func aPoisonousJobTakesNoWorkerWithIt() throws {
        var bench = bench { $0.mostFailuresInARow = 2 }
        for name in ["a", "b"] { try bench.enrol(name) }
        let id = try bench.submit("poison")
        var places: [String] = []
        for _ in 0..<4 {
            bench.now = bench.now.adding(seconds: 600)
            for name in ["a", "b"] { _ = try bench.report(name, slots: 1) }
            let attempt = try #require(bench.state.attempts.values.first { $0.id.job == id && !$0.state.isFinal })
            places.append(attempt.worker.rawValue)
            let failure = Failure(.infrastructure, code: "engine.failed", message: "x")
            _ = try bench.report(attempt.worker.rawValue, [bench.running(attempt.id, .failed(failure))], slots: 0)
        }
        #expect(places[0] != places[1])
        #expect(bench.state.workers.values.allSatisfy { $0.quarantine == nil })
    }

    @Test func whatIsNotTakenUpGoesToAnother() throws {
        var bench = bench()
        for name in ["deaf", "good"] { try bench.enrol(name) }
        let id = try bench.submit("a")
        #expect(try bench.report("deaf").assignments.count == 1)
        for _ in 0..<4 {
            bench.now = bench.now.adding(seconds: 10)
            _ = try bench.report("deaf", slots: 0)
            bench.state.expireLeases(now: bench.now)
            try bench.commit()
        }
        #expect(try bench.job(id).failure?.message == "the worker deaf did not take it up within 30 s")
        bench.now = bench.now.adding(seconds: 10)
        #expect(try bench.report("good").assignments.map(\.attempt.job) == [id])
    }

    @Test func aServerOfOthersGetsTimeAndIsGivenUpEarlier() throws {
        var bench = bench()
        try bench.enrol("w")
        let id = try bench.submit("a")
        for round in 1...3 {
            bench.now = bench.now.adding(seconds: 4000)
            let attempt = try #require(try bench.report("w").assignments.first?.attempt)
            let failure = Failure(.upstream, code: "registry.limit", message: "m", retry: .later)
            _ = try bench.report("w", [bench.running(attempt, .failed(failure))])
            if round < 3 { #expect(try #require(bench.job(id).notBefore).seconds(since: bench.now) >= 30) }
        }
        #expect(try bench.job(id).state == .failed && bench.job(id).failure?.code == "registry.limit")
        #expect(bench.state.workers[WorkerName("w")]?.quarantine == nil)
    }

    /// Whatever the queue and the workers are: nobody gets what is not for them, and no free worker stays idle while there is a job
    /// that it may have and that nobody else has better reasons for.
    @Test(arguments: 0..<40) func nobodyIsIdleWithoutAReason(_ seed: Int) throws {
        var generator = SeededGenerator(UInt64(seed))
        func pick(_ count: Int) -> Int { Int(generator.next() % UInt64(count)) }
        var bench = bench { $0.warmShare = 0 }
        let targets = ["x86_64", "x86_64_v2", "x86_64_v3", "zen3", "icelake", "aarch64", "neoverse_n1"]
        let names = (0..<8).map { "w\($0)" }
        for name in names {
            try bench.enrol(name, target: Microarchitecture.named(targets[pick(7)]), emulates: pick(3) == 0 ? ["aarch64"] : [])
        }
        for number in 0..<60 {
            _ = try bench.submit(
                "\(number)", target: targets[pick(7)], disk: Int64(pick(60)) << 30, emulated: pick(2) == 0, recipe: "r\(pick(9))",
                by: "u\(pick(4))", priority: JobPriority.allCases[pick(2)])
        }
        for name in names { _ = try bench.report(name, slots: 1) }
        _ = bench.state.dispatch(now: bench.now)
        try bench.commit()
        for name in names {
            let worker = try #require(bench.state.workers[WorkerName(name)])
            for attempt in bench.state.openAttempts(on: worker.name) {
                var job = try bench.job(attempt.id.job)
                job.state = .queued
                let why = bench.state.obstacle(job, worker, now: bench.now)
                #expect(
                    why == nil || ["has such a CPU", "what runs there may need"].contains { why?.contains($0) ?? false },
                    "\(name) has \(job.title): \(why ?? "")")
            }
            guard bench.state.openAttempts(on: worker.name).isEmpty else { continue }
            let possible = bench.state.jobs.values.filter {
                $0.state == .queued && bench.state.attempts[AttemptID(job: $0.id, number: $0.attempts)] == nil
                    && bench.state.obstacle($0, worker, now: bench.now) == nil
            }
            #expect(possible.isEmpty, "\(name) is idle, though it could have \(possible.map(\.title))")
        }
    }
}
