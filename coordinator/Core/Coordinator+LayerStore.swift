import ChunkStore
import FarmMessages
import FarmModel
import FileStore
import Foundation
import Glibc
import ImageAssembly
import Logging
import ObjectStorage
import Recipes
import SystemIO

/// What a worker has brought of a build's layers.
enum ArrivingLayers: Sendable {
    /// A packed layer, in a file of the home's.
    case layer(path: String)
    /// What a build says of its layers, after they have been brought.
    case set(LayerSet, attempt: AttemptID)
}

/// The layers of builds, in a store of files below `layers/` in the first region: each layer is a file by the name of its content, each chunk
/// is there once, and documents in `layers/sets/` say which builds' steps made which layers. Nothing in it is needed for a release:
/// what is damaged or gone is made anew by the next build.
extension Coordinator {
    private nonisolated var layerBucket: BelowStore { BelowStore(firstRegion, prefix: LayerSet.place) }

    private var keepsLayers: Bool { configuration.layers.gigabytes > 0 }

    // MARK: what workers ask and bring

    /// What the farm can spare a build, and which of some layers it lacks. Throws `attempt.not-held` for somebody else's attempt.
    ///
    /// - Parameter builder: what builds there.
    func layerOffer(_ attempt: AttemptID, by worker: WorkerName, _ packed: [UInt8], builder: String) throws -> LayerOffer {
        guard packed.count % Digest.byteCount == 0, packed.count <= 512 * Digest.byteCount else {
            throw MessageFailure.meaningless("a wrong list of layers")
        }
        guard let record = state.attempts[attempt], record.worker == worker, let job = state.jobs[attempt.job], let key = job.key,
            record.isOpen || record.finishedAt.map({ Timestamp.now.seconds(since: $0) < 86400 }) ?? false
        else { throw FarmError("attempt.not-held", .denied, "the worker \(worker) does not hold attempt \(attempt)") }
        let plan = try self.plan(key)
        let steps = try BuildLayers.lastStage(of: plan)
        let found =
            keepsLayers
            ? shelf.beginning(
                of: steps, architecture: plan.architecture, builder: builder,
                isTrusted: { state.workers[WorkerName($0)].map { $0.trusted && !$0.revoked } ?? false }) : nil
        // Once for each build, when it begins; what the untrusted pool does teaches nothing.
        if let found, record.isOpen, packed.isEmpty, state.workers[worker]?.trusted ?? false { shelf.used(found.name, now: .now) }
        return LayerOffer(
            steps: steps, instructions: job.layers, set: found?.set, missing: Digest.unpacked(packed).filter { shelf.layer($0) == nil },
            leastSeconds: mayKeepLayers(of: job, by: worker) ? configuration.layers.leastSeconds : nil)
    }

    /// What the untrusted pool makes does not get into other builds.
    private func mayKeepLayers(of job: JobRecord, by worker: WorkerName) -> Bool {
        keepsLayers && job.kind == .build && !(job.isCandidate ?? false) && !(job.takesIn ?? false)
            && state.workers[worker]?.trusted ?? false
    }

    /// Throws `attempt.not-held` unless the worker has built, within a day, what may be kept.
    func requireBuilt(_ attempt: AttemptID, by worker: WorkerName) throws {
        guard let record = state.attempts[attempt], record.worker == worker, let job = state.jobs[attempt.job],
            // What the steps before the one that failed have made is sound.
            mayKeepLayers(of: job, by: worker),
            record.isOpen || record.state == .succeeded || record.failure?.failureClass == .recipe,
            record.finishedAt.map({ Timestamp.now.seconds(since: $0) < 86400 }) ?? true
        else { throw FarmError("attempt.not-held", .denied, "the farm takes no layers of attempt \(attempt) from \(worker)") }
        // They are worth time and nothing else: never the room that the farm itself needs.
        let free = try Disk.freeBytes(at: home.uploads)
        guard arrivingLayers.count < Coordinator.mostArriving, free > Coordinator.layerReserve else {
            throw FarmError(
                "layers.busy", .unavailable, "the farm takes no layers now: \(arrivingLayers.count) wait, \(free >> 20) MiB are free")
        }
    }

    /// Layers that wait to be kept, and bytes that stay free of the coordinator's disk whatever comes.
    private static let mostArriving = 64
    private static let layerReserve: Int64 = 4 << 30

    /// Throws `fetch.refused` unless the worker is building now.
    func requireBuilder(_ worker: WorkerName) throws {
        guard state.openAttempts(on: worker).contains(where: { state.jobs[$0.id.job]?.kind == .build }) else {
            throw FarmError("fetch.refused", .denied, "the worker \(worker) has nothing to build")
        }
    }

    /// Takes over a file with a packed layer.
    func take(layer file: String, of attempt: AttemptID) throws {
        let path = "\(home.uploads)/layer-\(attempt)-\(Nonce.hex(bytes: 6))"
        try Disk.rename(file, to: path)
        arrivingLayers.append(.layer(path: path))
    }

    /// Takes over what a build says of its layers.
    func take(layersOf attempt: AttemptID, _ bytes: [UInt8]) throws {
        let set = try CanonicalJSON.decode(LayerSet.self, from: bytes, source: "the layers of \(attempt)")
        guard set.isSound, let key = state.jobs[attempt.job]?.key else { throw MessageFailure.meaningless("a wrong set of layers") }
        // It says what its own build has made, and nothing of others.
        let plan = try self.plan(key)
        let steps = try BuildLayers.lastStage(of: plan)
        guard set.layers.map(\.identity) == Array(steps.prefix(set.layers.count)), set.architecture == plan.architecture else {
            throw FarmError("layer.set", .invalid, "\(attempt) speaks of other steps than its own")
        }
        arrivingLayers.append(.set(set, attempt: attempt))
    }

    // MARK: keeping them

    /// Takes layers into the store, one after the other, and tidies up, until cancelled.
    func keepLayers() async throws {
        var store: FileStore?
        var (isKnown, tidiedAt) = (false, Timestamp.now)
        while !Task.isCancelled {
            try await Task.sleep(for: .milliseconds(200))
            guard isAdopted, keepsLayers else { continue }
            do {
                if !isKnown {
                    try await readShelf()
                    isKnown = true
                }
                // A farm that keeps none has no store of them.
                guard !arrivingLayers.isEmpty || !shelf.sets.isEmpty else { continue }
                let opened = try await open(&store)
                if Timestamp.now.seconds(since: tidiedAt) > 3600 {
                    tidiedAt = .now
                    do { try await tidyLayers(opened) } catch let error as FarmError where error.category == .corrupt {
                        logger.warning("layers are forgotten: their store is damaged", metadata: ["reason": "\(error)"])
                        try await forgetLayers()
                        store = nil
                    }
                } else if !arrivingLayers.isEmpty {
                    let next = arrivingLayers.removeFirst()
                    do { try await keep(next, in: opened) } catch let error where !(error is CancellationError) {
                        logger.warning("layers are not kept", metadata: ["reason": "\(error)"])
                    }
                }
            } catch let error as CancellationError { throw error } catch {
                logger.warning("the store of layers waits", metadata: ["reason": "\(error)"])
                try await Task.sleep(for: .seconds(10))
            }
        }
    }

    private func open(_ store: inout FileStore?) async throws -> FileStore {
        if let store { return store }
        let opened = try await FileStore.open(layerBucket, making: ChunkerParameters.standard)
        store = opened
        return opened
    }

    /// Takes all of it away: builds make anew what they need.
    private func forgetLayers() async throws {
        // Sets first: one without layers would be offered in vain.
        let objects = try await layerBucket.all(prefix: "").sorted { a, b in
            (a.key.hasPrefix(Coordinator.sets) ? 0 : 1, a.key) < (b.key.hasPrefix(Coordinator.sets) ? 0 : 1, b.key)
        }
        for object in objects { try await layerBucket.delete(object.key) }
        shelf = LayerShelf()
    }

    private static let sets = "sets/"

    /// Learns what is kept.
    private func readShelf() async throws {
        for object in try await layerBucket.all(prefix: Coordinator.sets) {
            let bytes: [UInt8]
            do { bytes = try await layerBucket.get(object.key, range: nil, limit: 1 << 20) } catch let error as FarmError
                where error.category == .notFound || error.category == .corrupt
            {
                continue
            }
            let kept = try? CanonicalJSON.decode(LayerShelf.Kept.self, from: bytes, source: object.key)
            if let kept, kept.set.isSound { shelf.put(kept) } else { try await layerBucket.delete(object.key) }
        }
        if !shelf.sets.isEmpty {
            logger.info("layers are kept", metadata: ["sets": "\(shelf.sets.count)", "bytes": "\(shelf.storedBytes)"])
        }
    }

    private func write(_ kept: LayerShelf.Kept) async throws {
        try await layerBucket.put("\(Coordinator.sets)\(LayerShelf.name(of: kept.set)).json", try CanonicalJSON.encode(kept))
    }

    private static func file(_ content: Digest) -> String { "layer-\(content.hex)" }

    private func keep(_ arriving: ArrivingLayers, in store: FileStore) async throws {
        switch arriving {
        case .layer(let path):
            defer { try? Disk.remove(path) }
            let unpacked = "\(path).tar"
            defer { try? Disk.remove(unpacked) }
            let room = try Disk.freeBytes(at: home.uploads) - Coordinator.layerReserve / 2
            let found = try await Blocking.run { try LayeredImage.unpack(path, to: unpacked, limit: max(0, room)) }
            let added = try await store.add(unpacked, as: Coordinator.file(found.digest), jobs: 1)
            logger.info(
                "layer kept",
                metadata: [
                    "layer": "\(found.digest.short)", "bytes": "\(found.size)", "new": "\(added.newBytes)", "stored": "\(added.sentBytes)",
                ])
        case .set(var set, let attempt):
            for index in set.layers.indices where !set.layers[index].isNothing {
                let content = set.layers[index].content
                if let known = shelf.layer(content) {
                    (set.layers[index].size, set.layers[index].stored) = (known.size, known.stored)
                    (set.layers[index].manifest, set.layers[index].worker) = (known.manifest, known.worker)
                    continue
                }
                let file = try await store.file(Coordinator.file(content))
                set.layers[index].size = file.size
                set.layers[index].worker = state.attempts[attempt]?.worker.rawValue
                set.layers[index].manifest = file.manifest
                set.layers[index].stored = try await store.restoration(of: file).rebuild.quote.fetchBytes
            }
            let kept = LayerShelf.Kept(set: set, usedAt: .now)
            try await write(kept)
            shelf.put(kept)
            logger.info(
                "layers kept", metadata: ["attempt.id": "\(attempt)", "layers": "\(set.layers.count)", "seconds": "\(Int(set.seconds))"])
        }
    }

    /// Writes down what was of use, and takes away what is too much.
    private func tidyLayers(_ store: FileStore) async throws {
        for kept in shelf.sets.values where kept.uses > 0 && Timestamp.now.seconds(since: kept.usedAt) < 2 * 3600 { try await write(kept) }
        let gone = shelf.excess(over: Int64(configuration.layers.gigabytes * 1e9), now: .now)
        for name in gone {
            try await layerBucket.delete("\(Coordinator.sets)\(name).json")
            shelf.remove(name)
        }
        // Layers of sets that came in part belong to nobody either, once no set of theirs can come any more.
        let (needed, waits) = (shelf.contents, !arrivingLayers.isEmpty)
        for file in try await store.files() where !waits && Timestamp.now.seconds(since: file.added) > 86400 || !gone.isEmpty {
            guard let content = Digest(String(file.name.dropFirst("layer-".count))), !needed.contains(content),
                Timestamp.now.seconds(since: file.added) > 3600
            else { continue }
            try await store.remove(file.name)
        }
        let collected = try await store.collect()
        logger.info(
            "layers tidied",
            metadata: [
                "sets": "\(shelf.sets.count)", "gone": "\(gone.count)", "bytes": "\(shelf.storedBytes)", "collected": "\(collected)",
            ])
    }
}
