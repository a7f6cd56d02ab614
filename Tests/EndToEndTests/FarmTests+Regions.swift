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
    @Test(.timeLimit(.minutes(4))) func regionsAreWatchedMendedAndFilled() async throws {
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
        let path = "\(farm.home)/farm.json"
        var settings = try #require(JSONSerialization.jsonObject(with: Data(try Disk.read(path))) as? [String: Any])
        settings["regions"] = (settings["regions"] as? [[String: Any]] ?? []) + [["name": "new", "bucket": "file:\(scratch.path)/new"]]
        farm.kill("coordinator")
        try Disk.replace(path, with: Array(try JSONSerialization.data(withJSONObject: settings)))
        try farm.start("coordinator")
        try await farm.eventually("the new region is filled", seconds: 90) {
            let status = try? await regions().first { $0.name == "new" }
            return status.map { $0.version == $0.newest && $0.newest != nil && !$0.isFilling } ?? false
        }
        let filled = try await farm.sciferry(["store", "check", "file:\(scratch.path)/new", "--read"])
        #expect(filled.succeeded && filled.text.contains("1 files"), "\(filled.text)")

        server.stop()
        try await farm.eventually("the silence is told", seconds: 60) {
            let check = try await farm.sciferry(["regions", "status", "--check"])
            return check.status == 69 && check.text.contains("region far does not answer")
        }
    }
}
