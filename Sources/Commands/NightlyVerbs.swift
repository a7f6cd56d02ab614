import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation

/// Nights: what they would do, what they did.
struct NightlyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nightly", abstract: "Plan, begin and read nights: rebuilds of a collection, each with its reason.",
        discussion: "Set up under \"nightly\" in farm.json; docs/nightly.md tells how.",
        subcommands: [
            NightlyPlanCommand.self, NightlyRunCommand.self, NightlyReportCommand.self, NightlyListCommand.self, NightlyStopCommand.self,
        ])
}

/// Shows what a night would do.
struct NightlyPlanCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan", abstract: "Show what a night would build now, why, and what it would skip.",
        discussion: """
            Asks registries, repositories and services for what has changed; nothing is built or kept.
            Examples:
              sciferry nightly plan
              sciferry nightly plan --offline --json
            """)

    @OptionGroup var farm: FarmOptions
    @Flag(help: "Ask nobody outside: inputs count as unchanged, and new versions are not looked for.") var offline = false
    @Flag(help: "Print the edits for new versions as patches, and nothing else.") var patch = false

    func run() async throws {
        try await reporting {
            let view: NightlyPlanView = try await farm.client().get(
                "/api/v1/nightly/plan\(offline ? "?offline=1" : "")", stallSeconds: 3600)
            if farm.json { return try Console.json(view) }
            if patch {
                for (_, proposal) in view.proposals.sorted(by: { $0.key < $1.key }) { Console.print(String(proposal.patch.dropLast())) }
                return
            }
            Console.table(
                ["DO", "RECIPE", "VERSION", "FOR", "HOURS", "WHY"],
                view.plan.entries.map { entry in
                    [
                        entry.decision.rawValue, entry.recipe, entry.version, entry.target,
                        entry.decision == .skip ? "-" : NightlyPlan.hours(entry.hours),
                        ([entry.words] + entry.doubts.map { "not sure: \($0)" }).joined(separator: "; "),
                    ]
                })
            for problem in view.problems { Console.print("problem: \(problem.printable())") }
            let count = view.plan.entries.count { $0.decision != .skip }
            Console.print(
                "\(count) of \(view.plan.entries.count) would be built, \(NightlyPlan.hours(view.plan.plannedHours)) of \(NightlyPlan.hours(view.plan.rules.nodeHours))"
            )
            Console.print("recipes: \(view.collection)\(view.commit.map { " at \($0.prefix(12))" } ?? "")")
            Console.print(view.nextAt.map { "next night: \($0)" } ?? "no schedule: sciferry nightly run begins a night")
        }
    }
}

/// Begins a night.
struct NightlyRunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Begin a night now.", discussion: "Example:\n  sciferry nightly run --no-wait")

    @OptionGroup var farm: FarmOptions
    @Flag(inversion: .prefixedNo, help: "Wait for its end, and print the report.") var wait = true

    func run() async throws {
        try await reporting {
            let client = try farm.client()
            var view: NightView = try await client.post("/api/v1/nights", [String: String](), stallSeconds: 3600)
            let number = view.file.night.number
            guard wait else { return farm.json ? try Console.json(view.file) : Console.print("night \(number) began") }
            while view.file.night.endedAt == nil {
                try await Task.sleep(for: .seconds(1))
                view = try await client.get("/api/v1/nights/\(number)")
            }
            if farm.json { try Console.json(view.file) } else { Console.print("\(view.title)\n\n\(view.report)") }
            if view.file.count(.failed) > 0 { throw ExitCode(1) }
        }
    }
}

/// Shows what a night did.
struct NightlyReportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report", abstract: "Show what a night did: released, failed, found, skipped, each with its reason.",
        discussion: """
            Examples:
              sciferry nightly report
              sciferry nightly report 12 --mail ops@farm.example | /usr/sbin/sendmail -t
              sciferry nightly report --patch | git apply
            """)

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The night's number (default: the newest).") var night: Int?
    @Option(help: "Print it as a mail to this address; may be repeated.") var mail: [String] = []
    @Flag(help: "Print the edits for new versions as patches, and nothing else.") var patch = false

    func run() async throws {
        try await reporting {
            let view: NightView = try await farm.client().get("/api/v1/nights/\(night.map(String.init) ?? "latest")")
            if farm.json { return try Console.json(view.file) }
            if patch {
                for entry in view.file.entries { if let proposal = entry.proposal { Console.print(String(proposal.patch.dropLast())) } }
                return
            }
            guard !mail.isEmpty else { return Console.print("\(view.title)\n\n\(view.report)") }
            for address in mail where !address.contains("@") || address.contains(where: { $0.isNewline || $0.isWhitespace }) {
                throw FarmError("mail.address", .usage, "\"\(address)\" is no address", hint: "for example ops@farm.example")
            }
            Console.print(Self.message(view, to: mail))
        }
    }

    /// A mail (RFC 5322), in UTF-8; lines end as sendmail(8) takes them.
    private static func message(_ view: NightView, to addresses: [String]) -> String {
        let title = view.title.filter { !$0.isNewline }
        let subject = title.utf8.allSatisfy { $0 < 128 } ? title : "=?UTF-8?B?\(Data(title.utf8).base64EncodedString())?="
        return """
            To: \(addresses.joined(separator: ", "))
            Subject: \(subject)
            MIME-Version: 1.0
            Content-Type: text/plain; charset=utf-8
            Content-Transfer-Encoding: 8bit
            Auto-Submitted: auto-generated

            \(view.report)
            """
    }
}

/// Lists nights.
struct NightlyListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List the newest nights.")

    @OptionGroup var farm: FarmOptions
    @Option(help: "How many.") var limit = 30

    func run() async throws {
        try await reporting {
            let nights: [NightRecord] = try await farm.client().get("/api/v1/nights?limit=\(limit)")
            if farm.json { return try Console.json(nights) }
            Console.table(
                ["NIGHT", "BEGAN", "ENDED", "BY", "RECIPES", "REPORT"],
                nights.map { night in
                    [
                        "\(night.number)", "\(night.startedAt)", night.endedAt.map { "\($0)" } ?? "-", night.startedBy,
                        night.commit.map { String($0.prefix(12)) } ?? night.collection,
                        night.notice.deliveredAt.map { "sent \($0)" } ?? night.notice.problem ?? "-",
                    ]
                })
        }
    }
}

/// Ends a night.
struct NightlyStopCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop", abstract: "End the night that is going on, and cancel its jobs.")

    @OptionGroup var farm: FarmOptions

    func run() async throws {
        try await reporting {
            let view: NightView = try await farm.client().post("/api/v1/nights/stop", [String: String]())
            if farm.json { try Console.json(view.file) } else { Console.print("night \(view.file.night.number) has ended") }
        }
    }
}
