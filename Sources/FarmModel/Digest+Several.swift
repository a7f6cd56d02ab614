import CDigests

extension Digest {
    private static let isSideBySide = sciferry_sha256_is_offered() != 0

    /// The digests of several arrays.
    package static func several(borrowing arrays: [[UInt8]]) -> [Digest] {
        // Not all of them at once: holding one more takes room on the stack.
        stride(from: 0, to: arrays.count, by: 32).flatMap { start in
            var pieces: [UnsafeRawBufferPointer] = []
            return hold(arrays[start..<min(start + 32, arrays.count)], &pieces)
        }
    }

    /// Goes down array by array, so that the bytes of all stay where they are.
    private static func hold(_ arrays: ArraySlice<[UInt8]>, _ pieces: inout [UnsafeRawBufferPointer]) -> [Digest] {
        guard let first = arrays.first else { return several(pieces) }
        return first.withUnsafeBytes { raw in
            pieces.append(raw)
            return hold(arrays.dropFirst(), &pieces)
        }
    }

    /// The digests of several pieces of data, two side by side where the CPU can: a quarter faster than one after the other.
    package static func several(_ pieces: [UnsafeRawBufferPointer]) -> [Digest] {
        guard isSideBySide, pieces.count > 1 else { return pieces.map { Digest(hashing: $0) } }
        let addresses = pieces.map { $0.baseAddress?.assumingMemoryBound(to: UInt8.self) }
        let lengths = pieces.map(\.count)
        let digests = [UInt8](unsafeUninitializedCapacity: pieces.count * byteCount) { buffer, filled in
            sciferry_sha256_several(addresses, lengths, pieces.count, buffer.baseAddress)
            filled = pieces.count * byteCount
        }
        return pieces.indices.map { number in
            Digest(bytes: digests[number * byteCount..<(number + 1) * byteCount]) ?? Digest(hashing: pieces[number])
        }
    }
}
