import FarmModel
import Foundation

/// What a night has done, as a plain text for mail and for webhooks: lines of 78 columns where words allow it, links in full.
package struct NightReport: Sendable {
    let file: NightFile
    private let farm: String
    private let api: String
    private let zone: TimeZone

    /// - Parameters:
    ///   - api: where the coordinator's API is, for links.
    ///   - timezone: in which times are told.
    package init(_ file: NightFile, farm: String, api: String, timezone: String) {
        self.file = file
        self.farm = farm
        self.api = api
        zone = TimeZone(identifier: timezone) ?? .gmt
    }

    /// One line, for a subject.
    package var title: String {
        let counts = [
            (file.count(.released), "released"), (file.count(.candidate), file.count(.candidate) == 1 ? "candidate" : "candidates"),
            (file.count(.failed), "failed"),
            (file.count(.unchanged), "unchanged"), (file.count(.cancelled), "cancelled"), (file.count(.unfinished), "unfinished"),
            (file.entries.count(where: \.isOpen), "open"), (file.entries.count { $0.plan.decision == .skip }, "skipped"),
        ].filter { $0.0 > 0 }.map { "\($0.0) \($0.1)" }
        return "\(farm), night \(file.night.number): \(counts.isEmpty ? "nothing to do" : counts.joined(separator: ", "))"
    }

    /// The report's text.
    package var text: String {
        let night = file.night
        let end = night.endedAt.map { "to \(clock($0))" } ?? "and goes on"
        var lines = ["Began \(clock(night.startedAt)) \(end), \(zone.identifier), by \(night.startedBy)."]
        lines.append("Recipes: \(night.collection)\(night.commit.map { " at \($0.prefix(12))" } ?? "")")
        let planned = file.entries.reduce(0) { $1.plan.decision == .skip ? $0 : $0 + $1.plan.hours }
        let used = file.entries.reduce(0) { $0 + ($1.outcome?.seconds ?? 0) } / 3600
        lines.append(
            "Hours of workers: \(NightlyPlan.hours(planned)) planned of \(NightlyPlan.hours(night.rules.nodeHours)), \(NightlyPlan.hours(used)) used."
        )
        if let who = night.stoppedBy { lines.append("Stopped by \(who).") }
        if let problem = night.notice.problem, night.notice.deliveredAt == nil {
            lines.append("This report was not delivered: \(problem).")
        }
        section("Problems", night.problems.map { wrapped($0) }, &lines)
        section("Failed", entries(.failed).map(failed), &lines)
        section("Released", entries(.released).map(made), &lines)
        section("Candidates, which wait for a releaser", entries(.candidate).map(made), &lines)
        section("New versions that were not tried", proposals.map { item($0, $0.plan.words) + proposal($0) }, &lines)
        section("Going on", file.entries.filter { $0.isOpen }.map { item($0, $0.plan.words) + link($0) }, &lines)
        section("Not finished", (entries(.unfinished) + entries(.cancelled)).map(made), &lines)
        section("Nothing to build after all", entries(.unchanged).map { item($0, $0.outcome?.words ?? "") }, &lines)
        let skipped = file.entries.filter { $0.plan.decision == .skip && $0.proposal == nil }
        section("Skipped", skipped.map { item($0, $0.plan.words) }, &lines)
        return lines.map { $0.printable(keeping: "\t") }.joined(separator: "\n") + "\n"
    }

    private func section(_ title: String, _ items: [[String]], _ lines: inout [String]) {
        guard !items.isEmpty else { return }
        lines += ["", "\(title) (\(items.count))", String(repeating: "-", count: title.count + "\(items.count)".count + 3)]
        for item in items { lines += item }
    }

    private func entries(_ state: NightEntry.State) -> [NightEntry] { file.entries.filter { $0.outcome?.state == state } }

    private var proposals: [NightEntry] { file.entries.filter { $0.plan.decision == .skip && $0.proposal != nil } }

    private func item(_ entry: NightEntry, _ words: String) -> [String] {
        let target = entry.plan.target == "-" ? "" : " for \(entry.plan.target)"
        let version = entry.plan.version == "-" ? "" : " \(entry.plan.version)"
        return ["* \(entry.plan.recipe)\(version)\(target)"] + wrapped(words) + entry.plan.doubts.flatMap { wrapped("not sure: \($0)") }
    }

    private func made(_ entry: NightEntry) -> [String] {
        item(entry, entry.plan.words) + (entry.outcome.map { [.cancelled, .unfinished].contains($0.state) ? wrapped($0.words) : [] } ?? [])
            + link(entry) + proposal(entry)
    }

    private func failed(_ entry: NightEntry) -> [String] {
        let outcome = entry.outcome
        let owner =
            switch outcome?.failureClass {
            case .infrastructure: "the farm's fault"
            case .upstream: "the fault of a server that the recipe names"
            default: "the recipe's"
            }
        return item(entry, entry.plan.words) + wrapped("\(outcome?.words ?? "failed") [\(owner)]") + link(entry, "/log")
    }

    private func link(_ entry: NightEntry, _ more: String = "") -> [String] {
        let advisories = entry.plan.reasons.flatMap { reason -> [String] in
            if case .advisories(let names) = reason { Array(names.prefix(5)) } else { [] }
        }
        return (entry.job.map { ["    \(api)/api/v1/jobs/\($0)\(more)"] } ?? []) + advisories.map { "    \(NightReport.page(of: $0))" }
    }

    private static func page(of advisory: String) -> String {
        advisory.hasPrefix("DSA") || advisory.hasPrefix("DLA")
            ? "https://security-tracker.debian.org/tracker/\(advisory)" : "https://osv.dev/vulnerability/\(advisory)"
    }

    private func proposal(_ entry: NightEntry) -> [String] {
        guard let proposal = entry.proposal else { return [] }
        let lines = proposal.linesToLookAt
        let look = lines.isEmpty ? [] : wrapped("look at the old version in line \(lines.map(String.init).joined(separator: ", "))")
        return ["    \(proposal.source)"] + look + proposal.patch.split(separator: "\n").map { "    | \($0)" }
    }

    private func wrapped(_ words: String) -> [String] {
        var lines: [String] = []
        for word in words.split(whereSeparator: \.isWhitespace) {
            if let last = lines.last, last.count + 1 + word.count <= 78 {
                lines[lines.count - 1] += " \(word)"
            } else {
                lines.append("    \(word)")
            }
        }
        return lines
    }

    private func clock(_ moment: Timestamp) -> String {
        var style = Date.ISO8601FormatStyle(timeZone: zone)
        style = style.year().month().day().dateTimeSeparator(.space).time(includingFractionalSeconds: false)
        return String(moment.date.formatted(style).prefix(16))
    }
}
