import FarmModel

/// Sizes that decide where content-defined cuts fall. They are written into the store and into every manifest.
package struct ChunkerParameters: Codable, Sendable, Hashable {
    package var minimum: Int
    package var average: Int
    package var maximum: Int

    /// 16, 64 and 256 KiB.
    package static let standard = ChunkerParameters(minimum: 16 << 10, average: 64 << 10, maximum: 256 << 10)

    /// `average` must be a power of two with minimum < average < maximum.
    package init(minimum: Int, average: Int, maximum: Int) {
        self.minimum = minimum
        self.average = average
        self.maximum = maximum
    }

    /// Throws `chunk.parameters` for sizes that no chunker of ours makes.
    package func check() throws {
        let bits = average > 0 ? average.trailingZeroBitCount : 0
        guard average > 0, average == 1 << bits, bits >= 8, bits <= 30, minimum >= Chunker.window, minimum < average,
            average < maximum, maximum <= 1 << 30
        else { throw FarmError("chunk.parameters", .invalid, "chunk sizes \(minimum)/\(average)/\(maximum) make no sense") }
    }
}

/// Content-defined cuts: a gear hash over the last 64 bytes, with FastCDC's normalised masks (Xia et al., USENIX ATC
/// 2016). `docs/formats/chunk-store.md` is normative.
///
/// A value of no I/O: bytes go in, chunk lengths come out.
package struct Chunker: Sendable {
    /// The hash shifts by one bit a byte, so 64 bytes decide it.
    package static let window = 64

    private let parameters: ChunkerParameters
    /// Before the average size a cut needs two more zero bits, behind it two fewer.
    private let strict: UInt64
    private let loose: UInt64
    private let table: [UInt64]

    package init(_ parameters: ChunkerParameters) throws {
        try parameters.check()
        self.parameters = parameters
        let bits = parameters.average.trailingZeroBitCount
        strict = Chunker.mask(bits + 2)
        loose = Chunker.mask(bits - 2)
        table = Chunker.gear
    }

    /// The top `bits` bits; a mask of more bits covers one of fewer.
    private static func mask(_ bits: Int) -> UInt64 { ~UInt64(0) << UInt64(64 - bits) }

    /// The lengths of all chunks of data that begins where a chunk does.
    ///
    /// - Parameters:
    ///   - bytes: the data.
    ///   - isLast: whether the file ends with `bytes`; otherwise a last chunk that may go on is left out.
    package func lengths(in bytes: UnsafeRawBufferPointer, isLast: Bool) -> [Int] {
        let candidates = candidates(in: bytes)
        var lengths: [Int] = []
        var (start, next) = (0, 0)
        while start < bytes.count {
            let available = bytes.count - start
            if available < parameters.maximum && !isLast { break }
            let end = start + min(available, parameters.maximum)
            while next < candidates.count, candidates[next].position < start + parameters.minimum { next += 1 }
            var (cut, look) = (end, next)
            while look < candidates.count, candidates[look].position < end {
                let candidate = candidates[look]
                if candidate.isStrict || candidate.position - start >= parameters.average {
                    cut = candidate.position
                    break
                }
                look += 1
            }
            lengths.append(cut - start)
            start = cut
        }
        return lengths
    }

    /// A place where a chunk may end, if it is long enough.
    private struct Candidate {
        /// The strict mask's bit, and the position above it.
        let packed: UInt64

        init(_ position: Int, _ isStrict: Bool) { packed = UInt64(position) << 1 | (isStrict ? 1 : 0) }

        var position: Int { Int(packed >> 1) }
        var isStrict: Bool { packed & 1 == 1 }
    }

    /// All positions where the loose mask is met, in order. Whether one is depends on the 64 bytes before it alone, so four lanes look at
    /// once: a single one waits for its own additions most of the time.
    private func candidates(in bytes: UnsafeRawBufferPointer) -> [Candidate] {
        guard bytes.count > Chunker.window, let data = bytes.assumingMemoryBound(to: UInt8.self).baseAddress else { return [] }
        return table.withUnsafeBufferPointer { table in
            guard let gear = table.baseAddress else { return [] }
            return Chunker.candidates(data, bytes.count, gear, strict, loose)
        }
    }

    private static func candidates(
        _ data: UnsafePointer<UInt8>, _ count: Int, _ gear: UnsafePointer<UInt64>, _ strict: UInt64, _ loose: UInt64
    ) -> [Candidate] {
        let (first, lane) = (window, (count - window) / 4)
        var found: [[Candidate]] = [[], [], [], []]
        let (atA, atB, atC, atD) = (data + first, data + first + lane, data + first + 2 * lane, data + first + 3 * lane)
        var (a, b, c, d) = (warmed(atA, gear), warmed(atB, gear), warmed(atC, gear), warmed(atD, gear))
        var index = 0
        while index < lane {
            // One branch, which is hardly ever taken, for all four.
            if a & loose == 0 || b & loose == 0 || c & loose == 0 || d & loose == 0 {
                note(&found, first + index, lane, [a, b, c, d], strict, loose)
            }
            a = (a &<< 1) &+ gear[Int(atA[index])]
            b = (b &<< 1) &+ gear[Int(atB[index])]
            c = (c &<< 1) &+ gear[Int(atC[index])]
            d = (d &<< 1) &+ gear[Int(atD[index])]
            index &+= 1
        }
        for position in first + 4 * lane..<count {
            if d & loose == 0 { found[3].append(Candidate(position, d & strict == 0)) }
            d = (d &<< 1) &+ gear[Int(data[position])]
        }
        return Array(found.joined())
    }

    /// The hash over the window before a place.
    private static func warmed(_ place: UnsafePointer<UInt8>, _ gear: UnsafePointer<UInt64>) -> UInt64 {
        var hash: UInt64 = 0
        for index in -window..<0 { hash = (hash &<< 1) &+ gear[Int(place[index])] }
        return hash
    }

    @inline(never)
    private static func note(
        _ found: inout [[Candidate]], _ position: Int, _ lane: Int, _ hashes: [UInt64], _ strict: UInt64, _ loose: UInt64
    ) {
        for (number, hash) in hashes.enumerated() where hash & loose == 0 {
            found[number].append(Candidate(position + number * lane, hash & strict == 0))
        }
    }

    /// The 256 gear values: the first 8 bytes, big-endian, of SHA-256 over `sciferry gear 1 ` and the byte's decimal
    /// number.
    package static let gear: [UInt64] = (0..<256).map { number in
        Digest(hashing: "sciferry gear 1 \(number)").bytes.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    }
}
