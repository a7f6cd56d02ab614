import CSquashfs
import FarmModel
import Glibc
import SystemIO

/// Writes a merged tree as squashfs 4.0 through libsquashfs, behind the room that the SIF head needs.
///
/// Directory order, no fragments, one compressor setting: the same tree gives the same bytes for any number of jobs.
struct SquashfsWriter {
    private let file: OpaqueFile
    private let format: ImageFormat
    private let tree: EntryTree
    private let contents: LayerContents
    private let compressor: UnsafeMutablePointer<sqfs_compressor_t>
    private var super_ = sqfs_super_t()
    /// The library fills a file's inode, and may move it, until the content is finished: it keeps the slot's address.
    private typealias Slot = UnsafeMutablePointer<UnsafeMutablePointer<sqfs_inode_generic_t>?>
    private var inodes: [ObjectIdentifier: Slot] = [:]
    private var references: [ObjectIdentifier: (number: UInt32, reference: UInt64)] = [:]
    private var links: [ObjectIdentifier: Int] = [:]
    private var nextInode: UInt32 = 1
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    /// SHA-256 of every file's content.
    private var digests: [ObjectIdentifier: Digest] = [:]

    /// Who follows the writing.
    struct Watch {
        /// Whether every file is hashed on its way.
        var digests: Bool
        /// Called with the bytes of content taken and the bytes of output that will not change any more; a thrown error ends the work.
        var wrote: (_ content: Int64, _ settled: Int64) throws -> Void
    }

    /// A libsquashfs output with the lifetime of one `write`.
    private struct OpaqueFile { let pointer: UnsafeMutablePointer<sqfs_file_t> }

    private init(
        file: OpaqueFile, format: ImageFormat, tree: EntryTree, contents: LayerContents,
        compressor: UnsafeMutablePointer<sqfs_compressor_t>
    ) {
        self.file = file
        self.format = format
        self.tree = tree
        self.contents = contents
        self.compressor = compressor
    }

    /// Writes the file system at `offset` of `output` and returns its size, a multiple of 4096.
    ///
    /// - Parameters:
    ///   - jobs: compressing threads; the bytes do not depend on it.
    ///   - watch: is told how far the work is.
    static func write(
        _ tree: EntryTree, contents: LayerContents, to output: OpenFile, offset: Int64, format: ImageFormat, modified: Int64,
        jobs: Int, watch: Watch
    ) throws -> (size: Int64, digests: [ObjectIdentifier: Digest]) {
        guard let pointer = sciferry_sqfs_file(output.descriptor, UInt64(offset)) else { throw failure("open", -1) }
        defer { sciferry_sqfs_destroy(pointer) }
        var compressor: UnsafeMutablePointer<sqfs_compressor_t>?
        try check(
            sciferry_sqfs_compressor(Int32(kind(format).rawValue), UInt32(format.blockSize), UInt32(format.level), &compressor),
            "make a compressor")
        guard let compressor else { throw failure("make a compressor", -1) }
        defer { sciferry_sqfs_destroy(compressor) }
        var writer = SquashfsWriter(
            file: OpaqueFile(pointer: pointer), format: format, tree: tree, contents: contents, compressor: compressor)
        defer { writer.buffer.deallocate() }
        defer {
            for slot in writer.inodes.values {
                if let inode = slot.pointee { sciferry_sqfs_free(inode) }
                slot.deallocate()
            }
        }
        do {
            let size = try writer.run(modified: modified, jobs: jobs, watch: watch)
            return (size, writer.digests)
        } catch let error as FarmError {
            // The library knows that it could not write, the file knows why.
            let trouble = sciferry_sqfs_trouble(pointer)
            guard trouble != 0 else { throw error }
            errno = trouble
            throw Disk.failure("write", output.path)
        }
    }

    /// How the library calls a compression.
    private static func kind(_ format: ImageFormat) -> SQFS_COMPRESSOR {
        switch format.compression {
        case .zstd: SQFS_COMP_ZSTD
        case .gzip: SQFS_COMP_GZIP
        }
    }

    private mutating func run(modified: Int64, jobs: Int, watch: Watch) throws -> Int64 {
        try Self.check(
            sqfs_super_init(&super_, format.blockSize, UInt32(clamping: modified), Self.kind(format)), "begin")
        try Self.check(sqfs_super_write(&super_, file.pointer), "write the super block")
        let options = sciferry_sqfs_write_options(compressor, file.pointer)
        guard options >= 0 else { throw Self.failure("write the compressor's options", options) }
        if options > 0 { super_.flags |= UInt16(SQFS_FLAG_COMPRESSOR_OPTIONS.rawValue) }
        count(tree.root)
        try writeContent(jobs: jobs, watch: watch)
        try writeTables()
        super_.bytes_used = sciferry_sqfs_file_size(file.pointer)
        try Self.check(sqfs_super_write(&super_, file.pointer), "write the super block")
        let padded = (Int64(super_.bytes_used) + 4095) / 4096 * 4096
        try Self.check(file.pointer.pointee.truncate(file.pointer, UInt64(padded)), "pad")
        return padded
    }

    /// Counts the names of every node.
    private mutating func count(_ node: EntryTree.Node) {
        for (_, child) in node.sorted {
            links[ObjectIdentifier(child), default: 0] += 1
            if child.isDirectory { count(child) }
        }
    }

    private mutating func writeContent(jobs: Int, watch: Watch) throws {
        guard let fragments = sqfs_frag_table_create(0) else { throw Self.failure("begin", -1) }
        defer { sciferry_sqfs_destroy(UnsafeRawPointer(fragments)) }
        guard let blocks = sciferry_sqfs_block_writer(file.pointer) else { throw Self.failure("begin", -1) }
        defer { sciferry_sqfs_destroy(blocks) }
        guard
            let processor = sqfs_block_processor_create(
                format.blockSize, compressor, UInt32(jobs), 10 * jobs, blocks, fragments)
        else { throw Self.failure("begin", -1) }
        defer { sciferry_sqfs_destroy(UnsafeRawPointer(processor)) }
        var done: Int64 = 0
        try writeContent(of: tree.root, processor, hashes: watch.digests) { count in
            done += count
            try watch.wrote(done, Int64(sciferry_sqfs_settled(blocks)))
        }
        try Self.check(sqfs_block_processor_finish(processor), "finish the content")
    }

    private mutating func writeContent(
        of directory: EntryTree.Node, _ processor: OpaquePointer, hashes: Bool, _ wrote: (Int64) throws -> Void
    ) throws {
        for (_, node) in directory.sorted {
            if node.isDirectory {
                try writeContent(of: node, processor, hashes: hashes, wrote)
                continue
            }
            guard case .file = node.entry.kind, inodes[ObjectIdentifier(node)] == nil else { continue }
            let slot = Slot.allocate(capacity: 1)
            slot.initialize(to: nil)
            inodes[ObjectIdentifier(node)] = slot
            try Self.check(
                sqfs_block_processor_begin_file(processor, slot, nil, UInt32(SQFS_BLK_DONT_FRAGMENT.rawValue)), "begin a file")
            digests[ObjectIdentifier(node)] = try append(node.content, processor, hashes: hashes, wrote)
            try Self.check(sqfs_block_processor_end_file(processor), "end a file")
        }
    }

    /// Passes a file's bytes on and gives their digest where it is wanted.
    private func append(
        _ content: EntryTree.Content, _ processor: OpaquePointer, hashes: Bool, _ wrote: (Int64) throws -> Void
    ) throws -> Digest? {
        var hasher = Digest.Hasher()
        // libsquashfs 1.2 reads through a null pointer when nothing is appended to a new file.
        for start in stride(from: 0, to: content.size, by: buffer.count) {
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(Int64(buffer.count), content.size - start))])
            try contents.fill(part, of: content, at: start)
            if hashes { hasher.update(UnsafeRawBufferPointer(part)) }
            try Self.check(sqfs_block_processor_append(processor, part.baseAddress, part.count), "compress")
            try wrote(Int64(part.count))
        }
        return hashes ? hasher.finish() : nil
    }

    private mutating func writeTables() throws {
        guard let ids = sqfs_id_table_create(0), let extended = sqfs_xattr_writer_create(0),
            let inodeTable = sqfs_meta_writer_create(file.pointer, compressor, 0),
            let directoryTable = sqfs_meta_writer_create(
                file.pointer, compressor, UInt32(SQFS_META_WRITER_KEEP_IN_MEMORY.rawValue)),
            let directories = sqfs_dir_writer_create(directoryTable, 0)
        else { throw Self.failure("begin the tables", -1) }
        defer {
            for object in [directories, directoryTable, inodeTable, extended, ids] {
                sciferry_sqfs_destroy(UnsafeRawPointer(object))
            }
        }
        let tables = Tables(ids: ids, extended: extended, inodes: inodeTable, directories: directories)
        super_.inode_table_start = sciferry_sqfs_file_size(file.pointer)
        let rootNumber = nextInode
        nextInode += 1
        super_.root_inode_ref = try write(tree.root, number: rootNumber, parent: rootNumber, tables)
        super_.inode_count = nextInode - 1
        try Self.check(sqfs_meta_writer_flush(inodeTable), "write the inodes")
        super_.directory_table_start = sciferry_sqfs_file_size(file.pointer)
        try Self.check(sqfs_meta_writer_flush(directoryTable), "write the directories")
        try Self.check(sqfs_meta_write_write_to_file(directoryTable), "write the directories")
        super_.flags |= UInt16(SQFS_FLAG_NO_FRAGMENTS.rawValue)
        try Self.check(sqfs_id_table_write(ids, file.pointer, &super_, compressor), "write the owners")
        try Self.check(sqfs_xattr_writer_flush(extended, file.pointer, &super_, compressor), "write the attributes")
    }

    private struct Tables {
        let ids: OpaquePointer
        let extended: OpaquePointer
        let inodes: OpaquePointer
        let directories: OpaquePointer
    }

    /// Writes a directory's children, then itself; returns its inode's reference.
    private mutating func write(
        _ directory: EntryTree.Node, number: UInt32, parent: UInt32, _ tables: Tables
    ) throws -> UInt64 {
        let children = directory.sorted
        for (_, child) in children where references[ObjectIdentifier(child)] == nil {
            let childNumber = nextInode
            nextInode += 1
            let reference: UInt64
            if child.isDirectory {
                reference = try write(child, number: childNumber, parent: number, tables)
            } else {
                reference = try writeLeaf(child, number: childNumber, tables)
            }
            references[ObjectIdentifier(child)] = (childNumber, reference)
        }
        try Self.check(sqfs_dir_writer_begin(tables.directories, 0), "begin a directory")
        for (name, child) in children {
            guard let place = references[ObjectIdentifier(child)] else { continue }
            try (name + [0]).withUnsafeBufferPointer { bytes in
                try bytes.withMemoryRebound(to: CChar.self) { text in
                    try Self.check(
                        sqfs_dir_writer_add_entry(
                            tables.directories, text.baseAddress, place.number, place.reference, Self.mode(of: child)),
                        "add to a directory")
                }
            }
        }
        try Self.check(sqfs_dir_writer_end(tables.directories), "end a directory")
        let attributes = try attributes(of: directory, tables)
        guard
            let inode = sqfs_dir_writer_create_inode(
                tables.directories, 0, attributes, number == parent ? nextInode : parent)
        else { throw Self.failure("make a directory", -1) }
        defer { sciferry_sqfs_free(inode) }
        return try emit(inode, directory, number: number, tables)
    }

    private mutating func writeLeaf(_ node: EntryTree.Node, number: UInt32, _ tables: Tables) throws -> UInt64 {
        var inode: UnsafeMutablePointer<sqfs_inode_generic_t>?
        if let slot = inodes[ObjectIdentifier(node)] {
            inode = slot.pointee
            slot.pointee = nil
        }
        switch node.entry.kind {
        case .symlink(let target):
            inode = target.withUnsafeBytes {
                sciferry_sqfs_symlink($0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count)
            }
        case .character(let major, let minor):
            inode = sciferry_sqfs_special(UInt16(SQFS_INODE_CDEV.rawValue), Self.device(major, minor))
        case .block(let major, let minor):
            inode = sciferry_sqfs_special(UInt16(SQFS_INODE_BDEV.rawValue), Self.device(major, minor))
        case .fifo: inode = sciferry_sqfs_special(UInt16(SQFS_INODE_FIFO.rawValue), 0)
        case .file, .directory, .hardLink: break
        }
        guard let inode else { throw Self.failure("make an inode", -1) }
        defer { sciferry_sqfs_free(inode) }
        try Self.check(
            sciferry_sqfs_set_links(inode, UInt32(links[ObjectIdentifier(node)] ?? 1)), "count links")
        let attributes = try attributes(of: node, tables)
        if attributes != UInt32.max {
            try Self.check(sqfs_inode_set_xattr_index(inode, attributes), "set attributes")
        }
        return try emit(inode, node, number: number, tables)
    }

    private func emit(
        _ inode: UnsafeMutablePointer<sqfs_inode_generic_t>, _ node: EntryTree.Node, number: UInt32, _ tables: Tables
    ) throws -> UInt64 {
        inode.pointee.base.mode = Self.mode(of: node)
        inode.pointee.base.mod_time = UInt32(clamping: node.entry.modified)
        inode.pointee.base.inode_number = number
        try Self.check(
            sqfs_id_table_id_to_index(tables.ids, node.entry.uid, &inode.pointee.base.uid_idx), "number an owner")
        try Self.check(
            sqfs_id_table_id_to_index(tables.ids, node.entry.gid, &inode.pointee.base.gid_idx), "number a group")
        var block: UInt64 = 0
        var offset: UInt32 = 0
        sqfs_meta_writer_get_position(tables.inodes, &block, &offset)
        try Self.check(sqfs_meta_writer_write_inode(tables.inodes, inode), "write an inode")
        return block << 16 | UInt64(offset)
    }

    private func attributes(of node: EntryTree.Node, _ tables: Tables) throws -> UInt32 {
        guard node.entry.extended.contains(where: { Self.holds($0.key) }) else { return UInt32.max }
        try Self.check(sqfs_xattr_writer_begin(tables.extended, 0), "begin attributes")
        for (key, value) in node.entry.extended.sorted(by: { $0.key < $1.key }) {
            guard Self.holds(key) else { continue }
            try Self.check(sqfs_xattr_writer_add(tables.extended, key, value, value.count), "add an attribute")
        }
        var index = UInt32.max
        try Self.check(sqfs_xattr_writer_end(tables.extended, &index), "end attributes")
        return index
    }

    /// Whether squashfs has a place for an extended attribute: it knows three name spaces, access lists are in none of them. What
    /// overlays note of themselves is no part of an image.
    static func holds(_ attribute: String) -> Bool {
        ["user.", "trusted.", "security."].contains { attribute.hasPrefix($0) } && !attribute.contains(".overlay.")
    }

    private static func mode(of node: EntryTree.Node) -> UInt16 {
        let type: UInt32 =
            switch node.entry.kind {
            case .directory: S_IFDIR
            case .file, .hardLink: S_IFREG
            case .symlink: S_IFLNK
            case .character: S_IFCHR
            case .block: S_IFBLK
            case .fifo: S_IFIFO
            }
        return UInt16(truncatingIfNeeded: type) | node.entry.mode
    }

    private static func device(_ major: UInt32, _ minor: UInt32) -> UInt32 {
        (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
    }

    private static func check(_ code: Int32, _ deed: String) throws {
        guard code == 0 else { throw failure(deed, code) }
    }

    private static func failure(_ deed: String, _ code: Int32) -> FarmError {
        FarmError("image.squashfs", .fault, "libsquashfs cannot \(deed) (error \(code))")
    }
}
