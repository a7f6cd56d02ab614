package import FarmModel

/// Which layers the farm keeps, as a value: sets are put there, offers are read off, and what is worth least goes first.
package struct LayerShelf: Sendable {
    /// A set in the store.
    package struct Kept: Codable, Sendable, Hashable {
        package var set: LayerSet
        /// When it was made, or last of use.
        package var usedAt: Timestamp
        package var uses: Int

        package init(set: LayerSet, usedAt: Timestamp, uses: Int = 0) {
            self.set = set
            self.usedAt = usedAt
            self.uses = uses
        }
    }

    package private(set) var sets: [String: Kept] = [:]
    /// Where each step's layer stands: in which sets, and at which place.
    private var places: [UInt64: [(name: String, index: Int)]] = [:]

    package init() {}

    /// The name of a set: equal for builds whose steps are the same.
    package static func name(of set: LayerSet) -> String {
        Digest(
            hashing: "\(set.architecture) \(set.builder.map { $0 + " " } ?? "")"
                + set.layers.map { "\($0.identity)" }.joined(separator: " ")
        ).hex
    }

    /// Puts a set there, or in the place of the one with the same steps.
    package mutating func put(_ kept: Kept) {
        let name = LayerShelf.name(of: kept.set)
        remove(name)
        sets[name] = kept
        for (index, layer) in kept.set.layers.enumerated() { places[layer.identity, default: []].append((name, index)) }
    }

    package mutating func remove(_ name: String) {
        guard let gone = sets.removeValue(forKey: name) else { return }
        for layer in gone.set.layers {
            places[layer.identity]?.removeAll { $0.name == name }
            if places[layer.identity]?.isEmpty ?? false { places[layer.identity] = nil }
        }
    }

    /// The longest beginning of a build that is kept, of several the one that was used last.
    ///
    /// - Parameter steps: what the steps stand for, each with all before it.
    package func beginning(of steps: [UInt64], architecture: String, builder: String = "") -> (name: String, set: LayerSet)? {
        let builder = ["", "buildkit"].contains(builder) ? nil : builder
        for (count, step) in steps.enumerated().reversed() {
            let fitting = (places[step] ?? []).filter { place in
                place.index == count && sets[place.name].map { $0.set.architecture == architecture && $0.set.builder == builder } ?? false
            }
            let found = fitting.max { (sets[$0.name]?.usedAt ?? .init(seconds: 0)) < (sets[$1.name]?.usedAt ?? .init(seconds: 0)) }
            if let found, let set = sets[found.name]?.set { return (found.name, set.prefix(count + 1)) }
        }
        return nil
    }

    /// A set has been of use.
    package mutating func used(_ name: String, now: Timestamp) {
        sets[name]?.usedAt = now
        sets[name]?.uses += 1
    }

    /// What is known of a layer, by its content.
    package func layer(_ content: Digest) -> LayerSet.Layer? {
        for kept in sets.values { if let layer = kept.set.solid.first(where: { $0.content == content }) { return layer } }
        return nil
    }

    /// All layers that some set has, by content.
    package var contents: Set<Digest> { Set(sets.values.flatMap { $0.set.layers.map(\.content) }) }

    /// Bytes that all layers take up, each counted once.
    package var storedBytes: Int64 {
        var sizes: [Digest: Int64] = [:]
        for layer in sets.values.flatMap(\.set.layers) { sizes[layer.content] = layer.stored ?? layer.size }
        return sizes.values.reduce(0, +)
    }

    /// Sets that have to go so that no more than `limit` bytes stay, in this order: those of least worth for a byte, which is the time that
    /// their own layers spare, halved with every two weeks without use, by the bytes that nobody else needs.
    package func excess(over limit: Int64, now: Timestamp) -> [String] {
        var users: [Digest: Int] = [:]
        for kept in sets.values { for layer in Set(kept.set.layers.map(\.content)) { users[layer, default: 0] += 1 } }
        var left = storedBytes
        var rest = sets
        var gone: [String] = []
        while left > limit, !rest.isEmpty {
            func own(_ kept: Kept) -> (bytes: Int64, seconds: Double) {
                kept.set.layers.reduce((0, 0)) { sum, layer in
                    users[layer.content] == 1 ? (sum.0 + (layer.stored ?? layer.size), sum.1 + layer.seconds) : sum
                }
            }
            func worth(_ kept: Kept) -> Double {
                let (bytes, seconds) = own(kept)
                let weeks = max(0, now.seconds(since: kept.usedAt)) / (14 * 86400)
                var chance = 1 + Double(kept.uses)
                for _ in 0..<min(40, Int(weeks)) { chance /= 2 }
                // One that needs nothing of its own costs nothing.
                return bytes == 0 ? .infinity : (seconds + 1) * chance / Double(bytes)
            }
            let ranked = rest.map { (name: $0.key, worth: worth($0.value)) }
            guard let least = ranked.min(by: { ($0.worth, $0.name) < ($1.worth, $1.name) }), let kept = rest.removeValue(forKey: least.name)
            else { break }
            left -= own(kept).bytes
            for layer in Set(kept.set.layers.map(\.content)) { users[layer, default: 1] -= 1 }
            gone.append(least.name)
        }
        return gone
    }
}
