package import Attestation
package import FarmModel
import SystemIO

/// The keys of a farm's home and the roots that vouch for them (`docs/formats/channel.md`).
package struct FarmKeys: Sendable {
    /// Signs images, releases and attestations.
    package let image: SigningKey
    /// Signs channels.
    package let channel: SigningKey
    package let root: TrustRoot
    /// All keys that any root has named for channels: what they signed is this farm's, believed or not.
    package let channelKeys: [VerifyingKey]
    /// The signed documents, from number 1.
    package let roots: [[UInt8]]

    /// What a renewal changes.
    package struct Renewal: Sendable {
        package var image = false
        package var channel = false
        /// Root keys from now on; `nil` leaves them.
        package var rootKeys: [VerifyingKey]?
        package var threshold: Int?
        /// Image keys that are in other hands: what they signed is refused from now on.
        package var revoked: Set<String> = []

        package init() {}
    }

    /// Days for which a root counts.
    package static let days = 365.0

    /// Reads a home's keys; throws `root.absent`, and `root.keys` for keys that the newest root does not name.
    package init(_ home: FarmHome) throws {
        roots = try FarmKeys.documents(home)
        guard let first = roots.first else {
            throw FarmError("root.absent", .notFound, "\(home.roots) holds no root", hint: "bring the farm's identity back from its backup")
        }
        var newest = try TrustRoot(first, source: "\(home.roots)/1.json")
        var channelKeys = newest.channelKeys
        for (index, bytes) in roots.enumerated().dropFirst() {
            newest = try newest.successor(bytes, source: "\(home.roots)/\(index + 1).json")
            channelKeys += newest.channelKeys.filter { !channelKeys.contains($0) }
        }
        self.channelKeys = channelKeys
        root = newest
        image = try FarmKeys.key(home.releaseKey, among: newest.imageKeys)
        channel = try FarmKeys.key(home.channelKey, among: newest.channelKeys)
    }

    private static func documents(_ home: FarmHome) throws -> [[UInt8]] {
        var documents: [[UInt8]] = []
        while Disk.exists("\(home.roots)/\(documents.count + 1).json") {
            documents.append(try Disk.read("\(home.roots)/\(documents.count + 1).json", limit: TrustRoot.largest))
        }
        return documents
    }

    /// A key of a home. One that a renewal was about to put in its place counts once a root names it.
    private static func key(_ path: String, among believed: [VerifyingKey]) throws -> SigningKey {
        let next = "\(path).next"
        if Disk.exists(next), let key = try? SigningKey(file: next), believed.contains(key.verifier) { try Disk.rename(next, to: path) }
        let key = try SigningKey(file: path)
        guard believed.contains(key.verifier) else {
            throw FarmError(
                "root.keys", .invalid, "the newest root does not name the key of \(path), \(key.verifier.keyID)",
                hint: "bring the key back that it names, or name this one: sciferry trust renew")
        }
        return key
    }

    /// Makes a farm's keys with their first root.
    package static func create(_ home: FarmHome, farm: String, now: Timestamp) throws -> FarmKeys {
        let (image, channel, root) = (try SigningKey.generate(), try SigningKey.generate(), try SigningKey.generate())
        let document = TrustRoot(
            farm: farm, issuedAt: now, expiresAt: now.adding(seconds: days * 86400), rootKeys: [root.verifier],
            imageKeys: [image.verifier], channelKeys: [channel.verifier])
        try Disk.makeDirectory(home.roots, mode: 0o700)
        for (key, path) in [(image, home.releaseKey), (channel, home.channelKey), (root, home.rootKey)] { try key.write(path) }
        try Disk.replace("\(home.roots)/1.json", with: try document.signed(by: [root], after: nil))
        return try FarmKeys(home)
    }

    /// Signs the next root, with keys that it replaces on the way; killed anywhere, it has happened or has not.
    ///
    /// - Parameter keys: the present root keys, and new ones where these change.
    package func renewed(
        _ home: FarmHome, by keys: [SigningKey], _ changes: Renewal, days: Double = FarmKeys.days, now: Timestamp
    ) throws -> FarmKeys {
        var next = root
        (next.version, next.issuedAt, next.expiresAt) = (root.version + 1, now, now.adding(seconds: days * 86400))
        if let rootKeys = changes.rootKeys { next.rootKeys = rootKeys }
        if let threshold = changes.threshold { next.threshold = threshold }
        if changes.image {
            let key = try SigningKey.generate()
            try key.write("\(home.releaseKey).next")
            next.imageKeys.insert(key.verifier, at: 0)
        }
        next.imageKeys.removeAll { changes.revoked.contains($0.keyID) }
        if changes.channel {
            let key = try SigningKey.generate()
            try key.write("\(home.channelKey).next")
            next.channelKeys = [key.verifier]
        }
        guard next.imageKeys.contains(image.verifier) || changes.image else {
            throw FarmError("root.keys", .usage, "the key that signs images now cannot go without another one", hint: "--rotate image")
        }
        let bytes = try next.signed(by: keys, after: root)
        try Disk.replace("\(home.roots)/\(next.version).json", with: bytes)
        return try FarmKeys(home)
    }
}
