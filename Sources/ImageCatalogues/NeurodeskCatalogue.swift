import FarmModel
import Foundation

/// Neurodesk's lists of images: `apps.json` of neurocommand, and the files below `releases/` of neurocontainers, which have the same
/// form for one version each.
package enum NeurodeskCatalogue {
    private struct App: Decodable {
        /// The day of the recipe, `YYYYMMDD`.
        var version: String
        /// Empty for the image itself; otherwise the program of a menu entry.
        var exec: String?
        var apptainer_args: [String]?
    }

    private struct Tool: Decodable {
        var apps: [String: App]
        var categories: [String]?
        var architecture: String?
    }

    /// Reads `apps.json`; throws `catalogue.invalid`, naming `source`.
    package static func apps(_ bytes: [UInt8], source: String) throws -> Catalogue {
        let tools: [String: Tool] = try decode(bytes, source)
        return catalogue(tools.sorted { $0.key < $1.key }.map(\.value))
    }

    /// Reads the files of `releases/`; throws `catalogue.invalid`, naming the file.
    package static func releases(_ files: [(path: String, bytes: [UInt8])]) throws -> Catalogue {
        catalogue(try files.map { try decode($0.bytes, $0.path) })
    }

    private static func decode<Value: Decodable>(_ bytes: [UInt8], _ source: String) throws -> Value {
        do { return try CanonicalJSON.decode(from: bytes, source: source) } catch let error as FarmError {
            throw FarmError(
                "catalogue.invalid", .invalid, error.message, hint: "wanted: Neurodesk's apps.json, or its directory releases/")
        }
    }

    private static func catalogue(_ tools: [Tool]) -> Catalogue {
        var entries: [CatalogueEntry] = []
        var remarks: [String] = []
        var strays: [String] = []
        for tool in tools {
            var found: [String: CatalogueEntry] = [:]
            for (key, app) in tool.apps.sorted(by: { $0.key < $1.key }) where (app.exec ?? "").isEmpty {
                do { found[key] = try image(key, app, tool) } catch {
                    remarks.append("left out: \((error as? FarmError)?.message ?? "\(error)")")
                }
            }
            // "fsleyesGUI-fsl 6.0.7" is a program of "fsl 6.0.7".
            for (key, app) in tool.apps.sorted(by: { $0.key < $1.key }) {
                guard let command = app.exec, !command.isEmpty else { continue }
                let owner = found.keys.filter { key.hasSuffix("-\($0)") }.max { $0.utf8.count < $1.utf8.count }
                guard let owner else {
                    strays.append(key)
                    continue
                }
                found[owner]?.programs.append(GraphicalProgram(name: String(key.dropLast(owner.count + 1)), command: command))
            }
            entries += found.values
        }
        if !strays.isEmpty { remarks.append("\(strays.count) programs belong to no image: \(Catalogue.some(strays))") }
        return Catalogue(entries, remarks: remarks) { $0.source.file < $1.source.file }
    }

    private static func image(_ key: String, _ app: App, _ tool: Tool) throws -> CatalogueEntry {
        var parts = key.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        let file = parts.joined(separator: "_") + "_\(app.version).simg"
        // "amico 2.1.0 arm64"
        if parts.count == 3, parts[2] == "arm64" { parts = [parts[0], "\(parts[1])_arm64"] }
        let isDay = app.version.utf8.count == 8 && app.version.utf8.allSatisfy { (0x30...0x39).contains($0) }
        guard parts.count == 2, isDay else {
            throw FarmError(
                "catalogue.invalid", .invalid, "\"\(key.printable())\" of \"\(app.version.printable())\" is no image's name and day")
        }
        let isArm = ["aarch64", "arm64"].contains(tool.architecture) || parts.contains { armed($0) != $0 }
        let entry = CatalogueEntry(
            name: armed(parts[0]), version: armed(parts[1]), architecture: isArm ? "aarch64" : "x86_64",
            source: ImportSource(catalogue: "neurodesk", file: file, locations: []),
            categories: tool.categories ?? [], runtimeArguments: app.apptainer_args ?? [])
        try entry.check(needsPlace: false)
        return entry
    }

    /// A name without what marks images for ARM.
    private static func armed(_ text: String) -> String {
        for suffix in ["_arm64", "-arm64"] where text.hasSuffix(suffix) { return String(text.dropLast(suffix.count)) }
        return text
    }
}
