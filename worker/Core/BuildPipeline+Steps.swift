import FarmModel
import Foundation
import ProcessRunner
import Synchronization
import SystemIO

/// The engine runs the Dockerfile's steps, within limits and watched.
extension BuildPipeline {
    /// How long a build may take, and be silent, in the words that its failure is told with.
    private struct Patience {
        var hours: Double
        var minutes: Double
    }

    private func patience(_ plan: Plan, emulator: EmulatedPlatform?) -> Patience {
        let settings = context.configuration
        // What the recipe allows is meant for its own CPU; what the worker's owner allows is not exceeded.
        let factor = emulator?.cost ?? 1
        let minutes = plan.limits.silentMinutes.map { min(settings.silentMinutes, Double($0) * factor) } ?? settings.silentMinutes
        let hours = plan.limits.wallHours > 0 ? min(settings.buildHours, Double(plan.limits.wallHours) * factor) : settings.buildHours
        return Patience(hours: hours, minutes: minutes)
    }

    /// Builds and gives the image's identifier, which no other build can take over as it could a name, and what the builder said.
    ///
    /// - Parameters:
    ///   - offer: what the farm said of layers, and what was brought of them.
    ///   - wasTidied: the engine had to let go of what earlier builds left.
    func dockerBuild(
        _ plan: Plan, _ offer: LayerOffer?, _ restored: RestoredLayers?, wasTidied: Bool
    ) async throws -> (image: String, output: BuildOutput) {
        let builder = engine.builder(for: plan.dockerfile)
        if builder != context.configuration.builder { await log.say("the Dockerfile wants \(builder.rawValue), which builds it") }
        let shown = try await example(for: plan, builder, restored, wasTidied: wasTidied)
        let output = Mutex(BuildOutput(builder, stages: DockerfileNeeds.stages(plan.dockerfile), wasShown: shown != nil))
        var isWhole = false
        defer {
            let seen = output.withLock(\.self)
            if let offer { noteLayers(offer, restored, seen, isWhole: isWhole) } else { went.steps = seen.outcome }
        }
        let limits = limits(of: plan)
        let group = context.makesGroups ? engine.stepsGroup(of: builder) : nil
        let cage = group.flatMap { BuildCage(group: $0) }
        if cage == nil {
            await log.say("what steps use is not limited here: the engine has no control group for them that this worker may set")
        }
        for what in cage?.set(limits) ?? [] { await log.say("steps cannot be limited in \(what) here") }
        // What this recipe has declared is nothing to the next one.
        defer { _ = cage?.set(self.limits(of: nil)) }
        let watch = BuildLimitsWatch(
            declaredMemory: Int64(plan.limits.memoryGiB) << 30,
            declaredDisk: plan.diskBytes == Plan.usualDiskBytes || context.configuration.slots > 1 ? 0 : plan.diskBytes,
            isAlone: context.configuration.slots == 1, before: cage?.met ?? BuildCage.Met())
        let patience = patience(plan, emulator: try emulator(for: plan.architecture))
        let attempt = context.attempt
        let order = EngineOrder(
            architecture: plan.architecture, tag: context.home.buildTag(attempt.description), identifier: "\(directory)/image.id",
            dockerfile: "\(directory)/Dockerfile", context: "\(directory)/context", restored: shown, limits: limits,
            group: cage == nil ? nil : group.map { builder == .buildah ? "\($0)/\(attempt)" : $0 }, builder: builder,
            deadlineSeconds: patience.hours * 3600, silenceSeconds: patience.minutes * 60)
        let result = try await run(order, plan, watch) { bytes in
            output.withLock { $0.take(bytes) ? $0.step : nil }
        } place: {
            output.withLock { $0.place }
        }
        let seen = output.withLock(\.self)
        guard result.succeeded else {
            if let offer, let image = seen.lastImage {
                noteLayers(offer, restored, seen, isWhole: false)
                do { try await handOverLayers(plan, image, offer, seen) } catch {
                    await log.say("layers are not taken to the farm: \(error)")
                }
            }
            throw AttemptFailure(try await failure(result, seen, plan, patience, (watch, limits, cage?.met)))
        }
        isWhole = true
        let image = String(decoding: try Disk.read(order.identifier, limit: 4096), as: UTF8.self)
        return (image.trimmingCharacters(in: .whitespacesAndNewlines), seen)
    }

    /// An image whose steps the builder shall take as done, where it does not find them by itself.
    private func example(
        for plan: Plan, _ builder: EngineBuilder, _ restored: RestoredLayers?, wasTidied: Bool
    ) async throws -> String? {
        if let restored { return restored.tag }
        if builder == .classic, try await engine.has(layersTag(plan), plan.architecture) { return layersTag(plan) }
        // What the builder had to let go its own last image may have still.
        if wasTidied, try await engine.has(cacheTag(plan), plan.architecture) { return cacheTag(plan) }
        return nil
    }

    /// Runs the builder, on the network that the plan allows.
    ///
    /// - Parameters:
    ///   - take: gets what it says; tells the step that began with it, if one did.
    ///   - place: where it is, for people.
    private func run(
        _ order: EngineOrder, _ plan: Plan, _ watch: BuildLimitsWatch, take: @escaping @Sendable ([UInt8]) -> BuildOutput.Step?,
        place: @escaping @Sendable () -> String
    ) async throws -> CommandResult {
        let (context, log, engine) = (context, log, engine)
        return try await onNetwork(of: plan) { network in
            var order = order
            order.network = network
            let command = engine.build(order)
            return try await watched(watch, place: place) {
                try await ProcessRunner.run(command) { bytes in
                    await log.write(bytes)
                    guard let step = take(bytes) else { return }
                    await context.report(
                        .build, (step.number - 1) * 1000 / max(1, step.count), "step \(step.number)/\(step.count) \(step.instruction)")
                }
            }
        }
    }

    /// Why a build failed.
    ///
    /// - Parameter limited: what it was limited by, and what has been met since.
    private func failure(
        _ result: CommandResult, _ seen: BuildOutput, _ plan: Plan, _ patience: Patience,
        _ limited: (watch: BuildLimitsWatch, limits: CageLimits, met: BuildCage.Met?)
    ) async throws -> Failure {
        if result.timedOut || result.fellSilent {
            let why = result.timedOut ? "after \(patience.hours) hours" : "after \(patience.minutes) minutes without a word"
            return Failure(
                .recipe, code: result.timedOut ? "build.too-long" : "build.silent",
                message:
                    "the build was ended \(why) in \(seen.place); the recipe's x-sciferry.limits and the worker's settings say how long it may take",
                tail: seen.tail)
        }
        if let met = limited.met,
            let failure = limited.watch.failure(
                after: met, limits: limited.limits, place: seen.place, wasKilled: seen.exitCode == "137", tail: seen.tail)
        {
            return failure
        }
        // An engine that is gone explains everything; one that answers did what the recipe asked.
        let answers = (try? await engine.version()) != nil
        return seen.failure(status: result.status, engineAnswers: answers, emulator: try emulator(for: plan.architecture)?.emulator)
    }

    /// What steps may use: all builds of the engine together, and where there is but one at a time, what its recipe declares.
    private func limits(of plan: Plan?) -> CageLimits {
        let settings = context.configuration
        var memory = context.host.memoryBytes - max(1 << 30, context.host.memoryBytes / 10)
        if settings.buildMemoryGiB > 0 { memory = min(memory, Int64(settings.buildMemoryGiB * Double(1 << 30))) }
        if let plan, settings.slots == 1, plan.limits.memoryGiB > 0 { memory = min(memory, Int64(plan.limits.memoryGiB) << 30) }
        return CageLimits(memory: memory, processes: settings.buildProcesses, processors: settings.buildProcessors)
    }

    /// Runs a build, and ends it when it does to the disk what it must not.
    private func watched(
        _ watch: BuildLimitsWatch, place: @escaping @Sendable () -> String, _ body: @escaping @Sendable () async throws -> CommandResult
    ) async throws -> CommandResult {
        let root = context.engineRoot ?? directory
        let before = try Disk.freeBytes(at: root)
        // What this worker itself writes meanwhile is not the build's doing: layers on their way, and what the proxy did not have.
        let device = try Disk.entry(root)?.device
        let (layers, proxy) = (context.home.layers, context.proxy)
        let places = [layers, proxy.place].map { (try? Disk.entry($0))??.device == device }
        @Sendable func written() async -> Int64 {
            let packed = places[0] ? (try? await Blocking.run { try Disk.treeSize(layers) }) ?? 0 : 0
            let use = await proxy.use()
            return packed + (places[1] ? use.bytes - use.hitBytes : 0)
        }
        let writtenBefore = await written()
        let found = Mutex<Failure?>(nil)
        let build = Task { try await body() }
        let watcher = Task {
            while !Task.isCancelled {
                try await Task.sleep(for: .milliseconds(300))
                guard let now = try? Disk.freeBytes(at: root), watch.disk(free: (before, now), place: place()) != nil else { continue }
                let others = await written() - writtenBefore
                guard let failure = watch.disk(free: (before, now), others: others, place: place()) else { continue }
                found.withLock { $0 = failure }
                return build.cancel()
            }
        }
        defer { watcher.cancel() }
        do {
            return try await withTaskCancellationHandler {
                try await build.value
            } onCancel: {
                build.cancel()
            }
        } catch {
            if let failure = found.withLock(\.self) { throw AttemptFailure(failure) }
            throw error
        }
    }
}
