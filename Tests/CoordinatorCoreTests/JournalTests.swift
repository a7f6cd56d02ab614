import ChunkStore
import CoordinatorCore
import FarmIdentity
import FarmModel
import Foundation
import GRDB
import Support
import SystemIO
import Testing

private func job(_ number: Int, _ state: JobState, key: Digest? = nil, joined: JobID? = nil) -> JobRecord {
    var record = JobRecord(
        id: JobID("j\(number)"), number: number, kind: .build, state: state, title: "t", recipe: "r", version: "1",
        target: "x86_64", requestedBy: "me", createdAt: Timestamp(seconds: 1))
    record.key = key
    record.joined = joined
    return record
}

private let history = RunHistory(recipe: "r", target: "x86_64", count: 2, logSeconds: 3)

/// The contract of `FarmJournal`; `reopen` gives the same journal after a restart.
private func checkConformance(_ journal: any FarmJournal, reopen: () throws -> any FarmJournal) throws {
    #expect(try journal.load(recent: 100) == JournalSnapshot())
    let key = Digest(hashing: "key")
    let attempt = AttemptRecord(
        id: AttemptID(job: JobID("j1"), number: 1), worker: WorkerName("w"), state: .running, startedAt: Timestamp(seconds: 2))
    try journal.commit([.job(job(2, .queued)), .job(job(1, .running, key: key)), .attempt(attempt)])
    #expect(try journal.load(recent: 100).jobs.map(\.number) == [1, 2])

    // Two leaders of one key, or two open attempts of one job, are refused, and nothing of that commit stays.
    #expect(throws: FarmError.self) { try journal.commit([.job(job(3, .queued)), .job(job(4, .queued, key: key))]) }
    var second = attempt
    second.id = AttemptID(job: JobID("j1"), number: 2)
    #expect(throws: FarmError.self) { try journal.commit([.job(job(3, .queued)), .attempt(second)]) }
    #expect(try journal.load(recent: 100).jobs.count == 2 && journal.load(recent: 100).attempts == [attempt])

    // A follower does not lead; a leader that ends makes room in the same commit, in whatever order the two stand.
    try journal.commit([.job(job(3, .queued, key: key, joined: JobID("j1")))])
    var ended = attempt
    ended.state = .lost
    try journal.commit([.attempt(second), .attempt(ended), .job(job(4, .queued, key: key)), .job(job(1, .failed, key: key))])
    #expect(try journal.load(recent: 100).attempts == [ended, second])

    // Of two changes of one record the last counts.
    try journal.commit([.job(job(2, .running)), .job(job(2, .cancelled))])
    #expect(try journal.load(recent: 100).jobs[1].state == .cancelled)

    let entry = PackEntry(digest: Digest(hashing: "c"), offset: 8, storedSize: 5, size: 9)
    let pack = Digest(hashing: "pack")
    try journal.commit([.packs([.init(pack: pack, entries: [entry])], index: Digest(hashing: "i1"))])
    try journal.commit([.packs([.init(pack: pack, entries: [entry])], index: Digest(hashing: "i2"))])
    #expect(try journal.locate([entry.digest, Digest(hashing: "other")]) == [entry.digest: ChunkLocation(pack: pack, entry: entry)])
    #expect(try journal.indexes(of: [pack]) == [pack: Digest(hashing: "i2")])

    // A lost pack's chunks lie nowhere, until another pack brings them.
    try journal.commit([.forget(pack: pack)])
    #expect(try journal.locate([entry.digest]).isEmpty && journal.indexes(of: [pack]).isEmpty)
    let other = Digest(hashing: "other pack")
    try journal.commit([.packs([.init(pack: other, entries: [entry])], index: Digest(hashing: "i3"))])
    #expect(try journal.locate([entry.digest])[entry.digest]?.pack == other)

    // Chunks of a condemned pack are found where they come again; those of any other stay where they are.
    let condemned = CondemnedObject(key: Pack.key(other), at: Timestamp(seconds: 7))
    try journal.commit([.condemned(condemned), .condemned(CondemnedObject(key: "covers/x", at: Timestamp(seconds: 7)))])
    let (third, fourth) = (Digest(hashing: "third pack"), Digest(hashing: "fourth pack"))
    try journal.commit([.packs([.init(pack: third, entries: [entry])], index: Digest(hashing: "i4"))])
    #expect(try journal.locate([entry.digest])[entry.digest]?.pack == third)
    try journal.commit([.packs([.init(pack: fourth, entries: [entry])], index: Digest(hashing: "i5"))])
    #expect(try journal.locate([entry.digest])[entry.digest]?.pack == third)
    #expect(try journal.load(recent: 1).condemned.map(\.key) == ["covers/x", Pack.key(other)])
    try journal.commit([.settled(key: "covers/x"), .settled(key: Pack.key(other))])
    #expect(try journal.load(recent: 1).condemned.isEmpty)
    // Without their index packs are found no more; others are.
    try journal.commit([.forgetListed(index: Digest(hashing: "i4"))])
    #expect(try journal.locate([entry.digest]).isEmpty && journal.indexes(of: [third, fourth]) == [fourth: Digest(hashing: "i5")])

    // Of ended jobs only so many of the newest come along, with what belongs to them; the others are found by name.
    try journal.commit([.job(job(5, .failed)), .job(job(6, .succeeded)), .history(history)])
    let few = try journal.load(recent: 1)
    #expect(few.jobs.map(\.number) == [3, 4, 6] && few.attempts.isEmpty && few.nextNumber == 7 && few.histories == [history])
    #expect(try journal.job(JobID("j1")) == JobFile(job: job(1, .failed, key: key), attempts: [ended, second], publication: nil))
    #expect(try journal.job(JobID("j99")) == nil)
    #expect(try journal.jobs(before: 6, limit: 2) == [JobID("j4"), JobID("j5")])

    // How suites went: of one tool, oldest first, one for each attempt, and not for ever.
    func run(_ number: Int, _ name: String = "t") -> TestRun {
        TestRun(
            name: name, version: "1", target: "x86_64", buildKey: key, attempt: "j\(number).1", worker: "w", host: "zen4",
            at: Timestamp(seconds: Int64(number)), tests: [TestOutcome(name: "a", passed: true, problems: [], seconds: 1)])
    }
    try journal.commit([.testRun(run(1)), .testRun(run(2, "other")), .testRun(run(3))])
    try journal.commit([.testRun(run(1))])
    #expect(try Set(journal.testRuns(of: "t", limit: 9)) == [run(1), run(3)] && journal.testRuns(of: "nobody", limit: 9).isEmpty)
    try journal.commit((10..<620).map { .testRun(run($0)) })
    #expect(try journal.testRuns(of: "t", limit: 1000).map(\.attempt) == (120..<620).map { "j\($0).1" })
    #expect(
        try journal.testRuns(of: "t", limit: 2).map(\.attempt) == ["j618.1", "j619.1"] && journal.testRuns(of: "other", limit: 9).count == 1
    )

    // Nights are numbered; the newest comes along, with its entries as long as it goes on.
    var night = NightRecord(
        number: 1, dueAt: nil, startedBy: "me", startedAt: Timestamp(seconds: 5), collection: "/r", commit: nil, rules: .init(),
        problems: [])
    let planned = NightlyPlan(
        [.init(recipe: "r", version: "1", target: "x86_64", reasons: [.recipeChanged], hours: 1)], rules: .init()
    ).entries[0]
    var entries = [NightEntry(night: 1, position: 0, plan: planned), NightEntry(night: 1, position: 1, plan: planned)]
    try journal.commit([.night(night), .nightEntry(entries[1]), .nightEntry(entries[0])])
    entries[1].job = JobID("j1")
    try journal.commit([.nightEntry(entries[1])])
    #expect(try journal.load(recent: 1).night == NightFile(night: night, entries: entries))
    night.endedAt = Timestamp(seconds: 6)
    try journal.commit([.night(night)])
    #expect(try journal.load(recent: 1).night == NightFile(night: night, entries: []))
    #expect(try journal.night(1) == NightFile(night: night, entries: entries) && journal.night(2) == nil)
    night.number = 2
    try journal.commit([.night(night)])
    #expect(try journal.nights(before: .max, limit: 1).map(\.number) == [2] && journal.nights(before: 2, limit: 9).map(\.number) == [1])

    let offered = CatalogueEntry(
        name: "fsl", version: "6", architecture: "x86_64",
        source: ImportSource(catalogue: "neurodesk", file: "fsl_6_20260101.simg", locations: ["https://x/fsl"]))
    var image = ImportRecord(entry: offered, plan: key, addedBy: "me", addedAt: Timestamp(seconds: 3))
    try journal.commit([.imported(image)])
    image.job = JobID("j1")
    try journal.commit([.imported(image)])
    #expect(try journal.load(recent: 1).imports == [image])

    let token = TokenRecord(id: "t", secret: "s", worker: WorkerName("w"), trusted: true, expiresAt: Timestamp(seconds: 9))
    let worker = WorkerRecord(name: WorkerName("w"), trusted: true, enrolledAt: Timestamp(seconds: 3))
    try journal.commit([.token(token), .worker(worker), .channel(ChannelRecord(name: "main", version: 3, issuedAt: Timestamp(seconds: 4)))])
    let before = try journal.load(recent: 100)
    #expect(before.tokens == [token] && before.workers == [worker] && before.channels.first?.version == 3)
    #expect(try reopen().load(recent: 100) == before)
}

@Suite struct JournalTests {
    @Test func memoryConforms() throws {
        let journal = MemoryJournal()
        try checkConformance(journal) { journal }
    }

    /// A journal as version 2 of its layout wrote it.
    @Test func anOlderLayoutIsTakenOver() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/journal.sqlite"
        let key = Digest(hashing: "key")
        let jobs = [job(1, .succeeded, key: Digest(hashing: "old")), job(12, .running, key: key)]
        let attempt = AttemptRecord(
            id: AttemptID(job: JobID("j12"), number: 1), worker: WorkerName("w"), state: .running, startedAt: Timestamp(seconds: 2))
        let publication = PublicationRecord(
            job: JobID("j1"), attempt: AttemptID(job: JobID("j1"), number: 1), plan: key, result: Bench.result, builtOn: "w",
            startedAt: Timestamp(seconds: 3))
        let old = try DatabaseQueue(path: path)
        try SQLiteJournal.migrator.migrate(old, upTo: "2")
        try old.write { database in
            for record in jobs {
                try database.execute(
                    sql: "INSERT INTO jobs (id, number, open_key, ended, body) VALUES (?, ?, ?, ?, ?)",
                    arguments: [
                        record.id.rawValue, record.number, record.lead.map { Data($0.bytes) }, record.state.isFinal ? 1 : 0,
                        Data(try CanonicalJSON.encode(record)),
                    ])
            }
            try database.execute(
                sql: "INSERT INTO attempts VALUES ('j12', 1, 'j12', ?)", arguments: [Data(try CanonicalJSON.encode(attempt))])
            try database.execute(
                sql: "INSERT INTO publications (job, done, body) VALUES ('j1', 0, ?)",
                arguments: [Data(try CanonicalJSON.encode(publication))])
        }
        try old.close()
        let journal = try SQLiteJournal(path: path)
        let snapshot = try journal.load(recent: 0)
        #expect(snapshot.jobs == jobs && snapshot.attempts == [attempt] && snapshot.nextNumber == 13)
        #expect(snapshot.publications == [publication])
        #expect(try journal.job(JobID("j1"))?.job == jobs[0])
        #expect(throws: FarmError.self) { try journal.commit([.job(job(13, .queued, key: key))]) }
        for name in ["j012", "x12", "j-1", "12"] { #expect(try journal.job(JobID(name)) == nil, "\(name)") }
    }

    @Test func sqliteConforms() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/journal.sqlite"
        try checkConformance(try SQLiteJournal(path: path)) { try SQLiteJournal(path: path) }
    }

    @Test func aFileThatIsNoJournalIsRefused() throws {
        let scratch = try Scratch()
        try Disk.replace("\(scratch.path)/j", with: Array(String(repeating: "no database ", count: 200).utf8))
        let error = #expect(throws: FarmError.self) { try SQLiteJournal(path: "\(scratch.path)/j") }
        #expect(error?.code == "journal.unusable")
    }
}
