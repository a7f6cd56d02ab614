package import FarmModel
package import ObjectStorage

/// How regions are looked after: `audits` in `farm.json`.
package struct AuditPolicy: Codable, Sendable, Hashable {
    /// Hours between two comparisons of what regions list with what releases need; 0 for none but those that are asked for.
    package var listingHours: Double
    /// Hours between two readings of a share of the packs of each region; 0 for none.
    package var readingHours: Double
    /// The share of its packs that one reading reads; the next one reads others, until all have been read.
    package var readingShare: Double
    /// Whether what is missing or damaged is brought from another region.
    package var repairs: Bool

    package init() { (listingHours, readingHours, readingShare, repairs) = (24, 168, 0.125, true) }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        let usual = AuditPolicy()
        listingHours = try values.decodeIfPresent(Double.self, forKey: .listingHours) ?? usual.listingHours
        readingHours = try values.decodeIfPresent(Double.self, forKey: .readingHours) ?? usual.readingHours
        readingShare = try values.decodeIfPresent(Double.self, forKey: .readingShare) ?? usual.readingShare
        repairs = try values.decodeIfPresent(Bool.self, forKey: .repairs) ?? usual.repairs
    }

    /// Throws `farm.audits`, naming `source`.
    func check(_ source: String) throws {
        guard listingHours >= 0, readingHours >= 0, (0.001...1).contains(readingShare) else {
            throw FarmError(
                "farm.audits", .invalid, "\(source): \"audits\" has a number that makes no sense",
                hint: "hours are not negative, and \"readingShare\" is 0.001 to 1")
        }
    }

    /// Into so many parts all packs are divided.
    var slices: Int { max(1, Int((1 / readingShare).rounded(.up))) }
}

/// The wish for an audit.
package struct AuditRequest: Codable, Sendable, Hashable {
    package enum Kind: String, Codable, Sendable, Hashable, CaseIterable {
        /// Listings are compared with what releases need.
        case listing
        /// In addition what each region's channel leads to is followed, and a share of the packs is read.
        case reading
        /// The same with all packs.
        case whole
    }

    package var kind: Kind
    /// Names of regions; empty for all.
    package var regions: [String]
    /// Whether what is missing or damaged is brought from another region.
    package var repairs: Bool

    package init(kind: Kind, regions: [String] = [], repairs: Bool) { (self.kind, self.regions, self.repairs) = (kind, regions, repairs) }
}

/// What an audit found in one region.
package struct RegionAudit: Codable, Sendable, Hashable {
    /// What is wrong with one object.
    package struct Fault: Codable, Sendable, Hashable {
        package var key: String
        package var message: String
    }

    package var kind: AuditRequest.Kind
    package var startedAt: Timestamp
    package var endedAt: Timestamp?
    package var by: String
    /// Whether what was missing or damaged was brought from another region.
    package var repairs: Bool
    /// Why it ended early.
    package var error: String?
    /// Objects that releases need, and their bytes as far as the region has them.
    package var objects = 0
    package var bytes: Int64 = 0
    package var packsRead = 0
    package var bytesRead: Int64 = 0
    /// What was brought from another region.
    package var repaired = 0
    package var repairedBytes: Int64 = 0
    /// What is missing or damaged still; `faults` has the first of both.
    package var missing = 0
    package var damaged = 0
    package var faults: [Fault] = []

    static let mostFaults = 100

    package init(_ request: AuditRequest, by who: String, startedAt: Timestamp) {
        (kind, repairs, by, self.startedAt) = (request.kind, request.repairs, who, startedAt)
    }

    package var isSound: Bool { error == nil && missing == 0 && damaged == 0 }

    mutating func note(_ key: String, _ message: String) {
        if faults.count < RegionAudit.mostFaults { faults.append(Fault(key: key, message: message)) }
    }
}

/// What is remembered of a region from one start of the coordinator to the next.
package struct RegionRecord: Codable, Sendable, Hashable {
    /// The last audit of each depth.
    package var listing: RegionAudit?
    package var reading: RegionAudit?
    /// The part of the packs that is read next.
    package var nextSlice = 0
    /// Since when it does not show the newest channel.
    package var behindSince: Timestamp?
    package var abilities: StoreAbilities?

    package init() {}

    /// Packs that were damaged when they were read last. They are read again by every reading, whatever its part: only so is it known that
    /// they are sound again.
    package var suspects: Set<Digest> {
        Set(
            (reading?.faults ?? []).compactMap {
                $0.key.hasPrefix("packs/") ? $0.key.split(separator: "/").last.flatMap { Digest($0) } : nil
            })
    }

    /// Remembers an audit; `slices` is how many parts a region's packs are read in.
    package mutating func take(_ audit: RegionAudit, slices: Int) {
        if audit.kind == .listing {
            listing = audit
            return
        }
        var audit = audit
        if audit.error != nil, let last = reading {
            // It may not have come to what was damaged before.
            let known = Set(audit.faults.map(\.key))
            for fault in last.faults where !known.contains(fault.key) { audit.note(fault.key, fault.message) }
            audit.damaged = max(audit.damaged, last.damaged)
        }
        reading = audit
        // It compared the listings, too.
        listing = nil
        if audit.kind == .reading, audit.error == nil { nextSlice = (nextSlice + 1) % slices }
    }

    /// The last audit, which found out whether anything is missing.
    package var lastAudit: RegionAudit? { [listing, reading].compactMap(\.self).max { $0.startedAt < $1.startedAt } }
}

/// How a region stands.
package struct RegionStatus: Codable, Sendable, Hashable {
    package var name: String
    package var bucket: String
    /// When it was asked for its channel last, and has answered.
    package var askedAt: Timestamp?
    /// Why it could not be asked.
    package var error: String?
    /// The version of the channel that it shows, and the newest one.
    package var version: Int?
    package var newest: Int?
    /// Since when it shows an older one, or none.
    package var behindSince: Timestamp?
    /// Releases that it does not have yet.
    package var waiting = 0
    /// It is new, and gets what the others have before its channel.
    package var isFilling = false
    /// An audit goes on.
    package var isAudited = false
    package var record = RegionRecord()

    package init(name: String, bucket: String) { (self.name, self.bucket) = (name, bucket) }

    /// Seconds that it is behind.
    package func lag(now: Timestamp) -> Double { behindSince.map { max(0, now.seconds(since: $0)) } ?? 0 }

    /// What an operator should know at once; empty when all is well.
    ///
    /// - Parameter patience: seconds that a region may be behind.
    package func troubles(now: Timestamp, patience: Double) -> [String] {
        var found: [String] = []
        if let error { found.append("does not answer: \(error)") }
        if lag(now: now) > patience { found.append("is behind for \(Int(lag(now: now))) s") }
        if let audit = record.lastAudit, audit.missing > 0 { found.append("\(audit.missing) objects are missing") }
        // Listings do not show that rot is gone.
        let damaged = max(record.listing?.damaged ?? 0, record.reading?.damaged ?? 0)
        if damaged > 0 { found.append("\(damaged) objects are damaged") }
        if let error = record.listing?.error { found.append("the last audit ended early: \(error)") }
        if let error = record.reading?.error { found.append("the last reading ended early: \(error)") }
        do { try record.abilities?.checkFitness("it") } catch let error as FarmError { found.append("is left out: \(error.message)") } catch
        {}
        return found
    }
}
