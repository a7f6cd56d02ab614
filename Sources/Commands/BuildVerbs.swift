import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation
import Recipes
import Synchronization
import SystemIO

/// Builds a recipe and follows it.
struct BuildCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "build", abstract: "Build a recipe, test it and release it.",
        discussion: """
            Examples:
              sciferry build recipes/dcm2niix
              sciferry build recipes/dcm2niix --for x86_64_v3 --for zen4
              sciferry build recipes/dcm2niix --for portable --for native:worker1
              sciferry build recipes/dcm2niix --for aarch64 --emulated
              sciferry build recipes/dcm2niix --no-wait --json
              sciferry build neurocontainers/recipes/ants --variant gpu
            --json prints one job, and of several targets a list.
            """)

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The recipe's directory, or its build.yaml.") var recipe: String
    @Option(
        name: .customLong("for"),
        help: """
            A CPU target; may be repeated. "portable" is the lowest of the recipe's first architecture (the default, unless the \
            recipe names its targets), "native:WORKER" what a worker's CPU is.
            """)
    var targets: [String] = []
    @Option(help: "One of the recipe's variants.") var variant = ""
    @Flag(help: "Resolve base image and downloads anew.") var updateLock = false
    @Flag(help: "Where no worker has the CPU, let one that emulates it build; the release says so.") var emulated = false
    @Flag(inversion: .prefixedNo, help: "Wait for the end.") var wait = true

    func run() async throws {
        try await reporting {
            let source = try await HPCCMRecipe.completed(try RecipeDirectory.read(recipe))
            let client = try farm.client()
            var wanted: [String] = []
            for target in targets.isEmpty ? [""] : targets {
                let name = try await resolved(target, source, client)
                if !wanted.contains(name) { wanted.append(name) }
            }
            var jobs: [(target: String, job: JobRecord)] = []
            // All are asked for before one is waited for, so that they run side by side.
            for target in wanted {
                let submission = Submission(
                    source, target: target, variant: variant, updatesLock: updateLock, allowsEmulation: emulated)
                jobs.append((target, try await client.post("/api/v1/jobs", submission)))
            }
            guard wait else {
                if farm.json { return try jobs.count == 1 ? Console.json(jobs[0].job) : Console.json(jobs.map(\.job)) }
                for (_, job) in jobs { Console.print("\(job.id)  \(job.title)") }
                return
            }
            var views: [JobView] = []
            var held = source
            if updateLock { held.files[RecipeLock.fileName] = nil }
            for (target, job) in jobs {
                let view = try await JobFollower(client: client, quiet: farm.json).follow(job.id)
                views.append(view)
                if view.job.state == .succeeded {
                    // Whatever this target, variant or a new file added is held from now on.
                    try await RecipeLocking.write(
                        held, target: target, variant: variant, client: client, updates: false, quiet: farm.json)
                }
            }
            if farm.json { try views.count == 1 ? Console.json(views[0]) : Console.json(views) }
            guard let bad = views.first(where: { $0.job.state != .succeeded }) else { return }
            throw ExitCode(bad.job.state == .cancelled ? 130 : 1)
        }
    }

    /// The name of a CPU target for what was asked; empty lets the recipe choose.
    private func resolved(_ target: String, _ source: RecipeSource, _ client: FarmClient) async throws -> String {
        if target == "portable" { return try Recipe.read(source).architectures[0] }
        guard target.hasPrefix("native:") else { return target }
        let name = String(target.dropFirst("native:".count))
        let workers: [WorkerView] = try await client.get("/api/v1/workers")
        guard let worker = workers.first(where: { $0.worker.name.rawValue == name }) else {
            throw FarmError(
                "worker.unknown", .notFound, "the farm has no worker \"\(name)\"",
                hint: "it has: \(workers.map(\.worker.name.rawValue).joined(separator: ", "))")
        }
        guard let facts = worker.worker.facts else {
            throw FarmError("worker.unknown", .unavailable, "the worker \(name) has not said yet what its CPU is", hint: "start it first")
        }
        return facts.target
    }
}

/// The end of a log that is being followed.
private final class LogTail: Sendable {
    private let kept = Mutex<[UInt8]>([])

    func add(_ bytes: [UInt8]) { kept.withLock { $0 = Array(($0 + bytes).suffix(4096)) } }

    /// The last line that says something, without control characters.
    var line: String {
        let text = String(decoding: kept.withLock { $0 }, as: UTF8.self)
        let last = text.split(whereSeparator: \.isNewline).last { !$0.allSatisfy(\.isWhitespace) } ?? ""
        return String(last.unicodeScalars.filter { $0.value >= 0x20 && $0.value != 0x7F }.map(Character.init))
    }
}

/// Shows a job's life as it happens.
struct JobFollower: Sendable {
    let client: FarmClient
    let quiet: Bool

    /// Follows to the end and returns it.
    func follow(_ id: JobID) async throws -> JobView {
        let line = ProgressLine()
        var shown = Set<String>()
        let tail = LogTail()
        var reader: Task<Void, Never>?
        var readerIsOver = Switch()
        var lastLine = Timestamp.now
        defer { reader?.cancel() }
        if !quiet { Console.print("\(id)  \(try await client.get("/api/v1/jobs/\(id)", JobView.self).job.title)") }
        var failures = 0
        while true {
            let view: JobView
            do {
                view = try await client.get("/api/v1/jobs/\(id)")
                failures = 0
            } catch let error as FarmError where error.category == .unavailable && failures < 100 {
                // The coordinator may be restarting; the job goes on without us.
                failures += 1
                line.show("waiting for the coordinator", share: nil)
                try await Task.sleep(for: .milliseconds(500))
                continue
            }
            if !quiet {
                // A log that broke off, as when the coordinator was started anew, is taken up again.
                if reader == nil || readerIsOver.isRaised, view.attempts.contains(where: \.isOpen) {
                    let isOver = Switch()
                    readerIsOver = isOver
                    reader = Task { [client] in
                        try? await client.log(id.rawValue, attempt: nil, follow: true) { tail.add($0) }
                        _ = isOver.raise()
                    }
                }
                let before = shown.count
                announce(view, &shown, line)
                if shown.count > before { lastLine = .now }
                showProgress(view, line, tail.line)
                // Where no line can move, a long step says now and then what it is doing.
                if !Console.isTerminal, Timestamp.now.seconds(since: lastLine) > 10, view.attempts.last?.isOpen ?? false {
                    lastLine = .now
                    if !tail.line.isEmpty { Console.print("  | \(tail.line.prefix(200))") }
                }
            }
            if view.job.state.isFinal {
                line.clear()
                if !quiet { conclude(view) }
                return view
            }
            try await Task.sleep(for: .milliseconds(200))
        }
    }

    private func announce(_ view: JobView, _ shown: inout Set<String>, _ line: ProgressLine) {
        func say(_ key: String, _ text: String) {
            guard shown.insert(key).inserted else { return }
            line.clear()
            Console.print(text)
        }
        if view.job.state == .resolving {
            say("resolving", "  resolving inputs (\(view.job.waitsFor.map(\.rawValue).joined(separator: ", ")))")
        }
        if let joined = view.job.joined { say("joined", "  joined \(joined), which builds the same") }
        for attempt in view.attempts {
            say("attempt \(attempt.id)", "  \(attempt.id) on \(attempt.worker)")
            for phase in Phase.allCases {
                guard let start = attempt.phaseStarts[phase.rawValue] else { continue }
                say(
                    "\(attempt.id) \(phase)",
                    "  \(attempt.id) \(phase.rawValue) (after \(Console.seconds(start.seconds(since: attempt.startedAt))))")
            }
            if attempt.state == .lost || attempt.state == .failed, let failure = attempt.failure {
                say("failure \(attempt.id)", "  \(attempt.id) \(attempt.state.rawValue): \(failure.message)")
            }
        }
        for job in view.verifyJobs {
            say("verify \(job.id)", "  \(job.id) runs the tests on \(job.target)")
            if job.state == .succeeded { say("verified \(job.id)", "  \(job.id) passed") }
        }
        if view.job.state == .publishing { say("publishing", "  publishing") }
        if let note = view.job.note, !view.job.state.isFinal { say("note \(note)", "  \(note)") }
        if view.job.state == .queued, view.attempts.isEmpty {
            for (worker, why) in view.obstacles.sorted(by: { $0.key < $1.key }) where why != "busy" {
                say("obstacle \(worker) \(why)", "  waiting; \(worker): \(why)")
            }
        }
    }

    private func showProgress(_ view: JobView, _ line: ProgressLine, _ tail: String) {
        // Without a terminal the phases are enough; the log is one command away.
        guard Console.isTerminal else { return }
        guard let attempt = view.attempts.last, attempt.isOpen else { return line.show(view.job.state.rawValue, share: nil) }
        let phases = Double(Phase.allCases.count - 1)
        let index = Double(Phase.allCases.firstIndex(of: attempt.phase) ?? 0)
        let share = min(1, (index + Double(attempt.progressPermille) / 1000) / phases)
        let note = attempt.note.isEmpty ? "" : " \(attempt.note.prefix(40))"
        line.show("\(attempt.phase.rawValue)\(note)\(tail.isEmpty ? "" : " | \(tail)")", share: share)
    }

    private func conclude(_ view: JobView) {
        let job = view.job
        if let note = job.note { Console.print("  \(note)") }
        switch job.state {
        case .succeeded:
            if let attempt = view.attempts.last, let end = attempt.finishedAt {
                Console.print("  built and tested in \(Console.seconds(end.seconds(since: attempt.startedAt)))")
            }
            if let result = view.publication?.result {
                Console.print(
                    "  image sha256:\(result.image.hex), \(Console.bytes(result.imageSize)); \(result.newChunkCount) of \(result.chunkCount) chunks were new, \(Console.bytes(result.newBytes)) sent"
                )
                let passed = result.tests.filter(\.passed).count
                Console.print("  \(passed) of \(result.tests.count) tests passed, run through \(result.testRuntime)")
                if let emulator = result.emulator { Console.print("  built and tested by an emulator, \(emulator)") }
            }
            for found in view.publication?.verified ?? [] {
                Console.print("  \(found.title)")
            }
            Console.print("\(job.id)  released: \(job.release.map { "sha256:\($0.hex)" } ?? "")")
        default:
            if let failure = job.failure {
                for text in failure.tail { Console.print("  | \(text)") }
                Console.print("\(job.id)  \(job.state.rawValue): \(failure.message) [\(failure.code)]")
            } else {
                Console.print("\(job.id)  \(job.state.rawValue)")
            }
        }
    }
}

/// Lists jobs.
struct JobsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jobs", abstract: "List jobs, newest last.", discussion: "Example:\n  sciferry jobs --open")

    @OptionGroup var farm: FarmOptions
    @Flag(help: "Only those that have not ended.") var open = false

    func run() async throws {
        try await reporting {
            var jobs: [JobView] = try await farm.client().get("/api/v1/jobs")
            if open { jobs = jobs.filter { !$0.job.state.isFinal } }
            if farm.json { return try Console.json(jobs) }
            Console.table(
                ["JOB", "STATE", "WHAT", "WORKER", "STARTED", "NOTE"],
                jobs.map { view in
                    [
                        view.job.id.rawValue, view.job.state.rawValue, view.job.title, view.attempts.last?.worker.rawValue ?? "-",
                        Console.date(view.job.createdAt), String((view.job.failure?.message ?? view.job.note ?? "").prefix(70)),
                    ]
                })
        }
    }
}

/// Shows one job.
struct JobCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "job", abstract: "Show a job: where it stands, why it waits or failed, what came of it.",
        discussion: "Examples:\n  sciferry job j3 --json\n  sciferry job j3 --packages\n  sciferry job j3 --instructions")

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The job, for example j3.") var id: String
    @Flag(help: "List what package managers installed in its image.") var packages = false
    @Flag(help: "Tell what its image's machine code needs of the CPU.") var instructions = false

    func run() async throws {
        try await reporting {
            let view: JobView = try await farm.client().get("/api/v1/jobs/\(id)")
            if packages { return try await list(view) }
            if instructions { return try await tell(view) }
            if farm.json { return try Console.json(view) }
            let job = view.job
            Console.print("\(job.id)  \(job.title)  \(job.state.rawValue)")
            Console.print("  asked by \(job.requestedBy) at \(Console.date(job.createdAt))")
            if let key = job.key { Console.print("  build key \(key.hex)") }
            if let note = job.note { Console.print("  \(note)") }
            for (worker, why) in view.obstacles.sorted(by: { $0.key < $1.key }) { Console.print("  not on \(worker): \(why)") }
            for attempt in view.attempts {
                let end = attempt.finishedAt.map { " in \(Console.seconds($0.seconds(since: attempt.startedAt)))" } ?? ""
                Console.print("  \(attempt.id) on \(attempt.worker): \(attempt.state.rawValue)\(end), phase \(attempt.phase.rawValue)")
                if let failure = attempt.failure {
                    Console.print("    \(failure.message) [\(failure.code)]")
                    for line in failure.tail.suffix(12) { Console.print("    | \(line)") }
                }
            }
            for job in view.verifyJobs where !job.state.isFinal { Console.print("  waits for \(job.id), \(job.title)") }
            if let publication = view.publication {
                Console.print("  image sha256:\(publication.result.image.hex), \(Console.bytes(publication.result.imageSize))")
                let result = publication.result
                Console.print(
                    "  built and tested on a CPU of \(result.hostTarget)\(result.emulator.map { ", emulated by \($0)" } ?? "")")
                for found in publication.verified ?? [] { Console.print("  \(found.title)") }
                for test in publication.result.tests { Console.print("  \(test.passed ? "passed" : "FAILED")  \(test.name)") }
                for (phase, seconds) in publication.result.phaseSeconds.sorted(by: { $0.key < $1.key }) {
                    Console.print("  \(phase) took \(Console.seconds(seconds))")
                }
                Console.print("  published in: \(publication.regionsDone.joined(separator: ", ")); step \(publication.step.rawValue)")
                if let error = publication.lastError { Console.print("  last error: \(error)") }
            }
        }
    }
}

extension JobCommand {
    private func record<Document: Decodable>(_ kind: ImageRecord.Kind, of view: JobView) async throws -> Document {
        guard let record = view.publication?.result.records.first(where: { $0.kind == kind }) else {
            throw FarmError(
                "job.record", .notFound, "\(id) has no record of that kind", hint: "name a job that was released: sciferry jobs")
        }
        return try await farm.client().get("/api/v1/records/\(record.object.digest.hex)")
    }

    private func tell(_ view: JobView) async throws {
        let statement: Statement<InstructionReport> = try await record(.instructions, of: view)
        if farm.json { return try Console.json(statement) }
        for line in InstructionSummary.lines(statement.predicate, all: true) { Console.print(line) }
    }

    private func list(_ view: JobView) async throws {
        let installed: InstalledPackages = try await record(.packages, of: view)
        if farm.json { return try Console.json(installed) }
        Console.table(["MANAGER", "PACKAGE", "VERSION"], installed.packages.map { [$0.manager, $0.name, $0.version] })
    }
}

/// Prints a job's log.
struct LogsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "logs", abstract: "Print a job's log.", discussion: "Example:\n  sciferry logs -f j3")

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The job, for example j3, or one attempt of it, j3.1.") var id: String
    @Flag(name: .shortAndLong, help: "Go on until the job ends.") var follow = false

    func run() async throws {
        try await reporting {
            let attempt = AttemptID(id)
            try await farm.client().log(attempt?.job.rawValue ?? id, attempt: attempt?.number, follow: follow) {
                FileHandle.standardOutput.write(Data($0))
            }
        }
    }
}

/// Stops a job.
struct CancelCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel", abstract: "Stop a job.", discussion: "Example:\n  sciferry cancel j3")
    @OptionGroup var farm: FarmOptions
    @Argument(help: "The job, for example j3.") var id: String
    func run() async throws { try await reporting { try await farm.client().post("/api/v1/jobs/\(id)/cancel") } }
}
