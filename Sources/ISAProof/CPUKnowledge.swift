/// What a file knows of the CPU: where it keeps it and which functions tell it.
struct CPUKnowledge {
    /// What a function does for those that call it.
    struct Summary: Equatable {
        /// Registers in which it gives information about the CPU, and those with consequences of such.
        var tells: UInt16 = 0
        var hints: UInt16 = 0
        /// Gives a pointer to such information.
        var tellsWhere = false
        /// Where it writes such information from the places on to which its parameters point.
        var fills: [UInt8: ByteSet] = [:]
        /// Where it writes such information in the caller's frame, by distance from its own return address, as Go does.
        var returns: Set<Int64> = []
        /// Over how many others it has what it gives.
        var depth = 0

        var isEmpty: Bool { tells == 0 && hints == 0 && !tellsWhere && fills.isEmpty && returns.isEmpty }
    }

    var summaries: [Int: Summary] = [:]
    /// Bytes of the file's memory that hold information about the CPU.
    var memory = ByteSet()
    /// Bytes that were written only where such information led.
    var consequences = ByteSet()
    /// Pieces of data that were filled as a whole.
    var pieces: Set<Int> = []
    /// What other files tell, by place in the dynamic symbols.
    var importedFunctions: [Int: Summary] = [:]
    /// Registers that hold information about the CPU when a function begins.
    var entries: [Int: UInt16] = [:]
    var importedMemory: [Int: ByteSet] = [:]
    var importedConsequences: [Int: ByteSet] = [:]
}

/// Bytes of memory by address.
struct ByteSet: Equatable {
    /// A bit for each byte of an aligned word.
    private var words: [UInt64: UInt8] = [:]

    mutating func insert(_ address: UInt64, width: UInt8) {
        for byte in 0..<UInt64(max(1, width)) { words[(address &+ byte) >> 3, default: 0] |= 1 << UInt8((address &+ byte) & 7) }
    }

    /// Whether any of the bytes is there.
    func contains(_ address: UInt64, width: UInt8) -> Bool {
        guard !words.isEmpty else { return false }
        for word in (address >> 3)...max(address >> 3, (address &+ UInt64(max(1, width)) &- 1) >> 3) {
            guard let bits = words[word] else { continue }
            for bit in 0..<UInt64(8) where bits >> UInt8(bit) & 1 == 1 && (word << 3 | bit) &- address < UInt64(max(1, width)) {
                return true
            }
        }
        return false
    }

    mutating func formUnion(_ other: ByteSet) { words.merge(other.words) { $0 | $1 } }

    func union(_ other: ByteSet) -> ByteSet {
        var result = self
        result.formUnion(other)
        return result
    }

    func subtracting(_ other: ByteSet) -> ByteSet {
        var result = self
        for (word, bits) in other.words {
            guard let own = result.words[word] else { continue }
            result.words[word] = own & ~bits == 0 ? nil : own & ~bits
        }
        return result
    }

    var isEmpty: Bool { words.isEmpty }

    /// The part that lies in a range, counted from its start.
    func part(_ start: UInt64, _ count: UInt64) -> ByteSet {
        var result = ByteSet()
        for (word, bits) in words where word << 3 &+ 7 >= start && word << 3 < start &+ count {
            for bit in 0..<UInt64(8) where bits >> UInt8(bit) & 1 == 1 && (word << 3 | bit) &- start < count {
                result.insert((word << 3 | bit) &- start, width: 1)
            }
        }
        return result
    }

    /// All addresses.
    var bytes: [UInt64] {
        words.flatMap { word, bits in (0..<UInt64(8)).filter { bits >> UInt8($0) & 1 == 1 }.map { word << 3 | $0 } }
    }

    /// One address in every word of which something is there.
    var addresses: [UInt64] { words.keys.map { $0 << 3 | UInt64(words[$0]?.trailingZeroBitCount ?? 0) } }
}
