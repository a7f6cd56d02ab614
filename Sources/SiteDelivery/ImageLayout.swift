package import FarmModel
import ImageAssembly
import SingularityImage

/// What the launcher must know of an image's file system.
package struct ImageLayout: Sendable {
    /// Where the file system lies in the image, in bytes.
    package let offset: Int64
    /// Directories of its root that hold something and are none that every system has: a host's of the same name must not hide them.
    package let own: [String]

    private static let everywhere: Set<String> = [
        "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "lost+found", "media", "mnt", "opt", "proc", "root", "run",
        "sbin",
        "snap", "srv", "sys", "tmp", "usr", "var",
    ]

    /// Reads an image; throws `image.squashfs`, `sif.invalid`.
    package init(_ path: String) throws {
        let image = try ImageFileSystem(path)
        offset = image.partition.offset
        let reader = try SquashfsReader(image.file, image.partition)
        own = try (reader.entries(in: "/") ?? []).filter { $0.kind == "d" }.map { String(decoding: $0.path.dropFirst(), as: UTF8.self) }
            .filter { name in
                guard !name.hasPrefix("."), !ImageLayout.everywhere.contains(name), name.allSatisfy(ImageLayout.isPlain) else {
                    return false
                }
                return try reader.entries(in: "/\(name)")?.isEmpty == false
            }
            .map { "/\($0)" }
    }

    private static func isPlain(_ character: Character) -> Bool {
        character.isASCII && (character.isLetter || character.isNumber || "_.+-".contains(character))
    }

    /// The image's `launch` file (docs/formats/launch.md).
    package func launch(_ release: Release) -> String {
        Launcher.imageLaunch(
            offset: offset, own: own, overridable: release.overridable ?? [], arguments: release.runtimeArguments ?? [])
    }
}
