import CoordinatorCore
import FarmModel
import Foundation
import ObjectStorage
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

/// What nothing needs goes away, and what is needed stays.
extension FarmTests {
    /// A site that no network leads to gets the channel in a file, and later what has come since; a region is looked at and mended.
    @Test(.timeLimit(.minutes(6))) func aChannelTravelsInAFile() async throws {
        let place = try Scratch()
        let farm = try await TestFarm(regions: ["a=file:\(place.path)/a", "b=file:\(place.path)/b"])
        try await farm.up(workers: ["w1"])
        let bulk = ["test -e /opt/bulk || dd if=/dev/urandom of=/opt/bulk bs=1000000 count=3"]
        func build(_ version: String) async throws {
            let built = try await farm.sciferry(["build", try await farm.recipe(version: version, run: bulk)])
            #expect(built.succeeded, "\(built.text)")
            try await farm.eventually("the mirror has it") {
                try await farm.sciferry(["store", "stat", "file:\(place.path)/b"]).text.contains("tiny \(version)")
            }
        }
        try await build("1.0")
        let first = try await farm.sciferry(["store", "export", "file:\(place.path)/a", "-o", "\(place.path)/first.tar"])
        #expect(first.succeeded && first.text.contains("1 releases"), "\(first.text)")
        try await build("1.1")
        let (second, mirror) = ("\(place.path)/second.tar", "file:\(place.path)/mirror")
        let rest = try await farm.sciferry([
            "store", "export", "file:\(place.path)/b", "-o", second, "--except", "\(place.path)/first.tar",
        ])
        #expect(rest.succeeded && rest.text.contains("are in the earlier exports"), "\(rest.text)")

        // In the wrong order nothing is half there; one that was cut on its way is refused.
        let early = try await farm.sciferry(["store", "import", second, mirror])
        #expect(!early.succeeded && early.text.contains("import the earlier exports first"), "\(early.text)")
        #expect(!Disk.exists("\(place.path)/mirror/channels/main.json"))
        try Disk.replace("\(place.path)/cut.tar", with: Array(try Disk.read(second).dropLast(5000)))
        let cut = try await farm.sciferry(["store", "import", "\(place.path)/cut.tar", mirror])
        #expect(!cut.succeeded && cut.text.contains("tar.invalid"), "\(cut.text)")
        for file in ["first", "second"] {
            let poured = try await farm.sciferry(["store", "import", "\(place.path)/\(file).tar", mirror])
            #expect(poured.succeeded, "\(poured.text)")
        }
        let back = try await farm.sciferry(["store", "import", "\(place.path)/first.tar", mirror])
        #expect(!back.succeeded && back.text.contains("channel.rollback"), "\(back.text)")

        // Read from the mirror, from the file itself, and from what tar makes of it.
        let online = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "tiny/1.0", "--site", online]).succeeded)
        try await ProcessRunner.require(
            Command("sh", ["-c", "mkdir \(place.path)/un && tar xf \(place.path)/first.tar -C \(place.path)/un"]))
        for (bucket, version) in [(mirror, "1.1"), ("tar:\(place.path)/first.tar", "1.0"), ("file:\(place.path)/un", "1.0")] {
            var configuration: SiteConfiguration = try CanonicalJSON.decode(from: try Disk.read("\(online)/site.json"), source: "site")
            configuration.regions = [BucketLocation(bucket)]
            let offline = "\(place.path)/site \(version) \(bucket.prefix(4).replacing(":", with: ""))"
            _ = try Site.create(offline, configuration)
            let pulled = try await farm.sciferry(["pull", "tiny/\(version)", "--site", offline])
            #expect(pulled.succeeded, "\(bucket): \(pulled.text)")
            let ran = try await ProcessRunner.run(Command("\(offline)/wrappers/tiny/\(version)/bin/tiny-tool", []))
            #expect(ran.text.contains(version), "\(ran.text)")
        }

        // What lies on this machine need not be fetched: a file that was named, or an older collection.
        let images = "\(place.path)/collection"
        try Disk.makeDirectory(images)
        let release = try #require(try await farm.releases().map(\.release).first { $0.version == "1.0" })
        try await ProcessRunner.require(
            Command("cp", ["\(online)/images/\(release.image.digest.hex)/image.sif", "\(images)/Tiny_1.0_20260101.simg"]))
        for seed in [images, "\(images)/Tiny_1.0_20260101.simg"] {
            let fresh = "\(place.path)/fresh \(seed.hasSuffix("simg"))"
            let plan = try await farm.sciferry(["pull", "tiny/1.0", "--site", fresh, "--seed", seed, "--dry-run"])
            #expect(plan.text.contains("0 B to fetch"), "\(plan.text)")
            #expect(try await farm.sciferry(["pull", "tiny/1.0", "--site", fresh, "--seed", seed]).succeeded)
        }

        // A region that has rotted is named release by release, and mended from another.
        let whole = try await farm.sciferry(["store", "check", "file:\(place.path)/b", "--read"])
        #expect(whole.succeeded && whole.text.contains("2 files"), "\(whole.text)")
        let packs = try await ProcessRunner.require(Command("find", ["\(place.path)/b/packs", "-type", "f", "-size", "+1000k"]))
        let victim = try #require(packs.split(separator: "\n").first.map(String.init))
        var bytes = try Disk.read(victim)
        bytes[5000] ^= 1
        try Disk.replace(victim, with: bytes)
        try Disk.remove("\(place.path)/b/channels/main.json")
        try Disk.replace("\(place.path)/b/channels/main.json", with: try Disk.read("\(place.path)/a/channels/main.json"))
        let damaged = try await farm.sciferry(["store", "check", "file:\(place.path)/b", "--read"])
        #expect(!damaged.succeeded && damaged.text.contains("damaged") && damaged.text.contains("tiny 1."), "\(damaged.text)")
        let mended = try await farm.sciferry(["store", "repair", "file:\(place.path)/b", "--from", "file:\(place.path)/a"])
        #expect(mended.succeeded && mended.text.contains("repaired"), "\(mended.text)")
        let refused = try await farm.sciferry(["store", "collect", "file:\(place.path)/b"])
        #expect(!refused.succeeded && refused.text.contains("belongs to the farm"), "\(refused.text)")
    }

    /// The same version again and again, as nights build it; then older versions leave the channel, and sparse packs are written anew.
    @Test(.timeLimit(.minutes(8))) func whatNoReleaseNeedsIsTakenAway() async throws {
        let place = try Scratch()
        let farm = try await TestFarm(regions: ["a=file:\(place.path)/a", "b=file:\(place.path)/b"])
        func policy(_ change: (inout RetentionPolicy) -> Void) throws {
            var configuration = try FarmConfiguration.read("\(farm.home)/farm.json")
            change(&configuration.retention)
            try Disk.replace("\(farm.home)/farm.json", with: Array(try CanonicalJSON.pretty(configuration).utf8))
        }
        try await farm.up(workers: ["w1"])
        func bulk(_ name: String) -> String { "dd if=/dev/urandom of=/opt/\(name) bs=1000000 count=3" }
        // Two parts of which the second build has only one.
        for (version, parts) in [("1.0", ["one", "two", "three"]), ("1.1", ["one"]), ("1.2", ["four"])] {
            let run = parts.map { "test -e /opt/\($0) || \(bulk($0))" }
            let build = try await farm.sciferry(["build", try await farm.recipe(version: version, run: run)])
            #expect(build.succeeded, "\(build.text)")
        }
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "tiny/1.0", "--site", site]).succeeded)
        @Sendable func collect(_ options: [String] = []) async throws -> CollectionReport {
            let answer = try await farm.sciferry(["collect", "--json"] + options)
            #expect(answer.succeeded, "\(answer.text)")
            return try CanonicalJSON.decode(from: answer.output, source: "report")
        }
        let nothing = try await collect()
        #expect(nothing.retired.isEmpty && nothing.condemned.objects == 0 && nothing.removed.objects == 0 && nothing.images == 3)
        #expect(nothing.costs.first { $0.version == "1.0" }.map { $0.ownBytes > 8_000_000 } ?? false, "\(nothing.costs)")

        // Only the newest two versions are kept from now on.
        farm.kill("coordinator")
        try policy { ($0.versions, $0.supersededDays, $0.graceHours) = (2, 0, 0) }
        try farm.start("coordinator")
        try await farm.connected(1)
        try await farm.eventually("the coordinator has asked its regions") { try await farm.sciferry(["collect", "--dry-run"]).succeeded }
        let plan = try await collect(["--dry-run"])
        #expect(plan.retired.map(\.title) == ["tiny 1.0 (x86_64)"] && plan.removed.objects == 0)
        #expect(try await farm.releases().count == 3)
        @Sendable func bytes(_ region: String) async throws -> Int64 {
            let used = try await ProcessRunner.require(Command("du", ["-sb", "\(place.path)/\(region)/packs"]))
            return Int64(used.prefix { $0.isNumber }) ?? 0
        }
        let before = (try await bytes("a"), try await bytes("b"))
        #expect(try await collect().retired.count == 1)
        #expect(try await farm.releases().map(\.release.version).sorted() == ["1.1", "1.2"])
        // In use until no channel names it; condemned; gone.
        try await farm.eventually("the old version is gone") {
            _ = try await collect()
            let after = (try await bytes("a"), try await bytes("b"))
            return after.0 < before.0 - 8_000_000 && after.1 < before.1 - 8_000_000
        }
        let gone = try await farm.sciferry(["pull", "tiny/1.0", "--site", "\(site)2"])
        #expect(!gone.succeeded && gone.text.contains("channel.absent"), "\(gone.text)")
        for version in ["1.1", "1.2"] {
            for region in ["a", "b"] {
                let pulled = try await farm.sciferry(["pull", "tiny/\(version)", "--site", "\(site)-\(version)-\(region)"])
                #expect(pulled.succeeded, "\(pulled.text)")
            }
        }
        let ran = try await ProcessRunner.run(Command("\(site)/wrappers/tiny/1.0/bin/tiny-tool", []))
        #expect(ran.text.contains("1.0"), "\(ran.text)")
        // What was taken away is built again when somebody asks for it.
        let again = try await farm.sciferry([
            "build", try await farm.recipe(version: "1.0", run: ["one", "two", "three"].map { "test -e /opt/\($0) || \(bulk($0))" }),
        ])
        #expect(again.succeeded, "\(again.text)")
        #expect(try await farm.sciferry(["pull", "tiny/1.0", "--site", "\(site)2"]).succeeded)
        let last = try await farm.sciferry(["collect", "--last", "--versions"])
        #expect(last.succeeded && last.text.contains("ALONE IN THEM") && last.text.contains("1.2"), "\(last.text)")
    }
}
