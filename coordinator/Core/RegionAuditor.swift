package import Attestation
import ChunkStore
package import FarmModel
import FileStore
import ObjectStorage

/// Compares regions with what releases need, reads some of their packs, and brings what is missing or damaged from another region
/// (`docs/regions.md`).
///
/// Each region is judged by itself: one that is away does not keep the others from being audited. Runs beside builds, publications and
/// collections.
package struct RegionAuditor: Sendable {
    /// One of so many parts of a region's packs, and those that were damaged when they were read last.
    package struct Slice: Sendable {
        package var number: Int
        package var count: Int
        package var suspects: Set<Digest>

        package init(_ number: Int, of count: Int, suspects: Set<Digest> = []) {
            (self.number, self.count, self.suspects) = (number, count, suspects)
        }
    }

    private let publisher: Publisher
    private let imageKeys: [VerifyingKey]
    private let owner: any FarmStateOwner
    private let clock: @Sendable () -> Timestamp

    package init(
        publisher: Publisher, imageKeys: [VerifyingKey], owner: any FarmStateOwner, clock: @escaping @Sendable () -> Timestamp = { .now }
    ) {
        (self.publisher, self.imageKeys, self.owner, self.clock) = (publisher, imageKeys, owner, clock)
    }

    /// Audits some regions; the report of each by its name.
    ///
    /// - Parameters:
    ///   - slices: which part of a region's packs is read, and which others.
    ///   - note: told each report when it is complete.
    package func audit(
        _ request: AuditRequest, by who: String, slices: [String: Slice],
        note: @Sendable (String, RegionAudit) async -> Void
    ) async throws {
        let wanted = publisher.regions.map(\.name).filter { request.regions.isEmpty || request.regions.contains($0) }
        var audits = Dictionary(uniqueKeysWithValues: wanted.map { ($0, RegionAudit(request, by: who, startedAt: clock())) })
        try await compare(&audits, repairs: request.repairs)
        for name in wanted {
            guard var audit = audits[name] else { continue }
            if audit.error == nil, request.kind != .listing {
                let slice = slices[name] ?? Slice(0, of: 1)
                do {
                    try await read(
                        name,
                        request.kind == .whole ? .all : .slice(slice.number % slice.count, of: slice.count, and: slice.suspects),
                        repairs: request.repairs, &audit)
                } catch let error as FarmError { audit.error = error.message }
            }
            audit.endedAt = clock()
            await note(name, audit)
        }
    }

    // MARK: Listings

    private func compare(_ audits: inout [String: RegionAudit], repairs: Bool) async throws {
        var listed = FarmSurvey()
        var there: Set<String> = []
        for region in publisher.regions {
            do {
                // Roots and the bucket's own description are written before anything else is.
                if repairs, audits[region.name] != nil { try await publisher.prepare(region: region.name) }
                listed.present += try await FarmSurvey(listing: [region]).present
                there.insert(region.name)
            } catch let error as FarmError {
                audits[region.name]?.error = "it cannot be listed: \(error.message)"
            }
        }
        if there.isEmpty { return }
        let state = try await owner.apply(\.self)
        // Those that wait for the same releases are judged by one survey.
        var groups: [Set<JobID>: [String]] = [:]
        for region in publisher.regions.map(\.name) where there.contains(region) && audits[region] != nil {
            groups[region == publisher.regions[0].name ? [] : state.jobsLacking(in: region), default: []].append(region)
        }
        let near = publisher.limited(to: there)
        for (pending, names) in groups {
            var standing = state.standing
            standing.publications = []
            standing.releases.removeAll { pending.contains($0.job) }
            let survey = try await FarmSurvey.read(listed, standing, near, by: imageKeys)
            for name in names {
                guard let place = near.regions.firstIndex(where: { $0.name == name }), var audit = audits[name] else { continue }
                do { try await judge(place, survey, near, repairs, &audit) } catch let error as FarmError { audit.error = error.message }
                let away = publisher.regions.map(\.name).filter { !there.contains($0) }
                if repairs, !away.isEmpty, audit.missing + audit.damaged > 0, audit.error == nil {
                    audit.error = "what it lacks may be in \(away.joined(separator: ", ")), which cannot be listed"
                }
                audits[name] = audit
            }
        }
    }

    /// What one region should have: what releases name, and what its own covers lead to.
    private func expected(_ place: Int, _ survey: FarmSurvey) -> (keys: Set<String>, sizes: [String: Int64]) {
        var (keys, sizes) = (survey.fixed, [String: Int64]())
        for image in survey.images {
            keys.formUnion([ImageManifest.key(image.manifest), ImageManifest.coverKey(image.manifest)])
            let indexes = image.covers[place] ?? image.covers.sorted { $0.key < $1.key }.first?.value ?? []
            for name in indexes {
                keys.insert(PackIndex.key(name))
                for record in survey.shelf.indexes[name]?.packs ?? [] {
                    let key = Pack.key(record.pack)
                    // An index may list what was lost; that is of account only where an image needs it.
                    let isSomewhere = survey.present.contains { $0[key] == record.size }
                    guard isSomewhere || image.packs.contains(record.pack) else { continue }
                    keys.insert(key)
                    sizes[key] = record.size
                }
            }
        }
        return (keys, sizes)
    }

    private func judge(
        _ place: Int, _ survey: FarmSurvey, _ near: Publisher, _ repairs: Bool, _ audit: inout RegionAudit
    ) async throws {
        let region = near.regions[place].store
        let others = near.regions.enumerated().filter { $0.offset != place }.map(\.element.store)
        for finding in survey.findings {
            audit.damaged += 1
            audit.note("", finding)
        }
        var broken: [(key: String, isMissing: Bool, message: String)] = []
        let expected = expected(place, survey)
        let unreadable = Set(survey.images.filter { $0.damagedCovers.contains(place) }.map { ImageManifest.coverKey($0.manifest) })
        for key in expected.keys {
            audit.objects += 1
            let size = expected.sizes[key]
            var found = survey.present[place][key]
            // What was written since the listing is there.
            if found == nil || (size != nil && found != size) { found = try await region.head(key)?.size }
            if unreadable.contains(key) {
                broken.append((key, false, "it cannot be read"))
            } else if let found, let size, found != size {
                broken.append((key, false, "it has \(found) bytes, not \(size)"))
            } else if let found {
                audit.bytes += found
            } else {
                broken.append((key, true, "it is not there"))
            }
        }
        // Whatever names something comes after that, where collections begin with it.
        let order = Array(FarmSurvey.prefixes.reversed())
        func rank(_ key: String) -> Int { order.firstIndex { key.hasPrefix($0) } ?? order.count }
        let store = repairs && !broken.isEmpty ? try await FileStore(region, takesFarms: true) : nil
        for item in broken.sorted(by: { (rank($0.key), $0.key) < (rank($1.key), $1.key) }) {
            if let store, try await bring(item.key, to: store, from: others) {
                audit.repaired += 1
                let size = try await region.head(item.key)?.size ?? 0
                (audit.repairedBytes, audit.bytes) = (audit.repairedBytes + size, audit.bytes + size)
                continue
            }
            if item.isMissing { audit.missing += 1 } else { audit.damaged += 1 }
            audit.note(item.key, item.message)
        }
    }

    private func bring(_ key: String, to region: FileStore, from others: [any ObjectStore]) async throws -> Bool {
        // It is needed, and must not be on its way out.
        try await publisher.claim([key])
        return try await region.bring(key, fromAnyOf: others)
    }

    // MARK: Reading

    /// Follows the region's own channel as a reader does, and reads some of its packs.
    private func read(_ name: String, _ reading: FileStore.Reading, repairs: Bool, _ audit: inout RegionAudit) async throws {
        guard let region = publisher.regions.first(where: { $0.name == name })?.store else { return }
        let others = repairs ? publisher.regions.filter { $0.name != name }.map(\.store) : []
        let store = try await FileStore(region, takesFarms: true)
        let claim = publisher.claim
        let health = try await store.check(reading, repairingFrom: others) { key in
            // Channels and roots are the coordinator's to write.
            if key.hasPrefix("channels/") || key.hasPrefix("roots/") { return false }
            try await claim([key])
            return true
        }
        (audit.packsRead, audit.bytesRead) = (health.packsRead, health.bytes)
        audit.repaired += health.repaired.count
        let known = Set(audit.faults.map(\.key))
        for damage in health.damages where !known.contains(damage.key) {
            audit.damaged += 1
            audit.note(damage.key, damage.message)
        }
    }
}

extension FarmState {
    /// Jobs whose releases are published and not yet in a region.
    func jobsLacking(in region: String) -> Set<JobID> {
        Set(
            openPublications.filter { [.pointer, .mirrors].contains($0.step) && $0.document != nil && !$0.regionsDone.contains(region) }
                .map(\.job))
    }
}
