import Attestation
import FarmModel
import Foundation
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

@Suite struct SiteTests {
    private func release(_ name: String = "tool", _ version: String = "1.0", description: String = "A tool.", image: String = "i")
        -> Release
    {
        let base = BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil)
        let plan = Plan(
            name: name, version: version, architecture: "x86_64", target: "x86_64", base: base, dockerfile: "", context: [],
            commands: ["tool", "other"], commandPaths: [], description: description, categories: [], licences: ["MIT"],
            suite: TestSuite(), diskBytes: 0)
        let result = BuildResult(
            image: Digest(hashing: image), imageSize: 1, manifest: IncomingObject(digest: Digest(hashing: "m"), size: 1), packs: [],
            records: [],
            chunkCount: 1, newChunkCount: 1, newBytes: 1, tests: [], testRuntime: "r", commands: ["found", "tool", "../x", "a b"],
            hostTarget: "t", phaseSeconds: [:])
        return Release(plan: plan, buildKey: Digest(hashing: "k"), result: result, builtOn: "w", publishedAt: Timestamp(seconds: 1))
    }

    private func site(_ scratch: Scratch) throws -> Site {
        try Site.create("\(scratch.path)/s", SiteConfiguration(farm: "f", channel: "main", regions: [], root: try TrustedFarm().root))
    }

    @Test(arguments: ["plain", "with \"quotes\" and \\ and ]===] and\nlines", "ünï $(id) `id`"])
    func moduleFilesHoldAnyText(_ text: String) async throws {
        let scratch = try Scratch()
        try Disk.makeDirectory("\(scratch.path)/modules/tool")
        let lua = ModuleFile(release(description: text), commands: ["tool"]).lua
        try Disk.replace("\(scratch.path)/modules/tool/1.0.lua", with: Array(lua.utf8))
        let result = try await ProcessRunner.run(
            Command(
                "bash",
                [
                    "-c",
                    ". /usr/share/lmod/lmod/init/bash; module use \"$1\"; module help tool 2>&1; module load tool && echo \"$SCIFERRY_TOOL_IMAGE\"",
                    "-", "\(scratch.path)/modules",
                ],
                deadlineSeconds: 60))
        #expect(result.text.contains("\(scratch.path)/wrappers/tool/1.0/image/image.sif"), "\(result.text)")
        #expect(result.text.contains(text.split(separator: "\n")[0]), "\(result.text)")
    }

    @Test func installingReplacesInOneStepAndUninstallingLeavesNothing() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        try Disk.makeDirectory(site.imageDirectory(Digest(hashing: "i")))
        try Disk.makeDirectory(site.imageDirectory(Digest(hashing: "j")))
        try site.install(release(), commands: ["tool"], now: Timestamp(seconds: 1))
        try site.install(release(image: "j"), commands: ["tool", "other"], now: Timestamp(seconds: 2))
        #expect(try Disk.list("\(site.root)/wrappers/tool").count == 2, "the link and the tree it leads to")
        #expect(try Disk.list("\(site.root)/wrappers/tool/1.0/bin") == ["other", "tool"])
        #expect(Disk.realPath("\(site.root)/wrappers/tool/1.0/image") == site.imageDirectory(Digest(hashing: "j")))
        #expect(Disk.realPath("\(site.root)/wrappers/tool/1.0/bin/tool") == "\(site.root)/bin/sciferry-launch")
        #expect(try site.installed().map(\.commands) == [["tool", "other"]])
        #expect(try site.uninstall(name: "tool", version: nil).count == 1)
        #expect(try Disk.list("\(site.root)/wrappers").isEmpty && Disk.list("\(site.root)/modules").isEmpty)
        #expect(Disk.exists(site.imageDirectory(Digest(hashing: "i"))) && !Disk.exists(site.imageDirectory(Digest(hashing: "j"))))
        #expect(throws: FarmError.self) { try site.uninstall(name: "tool", version: nil) }
    }

    @Test func aReleaseOffersWhatWasFoundAndNoNamesThatAreNone() {
        #expect(release().commands == ["tool", "other", "found"])
    }

    @Test func leftoversOfKilledPullsGoAndRunningOnesStay() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        let old = Date(timeIntervalSinceNow: -90_000)
        func age(_ path: String) throws { try FileManager.default.setAttributes([.modificationDate: old], ofItemAtPath: path) }
        var dead: (path: String, lock: FileLock)? = try site.stageImage(Digest(hashing: "dead"))
        let running = try site.stageImage(Digest(hashing: "running"))
        let fresh = "\(site.root)/images/.fresh"
        try Disk.makeDirectory(fresh)
        let left = try #require(dead?.path)
        try age(left)
        try age(running.path)
        dead = nil
        try site.sweepStaging()
        #expect(!Disk.exists(left) && Disk.exists(running.path) && Disk.exists(fresh))
        withExtendedLifetime(running.lock) {}
    }

    @Test(arguments: [("1.9", "1.10", true), ("1.10", "1.9", false), ("1.0", "1.0.1", true), ("2", "10", true), ("1.0a", "1.0b", true)])
    func versionsAreOrderedAsPeopleDo(_ left: String, _ right: String, _ expected: Bool) {
        #expect(VersionOrder.precedes(left, right) == expected)
    }

    @Test func theLauncherIsPlainPOSIX() async throws {
        let scratch = try Scratch()
        try Disk.replace("\(scratch.path)/l", with: Array(Launcher.script.utf8), mode: 0o755)
        let syntax = try await ProcessRunner.run(Command("dash", ["-n", "\(scratch.path)/l"]))
        #expect(syntax.succeeded, "\(syntax.text)")
        let check = try await ProcessRunner.run(Command("shellcheck", ["-s", "sh", "-e", "SC1090,SC2016", "\(scratch.path)/l"]))
        #expect(check.succeeded, "\(check.text)")
        try Disk.rename("\(scratch.path)/l", to: "\(scratch.path)/sciferry-launch")
        let usage = try await ProcessRunner.run(Command("\(scratch.path)/sciferry-launch", ["x"], environment: ["SCIFERRY_INSIDE": nil]))
        #expect(usage.status == 64 && usage.text.contains("usage"))
        let gone = try await ProcessRunner.run(
            Command("\(scratch.path)/sciferry-launch", ["/nowhere", "tool"], environment: ["SCIFERRY_INSIDE": nil]))
        #expect(gone.status == 127 && gone.text.contains("is gone"))
    }
}
