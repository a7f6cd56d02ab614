import ChunkStore
import ArgumentParser
import FarmModel
import Foundation
import HTTPTransport
import Microarchitecture
import ObjectStorage
import SiteDelivery
import SitePolicy
import SystemIO

/// Sites that follow a declaration.
struct SiteCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "site", abstract: "Make a site, keep it as its site.yaml says, go back, collect.",
        discussion: """
            A site is one directory with images, modules and commands for many users (docs/sites.md).
            Examples:
              sciferry site init --site /software            make one; then edit /software/site.yaml
              sciferry site sync --site /software --dry-run  what would come and go
              sciferry site sync --site /software            make it so; from cron or a timer, too
            """,
        subcommands: [
            SiteInitCommand.self, SiteSyncCommand.self, SiteHistoryCommand.self, SiteRollbackCommand.self, SiteCollectCommand.self,
            SiteExportCommand.self, SiteMenuCommand.self,
        ])
}

extension SiteAccess {
    /// What the site's `site.yaml` says; throws `site.undeclared` where there is none.
    static func declaration(of site: Site) throws -> SiteDeclaration {
        let path = "\(site.root)/site.yaml"
        guard Disk.exists(path) else {
            throw FarmError(
                "site.undeclared", .notFound, "\(site.root) has no site.yaml, which says what the site carries",
                hint: "sciferry site init --site \(site.root) writes one to begin with")
        }
        return try SiteDeclarationFile.read(
            try Disk.read(path, limit: 4 << 20), path: path, isFile: { Disk.kind("\(site.root)/\($0)") == .file }
        ) { name in
            let bytes = try Disk.read(name.hasPrefix("/") ? name : "\(site.root)/\(name)", limit: Int64(SiteDeclarationFile.longestHook))
            return String(decoding: bytes, as: UTF8.self)
        }
    }
}

extension SiteAccess {
    /// Brings what else shows the site's tools up to date with them; tells failures.
    @discardableResult
    static func writeOutputs(of site: Site) async throws -> [SiteOutputs.Result] {
        let results = try await SiteOutputs(site, environment: ProcessInfo.processInfo.environment).write()
        tellFailures(results)
        return results
    }

    static func tellFailures(_ results: [SiteOutputs.Result]) {
        for result in results {
            if let failure = result.failure { Console.error("not written: \(result.output) in \(result.place): \(failure)") }
        }
    }

    /// The same after a change of single tools, where the site has any such thing.
    static func followChange(of site: Site) async throws {
        let outputs = try SiteOutputs(site, environment: ProcessInfo.processInfo.environment)
        if !outputs.isEmpty { tellFailures(await outputs.write()) }
    }
}

struct SiteInitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Make a site that follows the farm's channel, with a site.yaml to edit.",
        discussion: "Example:\n  sciferry site init --site /software --tool fsl --tool 'afni/24.*'")

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Option(help: "A tool that it shall carry, NAME or NAME/VERSION, with * for anything; may be repeated.") var tool: [String] = []

    func run() async throws {
        try await reporting {
            let site = try await SiteAccess.open(site, farm: farm)
            let path = "\(site.root)/site.yaml"
            if Disk.exists(path) {
                throw FarmError(
                    "site.exists", .conflict, "\(path) is there already", hint: "edit it, then: sciferry site sync --site \(site.root)")
            }
            let text = SiteInitCommand.beginning(tools: tool)
            _ = try SiteDeclarationFile.read(Array(text.utf8), path: path) { _ in "" }
            try Disk.replace(path, with: Array(text.utf8))
            if farm.json { return try Console.json(["site": site.root, "declaration": path]) }
            Console.print("made  \(site.root)")
            Console.print("edit  \(path)")
            Console.print("then  sciferry site sync --site \(site.root)")
        }
    }

    static func beginning(tools: [String]) -> String {
        let rules = tools.isEmpty ? ["\"*\""] : tools.map { "\"\($0.replacing("\\", with: "\\\\").replacing("\"", with: "\\\""))\"" }
        return """
            # What this site carries; `sciferry site sync` makes it so. All keys: docs/sites.md.
            tools:
            \(rules.map { "  - \($0)" }.joined(separator: "\n"))

            # CPU targets of the machines that use the site; this machine's when nothing is said.
            # targets: [zen4, skylake_avx512, x86_64_v2]

            # modules:
            #   naming: flat            # or category, easybuild
            #   defaults: {fsl: 6.0.7}
            #   hidden: ["fsl/5.*"]

            # run:
            #   runtime: auto           # or apptainer, singularity, bwrap, podman, docker
            #   bind: [/scratch]

            # licences:
            #   FS_LICENSE: licences/freesurfer.txt

            # outputs:                  # what each sync writes besides
            #   menu: system            # or user, or a directory
            #   shpc: /srv/shpc
            #   neurodesk: /srv/neurodesk
            #   mirror: s3:https://store.example/software

            # keep: {generations: 3, days: 14}

            """
    }
}

struct SiteSyncCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sync", abstract: "Make a site what its site.yaml says.",
        discussion: """
            Says first what comes and what goes. What runs meanwhile keeps running; a sync that is stopped goes on the next time.
            Ends with 69 when something could not be brought or written; the rest is shown nevertheless.
            Examples:
              sciferry site sync --site /software --dry-run
              sciferry site sync --site /software --quiet     from cron
            """)

    @OptionGroup var site: SiteOptions
    @Flag(name: .shortAndLong, help: "Only say what would come and go.") var dryRun = false
    @Flag(name: .shortAndLong, help: "Say nothing unless something fails.") var quiet = false
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let site = try site.open()
            let (declaration, pull) = (try SiteAccess.declaration(of: site), try SiteAccess.pull(site))
            let sync = SiteSync(site, pull: pull, declaration: declaration, host: try SiteAccess.host())
            let plan = try await sync.plan(now: .now)
            if dryRun, json { try Console.json(plan) }
            if !quiet, !json { describe(plan, declaration.appearance.outputs) }
            if dryRun {
                if !plan.failures.isEmpty { throw ExitCode(FarmError.Category.unavailable.exitStatus) }
                return
            }
            let line = ProgressLine()
            let pace = TransferPace()
            let shows = !quiet && !json && Console.isTerminal
            var report = try await sync.run(plan, now: .now) { done, total in
                let text = pace.text("\(plan.coming.count) images", done: done, total: total)
                if shows { line.show(text, share: Double(done) / Double(max(1, total))) }
            }
            line.clear()
            report.outputs = try await SiteAccess.writeOutputs(of: site)
            if let location = declaration.appearance.outputs.mirror { report.outputs.append(await mirror(plan, to: location, pull)) }
            if json { try Console.json(report) } else { tell(report) }
            if !report.failures.isEmpty || report.outputs.contains(where: { $0.failure != nil }) {
                throw ExitCode(FarmError.Category.unavailable.exitStatus)
            }
        }
    }

    /// The channel's objects go where other sites find them.
    private func mirror(_ plan: SiteSync.Plan, to location: BucketLocation, _ pull: SitePull) async -> SiteOutputs.Result {
        var result = SiteOutputs.Result(output: "mirror", place: "\(location)")
        do {
            let target = try location.open(client: HTTPClient())
            result.done = try await SiteMirror(site.open(), pull: pull, target: target).write(plan, now: .now)
        } catch { result.failure = "\(error)" }
        SiteAccess.tellFailures([result])
        return result
    }

    private func describe(_ plan: SiteSync.Plan, _ outputs: SiteAppearance.Outputs) {
        for coming in plan.coming {
            Console.print(
                "comes  \(coming.release.title), \(Console.bytes(coming.imageBytes)), \(Console.bytes(coming.fetchBytes)) to fetch")
        }
        for title in plan.appearing { Console.print("shows  \(title), which is here already") }
        for title in plan.going { Console.print("goes   \(title)") }
        for (title, reason) in plan.yanked.sorted(by: { $0.key < $1.key }) {
            Console.print("yanked \(title), which stays, hidden: \(reason)")
        }
        let shared = plan.shared.sorted { $0.key < $1.key }
        for (command, tools) in shared.prefix(10) { Console.print("shared \(command) is a command of \(tools.joined(separator: ", "))") }
        if shared.count > 10 { Console.print("shared \(shared.count - 10) more commands are those of several tools: --json lists them") }
        if dryRun { for failure in plan.failures { Console.error("wrong  \(failure)") } }
        let places = [
            ("menu", outputs.menu), ("shpc", outputs.shpc), ("neurodesk", outputs.neurodesk), ("mirror", outputs.mirror.map { "\($0)" }),
        ]
        for (output, place) in places { if let place { Console.print("writes \(output) in \(place)") } }
        Console.print(
            "plan   \(plan.coming.count) images come with \(plan.coming.count > 1 ? "at most " : "")\(Console.bytes(plan.fetchBytes)) to fetch, \(plan.going.count) tools go, \(plan.staying) stay; channel version \(plan.channel)"
        )
    }

    private func tell(_ report: SiteSync.Report) {
        for incident in report.incidents {
            Console.error("damage met in \(incident.region): \(incident.message); another region served it")
        }
        for failure in report.failures { Console.error("not brought: \(failure)") }
        if quiet { return }
        for output in report.outputs { if let done = output.done { Console.print("\(output.output)  \(output.place): \(done)") } }
        if !report.collected.images.isEmpty {
            Console.print("collected  \(report.collected.images.count) images, \(Console.bytes(report.collected.bytes))")
        }
        Console.print(
            "done   generation \(report.generation); \(report.images) images, \(Console.bytes(report.fetchedBytes)) fetched in \(Console.seconds(report.seconds))"
        )
    }
}

struct SiteHistoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history", abstract: "List the generations that a site keeps.",
        discussion: "Example:\n  sciferry site history --site /software")

    @OptionGroup var site: SiteOptions
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let site = try site.open()
            let history = try site.history()
            if json { return try Console.json(history) }
            let current = try site.current()?.number
            Console.table(
                ["GENERATION", "MADE", "TOOLS", "BY"],
                history.map {
                    [$0.number == current ? "\($0.number) *" : "\($0.number)", Console.date($0.madeAt), "\($0.tools.count)", $0.title]
                })
        }
    }
}

struct SiteRollbackCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rollback", abstract: "Show an earlier generation again.",
        discussion: """
            One rename; what runs keeps running. The next sync goes forward again: change site.yaml to stay.
            Examples:
              sciferry site rollback --site /software
              sciferry site rollback 12 --site /software
            """)

    @OptionGroup var site: SiteOptions
    @Argument(help: "A generation (default: the one before).") var generation: Int?
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let site = try site.open()
            let shown = try site.rollBack(to: generation, now: .now)
            try await SiteAccess.writeOutputs(of: site)
            if json { return try Console.json(shown) }
            Console.print("generation \(shown.number) of \(Console.date(shown.madeAt)) is shown: \(shown.tools.count) tools")
        }
    }
}

struct SiteCollectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collect", abstract: "Take away what no kept generation needs.",
        discussion: """
            Keeps what site.yaml says under `keep`: without it three generations before the current one, and all of 14 days.
            Examples:
              sciferry site collect --site /software --dry-run
            """)

    @OptionGroup var site: SiteOptions
    @Flag(name: .shortAndLong, help: "Only say what would go.") var dryRun = false
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let site = try site.open()
            let keeps =
                Disk.exists("\(site.root)/site.yaml") ? try SiteAccess.declaration(of: site).appearance.keeps : try site.appearance().keeps
            let result = try site.collect(keeps, now: .now, isTrial: dryRun)
            if json { return try Console.json(result) }
            Console.print(
                "\(dryRun ? "would take" : "took") away \(result.images.count) images (\(Console.bytes(result.bytes))), \(result.generations.count) generations, \(result.tools.count) tools' wrappers"
            )
        }
    }
}
