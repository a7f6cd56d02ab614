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
        /// What is wrong, with the declaration or with single tools of the channel. The rest is done.
        package var failures: [String]
        /// Tools that keep what is there of them, because something is wrong.
        var late: Set<String>
        /// Why versions that it will carry should not be used, by `NAME/VERSION`.
        package var yanked: [String: String]
        /// Commands that several tools have, with the tools' names: of those that are loaded the last one counts.
        package var shared: [String: [String]]
        /// All releases that it will carry.
        var releases: [Release]

        private enum CodingKeys: CodingKey { case channel, coming, going, staying, appearing, failures, yanked, shared }

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

    /// Compares the channel with what is there; changes nothing. Throws what `SitePull.channel` does, and `site.workflow`.
    package func plan(now: Timestamp) async throws -> Plan {
        let channel = try await pull.channel(now: now)
        let findings = Findings()
        let documents = Mutex<[Digest: Release]>([:])
        if declaration.asksForCategories { try await read(channel.entries, into: documents, findings) }
        let categories = Dictionary(documents.withLock { $0.values.map { ($0.name, $0.categories) } }) { $0 + $1 }
        let hosts = try hosts()
        let before = try site.installed()
        let entries = declaration.choose(channel.entries, hosts: hosts, carried: Set(before.map(\.title))) { categories[$0] ?? [] }
        for (rule, why) in declaration.unmet(channel.entries, hosts: hosts, categories: { categories[$0] ?? [] }) {
            let meant = before.filter { tool in rule.isAbout(tool.name) { _ in tool.release.categories } }
            // Nobody knows what a slip of the pen meant to keep.
            findings.add(why, about: (meant.isEmpty ? before : meant).map(\.name))
        }
        try await read(entries, into: documents, findings)
        var releases = documents.withLock { known in entries.compactMap { known[$0.release] } }
        var missing: [Release] = []
        for release in releases where !Disk.exists("\(site.imageDirectory(release.image.digest))/image.sif") {
            if !missing.contains(where: { $0.image.digest == release.image.digest }) { missing.append(release) }
        }
        let coming = try await quotes(missing, findings)
        let arriving = Set(coming.map(\.release.image.digest))
        let damaged = Set(missing.map(\.image.digest)).subtracting(arriving)
        releases.removeAll { damaged.contains($0.image.digest) }
        let yanked = SiteSync.yanked(channel.entries)
        let after = SiteSync.kept(SiteSync.tools(releases, yanked, before: before, now: now), before, late: findings.tools)
        for (name, why) in try ModuleTree(after, declaration.appearance).unmet
        where !findings.tools.contains(where: { ToolPattern.matches(name[...], $0[...]) }) { findings.add(why, about: []) }
        return Plan(
            channel: channel.version, followed: channel, entries: entries, coming: coming,
            going: before.filter { old in !after.contains { $0.title == old.title } }.map(\.title),
            staying: after.filter(before.contains).count,
            appearing: after.filter { tool in !before.contains(tool) && !tool.releases.contains { arriving.contains($0.image.digest) } }
                .map(\.title),
            failures: findings.words, late: findings.tools,
            yanked: yanked.filter { item in after.contains { $0.title == item.key } }, shared: SiteSync.shared(after), releases: releases)
    }

    /// What is wrong with single tools, and which these are.
    private final class Findings: Sendable {
        private let state = Mutex<(words: [String], tools: Set<String>)>(([], []))
        var words: [String] { state.withLock { $0.words } }
        var tools: Set<String> { state.withLock { $0.tools } }

        func add(_ words: String, about tools: [String]) {
            state.withLock { state in
                if !state.words.contains(words) { state.words.append(words) }
                state.tools.formUnion(tools)
            }
        }
    }

    /// What is shown with what stays of tools of which something is wrong.
    private static func kept(_ tools: [InstalledTool], _ before: [InstalledTool], late: Set<String>) -> [InstalledTool] {
        tools + before.filter { old in late.contains(old.name) && !tools.contains { $0.title == old.title } }
    }

    /// What the site will carry, each as it is there where it is there.
    private static func tools(
        _ releases: [Release], _ yanked: [String: String], before: [InstalledTool], now: Timestamp
    ) -> [InstalledTool] {
        Dictionary(grouping: releases) { "\($0.name)/\($0.version)" }.values.map { releases in
            let fresh = InstalledTool(releases, installedAt: now)
            var tool = before.first { $0.name == fresh.name && $0.directory == fresh.directory } ?? fresh
            tool.yanked = yanked[tool.title]
            return tool
        }
    }

    private static func shared(_ tools: [InstalledTool]) -> [String: [String]] {
        var owners: [String: Set<String>] = [:]
        for tool in tools { for command in tool.commands { owners[command, default: []].insert(tool.name) } }
        return owners.filter { $0.value.count > 1 }.mapValues { $0.sorted() }
    }

    private static func yanked(_ entries: [ChannelEntry]) -> [String: String] {
        Dictionary(entries.compactMap { entry in entry.yanked.map { ("\(entry.name)/\(entry.version)", $0) } }) { first, _ in first }
    }

    private func read(
        _ entries: [ChannelEntry], into documents: borrowing Mutex<[Digest: Release]>, _ findings: Findings
    ) async throws {
        let missing = documents.withLock { known in entries.filter { known[$0.release] == nil } }
        let found = try await SiteSync.each(missing, atOnce: SiteSync.documentsAtOnce) { [pull] entry -> (Digest, Release)? in
            do {
                let release = try await pull.release(entry)
                try SitePull.check(release)
                return (entry.release, release)
            } catch let error as FarmError where SiteSync.isItsOwn(error) {
                findings.add("\(entry.name)/\(entry.version) for \(entry.target): \(error)", about: [entry.name])
                return nil
            }
        }
        documents.withLock { known in for (digest, release) in found.compactMap(\.self) { known[digest] = release } }
    }

    /// Whether an error says something of one tool and nothing of the others.
    private static func isItsOwn(_ error: FarmError) -> Bool { error.category != .full && error.category != .cancelled }

    private func quotes(_ releases: [Release], _ findings: Findings) async throws -> [Plan.Coming] {
        try await SiteSync.each(releases, atOnce: SiteSync.documentsAtOnce) { [pull] release -> Plan.Coming? in
            do {
                let quote = try await pull.quote(release)
                return Plan.Coming(release: release, imageBytes: quote.imageBytes, fetchBytes: quote.fetchBytes)
            } catch let error as FarmError where SiteSync.isItsOwn(error) {
                findings.add("\(release.title): \(error)", about: [release.name])
                return nil
            }
        }.compactMap(\.self)
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
            } catch let error as FarmError where SiteSync.isItsOwn(error) {
                return (0, "\(release.title): \(error)")
            }
        }
        let generation = try await Blocking.run { [site, declaration] in
            try site.apply("sync with version \(plan.channel) of the channel", now: now, look: declaration.appearance) { tools in
                tools = try SiteSync.shown(plan, before: tools, site: site, now: now)
            }
        }
        let collected = try await Blocking.run { [site, declaration] in try site.collect(declaration.appearance.keeps, now: now) }
        return Report(
            generation: generation.number, images: results.filter { $0.1 == nil }.count, fetchedBytes: results.map(\.0).reduce(0, +),
            incidents: pull.reader.incidents, failures: plan.failures + results.compactMap(\.1), collected: collected,
            seconds: Timestamp.now.seconds(since: started))
    }

    /// What can be shown of what is wanted: tools with all images that are wanted of them; of others what was there, or where nothing was,
    /// what has come.
    private static func shown(_ plan: Plan, before: [InstalledTool], site: Site, now: Timestamp) throws -> [InstalledTool] {
        let there = try plan.releases.filter { release in
            guard Disk.exists("\(site.imageDirectory(release.image.digest))/image.sif") else { return false }
            try site.describe(release)
            return true
        }
        var late = plan.late
        var shown: [Release] = []
        for wanted in Dictionary(grouping: plan.releases, by: { "\($0.name)/\($0.version)" }).values {
            let come = wanted.filter(there.contains)
            let name = wanted[0].name
            if come.count < wanted.count { late.insert(name) }
            if come.count == wanted.count || !before.contains(where: { $0.name == name }) { shown += come }
        }
        return kept(tools(shown, plan.yanked, before: before, now: now), before, late: late)
    }
}
