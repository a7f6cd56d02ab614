import CZlib
import FarmModel
import SystemIO

/// Packs a layer's archive with gzip, which every engine reads, into a file without a name. The same bytes give the same layer.
final class LayerPacker {
    let file: OpenFile
    private let stream: UnsafeMutablePointer<z_stream>
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 16)
    private var plain = Digest.Hasher()
    private var packed = Digest.Hasher()
    private(set) var size: Int64 = 0

    /// - Parameter scratch: the directory whose file system holds the file.
    init(scratch: String) throws {
        file = try OpenFile(nameless: scratch)
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        guard sciferry_gzip_pack(stream, 6) == Z_OK else { throw FarmError("gzip.failed", .fault, "zlib cannot begin") }
    }

    deinit {
        deflateEnd(stream)
        stream.deallocate()
        buffer.deallocate()
    }

    /// The next bytes of the archive.
    func feed(_ bytes: UnsafeRawBufferPointer) throws {
        guard !bytes.isEmpty else { return }
        plain.update(bytes)
        stream.pointee.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
        stream.pointee.avail_in = UInt32(bytes.count)
        try pack(Z_NO_FLUSH)
    }

    func feed(_ bytes: [UInt8]) throws { try bytes.withUnsafeBytes { try feed($0) } }

    /// Ends the archive and gives both digests.
    func finish() throws -> (digest: Digest, diffID: Digest) {
        stream.pointee.avail_in = 0
        try pack(Z_FINISH)
        return (packed.finish(), plain.finish())
    }

    private func pack(_ flush: Int32) throws {
        var code = Z_OK
        repeat {
            stream.pointee.next_out = buffer.bindMemory(to: UInt8.self).baseAddress
            stream.pointee.avail_out = UInt32(buffer.count)
            code = deflate(stream, flush)
            guard code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR else {
                throw FarmError("gzip.failed", .fault, "zlib cannot pack")
            }
            let made = UnsafeRawBufferPointer(rebasing: buffer[..<(buffer.count - Int(stream.pointee.avail_out))])
            packed.update(made)
            try file.write(made, at: size)
            size += Int64(made.count)
        } while stream.pointee.avail_out == 0 || flush == Z_FINISH && code != Z_STREAM_END
    }
}
