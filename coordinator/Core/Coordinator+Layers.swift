import FarmModel
import Recipes

extension Coordinator {
    /// Why the first step that an attempt had to run was not there already; `nil` where none was run, or nothing is known of them.
    func miss(of attempt: AttemptRecord, _ job: JobRecord) -> String? {
        guard let steps = attempt.steps, steps.firstMiss != nil, let key = job.key, let plan = try? plan(key) else { return nil }
        let others = state.jobs.values.filter {
            $0.kind == .build && $0.recipe == job.recipe && $0.target == job.target && $0.number < job.number
                && $0.isCandidate ?? false == job.isCandidate ?? false && !($0.takesIn ?? false)
        }
        guard let last = others.max(by: { $0.number < $1.number }), let key = last.key, let earlier = try? self.plan(key) else {
            return "no earlier build of it for this CPU is remembered"
        }
        let difference = try? BuildLayers.difference(of: plan, from: earlier)
        if let difference, difference.sameSteps <= steps.prefix(while: { !$0.isMade }).count {
            return "since \(last.id), \(difference.why)"
        }
        let builders = Set(state.table.attempts(of: last.id).filter { $0.state == .succeeded }.map(\.worker))
        if !builders.isEmpty, !builders.contains(attempt.worker) {
            return "\(attempt.worker) did not have the layer; \(builders.sorted().map(\.rawValue).joined(separator: ", ")) built \(last.id)"
        }
        return "\(attempt.worker) did not have the layer any more"
    }
}
