package import FarmModel
import Glibc
import SystemIO

/// Files of datasets on this machine, by content: each is fetched once, and shared by all that want it.
package struct DatasetShelf: Sendable {
    private let directory: String

    package init(_ directory: String) { self.directory = directory }

    /// Where a file lies; it is fetched when it is not there.
    ///
    /// - Parameter fetch: writes it, whole and verified, to a path.
    package func file(_ digest: Digest, size: Int64, fetch: @Sendable (_ path: String) async throws -> Void) async throws -> String {
        let path = "\(directory)/\(digest.hex)"
        if Disk.size(path) == size || (size == 0 && Disk.exists(path)) {
            // What was used lately goes last.
            utimes(path, nil)
            return path
        }
        try await Blocking.run { [directory] in try Disk.makeDirectory(directory) }
        // Two that want it at the same time fetch it twice; each file is whole.
        let fresh = "\(path).\(Nonce.hex(bytes: 4)).part"
        do {
            try await fetch(fresh)
            try Disk.rename(fresh, to: path)
        } catch {
            try? Disk.remove(fresh)
            throw error
        }
        return path
    }

    /// Removes those that were not used for longest, until the rest is no larger than so many bytes.
    package func tidy(most: Int64) throws {
        guard Disk.exists(directory) else { return }
        var files = try Disk.list(directory).map { name in
            (
                path: "\(directory)/\(name)", size: Disk.size("\(directory)/\(name)") ?? 0,
                used: Disk.modified("\(directory)/\(name)") ?? .now
            )
        }
        files.sort { $0.used < $1.used }
        var total = files.reduce(0) { $0 + $1.size }
        for file in files where total > most {
            try Disk.remove(file.path)
            total -= file.size
        }
    }
}
