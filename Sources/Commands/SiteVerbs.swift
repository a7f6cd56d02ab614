import ChunkStore
import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import HTTPTransport
import Microarchitecture
import ObjectStorage
import ProcessRunner
import SiteDelivery
import SystemIO
import TestSuites
import WorkerCore

/// Opens sites and what they read from.
enum SiteAccess {
    /// The site, made from the farm's description when it does not exist yet.
    static func open(_ options: SiteOptions, farm: FarmOptions) async throws -> Site {
        if Disk.exists("\(options.path)/site.json") { return try options.open() }
        SiteOptions.showToAll()
        let view: FarmView = try await farm.client().get("/api/v1/farm")
        return try Site.create(
            options.path,
            SiteConfiguration(farm: view.farm, channel: view.channel, regions: view.regions.map(\.bucket), root: view.root))
    }

    static func pull(_ site: Site, seeds: [String] = []) throws -> SitePull {
        let client = HTTPClient()
        var regions: [any ObjectStore] = []
        var failure: FarmError?
        for location in try site.configuration().regions {
            // One region that cannot be opened is no reason to go without the others.
            do { regions.append(try location.open(client: client)) } catch let error as FarmError {
                failure = error
                Console.error("\(location) is left out: \(error.message)")
            }
        }
        if regions.isEmpty, let failure { throw failure }
        return try SitePull(site: site, regions: regions, seeds: seeds)
    }

    static func host() throws -> Microarchitecture {
        guard let host = HostSurvey.processor()?.target else {
            throw FarmError("host.unknown", .unavailable, "this machine's CPU is unknown")
        }
        return host
    }

    /// `NAME`, `NAME/VERSION` or `NAME:VERSION`.
    static func split(_ text: String) -> (name: String, version: String?) {
        let parts = text.split(maxSplits: 1) { $0 == "/" || $0 == ":" }
        return (parts.first.map(String.init) ?? text, parts.count > 1 ? String(parts[1]) : nil)
    }
}

/// Takes a release away.
struct UninstallCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "uninstall", abstract: "Take a release's module, commands and image away from a site.",
        discussion: "Examples:\n  sciferry uninstall dcm2niix --site /software\n  sciferry uninstall dcm2niix/1.0 --keep-image")

    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME or NAME/VERSION.") var release: String
    @Flag(help: "Leave the image, so that `install` can bring the commands back.") var keepImage = false
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let (name, version) = SiteAccess.split(release)
            let victims = try site.open().uninstall(name: name, version: version, keepsImage: keepImage, now: .now)
            for release in victims.flatMap(\.releases) where !keepImage { await unmount(release.image.digest) }
            try await SiteAccess.followChange(of: try site.open())
            if json { return try Console.json(victims) }
            for victim in victims { Console.print("\(victim.title) is gone") }
        }
    }

    /// The launcher mounts an image once for each user; this user's mount would keep the file's space.
    private func unmount(_ image: Digest) async {
        let environment = ProcessInfo.processInfo.environment
        let above = ["XDG_RUNTIME_DIR", "TMPDIR"].compactMap { environment[$0] } + ["/tmp"]
        let names = ["USER", "LOGNAME"].compactMap { environment[$0] } + ["x", "\(getuid())"]
        let mounts =
            environment["SCIFERRY_MOUNTS"].map { [$0] } ?? above.flatMap { place in names.map { "\(place)/sciferry-mounts-\($0)" } }
        // Anybody can make a directory or a link of such a name.
        guard let path = mounts.filter(Disk.isOwnDirectory).map({ "\($0)/\(image.hex)" }).first(where: { Disk.kind($0) == .directory })
        else { return }
        if let holder = Disk.kernelText("\(path).d/holder")?.split(separator: " ").first.flatMap({ Int32($0) }),
            holder > 1, Disk.isDirectory("/proc/\(holder)/root/.sciferry")
        {
            kill(holder, SIGTERM)
        }
        for words in [["fusermount3", "-u", "-z", path], ["fusermount", "-u", "-z", path], ["umount", "--no-canonicalize", "-l", path]] {
            if let done = try? await ProcessRunner.run(Command(words[0], Array(words.dropFirst()), deadlineSeconds: 20)), done.succeeded {
                return
            }
        }
    }
}

/// Lists what a channel offers or a site holds.
struct ListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List what the farm has released, or with --site what a site holds.",
        discussion: "Examples:\n  sciferry list\n  sciferry list --site /software --json")

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions

    func run() async throws {
        try await reporting {
            if site.site != nil {
                let installed = try site.open().installed()
                if farm.json { return try Console.json(installed) }
                return Console.table(
                    ["NAME", "VERSION", "CPU", "SIZE", "COMMANDS"],
                    installed.map {
                        [
                            $0.name, $0.version, $0.releases.map(\.image.target).joined(separator: " "),
                            Console.bytes($0.releases.map(\.image.size).reduce(0, +)), $0.commands.joined(separator: " "),
                        ]
                    })
            }
            let releases: [ReleaseRecord] = try await farm.client().get("/api/v1/releases")
            if farm.json { return try Console.json(releases) }
            Console.table(
                ["NAME", "VERSION", "CPU", "SIZE", "BASE", "PUBLISHED", "IMAGE"],
                releases.map { record in
                    let release = record.release
                    return [
                        release.name, release.version, release.image.target, Console.bytes(release.image.size),
                        "\(release.base.name) (\(release.imported.map { $0.isVerified ? "imported" : "imported, unverified" } ?? release.base.origin.rawValue))",
                        Console.date(release.publishedAt),
                        release.image.digest.short + (record.yanked == nil ? "" : "  yanked"),
                    ]
                })
        }
    }
}

extension ShowCommand {
    /// The signed statements on the tests; where their region does not answer, their names.
    private func showEvidence(_ release: Release) async throws {
        for (kind, digest) in (release.records ?? [:]).sorted(by: { $0.key < $1.key }) where kind.hasPrefix(ImageRecord.tests) {
            let statement: Statement<TestEvidence>
            do { statement = try await farm.client().get("/api/v1/records/\(digest.hex)") } catch let error as FarmError {
                Console.print("  evidence   sha256:\(digest.hex), which cannot be had now: \(error.message)")
                continue
            }
            let (result, details) = (statement.predicate, statement.predicate.details)
            let cpu = [details.host, details.emulator.map { "emulated by \($0)" }].compactMap { $0 }.joined(separator: ", ")
            Console.print(
                "  evidence   \(result.result.rawValue) for \(details.asked) on \(details.worker) (\(cpu)) through \(details.runtime): sha256:\(digest.hex)"
            )
            for warning in result.warnedTests { Console.print("             \(warning)".printable()) }
        }
    }

    /// Tests of which nobody knows how they will go next.
    private func showFlaky(_ name: String) async throws {
        let runs: [TestRun] = try await farm.client().get("/api/v1/tests/\(name)")
        let flaky = TestHistory(runs).tests.filter(\.isFlaky)
        if !flaky.isEmpty {
            Console.print("  flaky      \(flaky.map { "\($0.name) (\($0.passed) of \($0.runs))" }.joined(separator: ", "))".printable())
        }
    }
}

/// Shows one release.
struct ShowCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show a tool's releases in full.", discussion: "Example:\n  sciferry show dcm2niix")

    @OptionGroup var farm: FarmOptions
    @Argument(help: "NAME or NAME/VERSION.") var release: String

    func run() async throws {
        try await reporting {
            let (name, version) = SiteAccess.split(release)
            let all: [ReleaseRecord] = try await farm.client().get("/api/v1/releases")
            let found = all.filter { $0.release.name == name && (version == nil || $0.release.version == version) }
            guard !found.isEmpty else {
                throw FarmError("release.absent", .notFound, "the farm has released no \(release)", hint: "sciferry list shows what it has")
            }
            if farm.json { return try Console.json(found) }
            for record in found {
                let shown = record.release
                Console.print(shown.title)
                Console.print("  \(shown.description.split(separator: "\n").first ?? "")")
                Console.print("  commands   \(shown.commands.joined(separator: " "))")
                Console.print("  licences   \(shown.licences.joined(separator: ", "))")
                Console.print("  image      sha256:\(shown.image.digest.hex), \(Console.bytes(shown.image.size))")
                Console.print("  release    sha256:\(record.digest.hex)")
                Console.print(
                    "  base       \(shown.base.name)@sha256:\(shown.base.digest.hex) (\(shown.base.origin.rawValue)\(shown.base.bootstrap.map { ": \($0)" } ?? ""))"
                )
                if let citation = shown.citation { Console.print("  cite       \(citation.split(separator: "\n").joined(separator: " "))") }
                if let origin = shown.imported { Console.print("  origin     \(origin.title)") }
                if let candidate = shown.candidate { Console.print("  candidate  \(candidate.title)") }
                Console.print("  built      by \(record.job) on \(shown.builder), published \(Console.date(shown.publishedAt))")
                Console.print(
                    "  tests      \(shown.tests.filter(\.passed).count) of \(shown.tests.count) passed through \(shown.testRuntime)")
                for found in shown.verified ?? [] { Console.print("             \(found.title)") }
                try await showEvidence(shown)
            }
            try await showFlaky(name)
        }
    }
}
