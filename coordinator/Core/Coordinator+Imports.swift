import FarmModel
import SiteDelivery

/// Images that others made: catalogued at once, taken in when somebody wants them.
extension Coordinator {
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
                let before = state.imports[record.entry.key]
                if before?.entry == record.entry {
                    answer.unchanged += 1
                    continue
                }
                if before == nil { answer.added += 1 } else { answer.changed += 1 }
                state.put(record)
            }
            return answer
        }
    }

    /// Has a worker take an image in, unless that was done before or is under way. Throws `import.unknown`.
    package func fetchImport(_ wish: ImportWish, by who: String) throws -> JobRecord {
        let record = try record(of: wish)
        let plan = try Coordinator.plan(for: record.entry)
        let key = try blobs.put(try plan.canonicalBytes())
        return try transition { state in
            let entry = record.entry
            var job = state.newJob(
                kind: .build, title: "\(entry.title) from \(entry.source.catalogue)", recipe: "\(entry.source.catalogue)/\(entry.name)",
                version: entry.version, target: entry.architecture, requestedBy: who, now: .now)
            job.takesIn = true
            job.priority = wish.priority
            state.enqueue(job, key: key, needs: JobNeeds(diskBytes: plan.diskBytes), now: .now)
            var record = record
            record.job = job.id
            state.put(record)
            return state.jobs[job.id] ?? job
        }
    }

    /// The catalogues' images whose names contain a text, by name and version.
    package func importViews(containing text: String = "", limit: Int = .max) throws -> [ImportView] {
        let found = state.imports.values.filter { text.isEmpty || $0.entry.name.contains(text) || $0.entry.description.contains(text) }
        return try found.sorted { $0.entry.key < $1.entry.key }.prefix(limit).map(view(_:))
    }

    private func view(_ record: ImportRecord) throws -> ImportView {
        if let release = state.release(ofKey: record.plan) {
            return ImportView(entry: record.entry, state: .released, job: release.job, release: release.digest)
        }
        guard let id = record.job, let job = try state.jobs[id] ?? journal.job(id)?.job else {
            return ImportView(entry: record.entry, state: .known)
        }
        let problem = job.state == .failed ? job.failure?.message ?? job.note ?? "failed" : job.note
        return ImportView(entry: record.entry, state: job.state.isFinal ? .failed : .fetching, job: id, problem: problem)
    }

    private func record(of wish: ImportWish) throws -> ImportRecord {
        let named = state.imports.values.filter {
            $0.entry.name == wish.name && wish.architecture ?? $0.entry.architecture == $0.entry.architecture
        }
        guard !named.isEmpty else {
            throw FarmError(
                "import.unknown", .notFound, "no catalogue that this farm knows has \(wish.name.printable())",
                hint: "sciferry import list shows what they have")
        }
        let fitting = named.filter { record in
            guard let version = wish.version else { return true }
            let entry = record.entry
            return entry.version == version || entry.source.file == "\(entry.name):\(version)" || entry.version.hasPrefix("\(version)-")
        }
        let exact = fitting.filter { $0.entry.version == wish.version }
        let best = (exact.isEmpty ? fitting : exact).max {
            // Of one version the image for the commoner machines.
            if $0.entry.version == $1.entry.version { return $0.entry.architecture < $1.entry.architecture }
            return VersionOrder.precedes($0.entry.version, $1.entry.version)
        }
        guard let best else {
            let known = named.map(\.entry.version).sorted(by: VersionOrder.precedes).joined(separator: ", ")
            throw FarmError(
                "import.unknown", .notFound, "the catalogues have no \(wish.name.printable()) \(wish.version?.printable() ?? "")",
                hint: "they have: \(known)")
        }
        return best
    }

    private static func plan(for entry: CatalogueEntry) throws -> Plan {
        // What lies where a worker sees it is read there. A size that nobody says the worker learns before it fetches.
        let isNear = entry.source.locations.first?.hasPrefix("file:") ?? false
        return Plan(taking: entry, diskBytes: (isNear ? 0 : entry.source.size ?? 1 << 30) + (1 << 30))
    }
}
