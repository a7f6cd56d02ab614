import FarmModel
import Testing

@Suite struct LayerSummaryTests {
    private func identities(_ count: Int, from first: Int) -> [UInt64] {
        (first..<first + count).map { Digest(hashing: "step \($0)").leading >> 12 }
    }

    @Test(arguments: [0, 1, 5, 300, 8192]) func whatIsHeldIsNeverMissed(_ count: Int) throws {
        let held = identities(count, from: 0)
        let summary = LayerSummary(held)
        #expect(held.allSatisfy(summary.contains))
        #expect(summary.bytes.count <= LayerSummary.most && summary.bytes.count <= max(8, count * 4))
        let others = identities(20_000, from: 1_000_000)
        #expect(others.count(where: summary.contains) < 60, "more than three in a thousand are taken for held")
        #expect(LayerSummary(bytes: summary.bytes) == summary)
    }

    @Test func aSummaryOfNothingHoldsNothing() {
        #expect(identities(1000, from: 0).allSatisfy { !LayerSummary([]).contains($0) })
    }

    @Test(arguments: [0, 1, 7, 9, 24, 8 << 11 + 3]) func otherSizesAreRefused(_ count: Int) {
        #expect(LayerSummary(bytes: Array(repeating: 1, count: count)) == nil)
    }
}

@Suite struct LayerSetTests {
    /// Docker's classic builder leaves out layers that would be empty.
    @Test func stepsAreCountedByTheLayersThatTheyLeft() {
        func step(_ number: UInt64) -> LayerSet.Layer {
            LayerSet.Layer(identity: number, content: Digest(hashing: "\(number)"), size: 1, seconds: 1)
        }
        let set = LayerSet(
            recipe: "r", target: "t", architecture: "x86_64", base: [],
            layers: [step(1), .init(identity: 2, seconds: 0), step(3), .init(identity: 4, seconds: 0)], configuration: "{}",
            builder: "classic", madeAt: Timestamp(seconds: 0))
        #expect(set.isSound && set.solid.map(\.identity) == [1, 3])
        #expect((0...3).map { set.steps(withLayers: $0) } == [0, 2, 4, 4])
    }
}
