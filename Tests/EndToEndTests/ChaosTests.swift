import ChunkStore
import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Kills the coordinator or the worker at random points of builds; each time the same release must come out, once.
@Suite(.serialized) struct ChaosTests {
    private static let points = Int(ProcessInfo.processInfo.environment["SCIFERRY_CHAOS_POINTS"] ?? "") ?? 8

    @Test(.timeLimit(.minutes(15))) func killedAnywhereItEndsWithOneRelease() async throws {
        let farm = try await TestFarm()
        try await farm.up()
        // Without faults first, so that base and layers are warm and the length of a build is known.
        let begun = Timestamp.now
        #expect(try await farm.sciferry(["build", try await farm.recipe("warm")]).succeeded)
        let length = Timestamp.now.seconds(since: begun)
        let seed = UInt64(ProcessInfo.processInfo.environment["SCIFERRY_CHAOS_SEED"] ?? "") ?? 7
        print("chaos: seed \(seed), \(Self.points) points, an undisturbed build takes \(length) s")
        var generator = SeededGenerator(seed)
        for point in 0..<Self.points {
            let name = "chaos\(point)"
            let recipe = try await farm.recipe(name, run: ["head -c 200000 /dev/urandom > /opt/noise"])
            #expect(try await farm.sciferry(["build", recipe, "--no-wait"]).succeeded)
            let delay = Double(generator.next() % 1000) / 1000 * length * 1.2
            let victim = ["coordinator", "w1", "w2"][Int(generator.next() % 3)]
            try await Task.sleep(for: .seconds(delay))
            farm.kill(victim)
            if generator.next() % 4 == 0, victim != "coordinator" { farm.kill("coordinator") }
            try await Task.sleep(for: .milliseconds(Int(generator.next() % 300)))
            for process in ["coordinator", "w1", "w2"] where farm.process(process) == nil { try farm.start(process) }
            try await farm.eventually("point \(point): \(name) is released after \(victim) was killed at \(delay) s", seconds: 90) {
                try await farm.jobs().contains { $0.job.recipe == name && $0.job.state == .succeeded }
            }
        }
        try await farm.eventually("all mirrors are done") {
            try await farm.jobs().allSatisfy { $0.publication.map { $0.step == .done } ?? true }
        }
        try await checkOnce(farm)
    }

    private func checkOnce(_ farm: TestFarm) async throws {
        let releases = try await farm.releases()
        for point in 0..<Self.points {
            #expect(releases.filter { $0.release.name == "chaos\(point)" }.count == 1, "chaos\(point)")
        }
        for region in ["region-a", "region-b"] {
            let root = "\(farm.home)/regions/\(region)"
            for name in try Disk.list("\(root)/releases") {
                #expect(try Disk.list("\(root)/releases/\(name)/1.0").count == 1, "\(region) \(name)")
            }
            #expect(!Disk.exists("\(root)/incoming"), "\(region) holds no upload any more")
            for shard in try Disk.list("\(root)/packs") {
                for pack in try Disk.list("\(root)/packs/\(shard)") {
                    #expect(Digest(hashing: try Disk.read("\(root)/packs/\(shard)/\(pack)")).hex == pack)
                }
            }
        }
        // One of them, chosen by the seed of the names, comes out whole.
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "chaos\(Self.points / 2)", "--site", site]).succeeded)
        for name in ["w1", "w2"] { #expect(try farm.attempts(name).isEmpty, "\(name) has cleaned up") }
    }
}
