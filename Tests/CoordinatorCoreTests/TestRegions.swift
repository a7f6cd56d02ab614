import Attestation
import ChunkStore
import CoordinatorCore
import FarmModel
import Foundation
import ObjectStorage
import Support
import Synchronization
import SystemIO

/// A farm's state and regions without a coordinator's process: builds, publications and collections as a test asks for them.
actor TestRegions: FarmStateOwner {
    let stores = [MemoryStore(name: "memory:first"), MemoryStore(name: "memory:second")]
    let keys: FarmKeys
    let clock: TestClock
    let journal = MemoryJournal()
    private(set) var state: FarmState
    private var number = 0

    init(clock: TestClock) throws {
        let home = try Scratch()
        self.clock = clock
        keys = try FarmKeys.create(FarmHome(home.path), farm: "test", now: clock.read())
        state = FarmState(JournalSnapshot(), rules: FarmState.Rules(silenceSeconds: 1e9), now: clock.read())
    }

    func apply<Value: Sendable>(_ body: @Sendable (inout FarmState) throws -> Value) throws -> Value {
        do {
            let value = try body(&state)
            try journal.commit(state.drainChanges().changes)
            state.accept()
            return value
        } catch {
            state.rollBack()
            throw error
        }
    }

    /// What a coordinator knows that starts now.
    func restart() throws {
        state = FarmState(try journal.load(recent: 10000), rules: FarmState.Rules(silenceSeconds: 1e9), now: clock.read())
    }

    func regions(seed: UInt64, killedAfter steps: Int?) -> [(name: String, store: any ObjectStore)] {
        stores.map { ($0.name, MortalStore($0, clock, seed: seed, killedAfter: steps, longestStep: 1.0 / 6)) }
    }

    func publisher(_ regions: [(name: String, store: any ObjectStore)]) -> Publisher {
        var publisher = Publisher(regions: regions, keys: keys, journal: journal, farm: "test")
        publisher.claim = { keys in try await self.apply { try $0.claim(keys) } }
        return publisher
    }

    func plan(_ name: String, _ version: String) -> Plan {
        let base = BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil)
        return Plan(
            name: name, version: version, architecture: "x86_64", target: "x86_64", base: base, dockerfile: "", context: [],
            commands: ["tool"], commandPaths: [], description: "", categories: [], licences: [], suite: TestSuite(), diskBytes: 0)
    }

    private var plans: [JobID: Plan] = [:]

    /// A worker builds an image of some chunks: it asks what the farm has, takes its time, and sends the rest.
    func build(_ name: String, _ version: String, chunks: [[UInt8]], pause: Double) async throws {
        number += 1
        let attempt = AttemptID(job: JobID("j\(number)"), number: 1)
        let started = clock.read()
        try apply { $0.put(AttemptRecord(id: attempt, worker: WorkerName("w"), state: .running, startedAt: started)) }
        let parts = chunks.map { ImageManifest.Chunk(digest: Digest(hashing: $0), size: $0.count) }
        let located = try journal.locate(parts.map(\.digest))
        let listings = try journal.indexes(of: Set(located.values.map(\.pack)))
        let found = located.filter { _, place in listings[place.pack].map { !state.mayGo(pack: place.pack, index: $0) } ?? false }
        clock.pass(hours: pause)
        await Task.yield()
        let image = chunks.flatMap { $0 }
        var (packs, builder, seen) = ([IncomingObject](), PackBuilder(), Set(found.keys))
        var finished: [FinishedPack] = []
        for (part, bytes) in zip(parts, chunks) where seen.insert(part.digest).inserted {
            builder.add(try ChunkPacker().pack(part.digest, bytes[...]))
            if builder.size > 9000 { finished.append(builder.finish()) }
        }
        if !builder.isEmpty { finished.append(builder.finish()) }
        for pack in finished {
            packs.append(IncomingObject(digest: pack.digest, size: Int64(pack.bytes.count)))
            try await stores[0].put(UploadDesk.incomingKey(attempt, pack.digest), pack.bytes)
        }
        let manifest = ImageManifest(image: Digest(hashing: image), size: Int64(image.count), chunker: .standard, chunks: parts).bytes
        let document = IncomingObject(digest: Digest(hashing: manifest), size: Int64(manifest.count))
        try await stores[0].put(UploadDesk.incomingKey(attempt, document.digest), manifest)
        let result = BuildResult(
            image: Digest(hashing: image), imageSize: Int64(image.count), manifest: document, packs: packs, records: [],
            chunkCount: parts.count, newChunkCount: 0, newBytes: 0, tests: [], testRuntime: "r", commands: [], hostTarget: "x86_64",
            phaseSeconds: [:])
        plans[attempt.job] = plan(name, version)
        let now = clock.read()
        let key = Digest(hashing: "\(attempt)")
        try apply { state in
            var ended = AttemptRecord(id: attempt, worker: WorkerName("w"), state: .succeeded, startedAt: started)
            ended.finishedAt = now
            state.put(ended)
            state.put(PublicationRecord(job: attempt.job, attempt: attempt, plan: key, result: result, builtOn: "w", startedAt: now))
        }
    }

    /// One step of each publication; the codes of those that failed for good.
    func publish(_ regions: [(name: String, store: any ObjectStore)]) async throws -> [String] {
        var failed: [String] = []
        for record in state.duePublications(now: clock.read().adding(seconds: 1e6)) {
            do { try await step(record, publisher(regions)) } catch let lost as Publisher.LostPack {
                failed.append("lost pack \(lost.pack.short)")
            } catch let error as FarmError where !error.category.isTransient {
                failed.append("\(error.code.rawValue) \(error.message)")
            } catch is FarmError { continue }
        }
        return failed
    }

    private func take(_ result: Publisher.StepResult) throws { try take(result.record, result.changes) }

    private func take(_ record: PublicationRecord, _ changes: [JournalChange] = []) throws {
        let now = clock.read()
        try apply { $0.advance(record, changes, now: now) }
    }

    func pointer() throws -> [UInt8] {
        let now = clock.read()
        let channel = try apply { $0.nextChannel("main", farm: "test", days: 10000, now: now) }
        return try publisher([]).sign(channel)
    }

    private func step(_ record: PublicationRecord, _ publisher: Publisher) async throws {
        guard let plan = plans[record.job] else { return }
        var next = record
        switch record.step {
        case .packs: try take(try await publisher.takePacks(record))
        case .manifest:
            var result = try await publisher.writeManifest(record, plan: plan)
            result.record.step = .release
            try take(result)
        case .release: try take(try await publisher.signRelease(record, plan: plan, now: clock.read()))
        case .pointer:
            try await publisher.point(try pointer(), name: "main", region: stores[0].name)
            next.step = .mirrors
            try take(next)
        case .mirrors:
            // All that wait are brought, as the pointer names all of them.
            let pointer = try await publisher.regions[0].store.get(ReleaseChannel.key("main"))
            let named = state.openPublications.filter { [.pointer, .mirrors].contains($0.step) }
            let waiting = named.filter { $0.step == .mirrors }
            for other in named { if let plan = plans[other.job] { try await publisher.mirror(other, plan: plan, to: stores[1].name) } }
            try await publisher.point(pointer, name: "main", region: stores[1].name)
            for var other in waiting {
                other.step = .cleanup
                try take(other)
            }
        case .cleanup:
            try await publisher.cleanUp(record)
            next.step = .done
            try take(next)
        default: break
        }
    }

    /// The audits of all regions.
    func audit(
        _ request: AuditRequest, _ regions: [(name: String, store: any ObjectStore)], slices: [String: RegionAuditor.Slice] = [:]
    ) async throws -> [String: RegionAudit] {
        let found = Mutex([String: RegionAudit]())
        let auditor = RegionAuditor(publisher: publisher(regions), imageKeys: keys.root.imageKeys, owner: self, clock: clock.read)
        try await auditor.audit(request, by: "test", slices: slices) { name, audit in found.withLock { $0[name] = audit } }
        return found.withLock { $0 }
    }

    func collect(_ policy: RetentionPolicy, _ regions: [(name: String, store: any ObjectStore)]) async throws -> CollectionReport {
        var report = CollectionReport(startedAt: clock.read(), by: "test", isDryRun: false)
        let collector = FarmCollector(
            publisher: publisher(regions), channel: "main", imageKeys: keys.root.imageKeys, policy: policy, owner: self,
            clock: clock.read)
        try await collector.collect(&report)
        return report
    }
}
