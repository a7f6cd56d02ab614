package import FarmModel
import Foundation

/// Where a catalogue's images lie.
package enum ImagePlace: Sendable, Hashable {
    /// Below a URL, by their names.
    case web(String)
    /// In a directory, with the sizes of its files by name.
    case directory(String, files: [String: Int64])
}

/// The images that somebody offers, as far as the list could be understood.
package struct Catalogue: Sendable, Hashable {
    /// Sorted by name and version; without locations until they are placed.
    package private(set) var entries: [CatalogueEntry]
    /// What was left out, and why, for people.
    package private(set) var remarks: [String] = []

    /// Of several images of the same name, version and architecture the last in `order` counts.
    ///
    /// - Parameter order: whether the first comes before the second.
    init(_ entries: [CatalogueEntry], remarks: [String] = [], order: (CatalogueEntry, CatalogueEntry) -> Bool) {
        self.remarks = remarks
        var kept: [String: CatalogueEntry] = [:]
        for entry in entries {
            if let there = kept[entry.key], order(entry, there) { continue }
            kept[entry.key] = entry
        }
        self.entries = kept.values.sorted { ($0.name, $0.version, $0.architecture) < ($1.name, $1.version, $1.architecture) }
    }

    /// One image under the name of its file.
    package init(of source: ImportSource) {
        var source = source
        source.locations = []
        entries = [CatalogueEntry(name: source.file, version: "", architecture: "", source: source)]
    }

    /// Says where the images are to be had. One that no place has is left out.
    package mutating func place(at places: [ImagePlace]) {
        var missing: [String] = []
        entries = entries.compactMap { entry in
            let listed = entry.source.file
            var entry = entry
            for place in places {
                switch place {
                case .web(let base):
                    let name = listed.addingPercentEncoding(withAllowedCharacters: Catalogue.plain) ?? listed
                    entry.source.locations.append("\(base.hasSuffix("/") ? String(base.dropLast()) : base)/\(name)")
                case .directory(let path, let files):
                    guard let (name, size) = Catalogue.find(entry.source, files) else { continue }
                    entry.source.file = name
                    let path = "\(path)/\(name)".addingPercentEncoding(withAllowedCharacters: Catalogue.plain.union(["/"])) ?? ""
                    entry.source.locations.append("file://\(path)")
                    entry.source.size = size
                }
            }
            if entry.source.locations.isEmpty { missing.append(entry.source.file) }
            return entry.source.locations.isEmpty ? nil : entry
        }
        guard !missing.isEmpty else { return }
        remarks.append("\(missing.count) images are not there: \(Catalogue.some(missing))")
    }

    /// Takes over what others say of the files' bytes, by their names; after they were placed, when the names are those of the files.
    package mutating func know(_ checksums: [String: FileChecksum]) {
        for index in entries.indices {
            if let checksum = checksums[entries[index].source.file] { entries[index].source.checksum = checksum }
        }
    }

    /// Adds what else was left out.
    package mutating func remark(_ more: [String]) { remarks += more }

    /// Keeps some only.
    package mutating func keep(_ isWanted: (CatalogueEntry) -> Bool) { entries = entries.filter(isWanted) }

    /// A file of that name; Neurodesk's images end in `.sif` where somebody has built them for themselves.
    private static func find(_ source: ImportSource, _ files: [String: Int64]) -> (String, Int64)? {
        let file = source.file
        if let size = files[file] { return (file, size) }
        guard source.catalogue == "neurodesk", file.hasSuffix(".simg"), let size = files["\(file.dropLast(5)).sif"] else { return nil }
        return ("\(file.dropLast(5)).sif", size)
    }

    static func some(_ names: [String]) -> String {
        names.prefix(5).map { $0.printable() }.joined(separator: ", ") + (names.count > 5 ? " and \(names.count - 5) more" : "")
    }

    /// What needs no escape in a path (RFC 3986, section 3.3).
    private static let plain = CharacterSet(
        charactersIn: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@")
}
