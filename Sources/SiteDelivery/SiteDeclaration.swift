package import FarmModel
package import Microarchitecture

/// What a site carries and how it looks: what its `site.yaml` says (docs/sites.md).
package struct SiteDeclaration: Sendable, Hashable {
    /// Which versions of a tool.
    package enum Versions: Sendable, Hashable {
        /// The newest so many.
        case newest(Int)
        case all
        /// Patterns in which `*` stands for anything; of each the newest that meets it.
        case matching([String])
    }

    /// Tools that the site carries.
    package struct Rule: Sendable, Hashable {
        /// A pattern.
        package var name: String
        /// A category in which the tool must be, in any spelling; `nil` for any.
        package var category: String?
        package var versions: Versions
        /// Where it stands in the declaration; `nil` for one that stands in no file.
        package var line: Int?

        package init(name: String, category: String? = nil, versions: Versions, line: Int? = nil) {
            self.line = line
            self.name = name
            self.category = category
            self.versions = versions
        }
    }

    package var rules: [Rule] = []
    /// What the site does not carry, whatever the rules say: patterns.
    package var except: [String] = []
    /// CPU targets of the machines that use the site; empty for the machine that follows the channel.
    package var targets: [String] = []
    package var appearance = SiteAppearance()

    package init() {}

    /// Whether release documents must be read to tell what is carried.
    var asksForCategories: Bool { rules.contains { $0.category != nil } }

    /// The entries of a channel that the site carries: for every kind of machine the versions that are wanted of those which it runs, each
    /// in its best build.
    ///
    /// - Parameters:
    ///   - hosts: the machines' CPU targets.
    ///   - carried: `NAME/VERSION` of what is carried now: what is yanked stays where it is, and comes only where it is named.
    ///   - categories: those of a tool.
    package func choose(
        _ entries: [ChannelEntry], hosts: [Microarchitecture], carried: Set<String> = [], categories: (String) -> [String]
    ) -> [ChannelEntry] {
        var chosen: Set<ChannelEntry> = []
        for (name, all) in Dictionary(grouping: entries, by: \.name) {
            let wanted = all.filter { entry in !except.contains { ToolPattern($0).matches(name: entry.name, version: entry.version) } }
            let rules = rules.filter { $0.isAbout(name, categories) }
            for host in hosts {
                let usable = wanted.filter { entry in Microarchitecture.named(entry.target).map(host.dominates) ?? false }
                let yanked = Set(usable.filter { $0.yanked != nil }.map(\.version))
                let versions = Set(usable.map(\.version)).subtracting(yanked).sorted { VersionOrder.precedes($1, $0) }
                let kept = yanked.filter { version in
                    !rules.isEmpty && carried.contains("\(name)/\(version)") || rules.contains { $0.versions.names(version) }
                }
                for version in Set(rules.flatMap { $0.versions.choose(versions) }).union(kept) {
                    if let best = SiteDeclaration.best(usable.filter({ $0.version == version }), for: host) { chosen.insert(best) }
                }
            }
        }
        return chosen.sorted { ($0.name, $0.version, $0.target) < ($1.name, $1.version, $1.target) }
    }

    /// Rules that give nothing, with what is wrong: slips of the pen, or tools that the channel has lost.
    func unmet(
        _ entries: [ChannelEntry], hosts: [Microarchitecture], categories: (String) -> [String]
    ) -> [(rule: Rule, why: String)] {
        rules.compactMap { rule in
            var alone = self
            (alone.rules, alone.except) = ([rule], [])
            guard alone.choose(entries, hosts: hosts, categories: categories).isEmpty else { return nil }
            let named = entries.filter { rule.isAbout($0.name, categories) }
            let place = rule.line.map { "site.yaml:\($0)" } ?? "site.yaml"
            let what = rule.category.map { "\(rule.name) in the category \($0)" } ?? rule.name
            if named.isEmpty { return (rule, "\(place): the channel has no tool \(what); sciferry list shows what it has") }
            let versions = Set(named.map(\.version)).sorted { VersionOrder.precedes($0, $1) }
            if rule.versions.choose(versions).isEmpty {
                return (rule, "\(place): the channel has no such version of \(what), only \(versions.joined(separator: ", "))")
            }
            let targets = Set(named.map(\.target)).sorted().joined(separator: ", ")
            return (rule, "\(place): the channel has \(what) for \(targets) only, which none of the site's machines runs")
        }
    }

    /// The offer with the highest target that a host runs.
    static func best(_ offers: [ChannelEntry], for host: Microarchitecture) -> ChannelEntry? {
        offers.compactMap { offer in Microarchitecture.named(offer.target).map { (offer, $0) } }.filter { host.dominates($0.1) }
            .max { ($0.1.ancestors.count, $0.1.features.count) < ($1.1.ancestors.count, $1.1.features.count) }?.0
    }
}

extension SiteDeclaration.Rule {
    /// Whether it speaks of a tool, in some version.
    func isAbout(_ name: String, _ categories: (String) -> [String]) -> Bool {
        guard ToolPattern.matches(self.name[...], name[...]) else { return false }
        return category.map { wanted in categories(name).contains { ModuleTree.slug($0) == ModuleTree.slug(wanted) } } ?? true
    }
}

extension SiteDeclaration.Versions {
    /// Whether it speaks of that very version.
    func names(_ version: String) -> Bool { if case .matching(let patterns) = self { patterns.contains(version) } else { false } }

    /// Those of some versions, the newest first, that are wanted.
    func choose(_ versions: [String]) -> [String] {
        switch self {
        case .newest(let count): Array(versions.prefix(count))
        case .all: versions
        case .matching(let patterns):
            patterns.compactMap { pattern in versions.first { ToolPattern.matches(pattern[...], $0[...]) } }
        }
    }
}
