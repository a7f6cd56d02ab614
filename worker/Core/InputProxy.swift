package import FarmModel
import Foundation
import Glibc
package import Logging
import ProcessRunner
import SystemIO

/// The proxy through which builds fetch what they need over http: a squid of the worker's own that keeps it, begun with the first build.
/// https passes through it unread, and only where a build may reach nothing else.
package actor InputProxy {
    /// The network that an engine gives to steps.
    package struct Bridge: Sendable, Hashable {
        /// Its name on this machine.
        package var name: String
        /// The machine's own address on it, and the subnet.
        package var address: String
        package var subnet: String

        package init(name: String, address: String, subnet: String) {
            self.name = name
            self.address = address
            self.subnet = subnet
        }
    }

    private struct Running {
        var bridge: Bridge
        var port: Int
        /// Ends with what it said.
        var task: Task<String, Never>
        var isOver: Switch
    }

    private let home: WorkerHome
    private let configuration: WorkerConfiguration
    private let logger: Logger
    private var running: Running?
    private var starting: Task<Void, any Error>?
    private var log = SquidLog()
    private var logOffset: Int64 = 0
    private var saidWhy = ""

    package init(home: WorkerHome, configuration: WorkerConfiguration, logger: Logger) {
        self.home = home
        self.configuration = configuration
        self.logger = logger
    }

    /// Where it keeps what was fetched. A squid that was started by root is another user, who must not get into the worker's home.
    package nonisolated var place: String {
        if !configuration.inputCacheDirectory.isEmpty { return configuration.inputCacheDirectory }
        return geteuid() == 0 ? "/var/cache/sciferry/\(Digest(hashing: home.root).short)" : "\(home.root)/inputs"
    }

    private static var program: String? {
        ["/usr/sbin/squid", "/usr/bin/squid"].first { Disk.isExecutable($0) } ?? ProcessRunner.find("squid")
    }

    /// Whether there can be one on this machine.
    package nonisolated var isPossible: Bool { configuration.inputCacheGigabytes > 0 && InputProxy.program != nil }

    /// Its address as `HOST:PORT` for steps on that bridge, begun if it does not run; `nil` where there is none. A build goes on without.
    package func address(on bridge: Bridge?) async -> (host: String, port: Int)? {
        guard isPossible, let bridge else { return nil }
        do {
            while let starting { try await starting.value }
            if running?.isOver.isRaised ?? true || running?.bridge != bridge {
                let start = Task { try await begin(bridge) }
                starting = start
                defer { starting = nil }
                try await start.value
            }
            return running.map { (bridge.address, $0.port) }
        } catch {
            let why = "\(error)"
            if why != saidWhy { logger.warning("builds fetch without a proxy", metadata: ["reason": "\(why)"]) }
            saidWhy = why
            return nil
        }
    }

    private func begin(_ bridge: Bridge) async throws {
        await end()
        guard let program = InputProxy.program else { return }
        try prepare()
        let port = try FreePort.find(on: bridge.address)
        let settings = SquidSettings(
            address: bridge.address, port: port, subnet: bridge.subnet, place: place, megabytes: try megabytes(),
            parent: configuration.inputCacheParent, changesUser: geteuid() == 0)
        try Disk.replace("\(place)/squid.conf", with: Array(settings.text.utf8))
        let marks = ["SCIFERRY_WORKER": home.root]
        func command(_ words: [String], deadline: Double?) -> Command {
            Command(program, words + ["-N", "-f", "\(place)/squid.conf"], environment: marks, directory: "/", deadlineSeconds: deadline)
        }
        if !Disk.exists("\(place)/objects/00") { try await ProcessRunner.require(command(["-z"], deadline: 60)) }
        let isOver = Switch()
        let start = command([], deadline: nil)
        let task = Task {
            let result = try? await ProcessRunner.run(start)
            _ = isOver.raise()
            return result?.text ?? ""
        }
        running = Running(bridge: bridge, port: port, task: task, isOver: isOver)
        (log, logOffset) = (SquidLog(), 0)
        for _ in 0..<150 {
            if FreePort.answers(bridge.address, port) {
                logger.notice("proxy for builds begun", metadata: ["address": "\(bridge.address):\(port)", "place": "\(place)"])
                return
            }
            if isOver.isRaised { break }
            try await Task.sleep(for: .milliseconds(100))
        }
        let reason = await end().split(separator: "\n").last { $0.contains("FATAL") || $0.contains("ERROR") }
        throw FarmError(
            "proxy.failed", .unavailable, "squid does not serve: \(reason ?? "see \(place)/squid.log")",
            hint: "correct inputCacheDirectory and inputCacheParent in \(home.configuration), or set inputCacheGigabytes to 0")
    }

    /// A directory that squid may write to, without a log of earlier times.
    private func prepare() throws {
        if let wrong = place.utf8.first(where: { $0 <= 32 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "#") }) {
            throw FarmError(
                "worker.settings", .invalid, "the directory \(place) has the character \(wrong) in it, which squid does not take",
                hint: "set inputCacheDirectory in \(home.configuration)")
        }
        try Disk.makeDirectory(place)
        for name in ["access.log", "squid.log", "squid.pid"] { try Disk.remove("\(place)/\(name)") }
        guard geteuid() == 0, let user = getpwnam(SquidSettings.user) else { return }
        guard chown(place, user.pointee.pw_uid, user.pointee.pw_gid) == 0 else { throw Disk.failure("give away", place) }
    }

    /// As much as is set, and no more than a tenth of the disk.
    private func megabytes() throws -> Int {
        min(Int(configuration.inputCacheGigabytes * 1000), Int(try Disk.totalBytes(at: place) / 10_000_000))
    }

    /// What builds have fetched since it began.
    package func use() -> InputCacheUse {
        guard running != nil else { return log.use }
        let path = "\(place)/access.log"
        guard let size = Disk.size(path), size > logOffset, let file = FileHandle(forReadingAtPath: path) else { return log.use }
        defer { try? file.close() }
        try? file.seek(toOffset: UInt64(logOffset))
        while let bytes = try? file.read(upToCount: 1 << 20), !bytes.isEmpty {
            log.take(bytes)
            logOffset += Int64(bytes.count)
        }
        // Squid appends, wherever the end is.
        if logOffset > 32 << 20, truncate(path, 0) == 0 { logOffset = 0 }
        return log.use
    }

    /// Ends it; what it has kept stays.
    ///
    /// - Returns: what it said.
    @discardableResult
    package func end() async -> String {
        guard let running else { return "" }
        self.running = nil
        running.task.cancel()
        return await running.task.value
    }
}
