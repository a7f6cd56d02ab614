package import FarmModel

/// How fast a worker gets layers, as measured.
package struct LayerRates: Codable, Sendable, Hashable {
    /// Bytes of packed chunks that come from the farm in a second.
    package var fetch: Double
    /// Bytes of layers that the engine takes in in a second.
    package var load: Double

    /// What is assumed before anything was measured.
    package init(fetch: Double = 40e6, load: Double = 100e6) {
        self.fetch = fetch
        self.load = load
    }

    /// Takes a measurement into account, the newest for a third. Small ones say more of beginnings than of rates.
    package mutating func measured(fetched: Int64, seconds: Double) { LayerRates.mix(&fetch, fetched, seconds) }
    package mutating func measured(loaded: Int64, seconds: Double) { LayerRates.mix(&load, loaded, seconds) }

    private static func mix(_ rate: inout Double, _ bytes: Int64, _ seconds: Double) {
        guard bytes > 4 << 20, seconds > 0.001 else { return }
        rate = rate * 2 / 3 + min(10e9, Double(bytes) / seconds) / 3
    }
}

/// Which layers of the farm's a build takes before it begins: as many as cost less to bring than their steps cost to run.
package struct RestorePlan: Sendable, Hashable {
    /// So many of the build's first steps are there afterwards.
    package var count: Int
    /// Of these the engine has the layers of so many already, and needs no bytes of them.
    package var present: Int
    /// What is expected.
    package var restoreSeconds: Double
    package var rebuildSeconds: Double
    package var fetchBytes: Int64
    package var loadBytes: Int64

    /// What every restoration takes, however little it brings.
    private static let fixedSeconds = 1.0

    /// - Parameters:
    ///   - held: steps that the engine's builder is believed to have, from the first one on.
    ///   - present: layers of the set that the engine has, from the first one on.
    ///   - Returns: `nil` when nothing is worth bringing.
    package init?(_ set: LayerSet, held: Int, present: Int, rates: LayerRates) {
        var best: RestorePlan?
        var (fetch, load, rebuild): (Int64, Int64, Double) = (0, 0, 0)
        for (index, layer) in set.layers.enumerated() {
            if index >= present {
                fetch += layer.stored ?? layer.size
                load += layer.size
            }
            guard index >= held else { continue }
            rebuild += layer.seconds
            let restore = RestorePlan.fixedSeconds + Double(fetch) / rates.fetch + Double(load) / rates.load
            guard rebuild > restore, rebuild - restore > (best.map { $0.rebuildSeconds - $0.restoreSeconds } ?? 0) else { continue }
            best = RestorePlan(
                count: index + 1, present: min(present, index + 1), restoreSeconds: restore, rebuildSeconds: rebuild, fetchBytes: fetch,
                loadBytes: load)
        }
        guard let best else { return nil }
        self = best
    }

    private init(count: Int, present: Int, restoreSeconds: Double, rebuildSeconds: Double, fetchBytes: Int64, loadBytes: Int64) {
        self.count = count
        self.present = present
        self.restoreSeconds = restoreSeconds
        self.rebuildSeconds = rebuildSeconds
        self.fetchBytes = fetchBytes
        self.loadBytes = loadBytes
    }
}
