import FarmModel
import Foundation
import ISAProof
import Microarchitecture
import ProcessRunner
import Support
import SystemIO
import Testing
import WorkerCore

@Suite struct SquidTests {
    @Test func itsLogIsReckonedUpInWhateverPieces() {
        let log = """
            TCP_MISS 1000
            TCP_HIT 300
            TCP_MEM_HIT 200
            TCP_REFRESH_UNMODIFIED 100
            TCP_REFRESH_MODIFIED 400
            TCP_TUNNEL 5000
            TCP_DENIED 70
            NONE_NONE 0
            TCP_MISS_ABORTED 17
            what is this
            TCP_MISS -5

            """
        let want = InputCacheUse(requests: 5, hits: 3, bytes: 2000, hitBytes: 600, tunnels: 1)
        for size in [1, 7, 1000] {
            var reader = SquidLog()
            let bytes = Array(log.utf8)
            for start in stride(from: 0, to: bytes.count, by: size) { reader.take(bytes[start..<min(bytes.count, start + size)]) }
            #expect(reader.use == want)
        }
        #expect(want.sentence == "3 of 5 downloads and 30 % of 0 MiB from the cache; 1 connections passed through unread")
        #expect(want.since(want) == InputCacheUse())
    }

    @Test func parentsAreHostsWithPorts() {
        #expect(SquidSettings.hostAndPort("cache.example.org:3128")?.port == 3128)
        for wrong in ["", "cache", "cache:", ":3128", "a:0", "a:70000", "a b:1", "a:1:2", "a\nb:1"] {
            #expect(SquidSettings.hostAndPort(wrong) == nil, "\(wrong)")
        }
    }

    /// Squid itself reads what we write for it.
    @Test(.enabled(if: ProcessRunner.find("squid") != nil)) func squidTakesItsSettings() async throws {
        let scratch = try Scratch()
        for (parent, address) in [("", "172.17.0.1"), ("cache.example.org:3128", "127.0.0.1")] {
            let settings = SquidSettings(
                address: address, port: 3999, subnet: "172.17.0.0/16", place: scratch.path, megabytes: 100, parent: parent)
            try Data(settings.text.utf8).write(to: URL(fileURLWithPath: "\(scratch.path)/squid.conf"))
            let result = try await ProcessRunner.run(Command("squid", ["-k", "parse", "-f", "\(scratch.path)/squid.conf"]))
            #expect(result.succeeded && !result.text.contains("ERROR") && !result.text.contains("WARNING"), "\(result.text)")
        }
    }
}

@Suite struct NetworkTurnsTests {
    /// Whoever comes and goes: the two kinds are never in at once, and nobody waits for one who came later.
    @Test(arguments: 0..<30) func kindsTakeTurns(_ seed: Int) {
        var generator = SeededGenerator(UInt64(seed))
        var turns = NetworkTurns()
        var waiting: [(ticket: Int, isKept: Bool)] = []
        var inside: [(ticket: Int, isKept: Bool)] = []
        for _ in 0..<400 {
            switch generator.next() % 3 {
            case 0:
                let isKept = generator.next() % 2 == 0
                waiting.append((turns.arrive(isKept: isKept), isKept))
            case 1 where !waiting.isEmpty:
                let index = Int(generator.next() % UInt64(waiting.count))
                let one = waiting[index]
                let may = waiting[..<index].allSatisfy { $0.isKept == one.isKept } && inside.allSatisfy { $0.isKept == one.isKept }
                let isIn = turns.enter(one.ticket)
                #expect(isIn == may)
                if may {
                    waiting.remove(at: index)
                    inside.append(one)
                }
            default:
                if !inside.isEmpty {
                    let gone = inside.remove(at: Int(generator.next() % UInt64(inside.count)))
                    let wasLast = turns.leave(gone.ticket)
                    #expect(wasLast == (gone.isKept && !inside.contains { $0.isKept }))
                } else if let first = waiting.first {
                    // Somebody who waits no longer lets others in, and was never in.
                    waiting.removeFirst()
                    let wasLast = turns.leave(first.ticket)
                    #expect(!wasLast)
                }
            }
        }
        while !waiting.isEmpty || !inside.isEmpty {
            for one in inside { _ = turns.leave(one.ticket) }
            inside = []
            let first = waiting.prefix { $0.isKept == waiting[0].isKept }
            for one in first {
                let isIn = turns.enter(one.ticket)
                #expect(isIn)
            }
            inside = Array(first)
            waiting.removeFirst(first.count)
        }
    }
}

@Suite struct BuilderTests {
    private func read(_ text: String, _ builder: EngineBuilder, stages: Int = 1) -> BuildOutput {
        var output = BuildOutput(builder, stages: stages)
        var now = Timestamp(seconds: 100)
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            _ = output.take(Array("\(line)\n".utf8), now: now)
            now = now.adding(seconds: 1)
        }
        return output
    }

    @Test func theClassicBuilderIsUnderstood() {
        let output = read(
            """
            Sending build context to Docker daemon  3.072kB
            Step 1/6 : FROM sciferry-base:x
             ---> b1c2b9f895ac
            Step 2/6 : RUN echo hi > /a && sleep 1
             ---> Using cache
             ---> 52805e7b2a9b
            Step 3/6 : ENV A=b
             ---> Running in 1767b9cc202d
            Removing intermediate container 1767b9cc202d
             ---> 844b019ae5e4
            Step 4/6 : WORKDIR /opt/x
             ---> Running in c7b1617d09fd
            Removing intermediate container c7b1617d09fd
             ---> 87b442ed3a28
            Step 5/6 : RUN make
             ---> Running in 1b0bdec85052
            cc: no such file
            The command '/bin/sh -c make' returned a non-zero code: 2
            """, .classic)
        #expect(output.outcome.map(\.origin) == [.worker, .run, .failed])
        #expect(output.outcome[1].seconds == 3 && output.outcome[2].seconds == 3)
        #expect(output.lastImage == "87b442ed3a28" && output.lastStageEntries == [true, false, true])
        #expect(output.lastStage(layers: 4).map(\.origin) == [.worker, .run, .failed, .failed])
        let failure = output.failure(status: 1, engineAnswers: true)
        #expect(failure.code == "build.step-failed" && failure.message.hasPrefix("step 5/6 ended with status 2: RUN make"))
        #expect(failure.tail.contains("cc: no such file"))
    }

    @Test func buildahIsUnderstood() {
        let output = read(
            """
            [1/2] STEP 1/2: FROM sciferry-base:x AS one
            [1/2] STEP 2/2: RUN echo 1
            1
            [2/2] STEP 1/4: FROM sciferry-base:x
            [2/2] STEP 2/4: RUN echo 2
            --> Using cache 71ae223b644c0d43e0aab2b3d2e4f6d5ea2bd6a3c3e5e8a5de7a0e4c2ab9cf2f
            --> 71ae223b644
            [2/2] STEP 3/4: COPY f /f
            [2/2] STEP 4/4: RUN false
            error building at STEP "RUN false": error while running runtime: exit status 1
            """, .buildah, stages: 2)
        #expect(output.outcome.map(\.origin) == [.run, .worker, .run, .failed])
        #expect(output.lastStage(layers: 3).map(\.origin) == [.worker, .run, .failed] && output.lastImage == nil)
        #expect(output.failure(status: 1, engineAnswers: true).message.hasPrefix("step 4/4 ended with status 1: RUN false"))
        #expect(output.lastStage(layers: 2).isEmpty, "more steps than the plan has")
        let whole = read("STEP 1/2: FROM x\nSTEP 2/2: RUN make\nCOMMIT tag\nSuccessfully tagged localhost/tag:latest", .buildah)
        #expect(whole.outcome.map(\.origin) == [.run])
    }

    /// What an earlier stage did is nothing of the last one's, and what a step prints is no step.
    @Test func stagesAreNotTakenForEachOther() {
        let early = read(
            "Step 1/5 : FROM a AS one\n ---> 0123456789ab\nStep 2/5 : RUN make\n ---> 0123456789ac\nStep 3/5 : RUN false", .classic,
            stages: 2)
        #expect(early.lastStage(layers: 1).isEmpty && early.lastStageEntries.isEmpty && early.lastImage == nil)
        #expect(early.outcome.map(\.origin) == [.run, .failed])
        let printed = read(
            "Step 1/3 : FROM a\n ---> 0123456789ab\nStep 2/3 : RUN printf\nStep 1/3 : FROM b\nStep 3/4 : RUN x\nStep 2/3 : RUN y\n ---> 0123456789ac",
            .classic)
        #expect(printed.outcome.map(\.instruction) == ["RUN printf"] && printed.lastStageEntries == [true])
    }

    /// Whatever steps print, it never counts what was not begun, and takes no step for done that was not.
    @Test(arguments: 0..<20) func noiseIsNoStep(_ seed: Int) {
        var generator = SeededGenerator(UInt64(seed))
        let noise = ["---> ", " ---> Using", "--> zz", "Step x/y : RUN", "STEP 1/0:", "Step 3 : a", "[", "[1/2] STEP", " ---> abc", ""]
        var text = "Step 1/2 : FROM a\n ---> 0123456789ab\nStep 2/2 : RUN noise\n ---> Running in 0123456789ab\n"
        for _ in 0..<200 { text += noise[Int(generator.next() % UInt64(noise.count))] + "\n" }
        let output = read(text, .classic)
        #expect(output.outcome.map(\.origin) == [.failed] && output.lastStageEntries.isEmpty)
    }

    /// A line within an instruction is none of its own.
    @Test func stagesAreCounted() {
        let text = "FROM a AS one\nRUN sql \\\n# a remark\nFROM table\n  from b\nCOPY --from=one /x /x\n"
        #expect(DockerfileNeeds.stages(text) == 2 && !DockerfileNeeds.buildKit(text))
    }

    @Test(arguments: [
        ("FROM a\nRUN make", false), ("FROM a\nRUN --mount=type=bind,target=/x make", true), ("FROM a\nCOPY --from=b /x /x", false),
        ("FROM a\nCOPY --chown=1:1 x /x", false), ("FROM a\nCOPY --chmod=755 x /x", true), ("FROM a\nRUN cat <<EOF\nx\nEOF", true),
        ("FROM a\nRUN echo \\\n  --mount=no", false), ("FROM a\nrun --network=none make", true), ("FROM a\nRUN cat <<<word", false),
    ]) func whatNeedsBuildKitIsKnown(_ dockerfile: String, _ needs: Bool) {
        #expect(DockerfileNeeds.buildKit(dockerfile) == needs)
        let engine = DockerEngine(program: "docker", host: "", prefersClassic: true, marks: [:])
        #expect(engine.builder(for: dockerfile) == (needs ? .buildkit : .classic))
    }
}

@Suite struct ProofShelfTests {
    private func files(_ contents: [String: [UInt8]], _ reads: ReadCount) -> [ImageProof.File] {
        contents.map { path, bytes in
            ImageProof.File(path: path) {
                reads.count += 1
                return bytes
            }
        }
    }

    private final class ReadCount {
        var count = 0
    }

    /// Equal code has an equal report, whichever build it is of; any other byte, name, target or version is looked into anew.
    @Test func whatWasLookedIntoIsNotLookedIntoAgain() throws {
        let scratch = try Scratch()
        let program = try Array(Data(contentsOf: URL(fileURLWithPath: "/bin/true")))
        let target = try #require(Microarchitecture.named("x86_64"))
        let place = "\(scratch.path)/proofs"
        func look(_ contents: [String: [UInt8]], _ target: Microarchitecture, version: String = "1") throws -> (InstructionReport, Int) {
            let reads = ReadCount()
            let report = try ProofShelf(place, program: version).report(on: files(contents, reads), target: target) {}
            return (report, reads.count)
        }
        let (first, firstReads) = try look(["/bin/true": program], target)
        let (again, againReads) = try look(["/bin/true": program], target)
        #expect(again == first && firstReads == 2 && againReads == 1)
        let reads = ReadCount()
        #expect(try ProofShelf(nil).report(on: files(["/bin/true": program], reads), target: target) {} == first && reads.count == 1)
        // The last byte is a section's, not code's: it counts all the same.
        var other = program
        other[other.count - 1] ^= 1
        let level = try #require(Microarchitecture.named("x86_64_v3"))
        for (contents, target, version) in [
            (["/bin/true": other], target, "1"), (["/bin/false": program], target, "1"), (["/bin/true": program], level, "1"),
            (["/bin/true": program], target, "2"),
        ] { #expect(try look(contents, target, version: version).1 == 2) }
        // A damaged note is made anew.
        for name in try Disk.list(place) { try Disk.replace("\(place)/\(name)", with: Array("{".utf8)) }
        let (mended, mendedReads) = try look(["/bin/true": program], target)
        #expect(mended == first && mendedReads == 2)
    }

    @Test func itDoesNotGrowForEver() throws {
        let scratch = try Scratch()
        let place = "\(scratch.path)/proofs"
        try Disk.makeDirectory(place)
        for number in 0..<1000 { try Disk.write("\(place)/\(number).json", []) }
        let target = try #require(Microarchitecture.named("x86_64"))
        _ = try ProofShelf(place).report(on: [], target: target) {}
        #expect(try Disk.list(place).count <= 750)
    }
}
