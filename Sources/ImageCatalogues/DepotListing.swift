import FarmModel
import Foundation

/// A list of BioContainers' images as the Galaxy project's depot shows it: a page of links, or a name on each line.
package enum DepotListing {
    /// Reads a list. Of several builds of one version the newest counts.
    ///
    /// - Parameter combinations: the packages of images of several, by name and hash of versions (`MulledName`).
    package static func read(_ bytes: [UInt8], combinations: [MulledName: [MulledName.Package]] = [:]) throws -> Catalogue {
        let text = String(decoding: bytes, as: UTF8.self)
        var entries: [CatalogueEntry] = []
        var strangers: [String] = []
        var unknown = 0
        for name in names(text) {
            guard let image = MulledName(name) else {
                strangers.append(name)
                continue
            }
            var packages = [MulledName.Package(name: image.name, version: image.version)]
            if image.isOfSeveral {
                packages = combinations[image.withoutBuild] ?? []
                if packages.isEmpty { unknown += 1 }
            }
            let entry = CatalogueEntry(
                name: image.name, version: image.isOfSeveral ? image.tag : image.version, architecture: "x86_64",
                source: ImportSource(
                    catalogue: "depot", file: name, locations: [], packages: packages.map(\.description)),
                description: image.isOfSeveral ? packages.map(\.title).joined(separator: ", ") : "", categories: [])
            guard (try? entry.check(needsPlace: false)) != nil else {
                strangers.append(name)
                continue
            }
            entries.append(entry)
        }
        guard !entries.isEmpty else {
            throw FarmError(
                "catalogue.invalid", .invalid, "the list names no image",
                hint: "wanted: names like samtools:1.9--h91753b0_8, a line each, or a page of links")
        }
        var remarks: [String] = []
        if !strangers.isEmpty { remarks.append("\(strangers.count) names are left out: \(Catalogue.some(strangers))") }
        if unknown > 0 { remarks.append("of \(unknown) images of several packages nobody says which they are") }
        return Catalogue(entries, remarks: remarks) {
            (MulledName($0.source.file)?.buildNumber ?? 0, $0.source.file) < (MulledName($1.source.file)?.buildNumber ?? 0, $1.source.file)
        }
    }

    /// Reads the lists of BioContainers' multi-package-containers: lines `PACKAGE=VERSION,PACKAGE=VERSION` with more behind a tab.
    ///
    /// - Returns: the packages by the names that they give, and what was left out, for people.
    package static func combinations(
        _ files: [(path: String, bytes: [UInt8])]
    ) -> (packages: [MulledName: [MulledName.Package]], remarks: [String]) {
        var result: [MulledName: [MulledName.Package]] = [:]
        var odd: [String] = []
        for (path, bytes) in files {
            let lines = String(decoding: bytes, as: UTF8.self).split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
            for (number, line) in lines.enumerated() where !line.isEmpty && !line.hasPrefix("#") {
                guard let packages = try? MulledName.packages(String(line.prefix { $0 != "\t" })) else {
                    odd.append("\(path), line \(number + 1)")
                    continue
                }
                result[MulledName(packages)] = packages.sorted { $0.name < $1.name }
            }
        }
        return (result, odd.isEmpty ? [] : ["\(odd.count) lines are no list of packages: \(Catalogue.some(odd))"])
    }

    /// Each name once, in the list's order.
    private static func names(_ text: String) -> [String] {
        var seen: Set<String> = []
        let links = text.matches(of: /href\s*=\s*["']([^"'?#]+)["']/.ignoresCase()).map { String($0.1) }
        let lines =
            links.isEmpty
            ? text.split(whereSeparator: \.isNewline).compactMap { $0.split(whereSeparator: \.isWhitespace).first.map(String.init) } : links
        return lines.compactMap { line in
            let name = line.removingPercentEncoding ?? line
            let plain = name.hasPrefix("./") ? String(name.dropFirst(2)) : name
            guard !plain.isEmpty, !plain.hasPrefix("#"), !plain.hasPrefix("/"), !plain.hasSuffix("/"), !plain.contains("://"),
                plain != "..",
                seen.insert(plain).inserted
            else { return nil }
            return plain
        }
    }
}

extension MulledName {
    /// As lists of combinations know it.
    fileprivate var withoutBuild: MulledName {
        var name = self
        name.tag = version == tag && tag.utf8.count < 40 ? "" : version
        return name
    }
}
