import SingularityImage
import ChunkStore
package import FarmMessages
package import FarmModel
import Foundation
import Glibc
package import HTTPTransport
import ISAProof
import ImageAssembly
import ImageTesting
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
        package var host: HostFacts
        /// Where the engine keeps what it builds, if that is on this machine.
        package var engineRoot: String?
        /// Whether it makes control groups of steps where it is told to, and this process may limit them.
        package var makesGroups: Bool
        /// Free bytes that the farm expects it to need; 0 where nobody knows.
        package var diskBytes: Int64
        package var disk: DiskKeeper
        /// Through what steps fetch, and what keeps them to it.
        package var proxy: InputProxy
        package var gate: NetworkGate
        /// What is known of the engine's layers, and who takes them to the farm.
        package var layers: LayerNotes
        package var courier: LayerCourier
        /// Tells the coordinator, at its next contact or at once when the phase changed.
        package var report: @Sendable (Phase, Int, String) async -> Void
    }

    let context: Context
    let directory: String
    let log: AttemptLog
    let engine: any ContainerEngine
    let marks: [String: String]
    let clock = PhaseClock()
    let went = StepRecord()

    package init(_ context: Context) throws {
        self.context = context
        directory = "\(context.home.attempts)/\(context.attempt)"
        try Disk.remove(directory)
        try Disk.makeDirectory(directory)
        log = try AttemptLog("\(directory)/log")
        marks = ["SCIFERRY_WORKER": context.home.root, "SCIFERRY_ATTEMPT": context.home.mark(context.attempt)]
        engine = context.configuration.containerEngine(home: context.home, marks: marks)
    }

    /// Runs the order. Every way out cleans up what was made; a cancellation throws.
    package func run(_ order: WorkOrder) async throws -> AttemptOutcome {
        let isOver = Switch()
        let (attempt, line, path) = (context.attempt, context.line, log.path)
        let forwarder = Task { try await line.forwardLog(attempt, from: path, isOver: isOver) }
        var outcome: AttemptOutcome
        do {
            switch order {
            case .build(let plan): outcome = .built(try await build(plan))
            case .resolve(let order): outcome = .resolved(try await resolve(order))
            case .verify(let order): outcome = .verified(try await verify(order))
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
        if !went.steps.isEmpty { outcome.steps = went.steps }
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

    /// Reports how far `body`, which may be anywhere and calls back often, has come with a phase.
    ///
    /// - Parameter body: gets a function that takes thousandths.
    func following<Value: Sendable>(
        _ phase: Phase, _ body: (@escaping @Sendable (Int) -> Void) async throws -> Value
    ) async rethrows -> Value {
        let (steps, continuation) = AsyncStream<Int>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let context = context
        let follower = Task { for await permille in steps { await context.report(phase, permille, "") } }
        defer {
            continuation.finish()
            follower.cancel()
        }
        return try await body { continuation.yield($0) }
    }

    /// What runs programs of an architecture here; `nil` for the host's own CPU. Throws `worker.platform` when nothing does.
    func emulator(for architecture: String) throws -> EmulatedPlatform? {
        if architecture == context.host.architecture { return nil }
        guard let platform = context.host.hardware?.emulated?.first(where: { $0.architecture == architecture }) else {
            throw FarmError(
                "worker.platform", .unavailable, "this worker is \(context.host.architecture) and does not emulate \(architecture)",
                hint: "install qemu-user-static and start the worker again")
        }
        return platform
    }

    func enter(_ phase: Phase, _ note: String = "") async {
        clock.enter(phase)
        await log.say("== \(phase.rawValue)\(note.isEmpty ? "" : ": \(note)")")
        await context.report(phase, 0, note)
    }

    var uploader: Uploader {
        Uploader(
            line: context.line, client: context.client, attempt: context.attempt, api: context.configuration.api,
            authority: context.authority, say: { [log] in await log.say($0) })
    }

    func fetchPlan(_ digest: Digest) async throws -> Plan {
        let path = "\(directory)/plan.json"
        try await context.line.fetch(digest, to: path)
        return try Plan.read(try Disk.read(path, limit: 64 << 20))
    }

    func fetchContext(_ plan: Plan) async throws {
        let root = "\(directory)/context"
        try Disk.makeDirectory(root)
        for (index, file) in plan.context.enumerated() {
            // A coordinator gives up on preparations that stand still.
            await context.report(.prepare, index * 1000 / plan.context.count, file.path)
            let parts = file.path.split(separator: "/", omittingEmptySubsequences: false)
            guard !file.path.hasPrefix("/"), !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }) else {
                throw FarmError("plan.path", .invalid, "the plan names the context file \"\(file.path)\"")
            }
            let path = "\(root)/\(file.path)"
            try Disk.makeDirectory(Disk.parent(of: path))
            try await growing(path, file.path, index * 1000 / plan.context.count) { try await context.line.fetch(file.digest, to: path) }
            chmod(path, file.executable ? 0o755 : 0o644)
            // The engine's cache looks at times as little as it looks at owners; equal bytes must give equal layers.
            var times = [timeval(tv_sec: 0, tv_usec: 0), timeval(tv_sec: 0, tv_usec: 0)]
            utimes(path, &times)
        }
        try Disk.replace("\(directory)/Dockerfile", with: Array(plan.dockerfile.utf8))
    }

    /// Says now and then how large a file has become while `body` writes it.
    private func growing(_ path: String, _ name: String, _ permille: Int, _ body: () async throws -> Void) async throws {
        let context = context
        let teller = Task {
            while true {
                try await Task.sleep(for: .seconds(30))
                await context.report(.prepare, permille, "\(name), \((Disk.size(path) ?? 0) >> 20) MiB")
            }
        }
        defer { teller.cancel() }
        try await body()
    }

    func cleanUp() async {
        let place = ImageRunner.place(home: context.home.root, name: context.attempt.description)
        await Mounts.release(below: place)
        _ = ProcessRunner.killMarked("SCIFERRY_ATTEMPT", context.home.mark(context.attempt))
        // With several slots, other builds of the engine go on.
        let own = "\(engine.stepsGroup(of: .buildah))/\(context.attempt)"
        await engine.endBuilds(in: context.configuration.slots == 1 ? nil : own)
        await engine.untag(context.home.buildTag(context.attempt.description))
        try? Disk.remove(place)
        try? Disk.remove(directory)
    }
}
