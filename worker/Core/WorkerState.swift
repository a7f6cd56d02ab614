package import FarmMessages
package import FarmModel

/// What a worker does and should do, as a value: desired states go in, actions come out; reports are read off.
package struct WorkerState: Sendable {
    /// What obeying a desired state means.
    package enum Action: Sendable, Hashable {
        case start(DesiredWork.Assignment)
        case kill(AttemptID)
    }

    private struct Running: Sendable {
        var phase = Phase.prepare
        var progressPermille = 0
        var note = ""
        var outcome: AttemptOutcome?
        var outcomeSize = 0
        /// The task has ended and cleaned up.
        var isOver = false
        /// The coordinator no longer wants it.
        var isUnwanted = false
    }

    private let slots: Int
    private var attempts: [AttemptID: Running] = [:]
    private var sequence: UInt64 = 0
    private var revision: UInt64 = 0
    private var coordinatorProcess = ""
    /// Attempts that the coordinator wanted no more: should an old report of them have changed its mind, they are gone all the same, and
    /// the next report says so.
    private var dropped: Set<AttemptID> = []
    package private(set) var isDraining = false

    package init(slots: Int) { self.slots = slots }

    /// A connection was made; revisions of another coordinator process start over.
    package mutating func connected(to process: String) {
        if process != coordinatorProcess { revision = 0 }
        coordinatorProcess = process
    }

    /// Takes over a desired state.
    package mutating func obey(_ desired: DesiredWork) -> [Action] {
        guard desired.revision >= revision else { return [] }
        revision = desired.revision
        isDraining = desired.draining
        var actions: [Action] = []
        let wanted = Set(desired.assignments.map(\.attempt))
        if dropped.count > 10_000 { dropped = [] }
        for (id, running) in attempts where !wanted.contains(id) && !running.isUnwanted {
            dropped.insert(id)
            if running.isOver {
                attempts[id] = nil
            } else {
                attempts[id]?.isUnwanted = true
                actions.append(.kill(id))
            }
        }
        for assignment in desired.assignments where attempts[assignment.attempt] == nil && !dropped.contains(assignment.attempt) {
            attempts[assignment.attempt] = Running()
            actions.append(.start(assignment))
        }
        return actions
    }

    package mutating func note(_ id: AttemptID, phase: Phase, permille: Int, note: String) -> Bool {
        let changed = attempts[id]?.phase != phase
        attempts[id]?.phase = phase
        attempts[id]?.progressPermille = permille
        attempts[id]?.note = note
        return changed
    }

    /// Encoded outcomes that one report carries at most, in bytes; a frame holds 256 KiB.
    package static let outcomeBudget = 160 << 10

    /// An attempt's task ended, with an outcome unless it was killed. One that no report could carry becomes a failure.
    package mutating func ended(_ id: AttemptID, _ outcome: AttemptOutcome?) {
        attempts[id]?.isOver = true
        attempts[id]?.outcome = outcome
        if let outcome {
            let size = (try? CanonicalJSON.encode(outcome).count) ?? .max
            attempts[id]?.outcomeSize = size
            if size > WorkerState.outcomeBudget {
                attempts[id]?.outcome = .failed(
                    Failure(
                        .recipe, code: "result.too-large",
                        message: "the result, with its tests and commands, has \(size) bytes; \(WorkerState.outcomeBudget) are the most"))
                attempts[id]?.outcomeSize = 1024
            }
        }
        if attempts[id]?.isUnwanted ?? true || outcome == nil { attempts[id] = nil }
    }

    /// The next report.
    package mutating func report(
        diskFreeBytes: Int64, refusal: String, renewalRequest: [UInt8], pressure: Pressure? = nil, diskUse: [DiskUse] = [],
        layers: LayerSummary? = nil, inputCache: InputCacheUse? = nil
    ) -> WorkerReport {
        sequence += 1
        let shown = attempts.filter { !$0.value.isUnwanted }.sorted { $0.key.description < $1.key.description }
        let busy = attempts.values.filter { !$0.isOver }.count
        var budget = WorkerState.outcomeBudget
        return WorkerReport(
            sequence: sequence,
            attempts: shown.map { id, running in
                // What does not fit goes with a later report, once earlier outcomes have been heard.
                budget -= running.outcomeSize
                return AttemptReport(
                    id: id, phase: running.phase, progressPermille: running.progressPermille, note: running.note,
                    outcome: budget >= 0 ? running.outcome : nil)
            }, diskFreeBytes: diskFreeBytes, refusal: refusal, freeSlots: max(0, slots - busy), renewalRequest: renewalRequest,
            pressure: pressure, diskUse: diskUse, layers: layers, inputCache: inputCache)
    }

    package var isIdle: Bool { attempts.isEmpty }
}
