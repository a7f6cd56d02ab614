package import FarmModel
import ObjectStorage
package import Attestation

/// A job as people and programs see it.
package struct JobView: Codable, Sendable, Hashable {
    package var job: JobRecord
    package var attempts: [AttemptRecord]
    /// For a queued job: each worker and why it does not have it.
    package var obstacles: [String: String]
    package var publication: PublicationRecord?
    /// Jobs that run its tests on further CPUs.
    package var verifyJobs: [JobRecord]
}

/// A worker as people and programs see it.
package struct WorkerView: Codable, Sendable, Hashable {
    package var worker: WorkerRecord
    package var connected: Bool
    package var attempts: [AttemptRecord]
}

/// What a site needs to follow the farm.
package struct FarmView: Codable, Sendable, Hashable {
    package var farm: String
    package var channel: String
    package var regions: [RegionConfiguration]
    package var releaseKey: VerifyingKey
    package var programVersion: String
    package var link: String
}

extension Coordinator {
    package func jobViews() -> [JobView] {
        state.jobs.values.sorted { $0.number < $1.number }.map { view($0, explains: false) }
    }

    package func jobView(_ id: JobID) throws -> JobView {
        guard let job = state.jobs[id] else { throw FarmState.unknown(id) }
        return view(job, explains: true)
    }

    private func view(_ job: JobRecord, explains: Bool) -> JobView {
        var shown = job
        // A job that joined another is where that one is.
        let leader = job.joined.flatMap { state.jobs[$0] }
        if let leader, !shown.state.isFinal { shown.state = leader.state }
        let source = leader ?? job
        let attempts = state.attempts.values.filter { $0.id.job == source.id }.sorted { $0.id.number < $1.id.number }
        var obstacles: [String: String] = [:]
        if explains, source.state == .queued {
            for worker in state.workers.values { obstacles[worker.name.rawValue] = state.obstacle(source, worker, now: .now) }
        }
        return JobView(
            job: shown, attempts: attempts, obstacles: obstacles, publication: state.publications[source.id],
            verifyJobs: state.jobs.values.filter { $0.parent == source.id }.sorted { $0.number < $1.number })
    }

    package func workerViews() -> [WorkerView] {
        state.workers.values.sorted { $0.name < $1.name }.map { worker in
            var shown = worker
            shown.lastSeen = state.lastHeard(worker.name) ?? worker.lastSeen
            return WorkerView(
                worker: shown, connected: sessionIsOpen(worker.name) && state.isConnected(worker.name, now: .now),
                attempts: state.openAttempts(on: worker.name))
        }
    }

    package func releaseViews() -> [ReleaseRecord] {
        state.releases.values.sorted {
            ($0.release.name, $0.release.version, $0.release.publishedAt) < ($1.release.name, $1.release.version, $1.release.publishedAt)
        }
    }

    package func farmView() -> FarmView {
        FarmView(
            farm: configuration.farm, channel: configuration.channel, regions: configuration.regions, releaseKey: releaseKey,
            programVersion: Program.version, link: endpoints.link)
    }
}
