import FarmModel
import Glibc
import ProcessRunner
import Support
import Synchronization

/// A network namespace with a link to this one, so that a test can cut or slow down what goes between a worker and its coordinator.
final class TestNetwork: Sendable {
    let name: String
    /// The address under which this side of the link is reached from the other.
    let here: String
    private let link: String
    private let offers = Mutex<[Child]>([])

    /// Whether this machine allows namespaces.
    static var isPossible: Bool { geteuid() == 0 && ProcessRunner.find("ip") != nil && ProcessRunner.find("iptables") != nil }

    /// - Parameter number: differs between networks that exist at a time.
    init(_ number: Int) async throws {
        name = "sciferry-\(getpid())-\(number)"
        link = "sf\(getpid() % 100_000)n\(number)"
        // TEST-NET-2 (RFC 5737), which leads nowhere.
        here = "198.51.100.\(4 * number + 1)"
        let there = "198.51.100.\(4 * number + 2)"
        for words in [
            "netns add \(name)", "link add \(link) type veth peer name farm netns \(name)", "addr add \(here)/30 dev \(link)",
            "link set \(link) up", "-n \(name) addr add \(there)/30 dev farm", "-n \(name) link set farm up",
            "-n \(name) link set lo up", "-n \(name) route add default via \(here)",
        ] {
            try await ProcessRunner.require(Command("ip", words.split(separator: " ").map(String.init)))
        }
    }

    /// What listens on a port of this machine is there on the other side, too, under the same address.
    func offer(_ port: Int) throws {
        let socket = "/tmp/\(name)-\(port).sock"
        let log = "/dev/null"
        let near = try Child("/usr/bin/socat", ["UNIX-LISTEN:\(socket),fork,unlink-early", "TCP:127.0.0.1:\(port)"], log: log)
        let far = inside(["/usr/bin/socat", "TCP-LISTEN:\(port),bind=127.0.0.1,fork,reuseaddr", "UNIX-CONNECT:\(socket)"])
        let other = try Child(far.program, far.arguments, log: log)
        offers.withLock { $0 += [near, other] }
    }

    deinit {
        for child in offers.withLock({ $0 }) { child.kill() }
        for words in [["netns", "del", name], ["link", "del", link]] { _ = try? Child("/usr/sbin/ip", words, log: "/dev/null").wait() }
    }

    /// A command that runs on the other side.
    func inside(_ words: [String]) -> (program: String, arguments: [String]) { ("/usr/sbin/ip", ["netns", "exec", name] + words) }

    /// Packets vanish, and neither side is told.
    func cut() async throws { try await rules("-A") }

    func mend() async throws { try await rules("-D") }

    private func rules(_ verb: String) async throws {
        for chain in ["INPUT", "OUTPUT"] {
            let command = inside(["iptables", verb, chain, "-j", "DROP"])
            try await ProcessRunner.require(Command(command.program, command.arguments))
        }
    }

    /// Bytes that the other side has sent since it was slowed down.
    func sentBytes() async throws -> Int {
        let command = inside(["tc", "-s", "qdisc", "show", "dev", "farm"])
        let words = try await ProcessRunner.require(Command(command.program, command.arguments)).split(whereSeparator: \.isWhitespace)
        return words.firstIndex(of: "Sent").flatMap { Int(words[$0 + 1]) } ?? 0
    }

    /// Lets through so many kilobits a second in each direction.
    func slow(kilobits: Int) async throws {
        let queue = ["root", "tbf", "rate", "\(kilobits)kbit", "burst", "32kbit", "latency", "400ms"]
        try await ProcessRunner.require(Command("tc", ["qdisc", "add", "dev", link] + queue))
        let command = inside(["tc", "qdisc", "add", "dev", "farm"] + queue)
        try await ProcessRunner.require(Command(command.program, command.arguments))
    }
}
