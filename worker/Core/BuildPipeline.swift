import SingularityImage
import ChunkStore
package import FarmMessages
package import FarmModel
import Foundation
import Glibc
package import HTTPTransport
import ISAProof
import ImageAssembly
import Microarchitecture
import ProcessRunner
import SiteDelivery
import Synchronization
import SystemIO

/// One attempt from its order to its outcome.
package struct BuildPipeline: Sendable {
    /// What an attempt needs of its worker.
    package struct Context: Sendable {
        package var worker: String
        package var attempt: AttemptID
        package var home: WorkerHome
        package var configuration: WorkerConfiguration
        package var authority: [UInt8]
        package var line: FarmLine
        package var client: HTTPClient
        package var hostTarget: String
        package var processors: Int
        /// Tells the coordinator, at its next contact or at once when the phase changed.
        package var report: @Sendable (Phase, Int, String) async -> Void
    }

    private let context: Context
    private let directory: String
    private let log: AttemptLog
    private let engine: DockerEngine
    private let marks: [String: String]
    private let clock = PhaseClock()

    package init(_ context: Context) throws {
        self.context = context
        directory = "\(context.home.attempts)/\(context.attempt)"
        try Disk.remove(directory)
        try Disk.makeDirectory(directory)
        log = try AttemptLog("\(directory)/log")
        marks = ["SCIFERRY_WORKER": context.home.root, "SCIFERRY_ATTEMPT": context.home.mark(context.attempt)]
        engine = DockerEngine(program: context.configuration.docker, host: context.configuration.dockerHost, marks: marks)
    }

    /// Runs the order. Every way out cleans up what was made; a cancellation throws.
    package func run(_ order: WorkOrder) async throws -> AttemptOutcome {
        let isOver = Switch()
        let (attempt, line, path) = (context.attempt, context.line, log.path)
        let forwarder = Task { try await line.forwardLog(attempt, from: path, isOver: isOver) }
        let outcome: AttemptOutcome
        do {
            switch order {
            case .build(let plan): outcome = .built(try await build(plan))
            case .resolve(let order): outcome = .resolved(try await resolve(order))
            }
            await log.say("done")
        } catch let error as AttemptFailure {
            await log.say("failed: \(error.failure.message)")
            outcome = .failed(error.failure)
        } catch let error where !(error is CancellationError) && !Task.isCancelled {
            await log.say("failed: \(error)")
            outcome = .failed(Failure(.infrastructure, error))
        } catch {
            forwarder.cancel()
            await cleanUp()
            throw CancellationError()
        }
        _ = isOver.raise()
        // The log is whole before the outcome is heard; a coordinator that is away for long must not hold the slot.
        await withTaskGroup(of: Void.self) { tasks in
            tasks.addTask { _ = try? await forwarder.value }
            tasks.addTask { try? await Task.sleep(for: .seconds(30)) }
            await tasks.next()
            forwarder.cancel()
            tasks.cancelAll()
        }
        await cleanUp()
        return outcome
    }

    private func enter(_ phase: Phase, _ note: String = "") async {
        clock.enter(phase)
        await log.say("== \(phase.rawValue)\(note.isEmpty ? "" : ": \(note)")")
        await context.report(phase, 0, note)
    }

    // MARK: resolve

    private func resolve(_ order: ResolveOrder) async throws -> LockedInput {
        await enter(.base, order.name)
        let log = log
        switch order.kind {
        case .base:
            let provider = BaseProvider(engine: engine, scratch: directory, marks: marks)
            let resolved = try await provider.resolve(order) { await log.write($0) }
            if let tar = resolved.tar {
                try await importBase(
                    BaseImage(
                        name: order.name, digest: resolved.input.digest, origin: .bootstrap, size: resolved.input.size, bootstrap: nil), tar
                )
                await enter(.upload, "the base image")
                _ = try await uploader.send(
                    .file(path: tar, offset: 0, count: resolved.input.size), kind: "input", digest: resolved.input.digest,
                    size: resolved.input.size)
            }
            return resolved.input
        case .git:
            let commit = try await GitReferences.commit(order.name, client: context.client)
            await log.say("\(order.name) is \(commit)")
            return LockedInput(
                kind: .git, name: order.name, architecture: order.architecture, digest: Digest(hashing: commit), size: 0,
                origin: .registry, bootstrap: nil, commit: commit, lockedAt: .now)
        case .download:
            let path = "\(directory)/download"
            let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
            let response: HTTPResponse
            do {
                response = try await context.client.perform(HTTPRequest("GET", order.name, followsRedirects: true)) {
                    try file.write(Array($0))
                }
            } catch let error as FarmError {
                throw AttemptFailure(Failure(.infrastructure, error))
            }
            try file.sync()
            file.close()
            guard response.isSuccess else {
                let isTransient = RetryPolicy.isTransient(status: response.status)
                throw AttemptFailure(
                    Failure(
                        isTransient ? .infrastructure : .recipe, code: "download.failed",
                        message: "\(order.name) answers with status \(response.status); correct the URL"))
            }
            let digest = try await Blocking.run { try BaseProvider.digest(of: path) }
            let size = Disk.size(path) ?? 0
            await enter(.upload, order.name)
            _ = try await uploader.send(.file(path: path, offset: 0, count: size), kind: "input", digest: digest, size: size)
            return LockedInput(
                kind: .download, name: order.name, architecture: order.architecture, digest: digest, size: size, origin: .registry,
                bootstrap: nil, lockedAt: .now)
        }
    }

    private var uploader: Uploader {
        Uploader(
            line: context.line, client: context.client, attempt: context.attempt, api: context.configuration.api,
            authority: context.authority, say: { [log] in await log.say($0) })
    }

    // MARK: build

    private func build(_ digest: Digest) async throws -> BuildResult {
        await enter(.prepare)
        let plan = try await fetchPlan(digest)
        await log.say("plan \(digest.hex)\nbuilding \(plan.name) \(plan.version) for \(plan.target) on \(context.worker)")
        try await fetchContext(plan)
        await enter(.base, plan.base.reference)
        for base in [plan.base] + plan.moreBases { try await provideBase(base) }
        await enter(.build)
        let image = try await dockerBuild(plan)
        await enter(.assemble)
        let sif = try await assemble(plan, image)
        // The tag that keeps this recipe's layers warm for the next build.
        try await engine.tag(image, as: "sciferry-cache:\(plan.name.lowercased())-\(plan.target)")
        let imageDirectory = Disk.parent(of: sif.path)
        await enter(.test)
        let tested = try await test(plan, imageDirectory, sif.partitionOffset, listsRPM: sif.survey.hasRPM)
        await enter(.chunk)
        let manifest = try await Blocking.run { try ImageChunker.manifest(of: sif.path, parameters: .standard) }
        await enter(.upload, "\(manifest.chunks.count) chunks")
        let (uploader, context) = (uploader, context)
        let sent = try await uploader.sendChunks(of: sif.path, manifest, scratch: directory) {
            await context.report(.upload, Int($0 * 1000), "")
        }
        let packages = try await record(
            .packages, InstalledPackages(sif.survey.packages + tested.rpm), uploader)
        let instructions = try await record(
            .instructions,
            Statement(
                about: "\(plan.name)-\(plan.version)-\(plan.target).sif", image: manifest.image, predicateType: PredicateType.instructions,
                predicate: sif.instructions), uploader)
        let bytes = try CanonicalJSON.encode(manifest)
        let object = try await uploader.send(
            .bytes(bytes), kind: "manifest", digest: Digest(hashing: bytes), size: Int64(bytes.count))
        await log.say(
            "image sha256:\(manifest.image.hex), \(manifest.size) bytes in \(manifest.chunks.count) chunks; \(sent.newChunks) were new, \(sent.newBytes) bytes sent"
        )
        clock.enter(.done)
        return BuildResult(
            image: manifest.image, imageSize: manifest.size, manifest: object, packs: sent.packs, records: [packages, instructions],
            chunkCount: manifest.chunks.count, newChunkCount: sent.newChunks, newBytes: sent.newBytes, tests: tested.outcomes,
            testRuntime: tested.runtime, commands: tested.commands, hostTarget: context.hostTarget, phaseSeconds: clock.seconds)
    }

    /// Uploads a document about the image.
    private func record(_ kind: ImageRecord.Kind, _ document: some Encodable, _ uploader: Uploader) async throws -> ImageRecord {
        let bytes = try CanonicalJSON.encode(document)
        let object = try await uploader.send(.bytes(bytes), kind: "record", digest: Digest(hashing: bytes), size: Int64(bytes.count))
        return ImageRecord(kind: kind, object: object)
    }

    private func fetchPlan(_ digest: Digest) async throws -> Plan {
        let path = "\(directory)/plan.json"
        try await context.line.fetch(digest, to: path)
        return try Plan.read(try Disk.read(path, limit: 64 << 20))
    }

    private func fetchContext(_ plan: Plan) async throws {
        let root = "\(directory)/context"
        try Disk.makeDirectory(root)
        for file in plan.context {
            let parts = file.path.split(separator: "/", omittingEmptySubsequences: false)
            guard !file.path.hasPrefix("/"), !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }) else {
                throw FarmError("plan.path", .invalid, "the plan names the context file \"\(file.path)\"")
            }
            let path = "\(root)/\(file.path)"
            try Disk.makeDirectory(Disk.parent(of: path))
            try await context.line.fetch(file.digest, to: path)
            chmod(path, file.executable ? 0o755 : 0o644)
            // The engine's cache looks at times as little as it looks at owners; equal bytes must give equal layers.
            var times = [timeval(tv_sec: 0, tv_usec: 0), timeval(tv_sec: 0, tv_usec: 0)]
            utimes(path, &times)
        }
        try Disk.replace("\(directory)/Dockerfile", with: Array(plan.dockerfile.utf8))
    }

    private func provideBase(_ base: BaseImage) async throws {
        if try await engine.has(base.reference) { return await log.say("\(base.reference) is there") }
        let log = log
        switch base.origin {
        case .registry: try await engine.pull(base.reference) { await log.write($0) }
        case .bootstrap:
            let tar = "\(directory)/base.tar"
            await log.say("fetching the bootstrapped base from the farm")
            try await context.line.fetch(base.digest, to: tar)
            try await importBase(base, tar)
            try Disk.remove(tar)
        }
    }

    private func importBase(_ base: BaseImage, _ tar: String) async throws {
        if try await engine.has(base.reference) { return }
        try await engine.importBase(tar, as: base.reference)
    }

    /// Builds and gives the image's identifier, which no other build can take over as it could a name.
    private func dockerBuild(_ plan: Plan) async throws -> String {
        let identifier = "\(directory)/image.id"
        let tag = context.home.buildTag(context.attempt.description)
        let allowed = context.configuration.buildHours
        let hours = plan.limits.wallHours > 0 ? min(allowed, Double(plan.limits.wallHours)) : allowed
        let output = Mutex(BuildOutput())
        let (context, log) = (context, log)
        let result = try await ProcessRunner.run(
            engine.command(
                [
                    "build", "--tag", tag, "--iidfile", identifier, "--network", plan.network == .none ? "none" : "default", "--file",
                    "\(directory)/Dockerfile", "\(directory)/context",
                ], deadlineSeconds: hours * 3600)
        ) { bytes in
            await log.write(bytes)
            let began = output.withLock { $0.take(bytes) }
            if began {
                let step = output.withLock { $0.step }
                await context.report(
                    .build, (step.number - 1) * 1000 / max(1, step.count), "step \(step.number)/\(step.count) \(step.instruction)")
            }
        }
        if result.timedOut {
            let state = output.withLock { $0 }
            throw AttemptFailure(
                Failure(
                    .recipe, code: "build.too-long",
                    message:
                        "the build was ended after \(hours) hours in step \(state.step.number)/\(state.step.count): \(state.step.instruction)",
                    tail: state.tail))
        }
        guard result.succeeded else {
            // An engine that is gone explains everything; one that answers did what the recipe asked.
            let answers = (try? await engine.version()) != nil
            throw AttemptFailure(output.withLock { $0.failure(status: result.status, engineAnswers: answers) })
        }
        return String(decoding: try Disk.read(identifier, limit: 4096), as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// The image as it was put together, and what was seen in it.
    private struct AssembledImage {
        var path: String
        var partitionOffset: Int64
        var survey: PackageSurvey
        var instructions: InstructionReport
    }

    private func assemble(_ plan: Plan, _ image: String) async throws -> AssembledImage {
        let archive = "\(directory)/image.tar"
        try await engine.save(image, to: archive)
        let path = "\(directory)/image/image.sif"
        try Disk.makeDirectory(Disk.parent(of: path))
        let assembler = try ImageAssembler(
            machine: plan.architecture, format: plan.image, jobs: max(1, context.processors))
        let labels = [
            "org.sciferry.name": plan.name, "org.sciferry.version": plan.version, "org.sciferry.target": plan.target,
            "org.sciferry.base": "\(plan.base.name)@sha256:\(plan.base.digest.hex)",
        ]
        let (steps, continuation) = AsyncStream<Int>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let context = context
        let follower = Task { for await permille in steps { await context.report(.assemble, permille, "") } }
        defer {
            continuation.finish()
            follower.cancel()
        }
        let cancelled = Switch()
        let (report, instructions) = try await withTaskCancellationHandler {
            try await Blocking.run {
                var proof: InstructionReport?
                let report = try assembler.assemble(archive: archive, to: path, labels: labels) { files in
                    proof = try BuildPipeline.prove(files, keepTo: plan.target) { if cancelled.isRaised { throw CancellationError() } }
                } progress: { share in
                    if cancelled.isRaised { throw CancellationError() }
                    continuation.yield(Int(share * 1000))
                }
                return (report, proof)
            }
        } onCancel: {
            _ = cancelled.raise()
        }
        try Disk.remove(archive)
        await log.say("image of \(report.size) bytes from \(report.contentBytes) bytes of files")
        guard let instructions else { throw FarmError("isa.missing", .fault, "the image's machine code was not looked at") }
        try await judge(instructions, plan.instructions)
        return AssembledImage(path: path, partitionOffset: report.partition.offset, survey: report.survey, instructions: instructions)
    }

    /// Looks into all programs and libraries of an image.
    private static func prove(
        _ files: [ImageAssembler.ImageFile], keepTo target: String, check: @escaping () throws -> Void
    ) throws -> InstructionReport {
        guard let target = Microarchitecture.named(target) else {
            throw FarmError("plan.target", .invalid, "the plan is for \"\(target)\", which this worker does not know")
        }
        let programs = try files.filter { file in
            try check()
            return try file.size >= 64 && ElfFile.isElf(file.read(4))
        }
        return try ImageProof(target: target, check: check).prove(
            programs.map { file in
                ImageProof.File(path: file.path) {
                    guard file.size <= 2 << 30 else { throw FarmError("elf.size", .invalid, "too large, \(file.size) bytes") }
                    return try file.read(Int(file.size))
                }
            })
    }

    /// Tells what was found, and fails the build when the recipe does not allow it.
    private func judge(_ report: InstructionReport, _ policy: InstructionPolicy) async throws {
        let lines = InstructionSummary.lines(report)
        for line in lines { await log.say(line) }
        guard report.verdict == .exceeded, policy == .fail else { return }
        var worst = report
        worst.files = report.files.filter { $0.verdict == .exceeded }
        let culprits = worst.files.map(\.path)
        throw AttemptFailure(
            Failure(
                .recipe, code: "isa.exceeded",
                message:
                    "code in \(culprits.prefix(3).joined(separator: ", "))\(culprits.count > 3 ? " and \(culprits.count - 3) more files" : "") needs more than \(report.target) whatever CPU it runs on; compile for the target (CFLAGS is set), ask for a higher one, or set x-sciferry.instructions to warn",
                tail: Array(InstructionSummary.lines(worst).prefix(12))))
    }

    private func test(
        _ plan: Plan, _ imageDirectory: String, _ offset: Int64, listsRPM lists: Bool
    ) async throws -> (outcomes: [TestOutcome], runtime: String, commands: [String], rpm: [InstalledPackages.Package]) {
        try await Blocking.run { try Disk.replace("\(imageDirectory)/offset", with: Array("\(offset)\n".utf8)) }
        let runner = try await SuiteRunner(
            imageDirectory: imageDirectory, scratch: "\(directory)/runtime",
            work: SuiteRunner.workDirectory(home: context.home.root, attempt: context.attempt.description), marks: marks)
        let (context, log) = (context, log)
        do {
            let runtime = try await runner.runtime()
            await log.say("running \(plan.suite.tests.count) tests through \(runtime)")
            if !plan.suite.skipped.isEmpty { await log.say("the recipe's own tests are not run: \(plan.suite.skipped)") }
            let suite = TestSuite(setup: plan.suite.setup, tests: BuildPipeline.deployTests(plan) + plan.suite.tests)
            let outcomes = try await runner.run(suite, say: { await log.say($0) }) { done, all in
                await context.report(.test, done * 1000 / max(1, all), "test \(done + 1)/\(all)")
            }
            let programs = try await runner.programs(in: plan.commandPaths)
            if !plan.commandPaths.isEmpty {
                await log.say("\(programs.found.count) commands in \(plan.commandPaths.joined(separator: ", "))")
            }
            if !programs.hidden.isEmpty {
                await log.say("not on the image's PATH, so no commands: \(programs.hidden.joined(separator: ", "))")
            }
            let rpm = lists ? try await runner.rpmPackages() : []
            await runner.cleanUp()
            let failed = outcomes.filter { !$0.passed }
            guard failed.isEmpty else { throw AttemptFailure(try keep(imageDirectory, failed)) }
            return (outcomes, runtime, programs.found, rpm)
        } catch {
            await runner.cleanUp()
            throw error
        }
    }

    /// Every command that a release offers must be there, whatever the recipe's own tests look at.
    private static func deployTests(_ plan: Plan) -> [FunctionalTest] {
        plan.commands.map { command in
            FunctionalTest(
                name: "command \(command) is there", command: "command -v -- \(ShellWord.quoted(command))", timeoutSeconds: 60)
        }
    }

    /// The image of a failed test stays on the worker for a while, so that somebody can look into it.
    private func keep(_ imageDirectory: String, _ failed: [TestOutcome]) throws -> Failure {
        let kept = "\(context.home.kept)/\(context.attempt)"
        try Disk.makeDirectory(context.home.kept)
        try Disk.remove(kept)
        try Disk.rename(imageDirectory, to: kept)
        let names = failed.map { "\($0.name): \($0.problems.joined(separator: "; "))" }
        return Failure(
            .recipe, code: "test.failed",
            message:
                "\(failed.count) functional tests failed; the image is kept on worker \(context.worker) as \(kept)/image.sif for \(Int(context.configuration.keepDays)) days",
            tail: names)
    }

    private func cleanUp() async {
        await Mounts.release(below: "\(directory)/runtime")
        _ = ProcessRunner.killMarked("SCIFERRY_ATTEMPT", context.home.mark(context.attempt))
        await engine.untag(context.home.buildTag(context.attempt.description))
        try? Disk.remove(directory)
    }
}

/// An attempt's log on the worker's disk; what comes after 64 MiB is lost, and the log says so.
package final class AttemptLog: Sendable {
    package let path: String
    private let file: OpenFile
    private let written = Mutex<Int>(0)
    private static let longest = 64 << 20

    init(_ path: String) throws {
        self.path = path
        file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC | O_APPEND)
    }

    /// Bytes as a program wrote them. A log that cannot be written must not fail a build.
    func write(_ bytes: [UInt8]) async {
        let before = written.withLock { count in
            defer { count += bytes.count }
            return count
        }
        if before + bytes.count <= AttemptLog.longest { return _ = try? file.write(bytes) }
        if before <= AttemptLog.longest { try? file.write(Array("\n[the log is cut here, at \(AttemptLog.longest >> 20) MiB]\n".utf8)) }
    }

    /// A line of our own.
    func say(_ text: String) async { await write(Array("\(text)\n".utf8)) }
}

/// How long each phase took.
private final class PhaseClock: Sendable {
    private let state = Mutex<(current: Phase?, since: Timestamp, seconds: [String: Double])>((nil, .now, [:]))

    func enter(_ phase: Phase) {
        state.withLock { state in
            let now = Timestamp.now
            if let current = state.current { state.seconds[current.rawValue, default: 0] += now.seconds(since: state.since) }
            state.current = phase
            state.since = now
        }
    }

    var seconds: [String: Double] { state.withLock { $0.seconds } }
}
