import FarmModel
import FileStore
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// `sciferry store` as people use it: the real binary, directories, a real S3 server.
@Suite(.serialized) struct StoreTests {
    private let program = "\(TestFarm.bin)/sciferry"

    private func run(_ arguments: [String], environment: [String: String] = [:]) async throws -> CommandResult {
        try await ProcessRunner.run(
            Command(program, ["store"] + arguments, environment: environment.mapValues { Optional($0) }, deadlineSeconds: 120))
    }

    /// Two files that share most; not compressible, like images.
    private func files(_ scratch: Scratch, megabytes: Int) async throws -> (String, String) {
        let (one, two) = ("\(scratch.path)/one.sif", "\(scratch.path)/two.sif")
        let script = """
            head -c \(megabytes)000000 /dev/urandom > \(one)
            { head -c 3000000 \(one); echo changed; tail -c +3500001 \(one); } > \(two); chmod 755 \(two); touch -d '2020-02-02 02:02:02.5 UTC' \(two)
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script], deadlineSeconds: 60))
        return (one, two)
    }

    private func isSame(_ left: String, _ right: String) async throws -> Bool {
        try await ProcessRunner.run(Command("cmp", [left, right], deadlineSeconds: 60)).succeeded
    }

    @Test(.timeLimit(.minutes(3))) func aDirectoryHoldsAStore() async throws {
        let scratch = try Scratch()
        let (one, two) = try await files(scratch, megabytes: 20)
        let bucket = "file:\(scratch.path)/bucket"
        let added = try await run(["add", bucket, one, two])
        #expect(added.succeeded && added.text.contains("one.sif  20.0 MB"), "\(added.text)")
        let again = try await run(["add", bucket, one, "--as", "again", "--json"])
        let additions = try CanonicalJSON.decode([FileStore.Addition].self, from: again.output, source: "add")
        #expect(additions[0].newChunks == 0 && additions[0].sentBytes == 0)
        let out = "\(scratch.path)/out"
        let restored = try await run(["restore", bucket, "two.sif", "-o", out, "--seed", one])
        #expect(restored.succeeded && restored.text.contains("from 1 local file"), "\(restored.text)")
        #expect(try await isSame(out, two))
        let facts = try await ProcessRunner.require(Command("stat", ["-c", "%a %.1Y", out], deadlineSeconds: 10))
        #expect(facts == "755 1580608922.5\n")
        let twice = try await run(["restore", bucket, "one.sif", "-o", out])
        #expect(twice.status == 75 && twice.text.contains("--force"), "\(twice.text)")
        #expect(try await run(["restore", bucket, "one.sif", "-o", out, "--force"]).succeeded)
        #expect(try await isSame(out, one))
        #expect(try await run(["stat", bucket]).text.contains("3 files, 59.5 MB"))
        #expect(try await run(["restore", bucket, "nothing"]).status == 66)
        #expect(try await run(["list", "file:\(scratch.path)/none"]).status == 66)
        #expect(try await run(["remove", bucket, "one.sif", "again"]).succeeded)
        #expect(try await run(["collect", bucket]).text.contains("removed    0 objects"))
        let collected = try await run(["collect", bucket, "--grace", "0"])
        #expect(collected.succeeded && !collected.text.contains("removed    0"), "\(collected.text)")
        #expect(try await run(["check", bucket, "--read"]).succeeded)
        #expect(try Disk.list(scratch.path).allSatisfy { !$0.contains(".part-") })
    }

    /// Killed at many moments: nothing is ever damaged, and what was sent is found.
    @Test(.timeLimit(.minutes(5))) func aKilledAdditionGoesOn() async throws {
        let scratch = try Scratch()
        let (one, two) = try await files(scratch, megabytes: 150)
        let bucket = "file:\(scratch.path)/bucket"
        #expect(try await run(["add", bucket, two]).succeeded)
        for round in 1...8 {
            let child = try Child(
                program, ["store", "add", bucket, one, "--as", "killed-\(round)", "--jobs", "2"], log: "\(scratch.path)/log")
            try await Task.sleep(for: .milliseconds(40 * round))
            child.kill()
            let health = try await run(["check", bucket, "--read"])
            #expect(health.succeeded, "\(health.text)")
        }
        let second = "file:\(scratch.path)/second"
        let child = try Child(program, ["store", "add", second, one], log: "\(scratch.path)/log")
        // Killed when its second pack is there, so that the first is whole.
        for _ in 0..<2000 {
            let packs = try? await ProcessRunner.require(
                Command("find", ["\(scratch.path)/second/packs", "-type", "f"], deadlineSeconds: 10))
            if (packs ?? "").split(separator: "\n").count >= 2 { break }
            try await Task.sleep(for: .milliseconds(2))
        }
        child.kill()
        let went = try await run(["add", second, one])
        #expect(went.succeeded, "\(went.text)")
        if try await run(["list", second]).text.contains("one.sif"), !went.text.contains("0 of ") {
            #expect(went.text.contains("were there already"), "\(went.text)")
        }
        #expect(try await run(["restore", second, "one.sif", "-o", "\(scratch.path)/out"]).succeeded)
        #expect(try await isSame("\(scratch.path)/out", one))
    }

    @Test(.timeLimit(.minutes(5))) func damageIsToldGoneAroundAndRepaired() async throws {
        let scratch = try Scratch()
        let (one, _) = try await files(scratch, megabytes: 40)
        let (bucket, copy, out) = ("file:\(scratch.path)/bucket", "file:\(scratch.path)/copy", "\(scratch.path)/out")
        #expect(try await run(["add", bucket, one]).succeeded)
        try await ProcessRunner.require(Command(program, ["sync", bucket, copy], deadlineSeconds: 60))
        #expect(try await run(["check", copy, "--read"]).succeeded)
        let packs = try await ProcessRunner.require(Command("find", ["\(scratch.path)/bucket/packs", "-type", "f"], deadlineSeconds: 10))
            .split(separator: "\n").map(String.init)
        try #require(packs.count == 2)
        try await ProcessRunner.require(
            Command(
                "bash",
                [
                    "-ec",
                    // In so many places that whatever is read first meets one: later the copy may be asked alone.
                    """
                    for pack in \(packs[0]) \(packs[1]); do
                        for place in $(seq 500000 500000 $(($(stat -c %s $pack) - 9))); do
                            printf damaged | dd of=$pack bs=1 seek=$place conv=notrunc status=none
                        done
                    done
                    truncate -s -9 \(packs[1])
                    """,
                ], deadlineSeconds: 60))
        let alone = try await run(["restore", bucket, "one.sif", "-o", out])
        #expect(alone.status == 71 && !Disk.exists(out), "\(alone.text)")
        #expect(try Disk.list(scratch.path).allSatisfy { !$0.contains(".part-") })
        let helped = try await run(["restore", bucket, "one.sif", "-o", out, "--also", copy])
        #expect(helped.succeeded && helped.text.contains("is damaged"), "\(helped.text)")
        #expect(try await isSame(out, one))
        let checked = try await run(["check", bucket, "--read"])
        let name = packs[0].split(separator: "/").last.map(String.init) ?? ""
        #expect(checked.status == 71 && checked.text.contains("\(name): ") && checked.text.contains("needed by one.sif"), "\(checked.text)")
        let repaired = try await run(["repair", bucket, "--from", copy])
        #expect(repaired.succeeded && repaired.text.contains("repaired  packs/"), "\(repaired.text)")
        #expect(try await run(["check", bucket, "--read"]).succeeded)
    }

    @Test(.timeLimit(.minutes(3))) func aFullDiskIsToldAndLeavesNothingHalf() async throws {
        guard geteuid() == 0 else { return }
        let scratch = try Scratch()
        let (one, two) = try await files(scratch, megabytes: 40)
        let place = "\(scratch.path)/small"
        try Disk.makeDirectory(place)
        let mount = try await ProcessRunner.run(Command("mount", ["-t", "tmpfs", "-o", "size=60m", "tmpfs", place], deadlineSeconds: 10))
        guard mount.succeeded else { return }
        defer { umount2(place, Int32(MNT_DETACH)) }
        #expect(try await run(["add", "file:\(place)/s", two]).succeeded)
        let random = "\(scratch.path)/random"
        try await ProcessRunner.require(Command("bash", ["-ec", "head -c 40000000 /dev/urandom > \(random)"], deadlineSeconds: 30))
        let full = try await run(["add", "file:\(place)/s", random])
        #expect(full.status == 73 && full.text.contains("free space"), "\(full.text)")
        #expect(try await run(["check", "file:\(place)/s", "--read"]).succeeded)
        let restore = try await run(["restore", "file:\(place)/s", "two.sif", "-o", "\(place)/out"])
        #expect(restore.status == 73 && !Disk.exists("\(place)/out"), "\(restore.text)")
        #expect(try await run(["add", "file:\(place)/s", one]).succeeded, "what shares its chunks still fits")
    }

    @Test(.timeLimit(.minutes(5))) func aRealS3ServerHoldsAStore() async throws {
        let scratch = try Scratch()
        let (one, two) = try await files(scratch, megabytes: 60)
        let server = try S3Server()
        let (bucket, environment) = (server.location("images"), S3Server.environment)
        let added = try await run(["add", bucket, one, two], environment: environment)
        #expect(added.succeeded, "\(added.text)")
        let out = "\(scratch.path)/out"
        let restored = try await run(["restore", bucket, "two.sif", "-o", out], environment: environment)
        #expect(restored.succeeded, "\(restored.text)")
        #expect(try await isSame(out, two))
        #expect(try await run(["check", bucket, "--read"], environment: environment).succeeded)
        #expect(try await run(["remove", bucket, "one.sif"], environment: environment).succeeded)
        for _ in 0..<2 { #expect(try await run(["collect", bucket, "--grace", "0"], environment: environment).succeeded) }
        #expect(try await run(["restore", bucket, "two.sif", "-o", out, "--force"], environment: environment).succeeded)
        #expect(try await isSame(out, two))
    }
}
