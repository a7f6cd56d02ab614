import CSquashfs
package import FarmModel
import Glibc
package import SingularityImage
package import SystemIO

/// Reads the file system of an image (squashfs 4.0, through libsquashfs) without mounting it. For files of anybody: nothing beyond the
/// partition is read, and what does not fit together is refused (`image.squashfs`).
package final class SquashfsReader {
    /// What the super block says.
    package struct Summary: Sendable, Hashable {
        /// `gzip`, `lzma`, `lzo`, `xz`, `lz4` or `zstd`.
        package var compression: String
        package var blockSize: Int
        package var inodes: Int
        package var bytes: Int64
        package var modified: Timestamp
    }

    /// One name in the file system.
    package struct Entry: Sendable, Hashable {
        /// What it is, as `ImageListing` names kinds; `s` for a socket.
        package var kind: Character
        /// From the root, with a leading slash; the root itself is `/`.
        package var path: [UInt8]
        /// Permission bits alone.
        package var mode: UInt16
        package var owner: UInt32
        package var group: UInt32
        package var modified: Timestamp
        /// Of a file.
        package var size: Int64
        /// Of a symbolic link.
        package var target: [UInt8]
        /// Of a device: major and minor number.
        package var device: (major: UInt32, minor: UInt32) { ((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)) }
        /// Names with the same number are one file.
        package var inode: UInt32
        package var attributes: [String: [UInt8]]
        var number: UInt32
    }

    private typealias Inode = UnsafeMutablePointer<sqfs_inode_generic_t>

    private let file: UnsafeMutablePointer<sqfs_file_t>
    private let decompressor: UnsafeMutablePointer<sqfs_compressor_t>
    private let directories: OpaquePointer
    private let data: OpaquePointer
    private let owners: OpaquePointer
    private let attributes: OpaquePointer
    /// Open as long as it is read.
    private let image: OpenFile
    private let library = Library()

    /// What the library has made, freed also when an image turns out to be damaged while it is opened.
    private final class Library {
        /// At an address of its own, which the library keeps.
        let superBlock = UnsafeMutablePointer<sqfs_super_t>.allocate(capacity: 1)
        var objects: [UnsafeRawPointer] = []

        init() { superBlock.initialize(to: sqfs_super_t()) }

        deinit {
            for object in objects.reversed() { sciferry_sqfs_destroy(object) }
            superBlock.deallocate()
        }
    }

    private static let mostEntries = 4_000_000
    private static let deepest = 4096

    /// Opens the partition of an image; throws `image.squashfs`.
    package init(_ image: OpenFile, _ partition: SingularityImage.Partition) throws {
        self.image = image
        let library = library
        func own<Pointer>(_ pointer: Pointer?, _ raw: (Pointer) -> UnsafeRawPointer) throws -> Pointer {
            guard let pointer else { throw SquashfsReader.failure("open the image", -1) }
            library.objects.append(raw(pointer))
            return pointer
        }
        file = try own(sciferry_sqfs_open(image.descriptor, UInt64(partition.offset), UInt64(partition.size))) { UnsafeRawPointer($0) }
        let block = library.superBlock
        try SquashfsReader.check(sqfs_super_read(block, file), "read the super block")
        var compressor: UnsafeMutablePointer<sqfs_compressor_t>?
        try SquashfsReader.check(sciferry_sqfs_decompressor(block, file, &compressor), "unpack with its method")
        decompressor = try own(compressor) { UnsafeRawPointer($0) }
        owners = try own(sqfs_id_table_create(0)) { UnsafeRawPointer($0) }
        try SquashfsReader.check(sqfs_id_table_read(owners, file, block, decompressor), "read the owners")
        attributes = try own(sqfs_xattr_reader_create(0)) { UnsafeRawPointer($0) }
        try SquashfsReader.check(sqfs_xattr_reader_load(attributes, block, file, decompressor), "read the extended attributes")
        directories = try own(sqfs_dir_reader_create(block, decompressor, file, 0)) { UnsafeRawPointer($0) }
        data = try own(sqfs_data_reader_create(file, Int(block.pointee.block_size), decompressor, 0)) { UnsafeRawPointer($0) }
        try SquashfsReader.check(sqfs_data_reader_load_fragment_table(data, block), "read the fragments")
    }

    package var summary: Summary {
        let names = ["?", "gzip", "lzma", "lzo", "xz", "lz4", "zstd"]
        let block = library.superBlock.pointee
        let method = Int(block.compression_id)
        return Summary(
            compression: names.indices.contains(method) ? names[method] : "?", blockSize: Int(block.block_size),
            inodes: Int(block.inode_count), bytes: Int64(clamping: block.bytes_used),
            modified: Timestamp(seconds: Int64(block.modification_time)))
    }

    /// Goes through all names, each directory before what is in it, in the order of their bytes.
    ///
    /// - Parameter body: gets the entry and what reads the file's content piece by piece.
    package func walk(_ body: (Entry, _ content: (([UInt8]) throws -> Void) throws -> Void) throws -> Void) throws {
        var root: Inode?
        try SquashfsReader.check(sqfs_dir_reader_get_root_inode(directories, &root), "read the root")
        guard let root else { throw SquashfsReader.failure("read the root", -1) }
        var stack: [(path: [UInt8], inode: Inode)] = [([], root)]
        defer { for (_, inode) in stack { sciferry_sqfs_free(inode) } }
        var count = 0
        // A directory has one place; a second one would be a loop.
        var seen: Set<UInt32> = []
        while let (path, inode) = stack.popLast() {
            defer { sciferry_sqfs_free(inode) }
            count += 1
            guard count <= SquashfsReader.mostEntries else {
                throw SquashfsReader.damaged("it has more than \(SquashfsReader.mostEntries) names")
            }
            let entry = try entry(inode, path)
            try body(entry) { try read(inode, entry, $0) }
            guard entry.kind == "d" else { continue }
            guard seen.insert(entry.inode).inserted else { throw SquashfsReader.damaged("a directory contains itself") }
            guard path.count <= SquashfsReader.deepest else {
                throw SquashfsReader.damaged("a path is longer than \(SquashfsReader.deepest)")
            }
            try children(of: inode, path, &stack)
        }
    }

    /// One file, directory or link by its path from the root, which follows no symbolic link; `nil` when there is none.
    ///
    /// - Parameter body: gets the entry and what reads the file's content piece by piece.
    package func find<Value>(
        _ path: String, _ body: (Entry, _ content: (([UInt8]) throws -> Void) throws -> Void) throws -> Value
    ) throws -> Value? {
        guard !path.utf8.contains(0) else { return nil }
        var inode: Inode?
        let code = path.withCString { sqfs_dir_reader_find_by_path(directories, nil, $0, &inode) }
        if code == SQFS_ERROR_NO_ENTRY.rawValue || code == SQFS_ERROR_NOT_DIR.rawValue { return nil }
        try SquashfsReader.check(code, "find \(ImageListing.escaped(Array(path.utf8)))")
        guard let inode else { throw SquashfsReader.failure("find an inode", -1) }
        defer { sciferry_sqfs_free(inode) }
        let entry = try entry(inode, Array((path.hasPrefix("/") ? path : "/\(path)").utf8))
        return try body(entry) { try read(inode, entry, $0) }
    }

    /// What stands directly in a directory, in the order of their bytes; `nil` when there is no such directory.
    package func entries(in path: String) throws -> [Entry]? {
        var inode: Inode?
        let code = path.withCString { sqfs_dir_reader_find_by_path(directories, nil, $0, &inode) }
        if code == SQFS_ERROR_NO_ENTRY.rawValue || code == SQFS_ERROR_NOT_DIR.rawValue { return nil }
        try SquashfsReader.check(code, "find \(ImageListing.escaped(Array(path.utf8)))")
        guard let inode else { throw SquashfsReader.failure("find an inode", -1) }
        defer { sciferry_sqfs_free(inode) }
        guard try entry(inode, []).kind == "d" else { return nil }
        var found: [(path: [UInt8], inode: Inode)] = []
        defer { for (_, inode) in found { sciferry_sqfs_free(inode) } }
        try children(of: inode, path == "/" ? [] : Array(path.utf8), &found)
        return try found.reversed().map { try entry($0.inode, $0.path) }
    }

    private struct Enough: Error {}

    /// The first bytes of a file, at most so many; `nil` when there is no such file.
    package func bytes(of path: String, limit: Int) throws -> [UInt8]? {
        var bytes: [UInt8] = []
        do {
            let kind = try find(path) { entry, content in
                try content {
                    bytes += $0.prefix(limit - bytes.count)
                    if bytes.count == limit { throw Enough() }
                }
                return entry.kind
            }
            return kind == "f" ? bytes : nil
        } catch is Enough { return bytes }
    }

    private func children(of inode: Inode, _ path: [UInt8], _ stack: inout [(path: [UInt8], inode: Inode)]) throws {
        try SquashfsReader.check(sqfs_dir_reader_open_dir(directories, inode, 0), "open a directory")
        let first = stack.count
        while true {
            var name: UnsafeMutablePointer<sqfs_dir_entry_t>?
            let code = sqfs_dir_reader_read(directories, &name)
            if code > 0 { break }
            try SquashfsReader.check(code, "read a directory")
            guard let name else { throw SquashfsReader.failure("read a directory", -1) }
            defer { sciferry_sqfs_free(name) }
            var length = 0
            let bytes = Array(UnsafeBufferPointer(start: sciferry_sqfs_entry_name(name, &length), count: length))
            guard !bytes.contains(UInt8(ascii: "/")), !bytes.contains(0), bytes != Array(".".utf8), bytes != Array("..".utf8) else {
                throw SquashfsReader.damaged("\"\(ImageListing.escaped(bytes))\" is no name")
            }
            var child: Inode?
            try SquashfsReader.check(sqfs_dir_reader_get_inode(directories, &child), "read \(ImageListing.escaped(bytes))")
            guard let child else { throw SquashfsReader.failure("read an inode", -1) }
            stack.append((path + [UInt8(ascii: "/")] + bytes, child))
        }
        // The last in the stack is the next one.
        stack[first...].sort { $1.path.lexicographicallyPrecedes($0.path) }
    }

    private func entry(_ inode: Inode, _ path: [UInt8]) throws -> Entry {
        let base = inode.pointee.base
        let kinds: [Character] = ["d", "f", "l", "b", "c", "p", "s"]
        let type = Int(base.type)
        guard (1...14).contains(type) else { throw SquashfsReader.damaged("an inode is of the kind \(type)") }
        var (owner, group, size): (UInt32, UInt32, UInt64) = (0, 0, 0)
        try SquashfsReader.check(sqfs_id_table_index_to_id(owners, base.uid_idx, &owner), "find an owner")
        try SquashfsReader.check(sqfs_id_table_index_to_id(owners, base.gid_idx, &group), "find a group")
        let kind = kinds[(type - 1) % 7]
        if kind == "f" { try SquashfsReader.check(sqfs_inode_get_file_size(inode, &size), "find a size") }
        var length = 0
        let target = sciferry_sqfs_target(inode, &length).map { Array(UnsafeBufferPointer(start: $0, count: length)) } ?? []
        return Entry(
            kind: kind, path: path.isEmpty ? [UInt8(ascii: "/")] : path, mode: base.mode & 0o7777, owner: owner, group: group,
            modified: Timestamp(seconds: Int64(base.mod_time)), size: Int64(clamping: size), target: target, inode: base.inode_number,
            attributes: try attributes(of: inode), number: sciferry_sqfs_device(inode))
    }

    private func attributes(of inode: Inode) throws -> [String: [UInt8]] {
        var index: UInt32 = 0
        guard sqfs_inode_get_xattr_index(inode, &index) == 0, index != 0xFFFF_FFFF else { return [:] }
        var place = sqfs_xattr_id_t()
        try SquashfsReader.check(sqfs_xattr_reader_get_desc(attributes, index, &place), "find extended attributes")
        // Without a table the library finds an empty list, and would seek it through a null pointer.
        guard place.count > 0 else { return [:] }
        try SquashfsReader.check(sqfs_xattr_reader_seek_kv(attributes, &place), "find extended attributes")
        guard place.count <= 1024 else { throw SquashfsReader.damaged("a file has \(place.count) extended attributes") }
        var result: [String: [UInt8]] = [:]
        for _ in 0..<place.count {
            var key: UnsafeMutablePointer<sqfs_xattr_entry_t>?
            try SquashfsReader.check(sqfs_xattr_reader_read_key(attributes, &key), "read an extended attribute")
            guard let key else { throw SquashfsReader.failure("read an extended attribute", -1) }
            defer { sciferry_sqfs_free(key) }
            var value: UnsafeMutablePointer<sqfs_xattr_value_t>?
            try SquashfsReader.check(sqfs_xattr_reader_read_value(attributes, key, &value), "read an extended attribute")
            guard let value else { throw SquashfsReader.failure("read an extended attribute", -1) }
            defer { sciferry_sqfs_free(value) }
            var length = 0
            let bytes = Array(UnsafeBufferPointer(start: sciferry_sqfs_value(value, &length), count: length))
            result[String(cString: sciferry_sqfs_key(key))] = bytes
        }
        return result
    }

    private func read(_ inode: Inode, _ entry: Entry, _ body: ([UInt8]) throws -> Void) throws {
        guard entry.kind == "f" else { return }
        var position: Int64 = 0
        let piece = 1 << 20
        while position < entry.size {
            let wanted = Int(min(Int64(piece), entry.size - position))
            var failed: Int32 = 0
            let bytes = [UInt8](unsafeUninitializedCapacity: wanted) { buffer, count in
                let got = sqfs_data_reader_read(data, inode, UInt64(position), buffer.baseAddress, UInt32(wanted))
                if got <= 0 { failed = got == 0 ? -1 : got }
                count = max(0, Int(got))
            }
            guard failed == 0 else { throw SquashfsReader.failure("read \(ImageListing.escaped(entry.path))", failed) }
            try body(bytes)
            position += Int64(bytes.count)
        }
    }

    private static func check(_ code: Int32, _ deed: String) throws {
        guard code == 0 else { throw failure(deed, code) }
    }

    private static func failure(_ deed: String, _ code: Int32) -> FarmError {
        FarmError("image.squashfs", .corrupt, "the image's file system is damaged: libsquashfs cannot \(deed) (error \(code))")
    }

    private static func damaged(_ why: String) -> FarmError {
        FarmError("image.squashfs", .corrupt, "the image's file system is damaged: \(why)")
    }
}

extension ImageListing {
    /// All files of an image's file system.
    ///
    /// - Parameter see: gets every entry, and of a file the first bytes where no other name has brought them before.
    /// - Parameter check: called now and then; a thrown error ends the work.
    package init(
        _ reader: SquashfsReader, check: @escaping () throws -> Void = {},
        see: (SquashfsReader.Entry, _ first: ArraySlice<UInt8>) throws -> Void = { _, _ in }
    ) throws {
        self.init()
        var digests: [UInt32: String] = [:]
        try reader.walk { entry, content in
            var (size, text) = ("-", "-")
            var first: [UInt8] = []
            switch entry.kind {
            case "f":
                size = "\(entry.size)"
                if digests[entry.inode] == nil {
                    var hasher = Digest.Hasher()
                    try content {
                        try check()
                        if first.isEmpty { first = Array($0.prefix(64)) }
                        hasher.update($0)
                    }
                    digests[entry.inode] = hasher.finish().hex
                }
                text = digests[entry.inode] ?? "-"
            case "l": text = ImageListing.escaped(entry.target)
            case "b", "c": size = "\(entry.device.major):\(entry.device.minor)"
            default: break
            }
            add(
                entry.path, kind: entry.kind, mode: entry.mode, owner: entry.owner, group: entry.group, size: size, content: text,
                attributes: ImageListing.digest(entry.attributes))
            try see(entry, first[...])
        }
    }
}
