import ProcessRunner
import CoordinatorCore
import FarmModel
import Glibc
import Support
import SystemIO
import Testing

/// Who gets what, and what becomes of workers that freeze or fail, over the real protocol.
extension FarmTests {
    /// A frozen virtual machine: its connection stays open and says nothing.
    @Test(.timeLimit(.minutes(3))) func aFrozenWorkerLosesItsJobAndComesTooLate() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1", "w2"])
        let recipe = try await farm.recipe(run: ["sleep 4"])
        #expect(try await farm.sciferry(["build", recipe, "--no-wait"]).succeeded)
        @Sendable func builders() async throws -> [AttemptRecord] {
            try await farm.jobs().first { $0.job.kind == .build }?.attempts ?? []
        }
        try await farm.eventually("it is being built") { try await builders().contains { $0.phase == .build } }
        let frozen = try #require(try await builders().first?.worker.rawValue)
        farm.process(frozen)?.kill(SIGSTOP)
        try await farm.eventually("another worker has released it") { try await farm.releases().count == 1 }
        let attempts = try await builders()
        #expect(attempts.map(\.state) == [.lost, .succeeded] && attempts[1].worker.rawValue != frozen)
        #expect(attempts[0].failure?.message == "the worker \(frozen) was silent for 3 s")
        farm.process(frozen)?.kill(SIGCONT)
        try await farm.connected(2)
        try await farm.eventually("the late one has cleaned up") { try farm.attempts(frozen).isEmpty }
        #expect(try await builders().map(\.state) == [.lost, .succeeded])
        #expect(try await farm.releases().count == 1)
        let why = try await farm.sciferry(["why", "j1"])
        #expect(why.succeeded && why.text.contains("j1.1 went to \(frozen), expected 480 s"), "\(why.text)")
    }

    /// What logs say decides: a registry's limit is waited for, a full disk is tried elsewhere, a missing header is the recipe's.
    @Test(.timeLimit(.minutes(3))) func failuresAreToldApartByWhatTheLogSays() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        for (name, line, code, sentence) in [
            ("upstream", "toomanyrequests: You have reached your pull rate limit.", "registry.limit", "its rate limit is reached"),
            ("recipe", "x.c:1:10: fatal error: zlib.h: No such file or directory", "build.step-failed", "A header is missing"),
        ] {
            let recipe = try await farm.recipe(name, run: ["echo \"\(line)\" >&2; exit 9"])
            let build = try await farm.sciferry(["build", recipe])
            #expect(build.status == 1 && build.text.contains(sentence) && build.text.contains("[\(code)]"), "\(build.text)")
            let job = try #require(try await farm.jobs().first { $0.job.recipe == name && $0.job.kind == .build })
            #expect(job.attempts.count == (name == "recipe" ? 1 : 3), "\(job.attempts.map(\.failure))")
        }
        #expect(try await farm.sciferry(["workers"]).text.contains("idle"), "the worker is not to blame")
    }

    @Test(.timeLimit(.minutes(3))) func urgentWorkOvertakesAndTheQueueExplainsItself() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        // The base is known from now on.
        #expect(try await farm.sciferry(["build", try await farm.recipe("first")]).succeeded)
        #expect(try await farm.sciferry(["worker", "drain", "w1"]).succeeded)
        for (name, priority) in [("night", "nightly"), ("now", "interactive")] {
            #expect(try await farm.sciferry(["build", try await farm.recipe(name), "--no-wait", "--priority", priority]).succeeded)
        }
        #expect(
            try await farm.sciferry(["build", try await farm.recipe("x"), "--priority", "soon"]).text.contains("\"soon\" is no priority"))
        let id = try #require(try await farm.jobs().first { $0.job.recipe == "night" }).job.id.rawValue
        let drained = try await farm.sciferry(["why", id])
        #expect(
            drained.text.contains("\(id) is queued, priority nightly") && drained.text.contains("drained by an operator"), "\(drained.text)"
        )
        try await farm.sciferry(["worker", "resume", "w1"])
        try await farm.eventually("both are released") { try await farm.releases().count == 3 }
        let order = try await farm.releases().sorted { $0.release.publishedAt < $1.release.publishedAt }.map(\.release.name)
        #expect(order == ["first", "now", "night"])
    }

    /// What a recipe or a request asks of workers by labels is kept, and a build that says nothing is ended.
    @Test(.timeLimit(.minutes(3))) func labelsChooseTheWorkerAndSilenceEndsABuild() async throws {
        let farm = try await TestFarm()
        try await farm.up(
            workers: ["w1", "w2"], settings: ["w1": "\"labels\": [\"spot\"]", "w2": "\"labels\": [\"fast-disk\"], \"silentMinutes\": 0.05"])
        let choosy = try await farm.recipe("choosy", settings: "  needs: [fast-disk, storage-overlay2]")
        #expect(try await farm.sciferry(["build", choosy]).succeeded)
        #expect(try await farm.sciferry(["build", try await farm.recipe("fussy"), "--avoids", "fast-disk"]).succeeded)
        let builders = Dictionary(uniqueKeysWithValues: try await farm.releases().map { ($0.release.name, $0.release.builtOn) })
        #expect(builders == ["choosy": "w2", "fussy": "w1"])

        #expect(try await farm.sciferry(["build", try await farm.recipe("never"), "--needs", "gpu", "--no-wait"]).succeeded)
        let id = try #require(try await farm.jobs().first { $0.job.recipe == "never" }).job.id.rawValue
        try await farm.eventually("it is queued") {
            try await farm.sciferry(["why", id]).text.contains("it lacks the label gpu, which the job needs")
        }
        #expect(try await farm.sciferry(["workers"]).text.contains("w2 has the labels "))
        let wrong = try await farm.sciferry(["build", choosy, "--needs", "GPU"])
        #expect(wrong.status != 0 && wrong.text.contains("\"GPU\" is no label"), "\(wrong.text)")

        let silent = try await farm.recipe("silent", run: ["echo begun; sleep 600"], settings: "  needs: fast-disk")
        let build = try await farm.sciferry(["build", silent])
        #expect(
            build.status == 1 && build.text.contains("without a word in step") && build.text.contains("[build.silent]"), "\(build.text)")
    }
}
