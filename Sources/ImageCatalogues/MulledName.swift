import FarmModel
import Crypto
import Foundation

/// How BioContainers names images of conda packages: `samtools:1.9--h91753b0_8` for one package, and
/// `mulled-v2-NAMES:VERSIONS-BUILD` with two SHA-1 sums for several (galaxyproject/galaxy, `mulled/util.py`).
package struct MulledName: Sendable, Hashable {
    /// A conda package, with what is asked of it.
    package struct Package: Sendable, Hashable, CustomStringConvertible {
        package var name: String
        package var version: String?
        package var build: String?

        package var description: String { ([name] + [version, build].compactMap(\.self)).joined(separator: "=") }
        /// `samtools 1.9`, for people.
        var title: String { version.map { "\(name) \($0)" } ?? name }
        /// What goes into the hash of versions.
        fileprivate var pinned: String { version.map { $0 + (build.map { "=\($0)" } ?? "") } ?? "null" }
    }

    package var name: String
    /// As it stands behind the colon.
    package var tag: String

    /// Reads `NAME:TAG`; `nil` for anything else.
    package init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2, PlainName.isValid(parts[0]), !parts[1].isEmpty else { return nil }
        (name, tag) = (parts[0], parts[1])
    }

    /// The name of the image with these packages.
    ///
    /// - Parameter build: the image's own number, which follows the hash of versions.
    package init(_ packages: [Package], build: String? = nil) {
        let sorted = packages.sorted { $0.name < $1.name }
        if let only = sorted.first, sorted.count == 1 {
            name = only.name
            tag = (only.version ?? "latest") + (only.build.map { "--\($0)" } ?? "")
            return
        }
        name = "mulled-v2-\(MulledName.hash(sorted.map(\.name)))"
        let versions = sorted.contains { $0.version != nil } ? MulledName.hash(sorted.map(\.pinned)) : nil
        tag = [versions, build].compactMap(\.self).joined(separator: "-")
    }

    /// Reads `samtools=1.3.1,bedtools=2.22`; throws `mulled.packages`.
    package static func packages(_ text: String) throws -> [Package] {
        let packages = try text.split(separator: ",", omittingEmptySubsequences: false).map { part in
            let words = part.trimmingCharacters(in: .whitespaces).split(separator: "=").map(String.init)
            // Some of conda's names begin with an underscore, as no file's does here.
            guard (1...3).contains(words.count), PlainName.isValid("a\(words[0])") else {
                throw FarmError(
                    "mulled.packages", .usage, "\"\(part)\" names no conda package", hint: "for example samtools=1.3.1,bedtools=2.22")
            }
            return Package(name: words[0], version: words.count > 1 ? words[1] : nil, build: words.count > 2 ? words[2] : nil)
        }
        guard Set(packages.map(\.name)).count == packages.count else {
            throw FarmError("mulled.packages", .usage, "\"\(text)\" names a package twice")
        }
        return packages
    }

    package var isOfSeveral: Bool { name.hasPrefix("mulled-v") }

    /// The tag without the build: `1.9`; of several packages the hash of their versions.
    package var version: String {
        if isOfSeveral { return tag.lastIndex(of: "-").map { String(tag[..<$0]) } ?? tag }
        return tag.range(of: "--").map { String(tag[..<$0.lowerBound]) } ?? tag
    }

    /// The number at the end, which grows with every build of the same version.
    package var buildNumber: Int {
        let digits = tag.reversed().prefix { $0.isASCII && $0.isNumber }
        return version == tag ? 0 : Int(String(digits.reversed())) ?? 0
    }

    private static func hash(_ lines: [String]) -> String {
        Insecure.SHA1.hash(data: Data(lines.joined(separator: "\n").utf8)).hex
    }
}
