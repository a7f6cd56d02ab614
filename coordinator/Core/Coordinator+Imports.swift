import FarmModel
import SiteDelivery

/// Images that others made: catalogued at once, taken in when somebody wants them.
extension Coordinator {
    /// So many jobs are made in one transaction.
    private static let mostAtOnce = 500

    /// Takes a catalogue's images to its knowledge: all of them or, when one is not as it should be, none.
    ///
    /// - Throws: `import.entry`.
    package func addImports(_ request: ImportRequest, by who: String) throws -> ImportAnswer {
        let records = try request.entries.map { entry in
            try entry.check()
            let plan = Digest(hashing: try Coordinator.plan(for: entry).canonicalBytes())
            return ImportRecord(entry: entry, plan: plan, addedBy: who, addedAt: .now)
        }
        return try transition { state in
            var answer = ImportAnswer()
            for record in records {
                guard let before = state.imports[record.entry.key] else {
                    answer.added += 1
                    state.put(record)
                    continue
                }
                if before.entry == record.entry {
                    answer.unchanged += 1
                    continue
                }
                answer.changed += 1
                var record = record
                // Another address for the same bytes is no reason to fetch them again.
                if Coordinator.isServed(before, as: record.entry, state) { (record.plan, record.job) = (before.plan, before.job) }
                state.put(record)
            }
            return answer
        }
    }

    /// Whether what the farm has of an image, or is about to have, is what an entry now offers.
    private static func isServed(_ record: ImportRecord, as entry: CatalogueEntry, _ state: FarmState) -> Bool {
        func bare(_ entry: CatalogueEntry) -> CatalogueEntry {
            var entry = entry
            (entry.source.locations, entry.source.checksum, entry.source.size) = ([], nil, nil)
            return entry
        }
        guard bare(record.entry) == bare(entry) else { return false }
        let checksum = entry.source.checksum
        if let release = state.release(ofKey: record.plan)?.release {
            guard entry.source.size ?? release.image.size == release.image.size else { return false }
            guard let checksum, checksum != record.entry.source.checksum else { return true }
            return checksum.algorithm == .sha256 && checksum.hex == release.image.digest.hex
        }
        return checksum == record.entry.source.checksum && state.leader(of: record.plan) != nil
    }

    /// Has a worker take an image in, unless that was done before or is under way. Throws `import.unknown`.
    package func fetchImport(_ wish: ImportWish, by who: String) throws -> JobRecord {
        let record = try record(of: wish)
        let plan = try Coordinator.plan(for: record.entry)
        let key = try blobs.put(try plan.canonicalBytes())
        return try transition { $0.takeIn(record, plan, key, by: who, priority: nil, now: .now) }
    }

    /// Has all that a catalogue has and the farm has not taken in when nothing else is to be done: so many of it in one go.
    ///
    /// - Returns: the new jobs; none when nothing is left.
    package func fetchImports(_ wish: CatalogueWish, by who: String) throws -> [JobRecord] {
        let open = state.imports.values.filter { record in
            guard record.entry.source.catalogue == wish.catalogue, state.release(ofKey: record.plan) == nil else { return false }
            return record.job == nil
        }
        let chosen = open.sorted { $0.entry.key < $1.entry.key }.prefix(Coordinator.mostAtOnce)
        let plans = try chosen.map { record in
            let plan = try Coordinator.plan(for: record.entry)
            return (record: record, plan: plan, key: try blobs.put(try plan.canonicalBytes()))
        }
        return try transition { state in
            plans.map { state.takeIn($0.record, $0.plan, $0.key, by: who, priority: .background, now: .now) }
        }
    }

    /// The catalogues' images whose names or descriptions contain a text, in the order of their keys.
    package func importViews(containing text: String = "", limit: Int = .max) throws -> [ImportView] {
        let found = state.imports.values.filter { text.isEmpty || $0.entry.name.contains(text) || $0.entry.description.contains(text) }
        return try found.sorted { $0.entry.key < $1.entry.key }.prefix(limit).map(view(_:))
    }

    private func view(_ record: ImportRecord) throws -> ImportView {
        var shown = record.entry
        shown.source.locations = shown.source.shownLocations
        if let release = state.release(ofKey: record.plan) {
            return ImportView(entry: shown, state: .released, job: release.job, release: release.digest)
        }
        guard let id = record.job, let job = try state.jobs[id] ?? journal.job(id)?.job else {
            return ImportView(entry: shown, state: .known)
        }
        let problem = job.state == .failed ? job.failure?.message ?? job.note ?? "failed" : job.note
        return ImportView(entry: shown, state: job.state.isFinal ? .failed : .fetching, job: id, problem: problem)
    }

    /// The best of what fits: by its own version before under another name of it, then the newest, then one whose bytes somebody
    /// vouches for, then for the commoner machines.
    private func record(of wish: ImportWish) throws -> ImportRecord {
        let named = state.imports.values.filter {
            $0.entry.name == wish.release.name && wish.architecture ?? $0.entry.architecture == $0.entry.architecture
                && wish.catalogue ?? $0.entry.source.catalogue == $0.entry.source.catalogue
        }
        guard !named.isEmpty else {
            throw FarmError(
                "import.unknown", .notFound,
                "no catalogue that this farm knows has \(wish.release.name.printable())\(wish.architecture.map { " for \($0.printable())" } ?? "")",
                hint: "sciferry import list shows what they have")
        }
        let best = named.filter { wish.release.match($0.entry.version) > 0 }.max { one, other in
            let (left, right) = (wish.release.match(one.entry.version), wish.release.match(other.entry.version))
            if left != right { return left < right }
            if one.entry.version != other.entry.version { return VersionOrder.precedes(one.entry.version, other.entry.version) }
            let vouched = (one.entry.source.checksum != nil, other.entry.source.checksum != nil)
            if vouched.0 != vouched.1 { return vouched.1 }
            return (one.entry.architecture, other.entry.source.catalogue) < (other.entry.architecture, one.entry.source.catalogue)
        }
        guard let best else {
            let known = Set(named.map(\.entry.version)).sorted(by: VersionOrder.precedes).joined(separator: ", ")
            throw FarmError(
                "import.unknown", .notFound, "the catalogues have no \(wish.release.title.printable())", hint: "they have: \(known)")
        }
        return best
    }

    private static func plan(for entry: CatalogueEntry) throws -> Plan {
        // What lies where a worker sees it is read there. A size that nobody says the worker learns before it fetches.
        let isNear = entry.source.locations.first?.hasPrefix("file:") ?? false
        return Plan(taking: entry, diskBytes: (isNear ? 0 : entry.source.size ?? 1 << 30) + (1 << 30))
    }
}

extension FarmState {
    /// A job that takes an image in; one that there is a release for already is done at once, one that is under way is joined.
    ///
    /// - Parameter key: the plan's digest. What was released or begun under an earlier plan of the same bytes counts too.
    mutating func takeIn(
        _ record: ImportRecord, _ plan: Plan, _ key: Digest, by who: String, priority: JobPriority?, now: Timestamp
    ) -> JobRecord {
        let entry = record.entry
        var job = newJob(
            kind: .build, title: "\(entry.title) from \(entry.source.catalogue)", recipe: "\(entry.source.catalogue)/\(entry.name)",
            version: entry.version, target: entry.architecture, requestedBy: who, now: now)
        job.takesIn = true
        job.priority = priority
        let isThere = release(ofKey: record.plan) != nil || leader(of: record.plan) != nil
        let key = isThere ? record.plan : key
        enqueue(job, key: key, needs: JobNeeds(diskBytes: plan.diskBytes), now: now)
        var record = record
        record.plan = key
        record.job = job.id
        put(record)
        return jobs[job.id] ?? job
    }
}
