package import FarmModel
import Foundation
import Logging
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

/// Why a job waits, or why it went where it went.
package struct JobExplanation: Codable, Sendable, Hashable {
    /// What a worker means for a waiting job.
    package struct Verdict: Codable, Sendable, Hashable {
        package var job: JobID
        package var worker: String
        package var refuses: Bool
        package var words: String
    }
    package var job: JobID
    package var state: JobState
    package var priority: JobPriority
    package var note: String?
    package var choices: [String]
    package var verdicts: [Verdict]
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
    package var root: TrustRoot
    package var programVersion: String
    package var link: String
}

extension Coordinator {
    /// The newest jobs with a number below `number`, oldest first.
    package func jobViews(before number: Int = .max, limit: Int) throws -> [JobView] {
        try journal.jobs(before: number, limit: limit).compactMap { try file(of: $0) }.map { try view($0, explains: false) }
    }

    /// All jobs that have not ended, oldest first.
    package func openJobViews() throws -> [JobView] { try state.openJobs.map { try view($0, explains: false) } }

    package func jobView(_ id: JobID) throws -> JobView {
        guard let file = try file(of: id) else { throw FarmState.unknown(id) }
        return try view(file, explains: true)
    }

    /// Why a job is where it is: each worker with its refusal, or with what would happen there.
    package func explanation(of id: JobID) throws -> JobExplanation {
        guard let file = try file(of: id) else { throw FarmState.unknown(id) }
        let leader = try file.job.joined.flatMap { try self.file(of: $0) } ?? file
        var verdicts: [JobExplanation.Verdict] = []
        let waiting = [leader.job] + (leader.job.verifyJobs ?? []).compactMap { state.jobs[$0] }
        for job in waiting where job.state == .queued {
            for worker in state.workers.values.sorted(by: { $0.name < $1.name }) {
                let refusal = state.obstacle(job, worker, now: .now)
                verdicts.append(
                    .init(
                        job: job.id, worker: worker.name.rawValue, refuses: refusal != nil && refusal != "busy",
                        words: [refusal, refusal == nil || refusal == "busy" ? state.turn(of: job, on: worker, now: .now) : nil]
                            .compactMap { $0 }.joined(separator: "; ")))
            }
        }
        let awaited = leader.job.state == .resolving ? try leader.job.waitsFor.compactMap { try self.file(of: $0)?.job } : []
        let choices =
            awaited.map { "waits for \($0.id), \($0.title), which is \($0.state.rawValue)" }
            + leader.attempts.map { attempt in
                let expected = attempt.expectedSeconds.map { ", expected \(Int($0)) s" } ?? ""
                return "\(attempt.id) went to \(attempt.worker)\(attempt.choice.map { ": \($0)" } ?? "")\(expected)"
            }
        return JobExplanation(
            job: file.job.id, state: leader.job.state, priority: leader.job.priority ?? .interactive, note: file.job.note, choices: choices,
            verdicts: verdicts)
    }

    /// A job with what belongs to it, from memory while it is there.
    private func file(of id: JobID) throws -> JobFile? { try state.file(of: id) ?? journal.job(id) }

    func view(_ file: JobFile, explains: Bool) throws -> JobView {
        var shown = file.job
        // A job that joined another is where that one is.
        let leader = try shown.joined.flatMap { try self.file(of: $0) }
        if let leader, !shown.state.isFinal { shown.state = leader.job.state }
        let source = leader ?? file
        var obstacles: [String: String] = [:]
        if explains, source.job.state == .queued {
            for worker in state.workers.values { obstacles[worker.name.rawValue] = state.obstacle(source.job, worker, now: .now) }
        }
        let tests = try (source.job.verifyJobs ?? []).compactMap { try self.file(of: $0)?.job }
        if explains {
            for test in tests where test.state == .queued {
                for worker in state.workers.values {
                    obstacles["\(worker.name.rawValue) for \(test.id)"] = state.obstacle(test, worker, now: .now)
                }
            }
        }
        var attempts = source.attempts
        if explains { for index in attempts.indices { attempts[index].miss = miss(of: attempts[index], source.job) } }
        return JobView(
            job: shown, attempts: attempts, obstacles: obstacles, publication: source.publication,
            verifyJobs: tests)
    }

    package func workerViews() -> [WorkerView] {
        state.workers.values.sorted { $0.name < $1.name }.map { worker in
            var shown = worker
            shown.lastSeen = state.lastHeard(worker.name) ?? worker.lastSeen
            // Whoever knew it could pass for that engine and have its worker left out.
            shown.facts?.engineID = nil
            shown.engines = nil
            return WorkerView(
                worker: shown, connected: sessionIsOpen(worker.name) && state.isConnected(worker.name, now: .now),
                attempts: state.openAttempts(on: worker.name))
        }
    }

    package func releaseViews() -> [ReleaseRecord] {
        state.releases.values.filter { $0.retiredAt == nil }.sorted {
            ($0.release.name, $0.release.version, $0.release.publishedAt) < ($1.release.name, $1.release.version, $1.release.publishedAt)
        }
    }

    /// Hides a version and warns of it, or takes that back; sites see it with the next channel, which is written at once. Throws
    /// `release.absent`, and `release.reason` for a reason that is no line of text.
    package func yank(_ request: YankRequest, by who: String) throws -> [ReleaseRecord] {
        var request = request
        request.reason = request.reason?.trimmingCharacters(in: .whitespacesAndNewlines)
        if let reason = request.reason, reason.isEmpty || reason.utf8.count > 1000 || reason != reason.printable() {
            throw FarmError("release.reason", .usage, "the reason must be one line of text, of at most 1000 bytes")
        }
        let count = try transition { try $0.yank(request) }
        channelIsStale = true
        logger.notice(
            "yank",
            metadata: [
                "release": "\(request.name)/\(request.version)", "by": "\(who)", "releases": "\(count)",
                "reason": "\(request.reason ?? "")",
            ])
        return releaseViews().filter { $0.release.name == request.name && $0.release.version == request.version }
    }

    package func farmView() -> FarmView {
        FarmView(
            farm: configuration.farm, channel: configuration.channel, regions: configuration.regions, root: root,
            programVersion: Program.version, link: endpoints.link)
    }
}
