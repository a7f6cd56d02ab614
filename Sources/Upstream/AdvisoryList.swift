package import FarmModel
import Foundation

/// Advisories that a package's newer version mends, for Debian's and Ubuntu's packages.
///
/// Read from Debian's own lists of advisories (`data/DSA/list` and `data/DLA/list` of the security tracker) and from documents of the
/// OSV schema (https://ossf.github.io/osv-schema/).
package struct AdvisoryList: Sendable {
    private struct Fix: Sendable {
        var advisory: String
        /// From this version on it is affected; `nil` for all.
        var introduced: PackageVersion?
        var fixed: PackageVersion
    }

    /// By distribution (`bookworm`, or `debian 12`) and source package.
    private var fixes: [String: [String: [Fix]]] = [:]
    /// Advisories that were read.
    package private(set) var count = 0

    package init() {}

    /// Takes a text in whose form it sees what it is; throws `advisory.form`.
    ///
    /// - Parameter source: where it comes from, for messages.
    package mutating func add(_ bytes: [UInt8], source: String) throws {
        let beginning = bytes.lazy.filter { !" \t\r\n".utf8.contains($0) }.prefix(2)
        if beginning.first == UInt8(ascii: "{") {
            try add(osv: [read(OSV.self, bytes, source)])
        } else if beginning.elementsEqual("[{".utf8) || beginning.elementsEqual("[]".utf8) {
            try add(osv: read([OSV].self, bytes, source))
        } else {
            try add(tracker: String(decoding: bytes, as: UTF8.self), source)
        }
    }

    /// Advisories that an image has and that newer packages of its distribution mend, sorted.
    package func mended(in installed: InstalledPackages) -> [String] {
        guard let distribution = installed.distribution else { return [] }
        let tables = [fixes[distribution.codename], fixes["\(distribution.id) \(distribution.version)"]].compactMap { $0 }
        var found: Set<String> = []
        for package in installed.packages where package.manager == "dpkg" {
            let version = PackageVersion(package.sourceVersion ?? package.version)
            for fix in tables.flatMap({ $0[package.source ?? package.name] ?? [] }) where version < fix.fixed {
                if fix.introduced.map({ $0 <= version }) ?? true { found.insert(fix.advisory) }
            }
        }
        return found.sorted()
    }

    private mutating func add(_ fix: Fix, _ package: String, _ distribution: String) {
        fixes[distribution, default: [:]][package, default: []].append(fix)
    }

    // MARK: Debian's tracker

    /// A line for the advisory, one with its CVEs, and one for each release: `\t[bookworm] - package version`.
    private mutating func add(tracker text: String, _ source: String) throws {
        var advisory = ""
        var isList = false
        for line in text.split(whereSeparator: \.isNewline) {
            if line.hasPrefix("[") {
                guard let end = line.firstIndex(of: "]") else { continue }
                advisory = line[line.index(after: end)...].split(separator: " ").first.map(String.init) ?? ""
                guard advisory.contains("-"), AdvisoryList.isName(advisory) else {
                    throw AdvisoryList.strange(source, "\"\(line.prefix(80))\" is no advisory")
                }
                isList = true
                count += 1
            } else if let start = line.firstIndex(of: "["), let end = line.firstIndex(of: "]"), line[..<start].allSatisfy(\.isWhitespace) {
                let words = line[line.index(after: end)...].split(separator: " ")
                guard words.count >= 3, words[0] == "-", !words[2].hasPrefix("<"), !advisory.isEmpty else { continue }
                let fix = Fix(advisory: advisory, introduced: nil, fixed: PackageVersion(words[2]))
                add(fix, String(words[1]), String(line[line.index(after: start)..<end]))
            }
        }
        guard isList else { throw AdvisoryList.strange(source, "it holds no advisory") }
    }

    /// Names become parts of links.
    private static func isName(_ text: String) -> Bool {
        (1...80).contains(text.utf8.count) && text.utf8.allSatisfy { $0.isAlphanumeric || ":._-".utf8.contains($0) }
    }

    private static func strange(_ source: String, _ why: String) -> FarmError {
        FarmError(
            "advisory.form", .invalid, "\(source) is no list of advisories: \(why.prefix(200))",
            hint: "a list of Debian's security tracker, or documents of the OSV schema")
    }

    // MARK: OSV

    private struct OSV: Decodable {
        struct Affected: Decodable {
            struct Package: Decodable {
                var ecosystem: String
                var name: String
            }
            struct Range: Decodable {
                struct Event: Decodable {
                    var introduced: String?
                    var fixed: String?
                }
                var type: String
                var events: [Event]?
            }
            var package: Package?
            var ranges: [Range]?
        }
        var id: String
        var withdrawn: String?
        var affected: [Affected]?
    }

    private func read<Value: Decodable>(_ type: Value.Type, _ bytes: [UInt8], _ source: String) throws -> Value {
        do { return try JSONDecoder().decode(type, from: Data(bytes)) } catch { throw AdvisoryList.strange(source, "\(error)") }
    }

    private mutating func add(osv documents: [OSV]) {
        for document in documents where document.withdrawn == nil && AdvisoryList.isName(document.id) {
            count += 1
            for affected in document.affected ?? [] {
                // "Ubuntu:24.04:LTS", "Ubuntu:Pro:16.04:LTS", whose mended packages are for customers, and "Debian:12".
                guard let package = affected.package else { continue }
                let parts = package.ecosystem.split(separator: ":")
                guard parts.count >= 2, ["Debian", "Ubuntu"].contains(parts[0]), parts[1].first?.isNumber ?? false else { continue }
                for range in affected.ranges ?? [] where range.type == "ECOSYSTEM" {
                    var introduced: PackageVersion?
                    for event in range.events ?? [] {
                        if let text = event.introduced { introduced = text == "0" ? nil : PackageVersion(text) }
                        guard let fixed = event.fixed else { continue }
                        let fix = Fix(advisory: document.id, introduced: introduced, fixed: PackageVersion(fixed))
                        add(fix, package.name, "\(parts[0].lowercased()) \(parts[1])")
                    }
                }
            }
        }
    }
}
