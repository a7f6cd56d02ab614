import FarmModel

/// The merged file system of an image: the topmost layer's word counts, whiteouts delete (OCI image-spec, "layer.md").
package struct EntryTree {
    /// Content that is not in an archive.
    package enum Content: Sendable, Hashable {
        case none
        case archive(layer: Int, offset: Int64, size: Int64)
        case bytes([UInt8])

        package var size: Int64 {
            switch self {
            case .none: 0
            case .archive(_, _, let size): size
            case .bytes(let bytes): Int64(bytes.count)
            }
        }
    }

    package final class Node {
        package var entry: TarEntry
        package var content: Content
        package var children: [[UInt8]: Node] = [:]
        /// Names that lead here; files only.
        package var links = 1

        init(_ entry: TarEntry, _ content: Content) {
            self.entry = entry
            self.content = content
        }

        package var isDirectory: Bool { entry.kind == .directory }

        /// Children in the order of their names' bytes.
        package var sorted: [(name: [UInt8], node: Node)] {
            children.map { ($0.key, $0.value) }.sorted { $0.0.lexicographicallyPrecedes($1.0) }
        }
    }

    package let root: Node
    private var layer = -1
    /// Directories that the current layer itself made or spoke of; opaque markers do not empty what it put there.
    private var fresh: Set<[UInt8]> = []

    private static let whiteout = Array(".wh.".utf8)
    private static let opaque = Array(".wh..wh..opq".utf8)

    package init() {
        root = Node(
            TarEntry(path: [], kind: .directory, mode: 0o755, uid: 0, gid: 0, modified: 0, extended: [:]), .none)
    }

    /// Begins the next layer, bottom first.
    package mutating func beginLayer() {
        layer += 1
        fresh = []
    }

    /// Applies one entry of the current layer.
    package mutating func apply(_ entry: TarEntry) throws {
        guard let name = EntryTree.name(of: entry.path) else {
            // The root itself: only its attributes count.
            if entry.kind == .directory {
                root.entry = entry
                root.entry.path = []
            }
            return
        }
        let directory = EntryTree.parent(of: entry.path)
        let parent = try makeDirectory(directory)
        if name == EntryTree.opaque {
            parent.children = parent.children.filter { fresh.contains(EntryTree.join(directory, $0.key)) }
        } else if name.starts(with: EntryTree.whiteout) {
            let victim = Array(name.dropFirst(EntryTree.whiteout.count))
            if !fresh.contains(EntryTree.join(directory, victim)) { parent.children[victim] = nil }
        } else {
            try place(entry, name, in: parent)
            fresh.insert(entry.path)
        }
    }

    /// Adds or replaces a file with bytes of our own.
    package mutating func add(_ path: String, _ bytes: [UInt8], mode: UInt16) throws {
        let raw = Array(path.utf8)
        let entry = TarEntry(
            path: raw, kind: .file(offset: 0, size: Int64(bytes.count)), mode: mode, uid: 0, gid: 0, modified: 0,
            extended: [:])
        guard let name = EntryTree.name(of: raw) else { return }
        try makeDirectory(EntryTree.parent(of: raw)).children[name] = Node(entry, .bytes(bytes))
    }

    /// Adds or replaces a symbolic link.
    package mutating func addLink(_ path: String, to target: String) throws {
        let raw = Array(path.utf8)
        guard let name = EntryTree.name(of: raw) else { return }
        let entry = TarEntry(
            path: raw, kind: .symlink(target: Array(target.utf8)), mode: 0o777, uid: 0, gid: 0, modified: 0, extended: [:])
        try makeDirectory(EntryTree.parent(of: raw)).children[name] = Node(entry, .none)
    }

    /// Makes sure that a directory is there.
    package mutating func addDirectory(_ path: String) throws { _ = try makeDirectory(Array(path.utf8)) }

    /// The node at a path, symbolic links not followed.
    package func find(_ path: [UInt8]) -> Node? {
        var node = root
        for part in path.split(separator: UInt8(ascii: "/")) {
            guard let next = node.children[Array(part)] else { return nil }
            node = next
        }
        return node
    }

    /// Every file with content, by path; one with several names under the first of them.
    package func files() -> [(path: String, content: Content)] {
        var result: [(path: String, content: Content)] = []
        var stack: [(path: String, node: Node)] = [("", root)]
        var seen: Set<ObjectIdentifier> = []
        while let (path, node) = stack.popLast() {
            for (name, child) in node.sorted { stack.append(("\(path)/\(String(decoding: name, as: UTF8.self))", child)) }
            if node.content.size > 0, node.links == 1 || seen.insert(ObjectIdentifier(node)).inserted {
                result.append((path, node.content))
            }
        }
        return result.sorted { $0.path < $1.path }
    }

    private mutating func place(_ entry: TarEntry, _ name: [UInt8], in parent: Node) throws {
        switch entry.kind {
        case .directory:
            if let existing = parent.children[name], existing.isDirectory {
                existing.entry = entry
            } else {
                parent.children[name] = Node(entry, .none)
            }
        case .file(let offset, let size):
            parent.children[name] = Node(entry, .archive(layer: layer, offset: offset, size: size))
        case .hardLink(let target):
            guard let node = find(target), !node.isDirectory else {
                throw FarmError(
                    "tar.invalid", .corrupt, "a hard link leads to \(String(decoding: target, as: UTF8.self)), which is not there")
            }
            parent.children[name] = node
        default: parent.children[name] = Node(entry, .none)
        }
    }

    private mutating func makeDirectory(_ path: [UInt8]) throws -> Node {
        var node = root
        for part in path.split(separator: UInt8(ascii: "/")) {
            let name = Array(part)
            if let next = node.children[name], next.isDirectory {
                node = next
            } else {
                // Layers may leave out directories, and may put one where a file was.
                let made = Node(
                    TarEntry(path: [], kind: .directory, mode: 0o755, uid: 0, gid: 0, modified: 0, extended: [:]), .none)
                node.children[name] = made
                node = made
            }
        }
        return node
    }

    private static func name(of path: [UInt8]) -> [UInt8]? {
        path.split(separator: UInt8(ascii: "/")).last.map(Array.init)
    }

    private static func parent(of path: [UInt8]) -> [UInt8] {
        guard let slash = path.lastIndex(of: UInt8(ascii: "/")) else { return [] }
        return Array(path[..<slash])
    }

    private static func join(_ directory: [UInt8], _ name: [UInt8]) -> [UInt8] {
        directory.isEmpty ? name : directory + [UInt8(ascii: "/")] + name
    }
}
