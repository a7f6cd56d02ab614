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
        let channel = bench.state.nextChannel("main", days: 1, now: bench.now)
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
        try bench.state.revoke(WorkerName("wild"), now: bench.now)
        #expect(try bench.report("sure").assignments.map(\.attempt.job) == [release])
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
                try bench.state.promote(next, PromotionRequest(bytes: false, acceptsDifferences: true), by: "b", now: bench.now) == next)
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
