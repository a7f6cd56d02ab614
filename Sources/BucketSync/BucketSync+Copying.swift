import FarmModel
import ObjectStorage

/// What is copied, and in which order.
extension BucketSync {
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
            !["sync.immutable", "storage.key", "storage.denied", "storage.clock"].contains(error.code)
                && error.category != .cancelled
        }
    }

    private func tellFailure(_ failure: Failure) {
        tell(.found(key: failure.pair.key, .failed))
        tell(.failed(key: failure.pair.key, failure.error))
    }

    func copyAll(_ plan: Plan, _ watch: LimitWatch, _ report: inout SyncReport) async throws {
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
                let earlier = Dictionary(again.map { ($0.pair.place, $0) }, uniquingKeysWith: { $1 })
                let stopped = try await copy(watch, plan, &report, &failed) { _ in again.popFirst()?.pair }
                // A limit came first: what failed before has failed.
                let rest = stopped.compactMap { earlier[$0.place] } + again
                report.failed += rest.count
                report.examined += rest.count
                failed += rest
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
            // What was missed once is not missed any more.
            if case .same = pair.known, let record = pair.knownRecord { try memory?.keep(record) }
        }
        return nil
    }

    /// Copies one pair after the other; returns those that a limit kept from it.
    @discardableResult
    private func copy(
        _ watch: LimitWatch, _ plan: Plan, _ report: inout SyncReport, _ failed: inout [Failure],
        next: (inout SyncReport) throws -> Pair?
    ) async throws -> [Pair] {
        let room = max(1, options.transfers) * 4
        var stopped: [Pair] = []
        try await withThrowingTaskGroup(of: (Outcome, Int).self) { tasks in
            var used = 0
            var upcoming = try next(&report)
            while used > 0 || upcoming != nil {
                while let pair = upcoming {
                    // What is large is bound by the services' and the line's width, which few fill: two of these go at once where 16 small ones do.
                    let size = pair.source?.size ?? 0
                    let weight = size > options.partsAbove ? 4 * max(1, options.partsAtOnce) : size > ObjectTransfer.small ? 8 : 1
                    guard used == 0 || used + weight <= room else { break }
                    used += weight
                    tasks.addTask { (await self.settle(pair, plan, watch), weight) }
                    upcoming = try next(&report)
                }
                guard let (outcome, weight) = try await tasks.next() else { break }
                used -= weight
                try settle(outcome, &report, &failed)
                if case .limit(let pair, _) = outcome { stopped.append(pair) }
                if report.limit != nil, let pair = upcoming {
                    stopped.append(pair)
                    upcoming = nil
                }
            }
        }
        try Task.checkCancellation()
        return stopped
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
            try await checkName(here.key)
            if let limit = watch.admit(here.size) { return .limit(pair, limit) }
            let transfer = transfer(from: source, to: destination, watch)
            if let there = pair.destination, let backup, !backups.contains(here.key) {
                try await keep(there, in: backup, watch)
                backups.add(here.key)
            }
            let started = Timestamp.now
            let name = plan.order == .farm ? SyncOrder.contentName(of: here.key) : nil
            let result = try await transfer.run(here, to: here.key, name: name)
            backups.remove(here.key)
            if let name, result.source.size != here.size { throw ObjectTransfer.damaged("\(name)", source.name) }
            return .copied(pair, result, seconds: Timestamp.now.seconds(since: started))
        } catch let error as FarmError {
            if error.code == "sync.damaged" { return .damaged(pair) }
            if error.code == "sync.limit" { return .limit(pair, error.message.contains("duration") ? "max-duration" : "max-transfer") }
            // What was removed in the source meanwhile is not missing here.
            if error.code == "storage.absent", (try? await source.head(here.key)) == .some(nil) {
                return await isListed(here.key) ? .failed(pair, unreadable(here.key)) : .left(pair)
            }
            return .failed(pair, error)
        } catch {
            return .failed(pair, FarmError("sync.cancelled", .cancelled, "cancelled"))
        }
    }

    /// There are services that fold `a//b` into `a/b`: one object would be written over the other.
    private func checkName(_ key: String) async throws {
        guard let store = destination as? S3Store, (try? ObjectKey.check(key)) == nil else { return }
        guard try await names.keeps(store) else {
            throw FarmError(
                "storage.key", .invalid, "\(destination.name) takes names like \"\(key)\" for others", hint: "give the object another name")
        }
    }

    private func isListed(_ key: String) async -> Bool {
        (try? await source.list(prefix: key, after: nil).objects.contains { $0.key == key }) ?? true
    }

    private func unreadable(_ key: String) -> FarmError {
        FarmError("storage.absent", .notFound, "\(source.name) lists \(key), but says that it has no such object")
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
        case .failed(_, let error) where error.category == .full:
            // Nothing else would fit either, and what is there stays.
            throw error
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
        do { _ = try await plain.run(object, to: object.key + options.suffix) } catch let error as FarmError
            where error.code == "storage.absent"
        {
            // Somebody else has taken it away: there is nothing to keep.
            guard try await destination.head(object.key) == nil else { throw error }
            return
        }
        tell(.backedUp(key: object.key))
    }

    // MARK: Pointers

    /// What the source's pointers said when the run began.
    func writePointers(_ plan: Plan, _ report: inout SyncReport) async throws {
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
}
