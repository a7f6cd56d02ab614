import ArgumentParser
import BucketSync
import FarmModel
import Foundation
import HTTPTransport
import ObjectStorage
import SystemIO

/// What sync and copy have in common.
struct TransferOptions: ParsableArguments {
    @Argument(help: "The source: file:/directory, s3:https://endpoint/bucket/prefix?region=NAME, https://mirror.") var source: String
    @Argument(help: "The destination: file:/directory, s3:https://endpoint/bucket/prefix.") var destination: String
    @OptionGroup var filters: FilterOptions
    @OptionGroup var comparing: ComparisonOptions
    @OptionGroup var reporting: ReportOptions
    @Flag(name: .shortAndLong, help: "Only say what would be done.") var dryRun = false
    @Option(help: "A bucket that takes what is replaced or removed.") var backupDir: String?
    @Option(help: "Put behind the names of what goes to --backup-dir.") var suffix: String?
    @Flag(help: "Change nothing that is there: what differs is an error.") var immutable = false
    @Flag(help: "Leave alone what the destination has, alike or not.") var ignoreExisting = false
    @Flag(help: "Copy everything, alike or not.") var ignoreTimes = false
    @Flag(name: .shortAndLong, help: "Leave alone what is newer in the destination.") var update = false
    @Option(help: "End after so many bytes: 10G.") var maxTransfer: String?
    @Option(help: "End after so long: 90s, 2h.") var maxDuration: String?
    @Option(
        help: "What becomes of transfers that a limit meets: hard ends them, soft lets them end, cautious begins none that would go beyond."
    )
    var cutoffMode = "hard"
    @Option(help: "Bytes a second: 10M, up and down 10M:1M, or a timetable \"08:00,512k 19:00,off\". SIGUSR2 switches it off and on.")
    var bwlimit: String?
    @Option(help: "A file that holds the same, and is read again whenever it changes.", completion: .file()) var bwlimitFrom: String?
    @Option(help: "How much goes at once: half as many objects above 2 MiB, or four times as many smaller ones.") var transfers = 4
    @Option(help: "Parts of one object that are sent at once.") var partsAtOnce = 4
    @Option(help: "Larger objects are sent in parts: 200M.") var partsAbove = "200M"
    @Option(help: "Times that what failed is tried, all in all.") var retries = 3
    @Option(help: "Times that one object is tried in a row.") var lowLevelRetries = 5
    @Flag(help: "Bytes go through this machine even where the service could copy by itself.") var disableServerCopy = false
    @Flag(help: "Status 9 when nothing was copied.") var errorOnNoTransfer = false

    func options() throws -> SyncOptions {
        var options = SyncOptions()
        options.filter = try filters.rules()
        options.comparison = comparing.comparison
        options.dryRun = dryRun
        options.suffix = suffix ?? ""
        options.isImmutable = immutable
        options.ignoresExisting = ignoreExisting
        options.ignoresTimes = ignoreTimes
        options.updatesOnly = update
        options.mostBytes = try maxTransfer.map { try FilterOptions.bytes($0, "--max-transfer") }
        options.mostSeconds = try maxDuration.map { try FilterOptions.seconds($0, "--max-duration") }
        guard let cutoff = SyncOptions.Cutoff(rawValue: cutoffMode.lowercased()) else {
            throw FarmError("sync.option", .usage, "--cutoff-mode \(cutoffMode) is neither hard, soft nor cautious")
        }
        options.cutoff = cutoff
        for (name, value, range) in [
            ("--transfers", transfers, 1...64), ("--parts-at-once", partsAtOnce, 1...64), ("--retries", retries, 1...100),
            ("--low-level-retries", lowLevelRetries, 1...100),
        ] where !range.contains(value) {
            throw FarmError("sync.option", .usage, "\(name) is \(range.lowerBound) to \(range.upperBound)")
        }
        (options.transfers, options.partsAtOnce, options.rounds, options.tries) = (transfers, partsAtOnce, retries, lowLevelRetries)
        options.partsAbove = max(5 << 20, try FilterOptions.bytes(partsAbove, "--parts-above"))
        options.copiesOnServer = !disableServerCopy
        if suffix != nil, backupDir == nil {
            throw FarmError("sync.option", .usage, "--suffix goes with --backup-dir", hint: "name the bucket that takes what is replaced")
        }
        if bwlimit != nil, bwlimitFrom != nil { throw FarmError("sync.option", .usage, "--bwlimit and --bwlimit-from exclude each other") }
        return options
    }

    /// Runs, shows what happens, and ends with the status that docs/sync.md gives.
    func run(_ options: SyncOptions) async throws {
        let (from, to) = (try Buckets.source(source), try Buckets.open(destination))
        let backup = try backupDir.map { try Buckets.open($0) }
        let limit = try BandwidthWatch(text: bwlimit, file: bwlimitFrom)
        var options = options
        options.bandwidth = limit.limit
        let progress = SyncProgress()
        let display = try SyncDisplay(reporting, progress, showsObjects: dryRun)
        let run = BucketSync(
            from: from, to: to, backup: backup, options: options, memory: try Buckets.memory(from, to), progress: progress
        ) { display.tell($0) }
        let report: SyncReport
        do { report = try await display.watching { try await run.run() } } catch {
            try display.end()
            throw error
        }
        try display.end(report)
        try status(report, display.firstError)
    }

    private func status(_ report: SyncReport, _ error: FarmError?) throws {
        if !report.damaged.isEmpty { throw ExitCode(FarmError.Category.corrupt.exitStatus) }
        if report.failed > 0 { throw ExitCode((error?.category ?? .failed).exitStatus) }
        if let limit = report.limit { throw ExitCode(limit == "max-transfer" ? 8 : 10) }
        if errorOnNoTransfer, report.copied == 0 { throw ExitCode(9) }
    }
}

struct SyncCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sync", abstract: "Make a bucket hold exactly what another one holds.",
        discussion: """
            Objects are compared by size and checksum, copied, and made sure of; then what the source does not have is removed, unless
            something failed. A run that was killed goes on where it was, in the middle of an object too. A farm's bucket is written in an
            order that lets its mirror be used at every instant, verified by name, and keeps what the source lacks for 48 h (--grace).
            Options have rclone's names and meaning where rclone has them; docs/sync.md has the differences and the statuses.
            Examples:
              sciferry sync file:/srv/farm/regions/region-a s3:https://store.example/mirror?region=west
              sciferry sync s3:https://a.example/data s3:https://b.example/data --exclude "*.tmp" --dry-run
              sciferry sync file:/data s3:https://b.example/data --bwlimit "08:00,5M 19:00,off" --max-delete 100
            """)

    @OptionGroup var transfer: TransferOptions
    @Flag(help: "Remove before anything is copied.") var deleteBefore = false
    @Flag(help: "Remove while other objects are copied.") var deleteDuring = false
    @Flag(help: "Remove when everything is copied (default).") var deleteAfter = false
    @Flag(help: "Remove what filters leave out, too.") var deleteExcluded = false
    @Flag(help: "Remove even though something failed.") var ignoreErrors = false
    @Option(help: "Remove nothing if it would be more objects.") var maxDelete: Int?
    @Option(help: "Remove nothing if it would be more bytes: 10G.") var maxDeleteSize: String?
    @Option(help: "Remove only what the source has lacked for so long (default: 48h for farms, else 0).") var grace: String?

    func run() async throws {
        try await Commands.reporting {
            var options = try transfer.options()
            guard [deleteBefore, deleteDuring, deleteAfter].filter({ $0 }).count <= 1 else {
                throw FarmError("sync.option", .usage, "--delete-before, --delete-during and --delete-after exclude each other")
            }
            options.deletes = deleteBefore ? .before : deleteDuring ? .during : .after
            options.deletesExcluded = deleteExcluded
            options.ignoresErrors = ignoreErrors
            options.mostDeleted = maxDelete.flatMap { $0 < 0 ? nil : $0 }
            options.mostDeletedBytes = try maxDeleteSize.map { try FilterOptions.bytes($0, "--max-delete-size") }
            options.grace = try grace.map { try FilterOptions.seconds($0, "--grace") }
            try await transfer.run(options)
        }
    }
}

struct CopyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "copy", abstract: "Copy what a bucket has and another lacks; remove nothing.",
        discussion: """
            As `sciferry sync`, without its last step.
            Example:
              sciferry copy s3:https://a.example/data file:/data --include "*.nii.gz" --max-age 7d
            """)

    @OptionGroup var transfer: TransferOptions

    func run() async throws { try await Commands.reporting { try await transfer.run(try transfer.options()) } }
}

struct CheckCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Say whether two buckets hold the same; status 1 if they do not.",
        discussion: """
            Where no checksum is at hand both objects are read.
            Example:
              sciferry check file:/data s3:https://b.example/data --combined -
            """)

    @Argument(help: "The source.") var source: String
    @Argument(help: "The destination.") var destination: String
    @OptionGroup var filters: FilterOptions
    @OptionGroup var comparing: ComparisonOptions
    @OptionGroup var reporting: ReportOptions
    @Flag(help: "What only the destination has is no difference.") var oneWay = false
    @Flag(help: "Read all bytes of both.") var download = false

    func run() async throws {
        try await Commands.reporting {
            let (one, other) = (try Buckets.source(source), try Buckets.source(destination))
            let progress = SyncProgress()
            let display = try SyncDisplay(reporting, progress, showsObjects: false, showsDifferences: true)
            let check = BucketCheck(
                one, other, filter: try filters.rules(), comparison: comparing.comparison, isOneWay: oneWay, readsAll: download,
                memory: try? Buckets.memory(one, other), progress: progress
            ) { display.tell($0) }
            let report: BucketCheck.Report
            do { report = try await display.watching { try await check.run() } } catch {
                try display.end()
                throw error
            }
            try display.end()
            if reporting.json {
                try Console.json(report)
            } else {
                let total = report.same + report.differ + report.extra + report.lacking + report.failed
                let waiting = report.waiting > 0 ? ", \(report.waiting) more are kept until their grace time is over" : ""
                Console.print(
                    report.isSame
                        ? "\(total) objects are the same" + (report.read > 0 ? ", \(report.read) of them by reading both" : "") + waiting
                        : "\(report.same) objects are the same, \(report.differ) differ, \(report.lacking) are missing in the destination, \(report.extra) only there, \(report.failed) could not be compared\(waiting)"
                )
            }
            if report.failed > 0 { throw ExitCode((display.firstError?.category ?? .failed).exitStatus) }
            if !report.isSame { throw ExitCode(1) }
        }
    }
}
