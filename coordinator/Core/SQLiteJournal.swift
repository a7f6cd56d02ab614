package import ChunkStore
import FarmIdentity
package import FarmModel
import Foundation
package import GRDB

/// The journal in one SQLite file: write-ahead log, `synchronous=FULL`, one writer. Records are rows whose key columns
/// carry the constraints and whose body is canonical JSON.
package final class SQLiteJournal: FarmJournal {
    private let database: DatabaseQueue

    /// Opens or makes the file; throws `journal.unusable`.
    package init(path: String) throws {
        var configuration = Configuration()
        configuration.prepareDatabase { database in
            try database.execute(sql: "PRAGMA journal_mode = WAL")
            try database.execute(sql: "PRAGMA synchronous = FULL")
            try database.execute(sql: "PRAGMA foreign_keys = ON")
            // The inner pages of all indexes of a million jobs stay in memory.
            try database.execute(sql: "PRAGMA cache_size = -65536")
            // A checkpoint costs more than a commit, the more so the larger the file: seldom, at 32 MiB of log.
            try database.execute(sql: "PRAGMA wal_autocheckpoint = 8000")
        }
        do {
            database = try DatabaseQueue(path: path, configuration: configuration)
            try SQLiteJournal.migrator.migrate(database)
        } catch {
            throw FarmError(
                "journal.unusable", .fault, "the journal \(path) cannot be opened",
                hint: "restore it from a backup, or make a new farm home", cause: error)
        }
    }

    /// The layouts of the file, one after the other; a journal of any earlier one is brought to the newest when it is opened.
    package static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(
                sql: """
                    CREATE TABLE jobs (id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, open_key BLOB UNIQUE,
                        body BLOB NOT NULL) STRICT;
                    CREATE TABLE attempts (job TEXT NOT NULL REFERENCES jobs(id), number INTEGER NOT NULL,
                        open_job TEXT UNIQUE, body BLOB NOT NULL, PRIMARY KEY (job, number)) STRICT;
                    CREATE TABLE workers (name TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    CREATE TABLE tokens (id TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    CREATE TABLE access (token BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    CREATE TABLE inputs (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    CREATE TABLE publications (job TEXT PRIMARY KEY REFERENCES jobs(id), body BLOB NOT NULL) STRICT;
                    CREATE TABLE releases (digest BLOB PRIMARY KEY, job TEXT NOT NULL UNIQUE REFERENCES jobs(id),
                        body BLOB NOT NULL) STRICT;
                    CREATE TABLE channels (name TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    CREATE TABLE packs (digest BLOB PRIMARY KEY, listing BLOB NOT NULL) STRICT, WITHOUT ROWID;
                    CREATE TABLE chunks (digest BLOB PRIMARY KEY, pack BLOB NOT NULL REFERENCES packs(digest),
                        position INTEGER NOT NULL, stored INTEGER NOT NULL, size INTEGER NOT NULL,
                        codec INTEGER NOT NULL) STRICT, WITHOUT ROWID;
                    """)
        }
        migrator.registerMigration("2") { database in
            try database.execute(
                sql: """
                    CREATE TABLE histories (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    ALTER TABLE jobs ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
                    ALTER TABLE publications ADD COLUMN done INTEGER NOT NULL DEFAULT 0;
                    """)
            for body in try Data.fetchAll(database, sql: "SELECT body FROM jobs") {
                let job: JobRecord = try CanonicalJSON.decode(from: body, source: "the journal")
                if job.state.isFinal { try database.execute(sql: "UPDATE jobs SET ended = 1 WHERE id = ?", arguments: [job.id.rawValue]) }
            }
            for body in try Data.fetchAll(database, sql: "SELECT body FROM publications") {
                let record: PublicationRecord = try CanonicalJSON.decode(from: body, source: "the journal")
                guard record.step == .done else { continue }
                try database.execute(sql: "UPDATE publications SET done = 1 WHERE job = ?", arguments: [record.job.rawValue])
            }
            try database.execute(
                sql: """
                    CREATE INDEX open_jobs ON jobs (number) WHERE ended = 0;
                    CREATE INDEX open_publications ON publications (job) WHERE done = 0;
                    """)
        }
        // Rows in the order in which they come, and indexes that hold only what is open: a commit touches the same few pages
        // however many jobs there were.
        migrator.registerMigration("3") { database in
            try database.execute(
                sql: """
                    CREATE TABLE new_jobs (number INTEGER PRIMARY KEY, open_key BLOB, ended INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
                    INSERT INTO new_jobs SELECT number, open_key, ended, body FROM jobs;
                    CREATE TABLE new_attempts (job INTEGER NOT NULL REFERENCES jobs(number), number INTEGER NOT NULL,
                        open INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (job, number)) STRICT, WITHOUT ROWID;
                    INSERT INTO new_attempts SELECT CAST(substr(job, 2) AS INTEGER), number, open_job IS NOT NULL, body FROM attempts;
                    CREATE TABLE new_publications (job INTEGER PRIMARY KEY REFERENCES jobs(number), done INTEGER NOT NULL,
                        body BLOB NOT NULL) STRICT;
                    INSERT INTO new_publications SELECT CAST(substr(job, 2) AS INTEGER), done, body FROM publications;
                    CREATE TABLE new_releases (digest BLOB PRIMARY KEY, job INTEGER NOT NULL UNIQUE REFERENCES jobs(number),
                        body BLOB NOT NULL) STRICT;
                    INSERT INTO new_releases SELECT digest, CAST(substr(job, 2) AS INTEGER), body FROM releases;
                    DROP TABLE attempts; DROP TABLE publications; DROP TABLE releases; DROP TABLE jobs;
                    ALTER TABLE new_jobs RENAME TO jobs;
                    ALTER TABLE new_attempts RENAME TO attempts;
                    ALTER TABLE new_publications RENAME TO publications;
                    ALTER TABLE new_releases RENAME TO releases;
                    CREATE UNIQUE INDEX leads ON jobs (open_key) WHERE open_key IS NOT NULL;
                    CREATE INDEX open_jobs ON jobs (number) WHERE ended = 0;
                    CREATE UNIQUE INDEX open_attempts ON attempts (job) WHERE open = 1;
                    CREATE INDEX open_publications ON publications (job) WHERE done = 0;
                    """)
        }
        migrator.registerMigration("4") { database in
            try database.execute(
                sql: """
                    CREATE TABLE nights (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
                    CREATE TABLE night_entries (night INTEGER NOT NULL REFERENCES nights(number), position INTEGER NOT NULL,
                        body BLOB NOT NULL, PRIMARY KEY (night, position)) STRICT, WITHOUT ROWID;
                    """)
        }
        migrator.registerMigration("5") { database in
            try database.execute(sql: "CREATE TABLE imports (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT")
        }
        migrator.registerMigration("6") { database in
            try database.execute(
                sql: """
                    CREATE TABLE condemned (key TEXT PRIMARY KEY, pack BLOB UNIQUE, body BLOB NOT NULL) STRICT;
                    CREATE INDEX chunks_of_packs ON chunks (pack);
                    CREATE INDEX packs_of_indexes ON packs (listing);
                    """)
        }
        migrator.registerMigration("7") { database in
            try database.execute(
                sql: """
                    CREATE TABLE test_runs (number INTEGER PRIMARY KEY, name TEXT NOT NULL, attempt TEXT NOT NULL UNIQUE, body BLOB NOT NULL) STRICT;
                    CREATE INDEX test_runs_of_tools ON test_runs (name, number);
                    """)
        }
        return migrator
    }

    package func load(recent: Int) throws -> JournalSnapshot {
        try wrap {
            try database.write { database in
                func all<Record: Decodable>(_ query: String) throws -> [Record] {
                    try Data.fetchAll(database, sql: query).map { try CanonicalJSON.decode(from: $0, source: "the journal") }
                }
                var snapshot = JournalSnapshot()
                // What is open, what is being published, and the newest of the rest.
                try database.execute(
                    sql: """
                        CREATE TEMP TABLE IF NOT EXISTS wanted (job INTEGER PRIMARY KEY);
                        DELETE FROM wanted;
                        INSERT OR IGNORE INTO wanted SELECT number FROM jobs WHERE ended = 0;
                        INSERT OR IGNORE INTO wanted SELECT job FROM publications WHERE done = 0;
                        INSERT OR IGNORE INTO wanted SELECT number FROM jobs ORDER BY number DESC LIMIT \(recent);
                        """)
                snapshot.jobs = try all("SELECT body FROM wanted JOIN jobs ON jobs.number = wanted.job ORDER BY jobs.number")
                snapshot.attempts = try all("SELECT body FROM wanted JOIN attempts USING (job) ORDER BY job, number")
                snapshot.nextNumber = 1 + (try Int.fetchOne(database, sql: "SELECT max(number) FROM jobs") ?? 0)
                snapshot.imports = try all("SELECT body FROM imports ORDER BY key")
                snapshot.condemned = try all("SELECT body FROM condemned ORDER BY key")
                snapshot.histories = try all("SELECT body FROM histories ORDER BY key")
                snapshot.workers = try all("SELECT body FROM workers ORDER BY name")
                snapshot.tokens = try all("SELECT body FROM tokens ORDER BY id")
                snapshot.access = try all("SELECT body FROM access ORDER BY token")
                snapshot.inputs = try all("SELECT body FROM inputs ORDER BY key")
                snapshot.publications = try all(
                    "SELECT body FROM wanted JOIN publications USING (job) ORDER BY job")
                snapshot.releases = try all("SELECT body FROM releases ORDER BY digest")
                snapshot.channels = try all("SELECT body FROM channels ORDER BY name")
                let nights: [NightRecord] = try all("SELECT body FROM nights ORDER BY number DESC LIMIT 1")
                if let last = nights.first {
                    snapshot.night = NightFile(
                        night: last, entries: last.endedAt == nil ? try SQLiteJournal.entries(of: last.number, database) : [])
                }
                return snapshot
            }
        }
    }

    package func commit(_ changes: [JournalChange]) throws {
        try wrap {
            try database.write { database in
                // Rows that free a key go before rows that take it; of one record only the last change counts.
                let changes = SQLiteJournal.lastOfEach(changes)
                for change in changes where SQLiteJournal.freesKey(change) { try SQLiteJournal.apply(change, to: database) }
                for change in changes where !SQLiteJournal.freesKey(change) { try SQLiteJournal.apply(change, to: database) }
            }
        }
    }

    package func job(_ id: JobID) throws -> JobFile? {
        try wrap {
            try database.read { database in
                guard let job: JobRecord = try SQLiteJournal.one(database, "SELECT body FROM jobs WHERE number = ?", id) else { return nil }
                let attempts = try Data.fetchAll(
                    database, sql: "SELECT body FROM attempts WHERE job = ? ORDER BY number", arguments: [id.number])
                return JobFile(
                    job: job, attempts: try attempts.map { try CanonicalJSON.decode(from: $0, source: "the journal") },
                    publication: try SQLiteJournal.one(database, "SELECT body FROM publications WHERE job = ?", id))
            }
        }
    }

    package func jobs(before number: Int, limit: Int) throws -> [JobID] {
        try wrap {
            try database.read { database in
                try Int.fetchAll(
                    database, sql: "SELECT number FROM jobs WHERE number < ? ORDER BY number DESC LIMIT ?", arguments: [number, limit]
                ).reversed().map { JobID(number: $0) }
            }
        }
    }

    package func testRuns(of name: String, limit: Int) throws -> [TestRun] {
        try wrap {
            try database.read { database in
                try Data.fetchAll(
                    database, sql: "SELECT body FROM test_runs WHERE name = ? ORDER BY number DESC LIMIT ?", arguments: [name, limit]
                ).reversed().map { try CanonicalJSON.decode(from: $0, source: "the journal") }
            }
        }
    }

    package func night(_ number: Int) throws -> NightFile? {
        try wrap {
            try database.read { database in
                guard let body = try Data.fetchOne(database, sql: "SELECT body FROM nights WHERE number = ?", arguments: [number]) else {
                    return nil
                }
                return NightFile(
                    night: try CanonicalJSON.decode(from: body, source: "the journal"),
                    entries: try SQLiteJournal.entries(of: number, database))
            }
        }
    }

    package func nights(before number: Int, limit: Int) throws -> [NightRecord] {
        try wrap {
            try database.read { database in
                try Data.fetchAll(
                    database, sql: "SELECT body FROM nights WHERE number < ? ORDER BY number DESC LIMIT ?", arguments: [number, limit]
                ).map { try CanonicalJSON.decode(from: $0, source: "the journal") }
            }
        }
    }

    private static func entries(of night: Int, _ database: Database) throws -> [NightEntry] {
        try Data.fetchAll(database, sql: "SELECT body FROM night_entries WHERE night = ? ORDER BY position", arguments: [night]).map {
            try CanonicalJSON.decode(from: $0, source: "the journal")
        }
    }

    private static func one<Record: Decodable>(_ database: Database, _ query: String, _ id: JobID) throws -> Record? {
        try Data.fetchOne(database, sql: query, arguments: [id.number]).map { try CanonicalJSON.decode(from: $0, source: "the journal") }
    }

    package func locate(_ chunks: [Digest]) throws -> [Digest: ChunkLocation] {
        try wrap {
            try database.read { database in
                let statement = try database.cachedStatement(
                    sql: "SELECT pack, position, stored, size FROM chunks WHERE digest = ?")
                var result: [Digest: ChunkLocation] = [:]
                for digest in chunks {
                    guard let row = try Row.fetchOne(statement, arguments: [Data(digest.bytes)]),
                        let pack = Digest(bytes: row["pack"] as Data)
                    else { continue }
                    result[digest] = ChunkLocation(
                        pack: pack,
                        entry: PackEntry(
                            digest: digest, offset: row["position"], storedSize: row["stored"], size: row["size"]))
                }
                return result
            }
        }
    }

    package func indexes(of packs: Set<Digest>) throws -> [Digest: Digest] {
        try wrap {
            try database.read { database in
                let statement = try database.cachedStatement(sql: "SELECT listing FROM packs WHERE digest = ?")
                var result: [Digest: Digest] = [:]
                for pack in packs {
                    if let listing = try Data.fetchOne(statement, arguments: [Data(pack.bytes)]) {
                        result[pack] = Digest(bytes: listing)
                    }
                }
                return result
            }
        }
    }

    private static func lastOfEach(_ changes: [JournalChange]) -> [JournalChange] {
        var seen: Set<String> = []
        return changes.reversed().filter { change in
            switch change {
            case .job(let record): seen.insert("job \(record.id)").inserted
            case .attempt(let record): seen.insert("attempt \(record.id)").inserted
            default: true
            }
        }.reversed()
    }

    private static func freesKey(_ change: JournalChange) -> Bool {
        switch change {
        case .job(let record): record.lead == nil
        case .attempt(let record): !record.isOpen
        default: false
        }
    }

    private static func apply(_ change: JournalChange, to database: Database) throws {
        func put(_ sql: String, _ key: [(any DatabaseValueConvertible)?], _ record: some Encodable) throws {
            let body = Data(try CanonicalJSON.encode(record))
            try database.execute(sql: sql, arguments: StatementArguments(key + [body]))
        }
        switch change {
        case .job(let record):
            let key = record.lead.map { Data($0.bytes) }
            try put(
                """
                INSERT INTO jobs (number, open_key, ended, body) VALUES (?, ?, ?, ?)
                ON CONFLICT (number) DO UPDATE SET open_key = excluded.open_key, ended = excluded.ended, body = excluded.body
                """, [record.id.number, key, record.state.isFinal ? 1 : 0], record)
        case .attempt(let record):
            try put(
                """
                INSERT INTO attempts (job, number, open, body) VALUES (?, ?, ?, ?)
                ON CONFLICT (job, number) DO UPDATE SET open = excluded.open, body = excluded.body
                """,
                [record.id.job.number, record.id.number, record.isOpen ? 1 : 0], record)
        case .worker(let record): try put("INSERT OR REPLACE INTO workers VALUES (?, ?)", [record.name.rawValue], record)
        case .token(let record): try put("INSERT OR REPLACE INTO tokens VALUES (?, ?)", [record.id], record)
        case .access(let record):
            try put("INSERT OR REPLACE INTO access VALUES (?, ?)", [Data(record.tokenDigest.bytes)], record)
        case .input(let record): try put("INSERT OR REPLACE INTO inputs VALUES (?, ?)", [record.key], record)
        case .publication(let record):
            try put(
                """
                INSERT INTO publications (job, done, body) VALUES (?, ?, ?)
                ON CONFLICT (job) DO UPDATE SET done = excluded.done, body = excluded.body
                """, [record.job.number, record.step == .done ? 1 : 0], record)
        case .release(let record):
            try put(
                "INSERT INTO releases VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET body = excluded.body",
                [Data(record.digest.bytes), record.job.number], record)
        case .channel(let record): try put("INSERT OR REPLACE INTO channels VALUES (?, ?)", [record.name], record)
        case .history(let record): try put("INSERT OR REPLACE INTO histories VALUES (?, ?)", [record.key], record)
        case .testRun(let run):
            try put("INSERT OR REPLACE INTO test_runs (name, attempt, body) VALUES (?, ?, ?)", [run.name, run.attempt], run)
            try database.execute(
                sql: """
                    DELETE FROM test_runs WHERE name = ?1 AND number <= (SELECT number FROM test_runs WHERE name = ?1
                        ORDER BY number DESC LIMIT 1 OFFSET \(TestRun.mostKept))
                    """, arguments: [run.name])
        case .night(let record):
            try put("INSERT INTO nights VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET body = excluded.body", [record.number], record)
        case .nightEntry(let entry):
            try put(
                "INSERT INTO night_entries VALUES (?, ?, ?) ON CONFLICT (night, position) DO UPDATE SET body = excluded.body",
                [entry.night, entry.position], entry)
        case .imported(let record): try put("INSERT OR REPLACE INTO imports VALUES (?, ?)", [record.entry.key], record)
        case .packs(let listings, let index): try apply(listings, index, to: database)
        case .forgetListed(let index):
            let name = Data(index.bytes)
            try database.execute(sql: "DELETE FROM chunks WHERE pack IN (SELECT digest FROM packs WHERE listing = ?)", arguments: [name])
            try database.execute(sql: "DELETE FROM packs WHERE listing = ?", arguments: [name])
        case .condemned(let object):
            try put(
                "INSERT OR REPLACE INTO condemned (key, pack, body) VALUES (?, ?, ?)", [object.key, object.pack.map { Data($0.bytes) }],
                object)
        case .settled(let key): try database.execute(sql: "DELETE FROM condemned WHERE key = ?", arguments: [key])
        case .forget(let pack):
            try database.execute(sql: "DELETE FROM chunks WHERE pack = ?", arguments: [Data(pack.bytes)])
            try database.execute(sql: "DELETE FROM packs WHERE digest = ?", arguments: [Data(pack.bytes)])
        }
    }

    private static func apply(_ listings: [PackIndex.Listing], _ index: Digest, to database: Database) throws {
        let chunk = try database.cachedStatement(
            sql: """
                INSERT INTO chunks (digest, pack, position, stored, size, codec) VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (digest) DO UPDATE SET pack = excluded.pack, position = excluded.position, stored = excluded.stored,
                    size = excluded.size, codec = excluded.codec
                WHERE chunks.pack IN (SELECT pack FROM condemned)
                """)
        for listing in listings {
            try database.execute(
                sql: "INSERT INTO packs VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET listing = excluded.listing",
                arguments: [Data(listing.pack.bytes), Data(index.bytes)])
            for entry in listing.entries {
                try chunk.execute(arguments: [
                    Data(entry.digest.bytes), Data(listing.pack.bytes), entry.offset, entry.storedSize, entry.size,
                    Int(entry.codec.rawValue),
                ])
            }
        }
    }

    private func wrap<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as DatabaseError where error.resultCode == .SQLITE_CONSTRAINT {
            throw JournalFailure.conflict(error.message ?? "a change")
        } catch let error as DatabaseError {
            let category: FarmError.Category = error.resultCode == .SQLITE_FULL ? .full : .fault
            throw FarmError("journal.failed", category, "the journal cannot be written or read", cause: error)
        }
    }
}
