import Foundation
import FarmModel
import SystemIO

/// What shows a site's tools beside the site itself and is kept as the site is: Lmod's cache, menus of desktops, other people's formats.
package struct SiteOutputs: Sendable {
    /// One that was written, or why it was not.
    package struct Result: Codable, Sendable {
        /// As `site.yaml` names it; `cache` is Lmod's.
        package var output: String
        package var place: String
        /// In words, for people.
        package var done: String?
        package var failure: String?

        package init(output: String, place: String, done: String? = nil, failure: String? = nil) {
            (self.output, self.place, self.done, self.failure) = (output, place, done, failure)
        }
    }

    private let site: Site
    private let appearance: SiteAppearance
    private let environment: [String: String]

    /// - Parameter environment: says where a user's menus are (`HOME`, `XDG_DATA_HOME`, `XDG_CONFIG_HOME`).
    package init(_ site: Site, environment: [String: String]) throws {
        self.site = site
        self.environment = environment
        appearance = try site.appearance()
    }

    /// Whether anything is kept.
    package var isEmpty: Bool { !Disk.exists("\(site.root)/caches") && appearance.outputs == SiteAppearance.Outputs() }

    /// Writes all of them anew; one that cannot be written keeps nobody from the others.
    package func write() async -> [Result] {
        var results: [Result] = []
        func add(_ output: String, _ place: String, _ body: () async throws -> String?) async {
            do {
                if let done = try await body() { results.append(Result(output: output, place: place, done: done)) }
            } catch { results.append(Result(output: output, place: place, failure: "\(error)")) }
        }
        await add("cache", "\(site.root)/cache") { [site] in
            _ = try await SpiderCache(site).refresh()
            return nil
        }
        if let menu = appearance.outputs.menu {
            await add("menu", menu) { [site, environment] in
                let menu = try DesktopMenu(site, DesktopMenu.Place(menu, site: site, environment: environment))
                let programs = try await Blocking.run { try menu.write() }
                await menu.refreshCaches()
                return "\(programs.count) programs"
            }
        }
        for (format, place) in [(SiteExport.Format.shpc, appearance.outputs.shpc), (.neurodesk, appearance.outputs.neurodesk)] {
            guard let place else { continue }
            await add(format.rawValue, place) { [site] in
                let count = try await Blocking.run { try SiteExport(site).write(format, into: site.path(place)) }
                return "\(count) tools"
            }
        }
        return results
    }
}

extension Site {
    /// A path that may be one in the site.
    package func path(_ path: String) -> String { path.hasPrefix("/") ? path : "\(root)/\(path)" }
}
