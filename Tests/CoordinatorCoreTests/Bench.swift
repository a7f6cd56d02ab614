import CoordinatorCore
import FarmMessages
import FarmModel
import Microarchitecture
import Testing

/// A farm of state alone, with a journal that every transition goes through, as in the coordinator.
struct Bench {
    var state: FarmState
    let journal = MemoryJournal()
    var now = Timestamp(seconds: 1000)
    static let facts = HostFacts(
        hostName: "h", architecture: "x86_64", target: "x86_64_v3", processors: 4, memoryBytes: 8 << 30, diskFreeBytes: 50 << 30,
        engine: "docker", kernel: "6", slots: 1, programVersion: "0")

    init(rules: FarmState.Rules = FarmState.Rules(silenceSeconds: 60, mostSetbacks: 4, retrySeconds: 1)) {
        state = FarmState(JournalSnapshot(), rules: rules, now: now)
    }

    /// The coordinator is killed and starts from its journal.
    mutating func crash() {
        guard let snapshot = try? journal.load(recent: 10_000) else { return }
        state = FarmState(snapshot, rules: state.rules, now: now)
    }

    mutating func commit() throws {
        try journal.commit(state.drainChanges().changes)
        state.accept()
    }

    /// - Parameter emulates: platforms that it runs by emulation.
    mutating func enrol(
        _ name: String, trusted: Bool = true, target: Microarchitecture? = nil, emulates: [String] = [], labels: [String] = [],
        engine: String? = nil
    ) throws {
        try state.enrol(WorkerName(name), trusted: trusted, keyDigest: Digest(hashing: name), now: now)
        var facts = Self.facts
        facts.hardware = HardwareFacts(
            vendor: "", model: "", features: [], refusedTargets: [], numaNodes: 1, gpus: [], virtualization: "",
            emulated: emulates.map { EmulatedPlatform(architecture: $0, emulator: "qemu-\($0) 7", cost: 8) })
        facts.labels = labels
        facts.engineID = engine
        if let target { (facts.target, facts.architecture) = (target.name, target.family) }
        try state.hello(WorkerName(name), facts: facts, now: now)
        try commit()
    }

    mutating func submit(
        _ key: String, target: String = "x86_64", disk: Int64 = 1, emulated: Bool = false, verifyOn: [String] = [],
        recipe: String? = nil, by requester: String = "me", priority: JobPriority? = nil, labels: LabelWish = LabelWish(),
        declaresDisk: Bool = true, layers: [UInt64] = [], candidate: Bool = false, takesIn: Bool = false
    ) throws -> JobID {
        var job = state.newJob(
            kind: .build, title: key, recipe: recipe ?? key, version: "1", target: target, requestedBy: requester, now: now)
        job.allowsEmulation = emulated
        job.verifyOn = verifyOn
        job.isCandidate = candidate ? true : nil
        job.priority = priority
        job.takesIn = takesIn ? true : nil
        state.enqueue(
            job, key: Digest(hashing: key), needs: JobNeeds(diskBytes: disk, declaresDisk: declaresDisk, labels: labels, layers: layers),
            now: now)
        try commit()
        return job.id
    }

    mutating func report(
        _ name: String, _ attempts: [AttemptReport] = [], slots: Int = 1, refusal: String = "", pressure: Pressure? = nil,
        layers: LayerSummary? = nil
    ) throws -> DesiredWork {
        let report = WorkerReport(
            sequence: 1, attempts: attempts, diskFreeBytes: 50 << 30, refusal: refusal, freeSlots: slots, renewalRequest: [],
            pressure: pressure, layers: layers)
        let desired = try state.report(WorkerName(name), report, now: now)
        try commit()
        return desired
    }

    /// A change without a commit.
    mutating func raw<Value>(_ body: (inout FarmState, Timestamp) throws -> Value) rethrows -> Value { try body(&state, now) }

    static func newJob(_ state: inout FarmState, _ recipe: String, _ now: Timestamp) -> JobRecord {
        state.newJob(kind: .build, title: recipe, recipe: recipe, version: "1", target: "x86_64", requestedBy: "me", now: now)
    }

    func report(of attempts: [AttemptReport], slots: Int = 1) -> WorkerReport {
        WorkerReport(sequence: 1, attempts: attempts, diskFreeBytes: 50 << 30, refusal: "", freeSlots: slots, renewalRequest: [])
    }

    func running(_ id: AttemptID, _ outcome: AttemptOutcome? = nil) -> AttemptReport {
        AttemptReport(id: id, phase: .build, progressPermille: 0, note: "", outcome: outcome)
    }

    static let result = BuildResult(
        image: Digest(hashing: "i"), imageSize: 1, manifest: IncomingObject(digest: Digest(hashing: "m"), size: 1), packs: [], records: [],
        chunkCount: 0, newChunkCount: 0, newBytes: 0,
        tests: [TestOutcome(name: "runs", passed: true, problems: [], seconds: 1)], testRuntime: "r", commands: [], hostTarget: "t",
        phaseSeconds: [:])

    /// A build that has left two of its tests to others.
    static var partly: BuildResult {
        var result = result
        for name in ["left", "left, too"] {
            result.tests.append(TestOutcome(name: name, passed: false, problems: [], seconds: 0, wasLeft: true))
        }
        return result
    }

    /// What a worker says that has run what was wanted.
    static func answer(to order: VerifyOrder, tests: BuildResult = result) -> Verification {
        var found = verification(order.on)
        found.tests = (order.only ?? tests.tests.map(\.name)).map { TestOutcome(name: $0, passed: true, problems: [], seconds: 1) }
        return found
    }

    static func verification(_ asked: String) -> Verification {
        Verification(asked: asked, hostTarget: asked, emulator: nil, worker: "?", runtime: "r", tests: result.tests)
    }

    /// What the steps of a publication before the verification come to, without a store.
    mutating func stored(_ id: JobID) throws {
        var record = try #require(state.publications[id])
        record.step = .verify
        state.advance(record, [], now: now)
        try commit()
    }

    /// The steps after it.
    mutating func released(_ id: JobID, emulator: String? = nil) throws -> ReleaseRecord {
        var record = try #require(state.publications[id])
        let plan = Plan(
            name: "n", version: "1", architecture: "x86_64", target: try job(id).target,
            base: BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil), dockerfile: "",
            context: [], commands: [], commandPaths: [], description: "", categories: [], licences: [], suite: TestSuite(), diskBytes: 0)
        record.result.emulator = emulator
        let release = Release(
            plan: plan, buildKey: record.plan, result: record.result, builtOn: record.builtOn, verified: record.verified ?? [],
            publishedAt: now)
        let entry = ReleaseRecord(release: release, digest: Digest(hashing: "release of \(id)"), job: id)
        record.step = .done
        state.advance(record, [.release(entry)], now: now)
        state.released(id, document: entry.digest, now: now)
        try commit()
        return entry
    }

    func job(_ id: JobID) throws -> JobRecord { try #require(state.jobs[id]) }
}
