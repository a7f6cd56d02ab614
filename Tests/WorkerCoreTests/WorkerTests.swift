import FarmMessages
import FarmModel
import Support
import SystemIO
import Testing
import WorkerCore

@Suite struct WorkerStateTests {
    private func desired(_ revision: UInt64, _ attempts: [String]) throws -> DesiredWork {
        DesiredWork(
            sequence: revision,
            assignments: try attempts.map { .init(attempt: try #require(AttemptID($0)), order: .build(plan: Digest(hashing: $0))) },
            nextContactSeconds: 1, draining: false, revision: revision)
    }

    @Test func startsWhatIsNewAndKillsWhatIsUnwanted() throws {
        var state = WorkerState(slots: 2)
        let id = try #require(AttemptID("j1.1"))
        #expect(state.obey(try desired(1, ["j1.1"])).count == 1)
        #expect(state.obey(try desired(2, ["j1.1"])).isEmpty)
        #expect(state.obey(try desired(3, [])) == [.kill(id)])
        #expect(state.obey(try desired(4, [])).isEmpty, "it is killed once")
        var report = state.report(diskFreeBytes: 0, refusal: "", renewalRequest: [])
        #expect(report.attempts.isEmpty && report.freeSlots == 1, "the slot is busy until it has cleaned up")
        state.ended(id, nil)
        report = state.report(diskFreeBytes: 0, refusal: "", renewalRequest: [])
        #expect(report.freeSlots == 2 && state.isIdle)
    }

    @Test func anOvertakenDesiredStateIsIgnored() throws {
        var state = WorkerState(slots: 1)
        _ = state.obey(try desired(5, ["j1.1"]))
        #expect(state.obey(try desired(4, [])).isEmpty)
        // Another coordinator process counts from the beginning.
        state.connected(to: "new")
        #expect(state.obey(try desired(1, [])).count == 1)
    }

    @Test func anOutcomeIsRepeatedUntilItIsHeard() throws {
        var state = WorkerState(slots: 1)
        let id = try #require(AttemptID("j1.1"))
        _ = state.obey(try desired(1, ["j1.1"]))
        state.ended(id, .failed(Failure(.recipe, code: "c", message: "m")))
        for _ in 0..<3 { #expect(state.report(diskFreeBytes: 0, refusal: "", renewalRequest: []).attempts.first?.outcome != nil) }
        _ = state.obey(try desired(2, []))
        #expect(state.isIdle)
    }
}

@Suite struct BuildOutputTests {
    private func output(_ text: String) -> BuildOutput {
        var output = BuildOutput()
        for byte in text.utf8 { _ = output.take([byte]) }
        return output
    }

    @Test func aFailedStepIsNamedAndIsTheRecipesFault() {
        let failure = output(
            "Step 1/3 : FROM x\n ---> 1\nStep 2/3 : RUN false\nE: Unable to locate package nosuch\nThe command '/bin/sh -c false' returned a non-zero code: 100\n"
        )
        .failure(status: 1)
        #expect(failure.failureClass == .recipe && failure.code == "build.step-failed")
        #expect(failure.message == "step 2/3 ended with status 100: RUN false")
        #expect(failure.tail.contains("E: Unable to locate package nosuch"))
    }

    @Test func aFullDiskIsTheWorkersTrouble() {
        let failure = output("Step 1/1 : RUN dd\ncp: error writing: No space left on device\nThe command x returned a non-zero code: 1\n")
            .failure(status: 1)
        #expect(failure.failureClass == .infrastructure && failure.code == "disk.full")
    }

    @Test func aLostEngineIsTheWorkersTrouble() {
        // Bash's own complaint about a quote is the recipe's.
        let quote = output("Step 1/1 : RUN x\nunexpected EOF while looking for matching\nThe command x returned a non-zero code: 2\n")
        #expect(quote.failure(status: 1).failureClass == .recipe)
        #expect(output("Step 1/1 : RUN x\nerror during connect: EOF\n").failure(status: 1).failureClass == .infrastructure)
    }

    @Test func snapshotsAreTimes() {
        #expect(BaseProvider.epoch("20261101T000000Z") == 1_793_491_200)
        #expect(BaseProvider.epoch("soon") == 0)
    }
}
