import CoordinatorCore
import FarmModel
import ObjectStorage
import Foundation
import Glibc
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

/// Sites that follow a declaration, and people without one.
extension FarmTests {
    private func call(_ site: String, _ words: [String], _ farm: TestFarm, _ environment: [String: String?] = [:]) async throws
        -> CommandResult
    {
        var all: [String: String?] = ["SCIFERRY_MOUNTS": "\(farm.scratch.path)/mounts", "PWD": nil]
        all.merge(environment) { $1 }
        return try await ProcessRunner.run(
            Command(words[0], Array(words.dropFirst()), environment: all, directory: farm.scratch.path, deadlineSeconds: 60))
    }

    private func letGo(_ farm: TestFarm) async {
        let script = """
            for holder in "$1"/*.d*/holder; do read -r process rest <"$holder" && kill "$process"; done
            for mount in "$1"/*; do umount -l "$mount"; done
            """
        _ = try? await ProcessRunner.run(Command("sh", ["-c", script, "-", "\(farm.scratch.path)/mounts"], deadlineSeconds: 30))
    }

    @Test(.timeLimit(.minutes(6))) func aSiteFollowsItsDeclaration() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        func build(_ name: String, _ version: String, _ target: String) async throws {
            let built = try await farm.sciferry(["build", try await farm.recipe(name, version: version), "--for", target])
            #expect(built.succeeded, "\(built.text)")
        }
        try await build("tiny", "1.0", "x86_64")
        try await build("tiny", "1.0", "x86_64_v2")
        try await build("other", "7", "x86_64")

        // Made, planned, synced; the second time there is nothing to do.
        let site = "\(farm.scratch.path)/the site"
        let made = try await farm.sciferry(["site", "init", "--site", site, "--tool", "tiny"], mask: "077")
        #expect(made.succeeded && made.text.contains("site.yaml"), "\(made.text)")
        #expect(try await farm.sciferry(["site", "init", "--site", site]).text.contains("site.exists"))
        try Disk.replace("\(site)/site.yaml", with: Array("tools: [tiny]\ntargets: [x86_64_v2, x86_64]\n".utf8))
        let plan = try await farm.sciferry(["site", "sync", "--site", site, "--dry-run"])
        #expect(plan.text.contains("comes  tiny 1.0 (x86_64_v2)") && plan.text.contains("comes  tiny 1.0 (x86_64)"), "\(plan.text)")
        #expect(plan.text.contains("plan   2 images come") && !plan.text.contains("other"), "\(plan.text)")
        #expect(try Site(site).installed().isEmpty)
        let synced = try await farm.sciferry(["site", "sync", "--site", site], mask: "077")
        #expect(synced.succeeded && synced.text.contains("done   generation 1; 2 images"), "\(synced.text)")
        // Whoever keeps it may keep their own files to themselves; the site's are for its users.
        let closed = try await ProcessRunner.require(
            Command("find", [site, "!", "-type", "l", "!", "-perm", "-004", "!", "-name", "*.lock"]))
        #expect(closed == "")
        let again = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(
            again.text.contains("plan   0 images come") && again.text.contains("1 stay")
                && again.text.contains("done   generation 1; 0 images"), "\(again.text)")

        // The image is chosen where the command runs.
        let tool = "\(site)/wrappers/tiny/1.0/bin/tiny-tool"
        let releases = try await farm.releases().map(\.release)
        func digest(_ target: String) throws -> String {
            try #require(releases.first { $0.name == "tiny" && $0.image.target == target }).image.digest.hex
        }
        #expect(try await call(site, [tool], farm).text == "1.0\n")
        #expect(Disk.exists("\(farm.scratch.path)/mounts/\(try digest("x86_64_v2")).d/holder"))
        #expect(try await call(site, [tool], farm, ["SCIFERRY_TARGET": "x86_64"]).text == "1.0\n")
        #expect(Disk.exists("\(farm.scratch.path)/mounts/\(try digest("x86_64")).d/holder"))

        // A new version: who has loaded the old one keeps it, while the new one comes, goes and what is left is collected.
        let loaded = try #require(Disk.realPath("\(site)/wrappers/tiny/1.0"))
        try await build("tiny", "1.1", "x86_64")
        let isOver = Switch()
        let calls = Task { [loaded] in
            var failures: [String] = []
            while !isOver.isRaised {
                let said = try await call(site, ["\(loaded)/bin/tiny-tool", "args", "a b"], farm)
                if said.text != "<a b>" { failures.append(said.text) }
            }
            return failures
        }
        let quiet = try await farm.sciferry(["site", "sync", "--site", site, "--quiet"])
        #expect(quiet.succeeded && quiet.text.isEmpty, "\(quiet.text)")
        #expect(try Site(site).installed().map(\.title) == ["tiny/1.1"])
        #expect(try await farm.sciferry(["site", "collect", "--site", site]).succeeded)
        #expect(try await farm.sciferry(["site", "history", "--site", site]).text.contains("2 *"))
        let back = try await farm.sciferry(["site", "rollback", "--site", site])
        #expect(back.succeeded && back.text.contains("generation 1"), "\(back.text)")
        #expect(try await call(site, [tool], farm).text == "1.0\n")
        #expect(try await farm.sciferry(["site", "sync", "--site", site]).text.contains("shows  tiny/1.1, which is here already"))
        _ = isOver.raise()
        #expect(try await calls.value.isEmpty)

        // Both are carried, then one is hidden from a declaration that is wrong first.
        try Disk.replace("\(site)/site.yaml", with: Array("tools:\n  - tinny\n".utf8))
        let slip = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(!slip.succeeded && slip.text.contains("the channel has no tool tinny"), "\(slip.text)")
        try Disk.replace("\(site)/site.yaml", with: Array("tools:\n  - {name: tiny, version: all}\n".utf8))
        let key = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(
            !key.succeeded && key.text.contains("site.yaml:2: \"version\" is not a key") && key.text.contains("did you mean \"versions\"?"),
            "\(key.text)")
        #expect(try Site(site).installed().map(\.title) == ["tiny/1.1"], "nothing has changed")
        let text =
            "tools:\n  - {name: tiny, versions: all}\n  - other\nmodules: {defaults: {tiny: 1.0}, hidden: [other]}\nkeep: {generations: 0, days: 0}\n"
        try Disk.replace("\(site)/site.yaml", with: Array(text.utf8))
        let all = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(all.succeeded && all.text.contains("comes  other 7 (x86_64)") && all.text.contains("collected  "), "\(all.text)")
        let module = try await ProcessRunner.run(
            Command(
                "bash",
                [
                    "-c",
                    ". /usr/share/lmod/lmod/init/bash; . \"$1/init/sh\"; module -t avail 2>&1; module load tiny; tiny-tool; module load other; type -p other-tool tiny-tool",
                    "-", site,
                ], environment: ["SCIFERRY_MOUNTS": "\(farm.scratch.path)/mounts"], directory: farm.scratch.path))
        #expect(
            module.text.contains("tiny/1.1\n") && !module.text.contains("other/7\n") && module.text.contains("\n1.0\n"), "\(module.text)")
        await letGo(farm)
    }

    /// A part that cannot be had keeps nobody from the rest, and what was there of it stays.
    @Test(.timeLimit(.minutes(4))) func whatCannotBeBroughtIsToldAndTheRestIsShown() async throws {
        let place = try Scratch()
        let farm = try await TestFarm(regions: ["a=file:\(place.path)/a"])
        try await farm.up(workers: ["w1"])
        let bulk = ["dd if=/dev/urandom of=/opt/bulk bs=1000000 count=3"]
        #expect(try await farm.sciferry(["build", try await farm.recipe("one", run: bulk)]).succeeded)
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["site", "init", "--site", site]).succeeded)
        #expect(try await farm.sciferry(["site", "sync", "--site", site]).succeeded)
        let before = Set(try Disk.list("\(place.path)/a/packs"))
        #expect(try await farm.sciferry(["build", try await farm.recipe("one", version: "2.0", run: bulk)]).succeeded)
        let packs = Set(try Disk.list("\(place.path)/a/packs")).subtracting(before)
        #expect(try await farm.sciferry(["build", try await farm.recipe("two")]).succeeded)
        // The new version's own chunks are gone from the only region.
        for pack in packs { try Disk.rename("\(place.path)/a/packs/\(pack)", to: "\(place.path)/\(pack)") }
        let part = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(!part.succeeded && part.text.contains("not brought: one 2.0"), "\(part.text)")
        #expect(try Site(site).installed().map(\.title) == ["one/1.0", "two/1.0"])
        for pack in packs { try Disk.rename("\(place.path)/\(pack)", to: "\(place.path)/a/packs/\(pack)") }
        // So it is with a manifest, which is read before anything else, and with what the declaration asks for in vain.
        let release = try #require(try await farm.releases().first { $0.release.version == "2.0" }).release
        let manifest = "\(place.path)/a/manifests/\(release.image.manifest.hex)"
        let held = try Disk.read(manifest)
        try Disk.replace(manifest, with: Array("{}".utf8))
        try Disk.replace("\(site)/site.yaml", with: Array("tools:\n  - one\n  - two/9.*\n  - tow\nmodules: {defaults: {one: 5.0}}\n".utf8))
        let wrong = try await farm.sciferry(["site", "sync", "--site", site, "--dry-run"])
        #expect(wrong.status == 69 && wrong.text.contains("wrong  one 2.0"), "\(wrong.text)")
        for text in [
            "site.yaml:3: the channel has no such version of two, only 1.0", "site.yaml:4: the channel has no tool tow;",
        ] { #expect(wrong.text.contains(text), "\(wrong.text)") }
        #expect(try await farm.sciferry(["site", "sync", "--site", site]).status == 69)
        #expect(try Site(site).installed().map(\.title) == ["one/1.0", "two/1.0"])
        try Disk.replace(manifest, with: held)
        try Disk.replace("\(site)/site.yaml", with: Array("tools: [\"*\"]\nmodules: {defaults: {one: 5.0}}\n".utf8))
        let odd = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(odd.status == 69 && odd.text.contains("site.yaml: the default of one is 5.0, but the site carries 2.0"), "\(odd.text)")
        try Disk.replace("\(site)/site.yaml", with: Array("tools: [\"*\"]\n".utf8))
        let rest = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(rest.succeeded, "\(rest.text)")
        #expect(try Site(site).installed().map(\.title) == ["one/2.0", "two/1.0"])
    }

    /// One declaration keeps menus, other people's registries and a bucket; the bucket is a region for others, of what the site carries.
    @Test(.timeLimit(.minutes(4))) func aDeclarationKeepsMenusRegistriesAndAMirror() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        for name in ["tiny", "other"] { #expect(try await farm.sciferry(["build", try await farm.recipe(name)]).succeeded) }
        let (site, mirror) = ("\(farm.scratch.path)/site", "file:\(farm.scratch.path)/mirror")
        #expect(try await farm.sciferry(["site", "init", "--site", site]).succeeded)
        func declare(_ tools: String, mirror: String) throws {
            let text = "tools: [\(tools)]\noutputs: {menu: desktop, shpc: registry, neurodesk: others, mirror: \"\(mirror)\"}\n"
            try Disk.replace("\(site)/site.yaml", with: Array(text.utf8))
        }
        try declare("tiny", mirror: mirror)
        let plan = try await farm.sciferry(["site", "sync", "--site", site, "--dry-run"])
        #expect(plan.text.contains("writes mirror in \(mirror)\n") && !Disk.exists("\(farm.scratch.path)/mirror"), "\(plan.text)")
        let first = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(
            first.succeeded && first.text.contains("shpc  registry: 1 tools\n") && first.text.contains("mirror  \(mirror): "),
            "\(first.text)")
        #expect(Disk.exists("\(site)/others/neurodesk/apps.json"))
        #expect(try await farm.sciferry(["site", "sync", "--site", site]).text.contains("mirror  \(mirror): as it was\n"))

        // Another site, with nothing but the bucket: what is carried is there, the rest is not.
        let away = "\(farm.scratch.path)/away"
        var settings = try Site(site).configuration()
        settings.regions = [BucketLocation(mirror)]
        _ = try Site.create(away, settings)
        let taken = try await farm.sciferry(["pull", "tiny", "--site", away])
        #expect(taken.succeeded, "\(taken.text)")
        let refused = try await farm.sciferry(["pull", "other", "--site", away])
        #expect(!refused.succeeded && refused.text.contains("releases/other/"), "\(refused.text)")
        #expect(try Site(away).installed().map(\.title) == ["tiny/1.0"])

        // A new version and another tool: the bucket follows, and keeps for two days what it needs no more.
        #expect(try await farm.sciferry(["build", try await farm.recipe("tiny", version: "2.0")]).succeeded)
        try declare("tiny, other", mirror: mirror)
        #expect(try await farm.sciferry(["site", "sync", "--site", site, "--quiet"]).text.isEmpty)
        for name in ["tiny/2.0", "other"] {
            let pulled = try await farm.sciferry(["pull", name, "--site", away])
            #expect(pulled.succeeded, "\(pulled.text)")
        }
        #expect(Disk.exists("\(farm.scratch.path)/mirror/releases/tiny/1.0"))
        #expect(try Disk.list("\(site)/registry").isEmpty == false)

        // Neither the farm's own region nor another mirror of it becomes the site's.
        let own = try #require(try Site(site).configuration().regions.first)
        try declare("tiny, other", mirror: "\(own)")
        #expect(try await farm.sciferry(["site", "sync", "--site", site]).text.contains("is a region that the site reads from"))
        try Disk.remove("\(site)/state/mirror")
        try declare("tiny, other", mirror: mirror)
        #expect(try await farm.sciferry(["site", "sync", "--site", site]).text.contains("has a channel already"))

        // A bucket of something else is told, and hinders nothing of the rest.
        try Disk.makeDirectory("\(farm.scratch.path)/foreign")
        try Disk.replace("\(farm.scratch.path)/foreign/sciferry.json", with: Array("{}".utf8))
        try declare("other", mirror: "file:\(farm.scratch.path)/foreign")
        let foreign = try await farm.sciferry(["site", "sync", "--site", site])
        #expect(
            foreign.status == 69 && foreign.text.contains("not written: mirror") && foreign.text.contains("another farm"), "\(foreign.text)"
        )
        #expect(try Site(site).installed().map(\.title) == ["other/1.0"])
        #expect(try Disk.list("\(farm.scratch.path)/foreign") == ["sciferry.json"])
    }

    /// One person without a site: what is asked for comes by itself and becomes the command.
    @Test(.timeLimit(.minutes(4))) func onePersonRunsWhatTheChannelHas() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["build", try await farm.recipe()]).succeeded)
        let site = "\(farm.scratch.path)/mine"
        let first = try await farm.sciferry(["exec", "--site", site, "tiny", "tiny-tool", "args", "--help", "a b"])
        #expect(
            first.text.contains("tiny 1.0 (") && first.text.contains("was brought") && first.text.hasSuffix("<--help><a b>"),
            "\(first.text)")
        #expect(try await farm.sciferry(["exec", "--site", site, "tiny/1.0", "--", "tiny-tool"]).text == "1.0\n")
        #expect(try await farm.sciferry(["exec", "--site", site, "tiny", "tiny-tool", "exit", "7"]).status == 7)
        #expect(try await farm.sciferry(["run", "--site", site, "tiny", "echo", "a  b"]).text == "a  b\n")
        // It is the command's own: who may read what it writes, and what ends it.
        let mask = try await farm.sciferry(["exec", "--site", site, "tiny", "sh", "-c", "umask; cat /proc/self/status"], mask: "077")
        #expect(mask.text.hasPrefix("0077\n") && mask.text.contains("SigBlk:\t0000000000000000"), "\(mask.text)")
        // Several who want the same at once, as of a loop: each has it, and nothing half made stays.
        let several = "\(farm.scratch.path)/several"
        let answers = try await withThrowingTaskGroup(of: CommandResult.self) { group in
            for _ in 0..<4 { group.addTask { try await farm.sciferry(["exec", "--site", several, "tiny", "tiny-tool"]) } }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(answers.allSatisfy { $0.succeeded && $0.text.hasSuffix("1.0\n") }, "\(answers.map(\.text))")
        let left = try Disk.list("\(several)/images")
        #expect(left.count == 1 && Disk.exists("\(several)/images/\(left[0])/image.sif"), "\(left)")
        let absent = try await farm.sciferry(["exec", "--site", site, "tinny", "x"])
        #expect(!absent.succeeded && absent.text.contains("channel.absent"), "\(absent.text)")
        let linked = try await farm.sciferry(["install", "tiny", "--site", site, "--link", "\(farm.scratch.path)/bin"])
        #expect(linked.succeeded && linked.text.contains("1 commands are in"), "\(linked.text)")
        #expect(try await call(site, ["\(farm.scratch.path)/bin/tiny-tool", "args", "it's"], farm).text == "<it's>")
        try Disk.replace("\(farm.scratch.path)/bin/tiny-tool", with: Array("mine".utf8))
        #expect(
            try await farm.sciferry(["install", "tiny", "--site", site, "--link", "\(farm.scratch.path)/bin"]).text.contains(
                "install.taken"))
        let completed = try await farm.sciferry([
            "---completion", "pull", "--", "positional@0", "2", "0", "sciferry", "pull", "--site", site, "",
        ])
        #expect(completed.text.contains("tiny/1.0"), "\(completed.text)")

        // What turns out to be wrong is hidden and stays: who asks for the newest does not get it, who names it does.
        #expect(try await farm.sciferry(["build", try await farm.recipe(version: "1.1")]).succeeded)
        let yank = try await farm.remote("releaser", ["yank", "tiny/1.1", "--because", "it counts wrongly"])
        #expect(yank.succeeded && yank.text.contains("tiny/1.1 (x86_64) is yanked"), "\(yank.text)")
        #expect(try await farm.remote("maintainer", ["yank", "tiny/1.1", "--undo"]).text.contains("api.role"))
        #expect(try await farm.sciferry(["yank", "tiny/9", "--because", "x"]).text.contains("release.absent"))
        let other = "\(farm.scratch.path)/other"
        try await farm.eventually("the channel says so") {
            try await farm.sciferry(["pull", "tiny", "--site", other]).text.contains("tiny 1.0 (x86_64)")
        }
        let named = try await farm.sciferry(["pull", "tiny/1.1", "--site", other])
        #expect(named.succeeded && named.text.contains("tiny/1.1 is yanked: it counts wrongly"), "\(named.text)")
        #expect(try Site(other).installed().last?.yanked == "it counts wrongly")
        #expect(try await farm.sciferry(["yank", "tiny/1.1", "--undo"]).succeeded)
        try await farm.eventually("it is as others again") {
            try await farm.sciferry(["pull", "tiny", "--site", "\(other)2"]).text.contains("tiny 1.1 (x86_64)")
        }
        await letGo(farm)
    }
}
