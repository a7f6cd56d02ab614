import FarmModel
import ProcessRunner
import Support
import Testing

@Suite struct ProcessRunnerTests {
    @Test func whatSaysNothingIsEndedWithAllThatItStarted() async throws {
        let scratch = try Scratch()
        let script = "echo begun; (sleep 600; echo late > \(scratch.path)/late) & wait"
        let result = try await ProcessRunner.run(Command("sh", ["-c", script], silenceSeconds: 12))
        #expect(result.fellSilent && !result.timedOut && !result.succeeded)
        #expect(result.text == "begun\n")
    }

    @Test func whatSpeaksNowAndThenIsLeftAlone() async throws {
        let script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.3; done"
        let result = try await ProcessRunner.run(Command("sh", ["-c", script], silenceSeconds: 60))
        #expect(result.succeeded && result.text.hasSuffix("8\n"))
    }

    @Test func theDeadlineIsKept() async throws {
        let result = try await ProcessRunner.run(
            Command("sh", ["-c", "while :; do echo on; sleep 0.1; done"], deadlineSeconds: 0.5, silenceSeconds: 300))
        #expect(result.timedOut && !result.fellSilent)
        let error = await #expect(throws: FarmError.self) {
            try await ProcessRunner.require(Command("sh", ["-c", "sleep 9"], silenceSeconds: 0.2))
        }
        #expect(error?.message.contains("said nothing for too long") == true, "\(error?.message ?? "")")
    }
}
