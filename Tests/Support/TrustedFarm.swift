package import Attestation
package import FarmModel

/// Keys of a farm "f" and its first root.
package struct TrustedFarm: Sendable {
    package let rootKey: SigningKey
    package let image: SigningKey
    package let channel: SigningKey
    package var root: TrustRoot

    package init(expires: Timestamp = Timestamp(seconds: 1 << 40)) throws {
        (rootKey, image, channel) = (try .generate(), try .generate(), try .generate())
        root = TrustRoot(
            farm: "f", issuedAt: Timestamp(seconds: 0), expiresAt: expires, rootKeys: [rootKey.verifier], imageKeys: [image.verifier],
            channelKeys: [channel.verifier])
    }
}
