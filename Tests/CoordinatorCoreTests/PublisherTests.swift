import Attestation
import ChunkStore
import CoordinatorCore
import FarmModel
import ObjectStorage
import Support
import SystemIO
import Testing

/// Publication steps over stores in memory, with damage between them.
@Suite struct PublisherTests {
    private let first = MemoryStore(name: "memory:first")
    private let second = MemoryStore(name: "memory:second")
    private let journal = MemoryJournal()
    private let publisher: Publisher
    private let plan: Plan
    private let pack: Digest
    private var record: PublicationRecord
    private let keys: FarmKeys

    init() async throws {
        let home = try Scratch()
        keys = try FarmKeys.create(FarmHome(home.path), farm: "test", now: Timestamp(seconds: 0))
        publisher = Publisher(
            regions: [(name: "first", store: first), (name: "second", store: second)], keys: keys, journal: journal,
            farm: "test")
        let scratch = try Scratch()
        var generator = SeededGenerator(8)
        let image = generator.bytes(300_000)
        try Disk.replace("\(scratch.path)/image", with: image)
        let manifest = try ImageChunker.manifest(of: "\(scratch.path)/image", parameters: .standard)
        var builder = PackBuilder()
        let packer = ChunkPacker()
        var start = 0
        for chunk in manifest.chunks {
            builder.add(try packer.pack(chunk.digest, image[start..<start + chunk.size]))
            start += chunk.size
        }
        let finished = builder.finish()
        let bytes = finished.bytes
        pack = finished.digest
        let document = manifest.bytes
        let attempt = try #require(AttemptID("j1.1"))
        for piece in [bytes, document] { try await first.put(UploadDesk.incomingKey(attempt, Digest(hashing: piece)), piece) }
        let base = BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil)
        plan = Plan(
            name: "tool", version: "1", architecture: "x86_64", target: "x86_64", base: base, dockerfile: "", context: [],
            commands: ["tool"], commandPaths: [], description: "", categories: [], licences: [], suite: TestSuite(), diskBytes: 0)
        let result = BuildResult(
            image: manifest.image, imageSize: manifest.size,
            manifest: IncomingObject(digest: Digest(hashing: document), size: Int64(document.count)),
            packs: [IncomingObject(digest: pack, size: Int64(bytes.count))], records: [], chunkCount: manifest.chunks.count,
            newChunkCount: manifest.chunks.count, newBytes: Int64(bytes.count), tests: [], testRuntime: "r", commands: [],
            hostTarget: "x86_64", phaseSeconds: [:])
        record = PublicationRecord(
            job: attempt.job, attempt: attempt, plan: Digest(hashing: "plan"), result: result, builtOn: "w",
            startedAt: Timestamp(seconds: 1))
    }

    /// Carries the record to the point where the first region has everything.
    private func publishFirst() async throws -> PublicationRecord {
        var step = try await publisher.takePacks(record)
        try journal.commit(step.changes)
        step = try await publisher.writeManifest(step.record, plan: plan)
        step = try await publisher.signRelease(step.record, plan: plan, now: Timestamp(seconds: 2))
        return try await publisher.signRelease(step.record, plan: plan, now: Timestamp(seconds: 3)).record
    }

    @Test func everyStepMayBeRepeatedAndTheSignedBytesStay() async throws {
        let done = try await publishFirst()
        let again = try await publisher.signRelease(done, plan: plan, now: Timestamp(seconds: 9)).record
        #expect(again.document == done.document)
        try await publisher.cleanUp(done)
        // The packs have been moved: a repetition finds them under their own names.
        #expect(try await publisher.takePacks(record).record.step == .manifest)
        #expect(try await publisher.writeManifest(record, plan: plan).record.step == .verify)
    }

    /// However many versions share chunks, few indexes cover each of them, in every region and also where a mirror comes late.
    @Test func manyVersionsAreCoveredByFewIndexes() async throws {
        var generator = SeededGenerator(21)
        var (image, chunks, records): ([UInt8], [ImageManifest.Chunk], [PublicationRecord]) = ([], [], [])
        for version in 1...9 {
            let attempt = try #require(AttemptID("j\(version).1"))
            let bytes = generator.bytes(20_000)
            image += bytes
            chunks.append(.init(digest: Digest(hashing: bytes), size: bytes.count))
            var builder = PackBuilder()
            builder.add(try ChunkPacker().pack(Digest(hashing: bytes), bytes[...]))
            let (pack, document) = (
                builder.finish(),
                ImageManifest(image: Digest(hashing: image), size: Int64(image.count), chunker: .standard, chunks: chunks).bytes
            )
            for piece in [pack.bytes, document] { try await first.put(UploadDesk.incomingKey(attempt, Digest(hashing: piece)), piece) }
            var next = record
            (next.job, next.attempt) = (attempt.job, attempt)
            (next.result.image, next.result.imageSize) = (Digest(hashing: image), Int64(image.count))
            next.result.manifest = IncomingObject(digest: Digest(hashing: document), size: Int64(document.count))
            next.result.packs = [IncomingObject(digest: pack.digest, size: Int64(pack.bytes.count))]
            let taken = try await publisher.takePacks(next)
            try journal.commit(taken.changes)
            let written = try await publisher.writeManifest(taken.record, plan: plan)
            try journal.commit(written.changes)
            records.append(try await publisher.signRelease(written.record, plan: plan, now: Timestamp(seconds: 2)).record)
        }
        var most = 0
        for next in records {
            try await publisher.mirror(next, plan: plan, to: "second")
            let name = next.result.manifest.digest
            most = max(
                most,
                try CanonicalJSON.decode(
                    ManifestCover.self, from: try await second.get(ImageManifest.coverKey(name)), source: "cover"
                ).indexes.count)
            let reader = RegionReader(regions: [second])
            let manifest = try await reader.manifest(name)
            let data = try await reader.chunks(at: try await reader.locations(of: manifest, digest: name).values)
            #expect(Digest(hashing: manifest.chunks.flatMap { data[$0.digest] ?? [] }) == next.result.image)
        }
        #expect(most == 4)
    }

    @Test func whatWouldMisleadReadersIsRefused() async throws {
        let taken = try await publisher.takePacks(record)
        try journal.commit(taken.changes)
        func publish(_ manifest: ImageManifest) async throws {
            var told = taken.record
            told.result.manifest = IncomingObject(digest: Digest(hashing: manifest.bytes), size: Int64(manifest.bytes.count))
            try await first.put(UploadDesk.incomingKey(record.attempt, told.result.manifest.digest), manifest.bytes)
            _ = try await publisher.writeManifest(told, plan: plan)
        }
        let bytes = try await first.get(UploadDesk.incomingKey(record.attempt, record.result.manifest.digest))
        var manifest = try ImageManifest(bytes, source: "manifest")
        // The sum is right.
        (manifest.chunks[0].size, manifest.chunks[1].size) = (manifest.chunks[0].size - 1, manifest.chunks[1].size + 1)
        #expect(await code(of: { try await publish(manifest) }) == "upload.damaged")
        let wide = ChunkerParameters(minimum: 1 << 20, average: 1 << 22, maximum: 1 << 24)
        manifest = ImageManifest(image: manifest.image, size: manifest.size, chunker: wide, chunks: manifest.chunks)
        #expect(await code(of: { try await publish(manifest) }) == "upload.damaged")
        var twice = record
        twice.result.packs += record.result.packs
        #expect(await code(of: { _ = try await publisher.takePacks(twice) }) == "upload.damaged")
    }

    /// A home whose identity is older than the farm's neither believes that nothing is published nor writes over it.
    @Test func anIdentityThatIsBehindIsTold() async throws {
        let place = try Scratch()
        let home = FarmHome(place.path)
        let old = try FarmKeys.create(home, farm: "test", now: .now)
        var changes = FarmKeys.Renewal()
        changes.channel = true
        let new = try old.renewed(home, by: [try SigningKey(file: home.rootKey)], changes, now: .now)
        let regions: [(name: String, store: any ObjectStore)] = [(name: "first", store: first)]
        let (behind, ahead) = (
            Publisher(regions: regions, keys: old, journal: journal, farm: "test"),
            Publisher(regions: regions, keys: new, journal: journal, farm: "test")
        )
        func channel(_ version: Int) -> ReleaseChannel {
            ReleaseChannel(
                farm: "test", name: "main", version: version, issuedAt: .now, expiresAt: Timestamp.now.adding(seconds: 1000), entries: [])
        }
        // Signed by a key that has been replaced since: it is the farm's all the same.
        try await behind.point(try behind.sign(channel(3)), name: "main", region: "first")
        let shown = try #require(try await ahead.published("main", region: "first"))
        #expect(shown.channel.version == 3 && !shown.isCurrent)
        #expect(
            await code(of: { try await ahead.point(try ahead.sign(channel(2)), name: "main", region: "first") }) == "coordinator.fenced")
        try await ahead.prepare(region: "first")
        try await ahead.point(try ahead.sign(channel(4)), name: "main", region: "first")
        #expect(await code(of: { _ = try await behind.published("main", region: "first") }) == "channel.foreign")
        #expect(await code(of: { try await behind.point(try behind.sign(channel(9)), name: "main", region: "first") }) == "channel.foreign")
        #expect(await code(of: { try await behind.prepare(region: "first") }) == "root.behind")
        // What is no channel at all is damage.
        try await first.put(ReleaseChannel.key("main"), Array("rubbish".utf8))
        #expect(try await ahead.published("main", region: "first") == nil)
    }

    /// A worker's report is signed only when it is about this image and this target.
    @Test func aReportAboutSomethingElseIsNotSigned() async throws {
        let step = try await publisher.takePacks(record)
        try journal.commit(step.changes)
        func publish(_ image: Digest, target: String) async throws -> Digest {
            let report = InstructionReport(target: target, verdict: .met, files: [], skipped: [], notes: [], codeBytes: 0)
            let statement = Statement(about: "tool.sif", image: image, predicateType: PredicateType.instructions, predicate: report)
            let bytes = try CanonicalJSON.encode(statement)
            let object = IncomingObject(digest: Digest(hashing: bytes), size: Int64(bytes.count))
            try await first.put(UploadDesk.incomingKey(record.attempt, object.digest), bytes)
            var told = step.record
            told.result.records = [ImageRecord(kind: .instructions, object: object)]
            _ = try await publisher.writeManifest(told, plan: plan)
            return object.digest
        }
        let other = Digest(hashing: "another image")
        #expect(await code(of: { _ = try await publish(other, target: "x86_64") }) == "upload.damaged")
        #expect(await code(of: { _ = try await publish(record.result.image, target: "zen3") }) == "upload.damaged")
        let signed = try await publish(record.result.image, target: "x86_64")
        #expect(try await first.head(ImageRecord.attestationKey(signed)) != nil)
    }

    @Test func damageUnderAPacksNameIsOverwrittenByAVerifiedUpload() async throws {
        let good = try await first.get(UploadDesk.incomingKey(record.attempt, pack))
        var damaged = good
        damaged[good.count / 2] ^= 1
        try await first.put(Pack.key(pack), damaged)
        _ = try await publisher.takePacks(record)
        #expect(try await first.get(Pack.key(pack)) == good)
    }

    @Test func aDamagedPackOfTheFirstRegionIsHealedFromAnother() async throws {
        let done = try await publishFirst()
        try await publisher.mirror(done, plan: plan, to: "second")
        let good = try await second.get(Pack.key(pack))
        #expect(Digest(hashing: good) == pack)
        // A third copy is wanted while the first region's has rotted.
        let third = MemoryStore(name: "memory:third")
        let wider = Publisher(
            regions: [(name: "first", store: first), (name: "second", store: second), (name: "third", store: third)],
            keys: keys, journal: journal, farm: "test")
        var damaged = good
        damaged[100] ^= 1
        try await first.put(Pack.key(pack), damaged)
        try await wider.mirror(done, plan: plan, to: "third")
        #expect(try await third.get(Pack.key(pack)) == good)
        #expect(try await first.get(Pack.key(pack)) == good)
    }

    @Test func aPackOfAnEarlierImageThatIsLostEverywhereIsNamed() async throws {
        _ = try await publishFirst()
        // The same image again: the worker was told that the farm has every chunk, and uploads only the manifest.
        var next = record
        next.result.packs = []
        #expect(try await publisher.writeManifest(next, plan: plan).record.step == .verify)
        var damaged = try await first.get(Pack.key(pack))
        damaged[40] ^= 1
        try await first.put(Pack.key(pack), damaged)
        let error = await #expect(throws: Publisher.LostPack.self) { try await publisher.writeManifest(next, plan: plan) }
        #expect(error?.pack == pack)
        try journal.commit([.forget(pack: pack)])
        #expect(await code(of: { _ = try await publisher.writeManifest(next, plan: plan) }) == "upload.incomplete")
    }

    @Test func anUploadThatIsNotWhatWasAnnouncedIsRefused() async throws {
        let key = UploadDesk.incomingKey(record.attempt, pack)
        var bytes = try await first.get(key)
        bytes[bytes.count / 2] ^= 1
        try await first.put(key, bytes)
        let error = await #expect(throws: FarmError.self) { try await publisher.takePacks(record) }
        #expect(error?.code == "upload.damaged")
        #expect(try await first.head(Pack.key(pack)) == nil)
        try await first.put(key, bytes + [0])
        let longer = await #expect(throws: FarmError.self) { try await publisher.takePacks(record) }
        #expect(longer?.code == "upload.damaged")
    }
}
