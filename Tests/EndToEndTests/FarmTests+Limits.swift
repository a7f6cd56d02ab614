import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Steps that want too much of something.
extension FarmTests {
    private func hog(_ farm: TestFarm, _ name: String, _ step: String, limits: String = "disk_gib: 1") async throws -> String {
        let path = try await farm.recipe(name, run: [step], settings: "  network: none")
        let file = "\(path)/build.yaml"
        let text = String(decoding: try Disk.read(file), as: UTF8.self).replacing("limits: {disk_gib: 1}", with: "limits: {\(limits)}")
        try Disk.replace(file, with: Array(text.utf8))
        return path
    }

    /// Each ends once, as the recipe's own fault and by name, and the worker is as it was before.
    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(6))) func hogsEndAsWhatTheyAre() async throws {
        let engine = try await TestEngine(diskGiB: 3)
        let farm = try await TestFarm()
        let settings =
            "\"dockerHost\": \"\(engine.address)\", \"minimumFreeGiB\": 0.5, \"buildProcesses\": 300, \"silentMinutes\": 0.4"
        try await farm.up(workers: ["w1"], settings: ["w1": settings])
        #expect(try await farm.sciferry(["build", try await farm.recipe("before", settings: "  network: none")]).succeeded)
        let free = engine.freeBytes
        for (name, step, limits, code) in [
            ("bomb", "i=0; while [ $i -lt 2000 ]; do sleep 600 & i=$((i+1)); done", "disk_gib: 1", "build.processes"),
            ("hungry", "dd if=/dev/zero of=/dev/null bs=1500M count=1", "disk_gib: 1, memory_gib: 1", "build.memory"),
            ("writer", "dd if=/dev/zero of=/opt/big bs=1M count=100000", "disk_gib: 1", "build.disk"),
            ("deaf", "trap \"\" TERM INT HUP; sleep 98765", "disk_gib: 1", "build.silent"),
        ] {
            let built = try await farm.sciferry(["build", try await hog(farm, name, step, limits: limits)])
            #expect(built.status == 1 && built.text.contains(code), "\(name): \(built.text)")
            let job = try #require(try await farm.jobs().last { $0.job.kind == .build })
            #expect(job.attempts.count == 1 && job.attempts[0].failure?.failureClass == .recipe, "\(name): \(job.attempts)")
        }
        try await farm.eventually("nothing of them is left") {
            let left = try await ProcessRunner.run(Command("pgrep", ["-f", "sleep 98765|bs=1500M|of=/opt/big"]))
            return left.text.isEmpty && free - engine.freeBytes < 64 << 20
        }
        #expect(try await farm.sciferry(["build", try await farm.recipe("after", settings: "  network: none")]).succeeded)
        #expect(try await farm.sciferry(["workers"]).text.contains("idle"))
    }
}

/// Workers with small disks.
extension FarmTests {
    /// So many builds, each of which leaves a quarter of the disk.
    private func fill(_ farm: TestFarm, _ count: Int) async throws -> [JobView] {
        for index in 0..<count {
            let step = "dd if=/dev/zero of=/opt/data-\(Nonce.hex(bytes: 3)) bs=1M count=600"
            let recipe = try await farm.recipe("large\(index)", run: [step], settings: "  network: none")
            _ = try await farm.sciferry(["build", recipe], deadline: 240)
        }
        return try await farm.jobs().filter { $0.job.kind == .build }
    }

    /// Twenty with `scripts/test --slow`.
    private static let builds = ProcessInfo.processInfo.environment["SCIFERRY_DISK_BUILDS"].flatMap { Int($0) } ?? 5

    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(20))) func aSmallDiskIsEnough() async throws {
        let engine = try await TestEngine(diskGiB: 3)
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"], settings: ["w1": "\"dockerHost\": \"\(engine.address)\", \"minimumFreeGiB\": 0.3"])
        let jobs = try await fill(farm, Self.builds)
        #expect(
            jobs.count == Self.builds && jobs.allSatisfy { $0.job.state == .succeeded && $0.attempts.count == 1 },
            "\(jobs.map(\.job.state))")
        #expect(farm.log("w1").contains("room made"), "it had to")
        try await farm.eventually("what is held is told") { try await farm.sciferry(["workers"]).text.contains("w1 holds ") }
        // What makes room is what this is about: without it the disk is full before long.
        farm.kill("w1")
        try farm.set("w1", "\"evicts\": false")
        try farm.start("w1")
        for name in ["more", "most"] {
            let recipe = try await farm.recipe(name, run: ["dd if=/dev/zero of=/opt/big bs=1M count=900"], settings: "  network: none")
            #expect(try await farm.sciferry(["build", recipe, "--no-wait"]).succeeded)
        }
        try await farm.eventually("it waits for room") {
            let last = try #require(try await farm.jobs().last { $0.job.kind == .build })
            return try await farm.sciferry(["why", last.job.id.rawValue]).text.contains("GiB free, the job wants")
        }
    }
}
