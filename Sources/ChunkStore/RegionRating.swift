/// How fast regions answer, learned from what they did: which one is asked next, and when another one is asked beside it.
///
/// A value without clocks: events go in with the seconds that they took.
package struct RegionRating: Sendable {
    private struct Measure: Sendable {
        /// Seconds until a small answer is there, and bytes a second beyond that; at first what a region on another continent gives.
        /// Regions that are better than that are not left for one that nobody knows.
        var latency = 1.0
        var rate = 20e6
        var reads = 0
        var inFlight: Int64 = 0
        var requests = 0
        /// Answers that told of the rate.
        var bulks = 0
        /// When it did not answer last, in seconds since 1970.
        var failed: Double?
    }

    private var measures: [Measure]
    /// Seconds for which a region that did not answer is asked last.
    private static let lateness: Double = 60
    /// Below this an answer tells of the latency alone.
    private static let small: Int64 = 64 << 10
    /// From this on it is worth a try how fast a region is that nobody knows.
    private static let bulk: Int64 = 1 << 20

    /// Seconds that every region gets.
    private let leastPatience: Double

    /// - Parameter regions: how many, in order of preference.
    package init(regions: Int, leastPatience: Double) {
        measures = [Measure](repeating: Measure(), count: regions)
        self.leastPatience = leastPatience
    }

    /// Seconds until an answer of so many bytes would be there.
    private func expected(_ region: Int, _ bytes: Int64) -> Double {
        let measure = measures[region]
        return measure.latency + Double(measure.inFlight + bytes) / measure.rate
    }

    /// Regions in the order in which they are asked for so many bytes. While much is under way elsewhere, one whose rate nobody knows is
    /// asked first, once: together they are faster than any of them.
    package func order(_ bytes: Int64, now: Double) -> [Int] {
        let isBusy = bytes >= RegionRating.bulk && measures.contains { $0.inFlight >= RegionRating.bulk }
        func isUntried(_ region: Int) -> Bool {
            isBusy && measures[region].bulks == 0 && measures[region].inFlight == 0 && measures[region].failed == nil
        }
        return measures.indices.sorted { left, right in
            let late = (isLate(left, now), isLate(right, now))
            if late.0 != late.1 { return late.1 }
            let untried = (isUntried(left), isUntried(right))
            if untried.0 != untried.1 { return untried.0 }
            let (a, b) = (expected(left, bytes), expected(right, bytes))
            return a != b ? a < b : left < right
        }
    }

    /// Whether a region did not answer lately.
    package func isLate(_ region: Int, _ now: Double) -> Bool { measures[region].failed.map { now - $0 < RegionRating.lateness } ?? false }

    /// Seconds after which another region is asked, too, for something that has begun.
    package func patience(_ region: Int) -> Double { max(leastPatience, 4 * expected(region, 0)) }

    /// So many bytes were asked for.
    package mutating func began(_ region: Int, _ bytes: Int64) {
        measures[region].inFlight += bytes
        measures[region].requests += 1
    }

    /// An answer is there, or nobody waits for it any more: then it would have taken longer than this.
    package mutating func ended(_ region: Int, _ bytes: Int64, seconds: Double, isWhole: Bool) {
        let others = Double(measures[region].requests)
        measures[region].inFlight -= bytes
        measures[region].requests -= 1
        guard seconds > 0 else { return }
        // The first answer counts whole, later ones by a quarter.
        let weight = measures[region].reads == 0 ? 1 : 0.25
        if bytes < RegionRating.small {
            if isWhole || seconds > measures[region].latency { measures[region].latency += weight * (seconds - measures[region].latency) }
        } else {
            measures[region].bulks += 1
            // Half of it at most was waiting.
            if isWhole { measures[region].latency = min(measures[region].latency, seconds / 2) }
            let sample = Double(bytes) * others / max(seconds - measures[region].latency, seconds / 4)
            if isWhole || sample < measures[region].rate {
                measures[region].rate += max(weight, isWhole ? 0 : 0.5) * (sample - measures[region].rate)
            }
        }
        measures[region].reads += 1
        if isWhole { measures[region].failed = nil }
    }

    /// It could not be asked.
    package mutating func failed(_ region: Int, now: Double) { measures[region].failed = now }

    /// Seconds that so many bytes take from all regions that answer, by what is known; `nil` before anything was read.
    package func seconds(for bytes: Int64, now: Double) -> Double? {
        let known = measures.indices.filter { measures[$0].reads > 0 && !isLate($0, now) }
        guard let fastest = known.map({ measures[$0].rate }).max(), let latency = known.map({ measures[$0].latency }).min() else {
            return nil
        }
        return bytes == 0 ? 0 : latency + Double(bytes) / fastest
    }
}
