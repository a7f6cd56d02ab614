import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// A web server on loopback: shows a directory and keeps what is posted.
private final class TestWeb: Sendable {
    let root: String
    let url: String
    private let child: Child
    private static let program = """
        import functools, http.server, sys
        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                with open('posted', 'ab') as file: file.write(body + b'\\n')
                self.send_response(503 if self.path == '/down' else 204)
                self.end_headers()
        http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
        """

    init(_ root: String) throws {
        self.root = root
        try Disk.makeDirectory(root)
        let port = try FreePort.find()
        url = "http://127.0.0.1:\(port)"
        child = try Child("/bin/sh", ["-c", "cd \(root) && exec python3 -c \"$1\" \(port)", "sh", Self.program], log: "\(root).log")
    }

    deinit {
        child.kill()
        try? Disk.remove(root)
    }

    func write(_ name: String, _ text: String) throws { try Disk.replace("\(root)/\(name)", with: Array(text.utf8)) }
    func read(_ name: String) -> String { (try? String(contentsOfFile: "\(root)/\(name)", encoding: .utf8)) ?? "" }
}

/// Nights over a collection on disk, with a registry, a web server and a git server of the recipes' that are real.
extension FarmTests {
    private func edit(_ recipe: String, _ old: String, _ new: String) throws {
        let path = "\(recipe)/build.yaml"
        let text = try String(contentsOfFile: path, encoding: .utf8)
        #expect(text.contains(old), "\(old)")
        try Disk.replace(path, with: Array(text.replacing(old, with: new).utf8))
    }

    /// The words behind each recipe of a plan, by its name.
    private func plan(_ farm: TestFarm, _ more: [String] = []) async throws -> [String: String] {
        let shown = try await farm.sciferry(["nightly", "plan", "--json"] + more)
        let view = try CanonicalJSON.decode(NightlyPlanView.self, from: shown.output, source: "the plan: \(shown.text)")
        return Dictionary(view.plan.entries.map { ("\($0.recipe) \($0.version)", "\($0.decision.rawValue): \($0.words)") }) {
            "\($0) \($1)"
        }
    }

    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(8))) func aNightBuildsWhatHasAReasonAndTellsOfIt() async throws {
        let engine = try await TestEngine()
        let site = try TestWeb("/tmp/sciferry-web-\(getpid())-nights")
        let advisories = "\(site.root)/advisories.json"
        let farm = try await TestFarm {
            $0.nightly.mostFailures = 1
            $0.nightly.advisories = [advisories]
            $0.nightly.webhook = "\(site.url)/hook"
        }
        let root = farm.scratch.path
        let home = "\(farm.home)/farm.json"
        try Disk.replace(
            home,
            with: Array(
                try String(contentsOfFile: home, encoding: .utf8).replacing(#""collection" : """#, with: "\"collection\" : \"\(root)\"")
                    .utf8))
        try site.write("advisories.json", "[]")
        try site.write("data.txt", "first\n")
        try site.write("versions.html", "<a href=tool-1.0.tar.gz>")
        try Disk.makeDirectory("\(root)/macros")
        try Disk.replace("\(root)/macros/greet.yaml", with: Array("directives:\n  - run:\n      - echo hello > /opt/greeting\n".utf8))
        let quiet = "  network: none"
        _ = try await farm.recipe("steady", settings: quiet)
        let moving = try await farm.recipe("moving", settings: quiet)
        let image = try await TestRegistry.push("nightly", "one")
        try edit(moving, try await TestRegistry.base(), image)
        let edited = try await farm.recipe("edited", settings: quiet)
        let templated = try await farm.recipe("templated", settings: quiet)
        try edit(templated, "directives:\n", "directives:\n    - include: macros/greet.yaml\n")
        let fetching = try await farm.recipe("fetching", run: ["cat {{ get_file(\"data\") }} > /opt/fetched"], settings: quiet)
        try edit(fetching, "x-sciferry:", "files:\n  - {name: data, url: '\(site.url)/data.txt'}\nx-sciferry:")
        _ = try await farm.recipe(
            "mended",
            run: [
                "mkdir -p /var/lib/dpkg /usr/lib",
                "for line in ID=debian VERSION_ID=12 VERSION_CODENAME=bookworm; do echo $line; done > /usr/lib/os-release",
                "echo Package: libx1 > /var/lib/dpkg/status; echo Status: install ok installed >> /var/lib/dpkg/status",
                "echo Source: x-src >> /var/lib/dpkg/status; echo Version: $(busybox date +%s) >> /var/lib/dpkg/status",
            ], settings: quiet)
        let broken = try await farm.recipe("broken", run: ["echo the reason >&2", "false"], settings: quiet)
        _ = try await farm.recipe(
            "growing", settings: "\(quiet)\n  updates: {kind: http, name: '\(site.url)/versions.html', pattern: 'tool-([0-9.]+)\\.tar'}")
        try Disk.makeDirectory("\(root)/recipes/garbled")
        try Disk.replace("\(root)/recipes/garbled/build.yaml", with: Array("name: [".utf8))
        try await farm.up(workers: ["w1", "w2"], settings: ["w2": "\"dockerHost\": \"\(engine.address)\""], untrusted: ["w2"])

        // The first night builds all that can be read, and says why it does or does not.
        let first = try await plan(farm)
        #expect(first["steady 1.0"] == "build: this version was never released", "\(first)")
        #expect(first["garbled -"]?.hasPrefix("skip: ") == true && first.count == 9, "\(first)")
        let night = try await farm.sciferry(["nightly", "run"], deadline: 300)
        #expect(night.status == 1 && night.text.contains("test, night 1: 7 released, 1 failed, 1 skipped"), "\(night.text)")
        #expect(night.text.contains("the reason") && night.text.contains("/log") && night.text.contains("[the recipe's]"), "\(night.text)")
        try await farm.eventually("the report is posted") { site.read("posted").contains("7 released, 1 failed") }
        let posted = try JSONSerialization.jsonObject(with: Data(site.read("posted").utf8)) as? [String: Any]
        #expect(posted?["night"] as? Int == 1 && (posted?["counts"] as? [String: Int])?["released"] == 7)

        // Nothing has changed since, and what failed would fail again.
        let second = try await plan(farm)
        #expect(second["steady 1.0"] == "skip: nothing has changed, 0 days old", "\(second)")
        #expect(second["broken 1.0"]?.hasPrefix("skip: failed 1 times, and nothing has changed since: ") == true, "\(second)")
        #expect(second.values.allSatisfy { $0.hasPrefix("skip: ") }, "\(second)")

        // Now each has a reason of its own.
        _ = try await TestRegistry.push("nightly", "two")
        try edit(edited, "A tiny tool.", "A changed tool.")
        try Disk.replace("\(root)/macros/greet.yaml", with: Array("directives:\n  - run:\n      - echo again > /opt/greeting\n".utf8))
        try site.write("data.txt", "second, and longer\n")
        try site.write("versions.html", "<a href=tool-1.0.tar.gz> <a href=tool-2.0.tar.gz>")
        let fixed = Int(Date().timeIntervalSince1970)
        try site.write(
            "advisories.json",
            """
            [{"id": "DSA-1-1", "affected": [{"package": {"ecosystem": "Debian:12", "name": "x-src"},
              "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "\(fixed)"}]}]}]}]
            """)
        try edit(broken, "'false'", "'true'")
        let third = try await plan(farm)
        #expect(third["moving 1.0"] == "build: \(image) has moved", "\(third)")
        #expect(third["edited 1.0"] == "build: the recipe has changed", "\(third)")
        #expect(third["templated 1.0"] == "build: macros/greet.yaml has changed", "\(third)")
        #expect(third["fetching 1.0"] == "build: \(site.url)/data.txt has changed", "\(third)")
        #expect(third["mended 1.0"] == "build: a rebuild mends DSA-1-1", "\(third)")
        #expect(third["broken 1.0"] == "build: this version was never released", "\(third)")
        #expect(third["growing 2.0"] == "candidate: version 2.0 is out (tool-2.0.tar)", "\(third)")
        #expect(third["steady 1.0"] == "skip: nothing has changed, 0 days old" && third["growing 1.0"]?.hasPrefix("skip") == true)
        let offline = try await plan(farm, ["--offline"])
        #expect(offline["moving 1.0"]?.hasPrefix("skip") == true && offline["edited 1.0"]?.hasPrefix("build") == true, "\(offline)")
        let patch = try await farm.sciferry(["nightly", "plan", "--patch"])
        #expect(patch.text.contains("+version: \"2.0\"") && patch.text.contains("+++ b/recipes/growing-1.0/build.yaml"), "\(patch.text)")

        // The coordinator is killed in the middle of the night: nothing is lost and nothing is built twice.
        let began = try await farm.sciferry(["nightly", "run", "--no-wait"])
        #expect(began.succeeded && began.text.contains("night 2 began"), "\(began.text)")
        let twice = try await farm.sciferry(["nightly", "run"])
        #expect(twice.text.contains("night 2 is still going on"), "\(twice.text)")
        farm.kill("coordinator")
        try farm.start("coordinator")
        try await farm.eventually("the night ends", seconds: 200) {
            let shown = try await farm.sciferry(["nightly", "report", "--json"])
            return try CanonicalJSON.decode(NightFile.self, from: shown.output, source: "report").night.endedAt != nil
        }
        let report = try await farm.sciferry(["nightly", "report", "--mail", "ops@farm.example"])
        #expect(report.text.contains("Subject: test, night 2: 6 released, 1 candidate, 3 skipped"), "\(report.text)")
        #expect(
            report.text.contains("    | +version: \"2.0\"") && report.text.contains("https://security-tracker.debian.org/tracker/DSA-1-1"))
        let jobs = try await farm.jobs().filter { $0.job.requestedBy == "nightly" && $0.job.kind == .build }
        #expect(jobs.count == 15 && jobs.allSatisfy { $0.job.state.isFinal }, "\(jobs.map(\.job.title))")
        let candidate = try #require(jobs.first { $0.job.isCandidate ?? false })
        #expect(candidate.publication?.builtOn == "w2" && candidate.job.version == "2.0")

        // Every reason is gone with its build, and the candidate is not tried a second time.
        let last = try await plan(farm)
        #expect(last.values.allSatisfy { $0.hasPrefix("skip: ") }, "\(last)")
        #expect(last["growing 2.0"]?.hasPrefix("skip: \(candidate.job.id) is a candidate of it; version 2.0 is out") == true, "\(last)")
        let list = try await farm.sciferry(["nightly", "list"])
        #expect(list.text.contains("sent "), "\(list.text)")
    }

    /// A collection in a repository is fetched before each night; where that cannot be done, what was there counts.
    @Test(.timeLimit(.minutes(2))) func aRepositoryIsFetchedBeforeEachNight() async throws {
        let origin = "/tmp/sciferry-origin-\(getpid())"
        defer { try? Disk.remove(origin) }
        let farm = try await TestFarm { $0.nightly.repository = "file://\(origin)" }
        let recipe = try await farm.recipe()
        func git(_ arguments: [String]) async throws -> String {
            let who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
            return try await ProcessRunner.require(Command("git", ["-C", origin] + who + arguments)).trimmingCharacters(
                in: .whitespacesAndNewlines)
        }
        try await ProcessRunner.require(Command("sh", ["-c", "mkdir \(origin) && cp -r \(farm.scratch.path)/recipes \(origin)"]))
        _ = try await git(["init", "-q", "-b", "main"])
        func publish() async throws -> String {
            _ = try await git(["add", "-A"])
            _ = try await git(["commit", "-q", "-m", "x"])
            return try await git(["rev-parse", "HEAD"])
        }
        let first = try await publish()
        try await farm.up(workers: [])
        let shown = try await farm.sciferry(["nightly", "plan"])
        #expect(
            shown.text.contains("\(farm.home)/collection at \(first.prefix(12))") && shown.text.contains("the farm has no worker"),
            "\(shown.text)")
        try Disk.replace("\(origin)/recipes/tiny-1.0/build.yaml", with: try Disk.read("\(recipe)/build.yaml") + Array("# changed\n".utf8))
        let second = try await publish()
        #expect(try await farm.sciferry(["nightly", "plan", "--offline"]).text.contains(first.prefix(12)), "offline nothing is fetched")
        #expect(try await farm.sciferry(["nightly", "plan"]).text.contains(second.prefix(12)))
        try Disk.remove(origin)
        let last = try await farm.sciferry(["nightly", "plan"])
        #expect(
            last.text.contains("problem: the collection could not be fetched, what was there is used")
                && last.text.contains(second.prefix(12)),
            "\(last.text)")
    }

    /// A schedule begins nights, one that cannot be planned says so, and a webhook that is down is tried again.
    @Test(.timeLimit(.minutes(4))) func nightsBeginByThemselvesAndSayWhatIsWrong() async throws {
        let site = try TestWeb("/tmp/sciferry-web-\(getpid())-schedule")
        let farm = try await TestFarm {
            $0.nightly.schedule = "* * * * *"
            $0.nightly.collection = "/nowhere"
            $0.nightly.webhook = "\(site.url)/down"
        }
        try farm.start("coordinator")
        try await farm.eventually("a night has ended", seconds: 90) {
            try await farm.sciferry(["nightly", "report"]).text.contains("/nowhere is no collection")
        }
        let report = try await farm.sciferry(["nightly", "report"])
        #expect(report.text.contains("by schedule") && report.text.contains("nothing to do"), "\(report.text)")
        try await farm.eventually("it is tried again", seconds: 30) {
            let list = try await farm.sciferry(["nightly", "list"]).text
            return site.read("posted").split(separator: "\n").count >= 2 && list.contains("the webhook answers with status 503")
        }
        #expect(!farm.log("coordinator").contains(site.url), "the address is told to nobody")
        let none = try await farm.sciferry(["nightly", "report", "99"])
        #expect(none.status == 66 && none.text.contains("there is no night 99"), "\(none.text)")
        #expect(try await farm.sciferry(["nightly", "stop"]).text.contains("no night is going on"))
    }
}
