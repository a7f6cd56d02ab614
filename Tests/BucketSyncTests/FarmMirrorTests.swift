import BucketSync
import FarmModel
import ObjectStorage
import Support
import Testing

/// Mirrors of farms' and stores' buckets.
@Suite struct FarmMirrorTests {
    private func object(_ prefix: String, _ text: String) -> (key: String, text: String) { ("\(prefix)\(Digest(hashing: text).hex)", text) }

    private func farm() async throws -> (SyncBench, [String: String]) {
        let (pack, index, manifest, release) = (
            object("packs/", "p"), object("indexes/", "i"), object("manifests/", "m"), object("releases/", "r")
        )
        let content = [
            SyncOrder.identity: "{\"farm\":1}", pack.key: pack.text, index.key: index.text, manifest.key: manifest.text,
            release.key: release.text, "covers/x": "c",
            "roots/1": "root", "channels/main.json": "channel",
        ]
        let bench = SyncBench()
        try await bench.fill(content)
        return (bench, content)
    }

    /// At every step of a run, and of one that is killed anywhere, what the mirror names is in it.
    @Test func aMirrorNeverPointsAtWhatIsNotThere() async throws {
        let (_, content) = try await farm()
        let order = ["packs/", "indexes/", "manifests/", "covers/", "releases/", "roots/", "channels/"]
        for steps in 0..<40 {
            var bench = SyncBench()
            try await bench.fill(content)
            let mirror = MemoryStore(name: "memory:mirror")
            bench.destination = MortalStore(mirror, TestClock(), seed: UInt64(steps), killedAfter: steps, longestStep: 0)
            _ = try? await bench.run { ($0.deletes, $0.transfers) = (.after, 3) }
            let there = try await SyncBench.content(mirror)
            for (place, prefix) in order.enumerated() where there.keys.contains(where: { $0.hasPrefix(prefix) }) {
                for earlier in order[..<place] {
                    #expect(there.keys.contains { $0.hasPrefix(earlier) }, "after \(steps) steps \(prefix) is there and \(earlier) is not")
                }
            }
            bench.destination = mirror
            try await bench.run { $0.deletes = .after }
            #expect(try await SyncBench.content(mirror) == content)
        }
    }

    /// Damaged objects are not copied, and nothing that would point at them is written.
    @Test func damageDoesNotTravel() async throws {
        let (bench, content) = try await farm()
        let pack = try #require(content.keys.first { $0.hasPrefix("packs/") })
        try await bench.source.put(pack, Array("x".utf8))
        let report = try await bench.run { $0.deletes = .after }
        #expect(report.damaged == [pack])
        #expect(try await bench.there.isEmpty)
        try await bench.source.put(pack, Array("p".utf8))
        try await bench.run()
        #expect(try await bench.there == content)
    }

    /// What the source lacks stays for the grace time, counted from when it was first missed.
    @Test func readersOfAMirrorHaveTheirTime() async throws {
        var (bench, content) = try await farm()
        let scratch = try Scratch()
        try bench.remember(in: scratch.path)
        try await bench.run { $0.deletes = .after }
        let pack = try #require(content.keys.first { $0.hasPrefix("packs/") })
        try await bench.source.delete(pack)
        content[pack] = nil
        for _ in 0..<2 {
            try bench.remember(in: scratch.path)
            let report = try await bench.run { $0.deletes = .after }
            #expect(report.waiting == 1 && report.deleted == 0)
        }
        try bench.remember(in: scratch.path)
        #expect(try await bench.run { ($0.deletes, $0.grace) = (.after, 0.001) }.deleted == 1)
        #expect(try await bench.there == content)
    }

    @Test func uploadsAndDecisionsStayWhereTheyAre() async throws {
        let (bench, content) = try await farm()
        try await bench.fill(["incoming/j1/x": "u"], ["condemned/1": "c"])
        try await bench.run { ($0.deletes, $0.grace) = (.after, 0) }
        #expect(try await bench.there == content.merging(["condemned/1": "c"]) { $1 })
    }

    /// With a part left out its pointers would name what is not there.
    @Test func aFarmIsMirroredWhole() async throws {
        let (bench, content) = try await farm()
        var rules = ObjectFilter.Options()
        rules.exclude = ["packs/**"]
        let filter = try ObjectFilter(rules)
        #expect(await code(of: { try await bench.run { $0.filter = filter } }) == "sync.filtered-farm")
        #expect(try await bench.there.isEmpty)
        // A pack that is there in another length, and left alone as it is asked for.
        let pack = try #require(content.keys.first { $0.hasPrefix("packs/") })
        try await bench.fill([:], [pack: "cut off"])
        let events = SyncBench.Events()
        let report = try await bench.run({ $0.ignoresExisting = true }, events: events)
        #expect(report.left == 1 && report.failed == 1 && events.errors == [" sync.left"])
        #expect(try await bench.there.keys.allSatisfy { !$0.hasPrefix("channels/") && !$0.hasPrefix("roots/") })
        try await bench.run()
        #expect(try await bench.there == content)
    }

    /// A mirror is the same as its farm when it holds what releases need, whatever lies in the two besides.
    @Test func aCheckKnowsWhatAMirrorIs() async throws {
        var (bench, content) = try await farm()
        let scratch = try Scratch()
        func check() async throws -> BucketCheck.Report {
            try bench.remember(in: scratch.path)
            return try await BucketCheck(bench.source, bench.destination, memory: bench.memory).run()
        }
        try bench.remember(in: scratch.path)
        try await bench.run { $0.deletes = .after }
        try await bench.fill(["incoming/j1/x": "u"], ["condemned/1": "c"])
        #expect(
            try await check()
                == {
                    var report = BucketCheck.Report(); report.same = content.count; return report
                }())
        let pack = try #require(content.keys.first { $0.hasPrefix("packs/") })
        try await bench.source.delete(pack)
        content[pack] = nil
        #expect(try await check().extra == 1)
        try await bench.run { $0.deletes = .after }
        let report = try await check()
        #expect(report.isSame && report.waiting == 1 && report.extra == 0)
    }

    @Test func twoFarmsAreNotPouredTogether() async throws {
        let (bench, _) = try await farm()
        try await bench.fill([:], [SyncOrder.identity: "another"])
        #expect(await code(of: { try await bench.run() }) == "store.foreign")
    }
}
