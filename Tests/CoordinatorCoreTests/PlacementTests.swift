import CoordinatorCore
import FarmMessages
import FarmModel
import Testing

@Suite struct PlacementTests {
    @Test func labelsAreNeededAndAvoided() throws {
        var bench = Bench()
        try bench.enrol("plain")
        try bench.enrol("card", labels: ["gpu", "gpu-nvidia", "spot"])
        let needs = try bench.submit("a", labels: LabelWish(needs: ["gpu"], avoids: []))
        let both = try bench.submit("b", labels: LabelWish(needs: ["gpu"], avoids: ["spot"]))
        #expect(try bench.report("plain").assignments.isEmpty)
        #expect(try bench.report("card", slots: 2).assignments.map(\.attempt.job) == [needs])
        let why = { (name: String) in
            bench.state.obstacle(try bench.job(both), try #require(bench.state.workers[WorkerName(name)]), now: bench.now)
        }
        #expect(try why("plain") == "it lacks the label gpu, which the job needs")
        #expect(try why("card") == "it has the label spot, which the job avoids")
        try bench.enrol("free", labels: ["gpu"])
        #expect(try bench.report("free").assignments.map(\.attempt.job) == [both])
    }

    @Test func labelsAreChecked() throws {
        for wrong in ["", "Gpu", "a b", "-a", String(repeating: "a", count: 64)] {
            #expect(throws: FarmError.self) { try LabelWish(needs: [wrong]).check() }
        }
        #expect(throws: FarmError.self) { try LabelWish(needs: ["a"], avoids: ["a"]).check() }
        try LabelWish(needs: ["gpu-nvidia", "cgroup-v2"], avoids: ["9.x"]).check()
    }

    /// The first build goes by what is declared, or by a general rule; the next by what the first took up, and a margin.
    @Test func diskIsLearnedFromEarlierBuilds() throws {
        var bench = Bench()
        try bench.enrol("w")
        let first = try bench.submit("k1", disk: 4 << 30, recipe: "r", declaresDisk: false)
        #expect(try bench.job(first).diskBytes == 4 << 30)
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        bench.now = bench.now.adding(seconds: 100)
        var result = Bench.result
        result.diskBytes = 60 << 30
        _ = try bench.report("w", [bench.running(attempt, .built(result))])
        let second = try bench.submit("k2", disk: 4 << 30, recipe: "r", declaresDisk: false)
        #expect(try bench.job(second).diskBytes == 76 << 30)
        let why = bench.state.obstacle(try bench.job(second), try #require(bench.state.workers[WorkerName("w")]), now: bench.now)
        #expect(why == "has 50 GiB free, the job wants 76 GiB, as earlier builds took up")
        // A recipe that knows better asks for more; what it asks for is never less than what was seen.
        let (more, less) = (try bench.submit("k3", disk: 90 << 30, recipe: "r"), try bench.submit("k4", disk: 1 << 30, recipe: "r"))
        #expect(try bench.job(more).diskBytes == 90 << 30 && bench.job(less).diskBytes == 76 << 30)
        // What was learned outlives the process.
        bench.crash()
        let later = try bench.submit("k5", disk: 4 << 30, recipe: "r", declaresDisk: false)
        #expect(try bench.job(later).diskBytes == 76 << 30)
    }

    /// Another version of a recipe, or another recipe with the same beginning, goes where that beginning is.
    @Test func aBuildGoesWhereItsFirstStepsAre() throws {
        var bench = Bench()
        try bench.enrol("a")
        try bench.enrol("b")
        _ = try bench.report("b", slots: 0)
        let old = try bench.submit("k1", recipe: "fsl", layers: [1, 2, 3, 4])
        let attempt = try #require(try bench.report("a").assignments.first?.attempt)
        #expect(attempt.job == old)
        bench.now = bench.now.adding(seconds: 600)
        _ = try bench.report("a", [bench.running(attempt, .built(Bench.result))])
        _ = try bench.report("b")
        let new = try bench.submit("k2", recipe: "other", layers: [1, 2, 3, 9, 10])
        // Worker b has its hands free, and a will have them soon.
        #expect(try bench.report("b").assignments.isEmpty)
        let given = try bench.report("a").assignments.first?.attempt
        #expect(given?.job == new)
        #expect(bench.state.attempts[try #require(given)]?.choice == "it has 2 of its 4 steps")
        // Nobody waits for a base image.
        let strange = try bench.submit("k3", recipe: "strange", layers: [1, 77])
        #expect(try bench.report("b").assignments.map(\.attempt.job) == [strange])
    }

    /// What workers say of their engines counts for more than what they were seen to build.
    @Test func whatAnEngineHoldsDecides() throws {
        var bench = Bench()
        try bench.enrol("a")
        try bench.enrol("b")
        _ = try bench.report("b", slots: 0)
        _ = try bench.submit("k1", recipe: "fsl", layers: [1, 2, 3, 4])
        let attempt = try #require(try bench.report("a").assignments.first?.attempt)
        bench.now = bench.now.adding(seconds: 600)
        // What it says together with an outcome has the outcome in it.
        _ = try bench.report("a", [bench.running(attempt, .built(Bench.result))], layers: LayerSummary([1, 2, 3, 4]))
        _ = try bench.report("b", layers: LayerSummary([]))
        _ = try bench.submit("k2", recipe: "other", layers: [1, 2, 3, 9])
        #expect(try bench.report("b").assignments.isEmpty, "a has them, and its hands are free")
        // Its disk was needed for something else: now it is worth no more than the other.
        let (first, second) = (try bench.report("a", slots: 0, layers: LayerSummary([1])), try bench.report("b"))
        #expect(first.assignments.isEmpty && second.assignments.count == 1)
        // What it holds that nobody saw it build is known too, for builds that wait.
        let waiting = try bench.submit("k3", recipe: "third", layers: [20, 21, 22])
        _ = try bench.report("a", slots: 0, layers: LayerSummary([1, 20, 21]))
        #expect(bench.state.warmSteps(of: waiting, on: WorkerName("a")) == 2)
        // And for those that come.
        let later = try bench.submit("k4", recipe: "fourth", layers: [20, 40])
        #expect(bench.state.warmSteps(of: later, on: WorkerName("a")) == 1)
        // A layer is of no use without those below it.
        let other = try bench.submit("k5", recipe: "fifth", layers: [30, 31, 32])
        _ = try bench.report("a", slots: 0, layers: LayerSummary([1, 20, 21, 32]))
        #expect(bench.state.warmSteps(of: other, on: WorkerName("a")) == 0)
    }

    @Test func candidatesGoWhereStrangersAreKeptApart() throws {
        var rules = FarmState.Rules()
        rules.candidateNeeds = LabelWish(needs: ["userns"])
        var bench = Bench(rules: rules)
        try bench.enrol("open", trusted: false, engine: "one")
        try bench.enrol("apart", trusted: false, labels: ["userns"], engine: "two")
        try bench.enrol("trusted", engine: "three")
        let candidate = try bench.submit("k", candidate: true)
        #expect(try bench.report("open").assignments.isEmpty && bench.report("trusted").assignments.isEmpty)
        let why = bench.state.obstacle(try bench.job(candidate), try #require(bench.state.workers[WorkerName("open")]), now: bench.now)
        #expect(why == "it lacks the label userns, which candidates need on this farm")
        #expect(try bench.report("apart").assignments.map(\.attempt.job) == [candidate])
        let release = try bench.submit("r")
        #expect(try bench.report("trusted").assignments.map(\.attempt.job) == [release])
    }

    @Test func aStrainedWorkerGetsNoMore() throws {
        var bench = Bench()
        try bench.enrol("w")
        let strain = Pressure(cpu: 90, memory: 55, io: 3)
        // One that does nothing may begin, whatever strains it.
        _ = try bench.submit("a")
        let attempt = try #require(try bench.report("w", slots: 2, pressure: strain).assignments.first?.attempt)
        let next = try bench.submit("b")
        #expect(try bench.report("w", [bench.running(attempt)], slots: 1, pressure: strain).assignments.count == 1)
        let why = bench.state.obstacle(try bench.job(next), try #require(bench.state.workers[WorkerName("w")]), now: bench.now)
        #expect(why?.hasPrefix("strained: in the last minute work stood still for 55 % for memory") == true)
        #expect(try bench.report("w", [bench.running(attempt)], slots: 1, pressure: Pressure(cpu: 99)).assignments.count == 1)
        #expect(try bench.report("w", [bench.running(attempt)], slots: 1, pressure: Pressure(cpu: 60)).assignments.count == 2)
    }

    @Test func ofTwoTheLessStrainedGetsTheJob() throws {
        var bench = Bench()
        for name in ["a", "b"] { try bench.enrol(name) }
        _ = try bench.report("a", pressure: Pressure(io: 80))
        _ = try bench.report("b", pressure: Pressure(io: 1))
        let job = try bench.submit("x")
        #expect(bench.state.dispatch(now: bench.now) == [WorkerName("b")])
        #expect(bench.state.openAttempts(on: WorkerName("b")).map(\.id.job) == [job])
    }

    /// What does not get past its preparation is given to another; one that still moves is left alone.
    @Test func whatDoesNotStartGoesToAnother() throws {
        var rules = FarmState.Rules(silenceSeconds: 60, mostSetbacks: 9, retrySeconds: 1)
        rules.scheduling.startSeconds = 100
        var bench = Bench(rules: rules)
        try bench.enrol("w")
        let job = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        func preparing(_ permille: Int) -> AttemptReport {
            AttemptReport(id: attempt, phase: .prepare, progressPermille: permille, note: "", outcome: nil)
        }
        for step in 1...10 {
            bench.now = bench.now.adding(seconds: 50)
            _ = try bench.report("w", [preparing(step)], slots: 0)
            bench.state.expireLeases(now: bench.now)
            #expect(try bench.job(job).state == .running)
        }
        for _ in 1...3 {
            bench.now = bench.now.adding(seconds: 50)
            _ = try bench.report("w", [preparing(10)], slots: 0)
            bench.state.expireLeases(now: bench.now)
        }
        #expect(bench.state.attempts[attempt]?.state == .lost)
        #expect(bench.state.attempts[attempt]?.failure?.message.contains("no further with its preparation") == true)
        #expect(try bench.job(job).state == .queued)
        // It says once more that it is preparing; that was long enough.
        bench.now = bench.now.adding(seconds: 2)
        #expect(try bench.report("w", [preparing(10)], slots: 0).assignments.isEmpty)
        try bench.enrol("other")
        #expect(try bench.report("other").assignments.map(\.attempt.job) == [job])
        #expect(try bench.job(job).setbacks == 1)
    }

    @Test func pressureIsReadAsTheKernelWritesIt() {
        let text = "some avg10=1.50 avg60=12.25 avg300=0.10 total=123\nfull avg10=0.00 avg60=3.00 avg300=0.00 total=9\n"
        #expect(Pressure.average("some", of: text) == 12.25)
        #expect(Pressure.average("full", of: text) == 3)
        #expect(Pressure.average("full", of: "") == 0)
        #expect(Pressure(cpu: .nan, memory: 1000, io: -1) == Pressure(cpu: 0, memory: 100, io: 0))
        #expect(Pressure(cpu: 90, memory: 10, io: 5).strain == 40)
    }
}
