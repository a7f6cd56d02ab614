import FarmModel
import ObjectStorage

/// What is taken away.
extension BucketSync {
    func delete(_ plan: Plan) async throws -> SyncReport {
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
}
