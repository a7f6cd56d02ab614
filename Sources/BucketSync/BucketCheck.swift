import FarmModel
package import ObjectStorage
import Synchronization

/// Says whether two buckets hold the same, and changes nothing.
package struct BucketCheck: Sendable {
    package struct Report: Codable, Sendable, Hashable {
        package var same = 0
        package var differ = 0
        /// Only the destination has them.
        package var extra = 0
        /// Only the source has them.
        package var lacking = 0
        /// Only the destination has them, and the next runs keep them until their grace time is over.
        package var waiting = 0
        package var failed = 0
        /// Objects whose bytes were read, as nothing else could tell.
        package var read = 0

        package init() {}
        package var isSame: Bool { differ + extra + lacking + failed == 0 }
    }

    private let source: any ObjectStore
    private let destination: any ObjectStore
    private let filter: ObjectFilter
    private let comparison: Comparison
    private let isOneWay: Bool
    private let readsAll: Bool
    private let memory: SyncMemory?
    private let progress: SyncProgress
    private let tell: @Sendable (SyncEvent) -> Void

    /// - Parameters:
    ///   - isOneWay: what only the destination has does not count.
    ///   - readsAll: read all bytes of both, whatever tags say.
    package init(
        _ source: any ObjectStore, _ destination: any ObjectStore, filter: ObjectFilter = .all, comparison: Comparison = .checksum,
        isOneWay: Bool = false,
        readsAll: Bool = false, memory: SyncMemory? = nil, progress: SyncProgress = SyncProgress(),
        tell: @escaping @Sendable (SyncEvent) -> Void = { _ in }
    ) {
        self.source = source
        self.destination = destination
        self.filter = filter
        self.comparison = comparison
        self.isOneWay = isOneWay
        self.readsAll = readsAll
        self.memory = memory
        self.progress = progress
        self.tell = tell
    }

    /// Compares all keys; a pair that cannot be read counts as failed.
    package func run() async throws -> Report {
        async let other = BucketListing(of: destination, filter, progress)
        let here = try await BucketListing(of: source, filter, progress)
        let there = try await other
        tell(.listed(source: here.count, destination: there.count))
        // A mirror of a farm is the same when it holds what the farm's releases need.
        let order = here.isFarm && there.isFarm ? SyncOrder.farm : .plain
        var pairs = PairReader(source: here.records, destination: there.records, known: memory?.known ?? .none)
        var report = Report()
        progress.enter("comparing")
        try await withThrowingTaskGroup(of: (String, SyncSign, FarmError?, Bool).self) { tasks in
            var (running, isOver) = (0, false)
            while running > 0 || !isOver {
                while running < 8, !isOver {
                    guard let pair = try pairs.next() else {
                        isOver = true
                        break
                    }
                    if order.isTransient(pair.key) || pair.source?.isMarker(for: destination) == true
                        || pair.destination?.isMarker(for: source) == true
                    {
                        continue
                    }
                    guard let one = pair.source, let two = pair.destination else {
                        if pair.source == nil, isOneWay { continue }
                        if pair.source == nil, case .missing = pair.known {
                            report.waiting += 1
                            continue
                        }
                        count((pair.key, pair.sign, nil, false), &report)
                        continue
                    }
                    let verdict =
                        readsAll
                        ? (one.size == two.size ? .unknown : .differs) : comparison.verdict(one, two, pair.known, isNamedByContent: false)
                    if verdict != .unknown {
                        count((pair.key, verdict == .same ? .same : .differs, nil, false), &report)
                        continue
                    }
                    tasks.addTask { await self.look(one, two) }
                    running += 1
                }
                if running > 0, let found = try await tasks.next() {
                    running -= 1
                    count(found, &report)
                }
            }
        }
        return report
    }

    private func count(_ found: (key: String, sign: SyncSign, error: FarmError?, wasRead: Bool), _ report: inout Report) {
        tell(.found(key: found.key, found.sign))
        if let error = found.error { tell(.failed(key: found.key, error)) }
        if found.wasRead { report.read += 1 }
        switch found.sign {
        case .same: report.same += 1
        case .differs: report.differ += 1
        case .extra: report.extra += 1
        case .lacking: report.lacking += 1
        case .failed: report.failed += 1
        }
    }

    private func look(_ one: ObjectInfo, _ two: ObjectInfo) async -> (String, SyncSign, FarmError?, Bool) {
        do {
            if comparison == .time, !readsAll {
                let (mine, theirs) = (try await source.modified(of: one), try await destination.modified(of: two))
                let isSame = mine.map { mine in theirs.map { abs(mine.seconds(since: $0)) < 1 } ?? false } ?? false
                return (one.key, isSame ? .same : .differs, nil, false)
            }
            if !readsAll, let isSame = try await Comparison.ask(one, in: source, two, in: destination) {
                return (one.key, isSame ? .same : .differs, nil, false)
            }
            async let left = sum(of: one, in: source)
            async let right = sum(of: two, in: destination)
            let (mine, theirs) = (try await left, try await right)
            return (one.key, mine == theirs ? .same : .differs, nil, true)
        } catch let error as FarmError { return (one.key, .failed, error, false) } catch {
            return (one.key, .failed, FarmError("sync.cancelled", .cancelled, "cancelled"), false)
        }
    }

    private func sum(of object: ObjectInfo, in store: any ObjectStore) async throws -> Digest {
        let hasher = Mutex(Digest.Hasher())
        let progress = progress
        try await store.read(object.key, range: nil, tag: object.tag) { bytes in
            progress.move(object.key, bytes.count)
            hasher.withLock { $0.update(bytes) }
        }
        return hasher.withLock { $0.finish() }
    }
}
