/// A tool and, perhaps, its version, as people ask for them.
package struct ReleaseWish: Codable, Sendable, Hashable {
    package var name: String
    /// `nil` for the newest. BioContainers' tags are versions too, whole or without the image's own build.
    package var version: String?

    package init(name: String, version: String? = nil) {
        self.name = name
        self.version = version
    }

    /// How well a version meets the wish: 0 not at all, 1 under another name of the same, 2 by its own name.
    package func match(_ version: String) -> Int {
        guard let wanted = self.version else { return 2 }
        if wanted == version { return 2 }
        // Of several packages: a hash of their versions, and behind it the number of the build.
        if name.hasPrefix("mulled-v") { return version.hasPrefix("\(wanted)-") ? 1 : 0 }
        // Of one: 1.9--h91753b0_8 is a build of 1.9.
        return wanted.hasPrefix("\(version)--") ? 1 : 0
    }

    /// `fsl 6.0.7`, for people.
    package var title: String { version.map { "\(name) \($0)" } ?? name }
}
