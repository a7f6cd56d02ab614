import Attestation
import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Keys that change, and coordinators that come back or are one too many.
extension FarmTests {
    @Test(.timeLimit(.minutes(8))) func aRestoredCoordinatorGoesOnAndShutsTheOtherOut() async throws {
        let place = try Scratch()
        let farm = try await TestFarm(regions: ["a=file:\(place.path)/a", "b=file:\(place.path)/b"])
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["build", try await farm.recipe(version: "1.0")]).succeeded)
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "tiny", "--site", site]).succeeded)

        // A backup, and one more release that it knows nothing of.
        let copy = "\(place.path)/copy"
        farm.kill("coordinator")
        try await ProcessRunner.require(Command("cp", ["-a", farm.home, copy]))
        try farm.start("coordinator")
        try await farm.connected(1)
        #expect(try await farm.sciferry(["build", try await farm.recipe(version: "1.1")]).succeeded)

        // The backup comes to life on another machine, while the first one still runs.
        var configuration = try FarmConfiguration.read("\(copy)/farm.json")
        (configuration.linkPort, configuration.apiPort) = (try FreePort.find(), try FreePort.find())
        try Disk.replace("\(copy)/farm.json", with: Array(try CanonicalJSON.pretty(configuration).utf8))
        func coordinator() -> Command {
            Command("\(TestFarm.bin)/sciferry-coordinator", ["--home", copy, "--log-format", "text"], deadlineSeconds: 60)
        }
        let refused = try await ProcessRunner.run(coordinator())
        #expect(!refused.succeeded && refused.text.contains("coordinator.behind") && refused.text.contains("take-over"), "\(refused.text)")

        #expect(try await farm.sciferry(["trust", "take-over", "--home", copy]).succeeded)
        let log = "\(place.path)/second.log"
        var second = try Child("\(TestFarm.bin)/sciferry-coordinator", ["--home", copy], log: log)
        defer { second.kill() }
        try await farm.eventually("the farm is taken over") { try String(contentsOfFile: log, encoding: .utf8).contains("was taken over") }
        let late = try await farm.sciferry(["pull", "tiny/1.1", "--site", site])
        #expect(late.succeeded, "\(late.text)")

        // The first one finds out when it publishes next, and ends.
        let build = try await farm.recipe(version: "1.2")
        _ = try await farm.sciferry(["build", build, "--no-wait"])
        try await farm.eventually("the first coordinator ends") { farm.log("coordinator").contains("coordinator.fenced") }
        #expect(try await farm.sciferry(["pull", "tiny/1.2", "--site", site]).text.contains("channel.absent"))
        farm.kill("coordinator")

        // Other keys: the site walks to the new root by itself.
        let rootKey = "\(place.path)/root.key"
        try Disk.rename("\(copy)/identity/root.key", to: rootKey)
        let without = try await farm.sciferry(["trust", "renew", "--home", copy, "--root-key", "\(copy)/identity/release.key"])
        #expect(!without.succeeded && without.text.contains("root.keys"), "\(without.text)")
        let renewed = try await farm.sciferry([
            "trust", "renew", "--home", copy, "--root-key", rootKey, "--rotate", "image", "--rotate", "channel", "--new-root",
            "\(rootKey).2",
        ])
        #expect(renewed.succeeded && renewed.text.contains("root 2"), "\(renewed.text)")
        second.kill()
        second = try Child("\(TestFarm.bin)/sciferry-coordinator", ["--home", copy], log: log)
        try await farm.eventually("the channel is signed anew") {
            guard try await farm.sciferry(["pull", "tiny/1.0", "--site", site]).succeeded else { return false }
            return try await farm.sciferry(["trust", "show", "--site", site]).text.contains("root 2")
        }
        let shown = try CanonicalJSON.decode(
            TrustRoot.self, from: try await farm.sciferry(["trust", "show", "--home", copy, "--json"]).output, source: "trust")
        #expect(shown.version == 2 && shown.imageKeys.count == 2 && shown.channelKeys.count == 1)
    }
}
