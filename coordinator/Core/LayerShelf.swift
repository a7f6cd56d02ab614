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
    /// Each layer, and in how many sets it is.
    private var layers: [Digest: (layer: LayerSet.Layer, sets: Int)] = [:]

    /// Sets that stay of one recipe for one target. Those that differ in a small last step take up next to nothing, and would be without number.
    private static let mostOfOne = 8

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
        for (content, layer) in LayerShelf.distinct(kept.set) { layers[content] = (layer, (layers[content]?.sets ?? 0) + 1) }
    }

    private static func distinct(_ set: LayerSet) -> [Digest: LayerSet.Layer] {
        Dictionary(set.solid.map { ($0.content, $0) }) { first, _ in first }
    }

    package mutating func remove(_ name: String) {
        guard let gone = sets.removeValue(forKey: name) else { return }
        for layer in gone.set.layers {
            places[layer.identity]?.removeAll { $0.name == name }
            if places[layer.identity]?.isEmpty ?? false { places[layer.identity] = nil }
        }
        for content in LayerShelf.distinct(gone.set).keys {
            guard let known = layers[content] else { continue }
            layers[content] = known.sets > 1 ? (known.layer, known.sets - 1) : nil
        }
    }

    /// The longest beginning of a build that is kept, of several the one that was used last.
    ///
    /// - Parameter steps: what the steps stand for, each with all before it.
    ///   - isTrusted: whether a worker's layers may be used still; a set ends before the first that may not.
    package func beginning(
        of steps: [UInt64], architecture: String, builder: String = "", isTrusted: (String) -> Bool = { _ in true }
    ) -> (name: String, set: LayerSet)? {
        let builder = ["", "buildkit"].contains(builder) ? nil : builder
        for (count, step) in steps.enumerated().reversed() {
            let fitting = (places[step] ?? []).filter { place in
                place.index == count && sets[place.name].map { $0.set.architecture == architecture && $0.set.builder == builder } ?? false
            }
            let found = fitting.max { (sets[$0.name]?.usedAt ?? .init(seconds: 0)) < (sets[$1.name]?.usedAt ?? .init(seconds: 0)) }
            guard let found, let set = sets[found.name]?.set.prefix(count + 1) else { continue }
            let sound = set.layers.prefix { $0.worker.map(isTrusted) ?? true }.count
            return sound > 0 ? (found.name, set.prefix(sound)) : nil
        }
        return nil
    }

    /// A set has been of use.
    package mutating func used(_ name: String, now: Timestamp) {
        sets[name]?.usedAt = now
        sets[name]?.uses += 1
    }

    /// What is known of a layer, by its content.
    package func layer(_ content: Digest) -> LayerSet.Layer? { layers[content]?.layer }

    /// All layers that some set has, by content.
    package var contents: Set<Digest> { Set(layers.keys) }

    /// Bytes that all layers take up, each counted once.
    package var storedBytes: Int64 { layers.values.reduce(0) { $0 + ($1.layer.stored ?? $1.layer.size) } }

    /// Sets that have to go so that no more than `limit` bytes stay, in this order: of each recipe and target those beyond the eight that were
    /// of use last; then those of least worth for a byte, which is the time that their layers spare, halved with every two weeks without use,
    /// by the bytes of these, what several sets have counting for each in part.
    package func excess(over limit: Int64, now: Timestamp) -> [String] {
        var users = layers.mapValues(\.sets)
        var left = storedBytes
        var rest = sets
        var gone: [String] = []
        func bytes(_ layer: LayerSet.Layer) -> Int64 { layer.stored ?? layer.size }
        func drop(_ name: String) {
            guard let kept = rest.removeValue(forKey: name) else { return }
            for (content, layer) in LayerShelf.distinct(kept.set) {
                users[content, default: 1] -= 1
                if users[content] == 0 { left -= bytes(layer) }
            }
            gone.append(name)
        }
        for group in Dictionary(grouping: sets, by: { "\($0.value.set.recipe)\n\($0.value.set.target)" }).values {
            let aged = group.sorted { ($0.value.usedAt, $0.key) > ($1.value.usedAt, $1.key) }
            for (name, _) in aged.dropFirst(LayerShelf.mostOfOne) { drop(name) }
        }
        func worth(_ kept: Kept) -> Double {
            let weeks = max(0, now.seconds(since: kept.usedAt)) / (14 * 86400)
            var chance = 1 + Double(kept.uses)
            for _ in 0..<min(40, Int(weeks)) { chance /= 2 }
            let own = LayerShelf.distinct(kept.set).values.reduce((bytes: 0.0, seconds: 0.0)) { sum, layer in
                let share = Double(max(1, users[layer.content] ?? 1))
                return (sum.bytes + Double(bytes(layer)) / share, sum.seconds + layer.seconds / share)
            }
            return (own.seconds + 1) * chance / max(1, own.bytes)
        }
        while left > limit, let least = rest.map({ (worth($0.value), $0.key) }).min(by: <) { drop(least.1) }
        return gone
    }
}
