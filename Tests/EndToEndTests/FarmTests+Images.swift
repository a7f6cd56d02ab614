import CoordinatorCore
import ProcessRunner
import FarmModel
import Foundation
import Support
import SystemIO
import Testing

/// Images that a site has, looked into without a runtime.
extension FarmTests {
    /// Packs leave before the image is whole, and nothing but the image lies on the worker's disk meanwhile.
    @Test(.timeLimit(.minutes(4))) func imagesAreSentWhileTheyAreWritten() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let recipe = try await farm.recipe(run: ["dd if=/dev/urandom of=/opt/random bs=1000000 count=100"])
        let attempts = "\(farm.workerHome("w1"))/attempts"
        let watch = Task { () -> Int64 in
            var most: Int64 = 0
            while !Task.isCancelled {
                let text = try? await ProcessRunner.run(Command("du", ["-sx", "--block-size=1", attempts], deadlineSeconds: 20)).text
                most = max(most, text.flatMap { Int64($0.prefix { $0.isNumber }) } ?? 0)
                try? await Task.sleep(for: .milliseconds(50))
            }
            return most
        }
        let build = try await farm.sciferry(["build", recipe])
        watch.cancel()
        #expect(build.succeeded, "\(build.text)")
        let log = try await farm.sciferry(["logs", "j1"]).text
        let early = try #require(log.firstMatch(of: /; ([0-9]+) packs were sent while it was written/).flatMap { Int($0.1) }, "\(log)")
        #expect(early >= 1)
        let size = try #require(try await farm.releases().first).release.image.size
        let most = await watch.value
        #expect(size > 100_000_000 && most >= size && most < size + (32 << 20), "\(most) bytes of scratch for an image of \(size)")
    }

    @Test(.timeLimit(.minutes(2))) func imagesAreLookedIntoAndCompared() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let site = "\(farm.scratch.path)/site"
        var images: [String] = []
        for version in ["1.0", "1.1"] {
            let recipe = try await farm.recipe(version: version, settings: "  network: none")
            let build = try await farm.sciferry(["build", recipe])
            #expect(build.succeeded, "\(build.text)")
            #expect(try await farm.sciferry(["pull", "tiny/\(version)", "--site", site]).succeeded)
            let digest = try #require(try await farm.releases().first { $0.release.version == version }).release.image.digest.hex
            images.append("\(site)/images/\(digest)/image.sif")
        }
        let shown = try await farm.sciferry(["image", "inspect", images[0]])
        #expect(shown.succeeded && shown.text.contains("squashfs, zstd, blocks of 128 KiB"), "\(shown.text)")
        #expect(shown.text.contains("org.sciferry.version: 1.0") && shown.text.contains("architecture  x86_64"), "\(shown.text)")
        let list = try await farm.sciferry(["image", "list", images[0], "/opt"])
        #expect(list.text.contains("f 644 0 0 4 /opt/data\n"), "\(list.text)")
        #expect(try await farm.sciferry(["image", "cat", images[1], "/opt/data"]).text == "1.1\n")
        let diff = try await farm.sciferry(["image", "diff", images[0], images[1]])
        #expect(diff.status == 1 && diff.text.contains("/opt/data: content"), "\(diff.text)")
        let same = try await farm.sciferry(["image", "diff", images[0], images[0]])
        #expect(same.succeeded && same.text == "the same files\n", "\(same.text)")
        for (arguments, status) in [
            (["inspect", "/etc/passwd"], 71), (["inspect", "/nothing"], 66), (["cat", images[0], "/nothing"], 66),
        ] {
            let refused = try await farm.sciferry(["image"] + arguments)
            #expect(refused.status == Int32(status), "\(arguments) \(refused.text)")
        }
    }
}
