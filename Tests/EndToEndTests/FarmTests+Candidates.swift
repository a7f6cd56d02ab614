import Foundation
import CoordinatorCore
import FarmIdentity
import FarmModel
import ProcessRunner
import Support
import SystemIO
import Testing

/// Builds of recipes that nobody has reviewed, on a worker of the untrusted pool with an engine of its own.
extension FarmTests {
    /// A farm with a worker of each pool.
    private func farm(_ engine: TestEngine, promotion: PromotionPolicy = .rebuild) async throws -> TestFarm {
        let farm = try await TestFarm { $0.promotion = promotion }
        try await farm.up(workers: ["w1", "w2"], settings: ["w2": "\"dockerHost\": \"\(engine.address)\""], untrusted: ["w2"])
        return farm
    }

    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(5))) func candidatesAreBuiltAgainBeforeTheyAreReleased() async throws {
        let engine = try await TestEngine()
        let farm = try await farm(engine)
        let (steady, noisy) = (
            try await farm.recipe("steady", settings: "  network: none"),
            try await farm.recipe("noisy", run: ["head -c 100 /dev/urandom > /opt/noise"], settings: "  network: none")
        )
        // A contributor may ask for candidates and for nothing else.
        let refused = try await farm.remote("contributor", ["build", steady])
        #expect(refused.status == 77 && refused.text.contains("may ask for candidates only"), "\(refused.text)")
        for recipe in [steady, noisy] {
            let build = try await farm.remote("contributor", ["build", recipe, "--candidate"])
            #expect(build.succeeded && build.text.contains("a candidate; `sciferry promote"), "\(build.text)")
        }
        let jobs = try await farm.jobs().filter { $0.job.isCandidate ?? false }
        #expect(jobs.map { $0.publication?.builtOn } == ["w2", "w2"])
        #expect(try await farm.releases().isEmpty)
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "steady", "--site", site]).succeeded == false)
        let listed = try await farm.sciferry(["candidates"])
        #expect(listed.text.contains("steady 1.0 for x86_64") && listed.text.contains("guest-contributor"), "\(listed.text)")
        let (first, second) = (jobs[0].job.id.rawValue, jobs[1].job.id.rawValue)
        #expect(try await farm.remote("maintainer", ["promote", first]).status == 77)
        #expect(try await farm.remote("releaser", ["promote", first, "--bytes"]).text.contains("this farm releases no image"))

        // The same files come out: released without a word. What the untrusted engine has serves no trusted build.
        let promoted = try await farm.remote("releaser", ["promote", first])
        #expect(promoted.succeeded && promoted.text.contains("released: sha256:"), "\(promoted.text)")
        let release = try #require(try await farm.releases().first)
        #expect(
            release.release.builtOn == "w1" && release.release.candidate?.equality == "files",
            "\(String(describing: release.release.candidate))")
        #expect(release.release.candidate?.requestedBy == "guest-contributor" && release.release.candidate?.builtOn == "w2")
        #expect(try await farm.sciferry(["pull", "steady", "--site", site]).succeeded)

        // Others come out: somebody has to say whether that matters.
        let waiting = try await farm.remote("releaser", ["promote", second])
        #expect(waiting.status == 3 && waiting.text.contains("/opt/noise: content"), "\(waiting.text)")
        #expect(try await farm.releases().count == 1)
        let review = try #require(try await farm.jobs().first { $0.job.state == .review }).job.id.rawValue
        #expect(try await farm.sciferry(["job", review]).text.contains("1 files differ from the candidate's"))
        // It still waits after a restart.
        farm.kill("coordinator")
        try farm.start("coordinator")
        try await farm.eventually("the coordinator answers") { try await farm.sciferry(["workers"]).succeeded }
        let accepted = try await farm.remote("releaser", ["promote", review])
        #expect(accepted.succeeded && accepted.text.contains("released: sha256:"), "\(accepted.text)")
        let show = try await farm.sciferry(["list"])
        #expect(show.text.contains("noisy"))
        let last = try #require(try await farm.releases().first { $0.release.name == "noisy" })
        #expect(last.release.candidate?.equality == "differs" && last.release.candidate?.differenceCount == 1)
        try await farm.eventually("nothing is left of the candidates") {
            try await farm.jobs().allSatisfy { $0.publication.map { $0.step == .done } ?? true }
        }
        for region in ["region-a", "region-b"] { #expect(!Disk.exists("\(farm.home)/regions/\(region)/incoming")) }
        // A lock that nobody has reviewed is held to what trusted workers have found, and moves nothing.
        let pinned = try await farm.recipe("pinned", settings: "  network: none")
        #expect(try await farm.sciferry(["build", pinned]).succeeded)
        let resolved = try await farm.jobs().filter { $0.job.kind == .resolve }.count
        let lock = "\(pinned)/sciferry.lock"
        let text = String(decoding: try Disk.read(lock), as: UTF8.self)
        let hex = try #require(text.firstMatch(of: /[0-9a-f]{64}/)).output
        try Disk.replace(lock, with: Array(text.replacing(hex, with: String(repeating: "0", count: 64)).utf8))
        let forged = try await farm.remote("contributor", ["build", pinned, "--candidate"])
        #expect(forged.status == 1 && forged.text.contains("is locked as sha256:0000"), "\(forged.text)")
        #expect(try await farm.jobs().filter { $0.job.kind == .resolve }.count == resolved)
        // What is promoted can be read.
        let shown = try await farm.sciferry(["job", first, "--recipe"])
        #expect(shown.text.contains("== build.yaml") && shown.text.contains("name: steady"), "\(shown.text)")
        let strangers = try await farm.remote("contributor", ["cancel", review])
        #expect(strangers.status == 77, "\(strangers.text)")
        // A worker that was untrusted does not become trusted.
        let token = try await farm.sciferry(["worker", "token", "w2"]).text.trimmingCharacters(in: .whitespacesAndNewlines)
        let join = try await ProcessRunner.run(
            Command("\(TestFarm.bin)/sciferry-worker", ["join", token, "--home", "\(farm.scratch.path)/new"], deadlineSeconds: 60))
        #expect(!join.succeeded && join.text.contains("is of the untrusted pool"), "\(join.text)")
    }

    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(5))) func aCandidatesVeryImageIsReleasedWhereThatIsThePolicy()
        async throws
    {
        let engine = try await TestEngine()
        let farm = try await farm(engine, promotion: .bytes)
        let recipe = try await farm.recipe("noisy", run: ["head -c 100000 /dev/urandom > /opt/noise"], settings: "  network: none")
        #expect(try await farm.sciferry(["build", recipe, "--candidate"]).succeeded)
        let candidate = try #require(try await farm.jobs().first { $0.job.isCandidate ?? false })
        let image = try #require(candidate.publication?.result.image)
        let promoted = try await farm.sciferry(["promote", candidate.job.id.rawValue, "--bytes"])
        #expect(promoted.succeeded && promoted.text.contains("released: sha256:"), "\(promoted.text)")
        let release = try #require(try await farm.releases().first).release
        #expect(release.image.digest == image && release.builtOn == "w2" && release.candidate?.equality == "bytes")
        #expect(release.verified?.map(\.worker) == ["w1"], "a trusted worker has tested it")
        #expect(try await farm.sciferry(["pull", "noisy", "--site", "\(farm.scratch.path)/site"]).succeeded)
    }

    /// Two workers of different pools on one engine could give each other layers.
    @Test(.timeLimit(.minutes(2))) func poolsThatShareAnEngineGetNothing() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1", "w2"], untrusted: ["w2"])
        #expect(try await farm.sciferry(["build", try await farm.recipe(), "--no-wait"]).succeeded)
        try await farm.eventually("it waits") {
            let waiting = try await farm.jobs().last { $0.job.state == .queued }
            let id = try #require(waiting).job.id.rawValue
            return try await farm.sciferry(["why", id]).text.contains("its container engine is also that of w2")
        }
    }
}
