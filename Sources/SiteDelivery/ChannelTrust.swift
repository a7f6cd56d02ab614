package import Attestation
package import FarmModel

/// What a site believes: the newest root that it has walked to, and the newest channel that it has seen. Nothing else decides whether a
/// bucket's documents count (`docs/formats/channel.md`; The Update Framework, specification 1.0.33, section 5).
package struct ChannelTrust: Codable, Sendable, Hashable {
    package private(set) var root: TrustRoot
    /// Signed by one of the root's keys, as it was then.
    package private(set) var channel: ReleaseChannel?

    /// What the site had been given when it began to walk. Absent in what older versions remembered.
    private var pin: Digest?

    /// - Parameter root: what the site was given.
    package init(_ root: TrustRoot) {
        self.root = root
        pin = ChannelTrust.digest(root)
    }

    private static func digest(_ root: TrustRoot) -> Digest? { (try? CanonicalJSON.encode(root)).map { Digest(hashing: $0) } }

    /// What was believed last, unless the site has been given another root since: whoever gave it knows why.
    package init(remembered: ChannelTrust?, pinned: TrustRoot) {
        let pin = ChannelTrust.digest(pinned)
        guard var remembered, remembered.root.farm == pinned.farm, remembered.root.version >= pinned.version,
            remembered.pin ?? pin == pin
        else {
            self = ChannelTrust(pinned)
            return
        }
        remembered.pin = pin
        self = remembered
    }

    /// Goes on to the next root.
    package mutating func advance(to next: TrustRoot) {
        // Whoever stole a key may have signed a channel of the highest version there is.
        if !Set(root.channelKeys).isSubset(of: next.channelKeys) { channel = nil }
        root = next
    }

    /// A channel that may be believed now. Throws `channel.swapped` for another one, `channel.expired`, `channel.rollback` for one that is
    /// behind the last, and `channel.forked` when two differ that should be the same.
    package func accept(_ bytes: [UInt8], name: String, source: String, now: Timestamp) throws -> ReleaseChannel {
        try root.checkTime(now)
        let next: ReleaseChannel = try CanonicalJSON.decode(Envelope.self, from: bytes, source: source)
            .verified(payloadType: PayloadType.channel, by: root.channelKeys, source: source)
        func refused(_ code: FarmError.Code, _ why: String, hint: String? = nil) -> FarmError {
            FarmError(code, .corrupt, "\(source) \(why)", hint: hint)
        }
        guard next.farm == root.farm, next.name == name else {
            throw refused("channel.swapped", "is the channel \(next.name) of farm \(next.farm), not \(name) of \(root.farm)")
        }
        guard next.format == ReleaseChannel.currentFormat else {
            throw refused("channel.format", "has format \(next.format), which this version does not know", hint: "upgrade sciferry")
        }
        guard next.isSound else { throw refused("channel.format", "has a version or epoch that makes no sense") }
        guard next.expiresAt > now else {
            throw refused(
                "channel.expired", "expired at \(next.expiresAt)",
                hint: "the farm's coordinator renews it; ask the operator whether it runs")
        }
        guard let channel, channel.name == name else { return next }
        guard !next.isBehind(channel) else {
            throw refused(
                "channel.rollback",
                "has version \(next.version) of epoch \(next.epoch), older than \(channel.version) of epoch \(channel.epoch) seen before")
        }
        guard channel.isBehind(next) || next == channel else {
            throw refused(
                "channel.forked", "has another version \(next.version) than was seen before",
                hint: "two coordinators may sign for this farm, or its key is in other hands")
        }
        return next
    }

    /// Whether another one has come further.
    func isBehind(_ other: ChannelTrust) -> Bool {
        if root.version != other.root.version { return root.version < other.root.version }
        guard let theirs = other.channel else { return false }
        return channel.map { $0.name == theirs.name && $0.isBehind(theirs) } ?? true
    }

    /// Keeps in mind what was seen.
    package mutating func remember(_ channel: ReleaseChannel) { self.channel = channel }

    /// The release that a channel names. Throws `release.swapped` for another one.
    package func release(_ bytes: [UInt8], of entry: ChannelEntry, source: String) throws -> Release {
        let release: Release = try CanonicalJSON.decode(Envelope.self, from: bytes, source: source)
            .verified(payloadType: PayloadType.release, by: root.imageKeys, source: source)
        guard release.name == entry.name, release.version == entry.version, release.image.target == entry.target else {
            throw FarmError(
                "release.swapped", .corrupt, "\(source) is \(release.title), not \(entry.name) \(entry.version) (\(entry.target))")
        }
        return release
    }
}
