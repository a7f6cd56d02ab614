import FarmModel
import Glibc
import ProcessRunner
import Support
import SystemIO
import TestSuites
import Testing

@testable import ImageTesting

/// A small image: busybox, what a test adds, and a program for every command.
struct SmallImage {
    let path: String
    let scratch: Scratch

    /// - Parameter commands: scripts by name, in /opt/tool/bin.
    init(_ commands: [String: String], _ change: String = "true") async throws {
        scratch = try Scratch()
        let root = "\(scratch.path)/root"
        for directory in ["bin", "tmp", "proc", "dev", "sys", "etc", "opt/tool/bin", "var/tmp", ".singularity.d/env", "usr/lib"] {
            try Disk.makeDirectory("\(root)/\(directory)")
        }
        for (name, text) in commands {
            try Disk.replace("\(root)/opt/tool/bin/\(name)", with: Array("#!/bin/sh\n\(text)\n".utf8), mode: 0o755)
        }
        try Disk.replace(
            "\(root)/.singularity.d/env/10-path.sh", with: Array("export PATH=/opt/tool/bin:/bin\n".utf8), mode: 0o755)
        let script = """
            cd "$1"
            cp /bin/busybox bin/busybox
            for name in $(busybox --list | grep -v '^busybox$'); do ln -s busybox "bin/$name"; done
            : >etc/resolv.conf; : >etc/passwd
            \(change)
            mksquashfs . "$2" -all-root -noappend -quiet -no-progress >/dev/null
            """
        path = "\(scratch.path)/image.sif"
        try await ProcessRunner.require(Command("bash", ["-ec", script, "bash", root, path], deadlineSeconds: 60))
    }

    func plan(_ commands: [String]) -> Plan {
        Plan(
            name: "tool", version: "1.0", architecture: SmallImage.architecture, target: SmallImage.architecture,
            base: BaseImage(name: "none", digest: Digest(hashing: ""), origin: .registry, size: 0, bootstrap: nil), dockerfile: "",
            context: [], commands: commands, commandPaths: [], description: "a tool", categories: [], licences: [], suite: TestSuite(),
            diskBytes: 0)
    }

    static var architecture: String {
        #if arch(arm64)
            "aarch64"
        #else
            "x86_64"
        #endif
    }

    /// Runs something in a place that is removed afterwards.
    func with<Value>(_ body: (ImageRunner) async throws -> Value) async throws -> Value {
        let runner = try await ImageRunner(path, launch: "offset 0\n", place: "/tmp/sciferry-tests-unit-\(Nonce.hex(bytes: 4))")
        do {
            let start = try await runner.start()
            #expect(start.passed, "\(start.problems)")
            let value = try await body(runner)
            await runner.cleanUp()
            #expect(!Disk.exists(runner.root))
            return value
        } catch {
            await runner.cleanUp()
            throw error
        }
    }

    /// What the checks of every image say of some commands, those that passed left out.
    func failures(_ commands: [String]) async throws -> [String: [String]] {
        let plan = plan(commands)
        let records = try await with {
            try await BuiltInChecks(plan, found: [], in: $0, startSeconds: 3).run(jobs: 2, SuiteRunner.Watchers())
        }
        #expect(records.contains { $0.outcome.name == "arguments arrive as they were given" && $0.outcome.passed })
        return Dictionary(records.filter { !$0.outcome.passed }.map { ($0.outcome.name, $0.outcome.problems) }) { first, _ in first }
    }
}

/// Images that are broken in the ways that images are; the checks of every image find each of them.
@Suite(.serialized) struct BrokenImageTests {
    @Test func aSoundImageHasNothingAgainstIt() async throws {
        let image = try await SmallImage(["sound": "echo sound 1.0", "moody": "echo usage >&2; exit 3"])
        #expect(try await image.failures(["sound", "moody"]).isEmpty)
    }

    @Test func aMissingLibraryIsNamed() async throws {
        let image = try await SmallImage(
            [:],
            """
            cp /bin/ls opt/tool/bin/linked
            for library in $(ldd /bin/ls | grep -o '/[^ ]*'); do mkdir -p ".$(dirname "$library")"; cp -L "$library" ".$library"; done
            cp -L /bin/bash bin/bash; for library in $(ldd /bin/bash | grep -o '/[^ ]*'); do mkdir -p ".$(dirname "$library")"; cp -nL "$library" ".$library"; done
            cp /usr/bin/ldd bin/ldd; rm -f bin/od
            find . -name 'libpcre2*' -delete; find . -name 'libselinux*' -delete
            """)
        let found = try await image.failures(["linked"])
        let problems = try #require(found["command linked is there"], "\(found)")
        #expect(problems[0].contains("libselinux.so.1") && problems[0].contains("needs libraries"), "\(problems)")
    }

    @Test func anotherMachinesProgramIsNamed() async throws {
        // A head of ELF that claims to be for RISC-V.
        let image = try await SmallImage(
            [:],
            "{ printf '\\177ELF\\2\\1\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\2\\0\\363\\0'; head -c 200 /dev/zero; } >opt/tool/bin/strange; chmod 755 opt/tool/bin/strange"
        )
        let found = try await image.failures(["strange"])
        #expect(found["command strange is there"]?[0].contains("RISC-V") == true, "\(found)")
    }

    @Test func aCommandThatNobodyMayRunIsNamed() async throws {
        let image = try await SmallImage(["shut": "echo", "owned": "echo"], "chmod 644 opt/tool/bin/shut; chmod 700 opt/tool/bin/owned")
        let found = try await image.failures(["shut", "owned", "absent"])
        #expect(
            found["command shut is there"]?[0].contains("/opt/tool/bin/shut is there, and an ordinary user may not run it") == true,
            "\(found)")
        // Root may run what is its own; tests run as somebody else, whom busybox tells that it may, and the kernel that it may not.
        if geteuid() == 0 { #expect(found["command owned starts"]?[0].contains("cannot be run") == true, "\(found)") }
        #expect(found["command absent is there"] == ["it is not on the image's PATH"])
    }

    @Test(.timeLimit(.minutes(3))) func aCommandThatHangsIsNamed() async throws {
        let image = try await SmallImage(["deaf": "trap '' TERM INT; while :; do sleep 1; done"])
        let found = try await image.failures(["deaf"])
        #expect(found["command deaf starts"]?[0] == "deaf --version: it did not end", "\(found)")
    }

    @Test(.timeLimit(.minutes(3))) func aCommandThatEatsMemoryIsNamed() async throws {
        // A third of a gigabyte is much for a program that says its version, but what is allowed in general is more: here the watch is asked.
        let image = try await SmallImage(["hungry": "exec tail -c 3000000000 </dev/zero"])
        let seen = try await image.with { runner in
            try await runner.run("hungry", [], name: "hungry", ImageRunner.Terms(timeout: 60, memoryBytes: 300 << 20))
        }
        #expect(seen.outOfMemory && seen.memoryBytes > 300 << 20 && !seen.timedOut, "\(seen)")
        #expect(StartCheck.problem(seen)?.contains("of memory") == true)
    }

    @Test func aCommandThatWritesElsewhereIsNamed() async throws {
        let image = try await SmallImage([
            "messy": "echo 1 >/opt/tool/state || exit 1", "rooty": "echo 1 >/state || exit 1", "neat": "echo 1 >state; echo 1 >/tmp/state",
        ])
        let found = try await image.failures(["messy", "rooty", "neat"])
        #expect(found["command messy starts"]?[0].contains("wants to write where nothing can be written") == true, "\(found)")
        #expect(found["command rooty starts"]?[0].contains("wants to write") == true, "\(found)")
        #expect(found["command neat starts"] == nil)
    }

    @Test func anInterpreterThatIsGoneIsNamed() async throws {
        let image = try await SmallImage(
            [:], "printf '#!/opt/gone/python3\\nprint(1)\\n' >opt/tool/bin/script; chmod 755 opt/tool/bin/script")
        #expect(try await image.failures(["script"])["command script starts"]?[0].contains("cannot be run") == true)
    }

    @Test(.timeLimit(.minutes(3))) func aProgramThatDrawsNothingIsNamed() async throws {
        guard ProcessRunner.find("Xvfb") != nil, let logo = ProcessRunner.find("xlogo") else { return }
        let image = try await SmallImage(
            [:],
            """
            cp \(logo) opt/tool/bin/xlogo
            for library in $(ldd \(logo) | grep -o '/[^ ]*'); do mkdir -p ".$(dirname "$library")"; cp -L "$library" ".$library"; done
            """)
        let plan = image.plan(["xlogo"])
        let programs = [
            GraphicalProgram(name: "Logo", command: "xlogo"), GraphicalProgram(name: "Blank", command: "sleep 60"),
            GraphicalProgram(name: "Gone", command: "echo no screen; exit 3"),
        ]
        let (records, screenshots) = try await image.with { runner in
            try await BuiltInChecks(plan, found: [], in: runner).windows(programs, seconds: 5, SuiteRunner.Watchers())
        }
        #expect(records.map(\.outcome.passed) == [true, false, false], "\(records)")
        #expect(records[1].outcome.problems == ["it drew nothing within 5 s"])
        #expect(records[2].outcome.problems == ["it ended with status 3 and drew nothing"] && records[2].tail == ["no screen"])
        let shot = try #require(screenshots.first)
        let picture = try Picture(png: shot.png, source: "screenshot")
        #expect(screenshots.count == 1 && shot.program == "Logo" && picture.width == 1280 && picture.height == 800 && picture.drawn > 1000)
    }

    // MARK: how tests run

    @Test func testsRunAsAnOrdinaryUserWithoutNetworkOrSecrets() async throws {
        let image = try await SmallImage([:])
        setenv("SCIFERRY_UNIT_SECRET", "s3cret", 1)
        defer { unsetenv("SCIFERRY_UNIT_SECRET") }
        let said = try await image.with { runner in
            try await runner.run(
                script: "id -u; ls /sys/class/net 2>/dev/null | tr '\\n' ' '; grep -c : /proc/net/dev; env; ls -a /root /home 2>&1",
                name: "who",
                ImageRunner.Terms(timeout: 30, network: false)
            ).output
        }
        let lines = said.split(separator: "\n").map(String.init)
        #expect(lines.first != "0", "\(said)")
        #expect(!said.contains("s3cret") && said.contains("\n1\n") || lines.contains { $0.hasSuffix("1") }, "lo alone: \(said)")
    }

    @Test func aSuiteRunsWhole() async throws {
        let image = try await SmallImage(["double": "echo $(($1 * 2))"])
        var suite = TestSuite(tests: [
            FunctionalTest(
                name: "counts", command: "double ${number} | tee ${output_dir}/n.txt", expectedOutput: ["42"],
                outputFiles: ["${output_dir}/n.txt"]),
            FunctionalTest(
                name: "sees it", command: "cat ${output_dir}/n.txt $SEEN", expectedOutput: ["42", "set up"], dependsOn: ["counts"]),
            FunctionalTest(name: "fails", command: "echo loud; exit 4"),
            FunctionalTest(name: "stands on it", command: "true", dependsOn: ["fails"]),
            FunctionalTest(name: "hangs", command: "sleep 100", timeoutSeconds: 1),
            FunctionalTest(name: "runs a script", command: "", script: TestScript(text: "import $number", suffix: ".txt", runner: "cat")),
            FunctionalTest(name: "prepares itself", command: "echo $OWN-$SEEN", expectedOutput: ["own-"], preparation: "export OWN=own"),
            FunctionalTest(name: "cannot look outside", command: "ln -s /etc/passwd link", checks: [.sha256(file: "link", hex: "00")]),
        ])
        suite.setup = "echo set up >seen.txt"
        suite.preparation = "export SEEN=seen.txt"
        suite.cleanup = "echo cleaned"
        suite.hostSetup = "python3 -c 'print(6 * 7)' >host.txt; ls / >>host.txt"
        suite.variables = [
            SuiteVariable(name: "number", value: "21", kind: .text), SuiteVariable(name: "output_dir", value: "out", kind: .output),
        ]
        suite.isParallel = true
        let ready = suite
        let (records, host) = try await image.with { runner in
            let records = try await SuiteRunner(ready, name: "tool", in: runner, jobs: 2).run()
            return (records, try String(decoding: Disk.read("\(runner.place.work)/host.txt"), as: UTF8.self))
        }
        let outcomes = Dictionary(records.map { ($0.outcome.name, $0) }) { first, _ in first }
        #expect(records.map(\.outcome.name) == suite.tests.map(\.name))
        #expect(
            records.filter(\.outcome.passed).map(\.outcome.name) == ["counts", "sees it", "runs a script", "prepares itself"], "\(records)")
        #expect(outcomes["fails"]?.outcome.problems == ["ended with status 4, expected 0"] && outcomes["fails"]?.tail == ["loud"])
        #expect(outcomes["stands on it"]?.outcome.wasSkipped == true && outcomes["hangs"]?.outcome.problems == ["took longer than 1 s"])
        #expect(outcomes["cannot look outside"]?.outcome.problems.first?.contains("lies outside") == true)
        // The host's own script has its programs, and none of its files.
        #expect(host.hasPrefix("42\n") && !host.contains("root\n") && !host.contains("home"), "\(host)")
    }

    /// What only root may read is read for nobody, however a test comes to name it.
    @Test func filesAreOpenedWithTheTestsOwnRights() async throws {
        guard geteuid() == 0 else { return }
        let image = try await SmallImage([:])
        try await image.with { runner in
            let files = PlaceFiles(runner.place)
            let secret = "\(runner.place.work)/secret"
            try Disk.replace(secret, with: Array("root's\n".utf8), mode: 0o600)
            #expect(try files.exists("secret"))
            #expect(throws: FarmError.self) { try files.read("secret") }
            try runner.place.give(secret)
            #expect(try files.read("secret") == Array("root's\n".utf8))
            #expect(try files.matching("*") == ["secret"])
            // This thread is root again.
            try Disk.replace(secret, with: [], mode: 0o600)
            #expect(try Disk.read(secret).isEmpty)
        }
    }

    @Test func whatTakesLongIsLeft() async throws {
        let image = try await SmallImage([:])
        var suite = TestSuite(tests: (0..<6).map { FunctionalTest(name: "t\($0)", command: "sleep 0.4") })
        suite.isParallel = true
        let ready = suite
        let records = try await image.with { try await SuiteRunner(ready, name: "tool", in: $0, jobs: 1, budget: 0.6).run() }
        let left = records.filter { $0.outcome.wasLeft ?? false }
        #expect(records.count == 6 && !left.isEmpty && records.filter(\.outcome.passed).count == 6 - left.count, "\(records)")
    }
}
