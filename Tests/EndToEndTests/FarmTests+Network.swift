import ProcessRunner
import CoordinatorCore
import FarmModel
import Support
import SystemIO
import Testing

/// What bad networks do to builds.
extension FarmTests {
    /// Packets vanish in both directions: both connections stay open, half of each. The job is finished elsewhere, once.
    @Test(.enabled(if: TestNetwork.isPossible), .timeLimit(.minutes(3))) func aCutOffWorkerLosesItsJobAndComesBack() async throws {
        let network = try await TestNetwork(1)
        try network.offer(try await TestRegistry.port())
        let farm = try await TestFarm(network: network)
        try await farm.up(workers: ["w1", "w2"])
        #expect(try await farm.sciferry(["worker", "drain", "w2"]).succeeded)
        // A step that the engine cannot have from an earlier run, or nobody would see it being built.
        let step = "sleep 4; : \(Nonce.hex(bytes: 4))"
        #expect(try await farm.sciferry(["build", try await farm.recipe(run: [step]), "--no-wait"]).succeeded)
        @Sendable func builders() async throws -> [AttemptRecord] {
            try await farm.jobs().first { $0.job.kind == .build }?.attempts ?? []
        }
        try await farm.eventually("w1 builds it") { try await builders().contains { $0.phase == .build && $0.worker.rawValue == "w1" } }
        try await network.cut()
        #expect(try await farm.sciferry(["worker", "resume", "w2"]).succeeded)
        try await farm.eventually("w2 has released it") { try await farm.releases().count == 1 }
        let attempts = try await builders()
        #expect(attempts.map(\.state) == [.lost, .succeeded] && attempts.map(\.worker.rawValue) == ["w1", "w2"])
        #expect(attempts[0].failure?.message == "the worker w1 was silent for 3 s")
        try await network.mend()
        try await farm.connected(2)
        try await farm.eventually("w1 has cleaned up") { try farm.attempts("w1").isEmpty }
        #expect(try await builders().map(\.state) == [.lost, .succeeded])
        #expect(try await farm.releases().count == 1)
        // It is of use again.
        #expect(try await farm.sciferry(["worker", "drain", "w2"]).succeeded)
        #expect(try await farm.sciferry(["build", try await farm.recipe("second")]).succeeded)
    }

    /// An upload that fills a thin line for many times the silence limit keeps no word of the worker's from coming through.
    @Test(.enabled(if: TestNetwork.isPossible), .timeLimit(.minutes(3))) func aSlowNetworkCostsTimeAndNothingElse() async throws {
        let network = try await TestNetwork(2)
        try network.offer(try await TestRegistry.port())
        let farm = try await TestFarm(network: network)
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["build", try await farm.recipe("warm")]).succeeded)
        try await network.slow(kilobits: 1500)
        let recipe = try await farm.recipe("noisy", run: ["head -c 3000000 /dev/urandom > /opt/noise"])
        let build = try await farm.sciferry(["build", recipe])
        #expect(build.succeeded, "\(build.text)")
        let job = try #require(try await farm.jobs().first { $0.job.recipe == "noisy" && $0.job.kind == .build })
        #expect(job.attempts.map(\.state) == [.succeeded], "\(job.attempts)")
        // It went over the thin line.
        #expect(try await network.sentBytes() > 3_000_000)
    }
}
