import FarmMessages
import CoordinatorCore
import FarmModel
import Microarchitecture
import Testing

@Suite struct VerificationTests {
    /// A build for x86_64 on the worker `v2`, whose tests are asked for on x86_64_v2 and zen2.
    private func built(_ bench: inout Bench) throws -> JobID {
        for (name, target) in [("v2", "x86_64_v2"), ("v3", "x86_64_v3"), ("zen", "zen3")] {
            try bench.enrol(name, target: Microarchitecture.named(target))
        }
        let id = try bench.submit("a", verifyOn: ["x86_64_v2", "zen2"])
        // All are heard, so that all count.
        for name in ["v3", "zen"] { _ = try bench.report(name, slots: 0) }
        let attempt = try #require(try bench.report("v2").assignments.first?.attempt)
        var result = Bench.result
        result.hostTarget = "x86_64_v2"
        _ = try bench.report("v2", [bench.running(attempt, .built(result))])
        try bench.stored(id)
        return id
    }

    @Test func aReleaseWaitsForItsTestsOnEveryCPUThatItAsksFor() throws {
        var bench = Bench()
        let id = try built(&bench)
        #expect(try bench.job(id).state == .verifying)
        #expect(bench.state.publications[id]?.verified?.map(\.asked) == ["x86_64_v2"], "the builder has such a CPU")
        let job = try #require(bench.state.jobs.values.first { $0.parent == id })
        #expect(job.target == "zen2" && job.kind == .verify)
        #expect(bench.state.duePublications(now: bench.now).isEmpty)
        // Neither below what is asked, nor without need.
        #expect(try bench.report("v2").assignments.isEmpty)
        #expect(try bench.report("v3").assignments.isEmpty)
        let order = try #require(try bench.report("zen").assignments.first)
        let manifest = Bench.result.manifest.digest
        #expect(order.order == .verify(VerifyOrder(plan: Digest(hashing: "a"), manifest: manifest, on: "zen2", regions: 1)))
        var found = Bench.verification("zen2")
        (found.hostTarget, found.worker) = ("zen3", "somebody else")
        _ = try bench.report("zen", [bench.running(order.attempt, .verified(found))])
        #expect(try bench.job(id).state == .publishing)
        #expect(bench.state.publications[id]?.verified?.map(\.worker) == ["v2", "zen"], "who it was is not for the worker to say")
        #expect(bench.state.duePublications(now: bench.now).map(\.step) == [.release])
        let release = try bench.released(id)
        #expect(release.release.verified?.map(\.hostTarget) == ["x86_64_v2", "zen3"])
    }

    @Test func whatABuildLeavesIsSpreadAndWaitedFor() throws {
        var bench = Bench()
        for name in ["a", "b"] { try bench.enrol(name, target: Microarchitecture.named("zen3")) }
        let id = try bench.submit("k", verifyOn: ["zen2"])
        _ = try bench.report("b", slots: 0)
        let attempt = try #require(try bench.report("a").assignments.first?.attempt)
        var result = Bench.partly
        result.hostTarget = "zen3"
        _ = try bench.report("a", [bench.running(attempt, .built(result))])
        try bench.stored(id)
        #expect(
            try bench.job(id).state == .verifying && bench.state.publications[id]?.verified == nil,
            "first all that was left, then what is asked for")
        var runners: [String: String] = [:]
        for name in ["b", "a"] {
            let given = try #require(try bench.report(name).assignments.first)
            guard case .verify(let order) = given.order else { return #expect(Bool(false), "\(given.order)") }
            #expect(order.only?.count == 1 && order.on == "x86_64", "\(order)")
            var wrong = Bench.answer(to: order)
            wrong.tests[0].name = "another"
            if name == "b" {
                // What was not asked for counts for nothing; the part is given out again.
                _ = try bench.report(name, [bench.running(given.attempt, .verified(wrong))], slots: 0)
                bench.now = bench.now.adding(seconds: 3600)
                _ = try bench.report("a", slots: 0)
                let again = try #require(try bench.report(name).assignments.first)
                guard case .verify(let order) = again.order else { return #expect(Bool(false), "\(again.order)") }
                runners[order.only?.first ?? ""] = name
                _ = try bench.report(name, [bench.running(again.attempt, .verified(Bench.answer(to: order)))], slots: 0)
            } else {
                runners[order.only?.first ?? ""] = name
                _ = try bench.report(name, [bench.running(given.attempt, .verified(Bench.answer(to: order)))], slots: 0)
            }
        }
        let tests = try #require(bench.state.publications[id]?.result.tests)
        #expect(
            tests.map(\.passed) == [true, true, true] && tests.map(\.worker) == [nil, runners["left"], runners["left, too"]],
            "\(tests) \(runners)")
        #expect(Set(runners.values) == ["a", "b"])
        // The builder's own CPU is what the recipe asks for, and all its tests are there now.
        #expect(bench.state.publications[id]?.verified?.first?.tests.count == 3)
        #expect(try bench.job(id).state == .publishing && bench.state.duePublications(now: bench.now).map(\.step) == [.release])
    }

    @Test func theNearestCPURunsThem() throws {
        var bench = Bench()
        try bench.enrol("low", target: Microarchitecture.named("x86_64_v3"))
        try bench.enrol("high", target: Microarchitecture.named("zen4"))
        let id = try bench.submit("a", target: "x86_64_v3", verifyOn: ["x86_64_v3"])
        _ = try bench.report("low", slots: 0)
        let attempt = try #require(try bench.report("high").assignments.first?.attempt)
        var result = Bench.result
        result.hostTarget = "zen4"
        _ = try bench.report("high", [bench.running(attempt, .built(result))])
        try bench.stored(id)
        let job = try #require(bench.state.jobs.values.first { $0.parent == id })
        let high = try #require(bench.state.workers[WorkerName("high")])
        #expect(bench.state.obstacle(job, high, now: bench.now) == "low is nearer to x86_64_v3 than its CPU (zen4)")
        // Where the nearer one is gone, the farther will do.
        try bench.state.setDrained(WorkerName("low"), true)
        #expect(bench.state.obstacle(job, high, now: bench.now) == nil)
    }

    @Test func testsThatFailElsewhereFailTheBuildAndNothingIsReleased() throws {
        var bench = Bench()
        let id = try built(&bench)
        let attempt = try #require(try bench.report("zen").assignments.first?.attempt)
        let failure = Failure(.recipe, code: "test.failed", message: "1 functional tests failed")
        _ = try bench.report("zen", [bench.running(attempt, .failed(failure))])
        let job = try bench.job(id)
        #expect(job.state == .failed && job.failure?.code == "test.failed")
        #expect(job.failure?.message.hasPrefix("on zen2, tested by j2: 1 functional tests failed") ?? false)
        #expect(bench.state.publications[id]?.step == .cleanup && bench.state.releases.isEmpty)
    }

    @Test func cancellingEitherEndsBoth() throws {
        for cancelsTheTest in [true, false] {
            var bench = Bench()
            let id = try built(&bench)
            _ = try bench.report("zen")
            let test = try #require(bench.state.jobs.values.first { $0.parent == id }?.id)
            try bench.state.cancel(cancelsTheTest ? test : id, by: "me", now: bench.now)
            try bench.commit()
            #expect(try bench.job(id).state == .cancelled && bench.job(test).state == .cancelled)
            #expect(bench.state.desired(WorkerName("zen"), sequence: 0).assignments.isEmpty)
            #expect(bench.state.publications[id]?.step == .cleanup)
        }
    }

    @Test func anAnswerToAnotherQuestionIsRefused() throws {
        var bench = Bench()
        let id = try built(&bench)
        let attempt = try #require(try bench.report("zen").assignments.first?.attempt)
        // On another CPU; without the tests of the build.
        _ = try bench.report("zen", [bench.running(attempt, .verified(Bench.verification("zen4")))])
        #expect(bench.state.attempts[attempt]?.failure?.code == "attempt.outcome")
        bench.now = bench.now.adding(seconds: 10)
        let second = try #require(try bench.report("zen").assignments.first?.attempt)
        var empty = Bench.verification("zen2")
        empty.tests = []
        _ = try bench.report("zen", [bench.running(second, .verified(empty))])
        #expect(bench.state.attempts[second]?.failure?.code == "attempt.outcome")
        #expect(try bench.job(id).state == .verifying)
    }

    /// The build is done: it is not thrown away because no worker can run its tests now.
    @Test func troubleOfTheInfrastructureOnlyDelays() throws {
        var bench = Bench()
        let id = try built(&bench)
        for _ in 0..<9 {
            bench.now = bench.now.adding(seconds: 400)
            for name in ["v2", "v3"] { _ = try bench.report(name, slots: 0) }
            let attempt = try #require(try bench.report("zen").assignments.first?.attempt)
            _ = try bench.report("zen", [bench.running(attempt, .failed(Failure(.infrastructure, code: "base.x", message: "m")))])
        }
        #expect(try bench.job(id).state == .verifying)
    }

    @Test func cancellingTheTestLeavesTheBuildToOthersWhoWantIt() throws {
        var bench = Bench()
        let id = try built(&bench)
        let other = try bench.submit("a", verifyOn: ["x86_64_v2", "zen2"])
        let test = try #require(bench.state.jobs.values.first { $0.parent == id }?.id)
        try bench.state.cancel(test, by: "me", now: bench.now)
        try bench.commit()
        #expect(try bench.job(id).state == .cancelled && bench.job(other).state == .queued && bench.job(other).joined == nil)
    }
}

@Suite struct EmulationTests {
    private func why(_ bench: Bench, _ id: JobID, _ worker: String) throws -> String? {
        bench.state.obstacle(try bench.job(id), try #require(bench.state.workers[WorkerName(worker)]), now: bench.now)
    }

    @Test func anEmulatorGetsOnlyWhatItMay() throws {
        var bench = Bench()
        try bench.enrol("x", emulates: ["aarch64"])
        _ = try bench.report("x")
        let strict = try bench.submit("a", target: "aarch64")
        let lenient = try bench.submit("a", target: "aarch64", emulated: true)
        let special = try bench.submit("b", target: "neoverse_n1", emulated: true)
        let other = try bench.submit("c", target: "ppc64le", emulated: true)
        #expect(try bench.job(lenient).joined == nil, "who allows an emulator is not served by waiting for a CPU")
        #expect(try why(bench, strict, "x")?.contains("8.0 times slower, which was not allowed (--emulated)") ?? false)
        #expect(try why(bench, special, "x")?.contains("it emulates plain aarch64 only") ?? false)
        #expect(try why(bench, other, "x") == "its CPU (x86_64_v3) cannot run ppc64le")
        #expect(try bench.report("x").assignments.map(\.attempt.job) == [lenient])
    }

    @Test func aWorkerWithTheCPUComesFirst() throws {
        var bench = Bench()
        try bench.enrol("arm", target: Microarchitecture.named("neoverse_n1"))
        try bench.enrol("x", emulates: ["aarch64"])
        // The coordinator has just started: the ARM machine has not been heard yet.
        let id = try bench.submit("a", target: "aarch64", emulated: true)
        _ = try bench.report("x", slots: 0)
        #expect(try why(bench, id, "x") == "it would emulate aarch64, and arm, which has such a CPU, may be back any moment")
        _ = try bench.report("arm", slots: 0)
        #expect(try why(bench, id, "x") == "it would emulate aarch64, and arm has such a CPU")
        #expect(try bench.report("x").assignments.isEmpty && why(bench, id, "arm") == "busy")
        // Gone for longer than the silence limit.
        bench.now = bench.now.adding(seconds: 100)
        #expect(try bench.report("x").assignments.map(\.attempt.job) == [id])
    }

    @Test func anEmulatedReleaseServesThoseWhoAllowItOnly() throws {
        var bench = Bench()
        try bench.enrol("x", emulates: ["aarch64"])
        _ = try bench.report("x", slots: 0)
        let lenient = try bench.submit("a", target: "aarch64", emulated: true)
        let attempt = try #require(try bench.report("x").assignments.first?.attempt)
        _ = try bench.report("x", [bench.running(attempt, .built(Bench.result))], slots: 0)
        try bench.stored(lenient)
        let emulated = try bench.released(lenient, emulator: "qemu-aarch64 7")
        let again = try bench.submit("a", target: "aarch64", emulated: true)
        #expect(try bench.job(again).state == .succeeded && bench.job(again).release == emulated.digest)
        let strict = try bench.submit("a", target: "aarch64")
        #expect(try bench.job(strict).state == .queued)
        // A machine with the CPU comes, builds, and is what the channel shows from now on.
        try bench.enrol("arm", target: Microarchitecture.named("neoverse_n1"))
        let native = try #require(try bench.report("arm").assignments.first?.attempt)
        _ = try bench.report("arm", [bench.running(native, .built(Bench.result))], slots: 0)
        try bench.stored(strict)
        let release = try bench.released(strict)
        let channel = bench.state.nextChannel("main", farm: "f", days: 1, now: bench.now)
        #expect(channel.entries.map(\.release) == [release.digest])
    }

    @Test func whatHasBeenBuiltMeanwhileIsNotBuiltAgain() throws {
        var bench = Bench()
        try bench.enrol("x")
        let strict = try bench.submit("a")
        let lenient = try bench.submit("a", emulated: true)
        let attempt = try #require(try bench.report("x").assignments.first?.attempt)
        _ = try bench.report("x", [bench.running(attempt, .built(Bench.result))], slots: 0)
        try bench.stored(strict)
        let release = try bench.released(strict)
        #expect(try bench.job(lenient).state == .succeeded && bench.job(lenient).release == release.digest)
    }
}
