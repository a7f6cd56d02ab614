import FarmModel
package import ObjectStorage

/// How a site's tools look to its users and run on its machines: what `site.yaml` says of it, and what holds without one.
package struct SiteAppearance: Codable, Sendable, Hashable {
    /// How module files are named.
    package enum Naming: String, Codable, Sendable, CaseIterable {
        /// `NAME/VERSION`.
        case flat
        /// `CATEGORY/NAME/VERSION`, by the tool's first category.
        case category
        /// `all/NAME/VERSION`, and links to it in a directory for each category, as EasyBuild lays modules out; users see `all`.
        case easybuild
    }

    /// A module that loads others.
    package struct Workflow: Codable, Sendable, Hashable {
        package var name: String
        package var version: String
        package var description: String
        /// `NAME` or `NAME/VERSION`.
        package var modules: [String]

        package init(name: String, version: String, description: String, modules: [String]) {
            self.name = name
            self.version = version
            self.description = description
            self.modules = modules
        }
    }

    package var naming = Naming.flat
    /// Versions that a module without one means, by the tool's name; the newest where nothing is said.
    package var defaults: [String: String] = [:]
    /// Patterns, `NAME` or `NAME/VERSION`, of modules that are loaded by name and not shown.
    package var hidden: [String] = []
    package var workflows: [Workflow] = []
    /// Text that ends every module file, in Lua and in Tcl.
    package var luaHook = ""
    package var tclHook = ""
    /// What runs images; empty for what a machine has.
    package var runtime = ""
    /// Directories of the machines that every call shows.
    package var bind: [String] = []
    package var usesGPUs = true
    /// Further variables of which the user's word counts for more than the image's.
    package var environment: [String] = []
    /// Values of variables that the user has not set: licences, for example. A path in the site begins with `@SITE@/`.
    package var variables: [String: String] = [:]
    /// Where users see the site; empty for where it was made.
    package var prefix = ""
    package var keeps = Keeping()
    package var outputs = Outputs()

    /// What else shows the site's tools and is kept as the site is. Relative paths are ones in the site.
    package struct Outputs: Codable, Sendable, Hashable {
        /// Whose desktop menu: `user`, `system`, or a directory that machines name in `XDG_DATA_DIRS` (with `/share`) and `XDG_CONFIG_DIRS`
        /// (with `/xdg`).
        package var menu: String?
        /// Where registries for singularity-hpc and Neurodesk are written.
        package var shpc: String?
        package var neurodesk: String?
        /// A bucket that holds all that the site's releases need.
        package var mirror: BucketLocation?

        package init() {}
    }

    /// What of the past stays.
    package struct Keeping: Codable, Sendable, Hashable {
        /// At least so many generations before the current one.
        package var generations = 3
        /// And all of so many days.
        package var days = 14

        package init() {}
    }

    package init() {}

    /// What the launcher reads for the whole site.
    var launch: String {
        var lines: [String] = []
        if !runtime.isEmpty { lines.append("runtime \(Launcher.quoted(runtime))") }
        for directory in bind { lines.append("bind \(Launcher.quoted(directory))") }
        if !usesGPUs { lines.append("gpu off") }
        if !environment.isEmpty { lines.append("overridable \(Launcher.quoted(environment.joined(separator: " ")))") }
        for (name, value) in variables.sorted(by: { $0.key < $1.key }) { lines.append("default \(name) \(Launcher.quoted(value))") }
        return lines.map { $0 + "\n" }.joined()
    }

    func hides(_ tool: InstalledTool) -> Bool { hidden.contains { ToolPattern($0).matches(name: tool.name, version: tool.version) } }
}

/// `NAME` or `NAME/VERSION`, in either of which `*` stands for anything.
package struct ToolPattern: Sendable, Hashable {
    package let name: String
    package let version: String?

    package init(_ text: String) {
        let parts = text.split(separator: "/", maxSplits: 1).map(String.init)
        name = parts.first ?? ""
        version = parts.count > 1 ? parts[1] : nil
    }

    package func matches(name: String, version: String) -> Bool {
        ToolPattern.matches(self.name[...], name[...]) && (self.version.map { ToolPattern.matches($0[...], version[...]) } ?? true)
    }

    /// Goes back to the last star only, so that no pattern takes long.
    static func matches(_ pattern: Substring, _ text: Substring) -> Bool {
        var (pattern, text) = (pattern, text)
        var star: (pattern: Substring, text: Substring)?
        while let character = text.first {
            if pattern.first == "*" {
                pattern.removeFirst()
                star = (pattern, text)
            } else if let wanted = pattern.first, wanted == character {
                pattern.removeFirst()
                text.removeFirst()
            } else if let last = star {
                star = (last.pattern, last.text.dropFirst())
                (pattern, text) = (last.pattern, last.text.dropFirst())
            } else {
                return false
            }
        }
        return pattern.allSatisfy { $0 == "*" }
    }
}
