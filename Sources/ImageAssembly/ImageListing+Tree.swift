import FarmModel

extension ImageListing {
    /// The files of a merged tree that layers brought.
    ///
    /// - Parameter digests: of the files' contents, by node.
    init(_ tree: EntryTree, digests: [ObjectIdentifier: Digest]) {
        self.init()
        let nothing = Digest(hashing: "")
        var stack: [(path: [UInt8], node: EntryTree.Node)] = [([], tree.root)]
        while let (path, node) = stack.popLast() {
            // What is put into every image tells nothing of this one.
            for (name, child) in node.children where !child.isOwn { stack.append((path + [UInt8(ascii: "/")] + name, child)) }
            let entry = node.entry
            var (kind, size, content): (Character, String, String) = ("d", "-", "-")
            switch entry.kind {
            case .directory: break
            case .symlink(let target): (kind, content) = ("l", ImageListing.escaped(target))
            case .file, .hardLink: (kind, size, content) = ("f", "\(node.content.size)", (digests[ObjectIdentifier(node)] ?? nothing).hex)
            case .character(let major, let minor): (kind, size) = ("c", "\(major):\(minor)")
            case .block(let major, let minor): (kind, size) = ("b", "\(major):\(minor)")
            case .fifo: kind = "p"
            }
            add(
                path.isEmpty ? [UInt8(ascii: "/")] : path, kind: kind, mode: entry.mode, owner: entry.uid, group: entry.gid, size: size,
                content: content, attributes: ImageListing.digest(entry.extended.filter { SquashfsWriter.holds($0.key) }))
        }
    }

    static func digest(_ attributes: [String: [UInt8]]) -> String {
        guard !attributes.isEmpty else { return "-" }
        var hasher = Digest.Hasher()
        for (name, value) in attributes.sorted(by: { $0.key < $1.key }) { hasher.update(Array("\(name) \(value.count) ".utf8) + value) }
        return hasher.finish().hex
    }
}
