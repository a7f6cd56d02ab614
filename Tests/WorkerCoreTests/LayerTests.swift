import FarmModel
import Foundation
import ImageAssembly
import Support
import Testing
import WorkerCore

@Suite struct RestorePlanTests {
    private func set(_ layers: [(seconds: Double, size: Int64)]) -> LayerSet {
        LayerSet(
            recipe: "r", target: "t", architecture: "x86_64", base: [],
            layers: layers.enumerated().map { index, layer in
                var made = LayerSet.Layer(
                    identity: UInt64(index), content: Digest(hashing: "\(index)"), size: layer.size, seconds: layer.seconds)
                made.stored = layer.size / 4
                return made
            }, configuration: "{}", madeAt: Timestamp(seconds: 0))
    }

    private let rates = LayerRates(fetch: 10e6, load: 100e6)

    @Test func whatIsQuickerToMakeIsNotBrought() throws {
        // 400 MB would come in 10 s and be taken in in 4.
        let dear = set([(60, 400_000_000)])
        let plan = try #require(RestorePlan(dear, held: 0, present: 0, rates: rates))
        #expect(plan.count == 1 && plan.fetchBytes == 100_000_000 && plan.loadBytes == 400_000_000)
        #expect(abs(plan.restoreSeconds - 15) < 0.1 && plan.rebuildSeconds == 60)
        #expect(RestorePlan(set([(10, 400_000_000)]), held: 0, present: 0, rates: rates) == nil)
        #expect(RestorePlan(set([(0.5, 10)]), held: 0, present: 0, rates: rates) == nil, "every restoration takes its time")
        // The engine has the bytes, if not the builder's word for them.
        #expect(RestorePlan(dear, held: 0, present: 1, rates: rates)?.fetchBytes == 0)
        #expect(RestorePlan(dear, held: 1, present: 1, rates: rates) == nil, "it is there")
    }

    @Test func theBeginningThatSavesMostIsBrought() throws {
        // The last one costs more than it saves; the cheap one in between must come for the one behind it.
        let mixed = set([(30, 10_000_000), (0, 50_000_000), (30, 10_000_000), (1, 2_000_000_000)])
        #expect(try #require(RestorePlan(mixed, held: 0, present: 0, rates: rates)).count == 3)
        #expect(try #require(RestorePlan(mixed, held: 1, present: 1, rates: rates)).count == 3)
        #expect(try #require(RestorePlan(mixed, held: 1, present: 1, rates: rates)).rebuildSeconds == 30)
        #expect(RestorePlan(mixed, held: 3, present: 3, rates: rates) == nil)
    }

    @Test func ratesFollowWhatIsMeasured() {
        var rates = LayerRates()
        for _ in 0..<30 { rates.measured(fetched: 100_000_000, seconds: 1) }
        #expect(abs(rates.fetch - 100e6) < 1e6)
        let before = rates
        rates.measured(fetched: 1000, seconds: 1)
        rates.measured(loaded: 0, seconds: 0)
        #expect(rates == before, "what is small says nothing")
    }
}

@Suite struct LayerMemoryTests {
    @Test func itKnowsWhatAnEngineHas() {
        var memory = LayerMemory()
        memory.speaks(of: "one")
        memory.used([1, 2, 3], seconds: [1: 5, 3: 7], now: Timestamp(seconds: 1))
        #expect(memory.held([1, 2, 3, 4]) == 3 && memory.held([1, 9, 3]) == 1 && memory.held([]) == 0)
        #expect(memory.seconds(1) == 5 && memory.seconds(2) == nil)
        memory.used([1], seconds: [:], now: Timestamp(seconds: 2))
        #expect(memory.seconds(1) == 5, "a step that was there says nothing of its time")
        memory.lost([2])
        #expect(memory.held([1, 2, 3]) == 1)
        memory.speaks(of: "one")
        #expect(memory.held([1]) == 1)
        memory.speaks(of: "two")
        #expect(memory.held([1]) == 0)
    }

    @Test func itDoesNotGrowForEver() {
        var memory = LayerMemory()
        for step in UInt64(0)..<17000 { memory.used([step], seconds: [:], now: Timestamp(seconds: Int64(step))) }
        #expect(memory.steps.count <= 8192 && memory.held([16999]) == 1 && memory.held([0]) == 0)
    }

    @Test func itOutlivesTheProcess() throws {
        let scratch = try Scratch()
        LayerNotes("\(scratch.path)/n").change { $0.used([7], seconds: [7: 3], now: Timestamp(seconds: 1)) }
        #expect(LayerNotes("\(scratch.path)/n").memory.seconds(7) == 3)
        try Data("{".utf8).write(to: URL(fileURLWithPath: "\(scratch.path)/n"))
        #expect(LayerNotes("\(scratch.path)/n").memory.steps.isEmpty)
    }
}

@Suite struct BuildStageTests {
    @Test func theLastStageIsFound() {
        var output = BuildOutput()
        let text = """
            #5 [build 1/2] FROM a
            #6 [build 2/2] RUN make
            #6 DONE 3.5s
            #7 [stage-1 1/3] FROM b
            #8 [stage-1 2/3] COPY --from=build /a /a
            #8 CACHED
            #9 [stage-1 3/3] RUN true
            #9 DONE 0.5s

            """
        _ = output.take(Array(text.utf8))
        #expect(output.lastStage(layers: 2).map(\.instruction) == ["COPY --from=build /a /a", "RUN true"])
        #expect(output.lastStage(layers: 2).map(\.origin) == [.worker, .run])
        #expect(output.lastStage(layers: 1).map(\.instruction) == ["RUN make"])
        #expect(output.lastStage(layers: 3).isEmpty)
    }
}

@Suite struct CacheConfigurationTests {
    private func configuration(_ notes: String) -> String {
        """
        {"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b","sha256:c"]},
        "history":[{"created_by":"base"},{"created_by":"ENV","empty_layer":true},{"created_by":"RUN b"},{"created_by":"LABEL","empty_layer":true},
        {"created_by":"RUN c"},{"created_by":"CMD","empty_layer":true}],"moby.buildkit.cache.v0":"\(Data(notes.utf8).base64EncodedString())"}
        """
    }

    @Test func whatIsCutSpeaksOfTheLayersThatAreLeft() throws {
        let notes =
            #"[{"layers":[{"layer":2,"createdAt":"t"}],"digest":"x","inputs":[[{"link":1}]]},{"layers":[{"layer":1},{"layer":2}],"digest":"y"},{"digest":"z"}]"#
        let cut =
            try JSONSerialization.jsonObject(with: Data(try CacheConfiguration.cut(configuration(notes), layers: 2))) as? [String: Any]
        #expect((cut?["rootfs"] as? [String: Any])?["diff_ids"] as? [String] == ["sha256:a", "sha256:b"])
        let history = (cut?["history"] as? [[String: Any]])?.compactMap { $0["created_by"] as? String }
        #expect(history == ["base", "ENV", "RUN b", "LABEL"])
        let kept = try #require((cut?["moby.buildkit.cache.v0"] as? String).flatMap { Data(base64Encoded: $0) })
        let records = try #require(try JSONSerialization.jsonObject(with: kept) as? [[String: Any]])
        #expect(records.count == 3 && records[0]["layers"] == nil && records[0]["inputs"] != nil)
        #expect((records[1]["layers"] as? [[String: Any]])?.count == 1)
        #expect(CacheConfiguration.hasNotes(configuration(notes)) && !CacheConfiguration.hasNotes("{}"))
    }

    @Test(arguments: [
        "{", "[]", "{}", #"{"rootfs":{"diff_ids":["a"]}}"#, #"{"rootfs":{"diff_ids":["a","b"]},"moby.buildkit.cache.v0":"!"}"#,
    ])
    func whatIsNoneIsRefused(_ text: String) { #expect(throws: FarmError.self) { try CacheConfiguration.cut(text, layers: 2) } }
}

@Suite struct DiskTests {
    @Test func whatIsWorthLeastForAByteGoesFirst() {
        let now = Timestamp(seconds: 100 * 86400)
        var memory = LayerMemory()
        memory.left("cheap", seconds: 10, bytes: 1_000_000_000, now: now)
        memory.left("dear", seconds: 1000, bytes: 1_000_000_000, now: now)
        memory.left("small", seconds: 10, bytes: 1_000_000, now: now)
        memory.left("old", seconds: 1000, bytes: 1_000_000_000, now: now.adding(seconds: -60 * 86400))
        #expect(memory.leastWorth(["dear", "small", "cheap", "old", "unknown"], now: now) == ["unknown", "old", "cheap", "dear", "small"])
        memory.used([1], seconds: [:], now: now)
        memory.forget(["cheap"])
        #expect(memory.held([1]) == 0 && memory.leastWorth(["cheap", "old"], now: now) == ["cheap", "old"])
    }

    @Test(arguments: [
        ("1.5GB", 1_500_000_000), ("0B", 0), ("12.3kB", 12_300), ("7MB", 7_000_000), ("x", 0), ("", 0), ("2TB", 2_000_000_000_000),
    ])
    func sizesAreRead(_ text: String, _ bytes: Int64) { #expect(engineBytes(text) == bytes) }
}
