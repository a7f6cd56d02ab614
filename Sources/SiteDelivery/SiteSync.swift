package import ChunkStore
package import FarmModel
package import Microarchitecture
import Synchronization
import SystemIO

/// Makes a site what its declaration says, from what the channel has.
package struct SiteSync: Sendable {
    /// What a sync would do.
    package struct Plan: Encodable, Sendable {
        /// An image that the site lacks.
        package struct Coming: Codable, Sendable {
            package var release: Release
            package var imageBytes: Int64
            package var fetchBytes: Int64
        }

        /// The version of the channel that it follows.
        package var channel: Int
        /// That version, and what of it the site carries.
        var followed: ReleaseChannel
        var entries: [ChannelEntry]
        package var coming: [Coming]
        /// Tools that the site will carry no more, as `NAME/VERSION`.
        package var going: [String]
        /// Tools that are there already and stay as they are.
        package var staying: Int
        /// Tools of which the images are there, and which the site will show anew.
        package var appearing: [String]
        /// All releases that it will carry.
        var releases: [Release]

        private enum CodingKeys: CodingKey { case channel, coming, going, staying, appearing }

        package var fetchBytes: Int64 { coming.map(\.fetchBytes).reduce(0, +) }
        package var imageBytes: Int64 { coming.map(\.imageBytes).reduce(0, +) }
    }

    /// What a sync did.
    package struct Report: Codable, Sendable {
        package var generation: Int
        package var images: Int
        package var fetchedBytes: Int64
        package var incidents: [ReadIncident]
        /// What could not be brought, and why.
        package var failures: [String]
        package var collected: SiteCollection
        /// What else was written, or not.
        package var outputs: [SiteOutputs.Result] = []
        package var seconds: Double
    }

    private let site: Site
    private let pull: SitePull
    private let declaration: SiteDeclaration
    private let host: Microarchitecture

    /// How many documents are read and how many images are brought at once.
    private static let documentsAtOnce = 16
    private static let imagesAtOnce = 4

    /// - Parameter host: this machine's CPU target, for declarations that name none.
    package init(_ site: Site, pull: SitePull, declaration: SiteDeclaration, host: Microarchitecture) {
        self.site = site
        self.pull = pull
        self.declaration = declaration
        self.host = host
    }

    private func hosts() throws -> [Microarchitecture] {
        if declaration.targets.isEmpty { return [host] }
        return try declaration.targets.map { name in
            guard let target = Microarchitecture.named(name) else {
                throw FarmError("site.target", .invalid, "site.yaml: \(name) is no CPU target", hint: "sciferry cpu list shows all")
            }
            return target
        }
    }

    /// Compares the channel with what is there; changes nothing. Throws what `SitePull.channel` does, and `site.empty` for a rule that
    /// nothing meets.
    package func plan(now: Timestamp) async throws -> Plan {
        let channel = try await pull.channel(now: now)
        let documents = Mutex<[Digest: Release]>([:])
        if declaration.asksForCategories { try await read(channel.entries, into: documents) }
        let categories = Dictionary(documents.withLock { $0.values.map { ($0.name, $0.categories) } }) { $0 + $1 }
        let entries = declaration.choose(channel.entries, hosts: try hosts()) { categories[$0] ?? [] }
        try checkRules(channel.entries, categories)
        try await read(entries, into: documents)
        let releases = documents.withLock { known in entries.compactMap { known[$0.release] } }
        for release in releases { try SitePull.check(release) }
        let before = try site.installed()
        let after = SiteSync.tools(releases, before: before, now: now)
        var missing: [Release] = []
        for release in releases where !Disk.exists("\(site.imageDirectory(release.image.digest))/image.sif") {
            if !missing.contains(where: { $0.image.digest == release.image.digest }) { missing.append(release) }
        }
        let coming = try await quotes(missing)
        let arriving = Set(missing.map(\.image.digest))
        return Plan(
            channel: channel.version, followed: channel, entries: entries, coming: coming,
            going: before.filter { old in !after.contains { $0.title == old.title } }.map(\.title),
            staying: after.filter(before.contains).count,
            appearing: after.filter { tool in !before.contains(tool) && !tool.releases.contains { arriving.contains($0.image.digest) } }
                .map(\.title),
            releases: releases)
    }

    /// A rule that names a tool which nobody has ever released is a slip of the pen.
    private func checkRules(_ entries: [ChannelEntry], _ categories: [String: [String]]) throws {
        for rule in declaration.rules {
            let met = entries.contains { entry in
                ToolPattern.matches(rule.name[...], entry.name[...])
                    && (rule.category.map { wanted in
                        (categories[entry.name] ?? []).contains { ModuleTree.slug($0) == ModuleTree.slug(wanted) }
                    } ?? true)
            }
            guard !met else { continue }
            throw FarmError(
                "site.empty", .notFound,
                "the channel has no tool \(rule.name)\(rule.category.map { " in the category \($0)" } ?? ""), which site.yaml names",
                hint: "sciferry list shows what it has")
        }
    }

    /// What the site will carry, each as it is there where it is there.
    private static func tools(_ releases: [Release], before: [InstalledTool], now: Timestamp) -> [InstalledTool] {
        Dictionary(grouping: releases) { "\($0.name)/\($0.version)" }.values.map { releases in
            let tool = InstalledTool(releases, installedAt: now)
            return before.first { $0.name == tool.name && $0.directory == tool.directory } ?? tool
        }
    }

    private func read(_ entries: [ChannelEntry], into documents: borrowing Mutex<[Digest: Release]>) async throws {
        let missing = documents.withLock { known in entries.filter { known[$0.release] == nil } }
        for (digest, release) in try await SiteSync.each(
            missing, atOnce: SiteSync.documentsAtOnce,
            { [pull] entry in
                (entry.release, try await pull.release(entry))
            })
        {
            documents.withLock { $0[digest] = release }
        }
    }

    private func quotes(_ releases: [Release]) async throws -> [Plan.Coming] {
        try await SiteSync.each(releases, atOnce: SiteSync.documentsAtOnce) { [pull] release in
            let quote = try await pull.quote(release)
            return Plan.Coming(release: release, imageBytes: quote.imageBytes, fetchBytes: quote.fetchBytes)
        }
    }

    /// Does something for each, so many at once; results in the order of their causes.
    private static func each<Item: Sendable, Result: Sendable>(
        _ items: [Item], atOnce width: Int, _ body: @escaping @Sendable (Item) async throws -> Result
    ) async throws -> [Result] {
        try await withThrowingTaskGroup(of: (Int, Result).self) { group in
            var results = [Result?](repeating: nil, count: items.count)
            var next = 0
            func begin() {
                guard next < items.count else { return }
                let (index, item) = (next, items[next])
                group.addTask { (index, try await body(item)) }
                next += 1
            }
            for _ in 0..<width { begin() }
            while let (index, result) = try await group.next() {
                results[index] = result
                begin()
            }
            return results.compactMap { $0 }
        }
    }

    /// Brings what is missing, then shows everything in one step, then collects by the site's policy. What could not be brought keeps what
    /// was there of its tool; the next sync goes on from what has come.
    ///
    /// - Parameter progress: bytes that are there, of all that come.
    package func run(_ plan: Plan, now: Timestamp, progress: @escaping @Sendable (_ done: Int64, _ total: Int64) -> Void) async throws
        -> Report
    {
        let started = Timestamp.now
        let running = try FileLock("\(site.root)/state/sync.lock", holder: "a sync", hint: "let it finish")
        defer { withExtendedLifetime(running) {} }
        let total = plan.imageBytes
        let done = Mutex<[Digest: Int64]>([:])
        let results = try await SiteSync.each(plan.coming.map(\.release), atOnce: SiteSync.imagesAtOnce) {
            [pull] release -> (Int64, String?) in
            do {
                let quote = try await pull.bring(release) { bytes, _ in
                    let sum = done.withLock { known in
                        known[release.image.digest] = bytes
                        return known.values.reduce(0, +)
                    }
                    progress(sum, total)
                }
                return (quote.fetchBytes, nil)
            } catch let error as FarmError where error.category != .full && error.category != .cancelled {
                return (0, "\(release.title): \(error)")
            }
        }
        let generation = try await Blocking.run { [site, declaration] in
            try site.remember(declaration.appearance)
            return try site.apply("sync with version \(plan.channel) of the channel", now: now) { tools in
                tools = try SiteSync.shown(plan.releases, before: tools, site: site, now: now)
            }
        }
        let collected = try await Blocking.run { [site, declaration] in try site.collect(declaration.appearance.keeps, now: now) }
        return Report(
            generation: generation.number, images: results.filter { $0.1 == nil }.count, fetchedBytes: results.map(\.0).reduce(0, +),
            incidents: pull.reader.incidents, failures: results.compactMap(\.1), collected: collected,
            seconds: Timestamp.now.seconds(since: started))
    }

    /// What can be shown of what is wanted: whole tools; of one whose new version is not there yet, what was.
    private static func shown(_ releases: [Release], before: [InstalledTool], site: Site, now: Timestamp) throws -> [InstalledTool] {
        let there = try releases.filter { release in
            guard Disk.exists("\(site.imageDirectory(release.image.digest))/image.sif") else { return false }
            try site.describe(release)
            return true
        }
        let late = Set(releases.filter { !there.contains($0) }.map(\.name))
        let now = tools(there, before: before, now: now)
        return now + before.filter { old in late.contains(old.name) && !now.contains { $0.title == old.title } }
    }
}
