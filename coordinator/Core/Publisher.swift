package import Attestation
import ChunkStore
package import SingularityImage
package import FarmModel
import Foundation
package import ObjectStorage
import SiteDelivery
import SystemIO

/// Carries a publication over its steps. Every step may be repeated; nothing is visible to a reader before the pointer.
///
/// Holds no state: the record says where it stands, and the caller journals what each step returns.
package struct Publisher: Sendable {
    package let regions: [(name: String, store: any ObjectStore)]
    private let keys: FarmKeys
    private var key: SigningKey { keys.image }
    private let journal: any FarmJournal
    private let farm: String
    /// Called with keys of the first region before they are written: what is written is needed, and must not be on its way out.
    package var claim: @Sendable ([String]) async throws -> Void = { _ in }

    package init(regions: [(name: String, store: any ObjectStore)], keys: FarmKeys, journal: any FarmJournal, farm: String) {
        self.regions = regions
        self.keys = keys
        self.journal = journal
        self.farm = farm
    }

    private var first: any ObjectStore { regions[0].store }

    /// The same for some of the regions.
    package func limited(to names: Set<String>) -> Publisher {
        var publisher = Publisher(regions: regions.filter { names.contains($0.name) }, keys: keys, journal: journal, farm: farm)
        publisher.claim = claim
        return publisher
    }

    /// Of half a million files or so.
    private static let longestListing: Int64 = 64 << 20

    /// A pack of an earlier image that no region has whole. The worker is not to blame: it was told that the farm has it.
    package struct LostPack: Error, Sendable {
        package var pack: Digest
        package var cause: FarmError
    }

    /// What a step changes, beside its record.
    package struct StepResult: Sendable {
        package var record: PublicationRecord
        package var changes: [JournalChange] = []
    }

    /// Re-hashes every chunk of the uploaded packs, gives the packs their final names in the first region and writes
    /// their index. An upload that does not verify fails the attempt (`upload.damaged`); nothing of it is kept.
    package func takePacks(_ record: PublicationRecord) async throws -> StepResult {
        var listings: [PackIndex.Listing] = []
        guard Set(record.result.packs.map(\.digest)).count == record.result.packs.count else {
            throw FarmError("upload.damaged", .corrupt, "the worker named a pack twice")
        }
        try await claim(record.result.packs.map { Pack.key($0.digest) })
        for object in record.result.packs {
            let bytes = try await upload(object, of: record.attempt, settled: Pack.key(object.digest))
            let entries = try await Blocking.run { try Publisher.verify(bytes, object) }
            // Written even where an object of that name and size lies: that one may have been damaged since.
            try await first.put(Pack.key(object.digest), bytes)
            listings.append(PackIndex.Listing(pack: object.digest, entries: entries))
        }
        var result = StepResult(record: record)
        result.record.step = .manifest
        if !listings.isEmpty {
            let index = try PackIndex.bytes(of: listings)
            let name = Digest(hashing: index)
            try await claim([PackIndex.key(name)])
            try await first.put(PackIndex.key(name), index)
            result.record.index = name
            result.changes = [.packs(listings, index: name)]
        }
        return result
    }

    /// An upload under `incoming/`, or, when a step is repeated after it was moved, under its own name. Throws `upload.damaged`
    /// unless it is what the worker said it would be.
    private func upload(_ object: IncomingObject, of attempt: AttemptID, settled: String) async throws -> [UInt8] {
        let key = UploadDesk.incomingKey(attempt, object.digest)
        // Looked at before it is read: a presigned upload may be of any size.
        if let there = try await first.head(key), there.size != object.size {
            throw FarmError("upload.damaged", .corrupt, "upload \(object.digest.short) has \(there.size) bytes, not \(object.size)")
        }
        let bytes: [UInt8]
        do { bytes = try await first.get(key) } catch let error as FarmError where error.code == "storage.absent" {
            bytes = try await first.get(settled)
        }
        guard Digest(hashing: bytes) == object.digest, Int64(bytes.count) == object.size else {
            throw FarmError("upload.damaged", .corrupt, "upload \(object.digest.short) is not what the worker said it would be")
        }
        return bytes
    }

    private static func verify(_ bytes: [UInt8], _ object: IncomingObject) throws -> [PackEntry] {
        let source = "upload \(object.digest.short)"
        let entries = try Pack.entries(of: bytes, source: source)
        try bytes.withUnsafeBytes { raw in
            for entry in entries {
                let range = Int(entry.range.lowerBound)..<Int(entry.range.upperBound)
                _ = try entry.open(UnsafeRawBufferPointer(rebasing: raw[range]), source: source)
            }
        }
        return entries
    }

    /// Checks that the manifest's chunks are all there and make the image, then writes manifest and cover.
    package func writeManifest(_ record: PublicationRecord, plan: Plan) async throws -> StepResult {
        let object = record.result.manifest
        let attempt = record.attempt
        let bytes = try await upload(object, of: attempt, settled: ImageManifest.key(object.digest))
        let manifest = try ImageManifest(bytes, source: "the manifest of \(record.attempt)")
        guard manifest.chunker == .standard else {
            throw FarmError("upload.damaged", .corrupt, "the manifest's chunks have other sizes than those of the farm's store")
        }
        guard manifest.image == record.result.image, manifest.size == record.result.imageSize else {
            throw FarmError("upload.damaged", .corrupt, "the manifest is of another image than the result")
        }
        if let checksum = plan.source?.checksum, checksum.algorithm == .sha256, checksum.hex != manifest.image.hex {
            throw FarmError("upload.damaged", .corrupt, "the image is not the one whose checksum the catalogue knows")
        }
        let journal = journal
        let names = Array(Set(manifest.chunks.map(\.digest)))
        let (locations, indexes) = try await Blocking.run {
            let locations = try journal.locate(names)
            return (locations, try journal.indexes(of: Set(locations.values.map(\.pack))))
        }
        // What it relies on stays from here on.
        try await claim(indexes.keys.map(Pack.key) + Set(indexes.values).map(PackIndex.key))
        guard try await listings(of: Set(indexes.keys)) == indexes else {
            throw FarmError(
                "store.removing", .unavailable, "what the image shares with others has just been taken away; it is looked for again")
        }
        try await verifyImage(manifest, locations, own: Set(record.result.packs.map(\.digest)))
        let documents = record.result.records.map(\.object.digest)
        try await claim(
            [ImageManifest.key(object.digest), ImageManifest.coverKey(object.digest)]
                + documents.flatMap { [ImageRecord.key($0), ImageRecord.attestationKey($0)] })
        try await first.put(ImageManifest.key(object.digest), bytes)
        for item in record.result.records {
            let key = ImageRecord.key(item.object.digest)
            let bytes = try await upload(item.object, of: attempt, settled: key)
            try await first.put(key, bytes)
            if item.kind == .instructions {
                try await first.put(ImageRecord.attestationKey(item.object.digest), try attestation(of: bytes, record, plan))
            }
        }
        var result = StepResult(record: record)
        var covering = Set(indexes.values)
        // One that cannot be read is named, for somebody else to repair.
        if covering.count > Publisher.mostIndexes, let merged = try? await merge(covering, of: Set(indexes.keys)) {
            covering = [merged]
            result.changes = [.packs(indexes.keys.sorted().map { .init(pack: $0, entries: []) }, index: merged)]
        }
        try await first.put(ImageManifest.coverKey(object.digest), try CanonicalJSON.encode(ManifestCover(indexes: covering.sorted())))
        result.record.step = .verify
        return result
    }

    /// The index that the journal knows for each of some packs.
    func listings(of packs: Set<Digest>) async throws -> [Digest: Digest] {
        let journal = journal
        return try await Blocking.run { try journal.indexes(of: packs) }
    }

    /// Indexes in a cover; where there would be more, one takes their place, for this image and for those that share its packs later.
    private static let mostIndexes = 4

    private func merge(_ names: Set<Digest>, of packs: Set<Digest>) async throws -> Digest {
        let reader = RegionReader(regions: regions.map(\.store))
        var indexes: [PackIndex] = []
        for name in names.sorted() {
            indexes.append(try PackIndex(try await reader.content(name, key: PackIndex.key(name)), source: PackIndex.key(name)))
        }
        let all = indexes
        let bytes = try await Blocking.run { try PackIndex.merged(all, only: packs) }
        let key = PackIndex.key(Digest(hashing: bytes))
        try await claim([key])
        try await first.put(key, bytes)
        return Digest(hashing: bytes)
    }

    /// What a worker found out about the image, signed. The same bytes give the same envelope.
    private func attestation(of bytes: [UInt8], _ record: PublicationRecord, _ plan: Plan) throws -> [UInt8] {
        let statement = try CanonicalJSON.decode(
            Statement<InstructionReport>.self, from: bytes, source: "the worker's report on instructions")
        let name = statement.subject.first?.name ?? ""
        let expected = Statement(
            about: name, image: record.result.image, predicateType: PredicateType.instructions, predicate: statement.predicate)
        guard statement == expected, statement.predicate.target == plan.target, statement.predicate.format == 1 else {
            throw FarmError("upload.damaged", .corrupt, "the report on instructions is about another image than the result")
        }
        return try envelope(of: statement)
    }

    /// The image's digest is believed only when all its bytes, read back from the store, give it.
    ///
    /// - Throws: `LostPack` when chunks that other images brought can be had from no region.
    private func verifyImage(_ manifest: ImageManifest, _ locations: [Digest: ChunkLocation], own: Set<Digest>) async throws {
        // What other images brought may be damaged in one region; it is judged by what any region has.
        let reader = RegionReader(regions: regions.map(\.store))
        var hasher = Digest.Hasher()
        for start in stride(from: 0, to: manifest.chunks.count, by: 256) {
            let window = manifest.chunks[start..<min(start + 256, manifest.chunks.count)]
            var wanted: [Digest: [PackEntry]] = [:]
            for chunk in Set(window) {
                guard let location = locations[chunk.digest] else {
                    throw FarmError("upload.incomplete", .corrupt, "chunk \(chunk.digest.short) of the image was never uploaded")
                }
                guard location.entry.size == chunk.size else {
                    throw FarmError("upload.damaged", .corrupt, "chunk \(chunk.digest.short) has not the size that the manifest says")
                }
                wanted[location.pack, default: []].append(location.entry)
            }
            var data: [Digest: [UInt8]] = [:]
            for (pack, entries) in wanted {
                do {
                    data.merge(try await reader.chunks(entries, in: pack)) { first, _ in first }
                } catch let error as FarmError where !own.contains(pack) && [.corrupt, .notFound].contains(error.category) {
                    throw LostPack(pack: pack, cause: error)
                }
            }
            for chunk in window { hasher.update(data[chunk.digest] ?? []) }
        }
        guard hasher.finish() == manifest.image else {
            throw FarmError("upload.damaged", .corrupt, "the uploaded chunks do not make the image that the worker reported")
        }
    }

    /// Compares what was built again with the candidate, by the lists of files that both builders have uploaded.
    package func compare(_ record: PublicationRecord, with candidate: PublicationRecord) async throws -> ImageComparison {
        let (one, other) = (try await listing(of: candidate), try await listing(of: record))
        // Only the rebuilt one is signed.
        let pair = (candidate.result.content, record.result.content)
        guard let before = pair.0, let after = pair.1 else {
            return ImageComparison(candidate: candidate.result.image, rebuilt: record.result.image, one, other)
        }
        return ImageComparison(candidate: before, rebuilt: after, one, other)
    }

    private func listing(of record: PublicationRecord) async throws -> ImageListing {
        guard let object = record.result.records.first(where: { $0.kind == .files })?.object else {
            throw FarmError(
                "listing.absent", .invalid, "the worker \(record.builtOn) sent no list of the image's files", hint: "upgrade the worker")
        }
        guard object.size <= Publisher.longestListing else {
            throw FarmError("listing.invalid", .corrupt, "the list of files of \(record.builtOn) has \(object.size) bytes")
        }
        let bytes = try await upload(object, of: record.attempt, settled: ImageRecord.key(object.digest))
        return try await Blocking.run { try ImageListing(bytes) }
    }

    /// A document about an image whose publication waits.
    package func heldRecord(_ digest: Digest, of record: PublicationRecord) async throws -> [UInt8]? {
        guard let object = record.result.records.first(where: { $0.object.digest == digest })?.object else { return nil }
        return try await upload(object, of: record.attempt, settled: ImageRecord.key(digest))
    }

    /// Signs the release, once: a repetition finds the document in the record.
    package func signRelease(
        _ record: PublicationRecord, plan: Plan, candidate: CandidateOrigin? = nil, now: Timestamp
    ) async throws -> StepResult {
        var record = record
        if record.document == nil {
            let evidence = try await writeEvidence(record, plan)
            let release = Release(
                plan: plan, buildKey: record.plan, result: record.result, builtOn: record.builtOn, verified: record.verified ?? [],
                candidate: candidate, evidence: evidence, publishedAt: now)
            let envelope = try Envelope.sign(release, type: PayloadType.release, with: key)
            record.document = String(decoding: try CanonicalJSON.encode(envelope), as: UTF8.self)
            // Back to the journal first, so that the signed bytes are the same whatever happens next.
            return StepResult(record: record)
        }
        let bytes = Array((record.document ?? "").utf8)
        let name = Digest(hashing: bytes)
        let place = ReleaseDocument.key(name: plan.name, version: plan.version, digest: name)
        try await claim([place])
        try await first.put(place, bytes)
        var result = StepResult(record: record)
        result.record.step = .pointer
        let release = try Release(record: record, by: key.verifier)
        result.changes = [.release(ReleaseRecord(release: release, digest: name, job: record.job))]
        return result
    }

    /// A statement as the farm signs it. The same bytes give the same envelope.
    private func envelope(of statement: some Encodable) throws -> [UInt8] {
        try CanonicalJSON.encode(try Envelope.sign(statement, type: PayloadType.statement, with: key))
    }

    /// Writes signed statements on how the tests went, one for each machine that ran them. Returns their digests by kind.
    private func writeEvidence(_ record: PublicationRecord, _ plan: Plan) async throws -> [String: Digest] {
        let result = record.result
        guard !result.tests.isEmpty else { return [:] }
        let own = Verification(
            asked: plan.target, hostTarget: result.hostTarget, emulator: result.emulator, worker: record.builtOn,
            runtime: result.testRuntime,
            tests: result.tests)
        var written: [String: Digest] = [:]
        for (kind, found) in [(ImageRecord.tests, own)] + (record.verified ?? []).map({ (ImageRecord.tests(on: $0.asked), $0) }) {
            let statement = Statement(
                about: "\(plan.name)-\(plan.version)-\(plan.target).sif", image: result.image, predicateType: PredicateType.tests,
                predicate: try TestEvidence(found, of: plan, key: record.plan))
            let bytes = try CanonicalJSON.encode(statement)
            let digest = Digest(hashing: bytes)
            try await claim([ImageRecord.key(digest), ImageRecord.attestationKey(digest)])
            try await first.put(ImageRecord.key(digest), bytes)
            try await first.put(
                ImageRecord.attestationKey(digest),
                try envelope(of: statement))
            written[kind] = digest
        }
        return written
    }

    /// The signature of an image, as it stands in it.
    package func signature(of metadata: SignatureMetadata) throws -> [UInt8] { try ImageSignature.sign(metadata, with: key) }

    /// The signed channel.
    package func sign(_ channel: ReleaseChannel) throws -> [UInt8] {
        try CanonicalJSON.encode(try Envelope.sign(channel, type: PayloadType.channel, with: keys.channel))
    }

    /// A channel as a region shows it.
    package struct Shown: Sendable {
        package var channel: ReleaseChannel
        /// Whether a key signed it that readers believe now, rather than one that has been replaced.
        package var isCurrent: Bool
    }

    /// What a region shows of a channel; `nil` when it shows none, or something that is none.
    ///
    /// - Throws: `channel.foreign` for one that was signed by a key of which this home knows nothing.
    package func published(_ name: String, region: String) async throws -> Shown? {
        guard let store = regions.first(where: { $0.name == region })?.store else { return nil }
        let bytes: [UInt8]
        do { bytes = try await store.get(ReleaseChannel.key(name), range: nil, limit: ReleaseChannel.largest) } catch let error as FarmError
            where error.category == .notFound
        { return nil }
        let source = "the channel of \(region)"
        // What is no channel of this farm at all is damage, and is written over.
        guard let envelope = try? CanonicalJSON.decode(Envelope.self, from: bytes, source: source),
            let claimed: ReleaseChannel = try? envelope.unverified(source: source), claimed.farm == farm, claimed.name == name
        else { return nil }
        guard let channel: ReleaseChannel = try? envelope.verified(payloadType: PayloadType.channel, by: keys.channelKeys, source: source),
            channel.isSound
        else {
            throw FarmError(
                "channel.foreign", .conflict,
                "region \(region) shows version \(claimed.version) of the channel \(name), signed by a key that no root of this home names",
                hint:
                    "bring the newest identity/ of the farm back from its backup; if this one is it, delete \(ReleaseChannel.key(name)) there"
            )
        }
        let isCurrent = (try? self.channel(bytes, source)) != nil
        return Shown(channel: channel, isCurrent: isCurrent)
    }

    private func channel(_ bytes: [UInt8], _ source: String) throws -> ReleaseChannel {
        try CanonicalJSON.decode(Envelope.self, from: bytes, source: source)
            .verified(payloadType: PayloadType.channel, by: keys.root.channelKeys, source: source)
    }

    /// Points readers of one region at the new release. Throws `coordinator.fenced` where another coordinator has pointed them elsewhere.
    package func point(_ bytes: [UInt8], name: String, region: String) async throws {
        guard let store = regions.first(where: { $0.name == region })?.store else { return }
        let next = try channel(bytes, "the new channel")
        if let there = try await published(name, region: region)?.channel, there != next, !there.isBehind(next) {
            throw FarmError(
                "coordinator.fenced", .conflict,
                "another coordinator publishes for farm \(farm): region \(region) shows version \(there.version) of epoch \(there.epoch), this one is at version \(next.version) of epoch \(next.epoch)",
                hint: "end one of them for good; to go on with this one: sciferry trust take-over")
        }
        try await store.put(ReleaseChannel.key(name), bytes)
    }

    /// Brings everything that a release needs into another region, pointer excepted.
    package func mirror(_ record: PublicationRecord, plan: Plan, to region: String) async throws {
        guard let target = regions.first(where: { $0.name == region })?.store else { return }
        let manifestDigest = record.result.manifest.digest
        let reader = RegionReader(regions: regions.map(\.store))
        let manifest = try await reader.manifest(manifestDigest)
        // What the cover names, as readers find it: the journal may know of other places of the same chunks.
        let cover = ImageManifest.coverKey(manifestDigest)
        let coverBytes = try await first.get(cover)
        let named = try CanonicalJSON.decode(ManifestCover.self, from: coverBytes, source: cover)
        let indexes = named.indexes
        let packs = Set(try await reader.locations(of: manifest, cover: named, source: cover).values.map(\.pack))
        try await claim(packs.map(Pack.key) + indexes.map(PackIndex.key))
        for pack in packs.sorted() { try await copy(Pack.key(pack), named: pack, to: target) }
        for index in indexes.sorted() { try await copy(PackIndex.key(index), named: index, to: target) }
        try await copy(ImageManifest.key(manifestDigest), named: manifestDigest, to: target)
        for item in record.result.records {
            let digest = item.object.digest
            try await copy(ImageRecord.key(digest), named: digest, to: target)
            guard item.kind == .instructions else { continue }
            let bytes = try await target.get(ImageRecord.key(digest))
            try await target.put(ImageRecord.attestationKey(digest), try attestation(of: bytes, record, plan))
        }
        // As it was signed, perhaps by a key that has been replaced since.
        let signed: Envelope = try CanonicalJSON.decode(from: Array((record.document ?? "").utf8), source: "the release")
        let release: Release = try signed.unverified(source: "the release")
        for (kind, digest) in release.records ?? [:] where kind.hasPrefix(ImageRecord.tests) {
            try await copy(ImageRecord.key(digest), named: digest, to: target)
            let bytes = try await target.get(ImageRecord.key(digest))
            let statement = try CanonicalJSON.decode(Statement<TestEvidence>.self, from: bytes, source: ImageRecord.key(digest))
            try await target.put(
                ImageRecord.attestationKey(digest),
                try envelope(of: statement))
        }
        try await target.put(cover, coverBytes)
        let document = Array((record.document ?? "").utf8)
        let name = Digest(hashing: document)
        try await target.put(ReleaseDocument.key(name: plan.name, version: plan.version, digest: name), document)
    }

    private func copy(_ key: String, named digest: Digest, to target: any ObjectStore) async throws {
        let size = try await first.head(key)?.size
        if let there = try await target.head(key), there.size == size { return }
        let reader = RegionReader(regions: regions.map(\.store))
        let bytes = try await reader.content(digest, key: key, size: size ?? 32 << 20)
        try await target.put(key, bytes)
        // Damage in the first region would otherwise stay until somebody runs a repair.
        if reader.incidents.contains(where: { $0.region == first.name }) { try await first.put(key, bytes) }
    }

    /// Empties what the attempt uploaded.
    package func cleanUp(_ record: PublicationRecord) async throws {
        for object in record.result.packs + [record.result.manifest] + record.result.records.map(\.object) {
            try await first.delete(UploadDesk.incomingKey(record.attempt, object.digest))
        }
    }

    /// Writes what a bucket says of itself; throws `store.foreign` when it belongs to another farm.
    package func prepare(region name: String) async throws {
        guard let store = regions.first(where: { $0.name == name })?.store else { return }
        try await store.sweep()
        let header = StoreHeader(farm: farm, chunker: .standard)
        do {
            let bytes = try await store.get(StoreHeader.key)
            let there = try CanonicalJSON.decode(StoreHeader.self, from: bytes, source: "\(StoreHeader.key) in \(store.name)")
            guard there.format == header.format, there.farm == farm else {
                throw FarmError(
                    "store.foreign", .conflict, "\(store.name) belongs to farm \"\(there.farm)\", format \(there.format)",
                    hint: "give region \(name) a bucket of its own")
            }
        } catch let error as FarmError where error.code == "storage.absent" {
            try await store.put(StoreHeader.key, try CanonicalJSON.encode(header))
        }
        if let later = try? await store.get(TrustRoot.key(keys.roots.count + 1), range: nil, limit: TrustRoot.largest),
            (try? keys.root.successor(later, source: name)) != nil
        {
            throw FarmError(
                "root.behind", .conflict, "region \(name) has root \(keys.roots.count + 1) of this farm, of which this home knows nothing",
                hint: "bring the newest identity/ of the farm back from its backup")
        }
        for (index, bytes) in keys.roots.enumerated() {
            let key = TrustRoot.key(index + 1)
            // Compared whole: readers who find another one stop there.
            let there = try await store.head(key)
            if there?.size == Int64(bytes.count), try await store.get(key) == bytes { continue }
            try await store.put(key, bytes)
        }
    }
}

extension Release {
    /// The release inside a publication's signed document.
    package init(record: PublicationRecord, by key: VerifyingKey) throws {
        let envelope: Envelope = try CanonicalJSON.decode(from: Array((record.document ?? "").utf8), source: "the release")
        self = try envelope.verified(payloadType: PayloadType.release, by: [key], source: "the release")
    }
}
