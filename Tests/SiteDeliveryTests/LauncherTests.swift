import FarmModel
import Foundation
import Glibc
import ProcessRunner
import SiteDelivery
import Support
import SystemIO
import Testing

/// The launcher, called as people and programs do.
@Suite(.serialized) struct LauncherTests: SiteFixture {
    /// A site that carries `probe`, where every user can read it.
    private func probeSite(_ scratch: Scratch) async throws -> (site: Site, release: Release) {
        let site = try site(scratch)
        var release = release("probe")
        release.commands = ["probe", "absent"]
        release.runtimeArguments = ["--nv", "--evil"]
        release.overridable = ["THEIRS_FIRST"]
        try await makeProbeImage(at: "\(site.imageDirectory(release.image.digest))/image.sif", in: scratch)
        let launch = try ImageLayout("\(site.imageDirectory(release.image.digest))/image.sif").launch(release)
        try Disk.replace("\(site.imageDirectory(release.image.digest))/launch", with: Array(launch.utf8))
        try site.install(release, now: Timestamp(seconds: 1))
        chmod(scratch.path, 0o755)
        return (site, release)
    }

    private func letGo(_ mounts: String) async {
        let script = """
            for holder in "$1"/*.d*/holder; do read -r process rest <"$holder" && kill "$process"; done
            for mount in "$1"/*; do umount -l "$mount"; done
            """
        _ = try? await ProcessRunner.run(Command("sh", ["-c", script, "-", mounts], deadlineSeconds: 30))
    }

    private func call(_ words: [String], _ scratch: Scratch, _ environment: [String: String?] = [:], directory: String? = nil) async throws
        -> CommandResult
    {
        var all: [String: String?] = ["SCIFERRY_MOUNTS": "\(scratch.path)/mounts", "SCIFERRY_RUNTIME": "bwrap", "PWD": nil]
        all.merge(environment) { $1 }
        return try await ProcessRunner.run(
            Command(words[0], Array(words.dropFirst()), environment: all, directory: directory ?? scratch.path, deadlineSeconds: 60))
    }

    @Test func whatStandsBesideAnImageIsReadFromIt() async throws {
        let scratch = try Scratch()
        let (site, release) = try await probeSite(scratch)
        let launch = try Disk.read("\(site.imageDirectory(release.image.digest))/launch")
        #expect(String(decoding: launch, as: UTF8.self) == "offset 0\nown '/data'\noverridable 'THEIRS_FIRST'\narguments '--nv'\n")
    }

    /// Where a real Apptainer is, for the slow tests.
    private static let apptainer = ProcessInfo.processInfo.environment["SCIFERRY_SINGULARITY"]

    /// The whole of scripts/wrapper-matrix: as this user and, where that can be, as an ordinary one; with the fast runtime and, where there is
    /// one, with a real Apptainer.
    @Test(.timeLimit(.minutes(6)), arguments: [false, true], apptainer == nil ? ["bwrap"] : ["bwrap", "apptainer"])
    func everyCallIsAsIfItWereInstalled(_ ordinary: Bool, _ runtime: String) async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        var subject = "mounted=\(site.root)/wrappers/probe/1.0/bin"
        if ordinary {
            guard getuid() == 0 else { return }
            _ = try await ProcessRunner.run(Command("sh", ["-c", "getent passwd 1000 || useradd -m -u 1000 sciferry-tester"]))
            subject = subject.replacing("mounted=", with: "mounted@1000=")
        }
        // The device is for everybody where a site's machines are set up.
        let script =
            ordinary
            ? "mount --make-rprivate / && mknod -m 666 \"$2\" c 10 229 && mount --bind \"$2\" /dev/fuse && exec \"$0\" \"$1\" --may-fail \"$3\""
            : "exec \"$0\" \"$1\" --may-fail \"$3\""
        // Apptainer hands arguments on as JSON, which has no place for other bytes than text's.
        let impossible = runtime == "apptainer" ? "arguments-that-are-no-text" : ""
        let words = ["sh", "-c", script, "\(Repository.root)/scripts/wrapper-matrix", subject, "\(scratch.path)/fuse", impossible]
        let path = (Self.apptainer.map { "\($0)/usr/bin:" } ?? "") + (ProcessInfo.processInfo.environment["PATH"] ?? "")
        let result = try await ProcessRunner.run(
            Command(
                ordinary ? "unshare" : "env", (ordinary ? ["--mount"] : []) + words,
                environment: ["SCIFERRY_RUNTIME": runtime, "PATH": path, "SCIFERRY_MOUNTS": nil, "XDG_RUNTIME_DIR": nil],
                deadlineSeconds: 340))
        #expect(result.succeeded, "\(result.text)")
        #expect(result.text.contains(": ok arguments-with-every-character"), "\(result.text)")
        for place in ["/tmp/sciferry-mounts-root", "/tmp/sciferry-mounts-x"] where !ordinary { await letGo(place) }
    }

    @Test func theImageIsChosenByTheCPU() async throws {
        let scratch = try Scratch()
        let (site, release) = try await probeSite(scratch)
        // One that this CPU does not run, and a second name for the image that it does.
        var other = release
        other.image.target = "neoverse_n1"
        other.image.digest = Digest(hashing: "other")
        try site.install(other, now: Timestamp(seconds: 2))
        let probe = "\(site.root)/wrappers/probe/1.0/bin/probe"
        let launch = String(decoding: try Disk.read("\(site.root)/wrappers/probe/1.0/launch"), as: UTF8.self)
        #expect(
            launch.hasPrefix("offer 'neoverse_n1' 'aarch64' '0x41' '") && launch.contains("\noffer 'x86_64' 'x86_64' '-' '' '"), "\(launch)"
        )
        #expect(try await call([probe, "args", "x"], scratch).text == "1\n<x>\n")
        let forced = try await call([probe, "args"], scratch, ["SCIFERRY_TARGET": "neoverse_n1"])
        #expect(forced.status == 127 && forced.text.contains("cannot be read"), "\(forced.text)")
        let unknown = try await call([probe, "args"], scratch, ["SCIFERRY_TARGET": "zen9"])
        #expect(unknown.status == 126 && unknown.text.contains("has no image for zen9; it has: neoverse_n1 x86_64"), "\(unknown.text)")
        // A tool of which no image suits says what this CPU lacks.
        try site.apply("only others", now: Timestamp(seconds: 3)) { tools in
            var tool = release
            tool.image.target = "x86_64_v4"
            tools = []
            tools.add(other, now: Timestamp(seconds: 3))
            if !(Disk.kernelText("/proc/cpuinfo") ?? "").contains("avx512f") { tools.add(tool, now: Timestamp(seconds: 3)) }
        }
        let refused = try await call([probe, "args"], scratch)
        #expect(
            refused.status == 126 && refused.text.contains("cannot run here: this CPU ") && refused.text.contains("neoverse_n1"),
            "\(refused.text)")
        await letGo("\(scratch.path)/mounts")
    }

    @Test func filesOfTheMachineStandWhereTheImageLooksForThem() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        let inside = ["\(site.root)/bin/sciferry-launch", "\(site.root)/wrappers/probe/1.0", "/bin/cat"]
        for name in ["hosts", "resolv.conf"] where Disk.exists("/etc/\(name)") {
            let seen = try await call(inside + ["/etc/\(name)"], scratch)
            #expect(seen.succeeded && seen.text == Disk.kernelText("/etc/\(name)"), "\(seen.text)")
        }
        let me = try await call([inside[0], inside[1], "/bin/id", "-un"], scratch)
        #expect(me.text == (try await ProcessRunner.require(Command("id", ["-un"]))))
        await letGo("\(scratch.path)/mounts")
    }

    /// A directory that was made anew since the last call, and two of which one lies in what is put together for the other.
    @Test(.enabled(if: getuid() == 0)) func directoriesAreThoseThatAreThere() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        let probe = "\(site.root)/wrappers/probe/1.0"
        let mark = "sciferry-\(Nonce.hex(bytes: 4))"
        let (inner, outer) = ("/var/lib/\(mark)", "/var/\(mark)")
        for place in [inner, outer] { try Disk.makeDirectory(place) }
        defer { for place in [inner, outer] { try? Disk.remove(place) } }
        try Disk.replace("\(inner)/x", with: [1])
        let inside = ["\(site.root)/bin/sciferry-launch", probe, "/bin/ls"]
        let both = ["SCIFERRY_BIND": "\(inner):\(outer)"]
        #expect(try await call(inside + [inner], scratch, both).text == "x\n")
        #expect(try await call(inside + [inner], scratch, ["SCIFERRY_BIND": "\(outer):\(inner)"]).text == "x\n")
        try Disk.remove(inner)
        try Disk.makeDirectory(inner)
        try Disk.replace("\(inner)/y", with: [1])
        #expect(try await call(inside + [inner], scratch, both).text == "y\n")
        await letGo("\(scratch.path)/mounts")
    }

    /// A tool that brings programs which the launcher itself uses, and which its module puts first.
    @Test func aToolsOwnProgramsDoNotTakeTheLaunchersPlace() async throws {
        let scratch = try Scratch()
        var (site, release) = try await probeSite(scratch)
        release.commands += ["id", "bash", "readlink", "nsenter", "cksum", "sort", "mkdir"]
        try site.install(release, now: Timestamp(seconds: 2))
        let bin = "\(site.root)/wrappers/probe/1.0/bin"
        let seen = try await call(["\(bin)/probe", "args", "a"], scratch, ["PATH": "\(bin):/usr/sbin:/usr/bin:/sbin:/bin"])
        #expect(seen.text == "1\n<a>\n", "\(seen.text)")
        await letGo("\(scratch.path)/mounts")
    }

    @Test func whatLeadsToolsAstrayIsTakenUnlessItIsMeant() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        let launcher = ["\(site.root)/bin/sciferry-launch", "\(site.root)/wrappers/probe/1.0"]
        let inside = launcher + ["/bin/sh", "-c", "echo $R_LIBS_USER-$PERL5LIB"]
        let set = ["R_LIBS_USER": "/r", "PERL5LIB": "/p"]
        #expect(try await call(inside, scratch, set).text == "-\n")
        #expect(try await call(inside, scratch, set.merging(["SCIFERRY_ENV": "A R_LIBS_USER"]) { $1 }).text == "/r-\n")
        await letGo("\(scratch.path)/mounts")
    }

    @Test func settingsOfASiteHold() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        var appearance = SiteAppearance()
        appearance.variables = ["FS_LICENSE": "@SITE@/licences/it's.txt", "MLM_LICENSE_FILE": "27000@host"]
        appearance.environment = ["IMAGE_SAYS"]
        appearance.runtime = "bwrap"
        // A licence where no directory of the host is shown.
        let licences = "/opt/sciferry-test-\(Nonce.hex(bytes: 4))"
        if getuid() == 0 {
            try Disk.makeDirectory(licences)
            try Disk.replace("\(licences)/key", with: Array("secret".utf8))
            appearance.variables["OUR_LICENCE"] = "\(licences)/key"
        }
        defer { if getuid() == 0 { try? Disk.remove(licences) } }
        try site.apply("settings", now: Timestamp(seconds: 2), look: appearance) { _ in }
        let probe = "\(site.root)/wrappers/probe/1.0/bin/probe"
        let words = [probe, "env", "FS_LICENSE", "MLM_LICENSE_FILE", "IMAGE_SAYS", "THEIRS_FIRST"]
        let ours = try await call(words, scratch, ["SCIFERRY_RUNTIME": nil])
        #expect(
            ours.text
                == "FS_LICENSE=\(site.root)/licences/it's.txt\nMLM_LICENSE_FILE=27000@host\nIMAGE_SAYS=a b \"q\" $x\nTHEIRS_FIRST=image\n",
            "\(ours.text)"
        )
        let theirs = try await call(words, scratch, ["FS_LICENSE": "/mine", "IMAGE_SAYS": "mine", "THEIRS_FIRST": "mine"])
        #expect(theirs.text == "FS_LICENSE=/mine\nMLM_LICENSE_FILE=27000@host\nIMAGE_SAYS=mine\nTHEIRS_FIRST=mine\n", "\(theirs.text)")
        let told = try await call(["\(site.root)/bin/sciferry-launch", "--runtime"], scratch, ["SCIFERRY_RUNTIME": nil])
        #expect(told.text == "bwrap\n")
        if getuid() == 0 {
            let read = try await call(
                ["\(site.root)/bin/sciferry-launch", "\(site.root)/wrappers/probe/1.0", "/bin/sh", "-c", "cat \"$OUR_LICENCE\""], scratch)
            #expect(read.text == "secret", "\(read.text)")
        }
        // They are the generation's: going back goes back on them.
        _ = try site.rollBack(to: nil, now: Timestamp(seconds: 3))
        #expect(try site.appearance() == SiteAppearance())
        #expect(try await call(words, scratch, ["FS_LICENSE": nil]).text.contains("MLM_LICENSE_FILE unset"))
        await letGo("\(scratch.path)/mounts")
    }

    /// What goes on after the first call holds none of its files; a call takes none of its caller's.
    @Test func nothingOfTheCallerIsHeld() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        let probe = "\(site.root)/wrappers/probe/1.0/bin/probe"
        try Disk.link("\(scratch.path)/mine", to: probe)
        let script = """
            cd "$2"; ( exec 12>pipe 9>nine; flock 8; "$1" args a; echo kept >&9 ) 8>lock
            flock -n lock echo free; cat nine; ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c " $2/pipe\\$"; ./mine args b
            """
        let said = try await call(["bash", "-c", script, "bash", probe, scratch.path], scratch)
        #expect(said.text == "1\n<a>\nfree\nkept\n0\n1\n<b>\n", "\(said.text)")
        await letGo("\(scratch.path)/mounts")
    }

    /// A directory of the host in one that the image also has hides nothing else of it.
    @Test(.enabled(if: getuid() == 0)) func directoriesAmongTheImagesOwnHideNothing() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        let name = "sciferry-test-\(Nonce.hex(bytes: 4))"
        for place in ["/etc", "/var"] { try Disk.makeDirectory("\(place)/\(name)") }
        defer { for place in ["/etc", "/var"] { try? Disk.remove("\(place)/\(name)") } }
        let script = "cat /etc/hosts; id -un; touch /var/tmp/\(name) && rm /var/tmp/\(name) && ls -d /etc/\(name) /var/\(name)"
        let said = try await call(
            ["\(site.root)/bin/sciferry-launch", "\(site.root)/wrappers/probe/1.0", "/bin/sh", "-c", script], scratch,
            ["SCIFERRY_BIND": "/etc/\(name):/var/\(name)"])
        let hosts = Disk.kernelText("/etc/hosts") ?? ""
        #expect(said.text == "\(hosts)root\n/etc/\(name)\n/var/\(name)\n", "\(said.text)")
        await letGo("\(scratch.path)/mounts")
    }

    /// Two versions, loaded by two users, are called all the while; nobody's call fails for what comes and goes.
    @Test(.timeLimit(.minutes(3))) func usersKeepWhatTheyLoadedThroughUpdatesAndCollections() async throws {
        let scratch = try Scratch()
        let (site, release) = try await probeSite(scratch)
        let day = 86400
        // The first image goes with its generation.
        let (kept, first) = ("\(scratch.path)/kept", site.imageDirectory(release.image.digest))
        try Disk.makeDirectory(kept)
        for name in ["image.sif", "launch"] { link("\(first)/\(name)", "\(kept)/\(name)") }
        /// Another build of a version, and with it another generation.
        func update(_ version: String, _ build: Int, _ time: Timestamp) throws {
            var next = release
            next.version = version
            next.image.digest = Digest(hashing: "\(version) \(build)")
            let directory = site.imageDirectory(next.image.digest)
            try Disk.makeDirectory(directory)
            for name in ["image.sif", "launch"] {
                link("\(kept)/\(name)", "\(directory)/\(name)")
            }
            try site.install(next, now: time)
        }
        try update("1.0", 100, Timestamp(seconds: Int64(10 * day)))
        for version in ["1.0", "2.0"] { try update(version, 0, Timestamp(seconds: Int64(19 * day))) }
        var loaded: [String] = []
        for version in ["1.0", "2.0"] {
            loaded.append(
                try await ProcessRunner.require(Command("realpath", ["\(site.root)/wrappers/probe/\(version)"])).trimmingCharacters(
                    in: .whitespacesAndNewlines))
        }
        let calls = """
            n=0
            while [ ! -e "$1/stop" ]; do
                for command in "$2/bin/probe" "$3/bin/probe"; do
                    said=$("$command" args "a b" 2>&1)
                    [ "$said" = "$(printf '1\\n<a b>')" ] || echo "failed: $said"
                    n=$((n + 1))
                done
            done
            [ "$n" -ge 10 ] && echo called
            """
        let asOrdinary = """
            getent passwd 1000 >/dev/null || useradd -m -u 1000 sciferry-tester
            mount --make-rprivate / && mknod -m 666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse
            install -d -m 700 -o 1000 "$1/mounts-1000"
            export SCIFERRY_MOUNTS="$1/mounts-1000"
            exec setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "$0" - "$@"
            """
        let environment = ["SCIFERRY_RUNTIME": "bwrap", "SCIFERRY_MOUNTS": "\(scratch.path)/mounts"]
        func user(_ number: Int, isOrdinary: Bool) -> Command {
            let words = [scratch.path, loaded[number], "\(site.root)/wrappers/probe/\(number + 1).0"]
            return isOrdinary
                ? Command("unshare", ["--mount", "sh", "-c", asOrdinary, calls] + words, environment: environment, deadlineSeconds: 150)
                : Command("sh", ["-c", calls, "-"] + words, environment: environment, deadlineSeconds: 150)
        }
        let commands = [user(0, isOrdinary: false), user(1, isOrdinary: getuid() == 0)]
        async let ours = ProcessRunner.run(commands[0])
        async let theirs = ProcessRunner.run(commands[1])
        var collected = 0
        for build in 1...12 {
            let now = Timestamp(seconds: Int64(20 * day + build * 3600))
            try update(build % 2 == 0 ? "1.0" : "2.0", build, now)
            if build % 4 == 0 { _ = try site.rollBack(to: nil, now: now) }
            var keeps = SiteAppearance.Keeping()
            keeps.generations = 1
            keeps.days = 3
            collected += try site.collect(keeps, now: now).generations.count
            try await Task.sleep(for: .milliseconds(300))
        }
        try Disk.write("\(scratch.path)/stop", [])
        let (one, two) = try await (ours, theirs)
        #expect(collected > 0, "the first generation was of day 0")
        #expect(one.text == "called\n" && two.text == "called\n", "\(one.text) \(two.text)")
        await letGo("\(scratch.path)/mounts")
    }

    /// After the idle time the process that keeps the name space goes, and a call that comes then starts another one.
    @Test func whatIsNotUsedIsLetGo() async throws {
        let scratch = try Scratch()
        let (site, release) = try await probeSite(scratch)
        let probe = "\(site.root)/wrappers/probe/1.0/bin/probe"
        let state = "\(scratch.path)/mounts/\(release.image.digest.hex).d"
        // Long enough that it is still there when a busy machine looks.
        #expect(try await call([probe, "exit", "0"], scratch, ["SCIFERRY_IDLE": "8"]).succeeded)
        let holder = try #require(Disk.kernelText("\(state)/holder")?.split(separator: " ").first.map(String.init))
        #expect(Disk.exists("/proc/\(holder)"))
        for _ in 0..<600 where Disk.exists("/proc/\(holder)") { try await Task.sleep(for: .milliseconds(100)) }
        #expect(!Disk.exists("/proc/\(holder)"))
        #expect(try await call([probe, "args", "again"], scratch).text == "1\n<again>\n")
        await letGo("\(scratch.path)/mounts")
    }

    /// What the launcher needs may be killed at any time.
    @Test func whatWasKilledIsPutUpAgain() async throws {
        let scratch = try Scratch()
        let (site, release) = try await probeSite(scratch)
        let probe = "\(site.root)/wrappers/probe/1.0/bin/probe"
        let mounts = "\(scratch.path)/mounts"
        #expect(try await call([probe, "exit", "0"], scratch).succeeded)
        let holder = try #require(
            Disk.kernelText("\(mounts)/\(release.image.digest.hex).d/holder")?.split(separator: " ").first.flatMap { Int32($0) })
        kill(holder, SIGKILL)
        #expect(try await call([probe, "args", "one"], scratch).text == "1\n<one>\n")
        _ = try await ProcessRunner.run(Command("sh", ["-c", "kill -KILL $(pgrep -f \"squashfuse_ll.*$1\")", "-", mounts]))
        let again = try await call([probe, "args", "two"], scratch)
        #expect(again.text == "1\n<two>\n", "\(again.text)")
        await letGo(mounts)
    }

    @Test func aMovedReadOnlySiteWithASpaceWorks() async throws {
        let scratch = try Scratch()
        let (site, _) = try await probeSite(scratch)
        let moved = "\(scratch.path)/moved it's \"here\""
        try Disk.rename(site.root, to: moved)
        try await ProcessRunner.require(Command("mount", ["--bind", moved, moved]))
        try await ProcessRunner.require(Command("mount", ["-o", "remount,bind,ro", moved]))
        let result = try await call(["\(moved)/wrappers/probe/1.0/bin/probe", "args", "a b"], scratch)
        _ = try await ProcessRunner.run(Command("umount", ["-l", moved]))
        #expect(result.text == "1\n<a b>\n", "\(result.text)")
        await letGo("\(scratch.path)/mounts")
    }
}
