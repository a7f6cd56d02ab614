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
/// A value of no I/O: bytes go in, chunk ends come out.
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

    /// The length of the chunk that begins at `start`, or `nil` when more bytes are needed to tell.
    ///
    /// - Parameters:
    ///   - bytes: the data, from wherever it begins in memory.
    ///   - start: where the chunk begins in `bytes`.
    ///   - isLast: whether the data ends with `bytes`.
    package func length(in bytes: UnsafeRawBufferPointer, from start: Int, isLast: Bool) -> Int? {
        let available = bytes.count - start
        if available <= 0 { return nil }
        if available < parameters.maximum && !isLast { return nil }
        let end = min(available, parameters.maximum)
        if end <= parameters.minimum { return end }
        let base = UnsafeRawBufferPointer(rebasing: bytes[start..<start + end])
        return table.withUnsafeBufferPointer { gear in scan(base, gear) }
    }

    private func scan(_ bytes: UnsafeRawBufferPointer, _ gear: UnsafeBufferPointer<UInt64>) -> Int {
        var hash: UInt64 = 0
        var index = parameters.minimum - Chunker.window
        // The hash at the first possible cut depends on the window before it only.
        while index < parameters.minimum {
            hash = (hash &<< 1) &+ gear[Int(bytes[index])]
            index += 1
        }
        let normal = min(parameters.average, bytes.count)
        while index < normal {
            if hash & strict == 0 { return index }
            hash = (hash &<< 1) &+ gear[Int(bytes[index])]
            index += 1
        }
        while index < bytes.count {
            if hash & loose == 0 { return index }
            hash = (hash &<< 1) &+ gear[Int(bytes[index])]
            index += 1
        }
        return bytes.count
    }

    /// The 256 gear values: the first 8 bytes, big-endian, of SHA-256 over `sciferry gear 1 ` and the byte's decimal
    /// number.
    package static let gear: [UInt64] = (0..<256).map { number in
        Digest(hashing: "sciferry gear 1 \(number)").bytes.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    }
}
