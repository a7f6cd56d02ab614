import BucketSync
import ChunkStore
package import FarmModel
package import ObjectStorage
import Synchronization
import SystemIO

/// Keeps a bucket that holds all that a site's releases need, and the signed channel that names them: other sites and users can follow it as
/// one more region.
package struct SiteMirror: Sendable {
    /// What was mirrored last, and when: the same again within a day is not looked at.
    private struct Done: Codable, Sendable, Hashable {
        var bucket: String
        var channel: Digest
        var releases: [Digest]
        var at: Timestamp
    }

    private let site: Site
    private let pull: SitePull
    private let target: any ObjectStore
    /// Seconds after which a mirror is compared although nothing has changed: something may have been lost there, or be due to go.
    private static let patience: Double = 24 * 3600

    package init(_ site: Site, pull: SitePull, target: any ObjectStore) {
        (self.site, self.pull, self.target) = (site, pull, target)
    }

    private var memory: String { "\(site.root)/state/mirror" }

    /// Brings the bucket to what a plan carries, from the first region that has it whole: contents first, the channel last, and what is not
    /// needed any more goes after 48 hours. Every object is verified by its name. What was copied when it breaks off stays.
    ///
    /// - Returns: in words, what was done.
    package func write(_ plan: SiteSync.Plan, now: Timestamp) async throws -> String {
        for region in pull.reader.regions where region.name == target.name {
            throw FarmError(
                "site.mirror", .usage,
                "\(target.name) is a region that the site reads from: as its mirror it would lose what the site does not carry",
                hint: "give the mirror a bucket of its own")
        }
        let wanted = Set(plan.entries.map(\.release))
        let done = Done(
            bucket: target.name, channel: Digest(hashing: try CanonicalJSON.encode(plan.followed)), releases: wanted.sorted(), at: now)
        if isFresh(done, now: now) { return "as it was" }
        var last: FarmError?
        for region in pull.reader.regions {
            do {
                let contents = try await ChannelContents.read(plan.followed.name, from: region) { wanted.contains($0.release) }
                // A region that lags has another one; the site has said which it believes.
                guard contents.channel == plan.followed else {
                    throw FarmError(
                        "site.mirror", .unavailable,
                        "\(region.name) has the channel's version \(contents.channel.version), not \(plan.channel)",
                        hint: "run it again")
                }
                try await claim(contents.key)
                let report = try await copy(contents, region)
                try Disk.replace("\(memory)/done.json", with: try CanonicalJSON.encode(done))
                return "\(report.copied) objects came, \(report.deleted) went, \(report.same) stay"
            } catch let error as FarmError where error.category != .cancelled && error.category != .full && error.category != .conflict {
                last = error
            }
        }
        throw last ?? FarmError("site.mirror", .unavailable, "no region can be mirrored")
    }

    /// Makes the bucket this site's own. One that shows the farm's channel already may be anything, the farm's own region too, and a mirror
    /// lets go what it does not need.
    private func claim(_ channel: String) async throws {
        let path = "\(memory)/buckets"
        let known = (try? Disk.read(path, limit: 1 << 20)).map { String(decoding: $0, as: UTF8.self) } ?? ""
        if known.split(separator: "\n").contains(target.name[...]) { return }
        guard try await target.head(channel) == nil else {
            throw FarmError(
                "site.mirror", .conflict, "\(target.name) has a channel already, and this site has not written it",
                hint: "give the mirror an empty bucket; if it was this site's mirror before, take \(channel) away there first")
        }
        try Disk.makeDirectory(memory, mode: 0o700)
        try Disk.replace(path, with: Array("\(known)\(target.name)\n".utf8))
    }

    private func isFresh(_ next: Done, now: Timestamp) -> Bool {
        guard let bytes = try? Disk.read("\(memory)/done.json", limit: 1 << 24),
            var known: Done = try? CanonicalJSON.decode(from: bytes, source: "done.json"),
            now.seconds(since: known.at) < SiteMirror.patience
        else { return false }
        known.at = next.at
        return known == next
    }

    private func copy(_ contents: ChannelContents, _ region: any ObjectStore) async throws -> SyncReport {
        let selection = try await ChannelSelection(contents, of: region)
        var options = SyncOptions()
        (options.order, options.deletes) = (.farm, .after)
        let failure = Mutex<FarmError?>(nil)
        let report = try await BucketSync(
            from: selection, to: target, options: options,
            memory: try SyncMemory(directory: memory, source: "selection", destination: target.name)
        ) { event in
            if case .failed(_, let error) = event { failure.withLock { $0 = $0 ?? error } }
        }.run()
        if let error = failure.withLock({ $0 }) { throw error }
        guard report.damaged.isEmpty else {
            throw FarmError(
                "site.mirror", .corrupt, "\(report.damaged.count) objects of \(region.name) are damaged: \(report.damaged[0])",
                hint: "the farm's operator sees them in: sciferry regions audit")
        }
        return report
    }
}
