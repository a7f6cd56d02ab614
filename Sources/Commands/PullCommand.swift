import Microarchitecture
import ArgumentParser
import ChunkStore
import CoordinatorCore
import FarmModel
import Foundation
import SiteDelivery
import Synchronization
import SystemIO

/// Brings releases to a site.
struct PullCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pull", abstract: "Fetch a release into a site, with its module and commands.",
        discussion: """
            Fetches only the chunks that the site lacks, from the first region that has them whole.
            Examples:
              sciferry pull dcm2niix --site /software
              sciferry pull dcm2niix/1.0 --dry-run
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME or NAME/VERSION.", completion: .custom(SiteAccess.complete)) var release: String
    @Option(name: .customLong("for"), help: "A CPU target (default: the best that this machine runs).") var target: String?
    @Flag(help: "Only say what it would cost.") var dryRun = false
    @Option(help: "A file that may share chunks, or a directory of such; may be repeated.", completion: .file()) var seed: [String] = []

    func run() async throws {
        try await reporting {
            let site = try await SiteAccess.open(site, farm: farm)
            let delivery = Delivery(farm: farm, seeds: seed, target: target)
            if dryRun { return try await delivery.quote(release, for: site) }
            let report = try await delivery.bring(release, to: site)
            try await SiteAccess.followChange(of: site)
            if farm.json { return try Console.json(report) }
            delivery.tell(report, site: site)
        }
    }
}

/// Brings releases to a site for the verbs that need one there, and says what it does.
struct Delivery {
    let farm: FarmOptions
    var seeds: [String] = []
    var target: String?
    /// Says nothing of what is there already, and the rest to the standard error: the command's own output is what counts.
    var isAside = false

    /// What the channel has or, where a catalogue of the farm has it, will have in a moment.
    private func offer(_ pull: SitePull, _ wish: ReleaseWish, isTrial: Bool = false) async throws -> SitePull.Offer {
        let host = try SiteAccess.host()
        do { return try await pull.offer(wish, target: target, host: host, now: .now) } catch let error as FarmError
            where ["channel.absent", "channel.target"].contains(error.code) && !isTrial
        {
            // Catalogues have images for whole families of machines, and no other.
            guard target == nil || target == host.family, let client = try? farm.client() else { throw error }
            let demand = ImportDemand(client: client, quiet: farm.json)
            guard let supplied = try await demand.supply(ImportWish(wish, architecture: host.family), orElse: error) else { throw error }
            return try await demand.appears { try await pull.offer(supplied, target: target, host: host, now: .now) }
        }
    }

    /// Says what bringing it would cost.
    func quote(_ release: String, for site: Site) async throws {
        let pull = try SiteAccess.pull(site, seeds: seeds)
        let offer = try await offer(pull, try ImportDemand.wish(release), isTrial: true)
        let quote = try await pull.quote(offer.release)
        if farm.json { return try Console.json(quote) }
        Console.print(
            "\(offer.release.title): \(Console.bytes(quote.fetchBytes)) to fetch for an image of \(Console.bytes(quote.imageBytes)); \(Console.bytes(quote.seedBytes)) are here already\(Console.about(pull.reader.seconds(for: quote.fetchBytes)))"
        )
    }

    /// Fetches what is missing, verifies it, and installs it.
    func bring(_ release: String, to site: Site) async throws -> Delivered {
        let pull = try SiteAccess.pull(site, seeds: seeds)
        let wish = try ImportDemand.wish(release)
        let offer = try await offer(pull, wish)
        let title = offer.release.title
        let line = ProgressLine()
        let shows = !farm.json && Console.isTerminal
        let pace = TransferPace()
        let report = try await pull.install(offer, now: .now) { done, total in
            if shows { line.show(pace.text(title, done: done, total: total), share: Double(done) / Double(max(1, total))) }
        }
        line.clear()
        return Delivered(report: report, targets: offer.targets, host: offer.host, wanted: wish.version, yanked: offer.yanked)
    }

    func tell(_ delivered: Delivered, site: Site) {
        let report = delivered.report
        let release = report.release
        for incident in report.incidents {
            Console.error("damage met in \(incident.region): \(incident.message); another region served it")
        }
        if report.alreadyThere {
            Console.print("\(release.title) is here already")
        } else {
            Console.print(
                "\(release.title): fetched \(Console.bytes(report.quote.fetchBytes)) for an image of \(Console.bytes(report.quote.imageBytes)) in \(Console.seconds(report.seconds))"
            )
        }
        if target == nil, delivered.targets.count > 1 {
            Console.print(
                "target  \(release.image.target), the highest of \(delivered.targets.joined(separator: ", ")) that this machine (\(delivered.host)) runs"
            )
        }
        if let yanked = delivered.yanked { Console.error("note    \(release.name)/\(release.version) is yanked: \(yanked)") }
        if let emulator = release.emulator, release.verified?.allSatisfy({ $0.emulator != nil }) ?? true {
            Console.print("note    built and tested by an emulator, \(emulator), never on a CPU of \(release.image.target)")
        }
        if let origin = release.imported {
            Console.print("origin  \(origin.title)")
            if !release.tests.allSatisfy(\.passed) {
                Console.print("note    it did not start on \(release.builder) through \(release.testRuntime)")
            }
            if let version = delivered.wanted, version.contains("--"), origin.file != "\(release.name):\(version)" {
                Console.print("note    another build than \(version)")
            }
        }
        Console.print("image   \(site.imageDirectory(release.image.digest))/image.sif")
        Console.print("module  module use \(site.root)/modules && module load \(release.name)/\(release.version)")
        Console.print("path    \(site.root)/wrappers/\(release.name)/\(release.version)/bin")
    }
}

/// What was brought, and from what choice.
struct Delivered: Encodable {
    var report: SitePull.Report
    /// CPU targets that the version is there for.
    var targets: [String]
    var host: String
    /// The version that was asked for.
    var wanted: String?
    /// Why nobody should begin to use it.
    var yanked: String?

    func encode(to encoder: any Encoder) throws { try report.encode(to: encoder) }
}

/// How fast something comes, for people.
final class TransferPace: Sendable {
    private let state = Mutex<(start: Timestamp, first: Int64)?>(nil)

    /// `fsl 6.0.7 (x86_64_v3)  123 MB of 4.5 GB, 56 MB/s, 1 min left`
    func text(_ title: String, done: Int64, total: Int64) -> String {
        // What lay here already came at once, and says nothing of the rest.
        let begun = state.withLock { state in
            if let state { return state }
            let value = (start: Timestamp.now, first: done)
            state = value
            return value
        }
        let seconds = Timestamp.now.seconds(since: begun.start)
        var text = "\(title)  \(Console.bytes(done)) of \(Console.bytes(total))"
        guard seconds > 1, done > begun.first else { return text }
        let rate = Double(done - begun.first) / seconds
        text += ", \(Console.bytes(Int64(rate)))/s, \(Console.seconds(Double(total - done) / rate)) left"
        return text
    }
}
