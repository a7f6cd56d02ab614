package import ChunkStore
import FarmIdentity
package import FarmModel
import Foundation
import GRDB

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

    private static var migrator: DatabaseMigrator {
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
        return migrator
    }

    package func load() throws -> JournalSnapshot {
        try wrap {
            try database.read { database in
                func all<Record: Decodable>(_ query: String) throws -> [Record] {
                    try Data.fetchAll(database, sql: query).map { try CanonicalJSON.decode(from: $0, source: "the journal") }
                }
                var snapshot = JournalSnapshot()
                snapshot.jobs = try all("SELECT body FROM jobs ORDER BY number")
                snapshot.attempts = try all(
                    "SELECT attempts.body FROM attempts JOIN jobs ON jobs.id = attempts.job ORDER BY jobs.number, attempts.number")
                snapshot.workers = try all("SELECT body FROM workers ORDER BY name")
                snapshot.tokens = try all("SELECT body FROM tokens ORDER BY id")
                snapshot.access = try all("SELECT body FROM access ORDER BY token")
                snapshot.inputs = try all("SELECT body FROM inputs ORDER BY key")
                snapshot.publications = try all("SELECT body FROM publications ORDER BY job")
                snapshot.releases = try all("SELECT body FROM releases ORDER BY digest")
                snapshot.channels = try all("SELECT body FROM channels ORDER BY name")
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

    package func locate(_ chunks: [Digest]) throws -> [Digest: ChunkLocation] {
        try wrap {
            try database.read { database in
                let statement = try database.cachedStatement(
                    sql: "SELECT pack, position, stored, size, codec FROM chunks WHERE digest = ?")
                var result: [Digest: ChunkLocation] = [:]
                for digest in chunks {
                    guard let row = try Row.fetchOne(statement, arguments: [Data(digest.bytes)]),
                        let pack = Digest(bytes: row["pack"] as Data), let codec = ChunkCodec(rawValue: row["codec"])
                    else { continue }
                    result[digest] = ChunkLocation(
                        pack: pack,
                        entry: PackEntry(
                            digest: digest, offset: row["position"], storedSize: row["stored"], size: row["size"], codec: codec))
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
                INSERT INTO jobs (id, number, open_key, body) VALUES (?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET open_key = excluded.open_key, body = excluded.body
                """, [record.id.rawValue, record.number, key], record)
        case .attempt(let record):
            try put(
                """
                INSERT INTO attempts (job, number, open_job, body) VALUES (?, ?, ?, ?)
                ON CONFLICT (job, number) DO UPDATE SET open_job = excluded.open_job, body = excluded.body
                """,
                [record.id.job.rawValue, record.id.number, record.isOpen ? record.id.job.rawValue : nil], record)
        case .worker(let record): try put("INSERT OR REPLACE INTO workers VALUES (?, ?)", [record.name.rawValue], record)
        case .token(let record): try put("INSERT OR REPLACE INTO tokens VALUES (?, ?)", [record.id], record)
        case .access(let record):
            try put("INSERT OR REPLACE INTO access VALUES (?, ?)", [Data(record.tokenDigest.bytes)], record)
        case .input(let record): try put("INSERT OR REPLACE INTO inputs VALUES (?, ?)", [record.key], record)
        case .publication(let record):
            try put(
                "INSERT INTO publications VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET body = excluded.body",
                [record.job.rawValue], record)
        case .release(let record):
            try put(
                "INSERT INTO releases VALUES (?, ?, ?) ON CONFLICT (digest) DO UPDATE SET body = excluded.body",
                [Data(record.digest.bytes), record.job.rawValue], record)
        case .channel(let record): try put("INSERT OR REPLACE INTO channels VALUES (?, ?)", [record.name], record)
        case .packs(let listings, let index): try apply(listings, index, to: database)
        case .forget(let pack):
            try database.execute(sql: "DELETE FROM chunks WHERE pack = ?", arguments: [Data(pack.bytes)])
            try database.execute(sql: "DELETE FROM packs WHERE digest = ?", arguments: [Data(pack.bytes)])
        }
    }

    private static func apply(_ listings: [PackIndex.Listing], _ index: Digest, to database: Database) throws {
        let chunk = try database.cachedStatement(
            sql: "INSERT OR IGNORE INTO chunks (digest, pack, position, stored, size, codec) VALUES (?, ?, ?, ?, ?, ?)")
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
