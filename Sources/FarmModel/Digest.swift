import Crypto

/// A SHA-256 digest (FIPS 180-4), the name of everything content-addressed in the farm.
///
/// Text form: 64 lower-case hexadecimal digits; in image references `sha256:` stands before them.
package struct Digest: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// Number of bytes in a digest.
    package static let byteCount = 32

    private let words: (UInt64, UInt64, UInt64, UInt64)

    /// Takes the 32 raw bytes of a digest; `nil` for any other count.
    package init?(bytes: some Collection<UInt8>) {
        let digest = bytes.withContiguousStorageIfAvailable { Digest(raw: UnsafeRawBufferPointer($0)) }
        guard let digest = digest ?? Array(bytes).withUnsafeBytes({ Digest(raw: $0) }) else { return nil }
        self = digest
    }

    private init?(raw bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Digest.byteCount else { return nil }
        func word(_ number: Int) -> UInt64 { UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8 * number, as: UInt64.self)) }
        words = (word(0), word(1), word(2), word(3))
    }

    /// Reads 64 hexadecimal digits, with or without `sha256:` before them; `nil` for anything else.
    package init?(_ text: some StringProtocol) {
        let digits = text.hasPrefix("sha256:") ? text.dropFirst(7)[...] : text[...]
        guard digits.utf8.count == 2 * Digest.byteCount else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Digest.byteCount)
        var high: UInt8?
        for digit in digits.utf8 {
            guard let value = Digest.value(ofHexDigit: digit) else { return nil }
            if let first = high {
                bytes.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        self.init(bytes: bytes)
    }

    /// Digests that stand one behind the other; a rest that is none is left out.
    package static func unpacked(_ bytes: [UInt8]) -> [Digest] {
        stride(from: 0, to: bytes.count - bytes.count % byteCount, by: byteCount).compactMap { Digest(bytes: bytes[$0..<$0 + byteCount]) }
    }

    /// The digest of `bytes`.
    package init(hashing bytes: some Collection<UInt8>) {
        var hasher = Hasher()
        hasher.update(bytes)
        self = hasher.finish()
    }

    /// The digest of a text's UTF-8 form.
    package init(hashing text: String) {
        self.init(hashing: Array(text.utf8))
    }

    /// The 32 raw bytes, first byte first.
    package var bytes: [UInt8] {
        [UInt8](unsafeUninitializedCapacity: Digest.byteCount) { buffer, count in
            withUnsafeBytes(of: (words.0.bigEndian, words.1.bigEndian, words.2.bigEndian, words.3.bigEndian)) {
                UnsafeMutableRawBufferPointer(buffer).copyMemory(from: $0)
            }
            count = Digest.byteCount
        }
    }

    /// The first eight bytes, for keys that may collide once in a long while.
    package var leading: UInt64 { words.0 }

    /// The eight bytes behind them.
    package var following: UInt64 { words.1 }

    /// 64 lower-case hexadecimal digits.
    package var hex: String { bytes.hex }

    /// The first twelve digits, for people.
    package var short: String { String(hex.prefix(12)) }

    package var description: String { hex }

    package static func == (left: Digest, right: Digest) -> Bool { left.words == right.words }
    package static func < (left: Digest, right: Digest) -> Bool { left.words < right.words }
    package func hash(into hasher: inout Swift.Hasher) { hasher.combine(words.0) }

    private static func value(ofHexDigit digit: UInt8) -> UInt8? {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
        default: nil
        }
    }

    /// Hashes bytes as they come.
    package struct Hasher: Sendable {
        private var state = SHA256()

        package init() {}

        /// Adds bytes.
        package mutating func update(_ bytes: some Collection<UInt8>) {
            if bytes.withContiguousStorageIfAvailable({ state.update(bufferPointer: UnsafeRawBufferPointer($0)) }) == nil {
                state.update(data: Array(bytes))
            }
        }

        /// Adds the bytes behind a pointer.
        package mutating func update(_ buffer: UnsafeRawBufferPointer) {
            state.update(bufferPointer: buffer)
        }

        /// The digest of all bytes so far.
        package func finish() -> Digest {
            guard let digest = state.finalize().withUnsafeBytes({ Digest(raw: $0) }) else {
                preconditionFailure("SHA-256 always gives 32 bytes")
            }
            return digest
        }
    }
}

extension Digest: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let digest = Digest(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" is no SHA-256 digest")
        }
        self = digest
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(hex)
    }
}

extension Sequence<UInt8> {
    /// Two lower-case hexadecimal digits for each byte.
    package var hex: String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        text.reserveCapacity(2 * underestimatedCount)
        for byte in self {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }
}
