import FarmMessages
import CoordinatorCore
import FarmModel
import Foundation
import Support
import Testing

@Suite struct NightTests {
    private func entry(
        _ recipe: String, _ decision: NightlyPlan.Decision = .build, reasons: [NightlyReason] = [.recipeChanged],
        words: String = "the recipe has changed"
    ) -> NightEntry {
        let subject = NightlySubject(recipe: recipe, version: "1", target: "x86_64", reasons: reasons, hours: 2)
        var plan = NightlyPlan([subject], rules: .init()).entries[0]
        (plan.decision, plan.words) = (decision, words)
        return NightEntry(night: 0, position: 0, plan: plan)
    }

    private func record(_ due: Int64? = nil) -> NightRecord {
        NightRecord(
            number: 0, dueAt: due.map { Timestamp(seconds: $0) }, startedBy: "schedule", startedAt: Timestamp(seconds: 1_795_000_000),
            collection: "/srv/recipes", commit: "0123456789abcdef", rules: .init(), problems: ["a list could not be read"])
    }

    private func file(_ bench: Bench, _ id: JobID) throws -> JobFile { try #require(bench.state.file(of: id)) }

    @Test func aNightGoesOnOverCrashesAndEnds() throws {
        var bench = Bench()
        try bench.enrol("w")
        #expect(bench.state.beginNight(record(), [entry("a"), entry("b"), entry("c", .skip)], now: bench.now) == 1)
        try bench.commit()
        #expect(bench.state.nightToSubmit.map(\.plan.recipe) == ["a", "b"])
        let id = try bench.submit("a")
        try bench.state.submitted(try #require(bench.state.nightToSubmit.first), as: id)
        try bench.commit()
        bench.crash()
        #expect(bench.state.nightToSubmit.map(\.plan.recipe) == ["b"] && bench.state.openNight?.entries[0].job == id)
        #expect(bench.state.outcome(of: try file(bench, id)) == nil)
        try bench.state.cancel(id, by: "me", now: bench.now)
        let outcome = try #require(bench.state.outcome(of: try file(bench, id)))
        #expect(outcome.state == .cancelled && outcome.words == "cancelled by me")
        let open = try #require(bench.state.openNight)
        bench.state.settle(open.entries[0], outcome)
        bench.state.endNightWhenDone(now: bench.now)
        #expect(bench.state.openNight != nil, "b has not ended")
        bench.state.settle(open.entries[1], .init(.failed, "it does not render", failureClass: .recipe))
        // What is settled stays as it is.
        bench.state.settle(open.entries[1], .init(.released, ""))
        bench.state.endNightWhenDone(now: bench.now)
        try bench.commit()
        #expect(bench.state.openNight == nil)
        let ended = try #require(try bench.journal.night(1))
        #expect(ended.entries.map { $0.outcome?.state } == [.cancelled, .failed, nil] && ended.night.endedAt == bench.now)
        bench.crash()
        #expect(bench.state.openNight == nil && bench.state.night?.night.number == 1)
        var told = try #require(bench.state.night).night
        told.notice.tries = 2
        bench.state.noticed(told)
        try bench.commit()
        #expect(try bench.journal.night(1)?.night.notice.tries == 2 && bench.state.night?.night.notice.tries == 2)
    }

    @Test func whatIsLeftIsLeftToTheNextOne() throws {
        var bench = Bench()
        _ = bench.state.beginNight(record(), [entry("a"), entry("b")], now: bench.now)
        let id = try bench.submit("a")
        try bench.state.submitted(try #require(bench.state.nightToSubmit.first), as: id)
        #expect(bench.state.beginNight(record(), [entry("c")], now: bench.now) == 2)
        try bench.commit()
        let first = try #require(try bench.journal.night(1))
        #expect(first.entries.map { $0.outcome?.words } == ["\(id) is queued", "it was not its turn"] && first.night.endedAt != nil)
        #expect(bench.state.jobs[id]?.state == .queued, "it is still wanted")
        #expect(try bench.journal.nights(before: 2, limit: 5).map(\.number) == [1])
        // A job for what is not wanted any more does not come about.
        let late = try #require(first.entries.last)
        #expect(throws: FarmError.self) { try bench.state.submitted(late, as: id) }
        // One that is stopped takes its jobs with it.
        let other = try bench.submit("c")
        try bench.state.submitted(try #require(bench.state.nightToSubmit.first), as: other)
        bench.state.endNight(stoppedBy: "op", now: bench.now)
        try bench.commit()
        #expect(bench.state.jobs[other]?.state == .cancelled && bench.state.openNight == nil)
        #expect(try bench.journal.night(2)?.night.stoppedBy == "op")
    }

    @Test func theHoursOfANightAreKept() throws {
        var bench = Bench()
        try bench.enrol("w")
        var night = record()
        night.rules.nodeHours = 1
        _ = bench.state.beginNight(night, [entry("a"), entry("b"), entry("c")], now: bench.now)
        for recipe in ["a", "b"] {
            let id = try bench.submit(recipe)
            try bench.state.submitted(try #require(bench.state.nightToSubmit.first), as: id)
        }
        let running = try #require(bench.report("w").assignments.first).attempt.job
        bench.now = bench.now.adding(seconds: 1800)
        #expect(bench.state.nightSeconds(now: bench.now) == 1800)
        // What a worker has begun goes on, the rest is left.
        bench.state.endBudget(now: bench.now)
        try bench.commit()
        let left = try #require(bench.state.openNight).entries.filter { $0.isOpen }
        #expect(left.map(\.job) == [running])
        #expect(bench.state.jobs.values.filter { $0.state == .cancelled }.count == 1)
    }

    @Test func whatCannotBeJournalledHasNotHappened() throws {
        var bench = Bench()
        _ = bench.state.beginNight(record(), [entry("a"), entry("b")], now: bench.now)
        bench.state.rollBack()
        #expect(bench.state.night == nil)
        _ = bench.state.beginNight(record(), [entry("a"), entry("b")], now: bench.now)
        try bench.commit()
        let before = bench.state.night
        for place in [0, 1] { bench.state.settle(try #require(bench.state.openNight).entries[place], .init(.failed, "x")) }
        bench.state.endNightWhenDone(now: bench.now)
        bench.state.rollBack()
        #expect(bench.state.night == before)
    }

    @Test func schedulesThatWereMissedCountOnce() throws {
        let cron = try CronExpression("0 2 * * *", zone: "Australia/Brisbane")
        // 2026-11-20 02:00 in Brisbane is 16:00 UTC on the day before.
        let first = Timestamp(seconds: 1_795_104_000)
        #expect(Coordinator.due(cron, since: first, now: first.adding(seconds: 3600)) == nil)
        #expect(Coordinator.due(cron, since: first, now: first.adding(seconds: 86400)) == first.adding(seconds: 86400))
        #expect(Coordinator.due(cron, since: first, now: first.adding(seconds: 5.5 * 86400)) == first.adding(seconds: 5 * 86400))
        #expect(Coordinator.due(cron, since: first, now: first.adding(seconds: 400.5 * 86400)) == first.adding(seconds: 400 * 86400))
        // A clock that goes back begins no night a second time.
        #expect(Coordinator.due(cron, since: first, now: first.adding(seconds: -86400)) == nil)
    }

    @Test func theReportTellsEverything() throws {
        var entries = [
            entry("made"), entry("broken"),
            entry("grown", .candidate, reasons: [.upstream(version: "2", label: "v2")], words: "version 2 is out"),
            entry("idle", .skip, words: "nothing has changed, 3 days old"),
            entry("mended", reasons: [.advisories(["DSA-1-1", "USN-2-1"])], words: "x"),
            entry("going"), entry("same"), entry("found", .skip, reasons: [], words: "there is no worker of the untrusted pool to try it"),
        ]
        let proposal =
            #"{"from":"1","to":"2","source":"https://up.example/tags","patch":"--- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n-version: 1\n+version: \"2\"\n","linesToLookAt":[7]}"#
        let edit = try CanonicalJSON.decode(NightlyProposal.self, from: Array(proposal.utf8), source: "proposal")
        (entries[2].proposal, entries[7].proposal) = (edit, edit)
        entries[3].plan.doubts = ["debian:12: registry-1.docker.io answers with status 500"]
        entries[0].outcome = .init(.released, "released", seconds: 5400)
        entries[0].job = JobID("j7")
        entries[1].outcome = .init(.failed, "step 3 of 9 failed: no such file", failureClass: .recipe, seconds: 1800)
        entries[1].job = JobID("j8")
        entries[2].outcome = .init(.candidate, "waits")
        entries[4].outcome = .init(.released, "released")
        entries[6].outcome = .init(.unchanged, "nothing to build: released by j2")
        var night = record()
        night.number = 12
        let report = NightReport(
            NightFile(night: night, entries: entries), farm: "nectar", api: "https://farm.example:7443", timezone: "Australia/Brisbane")
        #expect(report.title == "nectar, night 12: 2 released, 1 candidate, 1 failed, 1 unchanged, 1 open, 2 skipped")
        for words in [
            "Began 2026-11-18 21:06 and goes on, Australia/Brisbane, by schedule.", "Recipes: /srv/recipes at 0123456789ab",
            "Hours of workers: 12.0 h planned of 100.0 h, 2.0 h used.", "Problems (1)\n------------\n    a list could not be read",
            "Failed (1)\n----------\n* broken 1 for x86_64\n    the recipe has changed\n    step 3 of 9 failed: no such file [the recipe's]\n    https://farm.example:7443/api/v1/jobs/j8/log",
            "* made 1 for x86_64\n    the recipe has changed\n    https://farm.example:7443/api/v1/jobs/j7\n",
            "https://security-tracker.debian.org/tracker/DSA-1-1\n    https://osv.dev/vulnerability/USN-2-1",
            "New versions that were not tried (1)", "    look at the old version in line 7\n    | --- a/x", "    | +version: \"2\"",
            "not sure: debian:12: registry-1.docker.io answers with status 500", "Nothing to build after all (1)",
        ] { #expect(report.text.contains(words), "\(words)\n\(report.text)") }
        #expect(report.text.split(separator: "\n").allSatisfy { $0.count <= 100 })
    }

    @Test(arguments: [
        (#"{"schedule": "61 * * * *", "collection": "/r"}"#, "schedule.cron"), (#"{"schedule": "@daily"}"#, "settings.value"),
        (#"{"scedule": "@daily"}"#, "settings.key"), (#"{"nodeHours": 0}"#, "settings.value"),
        (#"{"timezone": "Mars", "schedule": "@daily", "collection": "/r"}"#, "schedule.zone"),
        (#"{"webhook": "file:///etc/passwd"}"#, "settings.value"), (#"{"targets": ["x86_65"]}"#, "target.unknown"),
        (#"{"repository": "--upload-pack=x"}"#, "settings.value"),
        (#"{"repository": "https://git.example/r", "collection": "/r"}"#, "settings.value"),
    ]) func settingsWithoutSenseAreRefused(_ text: String, _ code: String) {
        let error = #expect(throws: FarmError.self, "\(text)") {
            try CanonicalJSON.decode(NightlySettings.self, from: Array(text.utf8), source: "farm.json")
        }
        #expect(error?.code.rawValue == code, "\(text) \(error?.description ?? "")")
    }
}
