import FarmModel
import Glibc
import SystemIO

/// Remembers which chunks files on this machine consist of, so that each is cut once as long as it stays as it is.
package struct SeedIndex: Sendable {
    private let directory: String

    /// - Parameter directory: where it remembers. One that cannot be written to is done without.
    package init(_ directory: String) { self.directory = directory }

    /// Where programs of one person remember: `$XDG_CACHE_HOME/sciferry/seeds`, or below `~/.cache`.
    package static var ofUser: SeedIndex {
        func value(_ name: String) -> String? { getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 } }
        return SeedIndex("\(value("XDG_CACHE_HOME") ?? "\(value("HOME") ?? "/tmp")/.cache")/sciferry/seeds")
    }

    /// A file's chunks; blocks. They are compared before they are used: what is remembered here is believed only so far.
    package func manifest(of path: String, parameters: ChunkerParameters) throws -> ImageManifest {
        let absolute = Disk.absolute(path)
        let file = try OpenFile(absolute, flags: O_RDONLY)
        defer { file.close() }
        let facts = try file.facts()
        guard facts.isRegular else { throw FarmError("file.kind", .usage, "\(path) is no regular file") }
        let place = "\(directory)/\(Digest(hashing: "\(absolute)\n\(parameters)").hex)"
        let mark = Digest(hashing: "\(facts)").bytes
        if let bytes = try? Disk.read(place, limit: 1 << 30), bytes.starts(with: mark),
            let known = try? ImageManifest(Array(bytes.dropFirst(mark.count)), source: place), known.size == facts.size
        {
            return known
        }
        let manifest = try ImageChunker.manifest(of: absolute, parameters: parameters)
        try? Disk.makeDirectory(directory)
        try? Disk.replace(place, with: mark + manifest.bytes)
        return manifest
    }
}
