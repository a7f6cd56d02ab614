import Foundation

/// What package managers and version control put into an image, as found in its files after the build.
package struct InstalledPackages: Codable, Sendable, Hashable {
    /// One package or checkout.
    package struct Package: Codable, Sendable, Hashable, Comparable {
        /// `dpkg`, `rpm`, `apk`, `python`, `conda`, `r`, `git`.
        package var manager: String
        package var name: String
        /// As the manager writes it; of `git` the commit.
        package var version: String
        /// Of `dpkg`: the source package and its version, where they are not the package's own. Absent in records of older versions.
        package var source: String?
        package var sourceVersion: String?

        package init(manager: String, name: String, version: String, source: String? = nil, sourceVersion: String? = nil) {
            self.source = source
            self.sourceVersion = sourceVersion
            self.manager = manager
            self.name = name
            self.version = version
        }

        package static func < (left: Package, right: Package) -> Bool {
            (left.manager, left.name, left.version) < (right.manager, right.name, right.version)
        }
    }

    package var format = 1
    /// Sorted, each once.
    package var packages: [Package]

    /// What the image's packages come from. Absent in records of older versions and for images that do not say.
    package var distribution: Distribution?

    package init(_ packages: some Sequence<Package>, distribution: Distribution? = nil) {
        self.packages = Set(packages).sorted()
        self.distribution = distribution
    }

    /// A release of a distribution, as os-release(5) names it.
    package struct Distribution: Codable, Sendable, Hashable {
        /// `debian`, `ubuntu`.
        package var id: String
        /// `12`, `24.04`; empty for one that rolls.
        package var version: String
        /// `bookworm`; empty where there is none.
        package var codename: String

        package init(id: String, version: String, codename: String) {
            self.id = id
            self.version = version
            self.codename = codename
        }

        /// Reads os-release(5); `nil` for a text that names no distribution.
        package init?(osRelease text: String) {
            var values: [Substring: String] = [:]
            for line in text.split(whereSeparator: \.isNewline) {
                let parts = line.split(separator: "=", maxSplits: 1)
                guard parts.count == 2, parts[1].utf8.count < 1024 else { continue }
                values[parts[0]] = parts[1].trimmingCharacters(in: .init(charactersIn: "\"' \t"))
            }
            guard let id = values["ID"], !id.isEmpty else { return nil }
            self.init(id: id, version: values["VERSION_ID"] ?? "", codename: values["VERSION_CODENAME"] ?? "")
        }
    }
}
