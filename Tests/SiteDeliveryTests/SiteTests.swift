import Attestation
import FarmModel
import Foundation
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

@Suite struct SiteTests: SiteFixture {
    @Test func installingReplacesInOneStepAndUninstallingLeavesNothing() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        for image in ["i", "j"] { try place(image, in: site) }
        try site.install(release(), now: Timestamp(seconds: 1))
        let old = try #require(Disk.realPath("\(site.root)/wrappers/tool/1.0"))
        try site.install(release(image: "j"), now: Timestamp(seconds: 2))
        let new = try #require(Disk.realPath("\(site.root)/wrappers/tool/1.0"))
        #expect(old != new && Disk.exists("\(old)/bin/tool"), "who loaded the old one keeps it")
        #expect(try Disk.list("\(site.root)/wrappers/tool/1.0/bin") == ["found", "other", "tool"])
        #expect(Disk.realPath("\(site.root)/wrappers/tool/1.0/image") == site.imageDirectory(Digest(hashing: "j")))
        #expect(Disk.realPath("\(site.root)/wrappers/tool/1.0/bin/tool") == "\(site.root)/bin/sciferry-launch")
        #expect(try site.installed().map(\.commands) == [["tool", "other", "found"]])
        // The same again is no new generation.
        try site.install(release(image: "j"), now: Timestamp(seconds: 3))
        #expect(try site.history().map(\.number) == [1, 2])
        #expect(try site.uninstall(name: "tool", version: nil, now: Timestamp(seconds: 4)).count == 1)
        #expect(try Disk.list("\(site.root)/wrappers").isEmpty && Disk.list("\(site.root)/modules").isEmpty)
        #expect(Disk.exists(site.imageDirectory(Digest(hashing: "i"))) && !Disk.exists(site.imageDirectory(Digest(hashing: "j"))))
        #expect(throws: FarmError.self) { try site.uninstall(name: "tool", version: nil, now: Timestamp(seconds: 5)) }
    }

    @Test func generationsAreGoneBackToAndCollectedByPolicy() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        let day: Int64 = 86400
        for (index, image) in ["a", "b", "c", "d"].enumerated() {
            try place(image, in: site)
            try site.install(release("tool", "1.\(index)", image: image), now: Timestamp(seconds: Int64(index) * 10 * day))
            if index > 0 {
                _ = try site.apply("without", now: Timestamp(seconds: Int64(index) * 10 * day + 1)) {
                    $0.removeAll { $0.version == "1.\(index - 1)" }
                }
            }
        }
        #expect(try site.installed().map(\.version) == ["1.3"])
        var keeps = SiteAppearance.Keeping()
        let now = Timestamp(seconds: 31 * day)
        #expect(try site.collect(keeps, now: now, isTrial: true).images == [Digest(hashing: "a")], "the first was last shown 31 days ago")
        #expect(Disk.exists(site.imageDirectory(Digest(hashing: "a"))))
        #expect(try site.collect(keeps, now: now).images == [Digest(hashing: "a")])
        #expect(!Disk.exists(site.imageDirectory(Digest(hashing: "a"))) && Disk.exists(site.imageDirectory(Digest(hashing: "b"))))
        let back = try site.rollBack(to: 5, now: now)
        #expect(back.tools.map(\.version) == ["1.2"] && Disk.exists("\(site.root)/modules/tool/1.2.lua"))
        #expect(throws: FarmError.self) { try site.rollBack(to: 1, now: now) }
        (keeps.generations, keeps.days) = (0, 0)
        let rest = try site.collect(keeps, now: now.adding(seconds: 1))
        #expect(Set(rest.images) == [Digest(hashing: "b"), Digest(hashing: "d")], "what is shown stays")
        #expect(try site.history().map(\.number) == [5])
        #expect(try Disk.list("\(site.root)/tools/tool").count == 1)
    }

    /// One that was gone back to is kept from the day on which it was taken from view, not from the day of its successor.
    @Test func whatWasShownAgainIsKeptForItsDays() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        let day: Int64 = 86400
        for index in 0..<6 {
            try place("\(index)", in: site)
            try site.apply("\(index)", now: Timestamp(seconds: Int64(index) * day)) { tools in
                tools = []
                tools.add(release("tool", "1.\(index)", image: "\(index)"), now: Timestamp(seconds: 0))
            }
        }
        _ = try site.rollBack(to: 1, now: Timestamp(seconds: 6 * day))
        try place("new", in: site)
        try site.install(release("tool", "2.0", image: "new"), now: Timestamp(seconds: 60 * day))
        let keeps = SiteAppearance.Keeping()
        #expect(try site.collect(keeps, now: Timestamp(seconds: 61 * day), isTrial: true).generations == [2, 3])
        #expect(try site.collect(keeps, now: Timestamp(seconds: 75 * day), isTrial: true).generations == [1, 2, 3])
        // Nobody knows what one that cannot be read needs.
        try Disk.replace("\(site.root)/generations/4/generation.json", with: [])
        #expect(throws: FarmError.self) { try site.collect(keeps, now: Timestamp(seconds: 75 * day)) }
    }

    /// A collection that was killed, or a loss of power, may leave a tool in part; whoever shows it again makes it whole.
    @Test func aToolThatIsThereInPartIsMadeWhole() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        try place("i", in: site)
        try site.install(release(), now: Timestamp(seconds: 1))
        let tool = try #require(Disk.realPath("\(site.root)/wrappers/tool/1.0"))
        for damage in ["bin/other", "launch"] {
            try Disk.remove("\(tool)/\(damage)")
            try site.apply("again", now: Timestamp(seconds: 2)) { _ in }
            #expect(Disk.kind("\(tool)/bin/other") == .link && Disk.exists("\(tool)/launch"))
        }
        #expect(try Disk.list("\(site.root)/tools/tool").count == 1)
    }

    /// What a pull has just brought and nobody shows yet is not taken away under it.
    @Test func whatHasJustComeIsNotCollected() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        try place("i", in: site)
        var keeps = SiteAppearance.Keeping()
        (keeps.generations, keeps.days) = (0, 0)
        #expect(try site.collect(keeps, now: .now).images.isEmpty)
        #expect(
            try site.collect(keeps, now: Timestamp(milliseconds: Timestamp.now.milliseconds + 90_000_000)).images == [Digest(hashing: "i")])
    }

    /// A site as version 0.1 made it keeps what it carries.
    @Test func aSiteOfTheFirstFormTakesTheNewOne() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        try Disk.remove("\(site.root)/wrappers")
        try Disk.remove("\(site.root)/modules")
        let old = release("old")
        try place("i", in: site)
        try Disk.replace("\(site.imageDirectory(Digest(hashing: "i")))/launch", with: Array("offset 0\n".utf8))
        try Disk.makeDirectory("\(site.root)/wrappers/old/1.0/bin")
        try Disk.makeDirectory("\(site.root)/modules/old")
        let record =
            "{\"commands\":[\"tool\"],\"installedAt\":\"2026-01-01T00:00:00Z\",\"release\":\(String(decoding: try CanonicalJSON.encode(old), as: UTF8.self))}"
        try Disk.replace("\(site.root)/wrappers/old/1.0/installed.json", with: Array(record.utf8))
        try place("j", in: site)
        try site.install(release("new", image: "j"), now: Timestamp(seconds: 2))
        #expect(try site.installed().map(\.title) == ["new/1.0", "old/1.0"])
        #expect(Disk.exists("\(site.root)/wrappers/old/1.0/bin/tool") && Disk.exists("\(site.root)/modules/old/1.0.lua"))
    }

    @Test func anImageThatIsGoneIsToldBeforeGoingBack() throws {
        let scratch = try Scratch()
        let site = try site(scratch)
        try place("i", in: site)
        try site.install(release(), now: Timestamp(seconds: 1))
        try place("j", in: site)
        try site.install(release(image: "j"), now: Timestamp(seconds: 2))
        try Disk.remove(site.imageDirectory(Digest(hashing: "i")))
        let error = #expect(throws: FarmError.self) { try site.rollBack(to: nil, now: Timestamp(seconds: 3)) }
        #expect(error?.code == "site.generation" && error?.message.contains("tool 1.0") == true)
        #expect(try site.current()?.number == 2)
    }

    @Test func aReleaseOffersWhatWasFoundAndNoNamesThatAreNone() {
        #expect(release().commands == ["tool", "other", "found"])
    }

    @Test func programsThatEveryMachineHasAreNoCommandsUnlessTheyAreMeant() {
        for name in ["python", "python3", "python3.11", "ls", "[", "bash", "env", "perl5.36.0", "curl", "conda"] {
            #expect(CommandName.isCommon(name), "\(name)")
        }
        for name in ["fslmaths", "bet", "pythonic", "3dcopy", "mrview", "g", "lsx", "java-tool", "nodestats"] {
            #expect(!CommandName.isCommon(name), "\(name)")
        }
    }

    /// Directories of tools are rewritten while calls look at them.
    @Test func whatIsWrittenAnewIsThereAllTheTime() throws {
        let scratch = try Scratch()
        try Disk.makeDirectory("\(scratch.path)/a")
        try Disk.makeDirectory("\(scratch.path)/b")
        try Disk.replace("\(scratch.path)/a/x", with: [1])
        try Disk.exchange("\(scratch.path)/a", "\(scratch.path)/b")
        #expect(Disk.exists("\(scratch.path)/b/x") && Disk.isDirectory("\(scratch.path)/a") && !Disk.exists("\(scratch.path)/a/x"))
        #expect(throws: FarmError.self) { try Disk.exchange("\(scratch.path)/a", "\(scratch.path)/absent") }
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
        let check = try await ProcessRunner.run(
            Command("shellcheck", ["-s", "sh", "-e", "SC1090,SC1091,SC2016,SC2034,SC3013", "\(scratch.path)/l"]))
        #expect(check.succeeded, "\(check.text)")
        try Disk.rename("\(scratch.path)/l", to: "\(scratch.path)/sciferry-launch")
        let usage = try await ProcessRunner.run(Command("\(scratch.path)/sciferry-launch", ["x"]))
        #expect(usage.status == 64 && usage.text.contains("usage"))
        let gone = try await ProcessRunner.run(
            Command("\(scratch.path)/sciferry-launch", ["/nowhere", "tool"]))
        #expect(gone.status == 127 && gone.text.contains("is gone"))
    }
}
