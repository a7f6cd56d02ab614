import ChunkStore
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
    /// may run at once, beside additions and readers, and may be killed anywhere.
    ///
    /// Condemned packs leave the indexes of what stays at once, so that nobody relies on them any more.
    ///
    /// - Parameter grace: hours; longer than any addition takes.
    /// - Throws: `store.damaged` when it cannot be told what files need: then nothing is taken away.
    package func collect(grace: Double = FileStore.grace, dryRun: Bool = false) async throws -> Collection {
        let start = clock()
        let marks = try await Condemnation.all(in: bucket)
        let survey = try await StoreSurvey.read(self)
        guard survey.findings.isEmpty else {
            throw FarmError(
                "store.damaged", .corrupt,
                "\(survey.findings.count) objects are damaged or missing, so nothing is taken away: \(survey.findings[0].key): \(survey.findings[0].message)",
                hint: "sciferry store check names them, sciferry store repair brings them from a copy")
        }
        let needed = survey.needed
        let times = Condemnation.times(marks)
        var sizes: [String: Int64] = [:]
        for prefix in ["packs/", "indexes/", "manifests/", "covers/"] {
            for object in try await bucket.all(prefix: prefix) { sizes[object.key] = object.size }
        }
        var result = Collection()
        var (due, dropped): (Set<String>, Set<String>) = ([], [])
        for (key, time) in times {
            let isDue = start.seconds(since: time) >= grace * 3600
            if needed.contains(key) {
                result.spared += 1
                dropped.insert(key)
            } else if !isDue {
                result.waiting += sizes[key] == nil ? 0 : 1
            } else if let size = sizes[key] {
                due.insert(key)
                result.removed += 1
                result.removedBytes += size
            } else {
                dropped.insert(key)
            }
        }
        let useless = Set(sizes.keys).subtracting(needed).subtracting(times.keys)
        result.condemned = useless.count
        result.condemnedBytes = useless.reduce(0) { $0 + (sizes[$1] ?? 0) }
        if dryRun { return result }

        // The mark first: from here on nobody begins to rely on them. Its time counts from when it can be seen.
        if !useless.isEmpty { try await Condemnation(at: clock(), keys: useless).write(to: bucket) }
        try await leaveIndexes(survey, Set(useless.lazy.filter { $0.hasPrefix("packs/") })) { try inTime(start, grace) }
        // What goes stays condemned for another grace time: a slower collection, which decided the same, may remove it once more.
        if !due.isEmpty { try await Condemnation(at: clock(), keys: due).write(to: bucket) }
        for prefix in ["covers/", "manifests/", "indexes/", "packs/"] {
            for key in due.sorted() where key.hasPrefix(prefix) {
                try inTime(start, grace)
                try await bucket.delete(key)
            }
        }
        try await settle(marks, dropping: dropped.union(due))
        try await bucket.sweep()
        return result
    }

    /// Throws `store.slow` when what was seen at the start is too old to act on: then a later collection goes on.
    private func inTime(_ start: Timestamp, _ grace: Double) throws {
        guard clock().seconds(since: start) < max(600, grace * 1800) else {
            throw FarmError("store.slow", .unavailable, "the collection has become too old to remove anything", hint: "run it again")
        }
    }

    /// Writes indexes anew that list condemned packs beside others, and the covers that name them.
    private func leaveIndexes(_ survey: StoreSurvey, _ packs: Set<String>, _ check: () throws -> Void) async throws {
        guard !packs.isEmpty else { return }
        var replaced: [Digest: Digest] = [:]
        for (name, index) in survey.view.indexes {
            let staying = index.listings.filter { !$0.entries.isEmpty && !packs.contains(Pack.key($0.pack)) }
            guard staying.count < index.listings.count, !staying.isEmpty else { continue }
            try check()
            let bytes = PackIndex(listings: staying).bytes
            let other = Digest(hashing: bytes)
            try await bucket.put(PackIndex.key(other), bytes)
            replaced[name] = other
        }
        guard !replaced.isEmpty else { return }
        for manifest in Set(survey.reaches.map(\.file.manifest)) {
            let key = ImageManifest.coverKey(manifest)
            var cover = try CanonicalJSON.decode(ManifestCover.self, from: try await bucket.get(key), source: key)
            let indexes = Set(cover.indexes.map { replaced[$0] ?? $0 }).sorted()
            guard indexes != cover.indexes else { continue }
            cover.indexes = indexes
            try check()
            try await bucket.put(key, try CanonicalJSON.encode(cover))
        }
    }

    /// Writes marks without what is gone or spared; the old ones go when the new ones are there.
    private func settle(_ marks: [(key: String, mark: Condemnation)], dropping keys: Set<String>) async throws {
        for (key, mark) in marks where !mark.keys.isDisjoint(with: keys) {
            let rest = mark.keys.subtracting(keys)
            if !rest.isEmpty { try await Condemnation(at: mark.at, keys: rest).write(to: bucket) }
            try await bucket.delete(key)
        }
    }
}
