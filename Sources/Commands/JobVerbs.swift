import Recipes
import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation

/// Lists jobs.
struct JobsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "jobs", abstract: "List jobs, newest last.",
        discussion: "Examples:\n  sciferry jobs --open\n  sciferry jobs --before j5000 --limit 50")

    @OptionGroup var farm: FarmOptions
    @Flag(help: "All that have not ended, and no others.") var open = false
    @Option(help: "So many at the most, the newest; 1000 are the limit.") var limit = 200
    @Option(help: "Only older ones than this job.") var before: String?

    func run() async throws {
        try await reporting {
            var query = open ? "open=1" : "limit=\(limit)"
            if let before {
                guard let number = Int(before.drop { $0 == "j" }) else {
                    throw FarmError("job.name", .usage, "\"\(before)\" is no job", hint: "for example j5000")
                }
                query += "&before=\(number)"
            }
            let jobs: [JobView] = try await farm.client().get("/api/v1/jobs?\(query)")
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
        discussion:
            "Examples:\n  sciferry job j3 --json\n  sciferry job j3 --recipe\n  sciferry job j3 --packages\n  sciferry job j3 --instructions"
    )

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The job, for example j3.") var id: String
    @Flag(help: "List what package managers installed in its image.") var packages = false
    @Flag(help: "Tell what its image's machine code needs of the CPU.") var instructions = false
    @Flag(help: "List the steps of each build: which layers were there, and how long the others took.") var steps = false
    @Flag(help: "Print what was submitted: the recipe, its files, its lock and the templates that it uses.") var recipe = false

    func run() async throws {
        try await reporting {
            if recipe { return try await printSubmission() }
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
                if let steps = attempt.steps, !steps.isEmpty { tell(steps, why: attempt.miss) }
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
                if let comparison = publication.comparison {
                    Console.print("  \(comparison.title)")
                    for text in comparison.differences { Console.print("    \(text)") }
                    if comparison.count > comparison.differences.count { Console.print("    …") }
                }
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

/// Explains the scheduler's mind.
struct WhyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "why", abstract: "Say why a job waits, worker by worker, or why it went where it went.",
        discussion: "Example:\n  sciferry why j12")

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The job, for example j12.") var id: String

    func run() async throws {
        try await reporting {
            let answer: JobExplanation = try await farm.client().get("/api/v1/jobs/\(id)/why")
            if farm.json { return try Console.json(answer) }
            Console.print("\(answer.job) is \(answer.state.rawValue), priority \(answer.priority.rawValue)")
            if let note = answer.note { Console.print("  \(note)") }
            for choice in answer.choices { Console.print("  \(choice)") }
            guard !answer.verdicts.isEmpty else { return }
            Console.table(
                ["JOB", "WORKER", "", "WHY"],
                answer.verdicts.map { [$0.job.rawValue, $0.worker, $0.refuses ? "not" : "may", $0.words] })
        }
    }
}

extension JobCommand {
    private func tell(_ steps: [BuildStep], why: String?) {
        Console.print("    \(steps.title)")
        if let first = steps.firstMiss, first != steps.first || why != nil {
            Console.print(
                "    first run: step \(first.number)/\(first.count) \(first.instruction.printable())\(why.map { ": \($0)" } ?? "")")
        }
        guard self.steps else { return }
        Console.table(
            ["    STEP", "", "SECONDS", "INSTRUCTION"],
            steps.map { step in
                let origin =
                    switch step.origin {
                    case .worker: "there"
                    case .farm: "farm"
                    case .run: "run"
                    case .failed: "FAILED"
                    }
                return [
                    "    \(step.number)/\(step.count)", origin, step.isMade ? Console.seconds(step.seconds) : "",
                    step.instruction.printable(),
                ]
            })
    }

    private func record<Document: Decodable>(_ kind: ImageRecord.Kind, of view: JobView) async throws -> Document {
        guard let record = view.publication?.result.records.first(where: { $0.kind == kind }) else {
            throw FarmError(
                "job.record", .notFound, "\(id) has no record of that kind", hint: "name a job that was released: sciferry jobs")
        }
        return try await farm.client().get("/api/v1/records/\(record.object.digest.hex)")
    }

    /// Texts as they are but for control characters, which could make a terminal show something else; of other files the digest.
    private func printSubmission() async throws {
        let submission: Submission = try await farm.client().get("/api/v1/jobs/\(id)/submission")
        if farm.json { return try Console.json(submission) }
        let source = try submission.source()
        let shared = source.collection.files.map { ("collection/\($0.key)", $0.value) }
        if let day = submission.refreshed { Console.print("with the packages of \(day.printable())") }
        for (path, bytes) in (source.files.map { ($0.key, $0.value) } + shared).sorted(by: { $0.0 < $1.0 }) {
            Console.print("== \(path)")
            guard let text = String(validating: bytes, as: UTF8.self) else {
                Console.print("\(bytes.count) bytes, sha256:\(Digest(hashing: bytes).hex)")
                continue
            }
            Console.print(text.printable(keeping: "\n\t"))
        }
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
