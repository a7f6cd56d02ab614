import Crypto

/// MD5 (RFC 1321), as object stores tag and check content. It guards against accidents only; what must resist forgers has a SHA-256.
package struct MD5: Sendable {
    private var hasher = Insecure.MD5()

    package init() {}

    package mutating func update(_ bytes: UnsafeRawBufferPointer) { hasher.update(bufferPointer: bytes) }

    /// The 16 bytes of the digest.
    package func finish() -> [UInt8] { Array(hasher.finalize()) }

    /// The digest of bytes that are there.
    package static func of(_ bytes: [UInt8]) -> [UInt8] {
        var hasher = MD5()
        bytes.withUnsafeBytes { hasher.update($0) }
        return hasher.finish()
    }
}
