import CoordinatorCore
import FarmModel
import Foundation
import Microarchitecture

/// A night: 1,500 builds (median 8 minutes, 95th percentile 60, at most 240) for several CPU targets on 40 workers of unlike speed,
/// with predictions that are wrong by a lognormal factor of sigma 0.5.
struct NightSimulation {
    let seed: UInt64

    struct Build {
        var recipe: String
        var target: String
        var seconds: Double
        var predicted: Double
    }

    func run() {
        var chance = Chance(seed: seed)
        let kinds: [(String, Double)] = [("x86_64_v2", 4), ("x86_64_v3", 4), ("zen3", 10), ("zen4", 6), ("icelake", 8), ("neoverse_n1", 8)]
        let machines = kinds.flatMap { kind, count in (0..<Int(count)).map { _ in kind } }.enumerated().map { index, target in
            VirtualFarm.Machine(name: WorkerName("w\(index)"), target: target, speed: 0.5 * pow(4, chance.share()))
        }
        let targets: [(String, Double)] = [
            ("x86_64", 55), ("x86_64_v3", 20), ("zen4", 4), ("x86_64_v4", 6), ("aarch64", 12), ("neoverse_n1", 3),
        ]
        let builds = (0..<1500).map { index -> Build in
            let seconds = min(240, 8 * exp(chance.normal() * log(60.0 / 8) / 1.6449)) * 60
            return Build(
                recipe: "r\(index)", target: chance.pick(targets), seconds: seconds, predicted: seconds * exp(chance.normal() * 0.5))
        }
        let bound = NightSimulation.bound(builds, machines)
        let ours = makespan(builds, machines, .nightly)
        let fifo = makespan(builds, machines, .interactive)
        figure(
            "makespan_ratio", ours / bound, "of a lower bound", ["fifo": fifo / bound, "hours": ours / 3600, "bound_hours": bound / 3600])
    }

    private func makespan(_ builds: [Build], _ machines: [VirtualFarm.Machine], _ priority: JobPriority) -> Double {
        let histories = builds.map {
            RunHistory(recipe: $0.recipe, target: $0.target, count: 1, logSeconds: log($0.predicted))
        }
        let seconds = Dictionary(uniqueKeysWithValues: builds.map { ($0.recipe, $0.seconds) })
        var farm = VirtualFarm(machines, histories: histories, rules: SchedulingRules()) { job, _ in seconds[job.recipe] ?? 0 }
        // The speeds have been learned in nights before.
        for machine in machines { farm.state.setSpeed(machine.name, machine.speed) }
        let start = farm.now
        for build in builds { farm.submit(build.recipe, build.target, by: "nightly", priority) }
        farm.dispatch()
        while farm.step() {}
        let left = farm.state.openJobs.count
        if left > 0 { print("{\"error\":\"\(left) builds were never begun\"}") }
        return farm.now.seconds(since: start)
    }

    /// No order does better: whatever needs a target or a higher one has only the workers that run it, and no build is faster than
    /// its fastest worker.
    static func bound(_ builds: [Build], _ machines: [VirtualFarm.Machine]) -> Double {
        var bound = 0.0
        for target in Set(builds.map(\.target)) {
            let able = machines.filter { Microarchitecture.runs($0.target, target) }
            let work = builds.filter { Microarchitecture.runs($0.target, target) }.reduce(0) { $0 + $1.seconds }
            bound = max(bound, work / able.reduce(0) { $0 + $1.speed })
            let longest = builds.filter { $0.target == target }.map(\.seconds).max() ?? 0
            bound = max(bound, longest / (able.map(\.speed).max() ?? 1))
        }
        return bound
    }
}
