import FarmModel
import Glibc
package import SystemIO

/// The bytes of one layer's tar archive, uncompressed, wherever they are: headers are read forward, contents anywhere.
package protocol LayerArchive: Sendable {
    /// What messages call it: its digest, or its file.
    var name: String { get }
    /// Bytes of the archive, headers and padding included.
    var size: Int64 { get }
    /// Fills the buffer from `offset`; returns how many bytes there were.
    func read(at offset: Int64, into buffer: UnsafeMutableRawBufferPointer) throws -> Int
}

extension LayerArchive {
    /// Exactly `count` bytes at `offset`; throws `layer.short` when there are fewer.
    package func read(at offset: Int64, count: Int) throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            try fill(UnsafeMutableRawBufferPointer(buffer), at: offset)
            filled = count
        }
    }

    /// Fills the whole buffer; throws `layer.short` when there are fewer bytes.
    package func fill(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws {
        guard try read(at: offset, into: buffer) == buffer.count else {
            throw FarmError("layer.short", .corrupt, "\(name) ends before byte \(offset + Int64(buffer.count))")
        }
    }
}

/// A layer that lies as it is in a file, or in a part of one.
package struct TarFile: LayerArchive {
    package let name: String
    package let size: Int64
    private let file: OpenFile
    private let start: Int64

    /// The `size` bytes from `start` of an open file.
    package init(_ file: OpenFile, start: Int64 = 0, size: Int64, name: String? = nil) {
        self.file = file
        self.start = start
        self.size = size
        self.name = name ?? file.path
    }

    /// The same bytes under another name.
    func renamed(_ name: String) -> TarFile { TarFile(file, start: start, size: size, name: name) }

    /// A part of it.
    func part(at offset: Int64, size: Int64, name: String) -> TarFile { TarFile(file, start: start + offset, size: size, name: name) }

    package func read(at offset: Int64, into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
        let count = max(0, min(Int64(buffer.count), size - offset))
        return try file.read(at: start + offset, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(count)]))
    }
}
