import FarmModel
import FarmMessages
import Glibc
import ProcessRunner
import SystemIO

/// In which order builds of two kinds go on that cannot run beside each other: those that reach all, and those that are kept to the proxy.
/// Who came first goes first; builds of the same kind go on together.
package struct NetworkTurns: Sendable {
    private var waiting: [(ticket: Int, isKept: Bool)] = []
    private var inside: [Int: Bool] = [:]
    private var next = 0

    package init() {}

    /// A build has come.
    package mutating func arrive(isKept: Bool) -> Int {
        next += 1
        waiting.append((next, isKept))
        return next
    }

    /// Lets a build go on, if it may: all that came before it are of its kind, and so are those that go on.
    package mutating func enter(_ ticket: Int) -> Bool {
        guard let index = waiting.firstIndex(where: { $0.ticket == ticket }) else { return false }
        let isKept = waiting[index].isKept
        guard waiting[..<index].allSatisfy({ $0.isKept == isKept }), inside.values.allSatisfy({ $0 == isKept }) else { return false }
        waiting.remove(at: index)
        inside[ticket] = isKept
        return true
    }

    /// A build is over, or waits no longer. Whether it was the last that was kept to the proxy.
    package mutating func leave(_ ticket: Int) -> Bool {
        waiting.removeAll { $0.ticket == ticket }
        return inside.removeValue(forKey: ticket) == true && !inside.values.contains(true)
    }
}

/// Keeps the steps of builds to the worker's proxy, by the kernel's packet filter, where their recipe wants that. Builds share the engine's
/// bridge, and Docker's builder knows no other network; so all of them are kept to it for a time, or none.
package actor NetworkGate {
    private let chain: String
    private var turns = NetworkTurns()
    private var raised: (bridge: InputProxy.Bridge, port: Int)?
    private var isChanging = false

    package init(home: WorkerHome) { chain = NetworkGate.chain(home) }

    private static func chain(_ home: WorkerHome) -> String { "SCIFERRY-\(Digest(hashing: home.root).hex.prefix(8).uppercased())" }

    /// Whether this machine lets the worker do that.
    package nonisolated static var isPossible: Bool {
        geteuid() == 0 && ["/usr/sbin/iptables", "/sbin/iptables"].contains { Disk.isExecutable($0) }
    }

    /// Runs a build that reaches all that the worker does.
    package func open<Value: Sendable>(_ body: @Sendable () async throws -> Value) async throws -> Value {
        try await inTurn(isKept: false, {}, body)
    }

    /// Runs a build that reaches the proxy alone. Throws `network.fence` where that cannot be seen to.
    package func kept<Value: Sendable>(
        to bridge: InputProxy.Bridge, port: Int, _ body: @Sendable () async throws -> Value
    ) async throws -> Value {
        try await inTurn(isKept: true, { try await self.raise(bridge, port) }, body)
    }

    private func inTurn<Value: Sendable>(
        isKept: Bool, _ before: () async throws -> Void, _ body: @Sendable () async throws -> Value
    ) async throws -> Value {
        let ticket = turns.arrive(isKept: isKept)
        do {
            while isChanging || !turns.enter(ticket) { try await Task.sleep(for: .milliseconds(100)) }
            try await before()
            let value = try await body()
            await leave(ticket)
            return value
        } catch {
            await leave(ticket)
            throw error
        }
    }

    private func leave(_ ticket: Int) async {
        guard turns.leave(ticket), raised != nil else { return }
        isChanging = true
        await NetworkGate.lower(chain)
        raised = nil
        isChanging = false
    }

    private func raise(_ bridge: InputProxy.Bridge, _ port: Int) async throws {
        while isChanging { try await Task.sleep(for: .milliseconds(50)) }
        if let raised, raised.bridge == bridge, raised.port == port { return }
        isChanging = true
        defer { isChanging = false }
        await NetworkGate.lower(chain)
        // What steps send comes in from the bridge, for the machine itself or to be passed on. IPv6, where there is any, goes nowhere.
        let script = """
            iptables -w -N "$1"
            iptables -w -A "$1" -d "$3" -p tcp --dport "$4" -j RETURN
            iptables -w -A "$1" -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
            iptables -w -A "$1" -j REJECT
            for from in INPUT FORWARD; do iptables -w -I "$from" 1 -i "$2" -j "$1"; done
            if [ -s /proc/net/if_inet6 ]; then
                ip6tables -w -N "$1"
                ip6tables -w -A "$1" -j REJECT
                for from in INPUT FORWARD; do ip6tables -w -I "$from" 1 -i "$2" -j "$1"; done
            fi
            """
        do {
            try await ProcessRunner.require(
                Command("sh", ["-ec", script, "fence", chain, bridge.name, bridge.address, "\(port)"], deadlineSeconds: 60))
            raised = (bridge, port)
        } catch let error as FarmError {
            await NetworkGate.lower(chain)
            throw FarmError(
                "network.fence", .unavailable, "builds cannot be kept to the proxy here: the packet filter says no", cause: error)
        }
    }

    /// Takes away what a killed process has left.
    package static func sweep(_ home: WorkerHome) async {
        if isPossible { await lower(chain(home)) }
    }

    private static func lower(_ chain: String) async {
        let script = """
            for filter in iptables ip6tables; do
                $filter -w -S 2>/dev/null | grep -- "-j $1\\$" | sed 's/^-A/-D/' | while read -r rule; do $filter -w $rule; done
                $filter -w -F "$1" && $filter -w -X "$1"
            done
            """
        _ = try? await ProcessRunner.run(Command("sh", ["-c", script, "fence", chain], deadlineSeconds: 60))
    }
}
