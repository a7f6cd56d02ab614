/// Which beginnings of builds a worker's engine is believed to hold, in little room: a Bloom filter (B. H. Bloom, Communications of the ACM
/// 13(7), 1970) of what their instructions stand for. One that is held is never missed; of others it takes one in a thousand for held.
package struct LayerSummary: Sendable, Hashable {
    /// As many as a power of two, each with 64 bits.
    private var words: [UInt64]

    /// Bytes that a summary has at most.
    package static let most = 16 << 10
    /// Bits that are set for each, and bits that there are for each at least.
    private static let (marks, room) = (7, 16)

    package init(_ identities: some Collection<UInt64>) {
        var count = 1
        while count * 64 < identities.count * LayerSummary.room, count * 8 < LayerSummary.most { count *= 2 }
        words = Array(repeating: 0, count: count)
        for identity in identities {
            for bit in places(of: identity) { words[bit / 64] |= 1 << UInt64(bit % 64) }
        }
    }

    /// Reads one; `nil` when it has no size that one can have.
    package init?(bytes: [UInt8]) {
        let count = bytes.count / 8
        guard bytes.count % 8 == 0, count > 0, count & (count - 1) == 0, bytes.count <= LayerSummary.most else { return nil }
        words = (0..<count).map { word in
            (0..<8).reduce(0) { $0 | UInt64(bytes[word * 8 + $1]) << UInt64($1 * 8) }
        }
    }

    /// Little-endian words.
    package var bytes: [UInt8] { words.flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) } } }

    package func contains(_ identity: UInt64) -> Bool {
        places(of: identity).allSatisfy { words[$0 / 64] & 1 << UInt64($0 % 64) != 0 }
    }

    /// Two hashes give as many places as are wanted (A. Kirsch, M. Mitzenmacher, ESA 2006).
    private func places(of identity: UInt64) -> [Int] {
        // The finish of SplitMix64, https://prng.di.unimi.it/splitmix64.c, so that every bit depends on all.
        var state = identity &+ 0x9e37_79b9_7f4a_7c15
        state = (state ^ state >> 30) &* 0xbf58_476d_1ce4_e5b9
        state = (state ^ state >> 27) &* 0x94d0_49bb_1331_11eb
        state ^= state >> 31
        let (first, second) = (state, state >> 32 | 1)
        let mask = UInt64(words.count * 64 - 1)
        return (0..<UInt64(LayerSummary.marks)).map { Int((first &+ $0 &* second) & mask) }
    }
}
