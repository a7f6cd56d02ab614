import CoordinatorCore
import FarmModel
import Support
import Testing

@Suite struct LayerShelfTests {
    private func set(_ steps: [UInt64], seconds: Double = 10, size: Int64 = 100, architecture: String = "x86_64", salt: String = "")
        -> LayerSet
    {
        let layers = steps.map { step in
            var layer = LayerSet.Layer(
                identity: step, content: Digest(hashing: "layer \(step)\(salt)"), size: size, seconds: seconds)
            layer.stored = size / 2
            return layer
        }
        return LayerSet(
            recipe: "r", target: "t", architecture: architecture, base: [Digest(hashing: "base")], layers: layers, configuration: "{}",
            madeAt: Timestamp(seconds: 0))
    }

    private func shelf(_ sets: [LayerSet]) -> LayerShelf {
        var shelf = LayerShelf()
        for (index, set) in sets.enumerated() { shelf.put(.init(set: set, usedAt: Timestamp(seconds: Int64(index)))) }
        return shelf
    }

    @Test func theLongestBeginningIsOffered() throws {
        let shelf = shelf([set([1, 2, 3]), set([1, 2, 4, 5]), set([7, 8], architecture: "aarch64")])
        func offered(_ steps: [UInt64], _ architecture: String = "x86_64") -> [UInt64]? {
            shelf.beginning(of: steps, architecture: architecture)?.set.layers.map(\.identity)
        }
        #expect(offered([1, 2, 3]) == [1, 2, 3])
        #expect(offered([1, 2, 4, 6]) == [1, 2, 4])
        #expect(offered([1, 2, 9]) == [1, 2])
        #expect(offered([1]) == [1])
        #expect(offered([9, 2, 3]) == [9, 2, 3] || offered([9]) == nil, "identities stand for all that comes before them")
        #expect(offered([]) == nil && offered([9]) == nil)
        #expect(offered([7, 8]) == nil && offered([7, 8], "aarch64") == [7, 8])
        // Of two that have it the one that was used last; the same build again takes the place of its former self.
        #expect(shelf.beginning(of: [1, 2], architecture: "x86_64")?.name == LayerShelf.name(of: set([1, 2, 4, 5])))
        var again = shelf
        again.put(.init(set: set([1, 2, 3], salt: "anew"), usedAt: Timestamp(seconds: 9)))
        #expect(again.sets.count == 3)
        #expect(again.beginning(of: [1, 2, 3], architecture: "x86_64")?.set.layers[0].content == Digest(hashing: "layer 1anew"))
        #expect(again.layer(Digest(hashing: "layer 3")) == nil && again.layer(Digest(hashing: "layer 4"))?.identity == 4)
        again.remove(LayerShelf.name(of: set([1, 2, 3])))
        #expect(again.beginning(of: [1, 2, 3], architecture: "x86_64")?.set.layers.map(\.identity) == [1, 2])
    }

    @Test func whatIsWorthLeastGoesFirst() {
        let now = Timestamp(seconds: 10 * 86400)
        // Cheap to make anew, dear to make anew, long unused, and one that shares all it has.
        let (cheap, dear, old) = (set([1], seconds: 1), set([2], seconds: 1000), set([3], seconds: 100))
        var shelf = LayerShelf()
        shelf.put(.init(set: cheap, usedAt: now))
        shelf.put(.init(set: dear, usedAt: now))
        shelf.put(.init(set: old, usedAt: now.adding(seconds: -400 * 86400)))
        #expect(shelf.storedBytes == 150)
        #expect(shelf.excess(over: 150, now: now).isEmpty)
        #expect(shelf.excess(over: 100, now: now) == [LayerShelf.name(of: old)])
        #expect(shelf.excess(over: 50, now: now) == [old, cheap].map(LayerShelf.name))
        #expect(shelf.excess(over: 0, now: now) == [old, cheap, dear].map(LayerShelf.name))
        // A layer of two sets is counted once, and goes with the last of them.
        shelf.put(.init(set: set([2, 4], seconds: 1000), usedAt: now))
        #expect(shelf.storedBytes == 200)
        for _ in 0..<9 { shelf.used(LayerShelf.name(of: cheap), now: now) }
        #expect(shelf.excess(over: 100, now: now).count == 2)
    }

    /// Builds that differ in a small last step leave sets that take up nothing: their number is bounded all the same.
    @Test func oneRecipeDoesNotFillTheShelf() {
        var shelf = LayerShelf()
        let sets = (0..<12).map { set([1, 100 + UInt64($0)]) }
        for (age, set) in sets.enumerated() { shelf.put(.init(set: set, usedAt: Timestamp(seconds: Int64(age)))) }
        let gone = shelf.excess(over: .max, now: Timestamp(seconds: 100))
        #expect(Set(gone) == Set(sets.prefix(4).map(LayerShelf.name)))
        for name in gone { shelf.remove(name) }
        #expect(shelf.layer(Digest(hashing: "layer 1")) != nil && shelf.layer(Digest(hashing: "layer 100")) == nil)
        #expect(shelf.contents.count == 9 && shelf.storedBytes == 450)
    }

    /// What a worker brought that is trusted no more is offered to nobody, nor what stands upon it.
    @Test func layersOfARevokedWorkerAreNotOffered() {
        var made = set([1, 2, 3])
        (made.layers[0].worker, made.layers[1].worker, made.layers[2].worker) = ("good", "bad", "good")
        let shelf = shelf([made])
        func offered(_ isTrusted: (String) -> Bool) -> [UInt64]? {
            shelf.beginning(of: [1, 2, 3], architecture: "x86_64", isTrusted: isTrusted)?.set.layers.map(\.identity)
        }
        #expect(offered { _ in true } == [1, 2, 3])
        #expect(offered { $0 != "bad" } == [1])
        #expect(offered { $0 != "good" } == nil)
    }

    /// Sets of one builder mean nothing to another.
    @Test func buildersKeepTheirOwnSets() {
        var classic = set([1, 2])
        classic.builder = "classic"
        let shelf = shelf([classic, set([1])])
        func offered(_ builder: String) -> Int {
            shelf.beginning(of: [1, 2], architecture: "x86_64", builder: builder)?.set.layers.count ?? 0
        }
        #expect(offered("classic") == 2 && offered("buildkit") == 1 && offered("") == 1 && offered("buildah") == 0)
    }

    /// Whatever is put there and taken away: what is offered is a beginning of what was asked for, of a set that is there.
    @Test func offersAreAlwaysTrue() {
        var random = SeededGenerator(7)
        var shelf = LayerShelf()
        var names: [String] = []
        for round in 0..<400 {
            // Builds with common beginnings: a step's number tells all before it.
            var (steps, state): ([UInt64], UInt64) = ([], 1)
            for _ in 0..<Int.random(in: 1...5, using: &random) {
                state = state * 3 + UInt64.random(in: 0...1, using: &random)
                steps.append(state)
            }
            if Bool.random(using: &random) {
                let made = set(steps, salt: "\(round)")
                shelf.put(.init(set: made, usedAt: Timestamp(seconds: Int64(round))))
                names.append(LayerShelf.name(of: made))
            } else if let name = names.randomElement(using: &random) {
                shelf.remove(name)
            }
            if let offer = shelf.beginning(of: steps, architecture: "x86_64") {
                #expect(steps.starts(with: offer.set.layers.map(\.identity)))
                #expect(shelf.sets[offer.name]?.set.layers.starts(with: offer.set.layers) == true)
            } else {
                #expect(!shelf.sets.values.contains { $0.set.layers.first?.identity == steps[0] })
            }
        }
    }
}
