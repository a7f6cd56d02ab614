import CLinux
package import FarmModel
import Foundation
package import Glibc

/// Files on a local disk, with the durability that journals and stores rest on. Errors carry the path.
package enum Disk {
    /// Reads a whole file; throws `file.too-large` beyond `limit` bytes.
    package static func read(_ path: String, limit: Int64 = 1 << 30) throws -> [UInt8] {
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let size = try file.size()
        guard size <= limit else {
            throw FarmError("file.too-large", .invalid, "\(path) has \(size) bytes; the limit is \(limit)")
        }
        return try file.read(at: 0, count: Int(size))
    }

    /// The first MiB of a file of `/proc` or `/sys`, whose size the kernel does not tell: read until it ends. `nil` where it
    /// cannot be read.
    package static func kernelFile(_ path: String) -> [UInt8]? {
        guard let file = try? OpenFile(path, flags: O_RDONLY) else { return nil }
        defer { file.close() }
        return try? [UInt8](unsafeUninitializedCapacity: 1 << 20) { buffer, filled in
            filled = try file.read(at: 0, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    /// The same as text.
    package static func kernelText(_ path: String) -> String? { kernelFile(path).map { String(decoding: $0, as: UTF8.self) } }

    /// Writes a text into a file of the kernel's, in one piece.
    package static func writeKernelText(_ path: String, _ text: String) throws {
        let file = try OpenFile(path, flags: O_WRONLY)
        defer { file.close() }
        try file.write(Array(text.utf8))
    }

    /// Writes a file so that after a crash there is the old content or the new, never a part: temporary file, fsync,
    /// rename, fsync of the directory.
    package static func replace(_ path: String, with bytes: some Collection<UInt8>, mode: mode_t = 0o644) throws {
        let temporary = "\(path).tmp.\(getpid()).\(Nonce.hex(bytes: 4))"
        do {
            let file = try OpenFile(temporary, flags: O_WRONLY | O_CREAT | O_EXCL, mode: mode)
            defer { file.close() }
            try file.write(Array(bytes))
            try file.sync()
        } catch {
            unlink(temporary)
            throw error
        }
        try rename(temporary, to: path)
        try syncDirectory(parent(of: path))
    }

    /// Writes a new file of a tree that nobody sees yet; `syncFileSystem` makes the whole tree durable.
    package static func write(_ path: String, _ bytes: some Collection<UInt8>, mode: mode_t = 0o644) throws {
        let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_EXCL, mode: mode)
        defer { file.close() }
        try file.write(Array(bytes))
    }

    /// Makes everything durable that was written to the file system on which a path lies: for trees of many small files.
    package static func syncFileSystem(at path: String) throws {
        let file = try OpenFile(path, flags: O_RDONLY | O_DIRECTORY)
        defer { file.close() }
        guard sciferry_sync_file_system(file.descriptor) == 0 else { throw failure("write out", path) }
    }

    /// Renames, replacing what stands there.
    package static func rename(_ from: String, to destination: String) throws {
        guard Glibc.rename(from, destination) == 0 else { throw failure("rename", from) }
    }

    /// Lets two files or directories change places, in one step where the file system can.
    package static func exchange(_ one: String, _ other: String) throws {
        if sciferry_exchange(one, other) == 0 { return }
        guard [EINVAL, ENOSYS, ENOTSUP].contains(errno) else { throw failure("exchange", one) }
        let aside = "\(parent(of: other))/.aside.\(Nonce.hex(bytes: 4))"
        try rename(other, to: aside)
        try rename(one, to: other)
        try rename(aside, to: one)
    }

    /// Makes a directory's entries durable.
    package static func syncDirectory(_ path: String) throws {
        let file = try OpenFile(path, flags: O_RDONLY | O_DIRECTORY)
        defer { file.close() }
        try file.sync()
    }

    /// Makes a directory and those above it.
    package static func makeDirectory(_ path: String, mode: mode_t = 0o755) throws {
        if isDirectory(path) { return }
        let above = parent(of: path)
        if above != path && !above.isEmpty { try makeDirectory(above) }
        guard mkdir(path, mode) == 0 || errno == EEXIST else { throw failure("make directory", path) }
    }

    /// Makes a directory that must not be there yet, not even as a link that somebody else put there.
    package static func makeNewDirectory(_ path: String, mode: mode_t) throws {
        guard mkdir(path, mode) == 0 else { throw failure("make directory", path) }
    }

    /// Removes a file or a whole tree; what is not there is no error. Never follows links or crosses a mount:
    /// what is mounted there throws `file.mounted`.
    package static func remove(_ path: String) throws {
        var info = stat()
        guard lstat(path, &info) == 0 else {
            if errno == ENOENT { return }
            throw failure("look at", path)
        }
        if info.st_mode & S_IFMT == S_IFDIR {
            guard sciferry_is_mount_point(path) == 0 else {
                throw FarmError("file.mounted", .conflict, "cannot remove \(path): something is mounted there", hint: "unmount it")
            }
            for name in try list(path) { try remove("\(path)/\(name)") }
            guard rmdir(path) == 0 || errno == ENOENT else { throw failure("remove directory", path) }
        } else {
            guard unlink(path) == 0 || errno == ENOENT else { throw failure("remove", path) }
        }
    }

    /// Names in a directory, sorted by bytes, without `.` and `..`.
    package static func list(_ path: String) throws -> [String] {
        guard let handle = opendir(path) else { throw failure("list", path) }
        defer { closedir(handle) }
        var names: [String] = []
        while let entry = readdir(handle) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { raw in
                String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
    }

    /// Whether something, even a dangling link, has that name.
    package static func exists(_ path: String) -> Bool {
        var info = stat()
        return lstat(path, &info) == 0
    }

    /// Whether the path leads to a directory.
    package static func isDirectory(_ path: String) -> Bool {
        var info = stat()
        return stat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFDIR
    }

    /// What lies at a path.
    package struct Entry: Sendable, Hashable {
        package var isDirectory: Bool
        /// A regular one: not a pipe, a socket or a device.
        package var isFile: Bool
        package var size: Int64
        package var modified: Timestamp
        /// Another one after every change of the content: inode and time of the last change of status, which nobody can set back.
        package var tag: String
        /// Which file system it is on.
        package var device: UInt64
    }

    /// Runs `body`, which may not wait for other tasks, with the rights of another user where it opens files: for root, in directories where
    /// that user may change what names lead to at any time.
    package static func asUser<Value>(_ user: (id: UInt32, group: UInt32)?, _ body: () throws -> Value) rethrows -> Value {
        guard let user else { return try body() }
        sciferry_file_user(user.id, user.group)
        defer { sciferry_file_user(0, 0) }
        return try body()
    }

    /// What lies at a path, links followed; `nil` when there is nothing. Throws when that cannot be told.
    package static func entry(_ path: String) throws -> Entry? {
        var info = stat()
        guard stat(path, &info) == 0 else {
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw failure("look at", path)
        }
        return Entry(
            isDirectory: info.st_mode & S_IFMT == S_IFDIR, isFile: info.st_mode & S_IFMT == S_IFREG, size: Int64(info.st_size),
            modified: Timestamp(milliseconds: Int64(info.st_mtim.tv_sec) * 1000 + Int64(info.st_mtim.tv_nsec) / 1_000_000),
            tag: "\(info.st_ino).\(info.st_ctim.tv_sec).\(info.st_ctim.tv_nsec)", device: UInt64(info.st_dev))
    }

    /// What a directory's entry can be.
    package enum EntryKind: Sendable { case file, directory, link, other }

    /// What an entry is, links not followed; `nil` when there is none.
    package static func kind(_ path: String) -> EntryKind? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        return switch status.st_mode & S_IFMT {
        case S_IFREG: .file
        case S_IFDIR: .directory
        case S_IFLNK: .link
        default: .other
        }
    }

    /// Whether a path is a directory of the caller's, and no link to one.
    package static func isOwnDirectory(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR && status.st_uid == geteuid()
    }

    /// Whether the path leads to a regular file that the caller may execute.
    package static func isExecutable(_ path: String) -> Bool {
        var info = stat()
        return stat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFREG && access(path, X_OK) == 0
    }

    /// What the files below a directory have, in bytes. Blocks.
    package static func treeSize(_ path: String) throws -> Int64 {
        try list(path).reduce(0) { sum, name in
            let entry = "\(path)/\(name)"
            switch kind(entry) {
            case .directory: return sum + (try treeSize(entry))
            case .link, nil: return sum
            default: return sum + (size(entry) ?? 0)
            }
        }
    }

    /// Size in bytes of the file, or `nil` when there is none.
    package static func size(_ path: String) -> Int64? {
        var info = stat()
        return stat(path, &info) == 0 ? Int64(info.st_size) : nil
    }

    /// When the file or directory was last changed.
    package static func modified(_ path: String) -> Timestamp? {
        var info = stat()
        guard stat(path, &info) == 0 else { return nil }
        return Timestamp(seconds: Int64(info.st_mtim.tv_sec))
    }

    /// Sets a file's permission bits and when it was last changed.
    package static func setFacts(_ path: String, mode: Int, modified: Timestamp) throws {
        // Before 1970 the fraction counts upwards, too.
        let (seconds, rest) = modified.milliseconds.quotientAndRemainder(dividingBy: 1000)
        let time = timespec(tv_sec: Int(rest < 0 ? seconds - 1 : seconds), tv_nsec: Int(rest < 0 ? rest + 1000 : rest) * 1_000_000)
        guard chmod(path, mode_t(mode & 0o7777)) == 0, utimensat(AT_FDCWD, path, [time, time], 0) == 0 else {
            throw failure("change", path)
        }
    }

    /// Bytes that an ordinary user can still write on the file system that holds `path`.
    package static func freeBytes(at path: String) throws -> Int64 {
        var info = statvfs()
        guard statvfs(path, &info) == 0 else { throw failure("measure", path) }
        return Int64(info.f_bavail) * Int64(info.f_frsize)
    }

    /// Bytes of the file system that holds `path`.
    package static func totalBytes(at path: String) throws -> Int64 {
        var info = statvfs()
        guard statvfs(path, &info) == 0 else { throw failure("measure", path) }
        return Int64(info.f_blocks) * Int64(info.f_frsize)
    }

    /// Gives a file another name on the same file system.
    package static func hardLink(_ path: String, _ other: String) throws {
        guard Glibc.link(path, other) == 0 else { throw failure("link", other) }
    }

    /// Makes a symbolic link, replacing one that is there, in one step.
    package static func link(_ path: String, to target: String) throws {
        let temporary = "\(path).tmp.\(getpid()).\(Nonce.hex(bytes: 4))"
        guard symlink(target, temporary) == 0 else { throw failure("link", path) }
        try rename(temporary, to: path)
    }

    /// The absolute path without links, or `nil` when nothing is there.
    package static func realPath(_ path: String) -> String? {
        guard let resolved = realpath(path, nil) else { return nil }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    /// The absolute form of a path, whether or not something is there.
    package static func absolute(_ path: String) -> String {
        if path.hasPrefix("/") { return path }
        guard let here = getcwd(nil, 0) else { return path }
        defer { free(here) }
        return path == "." ? String(cString: here) : "\(String(cString: here))/\(path)"
    }

    /// What stands before the last slash.
    package static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// What stands behind the last slash.
    package static func name(of path: String) -> String {
        path.split(separator: "/").last.map(String.init) ?? path
    }

    /// An error that names the deed, the path and the system's reason; `disk.full` when the disk is.
    package static func failure(_ deed: String, _ path: String) -> FarmError {
        let number = errno
        let reason = String(cString: strerror(number))
        if number == ENOSPC || number == EDQUOT {
            return FarmError(
                "disk.full", .full, "cannot \(deed) \(path): \(reason)",
                hint: "free space on that file system, then try again")
        }
        let category: FarmError.Category = number == ENOENT ? .notFound : number == EACCES ? .denied : .fault
        return FarmError("file.failed", category, "cannot \(deed) \(path): \(reason)")
    }
}

/// An open descriptor that closes at the latest when it is dropped.
package final class OpenFile: Sendable {
    package let descriptor: Int32
    package let path: String
    private let closed = Switch()

    /// Opens with `open(2)` flags; close-on-exec is always set.
    package init(_ path: String, flags: Int32, mode: mode_t = 0o644) throws {
        descriptor = open(path, flags | O_CLOEXEC, mode)
        self.path = path
        guard descriptor >= 0 else {
            _ = closed.raise()
            throw Disk.failure("open", path)
        }
    }

    /// Opens what lies below a directory for reading, without following a link anywhere on the way.
    package init(_ path: [UInt8], beneath directory: OpenFile) throws {
        self.path = "\(directory.path)/\(String(decoding: path, as: UTF8.self))"
        descriptor = (path + [0]).withUnsafeBytes {
            sciferry_open_beneath(directory.descriptor, $0.bindMemory(to: CChar.self).baseAddress)
        }
        guard descriptor >= 0 else {
            _ = closed.raise()
            throw Disk.failure("open", self.path)
        }
    }

    /// A nameless file in `$TMPDIR` or /var/tmp, for what does not fit into memory.
    package static func scratch() throws -> OpenFile {
        try OpenFile(nameless: getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp")
    }

    /// Makes a file without a name on a directory's file system; it is gone when it is closed.
    package convenience init(nameless directory: String) throws {
        let path = "\(directory)/sciferry-\(Nonce.hex(bytes: 8))"
        try self.init(path, flags: O_RDWR | O_CREAT | O_EXCL, mode: 0o600)
        unlink(path)
    }

    deinit { close() }

    /// Closes; a second call does nothing.
    package func close() {
        if closed.raise() { _ = Glibc.close(descriptor) }
    }

    /// What the file system says of a file.
    package struct Facts: Sendable, Hashable {
        package var isRegular: Bool
        package var size: Int64
        /// Permission bits.
        package var mode: Int
        package var modified: Timestamp
    }

    /// Asks the file system.
    package func facts() throws -> Facts {
        var info = stat()
        guard fstat(descriptor, &info) == 0 else { throw Disk.failure("measure", path) }
        return Facts(
            isRegular: info.st_mode & S_IFMT == S_IFREG, size: Int64(info.st_size), mode: Int(info.st_mode & 0o7777),
            modified: Timestamp(milliseconds: Int64(info.st_mtim.tv_sec) * 1000 + Int64(info.st_mtim.tv_nsec) / 1_000_000))
    }

    /// Size in bytes.
    package func size() throws -> Int64 {
        var info = stat()
        guard fstat(descriptor, &info) == 0 else { throw Disk.failure("measure", path) }
        return Int64(info.st_size)
    }

    /// Reads exactly `count` bytes at `offset`; throws `file.short` when there are fewer.
    package func read(at offset: Int64, count: Int) throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            filled = try read(at: offset, into: UnsafeMutableRawBufferPointer(buffer))
            guard filled == count else {
                throw FarmError("file.short", .corrupt, "\(path) ends before byte \(offset + Int64(count))")
            }
        }
    }

    /// Fills the buffer from `offset`; returns how many bytes there were.
    package func read(at offset: Int64, into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
        var done = 0
        while done < buffer.count {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            let got = pread(descriptor, rest.baseAddress, rest.count, off_t(offset) + off_t(done))
            if got < 0 && errno == EINTR { continue }
            guard got >= 0 else { throw Disk.failure("read", path) }
            if got == 0 { break }
            done += got
        }
        return done
    }

    /// Hashes a range behind what was hashed before it, on a thread of its own; throws `file.short` when there are fewer bytes.
    package func hash(_ range: Range<Int64>, after hasher: Digest.Hasher) async throws -> Digest.Hasher {
        try await Blocking.run { [self] in
            var hasher = hasher
            for offset in stride(from: range.lowerBound, to: range.upperBound, by: 1 << 20) {
                hasher.update(try read(at: offset, count: Int(min(1 << 20, range.upperBound - offset))))
            }
            return hasher
        }
    }

    /// SHA-256 of the first `size` bytes; throws `file.short` when there are fewer.
    package func digest(size: Int64) throws -> Digest {
        var hasher = Digest.Hasher()
        try readAll(size: size) { hasher.update($0) }
        return hasher.finish()
    }

    /// Passes on the first `size` bytes in pieces; throws `file.short` when there are fewer.
    package func readAll(size: Int64, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        for offset in stride(from: 0, to: size, by: buffer.count) {
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(Int64(buffer.count), size - offset))])
            guard try read(at: offset, into: part) == part.count else {
                throw FarmError("file.short", .corrupt, "\(path) became shorter while it was read")
            }
            try body(UnsafeRawBufferPointer(part))
        }
    }

    /// Writes all bytes at the descriptor's position.
    package func write(_ bytes: [UInt8]) throws {
        try bytes.withUnsafeBytes { buffer in
            var done = 0
            while done < buffer.count {
                let put = Glibc.write(descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done)
                if put < 0 && errno == EINTR { continue }
                guard put >= 0 else { throw Disk.failure("write", path) }
                done += put
            }
        }
    }

    /// Writes all bytes at `offset`.
    package func write(_ bytes: [UInt8], at offset: Int64) throws { try bytes.withUnsafeBytes { try write($0, at: offset) } }

    /// Has a range share the blocks of another file's, which must begin and end with blocks of 4 KiB; whether the file system does that.
    package func clone(_ range: Range<Int64>, of other: OpenFile, to offset: Int64) -> Bool {
        sciferry_clone_range(other.descriptor, range.lowerBound, Int64(range.count), descriptor, offset) == 0
    }

    /// Writes all bytes of a buffer at `offset`.
    package func write(_ buffer: UnsafeRawBufferPointer, at offset: Int64) throws {
        var done = 0
        while done < buffer.count {
            let put = pwrite(descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done, off_t(offset) + off_t(done))
            if put < 0 && errno == EINTR { continue }
            guard put >= 0 else { throw Disk.failure("write", path) }
            done += put
        }
    }

    /// Makes the file so long.
    package func truncate(to size: Int64) throws {
        guard ftruncate(descriptor, off_t(size)) == 0 else { throw Disk.failure("write", path) }
    }

    /// Has the kernel begin to write these bytes to the disk, so that a later `sync` need not wait for them.
    package func beginWriteback(at offset: Int64, count: Int64) {
        sciferry_begin_writeback(descriptor, offset, count)
    }

    /// Waits until the bytes are on the disk.
    package func sync() throws {
        guard fsync(descriptor) == 0 else { throw Disk.failure("sync", path) }
    }
}
