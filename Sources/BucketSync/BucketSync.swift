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
    static let retried = 10_000
    let names = NameTrial()
    let backups = BackedUp()

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
    /// `store.foreign`, `sync.empty`, `sync.overlap`, `sync.filtered-farm`, a full destination, cancellation.
    package func run() async throws -> SyncReport {
        try checkOverlap()
        if options.deletes != nil, options.filter.hasAges {
            throw FarmError(
                "sync.ages", .usage, "ages are those of each side's own copies: objects would be deleted that the source still has",
                hint: "use sciferry copy with --max-age and --min-age")
        }
        let plan = try await listings()
        var report = SyncReport()
        report.dryRun = options.dryRun
        try await count(plan)
        let deletions = options.deletes == nil ? nil : try checkDeletions(plan)
        let watch = LimitWatch(options, progress, started: .now)
        if options.deletes == .before, deletions == nil, plan.order == .plain { report.add(try await delete(plan)) }
        progress.enter("copying")
        if options.deletes == .during, deletions == nil, plan.order == .plain {
            async let deleted = delete(plan)
            try await copyAll(plan, watch, &report)
            report.add(try await deleted)
        } else {
            try await copyAll(plan, watch, &report)
        }
        if plan.order == .farm, report.left > 0 {
            report.failed += 1
            tell(
                .failed(
                    key: "",
                    FarmError(
                        "sync.left", .conflict,
                        "\(report.left) objects were left as they are: what points at them was not written to \(destination.name)",
                        hint: "run it again, without options that leave objects alone")))
        }
        let isWhole = report.failed == 0 && report.damaged.isEmpty && report.limit == nil
        if isWhole { try await writePointers(plan, &report) }
        // A farm's mirror loses nothing before it has everything.
        if options.deletes == .after || (options.deletes != nil && plan.order == .farm), deletions == nil,
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
        var here = options.order == .farm ? nil : try await BucketListing(of: source, options.filter, progress)
        let order = options.order ?? (here?.isFarm == true ? .farm : .plain)
        var pointers: [String: [UInt8]] = [:]
        if order == .farm {
            guard options.filter.isOpen else {
                throw FarmError(
                    "sync.filtered-farm", .usage,
                    "\(source.name) belongs to a farm: with a filter its mirror would name what it does not have",
                    hint: "mirror it whole; sciferry pull brings single releases to a site")
            }
            for prefix in SyncOrder.pointers {
                for object in try await source.all(prefix: prefix) { pointers[object.key] = try await source.get(object.key) }
            }
            // What was listed before the pointers were read may lack what they name.
            here = nil
            try await checkFarms()
        }
        let listing = if let here { here } else { try await BucketListing(of: source, options.filter, progress) }
        if listing.count == 0 { try checkEmpty() }
        let other = try await there
        if order == .plain, options.deletes != nil, other.isFarm {
            throw FarmError(
                "store.foreign", .conflict, "\(destination.name) belongs to a farm or a store, and \(source.name) does not",
                hint: "are the two in the wrong order? sciferry copy adds to it")
        }
        tell(.listed(source: listing.count, destination: other.count))
        return Plan(order: order, source: listing.records, destination: other.records, known: memory?.known ?? .none, pointers: pointers)
    }

    /// An address that leads to nothing is most often a wrong one.
    private func checkEmpty() throws {
        if options.deletes != nil {
            throw FarmError("sync.empty", .usage, "\(source.name) is empty; nothing is deleted", hint: "check the source's address")
        }
        if let bucket = source as? S3Store, bucket.isPart {
            throw FarmError("storage.absent", .notFound, "\(source.name) has no object", hint: "check the source's address")
        }
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

    /// A run into itself, or into a part of what it reads, would not end well; nor would one that finds its backups among its objects.
    private func checkOverlap() throws {
        try checkOverlap(source, destination)
        guard let backup else { return }
        for side in [source, destination] { try checkOverlap(side, backup) }
    }

    private func checkOverlap(_ one: any ObjectStore, _ other: any ObjectStore) throws {
        let names = [one.name, other.name].map { $0.hasSuffix("/") ? $0 : $0 + "/" }
        if names[0] == names[1] {
            throw FarmError("sync.overlap", .usage, "\(one.name) is named twice", hint: "give each a bucket or a prefix of its own")
        }
        guard names[0].hasPrefix(names[1]) || names[1].hasPrefix(names[0]) else { return }
        let inner = names[0].hasPrefix(names[1]) ? names[0].dropFirst(names[1].count) : names[1].dropFirst(names[0].count)
        if !options.filter.includes(key: inner + "x"), !options.deletesExcluded { return }
        throw FarmError(
            "sync.overlap", .usage, "\(one.name) and \(other.name) lie in each other",
            hint: "leave the inner one out: --exclude \"/\(inner)**\"")
    }

    // MARK: Planning

    func verdict(_ pair: Pair, _ order: SyncOrder) -> Comparison.Verdict {
        guard let here = pair.source, let there = pair.destination else { return .differs }
        if options.ignoresTimes { return .differs }
        return options.comparison.verdict(
            here, there, pair.known, isNamedByContent: order == .farm && SyncOrder.contentName(of: here.key) != nil)
    }

    func isSkipped(_ pair: Pair, _ plan: Plan) -> Bool {
        let key = pair.key
        if let object = pair.source, object.isMarker(for: destination) { return true }
        return plan.order.isTransient(key) || (plan.order == .farm && pair.source != nil && SyncOrder.isPointer(key))
    }

    /// How much there is to copy, as far as the listings tell.
    func count(_ plan: Plan) async throws {
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
    func isDue(_ pair: Pair, _ plan: Plan) -> Bool {
        let grace = options.grace ?? (plan.order == .farm ? BucketSync.farmGrace : 0)
        if grace <= 0 { return true }
        if case .missing(let since) = pair.known { return Timestamp.now.seconds(since: since) >= grace }
        return false
    }

    /// The refusal, when more would be removed than may be.
    func checkDeletions(_ plan: Plan) throws -> FarmError? {
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
