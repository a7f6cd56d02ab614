import FarmModel

/// The merged file system of an image: the topmost layer's word counts, whiteouts delete (OCI image-spec, "layer.md").
package struct EntryTree {
    /// What a file holds.
    package enum Content: Sendable, Hashable {
        case none
        case layer(Int, FileContent)
        case bytes([UInt8])

        package var size: Int64 {
            switch self {
            case .none: 0
            case .layer(_, let content): content.size
            case .bytes(let bytes): Int64(bytes.count)
            }
        }
    }

    /// A file of the image; one with several names is one node.
    package final class Node {
        package var entry: TarEntry
        package var content: Content
        package var children: [[UInt8]: Node] = [:]
        /// The layer that made it; -1 for what no layer speaks of.
        fileprivate var layer: Int

        init(_ entry: TarEntry, _ content: Content, layer: Int) {
            self.entry = entry
            self.content = content
            self.layer = layer
        }

        /// Whether it was added, and is of no layer.
        var isOwn: Bool { layer < 0 }

        package var isDirectory: Bool { entry.kind == .directory }

        /// Children in the order of their names' bytes.
        package var sorted: [(name: [UInt8], node: Node)] {
            children.map { ($0.key, $0.value) }.sorted { $0.0.lexicographicallyPrecedes($1.0) }
        }
    }

    /// What one image may hold; more is taken for an attack.
    package struct Limits: Sendable {
        package var entries = 4_000_000
        /// Bytes of all files, holes counted.
        package var bytes: Int64 = 1 << 40
        /// Bytes of all names, link targets and extended attributes; they are held in memory.
        package var names = 1 << 29

        package init() {}
    }

    /// `/`.
    package let root: Node
    private let limits: Limits
    private var layer = -1
    private var layerName = ""
    private var entries = 0
    private var bytes: Int64 = 0
    private var names = 0

    private static let whiteout = Array(".wh.".utf8)
    private static let opaque = Array(".wh..wh..opq".utf8)

    package init(limits: Limits = Limits()) {
        self.limits = limits
        root = Node(EntryTree.directory, .none, layer: -1)
    }

    private static let directory = TarEntry(
        path: [], kind: .directory, mode: 0o755, uid: 0, gid: 0, modified: 0, extended: [:])

    /// Merges layers, bottom first; throws `tar.invalid`, naming the layer and the entry.
    package init(merging layers: [any LayerArchive], limits: Limits = Limits()) throws {
        self.init(limits: limits)
        for layer in layers {
            beginLayer(layer.name)
            var reader = TarReader(layer)
            while let entry = try reader.next() { try apply(entry) }
        }
    }

    /// Begins the next layer, bottom first.
    package mutating func beginLayer(_ name: String) {
        layer += 1
        layerName = name
    }

    /// Applies one entry of the current layer.
    package mutating func apply(_ entry: TarEntry) throws {
        entries += 1
        guard entries <= limits.entries else { throw invalid(entry.path, "the image has more than \(limits.entries) entries") }
        names += entry.path.count + entry.extended.reduce(0) { $0 + $1.key.utf8.count + $1.value.count }
        if case .symlink(let target) = entry.kind { names += target.count }
        guard names <= limits.names else {
            throw invalid(entry.path, "names and attributes of the image have more than \(limits.names) bytes")
        }
        guard let name = EntryTree.name(of: entry.path) else {
            // The root itself: only its attributes count.
            if entry.kind == .directory {
                root.entry = entry
                root.entry.path = []
            }
            return
        }
        let parent = try makeDirectory(EntryTree.parent(of: entry.path), for: entry.path)
        if name == EntryTree.opaque {
            parent.children = parent.children.filter { keepsOwn($0.value) }
        } else if name.starts(with: EntryTree.whiteout) {
            let victim = Array(name.dropFirst(EntryTree.whiteout.count))
            if let node = parent.children[victim], !keepsOwn(node) { parent.children[victim] = nil }
        } else {
            try place(entry, name, in: parent)
        }
    }

    /// Adds or replaces a file with bytes of our own.
    package mutating func add(_ path: String, _ bytes: [UInt8], mode: UInt16) throws {
        let entry = TarEntry(
            path: [], kind: .file(FileContent(offset: 0, size: Int64(bytes.count))), mode: mode, uid: 0, gid: 0, modified: 0, extended: [:])
        try addOwn(path, Node(entry, .bytes(bytes), layer: -1))
    }

    /// Adds or replaces a symbolic link.
    package mutating func addLink(_ path: String, to target: String) throws {
        let entry = TarEntry(
            path: [], kind: .symlink(target: Array(target.utf8)), mode: 0o777, uid: 0, gid: 0, modified: 0, extended: [:])
        try addOwn(path, Node(entry, .none, layer: -1))
    }

    private mutating func addOwn(_ path: String, _ node: Node) throws {
        let raw = Array(path.utf8)
        guard let name = EntryTree.name(of: raw) else { return }
        layer = -1
        try makeDirectory(EntryTree.parent(of: raw), for: raw).children[name] = node
    }

    /// Makes sure that a directory is there, unless a link or a file of the image stands in its way.
    package mutating func addDirectory(_ path: String, mode: UInt16) throws {
        let raw = Array(path.utf8)
        // A link or a file of the image on the way stays what it is.
        var node = root
        for part in raw.split(separator: UInt8(ascii: "/")) {
            guard let next = node.children[Array(part)] else { break }
            guard next.isDirectory else { return }
            node = next
        }
        layer = -1
        try makeDirectory(raw, for: raw).entry.mode = mode
    }

    /// The node at a path, symbolic links not followed.
    package func find(_ path: [UInt8]) -> Node? {
        var node = root
        for part in path.split(separator: UInt8(ascii: "/")) {
            guard let next = node.children[Array(part)] else { return nil }
            node = next
        }
        return node
    }

    /// The node at a path, also when symbolic links inside the image lead there.
    package func follow(_ path: String) -> Node? {
        var rest = Array(path.utf8.split(separator: UInt8(ascii: "/")).map(Array.init).reversed())
        var trail: [Node] = [root]
        var hops = 0
        while let part = rest.popLast() {
            if part == Array(".".utf8) { continue }
            if part == Array("..".utf8) {
                if trail.count > 1 { trail.removeLast() }
                continue
            }
            guard let next = trail.last?.children[part] else { return nil }
            guard case .symlink(let target) = next.entry.kind else {
                trail.append(next)
                continue
            }
            hops += 1
            guard hops <= 40 else { return nil }
            if target.first == UInt8(ascii: "/") { trail = [root] }
            rest += target.split(separator: UInt8(ascii: "/")).map(Array.init).reversed()
        }
        return trail.last
    }

    /// Every file with content, by path; one with several names under the first of them.
    package func files() -> [(path: String, content: Content)] {
        var result: [(path: String, content: Content)] = []
        var seen: Set<ObjectIdentifier> = []
        func visit(_ path: String, _ node: Node) {
            for (name, child) in node.sorted { visit("\(path)/\(String(decoding: name, as: UTF8.self))", child) }
            if node.content.size > 0, seen.insert(ObjectIdentifier(node)).inserted { result.append((path, node.content)) }
        }
        visit("", root)
        return result
    }

    /// Takes out what lower layers put at and below a node; whether anything of this layer is left. A marker may stand anywhere in
    /// its layer.
    private func keepsOwn(_ node: Node) -> Bool {
        guard node.isDirectory else { return node.layer == layer }
        node.children = node.children.filter { keepsOwn($0.value) }
        return node.layer == layer || !node.children.isEmpty
    }

    private mutating func place(_ entry: TarEntry, _ name: [UInt8], in parent: Node) throws {
        // The tree knows where everything is.
        var kept = entry
        kept.path = []
        switch entry.kind {
        case .directory:
            if let existing = parent.children[name], existing.isDirectory {
                existing.entry = kept
                existing.layer = layer
            } else {
                parent.children[name] = Node(kept, .none, layer: layer)
            }
        case .file(let content):
            let (sum, overflow) = bytes.addingReportingOverflow(content.size)
            guard !overflow, sum <= limits.bytes else {
                throw invalid(entry.path, "with its \(content.size) bytes the image has more than \(limits.bytes)")
            }
            bytes = sum
            kept.kind = .file(FileContent(offset: 0, size: 0))
            parent.children[name] = Node(kept, content.size > 0 ? .layer(layer, content) : .none, layer: layer)
        case .hardLink(let target):
            guard let node = find(target), !node.isDirectory else {
                throw invalid(entry.path, "it is another name of \(ImageListing.escaped(target)), which is no file of the image")
            }
            node.layer = layer
            parent.children[name] = node
        default: parent.children[name] = Node(kept, .none, layer: layer)
        }
    }

    /// - Parameter entry: what is to be put there, for messages.
    private mutating func makeDirectory(_ path: [UInt8], for entry: [UInt8]) throws -> Node {
        var node = root
        for part in path.split(separator: UInt8(ascii: "/")) {
            let name = Array(part)
            let next = node.children[name]
            if let next, next.isDirectory {
                node = next
                continue
            }
            if let next, layer >= 0, next.layer == layer {
                // An engine that unpacks this would follow the link; nothing honest is laid out so.
                throw invalid(entry, "\(ImageListing.escaped(name)) on its way is no directory but a file or a link of the same layer")
            }
            // Layers may leave out directories, and may put one where a file or a link was.
            let made = Node(EntryTree.directory, .none, layer: layer)
            node.children[name] = made
            node = made
        }
        return node
    }

    private func invalid(_ path: [UInt8], _ why: String) -> FarmError { TarReader.invalid(layerName, path, why) }

    private static func name(of path: [UInt8]) -> [UInt8]? {
        path.split(separator: UInt8(ascii: "/")).last.map(Array.init)
    }

    private static func parent(of path: [UInt8]) -> [UInt8] {
        guard let slash = path.lastIndex(of: UInt8(ascii: "/")) else { return [] }
        return Array(path[..<slash])
    }
}
