import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// `sciferry sync` and its sisters as people use them.
@Suite(.serialized) struct SyncTests {
    private let program = "\(TestFarm.bin)/sciferry"

    private func environment(_ scratch: Scratch) -> [String: String] {
        S3Server.environment.merging(["XDG_CACHE_HOME": "\(scratch.path)/cache"]) { $1 }
    }

    private func run(_ scratch: Scratch, _ arguments: [String], deadline: Double = 120) async throws -> CommandResult {
        try await ProcessRunner.run(Command(program, arguments, environment: environment(scratch), deadlineSeconds: deadline))
    }

    /// Killed in the middle of an upload in parts, it goes on: no part that arrived is sent again.
    @Test(.timeLimit(.minutes(5))) func aKilledUploadGoesOn() async throws {
        let scratch = try Scratch()
        let server = try S3Server()
        try Disk.makeDirectory("\(scratch.path)/data")
        var generator = SeededGenerator(5)
        let block = generator.bytes(1 << 20)
        let file = try OpenFile("\(scratch.path)/data/large", flags: O_WRONLY | O_CREAT)
        for number in 0..<1024 { try file.write([UInt8(number & 255), UInt8(number >> 8)] + block.dropFirst(2), at: Int64(number) << 20) }
        let proxy = try FaultProxy(before: server.endpoint, [])
        func arguments() -> [String] { ["sync", "file:\(scratch.path)/data", "s3:\(proxy.endpoint)/farm/killed", "--parts-above", "100M"] }
        let child = try Child(program, arguments(), log: "\(scratch.path)/log", environment: environment(scratch))
        func sent() -> [Int] {
            proxy.log.filter { $0.contains("partNumber=") && $0.contains(" 200 ") }.compactMap {
                $0.firstMatch(of: /partNumber=(\d+)&/).flatMap { Int($0.1) }
            }
        }
        for _ in 0..<600 where sent().count < 20 { try await Task.sleep(for: .milliseconds(100)) }
        child.kill()
        // What had left before the kill may still be on its way through the proxy.
        var before = -1
        while before != sent().count {
            before = sent().count
            try await Task.sleep(for: .seconds(2))
        }
        try #require(before >= 20 && before < 64)
        let again = try await run(scratch, arguments())
        #expect(again.succeeded && again.text.contains("goes on"), "\(again.text)")
        let counts = Dictionary(sent().map { ($0, 1) }, uniquingKeysWith: +)
        let twice = counts.values.filter { $0 > 1 }.count
        print("parts that arrived before the kill: \(before) of 64; arrived twice: \(twice)")
        #expect(counts.count == 64 && twice <= 1, "\(counts)")
        let check = try await run(scratch, ["check", "file:\(scratch.path)/data", "s3:\(server.endpoint)/farm/killed", "--download"])
        #expect(check.succeeded, "\(check.text)")
    }

    @Test(.timeLimit(.minutes(3))) func theVerbsSayWhatTheyDo() async throws {
        let scratch = try Scratch()
        let server = try S3Server()
        let bucket = "s3:\(server.endpoint)/farm/data"
        for (name, text) in ["a.txt": "hello", "d/b.log": "log", "d/e/c.txt": "there"] {
            try Disk.makeDirectory(Disk.parent(of: "\(scratch.path)/data/\(name)"))
            try Disk.replace("\(scratch.path)/data/\(name)", with: Array(text.utf8))
        }
        let here = "file:\(scratch.path)/data"
        let plan = try await run(scratch, ["sync", here, bucket, "--exclude", "*.log", "--dry-run"])
        // Several are looked at side by side.
        let lines = plan.text.split(separator: "\n").map(String.init)
        #expect(
            plan.succeeded && Set(lines.prefix(2)) == ["+ a.txt", "+ d/e/c.txt"] && plan.text.contains("2 copied (10 B)")
                && plan.text.contains("(only planned)"), "\(plan.text)")
        let json = try await run(scratch, ["sync", here, bucket, "--json"])
        #expect(
            json.succeeded && json.text.contains(#"{"bytes":5,"event":"copied","key":"a.txt""#) && json.text.contains(#""event":"done""#),
            "\(json.text)")
        #expect(try await run(scratch, ["copy", here, bucket, "--error-on-no-transfer"]).status == 9)
        #expect(try await run(scratch, ["check", here, bucket]).text.contains("3 objects are the same"))
        #expect(try await run(scratch, ["ls", bucket]).text == "a.txt\nd/b.log\nd/e/c.txt\n")
        #expect(try await run(scratch, ["cat", bucket, "a.txt", "d/e/c.txt"]).text == "hellothere")
        #expect(try await run(scratch, ["cat", bucket, "a.txt", "--tail", "2"]).text == "lo")
        #expect(try await run(scratch, ["du", bucket]).text.contains("3 objects, 13 B"))
        try Disk.replace("\(scratch.path)/data/a.txt", with: Array("HELLO".utf8))
        try Disk.remove("\(scratch.path)/data/d/b.log")
        try Disk.replace("\(scratch.path)/data/new", with: [])
        let check = try await run(scratch, ["check", here, bucket, "--combined", "-"])
        #expect(
            check.status == 1 && Set(check.text.split(separator: "\n").prefix(4)) == ["* a.txt", "- d/b.log", "= d/e/c.txt", "+ new"],
            "\(check.text)")
        #expect(try await run(scratch, ["sync", here, bucket, "--max-delete", "0"]).status == 75)
        #expect(
            try await run(scratch, ["sync", here, bucket, "--max-transfer", "1B", "--cutoff-mode", "cautious", "--ignore-times"]).status
                == 8)
        let sync = try await run(scratch, ["sync", here, bucket])
        #expect(sync.succeeded && sync.text.contains("1 deleted"), "\(sync.text)")
        #expect(try await run(scratch, ["rm", bucket]).status == 64)
        #expect(try await run(scratch, ["rm", bucket, "--include", "*.txt"]).text.contains("2 objects, 10 B removed"))
        #expect(try await run(scratch, ["ls", bucket]).text == "new\n")
        #expect(try await run(scratch, ["sync", "file:\(scratch.path)/nowhere", bucket]).status == 66)
        for wrong in [["--bwlimit", "fast"], ["--filter", "x"], ["--max-age", "soon"], ["--transfers", "0"], ["--suffix", ".old"]] {
            #expect(try await run(scratch, ["sync", here, bucket] + wrong).status == 64, "\(wrong)")
        }
    }

    /// A disk that is full ends the run with its name; nothing half stays, and the next run brings the rest.
    @Test(.timeLimit(.minutes(2))) func aFullDiskEndsARun() async throws {
        let scratch = try Scratch()
        let place = "\(scratch.path)/small"
        try Disk.makeDirectory(place)
        try Disk.makeDirectory("\(scratch.path)/data")
        try await ProcessRunner.require(Command("mount", ["-t", "tmpfs", "-o", "size=5m", "tmpfs", place]))
        var generator = SeededGenerator(8)
        for number in 0..<8 { try Disk.replace("\(scratch.path)/data/f\(number)", with: generator.bytes(1_500_000)) }
        let arguments = ["sync", "file:\(scratch.path)/data", "file:\(place)/copy"]
        let full = try await run(scratch, arguments)
        let left = try Disk.list("\(place)/copy")
        let sizes = try left.compactMap { try Disk.entry("\(place)/copy/\($0)")?.size }
        // More room, as an operator would make it.
        try await ProcessRunner.require(Command("mount", ["-o", "remount,size=50m", place]))
        let rest = try await run(scratch, arguments)
        let check = try await run(scratch, ["check", "file:\(scratch.path)/data", "file:\(place)/copy", "--download"])
        try await ProcessRunner.require(Command("umount", [place]))
        #expect(full.status == 73 && full.text.contains("disk.full"), "\(full.status) \(full.text)")
        let whole = sizes.filter { $0 == 1_500_000 }.count
        #expect(whole <= 3 && sizes.filter { $0 > 10_000 && $0 != 1_500_000 }.isEmpty, "\(left) \(sizes)")
        #expect(rest.succeeded && check.succeeded, "\(rest.text) \(check.text)")
    }

    /// A limit holds, and a file changes it while the run goes on.
    @Test(.timeLimit(.minutes(2))) func theBandwidthIsHeldAndChanged() async throws {
        let scratch = try Scratch()
        let server = try S3Server()
        try Disk.makeDirectory("\(scratch.path)/data")
        try Disk.replace("\(scratch.path)/data/x", with: [UInt8](repeating: 1, count: 20_000_000))
        try Disk.replace("\(scratch.path)/limit", with: Array("100k\n".utf8))
        let child = try Child(
            program,
            ["sync", "file:\(scratch.path)/data", "s3:\(server.endpoint)/farm/limited", "--bwlimit-from", "\(scratch.path)/limit"],
            log: "\(scratch.path)/log", environment: environment(scratch))
        try await Task.sleep(for: .seconds(3))
        // At 100 KiB a second it would take more than three minutes.
        #expect(kill(child.pid, 0) == 0)
        try Disk.replace("\(scratch.path)/limit", with: Array("off\n".utf8))
        #expect(child.wait() == 0)
        #expect(try await run(scratch, ["check", "file:\(scratch.path)/data", "s3:\(server.endpoint)/farm/limited"]).succeeded)
    }
}
