import ChunkStore
import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// Real binaries, a real engine, a real registry, on loopback.
@Suite(.serialized) struct FarmTests {
    @Test(.timeLimit(.minutes(5))) func fromRequestToRunningCommand() async throws {
        let farm = try await TestFarm()
        try await farm.up()
        let recipe = try await farm.recipe()
        let build = try await farm.sciferry(["build", recipe])
        #expect(build.succeeded, "\(build.text)")
        for phase in ["build", "test", "publishing", "released: sha256:", "7 of 7 tests passed"] {
            #expect(build.text.contains(phase), "\(build.text)")
        }
        // Plain lines, no control characters, when the output is no terminal.
        #expect(!build.output.contains(0x1B) && !build.output.contains(UInt8(ascii: "\r")))
        let again = try await farm.sciferry(["build", recipe])
        #expect(again.text.contains("nothing to build: the same recipe, inputs and CPU target were released by j1"), "\(again.text)")

        let site = "\(farm.scratch.path)/site"
        let quote = try await farm.sciferry(["pull", "tiny", "--site", site, "--dry-run"])
        #expect(quote.text.contains("to fetch for an image of"), "\(quote.text)")
        let pull = try await farm.sciferry(["pull", "tiny", "--site", site])
        #expect(pull.succeeded, "\(pull.text)")
        let release = try #require(try await farm.releases().first?.release)
        #expect(release.base.origin == .registry)
        let image = "\(site)/images/\(release.image.digest.hex)/image.sif"
        #expect(Digest(hashing: try Disk.read(image)) == release.image.digest, "the image is bit-identical")
        try await checkCommands(site, farm)
        try await checkRegions(farm)

        // Uninstalled, installed from what lies there, gone.
        #expect(try await farm.sciferry(["uninstall", "tiny", "--keep-image", "--site", site]).succeeded)
        #expect(!Disk.exists("\(site)/modules/tiny/1.0.lua") && Disk.exists(image))
        #expect(try await farm.sciferry(["install", "tiny", "--site", site]).succeeded)
        #expect(Disk.exists("\(site)/modules/tiny/1.0.lua"))
        #expect(try await farm.sciferry(["list", "--site", site]).text.contains("tiny-tool"))
        #expect(try await farm.sciferry(["uninstall", "tiny", "--site", site]).succeeded)
        #expect(!Disk.exists(image))
        #expect(try await farm.sciferry(["show", "tiny"]).text.contains("commands   tiny-tool"))
        let log = try await farm.sciferry(["logs", "j1"]).text
        #expect(log.contains("/5] RUN ") && log.contains("test passed: says its version"), "\(log)")
    }

    private func checkCommands(_ site: String, _ farm: TestFarm) async throws {
        // From a directory with a space, through a moved site, with every kind of argument.
        let moved = "\(farm.scratch.path)/moved site"
        try Disk.rename(site, to: moved)
        defer { try? Disk.rename(moved, to: site) }
        let work = "\(farm.scratch.path)/a b"
        try Disk.makeDirectory(work)
        let tool = "\(moved)/wrappers/tiny/1.0/bin/tiny-tool"
        func run(_ arguments: [String]) async throws -> CommandResult {
            try await ProcessRunner.run(
                Command(
                    tool, arguments, environment: ["SCIFERRY_MOUNTS": "\(farm.scratch.path)/mounts"], directory: work, deadlineSeconds: 60))
        }
        #expect(try await run([]).text == "1.0\n")
        #expect(
            try await run(["args", "a b", "'", "\"", "$HOME", "*", "", "`x`", "new\nline"]).text
                == "<a b><'><\"><$HOME><*><><`x`><new\nline>")
        #expect(try await run(["exit", "7"]).status == 7)
        let inside = try await ProcessRunner.run(
            Command(
                "\(moved)/bin/sciferry-launch", ["\(moved)/wrappers/tiny/1.0", "sh", "-c", "exec \"$0\"", tool],
                environment: ["SCIFERRY_MOUNTS": "\(farm.scratch.path)/mounts"], directory: work))
        #expect(inside.status == 126 && inside.text.contains("no containers inside a container"))
        _ = try? await ProcessRunner.run(Command("sh", ["-c", "for m in \(farm.scratch.path)/mounts/*; do umount -l \"$m\"; done"]))
        let lua = try String(contentsOfFile: "\(moved)/modules/tiny/1.0.lua", encoding: .utf8)
        #expect(lua.contains("prepend_path(\"PATH\"") && !lua.contains(site))
        let module = try await ProcessRunner.run(
            Command(
                "bash",
                [
                    "-c",
                    ". /usr/share/lmod/lmod/init/bash; module use \"$1/modules\"; module load tiny; type -p tiny-tool; module unload tiny; type -p tiny-tool || echo gone",
                    "-", moved,
                ], directory: work))
        #expect(module.text.contains("/tools/tiny/1.0-") && module.text.contains("gone"), "\(module.text)")
    }

    /// What releases need is in both; what builds were made from is kept in the first.
    private func checkRegions(_ farm: TestFarm) async throws {
        try await farm.eventually("both regions are equal") {
            let (a, b) = (try await FarmTests.content("region-a", farm), try await FarmTests.content("region-b", farm))
            return a == b && !a.contains("incoming/") && a.contains("channels/main.json")
        }
    }

    private static func content(_ region: String, _ farm: TestFarm) async throws -> String {
        let script =
            "cd \(farm.home)/regions/\(region) && find . -type f ! -path './.sciferry-staging/*' ! -path './inputs/*' ! -path './datasets/*' | sort | xargs sha256sum"
        return try await ProcessRunner.require(Command("sh", ["-c", script]))
    }

    @Test(.timeLimit(.minutes(4))) func programsOfADeployPathBecomeCommands() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let directory = try await farm.recipe(
            run: [
                "mkdir /opt/suite && printf \"#!/bin/sh\\necho one\\n\" > /opt/suite/one && chmod 755 /opt/suite/one",
                "ln -s one /opt/suite/two && echo data > /opt/suite/data && cp /opt/suite/one \"/opt/suite/odd name\"",
                "mkdir /opt/away && cp /opt/suite/one /opt/away/unreachable",
            ])
        let path = "\(directory)/build.yaml"
        let text = try String(contentsOfFile: path, encoding: .utf8)
            .replacingOccurrences(of: "deploy:\n", with: "deploy:\n  path: [/opt/suite, /opt/away, /opt/absent]\n")
            .replacingOccurrences(
                of: "  directives:\n",
                with:
                    "  directives:\n    - environment:\n        PATH: /opt/suite:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            )
        try Disk.replace(path, with: Array(text.utf8))
        let build = try await farm.sciferry(["build", directory])
        #expect(build.succeeded, "\(build.text)")
        #expect(try await farm.releases().first?.release.commands == ["tiny-tool", "one", "two"])
        #expect(try await farm.sciferry(["logs", "j1"]).text.contains("not on the image's PATH, so no commands: unreachable"))
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "tiny", "--site", site]).succeeded)
        let two = try await ProcessRunner.run(
            Command(
                "\(site)/wrappers/tiny/1.0/bin/two", [], environment: ["SCIFERRY_MOUNTS": "\(farm.scratch.path)/mounts"],
                directory: farm.scratch.path, deadlineSeconds: 60))
        #expect(two.text == "one\n")
        _ = try? await ProcessRunner.run(Command("sh", ["-c", "for m in \(farm.scratch.path)/mounts/*; do umount -l \"$m\"; done"]))
    }

    @Test(.timeLimit(.minutes(4))) func badRecipesAreToldSoAndNothingIsPublished() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        func refused(_ change: (inout String) -> Void) async throws -> CommandResult {
            let directory = try await farm.recipe("bad")
            var text = try String(contentsOfFile: "\(directory)/build.yaml", encoding: .utf8)
            change(&text)
            try Disk.replace("\(directory)/build.yaml", with: Array(text.utf8))
            return try await farm.sciferry(["build", directory])
        }
        let yaml = try await refused { $0 = $0.replacingOccurrences(of: "architectures: [x86_64]", with: "architectures: [x86_64") }
        #expect(yaml.status == 65 && yaml.text.contains("build.yaml:"), "\(yaml.text)")
        let key = try await refused {
            $0 = $0.replacingOccurrences(of: "categories", with: "x").replacingOccurrences(of: "description:", with: "descripton:")
        }
        #expect(
            key.status == 65 && key.text.contains("build.yaml:4: \"descripton\"") && key.text.contains("did you mean \"description\""),
            "\(key.text)")
        let file = try await refused { $0 += "\nfiles:\n  - name: x\n    filename: missing.txt\n" }
        #expect(file.status == 65 && file.text.contains("missing.txt does not exist"), "\(file.text)")
        let base = try await refused { $0 = $0.replacingOccurrences(of: "/tiny:1", with: "/nosuch:1") }
        #expect(
            base.status == 1 && base.text.contains("no registry offers the base image") && base.text.contains("nosuch:1"), "\(base.text)")

        let step = try await farm.sciferry([
            "build", try await farm.recipe("step", run: ["echo first words", "echo last words >&2; exit 9"]),
        ])
        #expect(step.status == 1 && step.text.contains("ended with status 9") && step.text.contains("last words"), "\(step.text)")
        let test = try await farm.sciferry([
            "build",
            try await farm.recipe(
                "wrong", tests: "  - name: never\n    command: wrong-tool\n    expected_output_contains: something else\n"),
        ])
        #expect(test.status == 1 && test.text.contains("the output does not contain \"something else\""), "\(test.text)")
        let failed = try #require(try await farm.jobs().last)
        #expect(failed.attempts.count == 1, "a recipe's failure is not tried again")
        let shown = try await farm.sciferry(["job", failed.job.id.rawValue]).text
        let kept = "\(farm.workerHome("w1"))/kept/\(failed.job.id).1/image.sif"
        #expect(shown.contains(kept) && Disk.exists(kept), "\(shown)")
        #expect(try await farm.releases().isEmpty)
        #expect(!Disk.exists("\(farm.home)/regions/region-a/channels"))
    }

    @Test(.timeLimit(.minutes(1))) func aNewRecipeIsSound() async throws {
        let scratch = try Scratch()
        func sciferry(_ arguments: [String]) async throws -> CommandResult {
            try await ProcessRunner.run(
                Command("\(TestFarm.bin)/sciferry", ["recipe"] + arguments, directory: scratch.path, deadlineSeconds: 30))
        }
        let plain = try await sciferry([
            "new", "samtools", "--apt", "samtools", "--command", "samtools", "--version", "1.10", "--licence", "MIT", "--description",
            "Reads \"alignments\": all of them.",
        ])
        #expect(plain.succeeded, "\(plain.text)")
        #expect(try await sciferry(["new", "nilearn", "--pip", "nilearn==0.10.4", "--command", "python3"]).succeeded)
        let check = try await sciferry(["check", "recipes/samtools", "recipes/nilearn", "--strict"])
        #expect(check.succeeded && check.text.contains("samtools 1.10, 1 tests, sound"), "\(check.text)")
        #expect(try await sciferry(["render", "recipes/nilearn"]).text.contains("pip install --no-cache-dir 'nilearn==0.10.4'"))
        #expect(try await sciferry(["new", "samtools", "--apt", "x"]).status == 75)
        #expect(try await sciferry(["new", "a_b", "--apt", "x"]).status == 64)
    }

    @Test(.timeLimit(.minutes(4))) func damageInOneRegionIsServedByTheOther() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["build", try await farm.recipe(run: ["head -c 400000 /dev/urandom > /opt/noise"])]).succeeded)
        try await farm.eventually("the mirror is done") { try await farm.jobs().first?.publication?.step == .done }
        let packs = "\(farm.home)/regions/region-a/packs"
        let shard = try #require(try Disk.list(packs).first)
        let pack = "\(packs)/\(shard)/\(try #require(try Disk.list("\(packs)/\(shard)").first))"
        var bytes = try Disk.read(pack)
        bytes[bytes.count / 2] ^= 0x10
        try Disk.replace(pack, with: bytes)
        let pull = try await farm.sciferry(["pull", "tiny", "--site", "\(farm.scratch.path)/s1"])
        #expect(pull.succeeded && pull.text.contains("damage met in file:") && pull.text.contains("is damaged"), "\(pull.text)")
        // A sync from the damaged region says so, and writes nothing that would point at the damaged pack.
        let sync = try await farm.sciferry(["sync", "file:\(farm.home)/regions/region-a", "file:\(farm.scratch.path)/copy"])
        #expect(sync.status == 71 && sync.text.contains("damaged in the source, not copied: packs/"), "\(sync.text)")
        let healed = try await farm.sciferry(["sync", "file:\(farm.home)/regions/region-b", "file:\(farm.scratch.path)/copy"])
        #expect(healed.succeeded && Disk.exists("\(farm.scratch.path)/copy/channels/main.json"), "\(healed.text)")
        let nothing = try await farm.sciferry(["sync", "file:\(farm.home)/regions/region-b", "file:\(farm.scratch.path)/copy"])
        #expect(nothing.text.contains("0 copied (0 B)"), "\(nothing.text)")
        // Truncated, then gone altogether.
        try Disk.replace(pack, with: Array(bytes.prefix(100)))
        #expect(try await farm.sciferry(["pull", "tiny", "--site", "\(farm.scratch.path)/s2"]).succeeded)
        try Disk.remove("\(farm.home)/regions/region-a")
        #expect(try await farm.sciferry(["pull", "tiny", "--site", "\(farm.scratch.path)/s3"]).succeeded)
    }

    @Test(.timeLimit(.minutes(4))) func operatorsAreObeyedAtOnce() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        // A second coordinator on the same home refuses.
        let second = try await ProcessRunner.run(
            Command("\(TestFarm.bin)/sciferry-coordinator", ["--home", farm.home], deadlineSeconds: 30))
        #expect(second.status == 75 && second.text.contains("is in use by coordinator, process"), "\(second.text)")

        // Cancel kills the whole tree, the container too.
        let slow = try await farm.recipe("slow", run: ["sleep 987"])
        #expect(try await farm.sciferry(["build", slow, "--no-wait"]).succeeded)
        @Sendable func sleeping() async throws -> Bool {
            try await ProcessRunner.run(Command("pgrep", ["-f", "^sleep 987|busybox.*987|sh -c.*sleep 987"])).succeeded
        }
        try await farm.eventually("the build sleeps") { try await sleeping() }
        let job = try #require(try await farm.jobs().first { $0.job.recipe == "slow" }).job.id
        #expect(try await farm.sciferry(["cancel", job.rawValue]).succeeded)
        try await farm.eventually("the container is gone", seconds: 20) { try await !sleeping() }
        #expect(try await farm.jobs().first { $0.job.id == job }?.job.state == .cancelled)
        #expect(try await farm.sciferry(["cancel", job.rawValue]).status == 75)
        try await farm.eventually("the attempt's directory is gone") { try farm.attempts("w1").isEmpty }

        // A drained worker gets nothing; the job says why it waits.
        #expect(try await farm.sciferry(["worker", "drain", "w1"]).succeeded)
        #expect(try await farm.sciferry(["build", try await farm.recipe("later"), "--no-wait"]).succeeded)
        let waiting = try #require(try await farm.jobs().first { $0.job.recipe == "later" }).job.id
        try await farm.eventually("the reason is shown") {
            try await farm.sciferry(["job", waiting.rawValue]).text.contains("not on w1: drained by an operator")
        }
        #expect(try await farm.sciferry(["worker", "resume", "w1"]).succeeded)
        try await farm.eventually("it is built") { try await farm.releases().contains { $0.release.name == "later" } }

        // A worker whose disk is too full takes nothing and says so.
        farm.kill("w1")
        try farm.set("w1", "\"minimumFreeGiB\": 1000000")
        try farm.start("w1")
        try await farm.eventually("the refusal is shown") {
            try await farm.sciferry(["workers"]).text.contains("w1 takes no work: its disk has")
        }
        #expect(try await farm.sciferry(["worker", "revoke", "w1"]).succeeded)
        try await farm.eventually("the worker hears it") { farm.log("w1").contains("identity.revoked") }
        try await farm.eventually("it is shown") { try await farm.sciferry(["workers"]).text.contains("revoked") }
    }

    @Test(.timeLimit(.minutes(2))) func aTerminalShowsABar() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        // A step that no engine has in its cache.
        let recipe = try await farm.recipe(run: ["sleep 2; : \(Nonce.hex(bytes: 8))"])
        let words = ["\(TestFarm.bin)/sciferry", "build", recipe, "--home", farm.home].map(ShellWord.quoted).joined(separator: " ")
        let result = try await ProcessRunner.run(Command("script", ["-qec", words, "/dev/null"], deadlineSeconds: 60))
        #expect(result.succeeded && result.text.contains("\r\u{1B}[K[###") && result.text.contains("% build step "), "\(result.text)")
    }

    @Test(.timeLimit(.minutes(2))) func downloadsAreLockedOnceAndThenFetchedFromTheFarm() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let port = try FreePort.find()
        let web = "\(farm.scratch.path)/web"
        try Disk.makeDirectory(web)
        try Disk.replace("\(web)/data.txt", with: Array("from afar\n".utf8))
        let server = try Child(
            "/usr/bin/python3", ["-m", "http.server", "--bind", "127.0.0.1", "--directory", web, String(port)],
            log: "\(farm.scratch.path)/web.log")
        let url = "http://127.0.0.1:\(port)/data.txt"
        func recipe(_ version: String, _ file: String = "data.txt") async throws -> String {
            let directory = try await farm.recipe(
                version: version, run: ["cat {{ get_file(\"data\") }} > /opt/data"],
                tests: "  - name: holds it\n    command: tiny-tool\n    expected_output_contains: from afar\n")
            var text = try String(contentsOfFile: "\(directory)/build.yaml", encoding: .utf8)
            text += "\nfiles:\n  - name: data\n    url: \(url.replacingOccurrences(of: "data.txt", with: file))\n"
            try Disk.replace("\(directory)/build.yaml", with: Array(text.utf8))
            return directory
        }
        let first = try await farm.sciferry(["build", try await recipe("1.0")])
        #expect(first.succeeded, "\(first.text)")
        let absent = try await farm.sciferry(["build", try await recipe("1.2", "nothing.txt")])
        #expect(absent.status == 1 && absent.text.contains("answers with status 404"), "\(absent.text)")
        // Locked: what the server says later does not matter, nor that it is gone.
        let directory = "\(farm.scratch.path)/recipes/tiny-1.0"
        let lock = try String(contentsOfFile: "\(directory)/sciferry.lock", encoding: .utf8)
        #expect(first.text.contains("locked 2 inputs") && lock.contains(Digest(hashing: "from afar\n").hex))
        try Disk.replace("\(web)/data.txt", with: Array("from afar?\n".utf8))
        let again = try await farm.sciferry(["build", directory])
        #expect(again.succeeded && again.text.contains("nothing to build"), "\(again.text)")
        let second = try await farm.sciferry(["build", try await recipe("1.1")])
        #expect(second.succeeded, "\(second.text)")

        // Another farm has none of the bytes: it must fetch them, sees one changed, and refuses.
        let other = try await TestFarm()
        try await other.up(workers: ["w1"])
        let refused = try await other.sciferry(["build", directory])
        #expect(refused.status == 1 && refused.text.contains("[lock.changed]"), "\(refused.text)")
        for text in ["from afar\n", "from afar?\n"] { #expect(refused.text.contains(Digest(hashing: text).hex)) }
        #expect(try await other.releases().isEmpty)
        #expect(try String(contentsOfFile: "\(directory)/sciferry.lock", encoding: .utf8) == lock)
        let accepted = try await other.sciferry(["build", directory, "--update-lock"])
        #expect(accepted.succeeded, "\(accepted.text)")
        #expect(try String(contentsOfFile: "\(directory)/sciferry.lock", encoding: .utf8).contains(Digest(hashing: "from afar?\n").hex))
        server.kill()
        // The new bytes are the farm's own now.
        #expect(try await other.sciferry(["build", directory]).text.contains("nothing to build"))
        try Disk.replace("\(directory)/sciferry.lock", with: Array("{".utf8))
        let broken = try await other.sciferry(["build", directory])
        #expect(broken.status == 65 && broken.text.contains("[lock.invalid]"), "\(broken.text)")
    }
}
