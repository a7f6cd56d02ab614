import FarmModel
import ObjectStorage

extension FileStore {
    /// What a collection did.
    package struct Collection: Codable, Sendable, Hashable {
        /// Objects that no file needs and that are condemned now.
        package var condemned = 0
        package var condemnedBytes: Int64 = 0
        /// Objects that were condemned for long enough, and are gone.
        package var removed = 0
        package var removedBytes: Int64 = 0
        /// Objects that had been condemned and are needed again.
        package var spared = 0
        /// Condemned ones that wait for their time.
        package var waiting = 0
    }

    /// Takes away what no file needs, in two steps: it is condemned first, and goes when it still is useless after the grace time. Any number
    /// may run at once, beside additions and readers, and may be killed anywhere. Nothing that stays is ever written anew: an index that some
    /// file needs keeps all its packs.
    ///
    /// - Parameter grace: hours, no less than `FileStore.grace`; or 0 when nobody else uses the store: then it goes at once.
    /// - Throws: `store.damaged` when it cannot be told what files need, or what they need is not there: then nothing is taken away.
    package func collect(grace: Double = FileStore.grace, dryRun: Bool = false) async throws -> Collection {
        let start = clock()
        let marks = try await Condemnation.all(in: bucket)
        let survey = try await StoreSurvey.read(self)
        var sizes = survey.view.packs
        for prefix in ["indexes/", "manifests/", "covers/"] {
            for object in try await bucket.all(prefix: prefix) { sizes[object.key] = object.size }
        }
        if let finding = survey.findings.first {
            throw FarmError(
                "store.damaged", .corrupt,
                "\(survey.findings.count) objects are damaged or missing, so nothing is taken away: \(finding.key): \(finding.message)",
                hint: "sciferry store check names them, sciferry store repair brings them from a copy")
        }
        let needed = survey.kept
        let times = Condemnation.times(marks)
        var result = Collection()
        var due: Set<String> = []
        for (key, time) in times {
            guard let size = sizes[key] else { continue }
            if needed.contains(key) {
                result.spared += 1
            } else if start.seconds(since: time) < grace * 3600 {
                result.waiting += 1
            } else {
                due.insert(key)
                result.removed += 1
                result.removedBytes += size
            }
        }
        let useless = Set(sizes.keys).subtracting(needed).subtracting(times.keys)
        let bytes = useless.reduce(0) { $0 + (sizes[$1] ?? 0) }
        if grace == 0 {
            due.formUnion(useless)
            result.removed += useless.count
            result.removedBytes += bytes
        } else {
            result.condemned = useless.count
            result.condemnedBytes = bytes
        }
        if dryRun { return result }

        // Its time counts from when it can be seen. What goes stays condemned for another grace time: a slower collection, which decided the
        // same, may remove it once more.
        let condemned = useless.union(due)
        if !condemned.isEmpty { try await Condemnation(at: clock(), keys: condemned).write(to: bucket) }
        if grace > 0, !due.isEmpty {
            // Another collection may have deleted the old mark meanwhile, so that somebody relies on what it named; from now on there is a new one.
            let still = Condemnation.times(try await Condemnation.all(in: bucket))
            due = due.filter { still[$0].map { start.seconds(since: $0) >= grace * 3600 } ?? false }
            (result.removed, result.removedBytes) = (due.count, due.reduce(0) { $0 + (sizes[$1] ?? 0) })
        }
        for prefix in ["covers/", "manifests/", "indexes/", "packs/"] {
            for key in due.sorted() where key.hasPrefix(prefix) {
                try inTime(start, grace)
                try await bucket.delete(key)
            }
        }
        // Marks are never changed; one goes when nothing of it is left that could.
        for (key, mark) in marks where start.seconds(since: mark.at) >= grace * 3600 {
            if mark.keys.allSatisfy({ needed.contains($0) || sizes[$0] == nil }) { try await bucket.delete(key) }
        }
        try await bucket.sweep()
        return result
    }

    /// Throws `store.slow` when what was seen at the start is too old to act on: then a later collection goes on.
    private func inTime(_ start: Timestamp, _ grace: Double) throws {
        guard grace == 0 || clock().seconds(since: start) < FileStore.grace * 1800 else {
            throw FarmError("store.slow", .unavailable, "the collection has become too old to remove anything", hint: "run it again")
        }
    }
}
