import Attestation
package import ChunkStore
package import FarmModel
import Foundation
import Glibc
import Synchronization
package import Microarchitecture
package import ObjectStorage
import SingularityImage
import SystemIO

/// Brings releases of a channel into a site.
package struct SitePull: Sendable {
    /// A release that a channel offers and this host can run.
    package struct Offer: Sendable {
        package var release: Release
        package var digest: Digest
        /// All CPU targets that the version is there for.
        package var targets: [String]
        /// The CPU target of the machine that it was chosen for.
        package var host: String
        /// Why nobody should begin to use it.
        package var yanked: String?
    }

    /// What a pull did.
    package struct Report: Codable, Sendable, Hashable {
        package var release: Release
        package var alreadyThere: Bool
        package var quote: ImageRebuild.Quote
        package var incidents: [ReadIncident]
        package var seconds: Double
    }

    private let site: Site
    private let configuration: SiteConfiguration
    private let memory: Memory
    private let seeds: [String]
    package let reader: RegionReader

    /// - Parameters:
    ///   - regions: the configuration's buckets, opened, in the same order.
    ///   - seeds: files that may share chunks with what is pulled, and directories of such, beside those of the configuration.
    package init(site: Site, regions: [any ObjectStore], seeds: [String] = []) throws {
        self.site = site
        self.seeds = seeds
        configuration = try site.configuration()
        memory = Memory(try site.trust())
        reader = RegionReader(regions: regions)
    }

    /// The newest channel of all regions that may be believed; throws what `ChannelTrust` does, `root.expired`, and `channel.absent`.
    package func channel(now: Timestamp) async throws -> ReleaseChannel {
        var trust = memory.trust.withLock(\.self)
        try await walk(&trust)
        let (current, name) = (trust, configuration.channel)
        let channels = try await reader.readAll(ReleaseChannel.key(name), limit: ReleaseChannel.largest) {
            try current.accept($0, name: name, source: $1, now: now)
        }
        guard let channel = channels.max(by: { $0.isBehind($1) }) else {
            try trust.root.checkTime(now)
            throw FarmError(
                "channel.absent", .notFound, "no region has the channel \(name)",
                hint: "the farm has released nothing yet, or the site's regions are wrong: \(site.root)/site.json")
        }
        trust.remember(channel)
        // Another look may have seen more meanwhile.
        let seen = trust
        let isNewest = memory.trust.withLock { known in
            guard !seen.isBehind(known) else { return false }
            known = seen
            return true
        }
        // A read-only site may be read from; it only cannot remember.
        if isNewest, !((try? site.trust()).map { seen.isBehind($0) } ?? false) { try? site.remember(seen) }
        return channel
    }

    /// Goes from the root that is known to the newest.
    private func walk(_ trust: inout ChannelTrust) async throws {
        for _ in 0..<1024 {
            let root = trust.root
            let next = try await reader.readAll(TrustRoot.key(root.version + 1), limit: TrustRoot.largest, absenceCounts: true) {
                try root.successor($0, source: $1)
            }
            guard let first = next.first else { return }
            trust.advance(to: first)
        }
    }

    /// The best offer for a host: the version that is meant or the newest, for the highest target that the host dominates. Throws
    /// `channel.absent`, and `channel.target` when there is none that the host runs.
    package func offer(_ wish: ReleaseWish, target: String?, host: Microarchitecture, now: Timestamp) async throws -> Offer {
        let name = wish.name
        let entries = try await channel(now: now).entries.filter { $0.name == name }
        guard !entries.isEmpty else {
            throw FarmError(
                "channel.absent", .notFound, "channel \(configuration.channel) has no \(name)", hint: "sciferry list shows what it has")
        }
        let closest = entries.map { wish.match($0.version) }.max() ?? 0
        let matching = closest == 0 ? [] : entries.filter { wish.match($0.version) == closest }
        // Who names a version gets it.
        let versioned = wish.version == nil ? matching.filter { $0.yanked == nil } : matching
        if versioned.isEmpty, let yanked = matching.first {
            throw FarmError(
                "channel.yanked", .unavailable, "\(name) \(yanked.version) is yanked: \(yanked.yanked ?? "")",
                hint: "to have it all the same, name its version: \(name)/\(yanked.version)")
        }
        guard !versioned.isEmpty else {
            let known = Set(entries.map(\.version)).sorted().joined(separator: ", ")
            throw FarmError(
                "channel.absent", .notFound, "channel \(configuration.channel) has no \(wish.title)", hint: "it has: \(known)")
        }
        let usable = versioned.filter { entry in
            if let target { return entry.target == target }
            return Microarchitecture.named(entry.target).map { host.dominates($0) } ?? false
        }
        let best = usable.max { left, right in
            if left.version != right.version { return VersionOrder.precedes(left.version, right.version) }
            guard let a = Microarchitecture.named(left.target), let b = Microarchitecture.named(right.target) else { return false }
            return b != a && b.dominates(a)
        }
        guard let best else {
            let known = Set(versioned.map(\.target)).sorted().joined(separator: ", ")
            throw FarmError(
                "channel.target", .unavailable, "\(name) is there for \(known), not for \(target ?? host.name)",
                hint: "ask the farm for a build: sciferry build \(name) --for \(target ?? host.name)")
        }
        let others = Set(versioned.filter { $0.version == best.version }.map(\.target))
        return Offer(
            release: try await release(best), digest: best.release, targets: others.sorted(), host: host.name, yanked: best.yanked)
    }

    /// A release document, verified; one that was read before is not fetched again.
    package func release(_ entry: ChannelEntry) async throws -> Release {
        let key = ReleaseDocument.key(name: entry.name, version: entry.version, digest: entry.release)
        let place = "\(site.root)/state/releases/\(entry.release.hex)"
        if let known = try? Disk.read(place, limit: 1 << 24), Digest(hashing: known) == entry.release {
            return try memory.trust.withLock(\.self).release(known, of: entry, source: place)
        }
        let bytes = try await reader.content(entry.release, key: key)
        let release = try memory.trust.withLock(\.self).release(bytes, of: entry, source: key)
        // A read-only site may be read from; it only cannot remember.
        if (try? Disk.makeDirectory(Disk.parent(of: place))) != nil { try? Disk.replace(place, with: bytes) }
        return release
    }

    /// What pulling a release costs, from what the site has.
    package func quote(_ release: Release) async throws -> ImageRebuild.Quote {
        try await rebuild(release).rebuild.quote
    }

    private func rebuild(_ release: Release) async throws -> (rebuild: ImageRebuild, manifest: ImageManifest) {
        let manifest = try await reader.manifest(release.image.manifest)
        guard manifest.image == release.image.digest, manifest.size == release.image.size else {
            throw FarmError("manifest.invalid", .corrupt, "the manifest of \(release.title) is of another image")
        }
        let locations = try await reader.locations(of: manifest, digest: release.image.manifest)
        let plan = ImageRebuild(manifest: manifest, locations: locations)
        return (try await Blocking.run { [self] in try withSeeds(plan, release, manifest.chunker) }, manifest)
    }

    /// Takes what lies here: remains of a broken pull, other images of the site, one after the other, and files that the operator has named.
    private func withSeeds(_ plan: ImageRebuild, _ release: Release, _ parameters: ChunkerParameters) throws -> ImageRebuild {
        var plan = plan
        for directory in try site.remains(of: release.image.digest) { try? plan.take(fromPartial: "\(directory)/image.sif") }
        // Other versions of the same tool share most.
        let images = try site.imagesByLikeness(to: release)
        for directory in images where !plan.isLocal {
            guard let bytes = try? Disk.read("\(directory)/manifest"), let manifest = try? ImageManifest(bytes, source: directory) else {
                continue
            }
            plan.take(from: ImageRebuild.Seed(path: "\(directory)/image.sif", manifest: manifest))
        }
        let index = SeedIndex("\(site.root)/state/seeds")
        for path in try SitePull.files(of: release.name, in: (configuration.seeds ?? []) + seeds) where !plan.isLocal {
            // A seed that cannot be read is one less.
            guard let manifest = try? index.manifest(of: path, parameters: parameters) else { continue }
            plan.take(from: ImageRebuild.Seed(path: path, manifest: manifest))
        }
        return plan
    }

    /// Files that may have something of an image: those that were named, and those of named directories whose names begin like the image's.
    private static func files(of name: String, in paths: [String]) throws -> [String] {
        try paths.flatMap { path in
            guard Disk.isDirectory(path) else { return [path] }
            let names = try Disk.list(path).filter { $0.lowercased().hasPrefix(name.lowercased()) && !Disk.isDirectory("\(path)/\($0)") }
            return names.sorted { VersionOrder.precedes($1, $0) }.map { "\(path)/\($0)" }
        }
    }

    private final class Memory: Sendable {
        let trust: Mutex<ChannelTrust>

        init(_ trust: ChannelTrust) { self.trust = Mutex(trust) }
    }

    /// Fetches, rebuilds, verifies and installs. Killing it at any point leaves the site as it was or as it shall be.
    package func install(
        _ offer: Offer, now: Timestamp, progress: @escaping @Sendable (_ done: Int64, _ total: Int64) -> Void
    ) async throws -> Report {
        let started = Timestamp.now
        let release = offer.release
        let present = Disk.exists("\(site.imageDirectory(release.image.digest))/image.sif")
        let quote = try await bring(release, progress: progress)
        try await Blocking.run { [site] in
            try site.describe(release)
            try site.install(release, yanked: offer.yanked, now: now)
            try site.collect(try site.appearance().keeps, now: now, keepsImages: true)
        }
        return Report(
            release: release, alreadyThere: present, quote: quote, incidents: reader.incidents,
            seconds: Timestamp.now.seconds(since: started))
    }

    /// Fetches, rebuilds and verifies an image that is not there yet; shows nothing.
    package func bring(_ release: Release, progress: @escaping @Sendable (_ done: Int64, _ total: Int64) -> Void) async throws
        -> ImageRebuild.Quote
    {
        let directory = site.imageDirectory(release.image.digest)
        if Disk.exists("\(directory)/image.sif") {
            return ImageRebuild.Quote(imageBytes: release.image.size, fetchBytes: 0, fetchChunks: 0, seedBytes: release.image.size)
        }
        return try await fetch(release, into: directory, progress: progress)
    }

    private func fetch(
        _ release: Release, into directory: String, progress: @escaping @Sendable (Int64, Int64) -> Void
    ) async throws -> ImageRebuild.Quote {
        try SitePull.check(release)
        let (rebuild, manifest) = try await rebuild(release)
        try site.sweepStaging(except: release.image.digest)
        try SitePull.requireSpace(release.image.size, at: site.root)
        let (staging, lock) = try site.stageImage(release.image.digest)
        defer { withExtendedLifetime(lock) {} }
        do {
            try await rebuild.write(to: "\(staging)/image.sif", from: reader, keepsRemains: true) { progress($0, release.image.size) }
            try Disk.replace("\(staging)/manifest", with: manifest.bytes)
            try Disk.replace("\(staging)/release.json", with: try CanonicalJSON.encode(release))
            let launch = try ImageLayout("\(staging)/image.sif").launch(release)
            try Disk.replace("\(staging)/launch", with: Array(launch.utf8))
            try site.settle(staging, as: release.image.digest)
        } catch {
            // What came is of use to the next try.
            if !error.mayPass { try? Disk.remove(staging) }
            throw error
        }
        for remains in (try? site.remains(of: release.image.digest)) ?? [] { try? Disk.remove(remains) }
        return rebuild.quote
    }

    /// Refuses names that could leave the directories that are made of them.
    static func check(_ release: Release) throws {
        for text in [release.name, release.version]
        where text.isEmpty || text.hasPrefix(".") || text.contains(where: { "/\n\0".contains($0) }) {
            throw FarmError("release.name", .invalid, "the release \(release.title) has a name that can be no file's: \(text)")
        }
        for command in release.commands where !CommandName.isValid(command) || command == "sciferry-launch" {
            throw FarmError("release.command", .invalid, "\(release.title) offers the command \"\(command)\", which is no command name")
        }
    }

    static func requireSpace(_ bytes: Int64, at path: String) throws {
        let free = try Disk.freeBytes(at: path)
        guard free > bytes + (64 << 20) else {
            throw FarmError(
                "disk.full", .full, "\(path) has \(free >> 20) MiB free, \((bytes >> 20) + 64) MiB are needed",
                hint: "free space there or use another directory")
        }
    }
}

/// An order of version texts: runs of digits by value, the rest by bytes.
package enum VersionOrder {
    package static func precedes(_ left: String, _ right: String) -> Bool {
        let a = parts(left)
        let b = parts(right)
        for (x, y) in zip(a, b) where x != y {
            if let m = Int(x), let n = Int(y) { return m < n }
            return x < y
        }
        return a.count < b.count
    }

    private static func parts(_ text: String) -> [String] {
        var result: [String] = []
        for character in text {
            if let last = result.last?.last, last.isNumber == character.isNumber {
                result[result.count - 1].append(character)
            } else {
                result.append(String(character))
            }
        }
        return result
    }
}
