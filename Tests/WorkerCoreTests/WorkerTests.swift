import NIOCore
import FarmMessages
import FarmModel
import FarmWire
import Microarchitecture
import Support
import SystemIO
import Testing
import WorkerCore

@Suite struct FailureCatalogueTests {
    /// Lines that programs really write, each with the class that it must lead to; every class has one.
    @Test func everyClassIsFoundByItsExamples() throws {
        let text = String(decoding: try Repository.file("Tests/WorkerCoreTests/failure-examples.txt"), as: UTF8.self)
        let examples = text.split(separator: "\n").map { $0.split(separator: "\t", maxSplits: 1).map(String.init) }
        for example in examples {
            let found = FailureCatalogue.shared.explain(["something before", example[1], "something after"])
            #expect(found?.class.code == example[0] && found?.line == example[1], "\(example) \(found?.class.code ?? "nothing")")
        }
        let codes = FailureCatalogue.shared.classes.map(\.code)
        #expect(codes.count >= 60 && Set(codes).count == codes.count)
        #expect(Set(codes) == Set(examples.map { $0[0] }))
        for known in FailureCatalogue.shared.classes {
            #expect(known.owner != .cancelled && known.sentence.hasSuffix(".") && !known.sentence.contains("  "), "\(known.code)")
            #expect(known.owner != .recipe || known.retry == .never, "\(known.code)")
        }
    }

    @Test func whatSaysNothingKnownHasNoClass() {
        #expect(FailureCatalogue.shared.explain(["all is well", ""]) == nil)
        #expect(FailureCatalogue.shared.explain([]) == nil)
    }
}

@Suite struct EmulationSurveyTests {
    private static let qemu = """
        enabled
        interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
        flags: PF
        offset 0
        magic 7f454c460201010000000000000000000200b700
        mask ffffffffffffff00fffffffffffffffffeffffff

        """

    @Test func aFormatIsReadAsTheKernelListsIt() throws {
        let format = try #require(ForeignFormat(Self.qemu))
        #expect(format.architecture == "aarch64" && format.worksInContainers)
        #expect(format.interpreter == "/usr/libexec/qemu-binfmt/aarch64-binfmt-P")
        #expect(ForeignFormat(Self.qemu.replacing("flags: PF", with: "flags: P"))?.worksInContainers == false)
        for (old, new) in [
            ("enabled", "disabled"), ("0200b700", "02002800"), ("offset 0", "offset 4"), ("magic 7f454c46", "magic 4d5a"),
            ("magic 7f454c4602", "magic 7f454c4601"),
        ] where Self.qemu.contains(old) {
            #expect(ForeignFormat(Self.qemu.replacing(old, with: new)) == nil, "\(old)")
        }
        #expect(ForeignFormat("") == nil && ForeignFormat("enabled\nextension .py\ninterpreter /usr/bin/python3\n") == nil)
    }

    /// The program is right: it runs, on the machine's own CPU and on every other that the kernel has an emulator for.
    @Test func theProbeRunsWhereItCan() async throws {
        let scratch = try Scratch()
        let facts = try #require(HostSurvey.processor())
        #expect(try #require(await ProbeProgram.seconds(facts.machine, scratch: scratch.path)) > 0)
        #expect(await ProbeProgram.seconds("vax", scratch: scratch.path) == nil)
        for platform in await EmulationSurvey.platforms(own: facts.machine, scratch: scratch.path) {
            #expect(platform.architecture != facts.machine && platform.cost >= 1 && !platform.emulator.isEmpty, "\(platform)")
        }
        #expect(try Disk.list(scratch.path).isEmpty)
    }

    /// An emulator that the kernel lists and that does not run counts for nothing.
    @Test func whatDoesNotRunIsNotOffered() async throws {
        let scratch = try Scratch()
        try Disk.replace("\(scratch.path)/qemu-riscv64", with: Array(Self.qemu.replacing("b700", with: "f300").utf8))
        let listed = await EmulationSurvey.platforms(own: "x86_64", scratch: scratch.path, formats: scratch.path)
        let real = await EmulationSurvey.platforms(own: "x86_64", scratch: scratch.path)
        #expect(listed.map(\.architecture) == real.map(\.architecture).filter { $0 == "riscv64" })
    }
}

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

    private func result(tests: Int) -> AttemptOutcome {
        let outcomes = (0..<tests).map { TestOutcome(name: "test number \($0)", passed: true, problems: [], seconds: 0.1) }
        return .built(
            BuildResult(
                image: Digest(hashing: "i"), imageSize: 1, manifest: IncomingObject(digest: Digest(hashing: "m"), size: 1), packs: [],
                records: [],
                chunkCount: 0, newChunkCount: 0, newBytes: 0, tests: outcomes, testRuntime: "r", commands: [], hostTarget: "t",
                phaseSeconds: [:]))
    }

    @Test func aReportAlwaysFitsIntoAFrame() throws {
        var state = WorkerState(slots: 4)
        let names = ["j1.1", "j2.1", "j3.1", "j4.1"]
        _ = state.obey(try desired(1, names))
        for name in names.prefix(3) { state.ended(try #require(AttemptID(name)), result(tests: 1000)) }
        state.ended(try #require(AttemptID("j4.1")), result(tests: 5000))
        var heard: [AttemptID: AttemptOutcome] = [:]
        var rounds = 0
        while heard.count < 4, rounds < 6 {
            rounds += 1
            let report = state.report(diskFreeBytes: 0, refusal: "", renewalRequest: [])
            let frame = try Frame(.state, try Sciferry_V1_WorkerState(report))
            #expect(frame.body.readableBytes < WireProtocol.largestBody)
            for attempt in report.attempts { if let outcome = attempt.outcome { heard[attempt.id] = outcome } }
            _ = state.obey(try desired(UInt64(rounds + 1), names.filter { name in !heard.keys.contains { $0.description == name } }))
        }
        #expect(state.isIdle && rounds > 1)
        guard case .failed(let failure)? = heard[try #require(AttemptID("j4.1"))] else {
            Issue.record("an outcome that fits into no report is a failure")
            return
        }
        #expect(failure.code == "result.too-large")
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
            "#4 [stage-0 1/3] FROM x\n#4 DONE 0.0s\n#5 [stage-0 2/3] RUN false\n#5 0.31 E: Unable to locate package nosuch\n#5 ERROR: executor failed running [/bin/sh -c false]: exit code: 100\n------\nexecutor failed running [/bin/sh -c false]: exit code: 100\n"
        )
        .failure(status: 1, engineAnswers: true)
        #expect(failure.failureClass == .recipe && failure.code == "build.step-failed")
        #expect(failure.message.hasPrefix("step 2/3 ended with status 100: RUN false. A package that the recipe installs is not to be had"))
        #expect(failure.reason == "apt.package")
        #expect(failure.tail.contains("E: Unable to locate package nosuch"))
    }

    /// As Docker 20.10 tells of it: each step several times, those that were there in any order.
    @Test func howEachStepWentIsTold() {
        let went = output(
            """
            #8 [internal] load metadata for docker.io/library/x
            #8 DONE 0.0s
            #9 [stage-1 1/4] FROM x
            #9 CACHED
            #5 [stage-1 3/4] COPY --from=build /a /a
            #5 sha256:0706
            #5 CACHED
            #4 [build 2/2] RUN make
            #4 0.334 make: nothing to be done
            #4 DONE 0.5s
            #6 [stage-1 2/4] RUN one
            #6 CACHED
            #7 [stage-1 4/4] RUN false
            #7 1.25 no
            #7 ERROR: executor failed running [/bin/sh -c false]: exit code: 1

            """
        ).outcome
        #expect(
            went == [
                BuildStep(number: 2, count: 4, instruction: "RUN one", seconds: 0, origin: .worker),
                BuildStep(number: 3, count: 4, instruction: "COPY --from=build /a /a", seconds: 0, origin: .worker),
                BuildStep(number: 4, count: 4, instruction: "RUN false", seconds: 1.25, origin: .failed),
                BuildStep(number: 2, count: 2, instruction: "RUN make", seconds: 0.5, origin: .run),
            ])
        #expect(went.title == "2 of 4 steps were there, 2 took 1.8 s" && went.firstMiss?.instruction == "RUN false")
    }

    @Test func aFullDiskIsTheWorkersTrouble() {
        let failure = output("#5 [1/1] RUN dd\n#5 1.2 cp: error writing: No space left on device\n#5 ERROR: x: exit code: 1\n")
            .failure(status: 1, engineAnswers: true)
        #expect(failure.failureClass == .infrastructure && failure.code == "disk.full")
    }

    @Test func aLostEngineIsTheWorkersTrouble() {
        // Bash's own complaint about a quote is the recipe's.
        let quote = output("#5 [1/1] RUN x\n#5 0.1 unexpected EOF while looking for matching\n#5 ERROR: x: exit code: 2\n")
        #expect(quote.failure(status: 1, engineAnswers: true).failureClass == .recipe)
        let lost = output("#5 [1/1] RUN x\nerror during connect: EOF\n")
        #expect(lost.failure(status: 1, engineAnswers: false).failureClass == .infrastructure)
    }

    @Test(arguments: [
        "failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 1: unknown instruction: FRMO",
        "#6 [2/3] RUN true\n#6 ERROR: unable to find user nobody2: no matching entries in passwd file",
        "failed to compute cache key: \"/nosuch\" not found: not found",
    ]) func whatTheEngineRefusesIsTheRecipesFault(_ text: String) {
        let failure = output("\(text)\n").failure(status: 1, engineAnswers: true)
        let reason = text.split(separator: "\n").last.map { $0.split(separator: "ERROR: ").last ?? $0 } ?? ""
        #expect(failure.failureClass == .recipe && failure.message.contains(reason))
    }

    @Test func anEngineThatAnswersButBrokeOffIsTriedAgain() {
        let broken = output("#6 [2/3] RUN x\nrpc error: code = Unavailable desc = transport is closing\n")
        #expect(broken.failure(status: 1, engineAnswers: true).failureClass == .infrastructure)
    }

    @Test func snapshotsAreTimes() {
        #expect(BaseProvider.epoch("20261101T000000Z") == 1_793_491_200)
        #expect(BaseProvider.epoch("soon") == 0)
        let fetched = BootstrapSource(suite: "bookworm", snapshot: "20261101T000000Z", mirror: "https://snapshot.example/{snapshot}")
        #expect(fetched.title == "bookworm 20261101T000000Z")
        let own = BootstrapSource(suite: "bookworm", snapshot: "20261101T000000Z", mirror: "")
        #expect(own.title == "bookworm from the worker's own apt sources, file times 20261101T000000Z")
    }
}

@Suite struct ProbedTargetTests {
    private let flags = Microarchitecture.named("icelake").map { $0.features.sorted().joined(separator: " ") } ?? ""

    private var facts: ProcessorFacts { ProcessorFacts(cpuInfo: "vendor_id : GenuineIntel\nflags : \(flags)\n", machine: "x86_64") }

    @Test func whatTheCPURefusesIsNoTarget() throws {
        #expect(ProbedTarget(facts, runs: { _ in true })?.target.name == "icelake")
        let masked = try #require(ProbedTarget(facts, runs: { $0 < 4 }))
        #expect(masked.target.name == "x86_64_v3" && masked.refused == ["x86_64_v4"])
        let old = try #require(ProbedTarget(facts, runs: { _ in false }))
        #expect(old.target.name == "x86_64" && old.refused == ["x86_64_v2", "x86_64_v3", "x86_64_v4"])
        // What cannot be tried is believed.
        #expect(ProbedTarget(facts, runs: { _ in nil })?.target.name == "icelake")
    }

    @Test func thisMachineKeepsWhatItsKernelPromises() throws {
        let facts = try #require(HostSurvey.processor())
        let probed = try #require(ProbedTarget(facts))
        #expect(probed.refused.isEmpty && probed.target == facts.target)
        // A level beyond the machine's own must be refused, not crash the one who asks.
        if let level = facts.target?.level, level < 4 { #expect(ProbedTarget.runsHere(level + 1) == false) }
        #expect(ProbedTarget.runsHere(99) != true)
    }
}
