import Attestation
import ChunkStore
import FarmModel
import ObjectStorage
import SiteDelivery
import Support
import SystemIO
import Testing

/// The attacks that The Update Framework lists, against a site: whatever the buckets hold, it goes on from what it knows or says why not.
@Suite struct ChannelTrustTests {
    private let farm: TrustedFarm
    private let scratch: Scratch
    private let site: Site
    private let good = MemoryStore(name: "memory:good")
    private let bad = MemoryStore(name: "memory:bad")
    private let now = Timestamp(seconds: 1000)

    init() throws {
        farm = try TrustedFarm()
        scratch = try Scratch()
        site = try Site.create("\(scratch.path)/site", SiteConfiguration(farm: "f", channel: "main", regions: [], root: farm.root))
    }

    private func channel(
        _ version: Int, epoch: Int = 1, name: String = "main", of other: String = "f", expires: Int64 = 5000, entries: [ChannelEntry] = []
    ) -> ReleaseChannel {
        ReleaseChannel(
            farm: other, name: name, epoch: epoch, version: version, issuedAt: Timestamp(seconds: 1),
            expiresAt: Timestamp(seconds: expires),
            entries: entries)
    }

    private func put(
        _ channel: ReleaseChannel, in store: MemoryStore, by key: SigningKey? = nil, type: String = PayloadType.channel
    ) async throws {
        let envelope = try Envelope.sign(channel, type: type, with: key ?? farm.channel)
        try await store.put("channels/main.json", try CanonicalJSON.encode(envelope))
    }

    /// A site process that starts anew, as every command does.
    private func look(_ stores: [any ObjectStore]? = nil, now: Timestamp? = nil) async throws -> ReleaseChannel {
        try await SitePull(site: site, regions: stores ?? [bad, good]).channel(now: now ?? self.now)
    }

    private func refusal(_ stores: [any ObjectStore], now: Timestamp? = nil) async -> FarmError.Code? {
        do {
            _ = try await look(stores, now: now)
            return nil
        } catch { return (error as? FarmError)?.code }
    }

    /// The bad region alone is refused with this code; beside a good one it does no harm and is told of.
    private func expectRefused(_ code: FarmError.Code) async throws {
        #expect(await refusal([bad]) == code)
        let pull = try SitePull(site: site, regions: [bad, good])
        #expect(try await pull.channel(now: now).version == 7)
        #expect(pull.reader.incidents.map(\.region) == ["memory:bad"], "\(code)")
    }

    @Test func aRegionThatLiesIsRefusedAndGoneAround() async throws {
        try await put(channel(7), in: good)
        #expect(try await look([good]).version == 7)
        // Rollback.
        try await put(channel(6), in: bad)
        try await expectRefused("channel.rollback")
        try await put(channel(9, epoch: 0), in: bad)
        try await expectRefused("channel.rollback")
        // Freeze.
        try await put(channel(7, expires: 999), in: bad)
        try await expectRefused("channel.expired")
        // Arbitrary content: another key, a key of another purpose, a document of another kind.
        try await put(channel(8), in: bad, by: try SigningKey.generate())
        try await expectRefused("attestation.refused")
        try await put(channel(8), in: bad, by: farm.image)
        try await expectRefused("attestation.refused")
        try await put(channel(8), in: bad, type: PayloadType.release)
        try await expectRefused("attestation.refused")
        try await bad.put("channels/main.json", Array("no JSON".utf8))
        try await expectRefused("json.invalid")
        // Swapped: another channel of this farm, one of another farm with the same key.
        try await put(channel(8, name: "testing"), in: bad)
        try await expectRefused("channel.swapped")
        try await put(channel(8, of: "g"), in: bad)
        try await expectRefused("channel.swapped")
        // Two that should be one.
        try await put(channel(7, expires: 6000), in: bad)
        try await expectRefused("channel.forked")
        // Endless data.
        try await bad.put("channels/main.json", [UInt8](repeating: 0x20, count: Int(ReleaseChannel.largest) + 1))
        try await expectRefused("storage.long")
    }

    @Test func aMirrorThatLagsDoesNotHideTheNewest() async throws {
        try await put(channel(3), in: bad)
        try await put(channel(5), in: good)
        #expect(try await look([bad, good]).version == 5)
        // Seen once, never undone.
        #expect(await refusal([bad]) == "channel.rollback")
        // A coordinator that took over counts more, whatever the number.
        try await put(channel(2, epoch: 2), in: bad)
        #expect(try await look([good, bad]).epoch == 2)
        #expect(await refusal([good]) == "channel.rollback")
    }

    /// Mix and match: each document is what the signed one above it names.
    @Test func aReleaseIsTheOneThatTheChannelNames() async throws {
        let trust = ChannelTrust(farm.root)
        let plan = Plan(
            name: "tool", version: "1", architecture: "x86_64", target: "x86_64",
            base: BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil), dockerfile: "",
            context: [], commands: [], commandPaths: [], description: "", categories: [], licences: [], suite: TestSuite(), diskBytes: 0)
        let object = IncomingObject(digest: Digest(hashing: "m"), size: 1)
        let result = BuildResult(
            image: Digest(hashing: "i"), imageSize: 1, manifest: object, packs: [], records: [], chunkCount: 1, newChunkCount: 0,
            newBytes: 0,
            tests: [], testRuntime: "", commands: [], hostTarget: "x86_64", phaseSeconds: [:])
        let release = Release(plan: plan, buildKey: Digest(hashing: "k"), result: result, builtOn: "w", publishedAt: now)
        func read(_ key: SigningKey, _ type: String, _ name: String, _ version: String, _ target: String) throws -> Release {
            let bytes = try CanonicalJSON.encode(try Envelope.sign(release, type: type, with: key))
            let entry = ChannelEntry(name: name, version: version, target: target, release: Digest(hashing: bytes))
            return try trust.release(bytes, of: entry, source: "r")
        }
        #expect(try read(farm.image, PayloadType.release, "tool", "1", "x86_64") == release)
        for (name, version, target) in [("other", "1", "x86_64"), ("tool", "2", "x86_64"), ("tool", "1", "x86_64_v3")] {
            #expect { try read(farm.image, PayloadType.release, name, version, target) } throws: {
                ($0 as? FarmError)?.code == "release.swapped"
            }
        }
        #expect(throws: FarmError.self) { try read(farm.channel, PayloadType.release, "tool", "1", "x86_64") }
        #expect(throws: FarmError.self) { try read(farm.image, PayloadType.channel, "tool", "1", "x86_64") }
    }

    @Test func sitesWalkToTheNewestRoot() async throws {
        try await put(channel(100), in: good)
        #expect(try await look().version == 100)
        // Root 2 has another channel key, root 3 another root key; the site was away for both.
        let (channelKey, rootKey) = (try SigningKey.generate(), try SigningKey.generate())
        var second = farm.root
        (second.version, second.channelKeys) = (2, [channelKey.verifier])
        var third = second
        (third.version, third.rootKeys) = (3, [rootKey.verifier])
        try await good.put(TrustRoot.key(2), try second.signed(by: [farm.rootKey], after: farm.root))
        try await good.put(TrustRoot.key(3), try third.signed(by: [farm.rootKey, rootKey], after: second))
        // A number that the stolen key had driven up does not count after it is gone.
        try await put(channel(1), in: good, by: channelKey)
        #expect(try await look().version == 1)
        #expect(try site.trust().root == third)
        try await put(channel(200), in: bad)
        #expect(await refusal([bad]) == "attestation.refused")

        // What does not follow is refused: by the old key alone, by strangers, out of turn, of another farm.
        var fourth = third
        fourth.version = 4
        let stranger = try SigningKey.generate()
        fourth.rootKeys = [stranger.verifier]
        for keys in [[stranger], [farm.rootKey, stranger], [rootKey]] {
            let envelope = try keys.dropFirst().reduce(try Envelope.sign(fourth, type: PayloadType.root, with: keys[0])) {
                try $0.signed(by: $1)
            }
            try await bad.put(TrustRoot.key(4), try CanonicalJSON.encode(envelope))
            #expect(await refusal([bad]) == "attestation.refused")
        }
        // Beside a region that has none it does no harm, and is told of.
        #expect(try await look([bad, good]).version == 1)
        for wrong in [5, 3] {
            var other = third
            other.version = wrong
            try await bad.put(TrustRoot.key(4), try CanonicalJSON.encode(try Envelope.sign(other, type: PayloadType.root, with: rootKey)))
            #expect(await refusal([bad]) == "root.invalid")
        }
        #expect(throws: FarmError.self) { try fourth.signed(by: [rootKey], after: third) }
        try fourth.signed(by: [rootKey, stranger], after: third).withUnsafeBytes { #expect($0.count > 0) }
    }

    @Test func aRootThatHasExpiredStopsEverything() async throws {
        try await put(channel(1), in: good)
        var next = farm.root
        (next.version, next.expiresAt) = (2, Timestamp(seconds: 900))
        try await good.put(TrustRoot.key(2), try next.signed(by: [farm.rootKey], after: farm.root))
        #expect(await refusal([good]) == "root.expired")
        (next.version, next.expiresAt) = (3, Timestamp(seconds: 9000))
        var before = farm.root
        before.version = 2
        try await good.put(TrustRoot.key(3), try next.signed(by: [farm.rootKey], after: before))
        #expect(try await look([good]).version == 1)
    }

    @Test func severalRootKeysMustSign() throws {
        let keys = try (0..<3).map { _ in try SigningKey.generate() }
        var root = farm.root
        (root.version, root.rootKeys, root.threshold) = (2, keys.map(\.verifier), 2)
        let bytes = try root.signed(by: [farm.rootKey, keys[0], keys[2]], after: farm.root)
        #expect(try farm.root.successor(bytes, source: "r") == root)
        #expect(throws: FarmError.self) { try root.signed(by: [farm.rootKey, keys[0]], after: farm.root) }
        // The same key twice is one key.
        #expect(throws: FarmError.self) { try root.signed(by: [farm.rootKey, keys[0], keys[0]], after: farm.root) }
        root.threshold = 4
        #expect(throws: FarmError.self) { try root.signed(by: [farm.rootKey] + keys, after: farm.root) }
    }
}
