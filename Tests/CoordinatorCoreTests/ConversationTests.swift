import CoordinatorCore
import FarmMessages
import FarmModel
import Support
import Testing
import WorkerCore

/// The state machines of both sides, talking over a network that loses and repeats what is said, while clocks jump and processes die.
@Suite struct ConversationTests {
    @Test(arguments: 0..<FarmStateTests.lives) func nothingIsLostNorDoneTwiceNorFailsWithoutReason(_ seed: Int) throws {
        var world = try World(seed: UInt64(seed) + 10_000)
        for _ in 0..<400 {
            try world.happen()
            try world.check()
        }
        try world.settle()
    }
}

/// A worker process with its tasks and its connection.
private struct Machine {
    let name: String
    var state = WorkerState(slots: 2)
    /// Ticks that each running task still takes.
    var tasks: [AttemptID: Int] = [:]
    /// All that this process ever began.
    var begun: Set<AttemptID> = []
    /// What is on its way; a connection that breaks takes it along.
    var up: [WorkerReport] = []
    var down: [DesiredWork] = []
    var isConnected = false
}

private struct World {
    var bench: Bench
    var machines: [Machine] = []
    var generator: SeededGenerator
    /// The coordinator's process and the revisions that it has given out.
    var process = 0
    var revision: UInt64 = 0
    /// What was asked for: whether its recipe is sound.
    var wishes: [JobID: Bool] = [:]
    var cancelled: Set<JobID> = []
    /// Attempts whose leases have ended at some time.
    var lost: Set<AttemptID> = []

    init(seed: UInt64) throws {
        generator = SeededGenerator(seed)
        // Any failure of a sound recipe is one without reason.
        var rules = FarmState.Rules(silenceSeconds: 20, mostSetbacks: .max, retrySeconds: 0.1)
        rules.scheduling.mostFailuresInARow = .max
        bench = Bench(rules: rules)
        for name in ["a", "b", "c"] {
            try bench.enrol(name)
            machines.append(Machine(name: name))
        }
    }

    mutating func pick(_ count: Int) -> Int { Int(generator.next() % UInt64(count)) }

    // MARK: what may happen

    mutating func happen() throws {
        bench.now = bench.now.adding(seconds: Double(pick(3)))
        let place = pick(machines.count)
        switch pick(24) {
        case 0, 1: try submit()
        case 2: try cancel()
        case 3 where pick(3) == 0: machines[place] = Machine(name: machines[place].name)
        case 4 where pick(2) == 0: breakConnection(place)
        case 5 where pick(3) == 0: try crash()
        case 6 where pick(3) == 0: bench.now = bench.now.adding(seconds: Double([-40, -5, 25, 3600][pick(4)]))
        case 7: try expire()
        case 8: try publish()
        case 9:
            let served = bench.state.dispatch(now: bench.now)
            // Killed before the commit, nobody has heard of it.
            if pick(4) == 0 { return try crash(commits: false) }
            try bench.commit()
            for name in served { push(name.rawValue) }
        case 10, 11, 12: try connect(place)
        case 13, 14, 15: speak(place)
        case 16, 17, 18: try hear(place)
        case 19, 20, 21: obey(place)
        default: work(place)
        }
    }

    mutating func submit() throws {
        let number = pick(8)
        wishes[try bench.submit("key \(number)")] = number != 7
    }

    mutating func cancel() throws {
        guard pick(3) == 0, let id = wishes.keys.filter({ bench.state.jobs[$0]?.state.isFinal == false }).min(by: { $0.number < $1.number })
        else { return }
        do {
            try bench.state.cancel(id, by: "me", now: bench.now)
            cancelled.insert(id)
            try bench.commit()
        } catch let error as FarmError where error.code == "job.ended" { bench.state.rollBack() }
    }

    /// The coordinator is killed; what was not committed is gone, and so are all connections.
    mutating func crash(commits: Bool = true) throws {
        if commits { try bench.commit() }
        bench.crash()
        process += 1
        revision = 0
        for place in machines.indices { breakConnection(place) }
    }

    mutating func breakConnection(_ place: Int) {
        machines[place].isConnected = false
        machines[place].up = []
        machines[place].down = []
    }

    mutating func connect(_ place: Int) throws {
        if machines[place].isConnected { return }
        try bench.state.hello(WorkerName(machines[place].name), facts: Bench.facts, now: bench.now)
        try bench.commit()
        machines[place].isConnected = true
        machines[place].state.connected(to: "\(process)")
    }

    mutating func speak(_ place: Int) {
        guard machines[place].isConnected else { return }
        let report = machines[place].state.report(diskFreeBytes: 50 << 30, refusal: "", renewalRequest: [])
        // Said once, twice, or into the void.
        machines[place].up += Array(repeating: report, count: [1, 1, 1, 2, 0][pick(5)])
    }

    mutating func hear(_ place: Int) throws {
        guard !machines[place].up.isEmpty else { return }
        let report = machines[place].up.removeFirst()
        let desired = try bench.raw { try $0.report(WorkerName(machines[place].name), report, now: $1) }
        // Killed before the commit, or after it and before the answer.
        switch pick(20) {
        case 0: return try crash(commits: false)
        case 1: return try crash()
        default: try bench.commit()
        }
        send(desired, to: place)
    }

    mutating func push(_ name: String) {
        guard let place = machines.firstIndex(where: { $0.name == name }), machines[place].isConnected else { return }
        send(bench.state.desired(WorkerName(name), sequence: 0), to: place)
    }

    mutating func send(_ desired: DesiredWork, to place: Int) {
        var stamped = desired
        revision += 1
        stamped.revision = revision
        machines[place].down += Array(repeating: stamped, count: [1, 1, 1, 2, 0][pick(5)])
        // A push and an answer may overtake each other.
        if machines[place].down.count > 1, pick(2) == 0 { machines[place].down.swapAt(0, machines[place].down.count - 1) }
    }

    mutating func obey(_ place: Int) {
        guard !machines[place].down.isEmpty else { return }
        for action in machines[place].state.obey(machines[place].down.removeFirst()) {
            switch action {
            case .start(let assignment):
                #expect(machines[place].begun.insert(assignment.attempt).inserted, "\(assignment.attempt) was begun twice")
                machines[place].tasks[assignment.attempt] = pick(6)
            case .kill(let id):
                let isWanted = bench.state.holds(WorkerName(machines[place].name), id)
                #expect(!isWanted || lost.contains(id), "\(id) was stopped without reason")
                machines[place].tasks[id] = nil
                machines[place].state.ended(id, nil)
            }
        }
    }

    mutating func work(_ place: Int) {
        guard let id = machines[place].tasks.keys.min(by: { $0.description < $1.description }), let left = machines[place].tasks[id] else {
            return
        }
        machines[place].tasks[id] = left - 1
        _ = machines[place].state.note(id, phase: left > 3 ? .prepare : .build, permille: left, note: "")
        guard left <= 0 else { return }
        machines[place].tasks[id] = nil
        let isSound = bench.state.jobs[id.job].map { $0.title != "key 7" } ?? true
        let failure: AttemptOutcome =
            isSound
            ? .failed(Failure(.infrastructure, code: "i", message: "")) : .failed(Failure(.recipe, code: "build.step-failed", message: ""))
        machines[place].state.ended(id, isSound && pick(5) > 0 ? .built(Bench.result) : failure)
    }

    mutating func publish() throws {
        guard let record = bench.state.publications.values.filter({ $0.step != .done }).min(by: { $0.job.number < $1.job.number }) else {
            return
        }
        if record.step == .packs { try bench.stored(record.job) }
        if pick(4) == 0 { return try crash() }
        if bench.state.publications[record.job]?.step == .release { _ = try bench.released(record.job) }
    }

    // MARK: what must hold

    /// Leases end.
    mutating func expire() throws {
        bench.state.expireLeases(now: bench.now)
        for attempt in bench.state.attempts.values where attempt.state == .lost { lost.insert(attempt.id) }
        try bench.commit()
    }

    func check() throws {
        try bench.checkInvariants()
        // One lease, one holder: no two processes that are alive run the same attempt.
        let running = machines.flatMap { $0.tasks.keys }
        #expect(Set(running).count == running.count)
        for (id, isSound) in wishes {
            guard let job = bench.state.jobs[id] else { throw FarmError("test.lost", .failed, "\(id) is lost") }
            if job.state == .failed { #expect(!isSound, "\(id) failed without reason: \(String(describing: job.failure))") }
            if job.state == .cancelled { #expect(cancelled.contains(id)) }
            if job.state == .succeeded { #expect(isSound && job.release != nil) }
        }
    }

    /// The network is mended and nobody dies any more: all wishes come to their end.
    mutating func settle() throws {
        for _ in 0..<400 where wishes.keys.contains(where: { bench.state.jobs[$0]?.state.isFinal == false }) {
            bench.now = bench.now.adding(seconds: 1)
            try expire()
            for place in machines.indices {
                try connect(place)
                for _ in 0..<3 {
                    work(place)
                    speak(place)
                    while !machines[place].up.isEmpty { try hear(place) }
                    while !machines[place].down.isEmpty { obey(place) }
                }
            }
            try publish()
            try check()
        }
        for (id, isSound) in wishes {
            let state = bench.state.jobs[id]?.state
            #expect(
                cancelled.contains(id) ? state?.isFinal == true : state == (isSound ? .succeeded : .failed),
                "\(id) is \(String(describing: state))")
        }
    }
}
