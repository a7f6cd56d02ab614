import FarmModel
import Foundation
package import SingularityImage

/// Signatures inside images: a DSSE envelope over the digests of what is signed, as `singularity verify --key` reads it
/// (apptainer/sif `pkg/integrity`, `dsse.go`).
package enum ImageSignature {
    /// What became of one signature.
    package struct Finding: Codable, Sendable, Hashable {
        package enum Verdict: String, Codable, Sendable, Hashable {
            /// A trusted key signed it, and the image is what was signed.
            case valid
            /// The image, or the signature, was changed.
            case damaged
            /// Whole, and by a key that nobody here trusts.
            case untrusted
            /// In a form that is not read here, such as PGP's.
            case unread
        }
        /// The signature's object.
        package var object: UInt32
        package var verdict: Verdict
        /// The key that signed, as the signature calls it.
        package var key: String
        /// What is wrong, in words.
        package var reasons: [String]
        /// The objects that it covers.
        package var covers: [UInt32]
    }

    /// A signature is not longer.
    private static let longest: Int64 = 1 << 20

    /// Signs the digests of an image's first group. Ed25519 leaves nothing to chance: the same image and key give the same bytes.
    package static func sign(_ metadata: SignatureMetadata, with key: SigningKey) throws -> [UInt8] {
        try CanonicalJSON.encode(
            Envelope.sign(metadata, type: SignatureMetadata.payloadType, with: key, keyID: key.verifier.shellKeyID))
    }

    /// Adds a signature to an image.
    package static func append(_ signature: [UInt8], to image: inout SingularityFile) throws {
        // The time of the content: a signature made again is the same.
        let time = image.head.modified
        try image.append(
            .init(
                type: .signature, group: SingularityImage.noGroup, link: SingularityImage.firstGroup, size: 0, created: time,
                name: "signature.dsse.json", extra: SingularityImage.signatureExtra), signature, modified: time)
    }

    /// What the signatures of an image come to.
    package struct Report: Codable, Sendable, Hashable {
        package var findings: [Finding]
        /// Objects, signatures aside, that no valid signature covers: anybody may have put them there.
        package var unsigned: [UInt32]

        /// Whether everything in the image is as a trusted key signed it.
        package var isSound: Bool {
            unsigned.isEmpty && findings.contains { $0.verdict == .valid } && !findings.contains { $0.verdict == .damaged }
        }
    }

    /// Looks at every signature of an image. Reads all that is signed.
    package static func verify(_ image: SingularityFile, by keys: [any ImageVerifier]) throws -> Report {
        var known: [UInt32: SignatureMetadata] = [:]
        let findings = try image.head.descriptors.filter { $0.kind == .signature }.map {
            try finding($0, image, keys, &known)
        }
        let covered = Set(findings.filter { $0.verdict == .valid }.flatMap(\.covers))
        let unsigned = image.head.descriptors.filter { $0.kind != .signature && !covered.contains($0.id) }.map(\.id)
        return Report(findings: findings, unsigned: unsigned)
    }

    private static func finding(
        _ object: SingularityImage.Descriptor, _ image: SingularityFile, _ keys: [any ImageVerifier],
        _ known: inout [UInt32: SignatureMetadata]
    ) throws -> Finding {
        var finding = Finding(object: object.id, verdict: .unread, key: "", reasons: [], covers: [])
        let bytes = try image.bytes(of: object, limit: longest)
        guard let envelope = try? CanonicalJSON.decode(Envelope.self, from: bytes, source: "a signature"),
            envelope.payloadType == SignatureMetadata.payloadType, let payload = Data(base64Encoded: envelope.payload),
            let signed = try? CanonicalJSON.decode(SignatureMetadata.self, from: payload, source: "a signature")
        else {
            finding.reasons = [
                bytes.starts(with: Array("-----BEGIN PGP".utf8)) ? "it is one of PGP" : "it is no signature that is known here"
            ]
            return finding
        }
        finding.key = envelope.signatures.map { $0.keyid.printable() }.joined(separator: ", ")
        guard signed.isSound else {
            finding.reasons = ["its digests are none of SHA-256"]
            return finding
        }
        // It is about a group, or about one object, whose group its numbers count from.
        let isGroup = object.link & SingularityImage.noGroup == SingularityImage.noGroup
        let group = isGroup ? object.link : image.head.descriptors.first { $0.id == object.link }?.group ?? 0
        guard let first = image.head.descriptors.filter({ $0.group == group }).map(\.id).min() else {
            finding.verdict = .damaged
            finding.reasons = ["what it signs is missing"]
            return finding
        }
        let actual = try known[group] ?? SignatureMetadata(of: image, group: group)
        known[group] = actual
        finding.covers = signed.objects.map { first &+ $0.relativeId }
        finding.reasons = signed.differences(from: actual, first: first)
        let bytesSigned = Envelope.encoding(type: envelope.payloadType, payload: Array(payload))
        let isTrusted = envelope.signatures.contains { signature in
            guard let raw = Data(base64Encoded: signature.sig) else { return false }
            return keys.contains { $0.accepts(Array(raw), for: bytesSigned) }
        }
        finding.verdict = !finding.reasons.isEmpty ? .damaged : isTrusted ? .valid : .untrusted
        if !isTrusted { finding.reasons.append("none of the given keys made it") }
        return finding
    }
}

/// A public key that may have signed an image.
package protocol ImageVerifier: Sendable {
    /// Whether it made a signature of those bytes.
    func accepts(_ signature: [UInt8], for bytes: [UInt8]) -> Bool
}

extension VerifyingKey: ImageVerifier {}
