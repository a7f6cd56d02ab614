/// What package managers and version control put into an image, as found in its files after the build.
package struct InstalledPackages: Codable, Sendable, Hashable {
    /// One package or checkout.
    package struct Package: Codable, Sendable, Hashable, Comparable {
        /// `dpkg`, `rpm`, `apk`, `python`, `conda`, `r`, `git`.
        package var manager: String
        package var name: String
        /// As the manager writes it; of `git` the commit.
        package var version: String

        package init(manager: String, name: String, version: String) {
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

    package init(_ packages: some Sequence<Package>) { self.packages = Set(packages).sorted() }
}
