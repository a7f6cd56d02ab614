import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

extension FarmTests {
    /// `sciferry regions` on a farm of a directory and a real S3 server: damage is found and mended, a new region is filled before anybody is
    /// pointed at it, one that goes away is told.
    @Test(.timeLimit(.minutes(6))) func regionsAreWatchedMendedAndFilled() async throws {
        let server = try S3Server()
        let scratch = try Scratch()
        let far = "s3:\(server.endpoint)/farm/far/?tries=1&stall=2"
        let farm = try await TestFarm(regions: ["near=file:\(scratch.path)/near", "far=\(far)"], environment: S3Server.environment)
        try await farm.up(workers: ["w1"])
        let build = try await farm.sciferry(["build", try await farm.recipe(run: ["head -c 400000 /dev/urandom > /opt/noise"])])
        #expect(build.succeeded, "\(build.text)")
        @Sendable func regions() async throws -> [RegionStatus] {
            try CanonicalJSON.decode(from: Array(try await farm.sciferry(["regions", "status", "--json"]).text.utf8), source: "regions")
        }
        try await farm.eventually("both regions show the release", seconds: 60) {
            try await regions().allSatisfy { $0.version == $0.newest && $0.behindSince == nil && $0.waiting == 0 }
        }
        let stores = try await farm.sciferry(["regions", "status", "--check", "--stores"])
        #expect(
            stores.succeeded && stores.text.contains("no   listings are in the order of bytes; nothing relies on it")
                && stores.text.contains("yes  a wrong secret is refused"), "\(stores.text)")

        // Rot here, a loss there.
        let packs = "\(scratch.path)/near/packs"
        let shard = try #require(try Disk.list(packs).first)
        let pack = "\(packs)/\(shard)/\(try #require(try Disk.list("\(packs)/\(shard)").first))"
        var bytes = try Disk.read(pack)
        bytes[bytes.count / 2] ^= 0x10
        try Disk.replace(pack, with: bytes)
        #expect(try await farm.sciferry(["rm", "s3:\(server.endpoint)/farm/far/covers/", "--all"]).text.contains("1 objects"))
        let looked = try await farm.sciferry(["regions", "audit", "--all", "--no-repair"])
        #expect(looked.status == 71 && looked.text.contains("far: covers/") && looked.text.contains("near: packs/"), "\(looked.text)")
        #expect(try await farm.sciferry(["regions", "status", "--check"]).text.contains("region far 1 objects are missing"))
        let mended = try await farm.sciferry(["regions", "audit", "--all"])
        #expect(mended.succeeded && mended.text.contains("near: 1 objects were repaired"), "\(mended.text)")
        for region in ["file:\(scratch.path)/near", far] {
            let check = try await farm.sciferry(["store", "check", region, "--read"])
            #expect(check.succeeded, "\(check.text)")
        }
        #expect(try await farm.sciferry(["regions", "audit", "--region", "nowhere"]).status == 66)

        // A third region.
        @Sendable func restart(_ regions: [(name: String, bucket: String)]) throws {
            let path = "\(farm.home)/farm.json"
            var settings = try #require(JSONSerialization.jsonObject(with: Data(try Disk.read(path))) as? [String: Any])
            settings["regions"] = regions.map { ["name": $0.name, "bucket": $0.bucket] }
            farm.kill("coordinator")
            try Disk.replace(path, with: Array(try JSONSerialization.data(withJSONObject: settings)))
            try farm.start("coordinator")
        }
        let (near, new) = (("near", "file:\(scratch.path)/near"), ("new", "file:\(scratch.path)/new"))
        try restart([near, ("far", far), new])
        try await farm.eventually("the new region is filled", seconds: 90) {
            let status = try? await regions().first { $0.name == "new" }
            return status.map { $0.version == $0.newest && $0.newest != nil && !$0.isFilling } ?? false
        }
        let filled = try await farm.sciferry(["store", "check", "file:\(scratch.path)/new", "--read"])
        #expect(filled.succeeded && filled.text.contains("1 files"), "\(filled.text)")

        // An empty first region gets back what it has published; a store that does not give back what it was given gets nothing.
        try Disk.remove("\(scratch.path)/near")
        let proxy = try FaultProxy(before: server.endpoint, [.init("^GET .*incoming/trial", "corrupt", times: 10_000)])
        try restart([near, ("far", far.replacingOccurrences(of: server.endpoint, with: proxy.endpoint)), new])
        try await farm.eventually("the first region is filled", seconds: 90) {
            let status = try? await regions().first { $0.name == "near" }
            return status.map { $0.version == $0.newest && $0.newest != nil && !$0.isFilling } ?? false
        }
        let refilled = try await farm.sciferry(["store", "check", "file:\(scratch.path)/near", "--read"])
        #expect(refilled.succeeded && refilled.text.contains("1 files"), "\(refilled.text)")
        let second = try await farm.sciferry(["build", try await farm.recipe(run: ["echo second > /opt/second"])])
        #expect(second.succeeded, "\(second.text)")
        try await farm.eventually("what can be relied on has the second release", seconds: 60) {
            let found = try await regions()
            return found.filter { $0.name != "far" }.allSatisfy { $0.version == $0.newest && $0.waiting == 0 }
        }
        #expect(try await regions().first { $0.name == "far" }?.waiting == 1)
        let unfit = try await farm.sciferry(["regions", "status", "--check"])
        #expect(unfit.status == 69 && unfit.text.contains("region far is left out"), "\(unfit.text)")

        server.stop()
        try await farm.eventually("the silence is told", seconds: 60) {
            let check = try await farm.sciferry(["regions", "status", "--check"])
            return check.status == 69 && check.text.contains("region far does not answer")
        }
    }
}
