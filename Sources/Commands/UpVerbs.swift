import ArgumentParser
import CoordinatorCore
import FarmIdentity
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import SystemIO

/// Runs a whole farm on this machine.
struct UpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Start the coordinator and workers on this machine and keep them running.",
        discussion: """
            Without --detach it stays in the foreground until Ctrl-C. Each process writes to run/NAME.log in the farm's
            home and is started again when it dies.
            Examples:
              sciferry up --detach
              sciferry up --workers 0        only the coordinator, for remote workers
            """)

    @OptionGroup var homeOptions: HomeOptions

    @Option(help: "Workers to run here.")
    var workers = 2

    @Flag(help: "Go on in the background; `sciferry down` ends it.")
    var detach = false

    func run() async throws {
        try await reporting {
            let home = homeOptions.farmHome
            guard Disk.exists(home.configuration) else {
                throw FarmError(
                    "home.absent", .notFound, "there is no farm in \(home.root)", hint: "make one: sciferry init --home \(home.root)")
            }
            try Disk.makeDirectory("\(home.root)/run")
            if detach { try await startInBackground(home) } else { try await supervise(home) }
        }
    }

    private func startInBackground(_ home: FarmHome) async throws {
        if let running = Supervisor.runningProcess(home) {
            Console.print("the farm in \(home.root) is running already (process \(running))")
            return
        }
        // The shell leaves the child behind in a session of its own; it lives until the child has had time to make one,
        // since the group of a command that ended is killed.
        let program = try Supervisor.sibling("sciferry")
        let words = [program, "up", "--home", home.root, "--workers", String(workers)].map(ShellWord.quoted).joined(separator: " ")
        let log = ShellWord.quoted("\(home.root)/run/up.log")
        try Disk.remove(home.endpoints)
        try await ProcessRunner.require(Command("sh", ["-c", "setsid \(words) >>\(log) 2>&1 </dev/null & sleep 0.5"], deadlineSeconds: 20))
        for _ in 0..<300 {
            try await Task.sleep(for: .milliseconds(100))
            guard Disk.exists(home.endpoints), let client = try? FarmClient.connect(home, chosen: true),
                let views: [WorkerView] = try? await client.get("/api/v1/workers")
            else { continue }
            if views.filter(\.connected).count >= workers {
                return Console.print(
                    "the farm runs at \(client.url) with \(views.filter(\.connected).count) workers; `sciferry down` ends it")
            }
        }
        throw FarmError("up.slow", .unavailable, "the farm has not come up within 30 s", hint: "look at \(home.root)/run/*.log")
    }

    private func supervise(_ home: FarmHome) async throws {
        let lock = try FileLock("\(home.root)/run/up.lock", holder: "sciferry up, process \(getpid())", hint: "end it with: sciferry down")
        defer { withExtendedLifetime(lock) {} }
        try Disk.replace("\(home.root)/run/up.pid", with: Array("\(getpid())\n".utf8))
        try Disk.remove(home.endpoints)
        let supervisor = Supervisor(home: home)
        let count = workers
        try await Supervisor.untilSignalled {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask { try await supervisor.keep("coordinator", "sciferry-coordinator", ["--home", home.root]) }
                for number in 0..<count {
                    tasks.addTask {
                        let name = "w\(number + 1)"
                        let workerHome = "\(home.root)/workers/\(name)"
                        try await supervisor.keep(name, "sciferry-worker", ["run", "--home", workerHome]) {
                            try await supervisor.enrol(name, workerHome)
                        }
                    }
                }
                try await tasks.waitForAll()
            }
        }
        Console.print("the farm has stopped")
    }
}

/// Ends a farm that runs in the background.
struct DownCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "down", abstract: "Stop the farm that `sciferry up` runs.", discussion: "Example:\n  sciferry down --home /srv/farm")

    @OptionGroup var homeOptions: HomeOptions

    func run() async throws {
        try await reporting {
            let home = homeOptions.farmHome
            guard let process = Supervisor.runningProcess(home) else { return Console.print("no farm runs in \(home.root)") }
            kill(process, SIGTERM)
            for _ in 0..<200 {
                if Supervisor.runningProcess(home) == nil { return Console.print("the farm has stopped") }
                try await Task.sleep(for: .milliseconds(100))
            }
            throw FarmError(
                "down.slow", .unavailable, "process \(process) has not ended within 20 s", hint: "look at \(home.root)/run/up.log")
        }
    }
}

/// Keeps the farm's processes alive.
struct Supervisor: Sendable {
    let home: FarmHome

    /// The process that holds the supervisor's lock, if one does.
    static func runningProcess(_ home: FarmHome) -> pid_t? {
        guard let text = try? Disk.read("\(home.root)/run/up.pid", limit: 64),
            let process = pid_t(String(decoding: text, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines))
        else { return nil }
        if let lock = try? FileLock("\(home.root)/run/up.lock", holder: "", hint: "") {
            withExtendedLifetime(lock) {}
            return nil
        }
        return process
    }

    /// A program of ours beside this one.
    static func sibling(_ name: String) throws -> String {
        guard let here = Disk.realPath("/proc/self/exe") else { throw FarmError("up.program", .fault, "cannot find myself") }
        let path = "\(Disk.parent(of: here))/\(name)"
        guard Disk.isExecutable(path) else {
            throw FarmError("up.program", .notFound, "\(path) is missing", hint: "the three programs of Sciferry belong into one directory")
        }
        return path
    }

    /// Starts a program again whenever it ends, until cancelled. A program that refuses its settings ends everything.
    ///
    /// - Parameter prepare: done before each start.
    func keep(
        _ name: String, _ program: String, _ arguments: [String], prepare: @Sendable () async throws -> Void = {}
    ) async throws {
        let path = try Supervisor.sibling(program)
        let log = try OpenFile("\(home.root)/run/\(name).log", flags: O_WRONLY | O_CREAT | O_APPEND)
        var delay = 0.2
        let began = Timestamp.now
        while true {
            try await prepare()
            let started = Timestamp.now
            // Workers hold no keys: those of the buckets are the coordinator's.
            var environment: [String: String?] = [:]
            if program == "sciferry-worker" {
                for name in ProcessInfo.processInfo.environment.keys where name.hasPrefix("AWS_") { environment[name] = .some(nil) }
            }
            let result = try await ProcessRunner.run(
                Command(path, arguments + ["--parent", String(getpid())], environment: environment)
            ) { try? log.write($0) }
            let permanent = [FarmError.Category.usage, .invalid, .notFound].map(\.exitStatus)
            // The process of a farm that was killed a moment ago still holds the home, and ends by itself.
            let isTaken = result.status == FarmError.Category.conflict.exitStatus && Timestamp.now.seconds(since: began) > 30
            if permanent.contains(result.status) || isTaken {
                let last = result.text.split(separator: "\n").suffix(3).joined(separator: "\n")
                throw FarmError(
                    "up.refused", .failed, "\(program) refuses to run:\n\(last)", hint: "the whole log is \(home.root)/run/\(name).log")
            }
            if Timestamp.now.seconds(since: started) > 30 { delay = 0.2 }
            Console.print("\(name) ended with status \(result.status); starting it again")
            try await Task.sleep(for: .seconds(delay))
            delay = min(10, delay * 2)
        }
    }

    /// Enrols a worker of this machine as a remote one would be, once.
    func enrol(_ name: String, _ workerHome: String) async throws {
        if let pem = try? Disk.read("\(workerHome)/worker.pem", limit: 1 << 16), Disk.exists("\(workerHome)/worker.json"),
            let leaf = try? IssuedCertificate(pem: String(decoding: pem, as: UTF8.self)), leaf.expiresAt > .now
        {
            return
        }
        let program = try Supervisor.sibling("sciferry-worker")
        while true {
            do {
                let client = try FarmClient.connect(home, chosen: true)
                let reply: JoinTokenReply = try await client.post(
                    "/api/v1/tokens", JoinTokenRequest(worker: name, trusted: true, minutes: 10))
                let joined = try await ProcessRunner.run(
                    Command(program, ["join", "-", "--home", workerHome], input: Array("\(reply.token)\n".utf8), deadlineSeconds: 60))
                if joined.succeeded { return }
                // A coordinator that restarts is worth another try; anything else would fail for ever.
                guard joined.status == FarmError.Category.unavailable.exitStatus else {
                    throw FarmError(
                        "up.enrol", .failed, "worker \(name) cannot enrol: \(joined.text.trimmingCharacters(in: .whitespacesAndNewlines))",
                        hint: "look at \(workerHome)")
                }
                try await Task.sleep(for: .seconds(1))
            } catch let error as FarmError where error.category == .unavailable {
                try await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    /// Runs `body` until it ends or SIGINT or SIGTERM comes, which cancels it.
    static func untilSignalled(_ body: @escaping @Sendable () async throws -> Void) async throws {
        let (signals, continuation) = AsyncStream<Int32>.makeStream()
        let sources = [SIGINT, SIGTERM].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { continuation.yield(number) }
            source.resume()
            return source
        }
        defer { for source in sources { source.cancel() } }
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await body() }
            tasks.addTask { for await _ in signals { return } }
            defer { tasks.cancelAll() }
            try await tasks.next()
        }
    }
}
