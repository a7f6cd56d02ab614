package import FarmModel
import SiteDelivery

/// What a farm keeps, and how it takes the rest away: `retention` in `farm.json`.
package struct RetentionPolicy: Codable, Sendable, Hashable {
    /// Days for which a release stays that a newer one of the same name, version and target has replaced.
    package var supersededDays: Double
    /// So many of the newest versions of each name stay; 0 for all.
    package var versions: Int
    /// `NAME` or `NAME/VERSION`: what always stays, as something cites it.
    package var keep: [String]
    /// Hours for which objects that nothing needs stay, for those who still read them.
    package var graceHours: Double
    /// Hours between two collections; 0 for none but those that an operator asks for.
    package var everyHours: Double
    /// A pack of which less than this share is needed is written anew.
    package var sparseShare: Double
    /// Megabytes that one collection reads and writes, in all regions, to write packs anew.
    package var repackMegabytes: Int

    package init() {
        (supersededDays, versions, keep) = (30, 0, [])
        (graceHours, everyHours, sparseShare, repackMegabytes) = (48, 24, 0.5, 4096)
    }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        let usual = RetentionPolicy()
        supersededDays = try values.decodeIfPresent(Double.self, forKey: .supersededDays) ?? usual.supersededDays
        versions = try values.decodeIfPresent(Int.self, forKey: .versions) ?? usual.versions
        keep = try values.decodeIfPresent([String].self, forKey: .keep) ?? usual.keep
        graceHours = try values.decodeIfPresent(Double.self, forKey: .graceHours) ?? usual.graceHours
        everyHours = try values.decodeIfPresent(Double.self, forKey: .everyHours) ?? usual.everyHours
        sparseShare = try values.decodeIfPresent(Double.self, forKey: .sparseShare) ?? usual.sparseShare
        repackMegabytes = try values.decodeIfPresent(Int.self, forKey: .repackMegabytes) ?? usual.repackMegabytes
    }

    /// Throws `farm.retention`, naming `source`.
    func check(_ source: String) throws {
        let isSound =
            supersededDays >= 0 && versions >= 0 && graceHours >= 0 && everyHours >= 0 && (0...0.95).contains(sparseShare)
            && repackMegabytes >= 0
        guard isSound else {
            throw FarmError(
                "farm.retention", .invalid, "\(source): \"retention\" has a number that makes no sense",
                hint: "none is negative, and \"sparseShare\" is 0 to 0.95")
        }
    }

    /// A release that is not to be kept, and why.
    package struct Leaver: Sendable, Hashable {
        package var digest: Digest
        package var title: String
        package var why: String
    }

    /// Releases that the policy does not keep.
    ///
    /// - Parameters:
    ///   - releases: those that are kept so far.
    ///   - current: of these, what the channel points at.
    package func leavers(of releases: [ReleaseRecord], current: Set<Digest>, now: Timestamp) -> [Leaver] {
        var leavers: [Digest: Leaver] = [:]
        let days = supersededDays * 86400
        var winners: [String: ReleaseRecord] = [:]
        for record in releases where current.contains(record.digest) { winners[record.release.title] = record }
        for record in releases where !current.contains(record.digest) && !isKept(record.release) {
            guard let winner = winners[record.release.title] else { continue }
            let since = max(winner.release.publishedAt, record.release.publishedAt)
            guard now.seconds(since: since) >= days else { continue }
            leavers[record.digest] = Leaver(
                digest: record.digest, title: record.release.title, why: "replaced on \(since) by release \(winner.digest.short)")
        }
        guard versions > 0 else { return leavers.values.sorted { $0.title < $1.title } }
        for (_, group) in Dictionary(grouping: releases, by: \.release.name) {
            let ordered = Set(group.map(\.release.version)).sorted { VersionOrder.precedes($1, $0) }
            for version in ordered.dropFirst(versions) {
                let all = group.filter { $0.release.version == version }
                // One that has just been asked for is of use to somebody.
                guard all.allSatisfy({ now.seconds(since: $0.release.publishedAt) >= days && !isKept($0.release) }) else { continue }
                for record in all {
                    leavers[record.digest] = Leaver(
                        digest: record.digest, title: record.release.title,
                        why: "\(versions) newer versions are kept, from \(ordered[versions - 1])"
                    )
                }
            }
        }
        return leavers.values.sorted { ($0.title, $0.digest) < ($1.title, $1.digest) }
    }

    private func isKept(_ release: Release) -> Bool {
        keep.contains { $0 == release.name || $0 == "\(release.name)/\(release.version)" }
    }
}
