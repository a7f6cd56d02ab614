import FarmModel
import Glibc
import SystemIO

/// Reads recipes and their collections from directories.
package enum RecipeDirectory {
    private static let largest: Int64 = 16 << 20

    /// All files at and below the recipe's directory, which the argument names, or whose `build.yaml` it names.
    ///
    /// - Parameter collection: the collection's root; found from the recipe's place when it is not given.
    package static func read(_ argument: String, collection: RecipeCollection? = nil) throws -> RecipeSource {
        let isFile = argument.hasSuffix(".yaml") || argument.hasSuffix(".yml")
        let directory = isFile ? Disk.parent(of: Disk.absolute(argument)) : argument.hasSuffix("/") ? String(argument.dropLast()) : argument
        let path = isFile ? argument : "\(directory)/build.yaml"
        guard Disk.exists(path) else {
            throw FarmError("recipe.absent", .notFound, "\(path) does not exist", hint: "a recipe is a directory with a build.yaml")
        }
        var files: [String: [UInt8]] = [:]
        var total: Int64 = 0
        var executables: Set<String> = []
        try gather(directory, "", &files, &total) { path, place in if access(place, X_OK) == 0 { executables.insert(path) } }
        if isFile { files["build.yaml"] = try Disk.read(path, limit: largest) }
        let shared = try collection ?? RecipeCollection(files: root(of: directory).map(collectionFiles) ?? [:])
        return RecipeSource(path: path, files: files, executables: executables, collection: shared)
    }

    private static func gather(
        _ directory: String, _ prefix: String, _ files: inout [String: [UInt8]], _ total: inout Int64,
        found: (_ path: String, _ place: String) -> Void = { _, _ in }
    ) throws {
        for name in try Disk.list(directory) {
            let path = "\(directory)/\(name)"
            switch Disk.kind(path) {
            case .file, .directory: break
            case .link:
                // A link's file may be anybody's, and would be sent to the farm.
                guard let real = Disk.realPath(path), let root = Disk.realPath(directory.prefix(directory.count - prefix.count) + ""),
                    real.hasPrefix("\(root)/"), Disk.kind(real) == .file
                else {
                    throw FarmError("recipe.link", .invalid, "\(path) leads out of the recipe, or to no file", hint: "put a copy there")
                }
            case .other, nil:
                throw FarmError("recipe.file-kind", .invalid, "\(path) is neither a file nor a directory", hint: "take it away")
            }
            if Disk.kind(path) == .directory {
                if name != ".git" { try gather(path, "\(prefix)\(name)/", &files, &total, found: found) }
                continue
            }
            total += Disk.size(path) ?? 0
            guard total <= largest else {
                throw FarmError(
                    "recipe.too-large", .invalid, "\(directory) holds more than \(largest >> 20) MiB",
                    hint: "let the recipe download large files by url")
            }
            files["\(prefix)\(name)"] = try Disk.read(path, limit: largest)
            found("\(prefix)\(name)", path)
        }
    }

    /// A collection keeps its recipes in `recipes/NAME`.
    private static func root(of directory: String) -> String? {
        guard let real = Disk.realPath(directory) else { return nil }
        let parent = Disk.parent(of: real)
        return parent.hasSuffix("/recipes") ? Disk.parent(of: parent) : nil
    }

    /// The collection at a root.
    package static func collection(_ root: String) throws -> RecipeCollection {
        guard Disk.isDirectory("\(root)/recipes") else {
            throw FarmError(
                "collection.absent", .notFound, "\(root) is no collection", hint: "a collection has its recipes in recipes/NAME")
        }
        return RecipeCollection(files: try collectionFiles(root))
    }

    private static func collectionFiles(_ root: String) throws -> [String: [UInt8]] {
        var files: [String: [UInt8]] = [:]
        var total: Int64 = 0
        for directory in RecipeCollection.templateDirectories + ["macros"] where Disk.isDirectory("\(root)/\(directory)") {
            try gather("\(root)/\(directory)", "\(directory)/", &files, &total)
        }
        return files
    }

    /// The directories of a collection's recipes, by name.
    package static func recipes(_ root: String) throws -> [String] {
        try Disk.list("\(root)/recipes").filter { Disk.exists("\(root)/recipes/\($0)/build.yaml") }
    }
}
