import CoordinatorCore
import FarmModel
import Foundation

/// A day of requesters who build their own recipes again and again, all of whom always want more than the farm can do: do builds land
/// where their layers are, and does everybody get what is due?
struct AffinitySimulation {
    let seed: UInt64
    /// Recipes whose layers fit on a worker's disk.
    private static let diskHolds = 64

    /// A base that many have, steps that all builds of a recipe begin with, and one that is new each time.
    private func layers(_ recipe: String, _ chance: inout Chance) -> [UInt64] {
        let base = Digest(hashing: recipe).leading % 5
        let steps = (0..<8).map { Digest(hashing: "\(recipe) \($0)").leading >> 12 }
        return [base, 100 + base] + steps + [chance.next() >> 12]
    }

    func run() throws {
        var chance = Chance(seed: seed)
        let machines = (0..<20).map {
            VirtualFarm.Machine(name: WorkerName("w\($0)"), target: "x86_64_v3", speed: 0.7 * pow(2, chance.share()))
        }
        let requesters = (0..<10).map { "u\($0)" }
        var rules = SchedulingRules()
        rules.shares = ["u0": 3, "u1": 2]
        var lengths: [String: Double] = [:]
        var recipes: [String: [String]] = [:]
        for requester in requesters {
            recipes[requester] = (0..<60).map { "\(requester)-r\($0)" }
            for recipe in recipes[requester] ?? [] { lengths[recipe] = min(240, 8 * exp(chance.normal() * 0.9)) * 60 }
        }
        final class Seen {
            var places: [String: Set<WorkerName>] = [:]
            /// What each worker built last, oldest first.
            var kept: [WorkerName: [String]] = [:]
            var repeats = 0.0
            var warm = 0.0
            var used: [String: Double] = [:]
        }
        let seen = Seen()
        // A build on a worker that has most of its layers takes a fifth of the time.
        var farm = VirtualFarm(machines, histories: [], rules: rules) { job, worker in
            (lengths[job.recipe] ?? 0) * (seen.places[job.recipe]?.contains(worker) ?? false ? 0.2 : 1)
        }
        let start = farm.now
        farm.onEnd = { job, worker, seconds in
            if let places = seen.places[job.recipe] {
                seen.repeats += 1
                if places.contains(worker) { seen.warm += 1 }
            }
            // Disks are finite: what was built longest ago is thrown away.
            seen.places[job.recipe, default: []].insert(worker)
            var kept = (seen.kept[worker] ?? []).filter { $0 != job.recipe } + [job.recipe]
            if kept.count > AffinitySimulation.diskHolds { seen.places[kept.removeFirst()]?.remove(worker) }
            seen.kept[worker] = kept
            seen.used[job.requestedBy, default: 0] += seconds
        }
        var waiting: [String: Int] = [:]
        while farm.now.seconds(since: start) < 86400 {
            for requester in requesters {
                waiting[requester] = farm.state.openJobs.filter { $0.job.requestedBy == requester }.count
                while waiting[requester] ?? 0 < 12 {
                    let recipe = chance.pick(recipes[requester] ?? [])
                    farm.submit(recipe, "x86_64", by: requester, .interactive, layers: layers(recipe, &chance))
                    waiting[requester, default: 0] += 1
                }
            }
            farm.dispatch()
            // When all wait for a warm worker, time must pass by itself.
            if !farm.step(until: farm.now.adding(seconds: 30)) { continue }
        }
        let total = seen.used.values.reduce(0, +)
        let due = requesters.reduce(0) { $0 + (rules.shares[$1] ?? 1) }
        var error = 0.0
        for requester in requesters {
            let share = (rules.shares[requester] ?? 1) / due
            error = max(error, abs((seen.used[requester] ?? 0) / total - share) / share)
        }
        figure(
            "affinity", seen.warm / max(1, seen.repeats), "of repeat builds on a warm worker",
            ["fairness_error": error, "repeats": seen.repeats])
    }
}
