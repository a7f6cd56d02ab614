package import ChunkStore
package import FarmIdentity
package import FarmModel

/// One change of the farm's state; a transition is a list of them in one transaction.
package enum JournalChange: Sendable, Hashable {
    case job(JobRecord)
    case attempt(AttemptRecord)
    case worker(WorkerRecord)
    case token(TokenRecord)
    case access(AccessRecord)
    case input(LockedInput)
    case publication(PublicationRecord)
    case release(ReleaseRecord)
    case channel(ChannelRecord)
    case history(RunHistory)
    case night(NightRecord)
    case nightEntry(NightEntry)
    case imported(ImportRecord)
    /// How a suite went; the oldest ones of a tool go when there are many.
    case testRun(TestRun)
    /// Packs that have their final names, and the index that lists them.
    case packs([PackIndex.Listing], index: Digest)
    /// A pack that no region has whole any more: its chunks lie nowhere until they are uploaded again.
    case forget(pack: Digest)
    /// The same for all packs that are found through an index.
    case forgetListed(index: Digest)
    /// An object that nothing needs.
    case condemned(CondemnedObject)
    /// It is needed again, or gone.
    case settled(key: String)
}

/// Everything but the chunks, as read at a start.
package struct JournalSnapshot: Sendable, Hashable {
    package var jobs: [JobRecord] = []
    package var attempts: [AttemptRecord] = []
    package var workers: [WorkerRecord] = []
    package var tokens: [TokenRecord] = []
    package var access: [AccessRecord] = []
    package var inputs: [LockedInput] = []
    package var publications: [PublicationRecord] = []
    package var releases: [ReleaseRecord] = []
    package var channels: [ChannelRecord] = []
    package var histories: [RunHistory] = []
    package var imports: [ImportRecord] = []
    package var condemned: [CondemnedObject] = []
    /// The newest night, with its entries as long as it has not ended.
    package var night: NightFile?
    /// The number of the next job.
    package var nextNumber = 1

    package init() {}
}

/// A job with what belongs to it.
package struct JobFile: Sendable, Hashable {
    package var job: JobRecord
    package var attempts: [AttemptRecord]
    package var publication: PublicationRecord?

    package init(job: JobRecord, attempts: [AttemptRecord], publication: PublicationRecord?) {
        self.job = job
        self.attempts = attempts
        self.publication = publication
    }
}

/// The coordinator's truth. A conformance suite holds every implementation to this contract:
///
/// - `commit` is all or nothing, and durable when it returns;
/// - a change replaces the record of the same key;
/// - of a chunk that comes again its first place counts, unless the pack of that one is condemned;
/// - two open jobs that lead the same key, or two open attempts of one job, are refused (`journal.conflict`) and nothing
///   of that commit stays;
/// - `load` gives jobs in the order of their numbers, attempts in the order of their job's and their own, with the attempts and
///   publications of the jobs that it gives and no others.
///
/// Calls block; they belong on an executor of their own.
package protocol FarmJournal: Sendable {
    ///
    /// - Parameter recent: so many of the newest jobs come along, beside those that are open or being published.
    func load(recent: Int) throws -> JournalSnapshot
    func commit(_ changes: [JournalChange]) throws
    /// A job of any age with what belongs to it.
    func job(_ id: JobID) throws -> JobFile?
    /// The names of the newest jobs with a number below `number`, oldest first.
    func jobs(before number: Int, limit: Int) throws -> [JobID]
    /// A night with its entries.
    func night(_ number: Int) throws -> NightFile?
    /// The newest nights with a number below `number`, the newest first.
    func nights(before number: Int, limit: Int) throws -> [NightRecord]
    /// How the suites of a tool went, the newest `limit` of them, oldest first.
    func testRuns(of name: String, limit: Int) throws -> [TestRun]
    /// Where those of the chunks lie that are in published packs.
    func locate(_ chunks: [Digest]) throws -> [Digest: ChunkLocation]
    /// The index that lists each of the packs.
    func indexes(of packs: Set<Digest>) throws -> [Digest: Digest]
}

extension JobRecord {
    /// The key that it holds against others as long as it is open. A wish that may be fulfilled by an emulator is another one
    /// than a wish that may not.
    package var lead: Digest? {
        guard !state.isFinal, joined == nil, let key else { return nil }
        let lead = JobRecord.lead(key, allowsEmulation: allowsEmulation ?? false)
        // What the untrusted pool builds satisfies nobody else's wish.
        if isCandidate ?? false { return Digest(hashing: "candidate \(lead.hex)") }
        // Nobody else's wish waits for what a releaser says.
        return promotes.map { Digest(hashing: "promotion of \($0) \(lead.hex)") } ?? lead
    }

    static func lead(_ key: Digest, allowsEmulation: Bool) -> Digest {
        allowsEmulation ? Digest(hashing: "may be emulated \(key.hex)") : key
    }
}

extension TestRun {
    /// So many are kept of each tool.
    static let mostKept = 500
}

extension AttemptRecord {
    package var isOpen: Bool { !state.isFinal }
}

/// Errors that all journals share.
package enum JournalFailure {
    package static func conflict(_ what: String) -> FarmError {
        FarmError("journal.conflict", .fault, "the journal refuses \(what)")
    }
}
