import FarmModel

/// The fields of binary objects: numbers are big-endian.
enum ByteFields {
    /// The number in `bytes` bytes from `start`, which must be there.
    static func number(_ raw: UnsafeRawBufferPointer, at start: Int, bytes: Int) -> Int {
        var value = 0
        for byte in raw[start..<start + bytes] { value = value << 8 | Int(byte) }
        return value
    }

    /// The digest at `start`, where 32 bytes must be.
    static func digest(_ raw: UnsafeRawBufferPointer, at start: Int) -> Digest {
        guard let digest = Digest(bytes: UnsafeRawBufferPointer(rebasing: raw[start..<start + Digest.byteCount])) else {
            preconditionFailure("32 bytes are a digest")
        }
        return digest
    }
}

extension [UInt8] {
    /// Appends a number that fits in `bytes` bytes.
    mutating func append(number: Int, bytes: Int) {
        for shift in stride(from: 8 * (bytes - 1), through: 0, by: -8) { append(UInt8(truncatingIfNeeded: number >> shift)) }
    }
}
