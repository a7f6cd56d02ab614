package import FarmModel
import Foundation
import HTTPTransport
import Logging
import SystemIO

/// A night before it begins.
package struct NightlyPlanView: Codable, Sendable, Hashable {
    package var collection: String
    package var commit: String?
    /// When the schedule begins the next night; `nil` without one.
    package var nextAt: Timestamp?
    package var timezone: String
    package var plan: NightlyPlan
    /// Edits for new versions, by the name of the recipe.
    package var proposals: [String: NightlyProposal]
    package var problems: [String]
}

/// A night with its report.
package struct NightView: Codable, Sendable, Hashable {
    package var file: NightFile
    package var title: String
    package var report: String
}

extension Coordinator {
    // MARK: what is asked

    /// What a night would do now. Throws what reading the collection does, and `night.collection` for a farm without one.
    ///
    /// - Parameter asksOutside: `false` takes all inputs for unchanged and looks for no new versions.
    package func nightlyPlan(asksOutside: Bool) async throws -> NightlyPlanView {
        let night = try await survey(asksOutside: asksOutside)
        var proposals: [String: NightlyProposal] = [:]
        for finding in night.findings { proposals[finding.subject.recipe] = finding.proposal ?? proposals[finding.subject.recipe] }
        return NightlyPlanView(
            collection: night.collection, commit: night.commit, nextAt: try configuration.nightly.cron()?.next(after: .now),
            timezone: configuration.nightly.timezone, plan: night.plan, proposals: proposals, problems: night.problems)
    }

    /// Begins a night now; throws `night.open` while one goes on, and what `nightlyPlan` does.
    package func startNight(by who: String) async throws -> NightView {
        try requireNoNight()
        let number = try await begin(try await survey(asksOutside: true), by: who, dueAt: nil)
        return try nightView(number)
    }

    private func requireNoNight() throws {
        guard let open = state.openNight else { return }
        throw FarmError(
            "night.open", .conflict, "night \(open.night.number) is still going on",
            hint: "sciferry nightly report shows it, sciferry nightly stop ends it")
    }

    /// Ends the night that goes on, and cancels its jobs; throws `night.none`.
    package func stopNight(by who: String) throws -> NightView {
        guard let open = state.openNight else { throw FarmError("night.none", .conflict, "no night is going on") }
        let workers = open.entries.compactMap { $0.outcome == nil ? $0.job : nil }.flatMap { state.busyWorkers(with: $0) }
        try transition { $0.endNight(stoppedBy: who, now: .now) }
        for worker in Set(workers) { push(worker) }
        return try nightView(open.night.number)
    }

    /// A night with its report; throws `night.unknown`.
    ///
    /// - Parameter number: `nil` for the newest.
    package func nightView(_ number: Int?) throws -> NightView {
        let wanted = number ?? state.night?.night.number ?? 0
        let file = state.openNight.flatMap { $0.night.number == wanted ? $0 : nil }
        guard let file = try file ?? journal.night(wanted) else {
            throw FarmError(
                "night.unknown", .notFound, number.map { "there is no night \($0)" } ?? "there was no night yet",
                hint: "sciferry nightly list shows them, sciferry nightly run begins one")
        }
        let report = NightReport(
            try completed(file), farm: configuration.farm, api: endpoints.api, timezone: configuration.nightly.timezone)
        return NightView(file: report.file, title: report.title, report: report.text)
    }

    /// A night with what has become of jobs that outlasted it; those that ended with it keep what it says of them.
    private func completed(_ file: NightFile) throws -> NightFile {
        var file = file
        for (place, entry) in file.entries.enumerated() where entry.outcome?.state == .unfinished {
            guard let id = entry.job, let job = try state.file(of: id) ?? journal.job(id), job.job.state != .cancelled else { continue }
            file.entries[place].outcome = state.outcome(of: job) ?? entry.outcome
        }
        return file
    }

    /// The newest nights, the newest first.
    package func nightRecords(limit: Int) throws -> [NightRecord] { try journal.nights(before: .max, limit: limit) }

    // MARK: nights by themselves

    /// Begins nights on their schedule, submits what they plan and takes note of how it ends. Until cancelled.
    func keepNights() async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await self.keepSchedule() }
            // A survey takes its time, and so may whoever reads reports; the night that goes on waits for neither.
            tasks.addTask { try await self.followNight() }
            tasks.addTask { try await self.keepReporting() }
            defer { tasks.cancelAll() }
            try await tasks.next()
        }
    }

    private func keepSchedule() async throws {
        let cron = try configuration.nightly.cron()
        // What was due while nobody was there is made up for.
        var since = state.night.map { $0.night.dueAt ?? $0.night.startedAt } ?? .now
        while !Task.isCancelled {
            if let cron, let due = Coordinator.due(cron, since: since, now: .now) {
                since = due
                await beginScheduled(due)
            }
            try await Task.sleep(for: .seconds(1))
        }
    }

    private func followNight() async throws {
        while !Task.isCancelled {
            await advanceNight()
            try await Task.sleep(for: .seconds(1))
        }
    }

    private func keepReporting() async throws {
        while !Task.isCancelled {
            await deliverReports()
            try await Task.sleep(for: .seconds(1))
        }
    }

    /// The newest moment that is due and was not seen yet; of those that were missed only the newest counts.
    package static func due(_ cron: CronExpression, since: Timestamp, now: Timestamp) -> Timestamp? {
        // What was missed for long is found from where it matters.
        let start = max(since, now.adding(seconds: -40 * 86400))
        guard var found = cron.next(after: start), found <= now else { return nil }
        while let next = cron.next(after: found), next <= now { found = next }
        return found
    }

    private func beginScheduled(_ due: Timestamp) async {
        do {
            let night = try await withTaskCancellationHandler {
                try await survey(asksOutside: true)
            } onCancel: {
                Task { await self.surveying?.task.cancel() }
            }
            // Somebody has begun one meanwhile, with what this one knows.
            if let open = state.openNight, open.night.startedAt > night.surveyedAt { return }
            _ = try await begin(night, by: "schedule", dueAt: due)
        } catch {
            // The coordinator ends: the night is made up for.
            if Task.isCancelled { return }
            let known = error as? FarmError ?? FarmError("night.fault", .fault, "the night could not be planned", cause: error)
            logger.error("night could not be planned", metadata: ["error.code": "\(known.code.rawValue)", "reason": "\(known.message)"])
            // Whoever reads the reports hears of it; what goes on goes on.
            if state.openNight != nil {
                try? transition { $0.noteProblem("the night of \(due) could not be planned: \(known.message)") }
                return
            }
            let empty = SurveyedNight(
                surveyedAt: .now, collection: configuration.nightly.collection, plan: NightlyPlan([], rules: configuration.nightly.rules),
                findings: [],
                problems: [known.message])
            _ = try? await begin(empty, by: "schedule", dueAt: due)
        }
    }

    /// A night that the schedule begins ends the one before; one that somebody asks for does not.
    private func begin(_ night: SurveyedNight, by who: String, dueAt: Timestamp?) async throws -> Int {
        let record = NightRecord(
            number: 0, dueAt: dueAt, startedBy: who, startedAt: .now, collection: night.collection, commit: night.commit,
            rules: night.plan.rules, problems: night.problems)
        let blobs = blobs
        let entries = try await Blocking.run {
            try night.plan.entries.map { planned in
                let finding = night.findings[planned.subject]
                let submission = planned.decision == .skip ? nil : finding.submission
                return NightEntry(
                    night: 0, position: 0, plan: planned, submission: try submission.map { try blobs.put(try CanonicalJSON.encode($0)) },
                    fingerprint: finding.fingerprint, refreshed: finding.submission?.refreshed, moved: finding.moved,
                    proposal: finding.proposal)
            }
        }
        if dueAt == nil { try requireNoNight() }
        let number = try transition { $0.beginNight(record, entries, now: .now) }
        logger.notice(
            "night began",
            metadata: ["night": "\(number)", "by": "\(who)", "planned": "\(entries.count { $0.plan.decision != .skip })"])
        return number
    }

    /// Submits what has no job yet, and takes note of jobs that have ended.
    private func advanceNight() async {
        guard let night = state.openNight else { return }
        for entry in state.nightToSubmit.prefix(50) {
            submit(entry)
            // Leases and workers do not wait for all of them.
            await Task.yield()
        }
        do {
            let ended = try night.entries.compactMap { entry -> (NightEntry, NightEntry.Outcome)? in
                guard entry.isOpen, let id = entry.job, let file = try state.file(of: id) ?? journal.job(id) else { return nil }
                return state.outcome(of: file).map { (entry, $0) }
            }
            try transition { state in
                for (entry, outcome) in ended { state.settle(entry, outcome) }
                if state.nightSeconds(now: .now) > night.night.rules.nodeHours * 3600 { state.endBudget(now: .now) }
                state.endNightWhenDone(now: .now)
            }
            if state.openNight == nil { logger.notice("night ended", metadata: ["night": "\(night.night.number)"]) }
        } catch {
            logger.error("night cannot be taken note of", metadata: ["reason": "\(error)"])
        }
    }

    private func submit(_ entry: NightEntry) {
        do {
            guard let blob = entry.submission else { return }
            let submission = try CanonicalJSON.decode(
                Submission.self, from: try blobs.get(blob), source: "what night \(entry.night) submits")
            _ = try submit(submission, by: "nightly") { try $0.submitted(entry, as: $1) }
        } catch let error as FarmError where error.code == "night.none" {
            // Somebody has stopped it meanwhile.
        } catch let error as FarmError where ![.full, .unavailable].contains(error.category) {
            let isRecipes = [.invalid, .usage, .notFound].contains(error.category)
            try? transition { $0.settle(entry, .init(.failed, error.message, failureClass: isRecipes ? .recipe : .infrastructure)) }
        } catch {
            // A full disk: again in a second.
            logger.warning("night cannot submit", metadata: ["recipe": "\(entry.plan.recipe)", "reason": "\(error)"])
        }
    }

    // MARK: what is told

    private static let mostTries = 30
    /// Older reports are nobody's news any more.
    private static let newsSeconds: Double = 2 * 86400

    /// Posts the reports of nights that have ended, and tries again for a day or so.
    private func deliverReports() async {
        let webhook = configuration.nightly.webhook
        guard !webhook.isEmpty, let nights = try? journal.nights(before: .max, limit: 5) else { return }
        for var night in nights.reversed() {
            guard let ended = night.endedAt, Timestamp.now.seconds(since: ended) < Coordinator.newsSeconds, night.notice.deliveredAt == nil,
                night.notice.tries < Coordinator.mostTries
            else { continue }
            let pause = min(3600, configuration.retrySeconds * Double(1 << min(night.notice.tries, 20)))
            if let last = night.notice.triedAt, Timestamp.now.seconds(since: last) < pause { continue }
            // The try is journalled first: a full disk must not have it posted every second.
            night.notice.tries += 1
            night.notice.triedAt = .now
            guard let view = try? nightView(night.number), (try? transition { [night] in $0.noticed(night) }) != nil else { continue }
            night.notice.problem = await post(view, to: webhook)
            if let problem = night.notice.problem {
                // The address may hold a secret and is not told.
                logger.warning("report not delivered", metadata: ["night": "\(night.number)", "reason": "\(problem)"])
            } else {
                night.notice.deliveredAt = .now
            }
            try? transition { [night] in $0.noticed(night) }
        }
    }

    private func post(_ view: NightView, to address: String) async -> String? {
        struct Message: Encodable {
            var farm: String
            var night: Int
            var title: String
            /// Where Slack, Mattermost and their like look for what to show.
            var text: String
            var counts: [String: Int]
        }
        let counts = Dictionary(grouping: view.file.entries.compactMap { $0.outcome?.state.rawValue }) { $0 }.mapValues(\.count)
        let message = Message(
            farm: configuration.farm, night: view.file.night.number, title: view.title, text: "\(view.title)\n\n\(view.report)",
            counts: counts)
        do {
            var request = HTTPRequest(
                "POST", address, headers: [("Content-Type", "application/json")], body: .bytes(try CanonicalJSON.encode(message)),
                stallSeconds: 20)
            request.deadlineSeconds = 60
            let response = try await HTTPClient().perform(request)
            return response.isSuccess ? nil : "the webhook answers with status \(response.status)"
        } catch let error as FarmError {
            return error.code == "http.unreachable" ? "the webhook does not answer" : "the webhook cannot be asked (\(error.code.rawValue))"
        } catch {
            return "the webhook cannot be asked"
        }
    }
}
