package import FarmModel

/// The wish for a collection.
package struct CollectionRequest: Codable, Sendable, Hashable {
    /// Only to say what would be done.
    package var isDryRun: Bool

    package init(isDryRun: Bool) { self.isDryRun = isDryRun }
}

/// What a collection of the regions found and did.
package struct CollectionReport: Codable, Sendable, Hashable {
    /// Objects of one kind of fate; bytes in all regions.
    package struct Tally: Codable, Sendable, Hashable {
        package var objects = 0
        package var bytes: Int64 = 0
    }

    /// A release that was taken out of the channel.
    package struct Retired: Codable, Sendable, Hashable {
        package var title: String
        package var why: String
    }

    /// What a tool, or one of its versions, costs.
    package struct Cost: Codable, Sendable, Hashable {
        package var name: String
        /// Empty for all versions together.
        package var version: String
        /// Of its images.
        package var imageBytes: Int64
        /// Stored bytes that nothing else needs: what its deletion would free in each region.
        package var ownBytes: Int64
    }

    package var startedAt: Timestamp
    package var endedAt: Timestamp?
    package var by: String
    package var isDryRun: Bool
    /// Why it ended early.
    package var error: String?
    package var retired: [Retired] = []
    /// Some region's channel names what has been retired, and is to be signed anew.
    package var isChannelStale = false
    package var condemned = Tally()
    /// Condemned earlier, still within the grace time or needed by what began before.
    package var waiting = Tally()
    package var spared = Tally()
    package var removed = Tally()
    /// Packs that were written anew, or would be.
    package var repackedPacks = 0
    package var newPacks = 0
    package var movedBytes: Int64 = 0
    /// Packs that are needed and that no region has whole.
    package var lostPacks: [Digest] = []
    package var images = 0
    package var imageBytes: Int64 = 0
    /// Stored bytes of chunks that images need, each once.
    package var neededBytes: Int64 = 0
    /// All packs of the first region.
    package var packBytes: Int64 = 0
    package var packs = 0
    package var costs: [Cost] = []

    package init(startedAt: Timestamp, by: String, isDryRun: Bool) { (self.startedAt, self.by, self.isDryRun) = (startedAt, by, isDryRun) }
}

extension CollectionReport.Tally {
    mutating func add(_ bytes: Int64) { (objects, self.bytes) = (objects + 1, self.bytes + bytes) }
}
