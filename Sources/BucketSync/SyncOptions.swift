package import FarmModel
import HTTPTransport

/// How one run goes.
package struct SyncOptions: Sendable {
    package enum Deletion: String, Sendable, Codable, CaseIterable { case before, during, after }

    /// What happens to transfers that go on when a limit is met.
    package enum Cutoff: String, Sendable, Codable, CaseIterable {
        /// They end at once.
        case hard
        /// They come to their end; none begins.
        case soft
        /// None begins that would go beyond the limit.
        case cautious
    }

    package var comparison = Comparison.checksum
    package var filter = ObjectFilter.all
    /// Only say what would be done.
    package var dryRun = false
    /// Remove what the source does not have; `nil` keeps it.
    package var deletes: Deletion?
    /// Remove what filters leave out, too.
    package var deletesExcluded = false
    /// Remove even though something failed.
    package var ignoresErrors = false
    /// More objects, or more bytes, are not removed: then none is.
    package var mostDeleted: Int?
    package var mostDeletedBytes: Int64?
    /// Seconds that an object must have been missing in the source before it is removed; `nil` for those of a farm's mirror, 0 elsewhere.
    package var grace: Double?
    /// What is replaced or removed in the destination is changed in nothing: it stands against the run.
    package var isImmutable = false
    /// What the destination has is left alone.
    package var ignoresExisting = false
    /// Everything is copied, alike or not.
    package var ignoresTimes = false
    /// What is newer in the destination is left alone.
    package var updatesOnly = false
    /// Put behind the names of what is moved to the backup.
    package var suffix = ""
    package var mostBytes: Int64?
    package var mostSeconds: Double?
    package var cutoff = Cutoff.hard
    /// Half as many objects above 2 MiB are transferred at once, or four times as many smaller ones.
    package var transfers = 4
    /// Parts of one object that are sent at once.
    package var partsAtOnce = 4
    /// Larger objects go in parts.
    package var partsAbove: Int64 = 200 << 20
    /// Of everything that failed, so many times all in all.
    package var rounds = 3
    /// Of one object, so many times in a row where it may pass.
    package var tries = 5
    /// Times that differ by less are the same, in seconds.
    package var window = 1.0
    /// Whether the stores may copy by themselves.
    package var copiesOnServer = true
    package var bandwidth = BandwidthLimit(nil)
    /// How the destination is written; `nil` for what the source is.
    package var order: SyncOrder?

    /// How one object is tried again: services that say for how long they want to be left alone are waited for up to 5 minutes.
    var patience: RetryPolicy { RetryPolicy(attempts: max(1, tries), patience: 300) }

    package init() {}
}

/// What a run found of one key, as rclone's combined report has it.
package enum SyncSign: String, Sendable, Codable {
    case same = "="
    /// Only the destination has it.
    case extra = "-"
    /// Only the source has it.
    case lacking = "+"
    case differs = "*"
    case failed = "!"
}

/// What happens in a run.
package enum SyncEvent: Sendable {
    case listed(source: Int, destination: Int)
    case planned(objects: Int, bytes: Int64)
    case found(key: String, SyncSign)
    case copied(key: String, bytes: Int64, seconds: Double, onServer: Bool)
    case deleted(key: String, bytes: Int64)
    case backedUp(key: String)
    case failed(key: String, FarmError)
    /// An upload that an earlier run broke off goes on: so many of its bytes were there.
    case resumed(key: String, bytes: Int64)
}

/// What a run did, or would do.
package struct SyncReport: Codable, Sendable, Hashable {
    /// Keys that were looked at.
    package var examined = 0
    package var same = 0
    package var copied = 0
    package var copiedBytes: Int64 = 0
    package var copiedOnServer = 0
    package var deleted = 0
    package var deletedBytes: Int64 = 0
    /// Missing in the source, and kept until the grace time is over.
    package var waiting = 0
    /// Left alone because the run's settings say so.
    package var left = 0
    package var failed = 0
    /// Source objects that were refused because their bytes are not those of their name.
    package var damaged: [String] = []
    /// Why the run ended before everything was done: `max-transfer` or `max-duration`.
    package var limit: String?
    package var dryRun = false

    package init() {}

    /// What a deletion found and did.
    mutating func add(_ other: SyncReport) {
        examined += other.examined
        deleted += other.deleted
        deletedBytes += other.deletedBytes
        waiting += other.waiting
        failed += other.failed
    }
}
