package import FarmModel
import Microarchitecture

/// A tool that a site carries in one version, with its images.
package struct InstalledTool: Codable, Sendable, Hashable {
    package var name: String
    package var version: String
    /// One for each CPU target, best first; the last one runs on most machines. Never empty.
    package var releases: [Release]
    package var commands: [String]
    package var installedAt: Timestamp
    /// The name of its directory in `tools/NAME`, made from its content.
    package var directory: String
    /// Why nobody should begin to use it; absent where nothing is wrong.
    package var yanked: String?

    /// - Parameter releases: of one name and version, for different CPU targets, in any order; not empty.
    package init(_ releases: [Release], installedAt: Timestamp) {
        self.releases = releases.sorted(by: InstalledTool.isBetter)
        (name, version) = (releases[0].name, releases[0].version)
        var seen: Set<String> = []
        commands = self.releases.flatMap(\.commands).filter { seen.insert($0).inserted }
        self.installedAt = installedAt
        directory = ""
        directory = name(of: launch)
    }

    private func name(of launch: String) -> String {
        "\(version)-\(Digest(hashing: launch + commands.joined(separator: " ")).hex.prefix(12))"
    }

    /// Whether that is what its directory should say: what its name was made from, or what would be said now.
    func isWritten(as text: String) -> Bool { name(of: text) == directory || text == launch }

    /// Of the image that runs on most machines: what is said of all of them.
    package var release: Release { releases[releases.count - 1] }

    package var title: String { "\(name)/\(version)" }

    /// Those for more particular CPUs before those for more of them, so that the first that runs is the best.
    static func isBetter(_ left: Release, _ right: Release) -> Bool {
        func rank(_ release: Release) -> (Int, Int, String) {
            let target = Microarchitecture.named(release.image.target)
            return (target?.ancestors.count ?? 0, target?.features.count ?? 0, release.image.target)
        }
        return rank(left) > rank(right)
    }

    /// What the launcher reads: an offer for each image (docs/formats/launch.md).
    var launch: String {
        releases.map { release in
            let image = release.image
            let target = Microarchitecture.named(image.target)
            let words = [
                image.target, target?.family ?? image.architecture, target?.kernelVendor ?? "-",
                target.map { $0.kernelFeatures.joined(separator: " ") } ?? "", image.digest.hex,
            ]
            return "offer \(words.map(Launcher.quoted).joined(separator: " "))\n"
        }.joined()
    }
}

extension Launcher {
    /// A word for the shell, whatever is in it.
    static func quoted(_ text: String) -> String { "'\(text.replacing("'", with: "'\\''"))'" }

    /// What the launcher reads beside an image.
    ///
    /// - Parameters:
    ///   - offset: where the file system lies in it, in bytes.
    ///   - own: directories of its root that hold something and that a host's would hide.
    ///   - overridable: variables of which the user's word counts for more than the image's.
    ///   - arguments: words for Apptainer; those that could undo what the launcher arranges are left out.
    package static func imageLaunch(offset: Int64, own: [String] = [], overridable: [String] = [], arguments: [String] = []) -> String {
        let harmless = arguments.filter { ["--nv", "--rocm", "--writable-tmpfs"].contains($0) }
        var lines = ["offset \(offset)"]
        if !own.isEmpty { lines.append("own \(quoted(own.joined(separator: " ")))") }
        if !overridable.isEmpty { lines.append("overridable \(quoted(overridable.joined(separator: " ")))") }
        if !harmless.isEmpty { lines.append("arguments \(quoted(harmless.joined(separator: " ")))") }
        return lines.map { $0 + "\n" }.joined()
    }
}
