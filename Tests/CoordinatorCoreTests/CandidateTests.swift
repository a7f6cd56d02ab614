import Microarchitecture
import CoordinatorCore
import FarmMessages
import FarmModel
import Testing

@Suite struct CandidateTests {
    /// A farm with a worker of each pool and a candidate that is built.
    private func built(promotion: PromotionPolicy = .rebuild, verifyOn: [String] = []) throws -> (bench: Bench, candidate: JobID) {
        var rules = FarmState.Rules(silenceSeconds: 60, mostSetbacks: 4, retrySeconds: 1)
        rules.promotion = promotion
        var bench = Bench(rules: rules)
        try bench.enrol("sure", target: .named("x86_64_v3"), engine: "e1")
        try bench.enrol("wild", trusted: false, target: .named("x86_64_v3"), engine: "e2")
        let id = try bench.submit("k", verifyOn: verifyOn, by: "stranger", candidate: true)
        #expect(try bench.report("sure").assignments.isEmpty)
        let attempt = try #require(try bench.report("wild").assignments.first?.attempt)
        bench.now = bench.now.adding(seconds: 9)
        _ = try bench.report("wild", [bench.running(attempt, .built(Bench.result))])
        return (bench, id)
    }

    private func words(_ id: JobID, _ worker: String, _ bench: Bench) throws -> String? {
        bench.state.obstacle(try bench.job(id), try #require(bench.state.workers[WorkerName(worker)]), now: bench.now)
    }

    private func comparison(_ paths: [String]) -> ImageComparison {
        var other = ImageListing()
        for path in paths { other.add(Array(path.utf8), kind: "f", mode: 0o644, owner: 0, group: 0) }
        return ImageComparison(candidate: Digest(hashing: "a"), rebuilt: Digest(hashing: "b"), ImageListing(), other)
    }

    @Test func aCandidateIsForTheUntrustedPoolAndIsNotReleased() throws {
        var (bench, id) = try built()
        #expect(try bench.job(id).state == .succeeded && bench.job(id).release == nil)
        #expect(bench.state.candidates.map(\.job.id) == [id] && bench.state.duePublications(now: bench.now).isEmpty)
        let channel = bench.state.nextChannel("main", farm: "f", days: 1, now: bench.now)
        #expect(channel.entries.isEmpty)
        let waiting = try bench.submit("other", candidate: true)
        #expect(try words(waiting, "sure", bench) == "trusted with releases; candidates are for the untrusted pool")
        // What it has built satisfies no trusted build, which an untrusted worker does not get either.
        let release = try bench.submit("k")
        #expect(try bench.job(release).state == .queued && bench.job(release).joined == nil)
        #expect(try words(release, "wild", bench) == "not trusted with releases")
        #expect(try bench.report("sure").assignments.map(\.attempt.job) == [release])
        try bench.checkInvariants()
    }

    @Test func anEngineOfBothPoolsServesNeither() throws {
        var bench = Bench()
        try bench.enrol("sure", engine: "e")
        try bench.enrol("wild", trusted: false, engine: "e")
        let (release, candidate) = (try bench.submit("a"), try bench.submit("b", candidate: true))
        #expect(try bench.report("sure").assignments.isEmpty && bench.report("wild").assignments.isEmpty)
        #expect(try words(release, "sure", bench) == "its container engine is also that of wild, which is not trusted with releases")
        #expect(try words(candidate, "wild", bench) == "its container engine is also that of sure, which is trusted with releases")
        // What it has left in the engine stays there when it is shut out.
        try bench.state.revoke(WorkerName("wild"), now: bench.now)
        #expect(try bench.report("sure").assignments.isEmpty)
        try bench.enrol("other", engine: "clean")
        #expect(try bench.report("other").assignments.map(\.attempt.job) == [release])
        // One that does not say what it uses gets nothing where there are two pools, and one that falls silent is the one it was.
        try bench.enrol("mute")
        let next = try bench.submit("c")
        #expect(try bench.report("mute").assignments.isEmpty)
        #expect(try words(next, "mute", bench)?.hasPrefix("it does not say which container engine it uses") == true)
        var facts = Bench.facts
        facts.engineID = nil
        try bench.state.hello(WorkerName("other"), facts: facts, now: bench.now)
        #expect(bench.state.workers[WorkerName("other")]?.facts?.engineID == "clean")
    }

    /// A trusted name that is enrolled anew as untrusted keeps nothing of what it was given, whatever it says.
    @Test func anotherPoolOrMachineKeepsNothing() throws {
        var bench = Bench()
        try bench.enrol("w", engine: "e1")
        let id = try bench.submit("a")
        let attempt = try #require(try bench.report("w").assignments.first?.attempt)
        _ = try bench.report("w", [bench.running(attempt)], slots: 0)
        try bench.enrol("w", trusted: false, engine: "e2")
        #expect(bench.state.attempts[attempt]?.state == .lost)
        _ = try bench.report("w", [bench.running(attempt, .built(Bench.result))])
        #expect(try bench.job(id).state == .queued && bench.state.publications.isEmpty)
        // The same after it was shut out and let in again.
        var other = Bench()
        try other.enrol("w")
        let second = try other.submit("a")
        let lost = try #require(try other.report("w").assignments.first?.attempt)
        other.now = other.now.adding(seconds: 5)
        try other.state.revoke(WorkerName("w"), now: other.now)
        try other.enrol("w")
        _ = try other.report("w", [other.running(lost, .built(Bench.result))], slots: 0)
        #expect(try other.job(second).state == .queued)
    }

    /// What cannot be compared is a releaser's to judge, and holds up nobody else.
    @Test func whatCannotBeComparedIsLeftToTheReleaser() throws {
        var (bench, id) = try built()
        let next = try bench.state.promote(id, PromotionRequest(bytes: false, acceptsDifferences: true), by: "boss", now: bench.now)
        let attempt = try #require(try bench.report("sure").assignments.first?.attempt)
        let usual = try bench.submit("k")
        #expect(try bench.job(usual).joined == nil, "an ordinary build waits for no releaser")
        _ = try bench.report("sure", [bench.running(attempt, .built(Bench.result))], slots: 0)
        let record = try #require(bench.state.publications[next])
        #expect(record.step == .compare)
        bench.state.publicationFailed(record, FarmError("listing.invalid", .corrupt, "no list"), retrySeconds: 1, now: bench.now)
        #expect(try bench.job(next).state == .review && bench.job(next).note?.contains("cannot be compared") == true)
        try bench.state.cancel(next, by: "boss", now: bench.now)
        #expect(try bench.job(next).state == .cancelled && bench.state.candidates.count == 1)
        // And the candidate itself may be given up.
        try bench.state.cancel(id, by: "stranger", now: bench.now)
        #expect(try bench.state.candidates.isEmpty && bench.job(id).note == "a candidate: given up by stranger")
        try bench.commit()
        try bench.checkInvariants()
    }

    @Test func aPromotionUnderWayEndsWithItsBuilder() throws {
        var (bench, id) = try built(promotion: .bytes)
        let next = try bench.state.promote(id, PromotionRequest(bytes: true, acceptsDifferences: false), by: "boss", now: bench.now)
        #expect(bench.state.publications[next]?.result.records.isEmpty == true)
        try bench.stored(next)
        try bench.state.revoke(WorkerName("wild"), now: bench.now)
        #expect(try bench.job(next).state == .cancelled && bench.state.publications[next]?.step == .done)
        #expect(bench.state.jobs.values.allSatisfy { $0.kind != .verify || $0.state.isFinal } && bench.state.candidates.isEmpty)
        try bench.commit()
        try bench.checkInvariants()
    }

    /// What a worker of the untrusted pool says must not reach further than its own candidates.
    @Test func candidatesTeachNothing() throws {
        var (bench, _) = try built()
        #expect(try bench.journal.load(recent: 10).histories.isEmpty)
        var result = Bench.result
        result.diskBytes = .max
        let first = try bench.submit("t1", recipe: "r", declaresDisk: false)
        let attempt = try #require(try bench.report("sure").assignments.first?.attempt)
        bench.now = bench.now.adding(seconds: 9)
        _ = try bench.report("sure", [bench.running(attempt, .built(result))], slots: 0)
        #expect(try bench.job(first).state == .publishing)
        let second = try bench.submit("t2", recipe: "r", declaresDisk: false)
        #expect(try bench.job(second).diskBytes < 1 << 47)
    }

    @Test func whatHasBeenUntrustedStaysUntrusted() throws {
        var bench = Bench()
        try bench.enrol("wild", trusted: false)
        let error = #expect(throws: FarmError.self) { try bench.enrol("wild", trusted: true) }
        #expect(error?.code == "worker.pool")
    }

    @Test func aCandidateBuiltAgainWithTheSameFilesIsReleased() throws {
        var (bench, id) = try built()
        let next = try bench.state.promote(id, PromotionRequest(bytes: false, acceptsDifferences: false), by: "boss", now: bench.now)
        #expect(throws: FarmError.self) {
            try bench.state.promote(id, PromotionRequest(bytes: false, acceptsDifferences: false), by: "boss", now: bench.now)
        }
        #expect(try bench.report("wild").assignments.isEmpty)
        let attempt = try #require(try bench.report("sure").assignments.first?.attempt)
        #expect(attempt.job == next)
        _ = try bench.report("sure", [bench.running(attempt, .built(Bench.result))])
        #expect(bench.state.publications[next]?.step == .compare)
        bench.state.compared(next, comparison([]))
        #expect(bench.state.publications[next]?.step == .packs)
        let record = try #require(bench.state.publications[next])
        let origin = bench.state.origin(of: record)
        #expect(
            origin
                == CandidateOrigin(requestedBy: "stranger", builtOn: "wild", promotedBy: "boss", equality: "files", differenceCount: 0))
        try bench.stored(next)
        _ = try bench.released(next)
        #expect(try bench.job(next).state == .succeeded && bench.job(next).release != nil)
        #expect(bench.state.candidates.isEmpty && bench.state.publications[id]?.step == .cleanup)
        try bench.checkInvariants()
    }

    @Test(arguments: [true, false]) func differencesGoToTheReleaser(_ accepts: Bool) throws {
        var (bench, id) = try built()
        let next = try bench.state.promote(id, PromotionRequest(bytes: false, acceptsDifferences: false), by: "boss", now: bench.now)
        let attempt = try #require(try bench.report("sure").assignments.first?.attempt)
        _ = try bench.report("sure", [bench.running(attempt, .built(Bench.result))])
        bench.state.compared(next, comparison(["/opt/noise"]))
        try bench.commit()
        #expect(try bench.job(next).state == .review && bench.state.publications[next]?.step == .held)
        #expect(bench.state.duePublications(now: bench.now).isEmpty)
        bench.crash()
        if accepts {
            #expect(
                try bench.state.promote(next, PromotionRequest(bytes: false, acceptsDifferences: false), by: "b", now: bench.now) == next)
            #expect(try bench.job(next).acceptsDifferences == false, "other differences would be others")
            #expect(try bench.job(next).state == .publishing && bench.state.publications[next]?.step == .packs)
            #expect(bench.state.origin(of: try #require(bench.state.publications[next]))?.equality == "differs")
        } else {
            try bench.state.cancel(next, by: "b", now: bench.now)
            #expect(try bench.job(next).state == .cancelled && bench.state.publications[next]?.step == .cleanup)
            // It may be promoted still.
            #expect(bench.state.candidates.map(\.job.id) == [id])
        }
        try bench.commit()
        try bench.checkInvariants()
    }

    @Test func theVeryImageIsReleasedOnlyWhereThatIsThePolicyAndATrustedWorkerHasTestedIt() throws {
        var (strict, refused) = try built()
        let error = #expect(throws: FarmError.self) {
            try strict.state.promote(refused, PromotionRequest(bytes: true, acceptsDifferences: false), by: "boss", now: strict.now)
        }
        #expect(error?.code == "promotion.policy")

        var (bench, id) = try built(promotion: .bytes)
        let next = try bench.state.promote(id, PromotionRequest(bytes: true, acceptsDifferences: false), by: "boss", now: bench.now)
        try bench.commit()
        #expect(bench.state.publications[next]?.attempt.job == id && bench.state.publications[next]?.step == .packs)
        try bench.stored(next)
        #expect(try bench.job(next).state == .verifying)
        #expect(try bench.report("wild").assignments.isEmpty)
        let test = try #require(try bench.report("sure").assignments.first?.attempt)
        _ = try bench.report("sure", [bench.running(test, .verified(Bench.verification("x86_64")))])
        #expect(bench.state.publications[next]?.step == .release)
        #expect(bench.state.origin(of: try #require(bench.state.publications[next]))?.equality == "bytes")
        #expect(try bench.released(next).release.builtOn == "wild")
        #expect(bench.state.candidates.isEmpty)
        try bench.checkInvariants()
    }

    @Test func testsThatFailOnATrustedWorkerLeaveTheCandidateWhereItIs() throws {
        var (bench, id) = try built(promotion: .bytes)
        let next = try bench.state.promote(id, PromotionRequest(bytes: true, acceptsDifferences: false), by: "boss", now: bench.now)
        try bench.stored(next)
        let test = try #require(try bench.report("sure").assignments.first?.attempt)
        _ = try bench.report("sure", [bench.running(test, .failed(Failure(.recipe, code: "test.failed", message: "no")))])
        #expect(try bench.job(next).state == .failed && bench.state.publications[next]?.step == .done)
        #expect(bench.state.candidates.map(\.job.id) == [id])
        // Damage is not healed by a build: what was to be released is that very image.
        let again = try bench.state.promote(id, PromotionRequest(bytes: true, acceptsDifferences: false), by: "boss", now: bench.now)
        let record = try #require(bench.state.publications[again])
        bench.state.publicationFailed(record, FarmError("upload.damaged", .corrupt, "x"), retrySeconds: 1, now: bench.now)
        #expect(try bench.job(again).state == .failed)
        try bench.commit()
        try bench.checkInvariants()
    }

    @Test func candidatesGoWithTimeAndWithTheirBuilder() throws {
        var (bench, id) = try built()
        bench.state.expireCandidates(now: bench.now.adding(seconds: 13 * 86400))
        #expect(bench.state.candidates.count == 1)
        bench.state.expireCandidates(now: bench.now.adding(seconds: 15 * 86400))
        #expect(bench.state.candidates.isEmpty && bench.state.publications[id]?.step == .cleanup)
        #expect(try bench.job(id).note == "a candidate: nobody has promoted it in 14 days")
        var (other, second) = try built()
        try other.state.revoke(WorkerName("wild"), now: other.now)
        #expect(other.state.candidates.isEmpty)
        #expect(try other.job(second).note == "a candidate: its builder, wild, was revoked")
        #expect(throws: FarmError.self) {
            try other.state.promote(second, PromotionRequest(bytes: false, acceptsDifferences: false), by: "b", now: other.now)
        }
    }
}
