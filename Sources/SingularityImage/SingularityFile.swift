import FarmModel
import Glibc
package import SystemIO

/// An image in a file: its objects, read, added and removed. Errors name the file.
package struct SingularityFile: Sendable {
    package let file: OpenFile
    package private(set) var head: SingularityImage.Head

    /// Opens an image; throws `file.absent`, `sif.invalid`.
    package init(_ path: String, isWritable: Bool = false) throws {
        guard Disk.kind(Disk.realPath(path) ?? path) == .file else {
            throw FarmError("file.absent", .notFound, "there is no file \(path)", hint: "name a .sif file")
        }
        file = try OpenFile(path, flags: isWritable ? O_RDWR : O_RDONLY)
        let size = try file.size()
        let first = try file.read(at: 0, count: Int(min(size, Int64(SingularityImage.longestHead))))
        head = try SingularityFile.naming(path) { try SingularityImage.read(first, fileSize: size) }
        guard isWritable else { return }
        let start = max(Int64(SingularityImage.headerSize), head.tableOffset + Int64(head.slots * SingularityImage.descriptorSize))
        let places = head.descriptors.sorted { $0.offset < $1.offset }
        guard head.dataOffset >= start, places.allSatisfy({ $0.offset >= start }),
            zip(places, places.dropFirst()).allSatisfy({ $0.end <= $1.offset })
        else {
            throw FarmError("sif.layout", .invalid, "\(path): its objects lie in its head or in each other, so nothing is changed in it")
        }
    }

    /// A new image in an open file whose objects, if it has some, the head describes. Nothing is written yet.
    package init(_ file: OpenFile, _ head: SingularityImage.Head) {
        self.file = file
        self.head = head
    }

    /// Passes errors on with the file's name in front.
    package static func naming<Value>(_ path: String, _ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as FarmError {
            throw FarmError(error.code, error.category, "\(path): \(error.message)", hint: error.hint)
        }
    }

    /// The object with that number; throws `sif.object`.
    package func object(_ id: UInt32) throws -> SingularityImage.Descriptor {
        guard let found = head.descriptors.first(where: { $0.id == id }) else {
            throw FarmError("sif.object", .notFound, "\(file.path) has no object \(id)", hint: "sciferry image inspect shows what it has")
        }
        return found
    }

    /// An object's bytes; throws `sif.object` when there are more than `limit`.
    package func bytes(of object: SingularityImage.Descriptor, limit: Int64) throws -> [UInt8] {
        guard object.size <= limit else {
            throw FarmError("sif.object", .invalid, "\(file.path): object \(object.id) has \(object.size) bytes, more than \(limit)")
        }
        return try file.read(at: object.offset, count: Int(object.size))
    }

    /// Passes on an object's bytes in pieces.
    package func read(_ object: SingularityImage.Descriptor, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        for offset in stride(from: 0, to: object.size, by: buffer.count) {
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(Int64(buffer.count), object.size - offset))])
            guard try file.read(at: object.offset + offset, into: part) == part.count else {
                throw FarmError("file.short", .corrupt, "\(file.path) became shorter while it was read")
            }
            try body(UnsafeRawBufferPointer(part))
        }
    }

    /// Adds an object behind the others. Its bytes are on the disk before the head speaks of it.
    ///
    /// - Parameter modified: seconds since 1970, the image's from now on.
    @discardableResult
    package mutating func append(
        _ object: SingularityImage.Descriptor, _ bytes: [UInt8], modified: Int64
    ) throws -> SingularityImage.Descriptor {
        var next = head
        var object = object
        object.size = Int64(bytes.count)
        let placed = try next.append(object)
        next.modified = modified
        try file.write(bytes, at: placed.offset)
        try file.sync()
        head = next
        try writeHead()
        return placed
    }

    /// Takes an object out. One at the end gives its room back, any other is filled with zeros.
    package mutating func remove(_ id: UInt32, modified: Int64) throws {
        let gone = try object(id)
        var next = head
        next.descriptors.removeAll { $0.id == id }
        next.modified = modified
        head = next
        try writeHead()
        if gone.offset >= head.end {
            guard ftruncate(file.descriptor, off_t(head.end)) == 0 else { throw Disk.failure("shorten", file.path) }
        } else {
            for offset in stride(from: gone.offset, to: gone.end, by: 1 << 20) {
                try file.write([UInt8](repeating: 0, count: Int(min(1 << 20, gone.end - offset))), at: offset)
            }
        }
        try file.sync()
    }

    /// Writes header and table; nothing between them changes.
    package func writeHead() throws {
        try file.write(head.table, at: head.tableOffset)
        try file.write(head.header, at: 0)
        try file.sync()
    }
}
