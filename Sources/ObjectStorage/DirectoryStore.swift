import FarmModel
import Glibc
import SystemIO

/// A bucket in a directory of the local file system (`file:`).
package struct DirectoryStore: ObjectStore {
    package let path: String
    private static let pageSize = 1000
    /// Files that are being written; never part of a listing.
    private static let staging = ".staging"

    /// The directory is made by the first write: whoever only reads leaves no trace.
    package init(_ path: String) { self.path = path }

    package var name: String { "file:\(path)" }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try ObjectKey.check(key)
        return try await Blocking.run {
            Disk.isDirectory(location(key)) ? nil : Disk.size(location(key)).map { ObjectInfo(key: key, size: $0) }
        }
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try ObjectKey.check(key)
        return try await Blocking.run {
            guard let size = Disk.size(location(key)), !Disk.isDirectory(location(key)) else {
                throw StorageFailure.absent(key, in: name)
            }
            let file = try OpenFile(location(key), flags: O_RDONLY)
            defer { file.close() }
            let wanted = range ?? 0..<size
            guard wanted.upperBound <= size else { throw StorageFailure.short(key, in: name) }
            guard wanted.upperBound - wanted.lowerBound <= limit else { throw StorageFailure.long(key, in: name, limit) }
            return try file.read(at: wanted.lowerBound, count: wanted.count)
        }
    }

    package func put(_ key: String, _ source: ObjectSource) async throws {
        try ObjectKey.check(key)
        try await Blocking.run {
            let staging = "\(path)/\(DirectoryStore.staging)"
            try Disk.makeDirectory(staging)
            let temporary = "\(staging)/\(Nonce.hex(bytes: 12))"
            do {
                try write(source, to: temporary)
                try place(temporary, at: location(key))
            } catch {
                unlink(temporary)
                throw error
            }
        }
    }

    /// Gives a finished file its name. Whoever deletes the last neighbour takes the directory away, so that may have to be made again.
    private func place(_ temporary: String, at target: String) throws {
        var tries = 0
        while true {
            do {
                try Disk.makeDirectory(Disk.parent(of: target))
                try Disk.rename(temporary, to: target)
                return try Disk.syncDirectory(Disk.parent(of: target))
            } catch let error as FarmError where error.category == .notFound && Disk.exists(temporary) && tries < 100 { tries += 1 }
        }
    }

    package func delete(_ key: String) async throws {
        try ObjectKey.check(key)
        try await Blocking.run {
            guard unlink(location(key)) == 0 || errno == ENOENT || errno == ENOTDIR else {
                throw Disk.failure("remove", location(key))
            }
            // Directories are not objects: those that became empty go too.
            var above = Disk.parent(of: location(key))
            while above.count > path.count, rmdir(above) == 0 { above = Disk.parent(of: above) }
        }
    }

    /// Files that a killed writer left half written go after an hour.
    package func sweep() async throws {
        try await Blocking.run {
            let staging = "\(path)/\(DirectoryStore.staging)"
            guard Disk.isDirectory(staging) else { return }
            for name in try Disk.list(staging) {
                let age = Timestamp.now.seconds(since: Disk.modified("\(staging)/\(name)") ?? .now)
                if age > 3600 { try Disk.remove("\(staging)/\(name)") }
            }
        }
    }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        try await Blocking.run {
            // Everything below the prefix's last complete directory, then the page that follows `after`.
            let directory = prefix.contains("/") ? Disk.parent(of: prefix) : ""
            var found: [ObjectInfo] = []
            try walk(directory, into: &found)
            found = found.filter { object in
                object.key.hasPrefix(prefix)
                    && (after.map { Array($0.utf8).lexicographicallyPrecedes(Array(object.key.utf8)) } ?? true)
            }
            found.sort { Array($0.key.utf8).lexicographicallyPrecedes(Array($1.key.utf8)) }
            let page = Array(found.prefix(DirectoryStore.pageSize))
            return ObjectPage(objects: page, next: page.count < found.count ? page.last?.key : nil)
        }
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }

    private func location(_ key: String) -> String { "\(path)/\(key)" }

    private func write(_ source: ObjectSource, to temporary: String) throws {
        let file = try OpenFile(temporary, flags: O_WRONLY | O_CREAT | O_EXCL)
        defer { file.close() }
        switch source {
        case .bytes(let bytes): try file.write(bytes)
        case .file(let origin, let size):
            let input = try OpenFile(origin, flags: O_RDONLY)
            defer { input.close() }
            var offset: Int64 = 0
            while offset < size {
                let count = Int(min(1 << 20, size - offset))
                try file.write(try input.read(at: offset, count: count))
                offset += Int64(count)
            }
        }
        try file.sync()
    }

    private func walk(_ directory: String, into found: inout [ObjectInfo]) throws {
        let absolute = directory.isEmpty ? path : "\(path)/\(directory)"
        // What cannot be looked at is not absent: whoever believed that might take away what it needs.
        guard try Disk.look(absolute)?.isDirectory ?? false else { return }
        let entries: [String]
        do { entries = try Disk.list(absolute) } catch {
            // It may have gone with its last object.
            if try Disk.look(absolute) != nil { throw error }
            return
        }
        for entry in entries where entry != DirectoryStore.staging {
            let key = directory.isEmpty ? entry : "\(directory)/\(entry)"
            guard let info = try Disk.look("\(path)/\(key)") else { continue }
            if info.isDirectory { try walk(key, into: &found) } else { found.append(ObjectInfo(key: key, size: info.size)) }
        }
    }
}
