import FarmModel
import Foundation

/// What is known of a recipe's builds for one CPU target.
package struct RunHistory: Codable, Sendable, Hashable {
    package var recipe: String
    package var target: String
    /// Successful builds.
    package var count: Int
    /// The mean of the logarithms of their seconds on a worker of speed 1, the newer ones counting more.
    package var logSeconds: Double
    /// Bytes that they took up on disks: the most, less a tenth with each one that took less. Absent in histories of older versions.
    package var diskBytes: Int64?

    package init(recipe: String, target: String, count: Int, logSeconds: Double, diskBytes: Int64? = nil) {
        self.diskBytes = diskBytes
        self.recipe = recipe
        self.target = target
        self.count = count
        self.logSeconds = logSeconds
    }

    static func key(_ recipe: String, _ target: String) -> String { "\(recipe)\n\(target)" }
    var key: String { RunHistory.key(recipe, target) }
}

/// What scheduling learns from builds: how long they take, who has used the workers, and what workers have on their disks.
package struct RunLedger: Sendable {
    /// What one requester has used.
    struct Account: Sendable, Hashable {
        /// Worker seconds by the hour since 1970 in which they ended.
        var hours: [Int: Double] = [:]
        /// Seconds that what runs now is expected to take.
        var running: Double = 0
        var runningCount = 0
    }

    private(set) var histories: [String: RunHistory] = [:]
    private(set) var accounts: [String: Account] = [:]
    private(set) var runningRecipes: [String: Int] = [:]
    /// The identities of the layers that each worker has used last, the one used longest ago first.
    private var warm: [WorkerName: [UInt64]] = [:]
    private var holders: [UInt64: Set<WorkerName>] = [:]
    /// What workers said last of what their engines hold.
    private var summaries: [WorkerName: LayerSummary] = [:]
    private var undo: [Undo] = []

    private enum Undo: Sendable {
        case history(String, RunHistory?)
        case account(String, Account?)
        case recipe(String, Int?)
        case warm(WorkerName, [UInt64]?)
        case summary(WorkerName, LayerSummary?)
    }

    /// Layers that a worker is believed to keep: those of some 64 recipes, about what a disk of 100 GB holds.
    private static let mostWarm = 768
    /// No build takes up more, whatever a worker says: 64 TiB.
    private static let mostDisk: Int64 = 1 << 46

    init() {}

    init(_ histories: [RunHistory], attempts: [AttemptRecord], jobs: [JobID: JobRecord], now: Timestamp) {
        for var history in histories {
            history.diskBytes = history.diskBytes.map { max(0, min($0, RunLedger.mostDisk)) }
            self.histories[history.key] = history
        }
        for attempt in attempts.sorted(by: { $0.startedAt < $1.startedAt }) {
            guard let job = jobs[attempt.id.job] else { continue }
            began(attempt, job)
            if !attempt.isOpen { _ = ended(attempt, job, speed: 1, learns: false) }
        }
        undo = []
    }

    mutating func accept() { undo = [] }

    mutating func rollBack() {
        for step in undo.reversed() {
            switch step {
            case .history(let key, let before): histories[key] = before
            case .account(let name, let before): accounts[name] = before
            case .recipe(let name, let before): runningRecipes[name] = before
            case .warm(let worker, let before): setWarm(worker, before)
            case .summary(let worker, let before): summaries[worker] = before
            }
        }
        undo = []
    }

    // MARK: what happens

    mutating func began(_ attempt: AttemptRecord, _ job: JobRecord) {
        change(job.requestedBy) {
            $0.running += attempt.expectedSeconds ?? 0
            $0.runningCount += 1
        }
        count(job, by: 1)
    }

    /// Takes an ended attempt into account; what it taught of its recipe, if anything.
    ///
    /// - Parameter learns: `false` for what happened before this process, which histories tell already.
    mutating func ended(_ attempt: AttemptRecord, _ job: JobRecord, speed: Double, learns: Bool = true) -> RunHistory? {
        let end = attempt.finishedAt ?? attempt.startedAt
        let seconds = max(0, end.seconds(since: attempt.startedAt))
        let hour = Int(end.milliseconds / 3_600_000)
        change(job.requestedBy) { account in
            account.running = max(0, account.running - (attempt.expectedSeconds ?? 0))
            account.runningCount = max(0, account.runningCount - 1)
            account.hours[hour, default: 0] += seconds
            account.hours = account.hours.filter { $0.key > hour - 24 }
        }
        count(job, by: -1)
        // An image that was taken in says nothing of builds, and leaves no layers.
        guard job.kind == .build, !(job.takesIn ?? false) else { return nil }
        if attempt.state == .succeeded || attempt.failure?.failureClass == .recipe { warmed(attempt.worker, job.layers ?? [job.affinity]) }
        // What the untrusted pool says teaches nothing about other builds.
        guard learns, attempt.state == .succeeded, seconds > 0, !(job.isCandidate ?? false) else { return nil }
        return learn(job, seconds: seconds * speed)
    }

    /// What a build took up is known.
    mutating func measured(_ job: JobRecord, diskBytes: Int64) -> RunHistory? {
        let key = RunHistory.key(job.recipe, job.target)
        guard !(job.isCandidate ?? false), var history = histories[key] else { return nil }
        let diskBytes = max(0, min(diskBytes, RunLedger.mostDisk))
        history.diskBytes = max(diskBytes, (history.diskBytes ?? 0) / 10 * 9)
        set(key, history)
        return history
    }

    /// A worker says what its engine holds. What was believed beyond that is gone; what waiting builds need of it is known from now on.
    ///
    /// - Parameter wanted: the layers of each build that waits.
    mutating func holds(_ worker: WorkerName, _ summary: LayerSummary, wanted: [[UInt64]]) {
        undo.append(.summary(worker, summaries.updateValue(summary, forKey: worker)))
        undo.append(.warm(worker, warm[worker]))
        let kept = (warm[worker] ?? []).filter(summary.contains)
        setWarm(worker, kept)
        for layers in wanted { learnHeld(layers, worker, summary) }
    }

    /// A build waits from now on: which workers hold something of it.
    mutating func wants(_ layers: [UInt64]) { for (worker, summary) in summaries { learnHeld(layers, worker, summary) } }

    /// Layers stand upon each other: what comes after the first that is missing is not held, whatever a summary seems to say.
    private mutating func learnHeld(_ layers: [UInt64], _ worker: WorkerName, _ summary: LayerSummary) {
        let held = Array(layers.prefix { summary.contains($0) })
        if held.count > warmLayers(worker, layers) { warmed(worker, held) }
    }

    private mutating func learn(_ job: JobRecord, seconds: Double) -> RunHistory {
        let key = RunHistory.key(job.recipe, job.target)
        var history =
            histories[key] ?? RunHistory(recipe: job.recipe, target: job.target, count: 0, logSeconds: log(seconds))
        history.count += 1
        // The mean of the first few, then the newer ones more: recipes change.
        let weight = max(0.3, 1 / Double(history.count))
        history.logSeconds += (log(seconds) - history.logSeconds) * weight
        set(key, history)
        return history
    }

    // MARK: what is asked

    /// Seconds that a build is expected to take on a worker of speed 1, and whether its recipe was ever built.
    func expectation(recipe: String, target: String) -> (seconds: Double, isKnown: Bool) {
        if let history = histories[RunHistory.key(recipe, target)] { return (exp(history.logSeconds), true) }
        return (JobQueue.unknownLength, false)
    }

    /// Free bytes that a build should find: a quarter and a GiB more than earlier ones took up; `nil` for the first.
    func diskBytes(recipe: String, target: String) -> Int64? {
        histories[RunHistory.key(recipe, target)]?.diskBytes.map { $0 + $0 / 4 + 1 << 30 }
    }

    /// Of the layers of a build the last that some worker has, or else that of its first step, the first that is worth something;
    /// `nil` for a build whose layers are not known.
    ///
    /// - Parameter counts: whether a worker could have the build at all.
    func warmth(of layers: [UInt64], _ counts: (WorkerName) -> Bool) -> UInt64? {
        layers.dropFirst().last { holders[$0]?.contains(where: counts) ?? false } ?? layers.dropFirst().first ?? layers.first
    }

    /// How many of a build's layers a worker has, from the first on.
    func warmLayers(_ worker: WorkerName, _ layers: [UInt64]) -> Int {
        (layers.lastIndex { isWarm(worker, $0) } ?? -1) + 1
    }

    /// Worker seconds of the last 24 h, with those that what runs now will take.
    func usage(_ requester: String, now: Timestamp) -> Double {
        guard let account = accounts[requester] else { return 0 }
        let hour = Int(now.milliseconds / 3_600_000)
        return account.hours.reduce(account.running) { $1.key > hour - 24 ? $0 + $1.value : $0 }
    }

    func isWarm(_ worker: WorkerName, _ affinity: UInt64) -> Bool { holders[affinity]?.contains(worker) ?? false }

    func holders(of affinity: UInt64) -> Set<WorkerName> { holders[affinity] ?? [] }

    // MARK: changes that can be taken back

    private mutating func set(_ key: String, _ history: RunHistory) {
        undo.append(.history(key, histories.updateValue(history, forKey: key)))
    }

    private mutating func change(_ requester: String, _ body: (inout Account) -> Void) {
        undo.append(.account(requester, accounts[requester]))
        body(&accounts[requester, default: Account()])
    }

    private mutating func count(_ job: JobRecord, by number: Int) {
        let recipe = job.recipe
        guard !recipe.isEmpty, !(job.isCandidate ?? false) else { return }
        let before = runningRecipes[recipe]
        undo.append(.recipe(recipe, before))
        let after = (before ?? 0) + number
        runningRecipes[recipe] = after > 0 ? after : nil
    }

    private mutating func warmed(_ worker: WorkerName, _ layers: [UInt64]) {
        undo.append(.warm(worker, warm[worker]))
        let used = Set(layers)
        let list = (warm[worker] ?? []).filter { !used.contains($0) } + layers
        setWarm(worker, list.suffix(RunLedger.mostWarm))
    }

    private mutating func setWarm(_ worker: WorkerName, _ list: [UInt64]?) {
        let (before, after) = (Set(warm[worker] ?? []), Set(list ?? []))
        warm[worker] = list
        for layer in before.subtracting(after) {
            holders[layer]?.remove(worker)
            if holders[layer]?.isEmpty ?? false { holders[layer] = nil }
        }
        for layer in after.subtracting(before) { holders[layer, default: []].insert(worker) }
    }
}
