import FarmModel
import HTTPTransport
import ObjectStorage
import Synchronization
import SystemIO

/// Brings one object from a store to another and makes sure that it is the same there.
struct ObjectTransfer: Sendable {
    struct Result: Sendable, Hashable {
        /// As it was read; it may have changed since it was listed.
        var source: ObjectInfo
        var tag: String?
        var onServer = false
    }

    /// Up to here an object is held in memory, so that a try that fails need not read it again.
    static let small: Int64 = 2 << 20

    let source: any ObjectStore
    let destination: any ObjectStore
    let options: SyncOptions
    let memory: SyncMemory?
    let progress: SyncProgress
    let watch: LimitWatch
    /// Told what goes on of an upload that was broken off.
    let resumed: @Sendable (String, Int64) -> Void

    /// - Parameters:
    ///   - key: in the destination.
    ///   - name: the digest that the bytes must have.
    func run(_ object: ObjectInfo, to key: String, name: Digest? = nil) async throws -> Result {
        let policy = options.patience
        var (object, number, trustsTag) = (object, 1, source is S3Store)
        progress.begin(object.key, object.size)
        defer { progress.end(object.key) }
        while true {
            do {
                return try await once(object, to: key, name, trustsTag: trustsTag)
            } catch let error as FarmError where ObjectTransfer.mayPass(error) {
                number += 1
                try watch.check()
                guard let delay = policy.delay(beforeTry: number, retryAfter: error.retryAfter) else { throw error }
                progress.restart(object.key)
                if trustsTag, error.code == "storage.digest" || error.code == "sync.digest" {
                    trustsTag = try await source.tagIsMD5(of: object)
                }
                if error.code == "storage.changed" {
                    guard let fresh = try await source.head(object.key) else { throw StorageFailure.absent(object.key, in: source.name) }
                    object = fresh
                }
                try await watch.pause(delay)
            }
        }
    }

    private static func mayPass(_ error: FarmError) -> Bool {
        error.category.isTransient || ["storage.digest", "sync.digest", "storage.changed", "storage.short"].contains(error.code)
    }

    private func once(_ object: ObjectInfo, to key: String, _ name: Digest?, trustsTag: Bool) async throws -> Result {
        try watch.check()
        var facts = ObjectFacts()
        if !(source is S3Store) { facts.modified = object.modified }
        if options.comparison == .time { facts.modified = try await source.modified(of: object) }
        var said = trustsTag ? object.tag.map(ContentTag.init)?.md5 : nil
        if options.copiesOnServer, name == nil, let copy = try await destination.copy(object, of: source, to: key, facts) {
            return Result(source: object, tag: copy.tag, onServer: true)
        }
        if object.size <= ObjectTransfer.small { return try await whole(object, to: key, name, facts, said: said) }
        if let store = destination as? any MultipartStore {
            let isLarge = object.size > options.partsAbove
            // What came over the line for nothing would be much.
            if isLarge, said != nil, !(try await source.tagIsMD5(of: object)) { said = nil }
            // What goes to a service in one goes with its MD5: some keep the beginning of what was broken off for the whole.
            if !isLarge, said == nil, source is DirectoryStore { said = try await source.md5(of: object) }
            if isLarge || said == nil {
                facts.md5 = said
                let parts = PartedTransfer(
                    source: source, destination: store, options: options, memory: memory, progress: progress, watch: watch, resumed: resumed
                )
                return Result(source: object, tag: try await parts.run(object, to: key, facts, md5: said, name: name))
            }
        }
        return try await streamed(object, to: key, name, facts, said: said)
    }

    /// Through memory.
    private func whole(
        _ object: ObjectInfo, to key: String, _ name: Digest?, _ facts: ObjectFacts, said: [UInt8]?
    ) async throws -> Result {
        let collected = Mutex([UInt8]())
        collected.withLock { $0.reserveCapacity(Int(object.size)) }
        try await source.read(object.key, range: nil, tag: object.tag) { bytes in
            if !(source is DirectoryStore) { options.bandwidth.take(bytes.count, .down) }
            try watch.check()
            progress.move(object.key, bytes.count)
            collected.withLock { $0.append(contentsOf: bytes) }
        }
        let bytes = collected.withLock { $0 }
        guard bytes.count == object.size else { throw StorageFailure.changed(object.key, in: source.name) }
        if let name, Digest(hashing: bytes) != name { throw ObjectTransfer.damaged(object.key, source.name) }
        var facts = facts
        let md5 = MD5.of(bytes)
        if let said, said != md5 { throw ObjectTransfer.unlike(object.key, source.name) }
        facts.md5 = md5
        if !(destination is DirectoryStore) { await Blocking.pause { options.bandwidth.take(bytes.count, .up) } }
        let tag = try await destination.write(key, .bytes(bytes), facts)
        try await confirm(key, object.size, md5, tag)
        return Result(source: object, tag: tag)
    }

    /// From a reading thread to a writing one.
    private func streamed(
        _ object: ObjectInfo, to key: String, _ name: Digest?, _ facts: ObjectFacts, said: [UInt8]?
    ) async throws -> Result {
        var facts = facts
        let checksOnArrival = said != nil && destination is S3Store
        facts.md5 = checksOnArrival ? said : nil
        let sums = WholeSums(md5: checksOnArrival ? nil : said, digest: name)
        let pipe = BytePipe()
        let feed = ObjectSource.feed(size: object.size) { buffer in
            let got = try pipe.read(into: buffer)
            if !(destination is DirectoryStore) { options.bandwidth.take(got, .up) }
            return got
        }
        let tag = try await pipe.carry {
            try await source.read(object.key, range: nil, tag: object.tag) { bytes in
                if !(source is DirectoryStore) { options.bandwidth.take(bytes.count, .down) }
                try watch.check()
                progress.move(object.key, bytes.count)
                // The last bytes are let through only when all of them are what they should be: without them nothing is written.
                if sums.update(bytes) >= object.size {
                    let end = sums.finish()
                    if let name, end.digest != name { throw ObjectTransfer.damaged(object.key, source.name) }
                    if let said, let md5 = end.md5, md5 != said { throw ObjectTransfer.unlike(object.key, source.name) }
                }
                try pipe.write(bytes)
            }
        } writing: { [facts] in
            try await destination.write(key, feed, facts)
        }
        if let said { try await confirm(key, object.size, said, tag) }
        return Result(source: object, tag: tag)
    }

    /// The tag says that the store has what was sent, or else it is read back.
    private func confirm(_ key: String, _ size: Int64, _ md5: [UInt8], _ tag: String?) async throws {
        guard destination is S3Store, tag.map(ContentTag.init)?.md5 != md5 else { return }
        let sum = Mutex((MD5(), Int64(0)))
        try await destination.read(key, range: nil, tag: tag) { bytes in
            sum.withLock { sum in
                sum.0.update(bytes)
                sum.1 += Int64(bytes.count)
            }
        }
        guard sum.withLock({ $0.0.finish() == md5 && $0.1 == size }) else { throw ObjectTransfer.spoilt(key, destination.name) }
    }

    static func spoilt(_ key: String, _ store: String) -> FarmError {
        FarmError(
            "sync.digest", .corrupt, "\(store) has other bytes in \(key) than were sent to it",
            hint: "run it again; if it stays so, the store is damaged")
    }

    static func damaged(_ key: String, _ store: String) -> FarmError {
        FarmError(
            "sync.damaged", .corrupt, "\(key) in \(store) is damaged: its bytes are not those of its name",
            hint: "sciferry store repair brings it from another region")
    }

    /// The bytes are not those of the tag, or the tag is no MD5.
    static func unlike(_ key: String, _ store: String) -> FarmError {
        FarmError("sync.digest", .corrupt, "the bytes of \(key) from \(store) are not those of its tag")
    }
}

extension BytePipe {
    /// Runs both sides; the error of the one that began to fail is thrown.
    func carry<Value: Sendable>(
        reading: @escaping @Sendable () async throws -> Void, writing: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        async let reader: FarmError? = {
            do {
                try await reading()
                end()
                return nil
            } catch let error as FarmError {
                end(error)
                return error
            } catch {
                end(error)
                return FarmError("sync.cancelled", .cancelled, "cancelled")
            }
        }()
        do {
            let value = try await withTaskCancellationHandler {
                try await writing()
            } onCancel: {
                close()
            }
            close()
            // A source that found out at its end that it had changed.
            if let last = await reader, last.code != "sync.closed", last.category != .cancelled { throw last }
            return value
        } catch {
            close()
            // The reader's error comes out of the pipe in the writer, unless the writer had one of its own.
            if let first = await reader, first.code != "sync.closed", first.category != .cancelled { throw first }
            throw error
        }
    }
}

/// Ends transfers when a limit of the run is met.
final class LimitWatch: Sendable {
    private let mostBytes: Int64?
    private let deadline: Timestamp?
    private let cutoff: SyncOptions.Cutoff
    private let progress: SyncProgress
    /// Bytes of all objects that were begun.
    private let begun = Mutex<Int64>(0)

    init(_ options: SyncOptions, _ progress: SyncProgress, started: Timestamp) {
        mostBytes = options.mostBytes
        deadline = options.mostSeconds.map { started.adding(seconds: $0) }
        cutoff = options.cutoff
        self.progress = progress
    }

    /// Throws `sync.limit` for a transfer that goes on.
    func check() throws {
        guard cutoff == .hard else { return }
        if let mostBytes, progress.moved > mostBytes { throw LimitWatch.error("max-transfer") }
        if let deadline, Timestamp.now >= deadline { throw LimitWatch.error("max-duration") }
    }

    /// Waits, as long as no limit is met.
    func pause(_ seconds: Double) async throws {
        var left = seconds
        while left > 0 {
            try await Task.sleep(for: .seconds(min(left, 1)))
            left -= 1
            try check()
        }
    }

    /// Counts a transfer that is about to begin; the limit that keeps it from that.
    func admit(_ size: Int64) -> String? {
        if let deadline, Timestamp.now >= deadline { return "max-duration" }
        guard let mostBytes else { return nil }
        return begun.withLock { begun in
            guard cutoff == .cautious ? begun + size <= mostBytes : progress.moved < mostBytes else { return "max-transfer" }
            begun += size
            return nil
        }
    }

    private static func error(_ limit: String) -> FarmError { FarmError("sync.limit", .cancelled, "the run's --\(limit) is met") }
}
