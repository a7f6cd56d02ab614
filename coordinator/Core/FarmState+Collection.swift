import ChunkStore
package import FarmModel

/// Which objects of the regions may go.
///
/// An object is condemned when no release, no open publication and no index that one of them needs leads to it. From then on workers are told
/// that the farm lacks its chunks, so that only builds and publications which had begun before may still rely on it. It goes when the grace
/// time is over, all of these have ended, and it still is of no use. No region is ever locked for it.
extension FarmState {
    /// Whether a pack, or what it is found through, may be taken away.
    package func mayGo(pack: Digest, index: Digest) -> Bool {
        condemned[Pack.key(pack)] != nil || condemned[PackIndex.key(index)] != nil
    }

    /// What a collection must know.
    package struct Standing: Sendable {
        package var releases: [ReleaseRecord]
        /// Taken over from another coordinator, beyond what the journal knows.
        package var carried: [ChannelEntry]
        package var publications: [PublicationRecord]
        package var condemned: [String: CondemnedObject]
    }

    package var standing: Standing {
        let known = Set(releases.keys)
        return Standing(
            releases: releases.values.filter { $0.retiredAt == nil }.sorted { $0.digest < $1.digest },
            carried: channels.values.flatMap { $0.carried?.entries ?? [] }.filter { !known.contains($0.release) },
            publications: openPublications, condemned: condemned)
    }

    /// What the policy does not keep any more.
    package func leavers(_ policy: RetentionPolicy, now: Timestamp) -> [RetentionPolicy.Leaver] {
        let current = Set(channels.values.flatMap { channelEntries(carrying: $0.carried) }.map(\.release))
        let carried = Set(channels.values.flatMap { $0.carried?.entries ?? [] }.map(\.release))
        let kept = releases.values.filter { $0.retiredAt == nil && !carried.contains($0.digest) }
        // What is being published now points at its release.
        let open = Set(openPublications.map(\.job))
        return policy.leavers(of: kept, current: current, now: now).filter { leaver in
            releases[leaver.digest].map { !open.contains($0.job) } ?? false
        }
    }

    /// Takes releases out of the channel.
    package mutating func retire(_ digests: [Digest], now: Timestamp) {
        for digest in digests {
            guard var record = releases[digest], record.retiredAt == nil else { continue }
            record.retiredAt = now
            put(record)
        }
    }

    /// What a collection has found: objects that nothing needs, and some that are needed again.
    package mutating func condemn(_ keys: [String], sparing needed: [String], now: Timestamp) {
        for key in needed where condemned[key].map({ !$0.isGoing }) ?? false { settle(key) }
        for key in keys where condemned[key] == nil { put(CondemnedObject(key: key, at: now)) }
    }

    /// Those of some condemned objects that may go now. Their chunks lie nowhere from now on, and nobody may write them before they are gone.
    ///
    /// - Parameters:
    ///   - asked: when the state was asked for what is needed: what was condemned since may have been claimed in between.
    ///   - reliance: `oldestReliance` before the regions were listed: what has ended since may have written what is not in the listing.
    ///   - listings: the packs that indexes list which nothing needs just now. As long as one of these stays somebody may come to need it,
    ///     for another of its packs, and then its readers look for chunks in all of them.
    package mutating func beginRemoval(
        _ keys: [String], asked: Timestamp, reliance: Timestamp?, listings: [String: Set<String>] = [:], graceSeconds: Double,
        now: Timestamp
    ) -> [String] {
        let oldest = [oldestReliance, reliance].compactMap(\.self).min()
        let free = keys.filter { key in
            guard let object = condemned[key], !object.isGoing, object.at < asked, now.seconds(since: object.at) >= graceSeconds else {
                return false
            }
            return oldest.map { $0 > object.at } ?? true
        }
        let leaving = Set(free).union(condemned.values.filter(\.isGoing).map(\.key))
        let listed = listings.reduce(into: Set<String>()) { if !leaving.contains($1.key) { $0.formUnion($1.value) } }
        var going: [String] = []
        for key in free where !listed.contains(key) {
            guard var object = condemned[key] else { continue }
            object.isGoing = true
            put(object)
            if let pack = object.pack { add(.forget(pack: pack)) }
            if let index = object.index { add(.forgetListed(index: index)) }
            going.append(key)
        }
        return going
    }

    /// When the first of those began that are under way and may have been told what the farm has.
    var oldestReliance: Timestamp? {
        let building = table.openAttempts.map(\.startedAt)
        let publishing = openPublications.map { attempts[$0.attempt]?.startedAt ?? Timestamp(seconds: 0) }
        return (building + publishing).min()
    }

    /// Objects are gone in all regions.
    package mutating func removed(_ keys: [String]) { for key in keys { settle(key) } }

    /// Somebody is going to write objects, which are needed from now on. Throws `store.removing` while one of them is being removed.
    package mutating func claim(_ keys: [String]) throws {
        for key in keys {
            guard let object = condemned[key] else { continue }
            guard !object.isGoing else {
                throw FarmError(
                    "store.removing", .unavailable, "an older \(key) is being removed from the regions; it is written after that")
            }
            settle(key)
        }
    }
}
