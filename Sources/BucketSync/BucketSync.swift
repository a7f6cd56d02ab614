import FarmModel
package import ObjectStorage

/// Makes a bucket hold what another one holds, or what it lacks of that.
///
/// Both are listed first, with bounded memory whatever their size and order; then every key is compared, what differs is copied and made sure of,
/// and what the source does not have is removed. A farm's or a store's bucket is written in the order of `SyncOrder.farm`, so that its mirror
/// can be used at every instant.
package struct BucketSync: Sendable {
    let source: any ObjectStore
    let destination: any ObjectStore
    let backup: (any ObjectStore)?
    let options: SyncOptions
    let memory: SyncMemory?
    let progress: SyncProgress
    let tell: @Sendable (SyncEvent) -> Void
    /// Seconds that mirrors of farms keep what their source does not have any more.
    package static let farmGrace: Double = 48 * 3600
    private static let retried = 10_000

    /// - Parameters:
    ///   - backup: where what is replaced or removed goes before that.
    ///   - memory: what this pair remembers; without it more is asked and copied.
    package init(
        from source: any ObjectStore, to destination: any ObjectStore, backup: (any ObjectStore)? = nil,
        options: SyncOptions = SyncOptions(),
        memory: SyncMemory? = nil, progress: SyncProgress = SyncProgress(), tell: @escaping @Sendable (SyncEvent) -> Void = { _ in }
    ) {
        self.source = source
        self.destination = destination
        self.backup = backup
        self.options = options
        self.memory = memory
        self.progress = progress
        self.tell = tell
    }

    /// Runs to the end. What fails is told and counted and does not stop the rest; throws what stops everything: a listing that cannot be read,
    /// `store.foreign`, `sync.empty`, `sync.overlap`, `sync.max-delete`, cancellation.
    package func run() async throws -> SyncReport {
        try checkOverlap()
        let plan = try await listings()
        var report = SyncReport()
        report.dryRun = options.dryRun
        try await count(plan)
        let deletions = options.deletes == nil ? nil : try checkDeletions(plan)
        let watch = LimitWatch(options, progress, started: .now)
        if options.deletes == .before, deletions == nil { report.add(try await delete(plan)) }
        progress.enter("copying")
        if options.deletes == .during, deletions == nil, plan.order == .plain {
            async let deleted = delete(plan)
            try await copyAll(plan, watch, &report)
            report.add(try await deleted)
        } else {
            try await copyAll(plan, watch, &report)
        }
        let isWhole = report.failed == 0 && report.damaged.isEmpty && report.limit == nil
        if isWhole { try await writePointers(plan, &report) }
        // A farm's mirror loses nothing before it has everything.
        if options.deletes == .after || (options.deletes == .during && plan.order == .farm), deletions == nil,
            isWhole || (options.ignoresErrors && report.limit == nil)
        {
            progress.enter("deleting")
            report.add(try await delete(plan))
        }
        if let deletions {
            tell(.failed(key: "", deletions))
            report.failed += 1
        }
        try await close(isWhole && !options.dryRun && options.filter.isOpen)
        return report
    }

    // MARK: Listing

    /// What a run works on.
    struct Plan: Sendable {
        var order: SyncOrder
        var source: SortedRecords
        var destination: SortedRecords
        var known: SortedRecords
        /// What the source's pointers said before anything was listed: all that they name is then in the listing.
        var pointers: [String: [UInt8]]

        func pairs() -> PairReader { PairReader(source: source, destination: destination, known: known) }
    }

    private func listings() async throws -> Plan {
        progress.enter("listing")
        async let there = BucketListing(of: destination, options.deletesExcluded ? .all : options.filter, progress)
        var here = try await BucketListing(of: source, options.filter, progress)
        let order = options.order ?? (here.isFarm ? .farm : .plain)
        var pointers: [String: [UInt8]] = [:]
        if order == .farm {
            for prefix in SyncOrder.pointers {
                for object in try await source.all(prefix: prefix) where options.filter.includes(object) {
                    pointers[object.key] = try await source.get(object.key)
                }
            }
            here = try await BucketListing(of: source, options.filter, progress)
            try await checkFarms()
        }
        if options.deletes != nil, here.count == 0 {
            throw FarmError("sync.empty", .usage, "\(source.name) is empty; nothing is deleted", hint: "check the source's address")
        }
        let other = try await there
        tell(.listed(source: here.count, destination: other.count))
        return Plan(order: order, source: here.records, destination: other.records, known: memory?.known ?? .none, pointers: pointers)
    }

    /// Two farms' buckets are never poured together.
    private func checkFarms() async throws {
        let key = SyncOrder.identity
        guard try await source.head(key) != nil, try await destination.head(key) != nil else { return }
        guard try await source.get(key) == destination.get(key) else {
            throw FarmError(
                "store.foreign", .conflict, "\(destination.name) belongs to another farm than \(source.name)",
                hint: "give the copy a bucket of its own")
        }
    }

    /// A run into itself, or into a part of what it reads, would not end well.
    private func checkOverlap() throws {
        let names = [source.name, destination.name].map { $0.hasSuffix("/") ? $0 : $0 + "/" }
        if names[0] == names[1] { throw FarmError("sync.overlap", .usage, "source and destination are both \(source.name)") }
        guard names[0].hasPrefix(names[1]) || names[1].hasPrefix(names[0]) else { return }
        let inner = names[0].hasPrefix(names[1]) ? names[0].dropFirst(names[1].count) : names[1].dropFirst(names[0].count)
        if !options.filter.includes(key: inner + "x"), !options.deletesExcluded { return }
        throw FarmError(
            "sync.overlap", .usage, "\(source.name) and \(destination.name) lie in each other",
            hint: "leave the inner one out: --exclude \"/\(inner)**\"")
    }

    // MARK: Planning

    private func verdict(_ pair: Pair, _ order: SyncOrder) -> Comparison.Verdict {
        guard let here = pair.source, let there = pair.destination else { return .differs }
        if options.ignoresTimes { return .differs }
        return options.comparison.verdict(
            here, there, pair.known, isNamedByContent: order == .farm && SyncOrder.contentName(of: here.key) != nil)
    }

    private func isSkipped(_ pair: Pair, _ plan: Plan) -> Bool {
        let key = pair.key
        return plan.order.isTransient(key) || (plan.order == .farm && pair.source != nil && SyncOrder.isPointer(key))
    }

    /// How much there is to copy, as far as the listings tell.
    private func count(_ plan: Plan) async throws {
        progress.enter("comparing")
        var (pairs, objects, bytes) = (plan.pairs(), 0, Int64(0))
        while let pair = try pairs.next() {
            guard let here = pair.source, !isSkipped(pair, plan), verdict(pair, plan.order) == .differs else { continue }
            if pair.destination != nil, options.ignoresExisting || options.isImmutable { continue }
            objects += 1
            bytes += here.size
        }
        progress.plan(objects, bytes)
        tell(.planned(objects: objects, bytes: bytes))
    }

    /// Whether an object that only the destination has may go now.
    private func isDue(_ pair: Pair, _ plan: Plan) -> Bool {
        let grace = options.grace ?? (plan.order == .farm ? BucketSync.farmGrace : 0)
        if grace <= 0 { return true }
        if case .missing(let since) = pair.known { return Timestamp.now.seconds(since: since) >= grace }
        return false
    }

    /// The refusal, when more would be removed than may be.
    private func checkDeletions(_ plan: Plan) throws -> FarmError? {
        guard options.mostDeleted != nil || options.mostDeletedBytes != nil else { return nil }
        var (pairs, objects, bytes) = (plan.pairs(), 0, Int64(0))
        while let pair = try pairs.next() {
            guard pair.source == nil, let there = pair.destination, !isSkipped(pair, plan), isDue(pair, plan) else { continue }
            objects += 1
            bytes += there.size
        }
        guard objects > options.mostDeleted ?? Int.max || bytes > options.mostDeletedBytes ?? Int64.max else { return nil }
        return FarmError(
            "sync.max-delete", .conflict,
            "\(objects) objects of \(bytes) bytes would be deleted in \(destination.name), more than allowed; none was",
            hint: "look at them with --dry-run, then raise --max-delete or --max-delete-size")
    }

    // MARK: Copying

    private enum Outcome: Sendable {
        case same(Pair, remember: Known?)
        case copied(Pair, ObjectTransfer.Result, seconds: Double)
        case left(Pair)
        case damaged(Pair)
        case failed(Pair, FarmError)
        case limit(Pair, String)
    }

    private struct Failure {
        var pair: Pair
        var error: FarmError

        /// What somebody decided is not tried again.
        var mayPass: Bool {
            !["sync.immutable", "storage.key", "storage.denied", "storage.expired", "storage.clock"].contains(error.code)
                && error.category != .cancelled
        }
    }

    private func tellFailure(_ failure: Failure) {
        tell(.found(key: failure.pair.key, .failed))
        tell(.failed(key: failure.pair.key, failure.error))
    }

    private func copyAll(_ plan: Plan, _ watch: LimitWatch, _ report: inout SyncReport) async throws {
        var pairs = plan.pairs()
        var waiting = try nextToCopy(&pairs, plan, &report)
        while waiting != nil {
            let rank = waiting?.rank
            var failed: [Failure] = []
            try await copy(watch, plan, &report, &failed) { report in
                // Nothing of the next rank begins before all of this one is there.
                guard let pair = waiting, plan.order == .plain || pair.rank == rank, report.limit == nil else { return nil }
                waiting = try nextToCopy(&pairs, plan, &report)
                return pair
            }
            // What fails may go better later.
            for _ in 1..<max(1, options.rounds) where report.limit == nil && !failed.isEmpty {
                var again = failed.filter(\.mayPass)[...]
                failed.removeAll(where: \.mayPass)
                report.failed -= again.count
                report.examined -= again.count
                try await copy(watch, plan, &report, &failed) { _ in again.popFirst()?.pair }
            }
            for failure in failed { tellFailure(failure) }
            // What would point at what failed must not be written.
            if report.limit != nil || (plan.order == .farm && (report.failed > 0 || !report.damaged.isEmpty)) { return }
        }
    }

    /// The next pair that is not settled by the listings.
    private func nextToCopy(_ pairs: inout PairReader, _ plan: Plan, _ report: inout SyncReport) throws -> Pair? {
        while let pair = try pairs.next() {
            if isSkipped(pair, plan) { continue }
            guard pair.source != nil else {
                if options.deletes == nil {
                    report.examined += 1
                    tell(.found(key: pair.key, .extra))
                }
                continue
            }
            if verdict(pair, plan.order) != .same { return pair }
            report.examined += 1
            report.same += 1
            tell(.found(key: pair.key, .same))
            if let record = pair.knownRecord { try memory?.keep(record) }
        }
        return nil
    }

    private func copy(
        _ watch: LimitWatch, _ plan: Plan, _ report: inout SyncReport, _ failed: inout [Failure],
        next: (inout SyncReport) throws -> Pair?
    ) async throws {
        let room = max(1, options.transfers) * 4
        try await withThrowingTaskGroup(of: (Outcome, Int).self) { tasks in
            var used = 0
            var upcoming = try next(&report)
            while used > 0 || upcoming != nil {
                while let pair = upcoming {
                    // A large one takes the place of four small ones.
                    let size = pair.source?.size ?? 0
                    let weight = size > options.partsAbove ? 4 * max(1, options.partsAtOnce) : size > ObjectTransfer.small ? 4 : 1
                    guard used == 0 || used + weight <= room else { break }
                    used += weight
                    tasks.addTask { (await self.settle(pair, plan, watch), weight) }
                    upcoming = try next(&report)
                }
                guard let (outcome, weight) = try await tasks.next() else { break }
                used -= weight
                try settle(outcome, &report, &failed)
                if report.limit != nil { upcoming = nil }
            }
        }
        try Task.checkCancellation()
    }

    /// Compares where the listings could not, and copies.
    private func settle(_ pair: Pair, _ plan: Plan, _ watch: LimitWatch) async -> Outcome {
        guard let here = pair.source else { return .left(pair) }
        do {
            if let there = pair.destination {
                if let settled = try await settleExisting(pair, here, there, plan) { return settled }
            }
            if options.dryRun {
                return .copied(pair, ObjectTransfer.Result(source: here), seconds: 0)
            }
            if let limit = watch.admit(here.size) { return .limit(pair, limit) }
            let transfer = transfer(from: source, to: destination, watch)
            if pair.destination != nil, let there = pair.destination, let backup { try await keep(there, in: backup, watch) }
            let started = Timestamp.now
            let name = plan.order == .farm ? SyncOrder.contentName(of: here.key) : nil
            let result = try await transfer.run(here, to: here.key, name: name)
            if let name, result.source.size != here.size { throw ObjectTransfer.damaged("\(name)", source.name) }
            return .copied(pair, result, seconds: Timestamp.now.seconds(since: started))
        } catch let error as FarmError {
            if error.code == "sync.damaged" { return .damaged(pair) }
            if error.code == "sync.limit" { return .limit(pair, error.message.contains("duration") ? "max-duration" : "max-transfer") }
            // What was removed in the source meanwhile is not missing here.
            if error.code == "storage.absent", (try? await source.head(here.key)) == .some(nil) { return .left(pair) }
            return .failed(pair, error)
        } catch {
            return .failed(pair, FarmError("sync.cancelled", .cancelled, "cancelled"))
        }
    }

    /// What becomes of a key that both have; `nil` when it is to be copied.
    private func settleExisting(_ pair: Pair, _ here: ObjectInfo, _ there: ObjectInfo, _ plan: Plan) async throws -> Outcome? {
        if options.ignoresExisting { return .left(pair) }
        let verdict = verdict(pair, plan.order)
        if verdict == .same { return .same(pair, remember: nil) }
        if verdict == .unknown, try await isSame(here, there) {
            guard let one = here.tag, let other = there.tag, options.comparison == .checksum else { return .same(pair, remember: nil) }
            return .same(pair, remember: .same(size: here.size, source: one, destination: other))
        }
        if options.updatesOnly, !options.ignoresTimes {
            let (mine, theirs) = (try await source.modified(of: here), try await destination.modified(of: there))
            if let mine, let theirs, theirs.seconds(since: mine) > options.window { return .left(pair) }
        }
        if options.isImmutable {
            throw FarmError(
                "sync.immutable", .conflict, "\(here.key) differs in \(destination.name), where nothing may be changed",
                hint: "leave --immutable away to replace it")
        }
        return nil
    }

    private func isSame(_ here: ObjectInfo, _ there: ObjectInfo) async throws -> Bool {
        if options.comparison == .time {
            guard let mine = try await source.modified(of: here), let theirs = try await destination.modified(of: there) else {
                return false
            }
            return abs(mine.seconds(since: theirs)) < options.window
        }
        return try await Comparison.ask(here, in: source, there, in: destination) ?? false
    }

    private func settle(_ outcome: Outcome, _ report: inout SyncReport, _ failed: inout [Failure]) throws {
        if case .limit(_, let limit) = outcome {
            report.limit = limit
            return
        }
        report.examined += 1
        switch outcome {
        case .same(let pair, let known):
            report.same += 1
            tell(.found(key: pair.key, .same))
            if let known { try memory?.remember(pair.place, known) }
        case .left(let pair):
            report.left += 1
            tell(.found(key: pair.key, pair.destination == nil ? .lacking : .differs))
        case .copied(let pair, let result, let seconds):
            report.copied += 1
            report.copiedBytes += result.source.size
            if result.onServer { report.copiedOnServer += 1 }
            tell(.found(key: pair.key, pair.sign))
            if options.dryRun { return }
            tell(.copied(key: pair.key, bytes: result.source.size, seconds: seconds, onServer: result.onServer))
            let copy = ObjectInfo(key: pair.key, size: result.source.size, tag: result.tag)
            if let one = result.source.tag, let other = result.tag, !Comparison.tell(result.source, copy) {
                try memory?.remember(pair.place, .same(size: result.source.size, source: one, destination: other))
            }
        case .damaged(let pair):
            report.damaged.append(pair.key)
            tell(.found(key: pair.key, .failed))
        case .failed(let pair, let error):
            report.failed += 1
            let failure = Failure(pair: pair, error: error)
            if failed.count < BucketSync.retried { failed.append(failure) } else { tellFailure(failure) }
        case .limit: break
        }
    }

    private func transfer(from source: any ObjectStore, to destination: any ObjectStore, _ watch: LimitWatch) -> ObjectTransfer {
        ObjectTransfer(
            source: source, destination: destination, options: options, memory: memory, progress: progress, watch: watch,
            resumed: { tell(.resumed(key: $0, bytes: $1)) })
    }

    /// Brings what is about to be replaced or removed to the backup.
    func keep(_ object: ObjectInfo, in backup: any ObjectStore, _ watch: LimitWatch) async throws {
        let plain = ObjectTransfer(
            source: destination, destination: backup, options: options, memory: nil, progress: progress, watch: watch, resumed: { _, _ in })
        _ = try await plain.run(object, to: object.key + options.suffix)
        tell(.backedUp(key: object.key))
    }

    // MARK: Pointers

    /// What the source's pointers said when the run began.
    private func writePointers(_ plan: Plan, _ report: inout SyncReport) async throws {
        for (key, bytes) in plan.pointers.sorted(by: { (SyncOrder.farm.rank($0.key), $0.key) < (SyncOrder.farm.rank($1.key), $1.key) }) {
            report.examined += 1
            if let there = try await destination.head(key), there.size == Int64(bytes.count), try await destination.get(key) == bytes {
                report.same += 1
                tell(.found(key: key, .same))
                continue
            }
            tell(.found(key: key, .differs))
            if !options.dryRun { try await destination.put(key, bytes) }
            report.copied += 1
            report.copiedBytes += Int64(bytes.count)
        }
    }

    // MARK: Deleting

    private func delete(_ plan: Plan) async throws -> SyncReport {
        var report = SyncReport()
        let watch = LimitWatch(SyncOptions(), progress, started: .now)
        // Pointers go first, so that nothing points at what is already gone.
        let ranks: [UInt8?] = plan.order == .farm ? (0...9).reversed().map { $0 } : [nil]
        for rank in ranks {
            var (pairs, batch) = (plan.pairs(), [ObjectInfo]())
            while let pair = try pairs.next() {
                guard pair.source == nil, let there = pair.destination, rank.map({ $0 == pair.rank }) ?? true, !isSkipped(pair, plan) else {
                    continue
                }
                report.examined += 1
                tell(.found(key: pair.key, .extra))
                guard isDue(pair, plan) else {
                    report.waiting += 1
                    if case .missing = pair.known, let record = pair.knownRecord {
                        try memory?.keep(record)
                    } else if !options.dryRun {
                        try memory?.remember(pair.place, .missing(since: .now))
                    }
                    continue
                }
                batch.append(there)
                if batch.count == 1000 { try await delete(&batch, watch, &report) }
            }
            try await delete(&batch, watch, &report)
        }
        return report
    }

    private func delete(_ batch: inout [ObjectInfo], _ watch: LimitWatch, _ report: inout SyncReport) async throws {
        defer { batch = [] }
        var sound = batch
        if let backup, !options.dryRun {
            sound = []
            for object in batch {
                do {
                    try await keep(object, in: backup, watch)
                    sound.append(object)
                } catch let error as FarmError {
                    report.failed += 1
                    tell(.failed(key: object.key, error))
                }
            }
        }
        if sound.isEmpty { return }
        let errors = options.dryRun ? [] : try await destination.delete(sound.map(\.key))
        let stayed = Set(errors.map(\.key))
        for (key, error) in errors {
            report.failed += 1
            tell(.failed(key: key, error))
        }
        for object in sound where !stayed.contains(object.key) {
            report.deleted += 1
            report.deletedBytes += object.size
            if !options.dryRun { tell(.deleted(key: object.key, bytes: object.size)) }
        }
    }

    // MARK: The end

    private func close(_ isWhole: Bool) async throws {
        if !options.dryRun { try? await destination.sweep() }
        guard let memory, isWhole else { return }
        // Nobody will go on with these: their objects are there, or are gone.
        if let store = destination as? any MultipartStore {
            for upload in memory.uploads {
                try? await store.abortUpload(upload.key, upload: upload.id)
                try memory.ended(upload)
            }
        }
        try await memory.close()
    }
}
