package import ChunkStore
import FarmIdentity
package import FarmModel
import Synchronization

/// The contract of `FarmJournal` in memory: for tests, and as its plainest reading.
package final class MemoryJournal: FarmJournal {
    private struct Content {
        var jobs: [JobID: JobRecord] = [:]
        var attempts: [AttemptID: AttemptRecord] = [:]
        var workers: [WorkerName: WorkerRecord] = [:]
        var tokens: [String: TokenRecord] = [:]
        var access: [Digest: AccessRecord] = [:]
        var inputs: [String: LockedInput] = [:]
        var publications: [JobID: PublicationRecord] = [:]
        var releases: [Digest: ReleaseRecord] = [:]
        var channels: [String: ChannelRecord] = [:]
        var histories: [String: RunHistory] = [:]
        var imports: [String: ImportRecord] = [:]
        var nights: [Int: NightRecord] = [:]
        var testRuns: [TestRun] = []
        var entries: [Int: [Int: NightEntry]] = [:]

        func entries(of night: Int) -> [NightEntry] { (entries[night] ?? [:]).sorted { $0.key < $1.key }.map(\.value) }
        var chunks: [Digest: ChunkLocation] = [:]
        var packs: [Digest: Digest] = [:]
        var condemned: [String: CondemnedObject] = [:]
    }

    private let content = Mutex(Content())

    package init() {}

    package func load(recent: Int) throws -> JournalSnapshot {
        content.withLock { content in
            var snapshot = JournalSnapshot()
            let all = content.jobs.values.sorted { $0.number < $1.number }
            let newest = Set(all.suffix(recent).map(\.id))
            func isWanted(_ id: JobID) -> Bool {
                newest.contains(id) || !(content.jobs[id]?.state.isFinal ?? true)
                    || content.publications[id].map { $0.step != .done } ?? false
            }
            snapshot.jobs = all.filter { isWanted($0.id) }
            snapshot.nextNumber = 1 + (all.last?.number ?? 0)
            snapshot.attempts = content.attempts.values.filter { isWanted($0.id.job) }.sorted {
                ((content.jobs[$0.id.job]?.number ?? 0), $0.id.number) < ((content.jobs[$1.id.job]?.number ?? 0), $1.id.number)
            }
            snapshot.workers = content.workers.values.sorted { $0.name < $1.name }
            snapshot.tokens = content.tokens.values.sorted { $0.id < $1.id }
            snapshot.access = content.access.values.sorted { $0.tokenDigest < $1.tokenDigest }
            snapshot.inputs = content.inputs.values.sorted { $0.key < $1.key }
            snapshot.publications = content.publications.values.filter { isWanted($0.job) }.sorted { $0.job < $1.job }
            snapshot.releases = content.releases.values.sorted { $0.digest < $1.digest }
            snapshot.imports = content.imports.sorted { $0.key < $1.key }.map(\.value)
            snapshot.condemned = content.condemned.values.sorted { $0.key < $1.key }
            snapshot.histories = content.histories.values.sorted { $0.key < $1.key }
            snapshot.channels = content.channels.values.sorted { $0.name < $1.name }
            if let last = content.nights.max(by: { $0.key < $1.key })?.value {
                snapshot.night = NightFile(night: last, entries: last.endedAt == nil ? content.entries(of: last.number) : [])
            }
            return snapshot
        }
    }

    package func commit(_ changes: [JournalChange]) throws {
        try content.withLock { content in
            var next = content
            for change in changes { MemoryJournal.apply(change, to: &next) }
            let keys = next.jobs.values.compactMap(\.lead)
            guard Set(keys).count == keys.count else { throw JournalFailure.conflict("two open jobs for one key") }
            let open = next.attempts.values.filter(\.isOpen).map(\.id.job)
            guard Set(open).count == open.count else { throw JournalFailure.conflict("two open attempts of one job") }
            content = next
        }
    }

    package func locate(_ chunks: [Digest]) throws -> [Digest: ChunkLocation] {
        content.withLock { content in
            Dictionary(chunks.compactMap { digest in content.chunks[digest].map { (digest, $0) } }) { first, _ in first }
        }
    }

    package func job(_ id: JobID) throws -> JobFile? {
        content.withLock { content in
            content.jobs[id].map { job in
                JobFile(
                    job: job, attempts: content.attempts.values.filter { $0.id.job == id }.sorted { $0.id.number < $1.id.number },
                    publication: content.publications[id])
            }
        }
    }

    package func jobs(before number: Int, limit: Int) throws -> [JobID] {
        content.withLock { content in
            content.jobs.values.filter { $0.number < number }.sorted { $0.number < $1.number }.suffix(limit).map(\.id)
        }
    }

    package func night(_ number: Int) throws -> NightFile? {
        content.withLock { content in
            content.nights[number].map { NightFile(night: $0, entries: content.entries(of: number)) }
        }
    }

    package func nights(before number: Int, limit: Int) throws -> [NightRecord] {
        content.withLock { content in
            content.nights.values.filter { $0.number < number }.sorted { $0.number > $1.number }.prefix(limit).map { $0 }
        }
    }

    package func testRuns(of name: String, limit: Int) throws -> [TestRun] {
        content.withLock { Array($0.testRuns.filter { $0.name == name }.suffix(limit)) }
    }

    package func indexes(of packs: Set<Digest>) throws -> [Digest: Digest] {
        content.withLock { $0.packs.filter { packs.contains($0.key) } }
    }

    private static func apply(_ change: JournalChange, to content: inout Content) {
        switch change {
        case .job(let record): content.jobs[record.id] = record
        case .attempt(let record): content.attempts[record.id] = record
        case .worker(let record): content.workers[record.name] = record
        case .token(let record): content.tokens[record.id] = record
        case .access(let record): content.access[record.tokenDigest] = record
        case .input(let record): content.inputs[record.key] = record
        case .publication(let record): content.publications[record.job] = record
        case .release(let record): content.releases[record.digest] = record
        case .channel(let record): content.channels[record.name] = record
        case .history(let record): content.histories[record.key] = record
        case .imported(let record): content.imports[record.entry.key] = record
        case .testRun(let run):
            content.testRuns.removeAll { $0.attempt == run.attempt }
            content.testRuns.append(run)
            let own = content.testRuns.filter { $0.name == run.name }
            if own.count > TestRun.mostKept, let oldest = own.first { content.testRuns.removeAll { $0 == oldest } }
        case .night(let record): content.nights[record.number] = record
        case .nightEntry(let entry): content.entries[entry.night, default: [:]][entry.position] = entry
        case .forget(let pack):
            content.packs[pack] = nil
            content.chunks = content.chunks.filter { $0.value.pack != pack }
        case .condemned(let object): content.condemned[object.key] = object
        case .settled(let key): content.condemned[key] = nil
        case .forgetListed(let index):
            for (pack, listing) in content.packs where listing == index { apply(.forget(pack: pack), to: &content) }
        case .packs(let listings, let index):
            for listing in listings {
                content.packs[listing.pack] = index
                for entry in listing.entries {
                    if let there = content.chunks[entry.digest]?.pack, content.condemned[Pack.key(there)] == nil { continue }
                    content.chunks[entry.digest] = ChunkLocation(pack: listing.pack, entry: entry)
                }
            }
        }
    }
}
