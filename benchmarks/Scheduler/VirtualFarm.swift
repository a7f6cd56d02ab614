import CoordinatorCore
import FarmMessages
import FarmModel
import Foundation

/// A generator with a seed (SplitMix64, https://prng.di.unimi.it/splitmix64.c), so that a run can be repeated.
struct Chance {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }

    /// From 0 to 1, without 1.
    mutating func share() -> Double { Double(next() >> 11) / Double(1 << 53) }

    mutating func pick<Element>(_ list: [Element]) -> Element { list[Int(next() % UInt64(list.count))] }

    /// One of the elements, each as often as its weight says.
    mutating func pick<Element>(_ list: [(Element, Double)]) -> Element {
        var rest = share() * list.reduce(0) { $0 + $1.1 }
        for (element, weight) in list {
            rest -= weight
            if rest < 0 { return element }
        }
        return list[list.count - 1].0
    }

    /// Of the standard normal distribution.
    mutating func normal() -> Double { (-2 * log(max(1e-300, share()))).squareRoot() * cos(2 * .pi * share()) }
}

/// Simulated workers around a real `FarmState`: time passes from one end of a build to the next.
struct VirtualFarm {
    struct Machine {
        var name: WorkerName
        var target: String
        /// How fast it really is.
        var speed: Double
    }

    var state: FarmState
    var now = Timestamp(seconds: 1_700_000_000)
    let machines: [Machine]
    private let places: [WorkerName: Int]
    /// What each runs, and when it will be done.
    private(set) var running: [(attempt: AttemptID, ends: Timestamp)?]
    /// Seconds that a build really takes on a worker of speed 1 that has nothing of it.
    var length: (JobRecord, WorkerName) -> Double
    var onEnd: (JobRecord, WorkerName, Double) -> Void = { _, _, _ in }

    init(_ machines: [Machine], histories: [RunHistory], rules: SchedulingRules, length: @escaping (JobRecord, WorkerName) -> Double) {
        var farm = FarmState.Rules(silenceSeconds: 1e9)
        farm.scheduling = rules
        var snapshot = JournalSnapshot()
        snapshot.histories = histories
        state = FarmState(snapshot, rules: farm, now: now)
        self.machines = machines
        self.length = length
        places = Dictionary(uniqueKeysWithValues: machines.enumerated().map { ($1.name, $0) })
        running = machines.map { _ in nil }
        for machine in machines {
            try? state.enrol(machine.name, trusted: true, keyDigest: Digest(hashing: machine.name.rawValue), now: now)
            try? state.hello(machine.name, facts: VirtualFarm.facts(machine.target), now: now)
            _ = try? state.report(machine.name, report([], slots: 1), now: now)
        }
        settle()
    }

    static func facts(_ target: String) -> HostFacts {
        HostFacts(
            hostName: "h", architecture: "x86_64", target: target, processors: 8, memoryBytes: 64 << 30, diskFreeBytes: 1 << 42,
            engine: "docker", kernel: "6", slots: 1, programVersion: "0")
    }

    func report(_ attempts: [AttemptReport], slots: Int) -> WorkerReport {
        WorkerReport(sequence: 1, attempts: attempts, diskFreeBytes: 1 << 42, refusal: "", freeSlots: slots, renewalRequest: [])
    }

    private mutating func settle() {
        _ = state.drainChanges()
        state.accept()
    }

    /// Adds a build to the queue.
    mutating func submit(_ recipe: String, _ target: String, by requester: String, _ priority: JobPriority, layers: [UInt64] = []) {
        var job = state.newJob(
            kind: .build, title: recipe, recipe: recipe, version: "1", target: target, requestedBy: requester, now: now)
        job.priority = priority
        state.enqueue(job, key: Digest(hashing: "\(job.number)"), needs: JobNeeds(diskBytes: 1, layers: layers), now: now)
        settle()
    }

    /// Gives work to all who are free.
    mutating func dispatch() {
        for name in state.dispatch(now: now) { start(name) }
        settle()
    }

    private mutating func start(_ name: WorkerName) {
        guard let place = places[name], running[place] == nil,
            let attempt = state.openAttempts(on: name).first(where: { $0.state == .assigned }), let job = state.jobs[attempt.id.job]
        else { return }
        running[place] = (attempt.id, now.adding(seconds: length(job, name) / machines[place].speed))
        let report = AttemptReport(id: attempt.id, phase: .build, progressPermille: 0, note: "", outcome: nil)
        _ = try? state.report(name, self.report([report], slots: 0), now: now)
    }

    /// Goes on to the next end of a build; whether there was one before `limit`.
    mutating func step(until limit: Timestamp? = nil) -> Bool {
        let next = running.enumerated().compactMap { place, work in work.map { (place, $0.attempt, $0.ends) } }.min { $0.2 < $1.2 }
        guard let (place, attempt, ends) = next, limit.map({ ends <= $0 }) ?? true else {
            if let limit { now = max(now, limit) }
            return false
        }
        let began = state.attempts[attempt]?.startedAt ?? now
        now = max(now, ends)
        running[place] = nil
        let machine = machines[place]
        let job = state.jobs[attempt.job]
        let result = BuildResult(
            image: Digest(hashing: attempt.description), imageSize: 1 << 30,
            manifest: IncomingObject(digest: Digest(hashing: "m"), size: 1),
            packs: [], records: [], chunkCount: 0, newChunkCount: 0, newBytes: 0, tests: [], testRuntime: "r", commands: [],
            hostTarget: machine.target, phaseSeconds: [:])
        let outcome = AttemptReport(id: attempt, phase: .done, progressPermille: 0, note: "", outcome: .built(result))
        _ = try? state.report(machine.name, report([outcome], slots: 1), now: now)
        // The publication takes no worker's time.
        if var record = state.publications[attempt.job] {
            record.step = .done
            state.advance(record, [], now: now)
            state.released(attempt.job, document: record.result.image, now: now)
        }
        if let job { onEnd(job, machine.name, now.seconds(since: began)) }
        settle()
        start(machine.name)
        dispatch()
        return true
    }
}

/// One figure, as a line of JSON.
func figure(_ name: String, _ value: Double, _ unit: String, _ more: [String: Double] = [:]) {
    var line = "{\"name\":\"\(name)\",\"value\":\(value),\"unit\":\"\(unit)\""
    for (key, value) in more.sorted(by: { $0.key < $1.key }) { line += ",\"\(key)\":\(value)" }
    print(line + "}")
}
