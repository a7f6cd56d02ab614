import enum Crypto.Curve25519
import FarmModel
import Foundation
import SystemIO

/// A signed document: DSSE (secure-systems-lab/dsse, envelope v1.0.0) with Ed25519 (RFC 8032).
package struct Envelope: Codable, Sendable, Hashable {
    /// What the payload is; signed together with it.
    package var payloadType: String
    /// Base64.
    package var payload: String
    package var signatures: [Signature]

    package struct Signature: Codable, Sendable, Hashable {
        package var keyid: String
        /// Base64 of the 64 bytes.
        package var sig: String
    }

    /// Signs the canonical form of a value.
    ///
    /// - Parameter keyID: what the envelope calls the key; its own name when not given.
    package static func sign(_ value: some Encodable, type: String, with key: SigningKey, keyID: String? = nil) throws -> Envelope {
        let payload = try CanonicalJSON.encode(value)
        let signature = try key.signature(of: encoding(type: type, payload: payload))
        return Envelope(
            payloadType: type, payload: Data(payload).base64EncodedString(),
            signatures: [Signature(keyid: keyID ?? key.verifier.keyID, sig: Data(signature).base64EncodedString())])
    }

    /// The same document with one more signature.
    package func signed(by key: SigningKey) throws -> Envelope {
        let bytes = Envelope.encoding(type: payloadType, payload: Array(Data(base64Encoded: payload) ?? Data()))
        var more = self
        more.signatures.append(
            Signature(keyid: key.verifier.keyID, sig: Data(try key.signature(of: bytes)).base64EncodedString()))
        return more
    }

    /// The payload, once enough of the keys have signed it for this type; throws `attestation.refused` otherwise.
    ///
    /// - Parameters:
    ///   - threshold: how many of the keys must have.
    ///   - source: what the document is, for the message.
    package func verified<Value: Decodable>(
        _ type: Value.Type = Value.self, payloadType expected: String, by keys: [VerifyingKey], threshold: Int = 1, source: String
    ) throws -> Value {
        guard payloadType == expected else {
            throw refusal(source, "it is a \"\(payloadType)\", not a \"\(expected)\"")
        }
        guard let payload = Data(base64Encoded: payload) else { throw refusal(source, "its payload is no base64") }
        let signed = Envelope.encoding(type: payloadType, payload: Array(payload))
        let made = signatures.prefix(Envelope.mostSignatures).compactMap { Data(base64Encoded: $0.sig).map(Array.init) }
        let signers = Set(keys).filter { key in made.contains { key.accepts($0, for: signed) } }
        guard !signers.isEmpty else { throw refusal(source, "none of the trusted keys signed it") }
        guard signers.count >= threshold else { throw refusal(source, "\(signers.count) of \(threshold) trusted keys signed it") }
        return try CanonicalJSON.decode(type, from: payload, source: source)
    }

    /// Whether one of some keys signed it, whatever it says.
    package func isSigned(by keys: [VerifyingKey]) -> Bool {
        guard let payload = Data(base64Encoded: payload) else { return false }
        let signed = Envelope.encoding(type: payloadType, payload: Array(payload))
        let made = signatures.prefix(Envelope.mostSignatures).compactMap { Data(base64Encoded: $0.sig).map(Array.init) }
        return keys.contains { key in made.contains { key.accepts($0, for: signed) } }
    }

    /// What it claims, which nobody has vouched for.
    package func unverified<Value: Decodable>(_ type: Value.Type = Value.self, source: String) throws -> Value {
        guard let payload = Data(base64Encoded: payload) else { throw refusal(source, "its payload is no base64") }
        return try CanonicalJSON.decode(type, from: payload, source: source)
    }

    private func refusal(_ source: String, _ reason: String) -> FarmError {
        FarmError(
            "attestation.refused", .corrupt, "\(source) is refused: \(reason)",
            hint: "compare the keys that the site trusts with those of the farm: sciferry trust show")
    }

    /// More are not looked at.
    private static let mostSignatures = 32

    /// DSSE's pre-authentication encoding.
    package static func encoding(type: String, payload: [UInt8]) -> [UInt8] {
        Array("DSSEv1 \(type.utf8.count) \(type) \(payload.count) ".utf8) + payload
    }
}

/// The media types of what the farm signs.
package enum PayloadType {
    package static let release = "application/vnd.sciferry.release+json"
    /// in-toto's statements (in-toto/attestation, "Envelope").
    package static let statement = "application/vnd.in-toto+json"
    package static let channel = "application/vnd.sciferry.channel+json"
    package static let root = "application/vnd.sciferry.root+json"
}

/// A public Ed25519 key.
package struct VerifyingKey: Sendable, Hashable, Codable {
    /// The 32 bytes, as base64.
    package let text: String

    package init(text: String) throws {
        guard let bytes = Data(base64Encoded: text), bytes.count == 32 else {
            throw FarmError("attestation.key", .invalid, "\"\(text)\" is no Ed25519 public key in base64")
        }
        self.text = text
    }

    /// `SHA256:` and the first 16 digits of the digest of the key's bytes.
    package var keyID: String {
        "SHA256:" + Digest(hashing: Array(Data(base64Encoded: text) ?? Data())).hex.prefix(16)
    }

    /// Whether the key made a signature of those bytes.
    package func accepts(_ signature: [UInt8], for bytes: [UInt8]) -> Bool {
        guard let raw = Data(base64Encoded: text), let key = try? Curve25519.Signing.PublicKey(rawRepresentation: raw)
        else { return false }
        return key.isValidSignature(Data(signature), for: Data(bytes))
    }
}

/// A private Ed25519 key; never printed.
package struct SigningKey: Sendable, CustomStringConvertible {
    private let raw: Data
    package let verifier: VerifyingKey

    /// A new key.
    package static func generate() throws -> SigningKey {
        try SigningKey(raw: Curve25519.Signing.PrivateKey().rawRepresentation)
    }

    /// Reads a key file: base64 of the 32 bytes.
    package init(file path: String) throws {
        let text = String(decoding: try Disk.read(path, limit: 4096), as: UTF8.self)
        guard let raw = Data(base64Encoded: text.trimmingCharacters(in: .whitespacesAndNewlines)) else {
            throw FarmError("attestation.key", .invalid, "\(path) holds no key")
        }
        do { try self.init(raw: raw) } catch {
            throw FarmError("attestation.key", .invalid, "\(path) holds no Ed25519 key", cause: error)
        }
    }

    /// The key of 32 bytes.
    package init(bytes: [UInt8]) throws { try self.init(raw: Data(bytes)) }

    private init(raw: Data) throws {
        self.raw = raw
        let key = try Curve25519.Signing.PrivateKey(rawRepresentation: raw)
        verifier = try VerifyingKey(text: key.publicKey.rawRepresentation.base64EncodedString())
    }

    /// Writes the key file, readable by its owner only.
    package func write(_ path: String) throws {
        try Disk.replace(path, with: Array((raw.base64EncodedString() + "\n").utf8), mode: 0o600)
    }

    package var description: String { "SigningKey(\(verifier.keyID), <redacted>)" }

    fileprivate func signature(of bytes: [UInt8]) throws -> [UInt8] {
        Array(try Curve25519.Signing.PrivateKey(rawRepresentation: raw).signature(for: Data(bytes)))
    }
}
