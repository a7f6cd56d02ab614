import FarmModel
import Glibc
import Synchronization
import SystemIO

/// Reads the files of a tree, some at a time, without ever holding all names of a directory.
final class DirectoryWalk: Sendable {
    private struct Level: @unchecked Sendable {
        let stream: OpaquePointer
        /// The directory's key with its slash; empty for the root.
        let prefix: String
    }

    private let root: String
    private let ignored: String
    private let state: Mutex<(levels: [Level], first: String?)>

    /// - Parameters:
    ///   - root: the bucket's directory.
    ///   - below: the key of the directory to read; empty for all.
    ///   - ignored: the name of an entry of the root that is no object.
    init(_ root: String, below: String, ignoring ignored: String) {
        self.root = root
        self.ignored = ignored
        state = Mutex(([], below))
    }

    deinit { state.withLock { for level in $0.levels { closedir(level.stream) } } }

    /// Up to `count` more objects; none at the end.
    func next(_ count: Int) throws -> [ObjectInfo] {
        try state.withLock { state in
            if let first = state.first {
                state.first = nil
                if let level = try open(first.isEmpty ? "" : first + "/") { state.levels.append(level) }
            }
            var found: [ObjectInfo] = []
            while found.count < count, let level = state.levels.last {
                errno = 0
                guard let entry = readdir(level.stream) else {
                    guard errno == 0 else { throw Disk.failure("list", "\(root)/\(level.prefix)") }
                    closedir(level.stream)
                    state.levels.removeLast()
                    continue
                }
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(validatingCString: $0) }
                }
                guard let name else {
                    throw FarmError(
                        "storage.key", .invalid, "\(root)/\(level.prefix) has a name that is not UTF-8",
                        hint: "rename it or leave that directory out")
                }
                if name == "." || name == ".." { continue }
                let key = level.prefix + name
                if key == ignored { continue }
                // What cannot be looked at is not absent: whoever believed that might take away what it needs.
                guard let there = try Disk.entry("\(root)/\(key)") else { continue }
                if there.isDirectory {
                    if let below = try open(key + "/") { state.levels.append(below) }
                } else if there.isFile {
                    found.append(ObjectInfo(key: key, there))
                }
            }
            return found
        }
    }

    private func open(_ prefix: String) throws -> Level? {
        let path = prefix.isEmpty ? root : "\(root)/\(prefix)"
        guard let stream = opendir(path) else {
            // It may have gone with its last object.
            if errno == ENOENT || errno == ENOTDIR { return nil }
            throw Disk.failure("list", path)
        }
        return Level(stream: stream, prefix: prefix)
    }
}

extension ObjectInfo {
    init(key: String, _ entry: Disk.Entry) { self.init(key: key, size: entry.size, tag: entry.tag, modified: entry.modified) }
}
