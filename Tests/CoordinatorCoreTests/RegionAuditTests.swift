import ChunkStore
import CoordinatorCore
import FarmModel
import ObjectStorage
import SiteDelivery
import Support
import Synchronization
import Testing

/// Regions lose and damage objects; audits find that and bring it back.
@Suite struct RegionAuditTests {
    /// What is wrong in a region after an audit, and what the audit did.
    private func audit(
        _ farm: TestRegions, _ kind: AuditRequest.Kind, _ regions: [(name: String, store: any ObjectStore)]? = nil, repairs: Bool = true,
        slices: [String: RegionAuditor.Slice] = [:]
    ) async throws -> [String: RegionAudit] {
        let plain = await farm.regions(seed: 0, killedAfter: nil)
        return try await farm.audit(AuditRequest(kind: kind, repairs: repairs), regions ?? plain, slices: slices)
    }

    private func filled(_ generator: inout SeededGenerator) async throws -> TestRegions {
        let farm = try TestRegions(clock: TestClock())
        let regions = await farm.regions(seed: 1, killedAfter: nil)
        let pieces = (0..<8).map { _ in generator.bytes(Int(1000 + generator.next() % 3000)) }
        for name in ["a", "b", "c"] {
            let picked = pieces.filter { _ in generator.next() % 2 == 0 } + [generator.bytes(2000)]
            try await farm.build(name, "1", chunks: picked, pause: 0)
            for _ in 0..<8 { #expect(try await farm.publish(regions) == []) }
        }
        return farm
    }

    private func contents(_ store: MemoryStore) async throws -> [String: [UInt8]] {
        var found: [String: [UInt8]] = [:]
        for object in try await store.all() { found[object.key] = try await store.get(object.key) }
        return found
    }

    /// Objects vanish, shrink and rot in either region, never the same one in both.
    @Test(arguments: 0..<20) func whatOneRegionLosesTheOtherBrings(_ seed: UInt64) async throws {
        var generator = SeededGenerator(seed)
        let farm = try await filled(&generator)
        let clean = try await audit(farm, .whole)
        #expect(clean.values.allSatisfy { $0.isSound && $0.repaired == 0 && $0.objects > 5 && $0.packsRead > 0 })
        let before = [try await contents(farm.stores[0]), try await contents(farm.stores[1])]
        var harmed = [0, 0]
        for key in before[0].keys.sorted() where !key.hasPrefix("channels/") && key != StoreHeader.key && generator.next() % 3 == 0 {
            let place = Int(generator.next() % 2)
            guard let bytes = before[place][key] else { continue }
            harmed[place] += 1
            switch generator.next() % 3 {
            case 0: try await farm.stores[place].delete(key)
            case 1: try await farm.stores[place].put(key, Array(bytes.dropLast(7)))
            default:
                var bytes = bytes
                bytes[Int(generator.next() % UInt64(bytes.count))] ^= 4
                try await farm.stores[place].put(key, bytes)
            }
        }
        let looked = try await audit(farm, .whole, repairs: false)
        for (place, store) in farm.stores.enumerated() {
            #expect((looked[store.name]?.isSound ?? false) == (harmed[place] == 0))
            #expect(looked[store.name]?.repaired == 0)
        }
        // What was damaged in the one's index may hide what is damaged behind it.
        _ = try await audit(farm, .whole)
        let again = try await audit(farm, .whole)
        #expect(again.values.allSatisfy { $0.isSound }, "\(again.values.flatMap(\.faults))")
        #expect(try await contents(farm.stores[0]) == before[0])
        #expect(try await contents(farm.stores[1]) == before[1])
    }

    /// Listings alone tell what is not there or has another length; rot needs the reading, which comes to every pack in turn.
    @Test func rotIsFoundWhenItsTurnComes() async throws {
        var generator = SeededGenerator(5)
        let farm = try await filled(&generator)
        let packs = try await farm.stores[1].all(prefix: "packs/")
        for pack in packs {
            var bytes = try await farm.stores[1].get(pack.key)
            bytes[40] ^= 1
            try await farm.stores[1].put(pack.key, bytes)
        }
        #expect(try await audit(farm, .listing)["memory:second"]?.repaired == 0)
        var (repaired, read) = ([Int](), 0)
        for number in 0..<4 {
            let found = try await audit(farm, .reading, slices: ["memory:second": .init(number, of: 4)])["memory:second"]
            repaired.append(found?.repaired ?? -1)
            // What was repaired was read twice.
            read += found?.packsRead ?? 0
        }
        #expect(repaired.reduce(0, +) == packs.count && read >= packs.count && repaired.filter { $0 > 0 }.count > 1)
        let last = try await audit(farm, .whole)
        #expect(last.values.allSatisfy { $0.isSound })
    }

    /// What was found damaged is known until it is read again and sound, whatever is read and listed in between.
    @Test func knownRotIsNotForgotten() async throws {
        var generator = SeededGenerator(8)
        let farm = try await filled(&generator)
        let before = try await contents(farm.stores[1])
        for key in before.keys where key.hasPrefix("packs/") {
            var bytes = try await farm.stores[1].get(key)
            bytes[40] ^= 1
            for store in farm.stores { try await store.put(key, bytes) }
        }
        var record = RegionRecord()
        func look(_ kind: AuditRequest.Kind) async throws {
            let slice = RegionAuditor.Slice(record.nextSlice, of: 4, suspects: record.suspects)
            record.take(try #require(try await audit(farm, kind, slices: ["memory:second": slice])["memory:second"]), slices: 4)
        }
        var status = RegionStatus(name: "second", bucket: "memory:second")
        func troubles() -> [String] {
            status.record = record
            return status.troubles(now: .now, patience: 60)
        }
        for _ in 0..<4 { try await look(.reading) }
        let known = ["\(record.suspects.count) objects are damaged"]
        #expect(record.suspects.count > 1 && troubles() == known)
        for _ in 0..<5 {
            try await look(.reading)
            try await look(.listing)
            #expect(troubles() == known)
        }
        // A reading that came to nothing says nothing else, and is not hidden by a listing.
        var failed = RegionAudit(AuditRequest(kind: .reading, repairs: true), by: "test", startedAt: .now)
        failed.error = "it was away"
        record.take(failed, slices: 4)
        try await look(.listing)
        #expect(troubles() == known + ["the last reading ended early: it was away"])
        for (key, bytes) in before where key.hasPrefix("packs/") { try await farm.stores[1].put(key, bytes) }
        try await look(.reading)
        #expect(record.suspects.isEmpty && troubles().isEmpty)
    }

    /// A region without anything gets all before somebody points it at a channel.
    @Test func aNewRegionIsFilled() async throws {
        var generator = SeededGenerator(6)
        let farm = try await filled(&generator)
        _ = try await audit(farm, .listing)
        let channel = try await farm.stores[1].get(ReleaseChannel.key("main"))
        let before = try await contents(farm.stores[1])
        for key in before.keys { try await farm.stores[1].delete(key) }
        let found = try #require(try await audit(farm, .listing)["memory:second"])
        #expect(found.isSound && found.repaired > 5)
        try await farm.stores[1].put(ReleaseChannel.key("main"), channel)
        #expect(try await contents(farm.stores[1]) == before)
    }

    /// What nobody has whole is told with its name; a region that is away is told, and does not keep the others from being audited.
    @Test func whatCannotBeMendedIsTold() async throws {
        var generator = SeededGenerator(7)
        let farm = try await filled(&generator)
        let lost = try #require(try await farm.stores[0].all(prefix: "packs/").first)
        for store in farm.stores { try await store.delete(lost.key) }
        let cut = try #require(try await farm.stores[1].all(prefix: "packs/").first)
        try await farm.stores[1].put(cut.key, [1])
        let found = try await audit(farm, .listing)
        for store in farm.stores {
            #expect(found[store.name]?.missing == 1 && found[store.name]?.faults.map(\.key) == [lost.key])
        }
        #expect(found["memory:second"]?.repaired == 1)
        let dead = [
            (name: "memory:first", store: farm.stores[0] as any ObjectStore),
            (name: "memory:second", store: MortalStore(farm.stores[1], farm.clock, seed: 1, killedAfter: 0, longestStep: 0)),
        ]
        let partly = try await audit(farm, .listing, dead)
        #expect(partly["memory:second"]?.error != nil && partly["memory:first"]?.missing == 1)
        // It may have what the first one lacks.
        #expect(partly["memory:first"]?.error?.contains("memory:second") == true)
        let looked = try await audit(farm, .listing, dead, repairs: false)
        #expect(looked["memory:first"]?.error == nil && looked["memory:first"]?.missing == 1)
    }
}
