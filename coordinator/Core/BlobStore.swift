package import FarmModel
import Glibc
package import SystemIO

/// Plans, context files, submissions and bootstrapped bases, named by their digest, in a directory. Blocking.
package struct BlobStore: Sendable {
    private let root: String

    package init(_ root: String) throws {
        self.root = root
        try Disk.makeDirectory(root)
    }

    package func path(_ digest: Digest) -> String { "\(root)/\(digest.hex.prefix(2))/\(digest.hex)" }

    package func contains(_ digest: Digest) -> Bool { Disk.exists(path(digest)) }

    /// Keeps bytes and returns their name.
    @discardableResult
    package func put(_ bytes: [UInt8]) throws -> Digest {
        let digest = Digest(hashing: bytes)
        if contains(digest) { return digest }
        try Disk.makeDirectory(Disk.parent(of: path(digest)))
        try Disk.replace(path(digest), with: bytes)
        return digest
    }

    /// Takes over a file that was verified; it must lie on the same file system.
    package func adopt(_ file: String, as digest: Digest) throws {
        try Disk.makeDirectory(Disk.parent(of: path(digest)))
        try Disk.rename(file, to: path(digest))
        try Disk.syncDirectory(Disk.parent(of: path(digest)))
    }

    /// All bytes of a blob; throws `blob.absent`.
    package func get(_ digest: Digest) throws -> [UInt8] {
        guard contains(digest) else { throw BlobStore.absent(digest) }
        return try Disk.read(path(digest))
    }

    /// Opens a blob for reading in pieces; throws `blob.absent`.
    package func open(_ digest: Digest) throws -> OpenFile {
        guard contains(digest) else { throw BlobStore.absent(digest) }
        return try OpenFile(path(digest), flags: O_RDONLY)
    }

    private static func absent(_ digest: Digest) -> FarmError {
        FarmError("blob.absent", .notFound, "the farm has no blob \(digest.short)")
    }
}

/// One log file for each attempt. Appending checks the position, so a broken connection neither loses nor repeats.
package struct LogStore: Sendable {
    private let root: String
    /// Bytes kept of one log.
    package static let limit: Int64 = 64 << 20

    package init(_ root: String) throws {
        self.root = root
        try Disk.makeDirectory(root)
    }

    package func path(_ attempt: AttemptID) -> String { "\(root)/\(attempt).log" }

    package func size(_ attempt: AttemptID) -> Int64 { Disk.size(path(attempt)) ?? 0 }

    /// Throws `log.position` unless the log has exactly that many bytes.
    package func check(_ attempt: AttemptID, offset: Int64) throws {
        let size = size(attempt)
        guard size == offset else {
            throw FarmError("log.position", .conflict, "the log of \(attempt) has \(size) bytes, not \(offset)")
        }
    }

    /// Adds bytes; throws `log.full` at the limit.
    package func append(_ attempt: AttemptID, _ bytes: [UInt8]) throws {
        let file = try OpenFile(path(attempt), flags: O_WRONLY | O_CREAT | O_APPEND)
        defer { file.close() }
        guard try file.size() + Int64(bytes.count) <= LogStore.limit else {
            throw FarmError("log.full", .full, "the log of \(attempt) has reached \(LogStore.limit >> 20) MiB; the rest is not kept")
        }
        try file.write(bytes)
    }

    /// Bytes from a position on, at most `limit`.
    package func read(_ attempt: AttemptID, from offset: Int64, limit: Int) throws -> [UInt8] {
        let size = size(attempt)
        guard offset >= 0, offset < size else { return [] }
        let file = try OpenFile(path(attempt), flags: O_RDONLY)
        defer { file.close() }
        return try file.read(at: offset, count: Int(min(Int64(limit), size - offset)))
    }
}
