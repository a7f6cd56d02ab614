import ChunkStore
import FarmMessages
import FarmModel
import Foundation
import ImageAssembly
import ObjectStorage
import SystemIO

/// Layers that the farm has and this worker's engine lacks are brought before the build, where that is quicker than to make them anew. The
/// engine itself decides what fits: what is brought is offered to its builder, which compares instructions and files with its own notes.
extension BuildPipeline {
    /// What was brought for a build.
    struct RestoredLayers {
        /// What the engine calls it.
        var tag: String
        /// The steps that it has, and those before which the engine had already.
        var steps: Range<Int>
    }

    /// Asks what the farm can spare this build; `nil` when it does not say.
    func layerOffer(_ plan: Plan) async -> LayerOffer? {
        let builder = engine.builder(for: plan.dockerfile)
        do { return try await LayerOffer.ask(context.line, context.attempt, builder: builder) } catch {
            await log.say("the farm does not tell of layers: \(error)")
            return nil
        }
    }

    /// Brings what is worth it. Whatever goes wrong, the build goes on without.
    func restoreLayers(_ plan: Plan, _ offer: LayerOffer) async throws -> RestoredLayers? {
        guard let set = offer.set, set.architecture == plan.architecture else { return nil }
        do {
            guard let root = try await engine.layerStore() else { return nil }
            let base = try await engine.layerNames(of: plan.base.engineName(plan.architecture))
            guard base == set.base else { return nil }
            let contents = base + set.solid.map(\.content)
            let there = try await Blocking.run { max(0, LayeredImage.held(contents, root: root) - base.count) }
            let present = set.steps(withLayers: there)
            let (held, rates) = { ($0.held(offer.steps), $0.rates) }(context.layers.memory)
            guard let choice = RestorePlan(set, held: held, present: present, rates: rates) else {
                if held < set.layers.count {
                    await log.say(
                        "the farm has \(set.layers.count) of \(offer.steps.count) steps; to run them is quicker than to bring them")
                }
                return nil
            }
            await enter(.fetch, "\(choice.count) of \(offer.steps.count) steps from the farm")
            await log.say(
                "the farm has \(set.layers.count) of \(offer.steps.count) steps, this worker \(held); bringing \(choice.count): "
                    + "\(choice.fetchBytes >> 20) MiB in an expected \(choice.restoreSeconds.tenths) s instead of \(choice.rebuildSeconds.tenths) s"
            )
            let started = Timestamp.now
            let tag = layersTag(plan)
            try await bring(set.prefix(choice.count), choice, base: base, as: tag)
            let seconds = Timestamp.now.seconds(since: started)
            await log.say("they came in \(seconds.tenths) s, \((seconds - choice.restoreSeconds).tenths) s beside what was expected")
            return RestoredLayers(tag: tag, steps: held..<choice.count)
        } catch let error where !(error is CancellationError) && !Task.isCancelled {
            await log.say("the farm's layers cannot be used: \(error)")
            return nil
        }
    }

    /// Fetches layers and gives them to the engine under a name.
    private func bring(_ set: LayerSet, _ choice: RestorePlan, base: [Digest], as tag: String) async throws {
        let place = "\(directory)/layers"
        try Disk.makeDirectory(place)
        defer { try? Disk.remove(place) }
        // The engine takes in an archive before it makes layers of it.
        for (disk, need) in [(place, choice.loadBytes + (1 << 30)), (context.engineRoot ?? place, 2 * choice.loadBytes + (1 << 30))] {
            let room = try Disk.freeBytes(at: disk)
            guard room > need else {
                throw FarmError("disk.room", .unavailable, "\(disk) has \(room >> 20) MiB free, and they need \(need >> 20)")
            }
        }
        let reader = RegionReader(regions: [FarmStore(line: context.line, region: 0, prefix: LayerSet.place)])
        let began = Timestamp.now
        let solid = set.layers.indices.filter { !set.layers[$0].isNothing }
        // Layers that the engine has need not be in the archive.
        let wanted = solid.filter { $0 >= choice.present }
        for index in wanted {
            let layer = set.layers[index]
            guard let name = layer.manifest else { throw FarmError("layer.set", .corrupt, "the farm does not say where a layer lies") }
            let manifest = try await reader.manifest(name)
            guard manifest.image == layer.content, manifest.size == layer.size else {
                throw FarmError("layer.set", .corrupt, "the farm's manifest of the layer \(layer.content.short) is another one's")
            }
            let rebuild = ImageRebuild(manifest: manifest, locations: try await reader.locations(of: manifest, digest: name))
            let done = set.layers[choice.present..<index].reduce(0) { $0 + $1.size }
            try await following(.fetch) { progress in
                try await rebuild.write(to: "\(place)/\(index).tar", mode: 0o600, from: reader, checksWhole: false, isDurable: false) {
                    progress(Int((done + $0) * 1000 / max(1, choice.loadBytes)))
                }
            }
        }
        let fetched = Timestamp.now
        let names = base.indices.map { "base-\($0).tar" } + solid.map { "\($0).tar" }
        try await Blocking.run {
            let configuration = try CacheConfiguration.cut(set.configuration, layers: names.count)
            try Disk.write("\(place)/config.json", configuration)
            struct Saved: Encodable {
                var Config = "config.json"
                var RepoTags: [String]
                var Layers: [String]
            }
            try Disk.write("\(place)/manifest.json", try CanonicalJSON.encode([Saved(RepoTags: [tag], Layers: names)]))
        }
        try await engine.load(["config.json", "manifest.json"] + wanted.map { "\($0).tar" }, in: place)
        let loaded = Timestamp.now
        context.layers.change {
            $0.rates.measured(fetched: choice.fetchBytes, seconds: fetched.seconds(since: began))
            $0.rates.measured(loaded: choice.loadBytes, seconds: loaded.seconds(since: fetched))
        }
    }

    /// Says of steps that the builder had whence it had them, and remembers what is there now.
    ///
    /// - Parameter isWhole: the build went well to its end.
    func noteLayers(_ offer: LayerOffer, _ restored: RestoredLayers?, _ output: BuildOutput, isWhole: Bool) {
        var steps = output.lastStage(layers: offer.steps.count)
        let marked = output.outcome.map { step in
            guard let restored, step.origin == .worker, let index = steps.firstIndex(of: step), restored.steps.contains(index) else {
                return step
            }
            var step = step
            step.origin = .farm
            return step
        }
        went.steps = marked
        let all = offer.instructions ?? offer.steps
        guard steps.count == offer.steps.count else {
            // How single steps went cannot be told; that all of them are there now can.
            if isWhole { context.layers.change { $0.used(all, seconds: [:], now: .now) } }
            return
        }
        steps = Array(steps.prefix { $0.origin != .failed })
        var seconds: [UInt64: Double] = [:]
        for (identity, step) in zip(offer.steps, steps) where step.origin == .run { seconds[identity] = step.seconds }
        let last = steps.count == offer.steps.count ? all.last : steps.isEmpty ? all.first : offer.steps[steps.count - 1]
        let there = (all.firstIndex { $0 == last } ?? -1) + 1
        context.layers.change { memory in
            memory.used(all[..<there], seconds: seconds, now: .now)
            // What was made anew is another layer, and what stood upon the old one hangs in the air.
            memory.lost(all[there...])
        }
    }

    /// Has the layers of a build taken to the farm, later and beside other work.
    ///
    /// - Parameters:
    ///   - image: what was built; of a build that failed in a step, what the classic builder had made before that.
    ///   - output: what the builder said.
    func handOverLayers(_ plan: Plan, _ image: String, _ offer: LayerOffer, _ output: BuildOutput) async throws {
        guard let least = offer.leastSeconds, offer.steps.count > 0, try await engine.layerStore() != nil else { return }
        let memory = context.layers.memory
        let run = went.steps.filter { $0.origin == .run }.reduce(0) { $0 + $1.seconds }
        guard run >= least else { return }
        let entries = output.builder == .classic ? output.lastStageEntries : nil
        let steps = offer.steps.prefix(entries.map { $0.count(where: \.self) } ?? offer.steps.count)
        guard !steps.isEmpty else { return }
        let tag = context.home.layerTag(context.attempt.description)
        try await engine.tag(image, as: tag)
        let known = Dictionary(
            (offer.set?.layers ?? []).map { ($0.identity, $0.seconds) }
        ) { first, _ in first }
        await context.courier.take(
            LayerCourier.Delivery(
                attempt: context.attempt, tag: tag, recipe: plan.name, target: plan.target, architecture: plan.architecture,
                builder: output.builder, base: plan.base.engineName(plan.architecture), entries: entries,
                steps: steps.map { ($0, memory.seconds($0) ?? known[$0] ?? 0) }))
    }
}

extension LayerOffer {
    /// Asks the farm, for an attempt.
    ///
    /// - Parameter layers: those of which it shall say whether it has them.
    static func ask(_ line: FarmLine, _ attempt: AttemptID, builder: EngineBuilder, layers: [Digest] = []) async throws -> LayerOffer {
        var question = Sciferry_V1_LayersRequest()
        question.layers = Data(layers.flatMap(\.bytes))
        question.builder = builder.rawValue
        let answer = try await line.ask(attempt, .layers(question))
        let offer = try CanonicalJSON.decode(LayerOffer.self, from: answer.layers, source: "the farm's word on layers")
        guard offer.set?.isSound ?? true else { throw MessageFailure.meaningless("a wrong set of layers") }
        return offer
    }
}

extension Double {
    /// For people: with one digit behind the point.
    var tenths: Double { (self * 10).rounded() / 10 }
}
