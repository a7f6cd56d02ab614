import Attestation
import ChunkStore
import CoordinatorCore
import FarmModel
import Foundation
import ObjectStorage
import SiteDelivery
import Support
import Testing

/// What a farm's collections take away.
///
/// Builds, publications and collections side by side, each killed at any step: whatever a region's channel names comes back from that region.
@Suite struct FarmCollectionTests {
    private static let seeds: Range<UInt64> = {
        let number = ProcessInfo.processInfo.environment["SCIFERRY_STORE_SEEDS"].flatMap { UInt64($0) } ?? 20
        return 0..<number
    }()

    @Test func nothingThatAChannelNamesIsEverLost() async throws {
        var (repacked, removed) = (0, 0)
        for seed in Self.seeds {
            let outcome = try await run(seed)
            #expect(outcome.wrong == [], "seed \(seed)")
            (repacked, removed) = (repacked + outcome.repacked, removed + outcome.removed)
        }
        // The seeds do reach what they are for.
        #expect(repacked > 10 && removed > 50)
    }

    /// A pack has rotted everywhere and its chunks have come again with another image: the good copy stays, and mends the first image, too.
    @Test(arguments: 0..<6) func rotDoesNotDisplaceWhatReplacedIt(_ seed: UInt64) async throws {
        var generator = SeededGenerator(seed)
        let farm = try TestRegions(clock: TestClock())
        let regions = await farm.regions(seed: seed, killedAfter: nil)
        let pieces = (0..<4).map { _ in generator.bytes(1500) }
        func publish(_ name: String, _ chunks: [[UInt8]]) async throws {
            try await farm.build(name, "1", chunks: chunks, pause: 0)
            for _ in 0..<8 { #expect(try await farm.publish(regions) == []) }
        }
        try await publish("a", Array(pieces[..<3]))
        let rotten = try #require(try await farm.stores[0].all(prefix: "packs/").first)
        for store in farm.stores {
            var bytes = try await store.get(rotten.key)
            bytes[700] ^= 1
            try await store.put(rotten.key, bytes)
        }
        let pack = try #require(Digest(rotten.key.split(separator: "/").last ?? ""))
        try await farm.apply { $0.forget(pack) }
        try await publish("b", pieces)
        var policy = RetentionPolicy()
        policy.graceHours = 0
        for _ in 0..<3 {
            _ = try await farm.collect(policy, regions)
            farm.clock.pass(hours: 1)
        }
        #expect(try await look(farm) == [])
        #expect(try await farm.stores[0].head(rotten.key) == nil)
    }

    /// A needed pack is gone everywhere: that is told, and everything else is done all the same.
    @Test func whatIsLostDoesNotStopTheRest() async throws {
        var generator = SeededGenerator(77)
        let farm = try TestRegions(clock: TestClock())
        let regions = await farm.regions(seed: 1, killedAfter: nil)
        func publish(_ name: String, _ chunks: [[UInt8]]) async throws {
            try await farm.build(name, "1", chunks: chunks, pause: 0)
            for _ in 0..<8 { #expect(try await farm.publish(regions) == []) }
        }
        try await publish("a", [generator.bytes(2000), generator.bytes(1000)])
        let lost = try #require(try await farm.stores[0].all(prefix: "packs/").first)
        try await publish("b", [generator.bytes(2000)])
        let old = Set(try await farm.stores[0].all(prefix: "packs/").map(\.key)).subtracting([lost.key])
        farm.clock.pass(hours: 1)
        try await publish("b", [generator.bytes(3000)])
        for store in farm.stores { try await store.delete(lost.key) }
        var policy = RetentionPolicy()
        (policy.graceHours, policy.supersededDays) = (0, 0)
        var report = try await farm.collect(policy, regions)
        farm.clock.pass(hours: 1)
        report = try await farm.collect(policy, regions)
        #expect(report.lostPacks.map(Pack.key) == [lost.key])
        for key in old { #expect(try await farm.stores[0].head(key) == nil) }
        #expect(try await look(farm).count == 2, "only what was lost")
    }

    /// An index that is of no use now may become of use again for one of its packs, and its readers then look into all of them: a pack stays
    /// until every index that lists it goes.
    @Test func packsDoNotGoBeforeTheirIndexes() throws {
        func time(_ hours: Int64) -> Timestamp { Timestamp(seconds: hours * 3600) }
        var state = FarmState(JournalSnapshot(), rules: FarmState.Rules(silenceSeconds: 1e9), now: time(0))
        let (pack, index) = (Pack.key(Digest(hashing: "p")), PackIndex.key(Digest(hashing: "i")))
        state.condemn([pack], sparing: [], now: time(1))
        state.condemn([index], sparing: [], now: time(5))
        func begin(_ reliance: Timestamp?, _ state: inout FarmState) -> [String] {
            state.beginRemoval(
                [pack, index], asked: time(10), reliance: reliance, listings: [index: [pack]], graceSeconds: 0, now: time(10))
        }
        // Somebody began in between, and may rely on what the index lists besides.
        #expect(begin(time(3), &state) == [])
        #expect(Set(begin(nil, &state)) == [pack, index])
        state.removed([index])
        #expect(state.condemned[pack]?.isGoing == true)
    }

    private func policy(_ generator: inout SeededGenerator) -> RetentionPolicy {
        var policy = RetentionPolicy()
        policy.supersededDays = Double(generator.next() % 5)
        policy.versions = Int(generator.next() % 3)
        policy.graceHours = [0, 24, 48][Int(generator.next() % 3)]
        policy.repackMegabytes = [0, 1, 100][Int(generator.next() % 3)]
        return policy
    }

    private func run(_ seed: UInt64) async throws -> (wrong: [String], repacked: Int, removed: Int) {
        var wrong: [String] = []
        var generator = SeededGenerator(seed)
        let clock = TestClock()
        let farm = try TestRegions(clock: clock)
        let pieces = (0..<12).map { _ in generator.bytes(Int(1000 + generator.next() % 3000)) }
        var (repacked, removed) = (0, 0)
        for round in 0..<14 {
            let rules = policy(&generator)
            let kills = (0..<3).map { _ in generator.next() % 3 == 0 ? Int(generator.next() % 60) : nil }
            let own = generator.next()
            let fresh = generator.bytes(2000)
            let picked = pieces.filter { _ in generator.next() % 2 == 0 } + (generator.next() % 2 == 0 ? [fresh] : [])
            let (name, version) = ("t\(generator.next() % 2)", "\(generator.next() % 4)")
            let (builds, pause, publishes, collects) = (
                generator.next() % 4 != 0, Double(generator.next() % 60), Int(generator.next() % 8), generator.next() % 3 != 0
            )
            let audits = generator.next() % 3 == 0
            let tally = try await withThrowingTaskGroup(of: (wrong: [String], repacked: Int, removed: Int).self) { tasks in
                if builds, !picked.isEmpty {
                    tasks.addTask {
                        try await farm.build(name, version, chunks: picked, pause: pause)
                        return ([], 0, 0)
                    }
                }
                tasks.addTask {
                    var failed: [String] = []
                    let regions = await farm.regions(seed: own, killedAfter: kills[0])
                    for _ in 0..<publishes { failed += try await farm.publish(regions) }
                    return (failed, 0, 0)
                }
                if collects {
                    tasks.addTask {
                        do {
                            let report = try await farm.collect(rules, await farm.regions(seed: own &+ 1, killedAfter: kills[1]))
                            return (report.lostPacks.map { "lost \($0.short)" }, report.repackedPacks, report.removed.objects)
                        } catch let error as FarmError where error.category.isTransient { return ([], 0, 0) }
                    }
                }
                if audits {
                    tasks.addTask {
                        let regions = await farm.regions(seed: own &+ 2, killedAfter: kills[2])
                        do { _ = try await farm.audit(AuditRequest(kind: .reading, repairs: true), regions) } catch let error as FarmError
                            where error.category.isTransient
                        {}
                        return ([], 0, 0)
                    }
                }
                return try await tasks.reduce(into: ([String](), 0, 0)) { $0 = ($0.0 + $1.wrong, $0.1 + $1.repacked, $0.2 + $1.removed) }
            }
            wrong += tally.0.map { "round \(round): \($0)" }
            (repacked, removed) = (repacked + tally.1, removed + tally.2)
            if generator.next() % 4 == 0 { try await farm.restart() }
            clock.pass(hours: Double(generator.next() % 60))
            wrong += try await look(farm).map { "round \(round): \($0)" }
        }
        wrong += try await settle(farm)
        return (wrong, repacked, removed)
    }

    /// Everything is published and collected: then regions hold what their releases need, and nothing else.
    private func settle(_ farm: TestRegions) async throws -> [String] {
        let regions = await farm.regions(seed: 0, killedAfter: nil)
        var wrong: [String] = []
        for _ in 0..<8 { wrong += try await farm.publish(regions) }
        var policy = RetentionPolicy()
        (policy.supersededDays, policy.repackMegabytes) = (0, 100)
        for _ in 0..<4 {
            _ = try await farm.collect(policy, regions)
            for region in farm.stores {
                try await farm.publisher(regions).point(try await farm.pointer(), name: "main", region: region.name)
            }
            farm.clock.pass(hours: 50)
        }
        wrong += try await look(farm)
        guard await farm.state.condemned.isEmpty else { return wrong + ["some objects stay condemned: \(await farm.state.condemned.keys)"] }
        for store in farm.stores {
            let channel = try await Self.channel(store, farm)
            var needed: Set<String> = [ReleaseChannel.key("main")]
            for entry in channel?.entries ?? [] {
                let (release, keys) = try await Self.release(entry, store, farm)
                let reader = RegionReader(regions: [store])
                let manifest = try await reader.manifest(release.image.manifest)
                let places = try await reader.locations(of: manifest, digest: release.image.manifest)
                needed.formUnion(keys + places.values.map { Pack.key($0.pack) })
                // Of a chunk that was sent twice both copies may be looked for, in different indexes.
                let cover = try CanonicalJSON.decode(
                    ManifestCover.self, from: try await store.get(ImageManifest.coverKey(release.image.manifest)), source: "cover")
                for name in cover.indexes {
                    needed.insert(PackIndex.key(name))
                    let index = try PackIndex(try await reader.content(name, key: PackIndex.key(name)), source: "index")
                    needed.formUnion(index.packs.map { Pack.key($0.pack) })
                }
            }
            let there = Set(
                try await store.all().map(\.key).filter { !$0.hasPrefix("incoming/") && !$0.hasPrefix("roots/") && $0 != StoreHeader.key })
            wrong += there.subtracting(needed).sorted().map { "\($0) stays in \(store.name)" }
        }
        return wrong
    }

    private static func channel(_ store: MemoryStore, _ farm: TestRegions) async throws -> ReleaseChannel? {
        guard try await store.head(ReleaseChannel.key("main")) != nil else { return nil }
        let bytes = try await store.get(ReleaseChannel.key("main"))
        return try CanonicalJSON.decode(Envelope.self, from: bytes, source: "channel")
            .verified(payloadType: PayloadType.channel, by: farm.keys.root.channelKeys, source: "channel")
    }

    private static func release(_ entry: ChannelEntry, _ store: MemoryStore, _ farm: TestRegions) async throws -> (Release, [String]) {
        let key = ReleaseDocument.key(name: entry.name, version: entry.version, digest: entry.release)
        let release: Release = try CanonicalJSON.decode(Envelope.self, from: try await store.get(key), source: key)
            .verified(payloadType: PayloadType.release, by: farm.keys.root.imageKeys, source: key)
        return (release, [key, ImageManifest.key(release.image.manifest), ImageManifest.coverKey(release.image.manifest)])
    }

    /// What a region's channel names and does not come back from it.
    private func look(_ farm: TestRegions) async throws -> [String] {
        var wrong: [String] = []
        for store in farm.stores {
            for entry in try await Self.channel(store, farm)?.entries ?? [] {
                do {
                    let release = try await Self.release(entry, store, farm).0
                    let reader = RegionReader(regions: [store])
                    let manifest = try await reader.manifest(release.image.manifest)
                    let places = try await reader.locations(of: manifest, digest: release.image.manifest)
                    let data = try await reader.chunks(at: places.values)
                    let image = manifest.chunks.flatMap { data[$0.digest] ?? [] }
                    if Digest(hashing: image) != release.image.digest { wrong.append("\(release.title) is another image") }
                } catch let error as FarmError { wrong.append("\(entry.name) \(entry.version) in \(store.name): \(error.message)") }
            }
        }
        return wrong
    }
}
