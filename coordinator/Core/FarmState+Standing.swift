import FarmModel
import Foundation

/// What an ended attempt says about the worker that ran it.
extension FarmState {
    /// Failures that say something of the farm's surroundings and nothing of the worker: an outage of the network must not take out
    /// one worker after the other.
    private static let notTheWorkers = ["base.", "download.", "git.", "attempt.outcome", "name.", "connection.", "tls."]
    /// Phases whose failures say something of the farm's stores.
    private static let notItsPhases: Set<Phase> = [.fetch, .upload]

    /// Takes an end into account: how fast the worker is, and whether something is wrong with it.
    mutating func noteStanding(of name: WorkerName, _ attempt: AttemptRecord, _ job: JobRecord, expected: Double?) {
        guard var worker = workers[name] else { return }
        switch attempt.state {
        case .succeeded:
            let seconds = (attempt.finishedAt ?? attempt.startedAt).seconds(since: attempt.startedAt)
            if job.kind == .build, !(job.takesIn ?? false), let expected, seconds > 1 {
                // A fifth of what each build says; no single one makes a worker fast or slow.
                let speed = exp(0.8 * log(worker.speed ?? 1) + 0.2 * log(expected / seconds))
                worker.speed = min(10, max(0.1, speed))
            }
            worker.failuresInARow = 0
        case .failed where attempt.failure?.failureClass == .infrastructure, .lost:
            avoid(name, job.id)
            let code = attempt.failure?.code ?? ""
            // One job says something once, and nothing when it failed elsewhere too.
            let isNews = job.avoided?.isEmpty ?? true
            if !isNews || FarmState.notItsPhases.contains(attempt.phase) && attempt.state == .failed { return }
            if FarmState.notTheWorkers.contains(where: { code.hasPrefix($0) }) { return }
            worker.failuresInARow = (worker.failuresInARow ?? 0) + 1
            if worker.failuresInARow ?? 0 >= rules.scheduling.mostFailuresInARow, worker.quarantine == nil {
                let count = worker.failuresInARow ?? 0
                worker.quarantine =
                    "\(count) failures in a row that were not the recipes', the last: \(attempt.failure?.message.prefix(300) ?? "")"
                remark("worker quarantined", ["worker.name": name.rawValue, "reason": worker.quarantine ?? ""])
            }
        default: return
        }
        put(worker)
    }

    /// The next try is for another worker, where there is one.
    private mutating func avoid(_ name: WorkerName, _ id: JobID) {
        guard var job = jobs[id], !(job.avoided ?? []).contains(name) else { return }
        job.avoided = Array(((job.avoided ?? []) + [name]).suffix(8))
        put(job)
    }
}
