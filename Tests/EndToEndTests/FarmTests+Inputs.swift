import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// A web server at an address of its own, which says what it was asked for.
private final class Origin: Sendable {
    static let address = "198.51.100.177"
    let port: Int
    private let place: String
    private let interface: String
    private let child: Child

    init(_ place: String) async throws {
        self.place = place
        interface = "sfo\(Nonce.hex(bytes: 4))"
        for words in [
            ["link", "add", interface, "type", "bridge"], ["addr", "add", "\(Self.address)/32", "dev", interface],
            ["link", "set", interface, "up"],
        ] {
            try await ProcessRunner.require(Command("ip", words))
        }
        try Disk.makeDirectory("\(place)/files")
        try Disk.replace("\(place)/files/data.deb", with: Array(repeating: UInt8(ascii: "x"), count: 3 << 20))
        // What has been the same for long is not asked after soon.
        try Disk.setFacts("\(place)/files/data.deb", mode: 0o644, modified: Timestamp(seconds: 1_600_000_000))
        port = try FreePort.find(on: Self.address)
        child = try Child(
            "/usr/bin/python3", ["-u", "-m", "http.server", "\(port)", "--bind", Self.address, "--directory", "\(place)/files"],
            log: "\(place)/origin.log")
        for _ in 0..<100 where !FreePort.answers(Self.address, port) { try await Task.sleep(for: .milliseconds(50)) }
    }

    var said: String { (try? String(contentsOfFile: "\(place)/origin.log", encoding: .utf8)) ?? "" }

    var requests: Int {
        said.components(separatedBy: "GET /data.deb").count - 1
    }

    var url: String { "http://\(Self.address):\(port)/data.deb" }

    deinit {
        child.kill()
        _ = try? Child("/usr/sbin/ip", ["link", "del", interface], log: "/dev/null").wait()
    }
}

/// What builds fetch, and what they may reach.
extension FarmTests {
    private static var canFence: Bool {
        geteuid() == 0 && ProcessRunner.find("ip") != nil && Disk.isExecutable("/usr/sbin/squid") && Disk.isExecutable("/usr/sbin/iptables")
    }

    private func filter() async throws -> String {
        try await ProcessRunner.require(Command("sh", ["-c", "iptables -w -S; ip6tables -w -S"]))
    }

    @Test(.enabled(if: canFence), .timeLimit(.minutes(6))) func whatBuildsFetchIsFetchedOnce() async throws {
        let farm = try await TestFarm()
        let origin = try await Origin(farm.scratch.path)
        // Squid is another user.
        let cache = "/var/cache/sciferry-test-\(Nonce.hex(bytes: 4))"
        defer { try? Disk.remove(cache) }
        try await farm.up(
            workers: ["w1"], settings: ["w1": "\"inputCacheGigabytes\": 1, \"inputCacheDirectory\": \"\(cache)\""])
        let fetch = "busybox wget -q -O /opt/got \(origin.url) && test $(wc -c < /opt/got) = 3145728"
        let direct = "busybox wget -Y off -q -O /opt/direct \(origin.url)"
        for name in ["one", "two"] {
            let built = try await farm.sciferry(["build", try await farm.recipe(name, run: ["echo \(name)", fetch])])
            #expect(built.succeeded, "\(built.text)")
        }
        #expect(origin.requests == 1)
        let second = try #require(try await farm.jobs().last { $0.job.kind == .build })
        let said = try await farm.sciferry(["logs", second.job.id.rawValue]).text
        #expect(said.contains("the steps had 1 of 1 downloads and 100 % of 3 MiB from the cache"), "\(said)")
        try await farm.eventually("the rate is shown") {
            try await farm.sciferry(["workers"]).text.contains("builds of w1 had 1 of 2 downloads and 50 % of 6 MiB from the cache")
        }

        // A build that may reach the proxy alone reaches it, and nothing else; one that may reach all does.
        let policy = "  network: proxy"
        let kept = try await farm.sciferry([
            "build", try await farm.recipe("kept", run: ["echo kept", fetch, "! \(direct)"], settings: policy),
        ])
        #expect(kept.succeeded, "\(kept.text)")
        #expect(try await !filter().contains("SCIFERRY"))
        #expect(origin.requests == 1, "\(origin.said)")
        let open = try await farm.sciferry(["build", try await farm.recipe("open", run: ["echo open", fetch, direct])])
        #expect(open.succeeded, "\(open.text)")
        #expect(origin.requests == 2, "once for the cache, once around it")
        // The machine itself is not reached through it either.
        let own = "! busybox wget -q -O /dev/null http://127.0.0.1:\(try await TestRegistry.port())/v2/"
        let machine = try await farm.sciferry(["build", try await farm.recipe("own", run: [own], settings: policy)])
        #expect(machine.succeeded, "\(machine.text)")

        // A worker that is killed meanwhile tidies up when it is back.
        let long = try await farm.recipe("long", run: ["sleep 100"], settings: policy)
        #expect(try await farm.sciferry(["build", long, "--no-wait"]).succeeded)
        try await farm.eventually("the fence stands") { try await self.filter().contains("SCIFERRY") }
        farm.kill("w1")
        let job = try #require(try await farm.jobs().last)
        #expect(try await farm.sciferry(["cancel", job.job.id.rawValue]).succeeded)
        try farm.start("w1")
        try await farm.eventually("the fence is gone") { try await !self.filter().contains("SCIFERRY") }
        try await farm.eventually("the proxy is gone") {
            try await ProcessRunner.run(Command("pgrep", ["-f", "\(cache)/squid.conf"])).status == 1
        }
        // What was fetched before is there still.
        let later = try await farm.sciferry(["build", try await farm.recipe("later", run: ["echo later", fetch])])
        #expect(later.succeeded, "\(later.text)")
        #expect(origin.requests == 2)
    }

    @Test(.enabled(if: canFence), .timeLimit(.minutes(2))) func whoCannotKeepBuildsToAProxyGetsNone() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["build", try await farm.recipe(settings: "  network: proxy"), "--no-wait"]).succeeded)
        try await farm.eventually("the reason is shown") {
            try await farm.sciferry(["job", "j1"]).text.contains("it lacks the label network-proxy")
        }
    }
}
