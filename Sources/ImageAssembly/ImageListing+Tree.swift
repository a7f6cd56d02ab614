import FarmModel

extension ImageListing {
    /// The files of a merged tree.
    ///
    /// - Parameter read: gives a file's content piece by piece.
    init(_ tree: EntryTree, read: (EntryTree.Content, ([UInt8]) -> Void) throws -> Void) throws {
        self.init()
        var digests: [ObjectIdentifier: String] = [:]
        var stack: [(path: [UInt8], node: EntryTree.Node)] = [([], tree.root)]
        while let (path, node) = stack.popLast() {
            for (name, child) in node.children { stack.append((path + [UInt8(ascii: "/")] + name, child)) }
            let entry = node.entry
            var (kind, size, content): (Character, String, String) = ("d", "-", "-")
            switch entry.kind {
            case .directory: break
            case .symlink(let target): (kind, content) = ("l", ImageListing.escaped(target))
            case .file, .hardLink:
                let name = ObjectIdentifier(node)
                let digest = try digests[name] ?? ImageListing.digest(node.content, read)
                digests[name] = digest
                (kind, size, content) = ("f", "\(node.content.size)", digest)
            case .character(let major, let minor): (kind, size) = ("c", "\(major):\(minor)")
            case .block(let major, let minor): (kind, size) = ("b", "\(major):\(minor)")
            case .fifo: kind = "p"
            }
            add(
                path.isEmpty ? [UInt8(ascii: "/")] : path, kind: kind, mode: entry.mode, owner: entry.uid, group: entry.gid, size: size,
                content: content, attributes: ImageListing.digest(entry.extended))
        }
    }

    private static func digest(
        _ content: EntryTree.Content, _ read: (EntryTree.Content, ([UInt8]) -> Void) throws -> Void
    ) throws -> String {
        var hasher = Digest.Hasher()
        if case .bytes(let bytes) = content { hasher.update(bytes) } else { try read(content) { hasher.update($0) } }
        return hasher.finish().hex
    }

    static func digest(_ attributes: [String: [UInt8]]) -> String {
        guard !attributes.isEmpty else { return "-" }
        var hasher = Digest.Hasher()
        for (name, value) in attributes.sorted(by: { $0.key < $1.key }) { hasher.update(Array("\(name) \(value.count) ".utf8) + value) }
        return hasher.finish().hex
    }
}
