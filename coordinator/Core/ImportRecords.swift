package import FarmModel

/// An image of a catalogue as the journal keeps it: what the farm can take in, and what has come of it.
package struct ImportRecord: Codable, Sendable, Hashable {
    package var entry: CatalogueEntry
    /// SHA-256 of its plan, by which its release is found.
    package var plan: Digest
    package var addedBy: String
    package var addedAt: Timestamp
    /// The last job that was to take it in.
    package var job: JobID?

    package init(entry: CatalogueEntry, plan: Digest, addedBy: String, addedAt: Timestamp) {
        self.entry = entry
        self.plan = plan
        self.addedBy = addedBy
        self.addedAt = addedAt
    }
}

/// Brings images of a catalogue to the farm's knowledge.
package struct ImportRequest: Codable, Sendable, Hashable {
    package var entries: [CatalogueEntry]

    package init(entries: [CatalogueEntry]) { self.entries = entries }
}

/// What became of an `ImportRequest`.
package struct ImportAnswer: Codable, Sendable, Hashable {
    package var added = 0
    /// Known before, and something about them is another now.
    package var changed = 0
    package var unchanged = 0

    package init() {}
}

/// Asks for an image of a catalogue.
package struct ImportWish: Codable, Sendable, Hashable {
    package var release: ReleaseWish
    /// `nil` for whatever there is.
    package var architecture: String?
    /// `nil` for whichever has it.
    package var catalogue: String?

    package init(_ release: ReleaseWish, architecture: String? = nil, catalogue: String? = nil) {
        self.catalogue = catalogue
        self.release = release
        self.architecture = architecture
    }
}

/// Asks for all that a catalogue has and the farm has not.
package struct CatalogueWish: Codable, Sendable, Hashable {
    package var catalogue: String

    package init(catalogue: String) { self.catalogue = catalogue }
}

/// An image of a catalogue as people and programs see it.
package struct ImportView: Codable, Sendable, Hashable {
    package enum State: String, Codable, Sendable, Hashable {
        /// Nobody has asked for it yet.
        case known
        case fetching, released, failed
    }
    package var entry: CatalogueEntry
    package var state: State
    package var job: JobID?
    package var release: Digest?
    /// Why the last job failed.
    package var problem: String?
}
