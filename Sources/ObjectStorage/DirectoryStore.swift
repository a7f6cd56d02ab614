import FarmModel
import Glibc
import Synchronization
import SystemIO

/// A bucket in a directory of the local file system (`file:`).
package struct DirectoryStore: ObjectStore {
    package let path: String
    private static let pageSize = 1000
    /// The root's directory of files that are being written, which is never part of a listing, and where no object can be.
    package static let staging = ".sciferry-staging"

    /// The directory is made by the first write: whoever only reads leaves no trace.
    package init(_ path: String) { self.path = path }

    package var name: String { "file:\(path)" }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try check(key)
        return try await Blocking.run {
            guard let there = try Disk.entry(location(key)), there.isFile else { return nil }
            return ObjectInfo(key: key, there)
        }
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try check(key)
        return try await Blocking.run {
            guard let there = try Disk.entry(location(key)), there.isFile else { throw StorageFailure.absent(key, in: name) }
            let file = try OpenFile(location(key), flags: O_RDONLY)
            defer { file.close() }
            let wanted = range ?? 0..<there.size
            guard wanted.upperBound <= there.size else { throw StorageFailure.short(key, in: name) }
            guard wanted.upperBound - wanted.lowerBound <= limit else { throw StorageFailure.long(key, in: name, limit) }
            return try file.read(at: wanted.lowerBound, count: wanted.count)
        }
    }

    package func put(_ key: String, _ source: ObjectSource) async throws { _ = try await put(key, source, modified: nil) }

    private func put(_ key: String, _ source: ObjectSource, modified: Timestamp?) async throws -> String? {
        try check(key)
        return try await Blocking.run {
            let staging = "\(path)/\(DirectoryStore.staging)"
            let temporary = "\(staging)/\(Nonce.hex(bytes: 12))"
            do {
                try write(source, key, to: temporary)
                if let modified { try Disk.setFacts(temporary, mode: 0o644, modified: modified) }
                try place(temporary, at: location(key))
                return try Disk.entry(location(key))?.tag
            } catch {
                unlink(temporary)
                throw error
            }
        }
    }

    /// Makes a file that is about to be written. Whoever sweeps takes its directory away if it is empty, so that may have to be made again.
    private func begin(_ temporary: String) throws -> OpenFile {
        var tries = 0
        while true {
            do {
                try Disk.makeDirectory(Disk.parent(of: temporary))
                return try OpenFile(temporary, flags: O_WRONLY | O_CREAT | O_EXCL)
            } catch let error as FarmError where error.category == .notFound && tries < 100 { tries += 1 }
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
        try check(key)
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
            // If nobody is writing; whoever is about to makes it again.
            rmdir(staging)
        }
    }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        // In the order of the keys, which no directory has: all names are read for every page. `each` does not.
        var found: [ObjectInfo] = []
        try await each(prefix: prefix) { objects in
            found += objects.filter { object in
                after.map { Array($0.utf8).lexicographicallyPrecedes(Array(object.key.utf8)) } ?? true
            }
        }
        found.sort { Array($0.key.utf8).lexicographicallyPrecedes(Array($1.key.utf8)) }
        let page = Array(found.prefix(DirectoryStore.pageSize))
        return ObjectPage(objects: page, next: page.count < found.count ? page.last?.key : nil)
    }

    package func each(prefix: String, _ body: ([ObjectInfo]) async throws -> Void) async throws {
        if prefix.hasPrefix("\(DirectoryStore.staging)/") { return }
        // Everything below the prefix's last complete directory.
        let walk = DirectoryWalk(path, below: prefix.contains("/") ? Disk.parent(of: prefix) : "", ignoring: DirectoryStore.staging)
        while true {
            let found = try await Blocking.run { try walk.next(DirectoryStore.pageSize) }
            if found.isEmpty { return }
            let wanted = prefix.isEmpty ? found : found.filter { $0.key.hasPrefix(prefix) }
            if !wanted.isEmpty { try await body(wanted) }
        }
    }

    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        try check(key)
        try await Blocking.interruptible { cancelled in
            guard let there = try Disk.entry(location(key)), there.isFile else { throw StorageFailure.absent(key, in: name) }
            let file = try OpenFile(location(key), flags: O_RDONLY)
            defer { file.close() }
            guard tag.map({ $0 == there.tag }) ?? true else { throw StorageFailure.changed(key, in: name) }
            let wanted = range ?? 0..<there.size
            guard wanted.upperBound <= there.size else { throw StorageFailure.short(key, in: name) }
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
            defer { buffer.deallocate() }
            var offset = wanted.lowerBound
            while offset < wanted.upperBound {
                if cancelled.isRaised { throw CancellationError() }
                let count = Int(min(Int64(buffer.count), wanted.upperBound - offset))
                let got = try file.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
                guard got > 0 else { throw StorageFailure.changed(key, in: name) }
                try sink(UnsafeRawBufferPointer(rebasing: buffer[..<got]))
                offset += Int64(got)
            }
            // What was written to while it was read may be half the old and half the new.
            if let tag, try Disk.entry(location(key))?.tag != tag { throw StorageFailure.changed(key, in: name) }
        }
    }

    package func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try await put(key, source, modified: facts.modified)
    }

    package func md5(of object: ObjectInfo) async throws -> [UInt8]? {
        let digest = Mutex(MD5())
        try await read(object.key, range: nil, tag: object.tag) { bytes in digest.withLock { $0.update(bytes) } }
        return digest.withLock { $0.finish() }
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }

    private func check(_ key: String) throws {
        try ObjectKey.check(key)
        guard !key.hasPrefix("\(DirectoryStore.staging)/"), key != DirectoryStore.staging else {
            throw FarmError(
                "storage.key", .invalid, "\(name) keeps files that are being written in \(DirectoryStore.staging): no object can be there",
                hint: "leave them out, or give them another name")
        }
    }

    private func location(_ key: String) -> String { "\(path)/\(key)" }

    private func write(_ source: ObjectSource, _ key: String, to temporary: String) throws {
        let file = try begin(temporary)
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
        case .feed(let size, let read):
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
            defer { buffer.deallocate() }
            var offset: Int64 = 0
            while offset < size {
                let got = try read(UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(Int64(buffer.count), size - offset))]))
                guard got > 0 else { throw FarmError("storage.feed", .corrupt, "what was to be written to \(key) ended too early") }
                try file.write(UnsafeRawBufferPointer(rebasing: buffer[..<got]), at: offset)
                offset += Int64(got)
            }
        }
        try file.sync()
    }
}
