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
              sciferry build recipes/dcm2niix --needs fast-disk --avoids virtual-kvm
              sciferry build recipes/dcm2niix --candidate
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
    @Option(help: "How urgent it is: interactive, release, nightly or background.") var priority = "interactive"
    @Option(help: "A label that the worker must have, for example gpu, beside those of the recipe; may be repeated.") var needs: [String] =
        []
    @Option(help: "A label that the worker must not have; may be repeated.") var avoids: [String] = []
    @Flag(help: "Build a candidate on a worker of the untrusted pool: tested, and not released until somebody promotes it.") var candidate =
        false
    @Flag(inversion: .prefixedNo, help: "Wait for the end.") var wait = true

    func run() async throws {
        try await reporting {
            let source = try await HPCCMRecipe.completed(try RecipeDirectory.read(recipe))
            let client = try farm.client()
            guard let priority = JobPriority(rawValue: priority) else {
                throw FarmError(
                    "job.priority", .usage, "\"\(priority)\" is no priority",
                    hint: JobPriority.allCases.map(\.rawValue).joined(separator: ", "))
            }
            var wanted: [String] = []
            for target in targets.isEmpty ? [""] : targets {
                let name = try await resolved(target, source, client)
                if !wanted.contains(name) { wanted.append(name) }
            }
            var jobs: [(target: String, job: JobRecord)] = []
            // All are asked for before one is waited for, so that they run side by side.
            for target in wanted {
                let submission = Submission(
                    source, target: target, variant: variant, updatesLock: updateLock, allowsEmulation: emulated, priority: priority,
                    workers: LabelWish(needs: needs, avoids: avoids), isCandidate: candidate)
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
                if view.job.state == .succeeded, !candidate {
                    // Whatever this target, variant or a new file added is held from now on.
                    try await RecipeLocking.write(
                        held, target: target, variant: variant, client: client, updates: false, emulated: emulated, quiet: farm.json)
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
            if view.job.state.isFinal || view.job.state == .review {
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
            if job.state == .queued { say("wait \(job.id)", "  \(job.id) shall run the tests on \(job.target)") }
            if job.state == .running { say("verify \(job.id)", "  \(job.id) runs the tests on \(job.target)") }
            if job.state == .succeeded { say("verified \(job.id)", "  \(job.id) passed") }
        }
        if view.job.state == .publishing { say("publishing", "  publishing") }
        if let note = view.job.note, !view.job.state.isFinal { say("note \(note)", "  \(note)") }
        if view.job.state == .queued && view.attempts.isEmpty || view.job.state == .verifying {
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
            if let comparison = view.publication?.comparison { Console.print("  \(comparison.title)") }
            if let release = job.release {
                Console.print("\(job.id)  released: sha256:\(release.hex)")
            } else {
                Console.print("\(job.id)  a candidate; `sciferry promote \(job.id)` releases it")
            }
        case .review:
            for text in view.publication?.comparison?.differences.prefix(20) ?? [] { Console.print("  \(text)") }
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
