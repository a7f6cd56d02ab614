import Crypto
import CryptoExtras
import FarmModel
import Foundation
import SystemIO

/// Keys in files as OpenSSL and the farm write them.
package enum KeyFile {
    /// The fixed part of an Ed25519 private key in PKCS #8 (RFC 8410, section 7) and of a public one (section 4).
    private static let privatePrefix: [UInt8] = [0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20]
    private static let publicPrefix: [UInt8] = [0x30, 0x2A, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 3, 0x21, 0]

    /// A private Ed25519 key: PEM, or the farm's own form, base64 of 32 bytes. Throws `attestation.key`.
    package static func signing(_ path: String) throws -> SigningKey {
        let text = try read(path)
        guard let der = body(text, "PRIVATE KEY") else { return try SigningKey(file: path) }
        guard der.count == 48, der.starts(with: privatePrefix) else {
            throw FarmError(
                "attestation.key", .invalid, "\(path) holds no Ed25519 key without a passphrase",
                hint: "openssl genpkey -algorithm ed25519 makes one")
        }
        return try SigningKey(bytes: Array(der.dropFirst(16)))
    }

    /// A public key: Ed25519, ECDSA over P-256 or P-384, or RSA in PEM; Ed25519 also as base64 of 32 bytes. Throws `attestation.key`.
    package static func verifying(_ path: String) throws -> any ImageVerifier {
        let text = try read(path)
        guard let der = body(text, "PUBLIC KEY") else {
            return try VerifyingKey(text: text.trimmingCharacters(in: .whitespacesAndNewlines))
        }
        if der.count == 44, der.starts(with: publicPrefix) { return try VerifyingKey(text: Data(der.dropFirst(12)).base64EncodedString()) }
        if let key = try? P256.Signing.PublicKey(derRepresentation: der) { return ForeignKey(key: .p256(key)) }
        if let key = try? P384.Signing.PublicKey(derRepresentation: der) { return ForeignKey(key: .p384(key)) }
        if let key = try? _RSA.Signing.PublicKey(derRepresentation: der) { return ForeignKey(key: .rsa(key)) }
        throw FarmError("attestation.key", .invalid, "\(path) holds a public key of a kind that is not known here")
    }

    private static func read(_ path: String) throws -> String { String(decoding: try Disk.read(path, limit: 1 << 16), as: UTF8.self) }

    /// What stands between the lines of PEM.
    private static func body(_ text: String, _ label: String) -> [UInt8]? {
        guard let begin = text.range(of: "-----BEGIN \(label)-----"), let end = text.range(of: "-----END \(label)-----"),
            begin.upperBound <= end.lowerBound
        else { return nil }
        return Data(base64Encoded: String(text[begin.upperBound..<end.lowerBound]), options: .ignoreUnknownCharacters).map(Array.init)
    }
}

extension VerifyingKey {
    /// In PEM, as `singularity verify --key` wants it.
    package var pem: String {
        let der = [0x30, 0x2A, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 3, 0x21, 0] + (Data(base64Encoded: text) ?? Data())
        return "-----BEGIN PUBLIC KEY-----\n\(Data(der).base64EncodedString())\n-----END PUBLIC KEY-----\n"
    }

    /// The digest of the key as SSH writes it (RFC 4253, section 6.6; RFC 8709), which signatures of images name it by.
    package var shellKeyID: String {
        func field(_ bytes: [UInt8]) -> [UInt8] { [0, 0, 0, UInt8(bytes.count)] + bytes }
        let wire = field(Array("ssh-ed25519".utf8)) + field(Array(Data(base64Encoded: text) ?? Data()))
        let digest = Data(Digest(hashing: wire).bytes).base64EncodedString()
        return "SHA256:" + digest.prefix { $0 != "=" }
    }
}

/// A key of the kinds that others sign with; the digest is SHA-256 for all of them.
private struct ForeignKey: ImageVerifier {
    enum Key {
        case p256(P256.Signing.PublicKey)
        case p384(P384.Signing.PublicKey)
        case rsa(_RSA.Signing.PublicKey)
    }
    let key: Key

    func accepts(_ signature: [UInt8], for bytes: [UInt8]) -> Bool {
        let digest = SHA256.hash(data: Data(bytes))
        switch key {
        case .p256(let key):
            return (try? P256.Signing.ECDSASignature(derRepresentation: signature)).map { key.isValidSignature($0, for: digest) } ?? false
        case .p384(let key):
            return (try? P384.Signing.ECDSASignature(derRepresentation: signature)).map { key.isValidSignature($0, for: digest) } ?? false
        case .rsa(let key):
            let signature = _RSA.Signing.RSASignature(rawRepresentation: signature)
            return key.isValidSignature(signature, for: digest, padding: .insecurePKCS1v1_5)
        }
    }
}
