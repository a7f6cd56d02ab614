package import FarmModel
import Foundation

/// A version that a service lists.
package struct UpstreamRelease: Sendable, Hashable {
    /// As the service writes it: a tag, or a version.
    package var label: String
    /// The service itself says that it is not ready.
    package var isPrerelease: Bool

    package init(_ label: String, isPrerelease: Bool = false) {
        self.label = label
        self.isPrerelease = isPrerelease
    }
}

/// How each service is asked and what it answers.
package enum UpstreamAnswer {
    /// The first page of a source's list.
    package static func url(_ source: UpstreamSource) -> String {
        let name = source.name
        switch source.kind {
        case .githubRelease: return "https://api.github.com/repos/\(name)/releases?per_page=100"
        case .githubTag: return "https://api.github.com/repos/\(name)/tags?per_page=100"
        case .gitlabRelease, .gitlabTag:
            let parts = name.split(separator: "/")
            let hasHost = parts.count > 2 && parts[0].contains(".")
            let host = hasHost ? String(parts[0]) : "gitlab.com"
            let project = parts.dropFirst(hasHost ? 1 : 0).joined(separator: "%2F")
            return
                "https://\(host)/api/v4/projects/\(project)/\(source.kind == .gitlabRelease ? "releases" : "repository/tags")?per_page=100"
        case .gitTag: return "\(name)/info/refs?service=git-upload-pack"
        case .bitbucketTag: return "https://api.bitbucket.org/2.0/repositories/\(name)/refs/tags?pagelen=100&sort=-target.date"
        case .pypi: return "https://pypi.org/pypi/\(name)/json"
        case .conda: return "https://api.anaconda.org/package/\(name)"
        case .cran: return "https://cran.r-project.org/web/packages/\(name)/DESCRIPTION"
        case .bioconductor: return "https://bioconductor.org/packages/release/bioc/src/contrib/PACKAGES"
        case .cpan: return "https://fastapi.metacpan.org/v1/release/\(name)"
        case .npm: return "https://registry.npmjs.org/\(name)"
        case .crates: return "https://crates.io/api/v1/crates/\(name)"
        case .rubygems: return "https://rubygems.org/api/v1/versions/\(name).json"
        case .debian: return "https://sources.debian.org/api/src/\(name)/"
        case .zenodo: return "https://zenodo.org/api/records/\(name)/versions?size=100&sort=version"
        case .sourceforge: return "https://sourceforge.net/projects/\(name)/rss?path=/"
        case .http: return name
        }
    }

    /// Reads an answer; throws `upstream.answer` for one of another form than the service's.
    package static func releases(_ bytes: [UInt8], _ source: UpstreamSource) throws -> [UpstreamRelease] {
        switch source.kind {
        case .githubRelease:
            struct Item: Decodable {
                var tag_name: String
                var prerelease: Bool?
                var draft: Bool?
            }
            return try list(Item.self, bytes, source).filter { !($0.draft ?? false) }
                .map { UpstreamRelease($0.tag_name, isPrerelease: $0.prerelease ?? false) }
        case .githubTag, .gitlabTag:
            struct Item: Decodable { var name: String }
            return try list(Item.self, bytes, source).map { UpstreamRelease($0.name) }
        case .gitlabRelease:
            struct Item: Decodable {
                var tag_name: String
                var upcoming_release: Bool?
            }
            return try list(Item.self, bytes, source).map { UpstreamRelease($0.tag_name, isPrerelease: $0.upcoming_release ?? false) }
        case .gitTag:
            do { return try GitReferences(bytes).tags.map { UpstreamRelease($0) } } catch { throw strange(source, "\(error)") }
        case .bitbucketTag:
            struct Page: Decodable {
                struct Item: Decodable { var name: String }
                var values: [Item]
            }
            return try one(Page.self, bytes, source).values.map { UpstreamRelease($0.name) }
        case .pypi:
            struct Project: Decodable {
                struct File: Decodable { var yanked: Bool? }
                var releases: [String: [File]]
            }
            // A version without files was withdrawn.
            return try one(Project.self, bytes, source).releases.filter { $0.value.contains { !($0.yanked ?? false) } }
                .map { UpstreamRelease($0.key) }
        case .conda:
            struct Package: Decodable { var versions: [String] }
            return try one(Package.self, bytes, source).versions.map { UpstreamRelease($0) }
        case .cran: return try [UpstreamRelease(field("Version", of: nil, in: bytes, source))]
        case .bioconductor: return try [UpstreamRelease(field("Version", of: source.name, in: bytes, source))]
        case .cpan:
            struct Release: Decodable { var version: Text }
            return try [UpstreamRelease(one(Release.self, bytes, source).version.value)]
        case .npm:
            struct Package: Decodable {
                struct Version: Decodable { var deprecated: Text? }
                var versions: [String: Version]
            }
            return try one(Package.self, bytes, source).versions.filter { $0.value.deprecated == nil }.map { UpstreamRelease($0.key) }
        case .crates:
            struct Crate: Decodable {
                struct Version: Decodable {
                    var num: String
                    var yanked: Bool?
                }
                var versions: [Version]
            }
            return try one(Crate.self, bytes, source).versions.filter { !($0.yanked ?? false) }.map { UpstreamRelease($0.num) }
        case .rubygems:
            struct Gem: Decodable {
                var number: String
                var prerelease: Bool?
            }
            return try list(Gem.self, bytes, source).map { UpstreamRelease($0.number, isPrerelease: $0.prerelease ?? false) }
        case .debian:
            struct Package: Decodable {
                struct Item: Decodable { var version: String }
                var versions: [Item]
            }
            return try one(Package.self, bytes, source).versions.map { UpstreamRelease(upstream($0.version)) }
        case .zenodo:
            struct Page: Decodable {
                struct Hits: Decodable {
                    struct Item: Decodable {
                        struct Metadata: Decodable { var version: String? }
                        var metadata: Metadata
                    }
                    var hits: [Item]
                }
                var hits: Hits
            }
            return try one(Page.self, bytes, source).hits.hits.compactMap { $0.metadata.version.map { UpstreamRelease($0) } }
        case .sourceforge:
            // <title><![CDATA[/releases/1.2/tool-1.2.tar.gz]]></title>
            let text = String(decoding: bytes, as: UTF8.self)
            let titles = text.matches(of: /<title>\s*(?:<!\[CDATA\[)?(\/[^\]<]*)/).map { String($0.1) }
            guard text.contains("<rss") else { throw strange(source, "no list of files") }
            return titles.map { UpstreamRelease(source.pattern == nil ? $0.split(separator: "/").last.map(String.init) ?? $0 : $0) }
        case .http:
            // What the pattern finds in each line; a line is bounded, for patterns may be slow.
            return String(decoding: bytes.prefix(4 << 20), as: UTF8.self).split(whereSeparator: \.isNewline)
                .flatMap { line in
                    let bytes = Array(line.utf8)
                    return stride(from: 0, to: bytes.count, by: 1000).map { start in
                        String(decoding: bytes[start..<min(start + 1200, bytes.count)], as: UTF8.self)
                    }
                }
                .map { UpstreamRelease($0) }
        }
    }

    /// A number or a text, as some services mix them.
    private struct Text: Decodable {
        var value: String
        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            value = (try? container.decode(String.self)) ?? "\((try? container.decode(Double.self)) ?? 0)"
        }
    }

    private static func one<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8], _ source: UpstreamSource) throws -> Value {
        do { return try JSONDecoder().decode(type, from: Data(bytes)) } catch { throw strange(source, "\(error)") }
    }

    private static func list<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8], _ source: UpstreamSource) throws -> [Value] {
        try one([Value].self, bytes, source)
    }

    private static func strange(_ source: UpstreamSource, _ why: String) -> FarmError {
        FarmError(
            "upstream.answer", .invalid,
            "\(source.kind.rawValue) \(source.name) answered in another form than it should: \(why.prefix(200))")
    }

    /// One field of the first stanza, or of that of a package, in Debian's control format, which R's archives share.
    private static func field(_ name: String, of package: String?, in bytes: [UInt8], _ source: UpstreamSource) throws -> String {
        var isWanted = package == nil
        for line in String(decoding: bytes, as: UTF8.self).split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
            if line.isEmpty { isWanted = package == nil }
            if let package, line.hasPrefix("Package:") { isWanted = line.dropFirst(8).trimmingCharacters(in: .whitespaces) == package }
            if isWanted, line.hasPrefix("\(name):") { return line.dropFirst(name.count + 1).trimmingCharacters(in: .whitespaces) }
        }
        throw strange(source, "no \(name)\(package.map { " of \($0)" } ?? "")")
    }

    /// The project's own version in one of Debian's: without epoch and revision (Debian Policy 5.6.12).
    private static func upstream(_ version: String) -> String {
        let plain = version.split(separator: ":", maxSplits: 1).last ?? ""
        let upstream = plain.lastIndex(of: "-").map { plain[..<$0] } ?? plain
        // Repacked without some of its files: 1.2+dfsg, 1.2~ds1. What is 1.2~rc1 is not 1.2.
        let whole = upstream.prefix { $0 != "+" }
        return String(whole.firstRange(of: "~d").map { whole[..<$0.lowerBound] } ?? whole)
    }
}
