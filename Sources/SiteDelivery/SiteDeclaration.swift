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

        package init(name: String, category: String? = nil, versions: Versions) {
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

    /// The entries of a channel that the site carries: of each chosen version the best for every kind of machine.
    ///
    /// - Parameters:
    ///   - hosts: the machines' CPU targets.
    ///   - categories: those of a tool.
    package func choose(_ entries: [ChannelEntry], hosts: [Microarchitecture], categories: (String) -> [String]) -> [ChannelEntry] {
        var chosen: Set<ChannelEntry> = []
        for (name, all) in Dictionary(grouping: entries, by: \.name) {
            let usable = all.filter { entry in !except.contains { ToolPattern($0).matches(name: entry.name, version: entry.version) } }
                .filter { entry in Microarchitecture.named(entry.target).map { target in hosts.contains { $0.dominates(target) } } ?? false
                }
            let versions = Set(usable.map(\.version)).sorted { VersionOrder.precedes($1, $0) }
            var wanted: Set<String> = []
            for rule in rules where ToolPattern.matches(rule.name[...], name[...]) {
                if let category = rule.category {
                    guard categories(name).contains(where: { ModuleTree.slug($0) == ModuleTree.slug(category) }) else { continue }
                }
                switch rule.versions {
                case .newest(let count): wanted.formUnion(versions.prefix(count))
                case .all: wanted.formUnion(versions)
                case .matching(let patterns):
                    for pattern in patterns {
                        wanted.formUnion(versions.first { ToolPattern.matches(pattern[...], $0[...]) }.map { [$0] } ?? [])
                    }
                }
            }
            for version in wanted {
                let offers = usable.filter { $0.version == version }
                for host in hosts { if let best = SiteDeclaration.best(offers, for: host) { chosen.insert(best) } }
            }
        }
        return chosen.sorted { ($0.name, $0.version, $0.target) < ($1.name, $1.version, $1.target) }
    }

    /// The offer with the highest target that a host runs.
    static func best(_ offers: [ChannelEntry], for host: Microarchitecture) -> ChannelEntry? {
        offers.compactMap { offer in Microarchitecture.named(offer.target).map { (offer, $0) } }.filter { host.dominates($0.1) }
            .max { ($0.1.ancestors.count, $0.1.features.count) < ($1.1.ancestors.count, $1.1.features.count) }?.0
    }
}
