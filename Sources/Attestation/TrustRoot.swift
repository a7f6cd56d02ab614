package import FarmModel

/// Whose signatures a farm's readers believe (`docs/formats/channel.md`, "Root"). Numbered from 1; each is signed by the keys of the one
/// before and by its own, so that whoever trusts one can walk to the newest.
package struct TrustRoot: Codable, Sendable, Hashable {
    package var format = 1
    package var farm: String
    package var version: Int
    package var issuedAt: Timestamp
    package var expiresAt: Timestamp
    /// Keys that lie offline.
    package var rootKeys: [VerifyingKey]
    /// How many of the root keys must sign.
    package var threshold: Int
    /// Sign images, releases and attestations; the newest first. Older ones stay, for what they have signed.
    package var imageKeys: [VerifyingKey]
    /// Sign channels.
    package var channelKeys: [VerifyingKey]

    package init(
        farm: String, version: Int = 1, issuedAt: Timestamp, expiresAt: Timestamp, rootKeys: [VerifyingKey], threshold: Int = 1,
        imageKeys: [VerifyingKey], channelKeys: [VerifyingKey]
    ) {
        (self.farm, self.version, self.issuedAt, self.expiresAt) = (farm, version, issuedAt, expiresAt)
        (self.rootKeys, self.threshold, self.imageKeys, self.channelKeys) = (rootKeys, threshold, imageKeys, channelKeys)
    }

    /// The object's key.
    package static func key(_ version: Int) -> String { "roots/\(version).json" }

    /// No root document comes near this.
    package static let largest: Int64 = 1 << 20

    /// The signed document. Throws `root.keys` when the keys are not enough for readers to believe it.
    ///
    /// - Parameter previous: the root that readers trust so far.
    package func signed(by keys: [SigningKey], after previous: TrustRoot?) throws -> [UInt8] {
        guard let first = keys.first else { throw TrustRoot.tooFew("no root key is given") }
        var envelope = try Envelope.sign(self, type: PayloadType.root, with: first)
        for key in keys.dropFirst() { envelope = try envelope.signed(by: key) }
        let bytes = try CanonicalJSON.encode(envelope)
        do {
            if let previous {
                _ = try previous.successor(bytes, source: "the new root")
            } else {
                _ = try TrustRoot(bytes, source: "the new root")
            }
        } catch let error as FarmError where error.code == "attestation.refused" { throw TrustRoot.tooFew(error.message) }
        return bytes
    }

    private static func tooFew(_ why: String) -> FarmError {
        FarmError("root.keys", .usage, "the root cannot be signed: \(why)", hint: "give the present root keys, and new ones beside them")
    }

    /// Reads a root that vouches for itself alone: the first one, or one that is trusted already.
    package init(_ bytes: [UInt8], source: String) throws {
        let envelope: Envelope = try CanonicalJSON.decode(from: bytes, source: source)
        // Unverified, only to learn which keys it names for itself.
        let claimed: TrustRoot = try envelope.unverified(source: source)
        self = try envelope.verified(payloadType: PayloadType.root, by: claimed.rootKeys, threshold: claimed.threshold, source: source)
        try check(source)
    }

    /// The next root, once this one's keys and its own have signed it; throws `attestation.refused`, and `root.invalid` for one of another
    /// farm or number.
    package func successor(_ bytes: [UInt8], source: String) throws -> TrustRoot {
        let envelope: Envelope = try CanonicalJSON.decode(from: bytes, source: source)
        let next: TrustRoot = try envelope.verified(payloadType: PayloadType.root, by: rootKeys, threshold: threshold, source: source)
        try next.check(source)
        guard next.farm == farm, next.version == version + 1 else {
            throw TrustRoot.invalid(source, "it is number \(next.version) of farm \(next.farm), not \(version + 1) of \(farm)")
        }
        return try envelope.verified(payloadType: PayloadType.root, by: next.rootKeys, threshold: next.threshold, source: source)
    }

    private func check(_ source: String) throws {
        guard format == 1 else { throw TrustRoot.invalid(source, "its format \(format) is not known here") }
        let counts = [rootKeys.count, imageKeys.count, channelKeys.count]
        guard counts.allSatisfy({ (1...64).contains($0) }), version > 0, (1...Set(rootKeys).count).contains(threshold) else {
            throw TrustRoot.invalid(source, "its keys are too few or too many")
        }
    }

    /// Throws `root.expired`.
    package func checkTime(_ now: Timestamp) throws {
        guard expiresAt > now else {
            throw FarmError(
                "root.expired", .corrupt, "the keys of farm \(farm) expired at \(expiresAt) (root \(version))",
                hint: "the farm's operator renews them: sciferry trust renew")
        }
    }

    private static func invalid(_ source: String, _ why: String) -> FarmError {
        FarmError("root.invalid", .corrupt, "\(source) is no root of this farm: \(why)")
    }
}
