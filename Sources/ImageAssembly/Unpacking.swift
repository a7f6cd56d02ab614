import CZlib
import FarmModel
import Zstandard

/// What unpacks a stream of bytes that comes in pieces.
protocol Unpacking: AnyObject {
    /// Unpacks a piece and passes on what it gives; throws a typed error when it is damaged.
    func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void) throws
    /// Whether the stream may end here.
    var isComplete: Bool { get }
}

/// How a layer is packed, as its first four bytes tell.
enum Packing {
    case none, gzip, zstd

    init(_ first: [UInt8]) {
        if first.starts(with: [0x1F, 0x8B]) {
            self = .gzip
        } else if first == [0x28, 0xB5, 0x2F, 0xFD]
            || first.count == 4 && first[0] & 0xF0 == 0x50 && first.dropFirst().elementsEqual([0x2A, 0x4D, 0x18])
        {
            // Parallel compressors put frames to be skipped in front (RFC 8878, section 3.1.2).
            self = .zstd
        } else {
            self = .none
        }
    }

    var stream: any Unpacking {
        get throws {
            switch self {
            case .none: PlainStream()
            case .gzip: try GzipStream()
            case .zstd: ZstandardStream()
            }
        }
    }
}

/// A stream that is not packed.
final class PlainStream: Unpacking {
    var isComplete: Bool { true }
    func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void) throws { try body(bytes) }
}

/// gzip members one behind the other (RFC 1952); parallel compressors write many.
final class GzipStream: Unpacking {
    private let stream: UnsafeMutablePointer<z_stream>
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 16)
    private(set) var isComplete = false

    init() throws {
        stream = .allocate(capacity: 1)
        stream.initialize(to: z_stream())
        guard sciferry_gzip_begin(stream) == Z_OK else { throw FarmError("gzip.failed", .fault, "zlib cannot begin") }
    }

    deinit {
        inflateEnd(stream)
        stream.deallocate()
        buffer.deallocate()
    }

    func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
        guard !bytes.isEmpty else { return }
        stream.pointee.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
        stream.pointee.avail_in = UInt32(bytes.count)
        while stream.pointee.avail_in > 0 || stream.pointee.avail_out == 0 {
            if isComplete {
                // What stands behind the last member is padding or another one.
                if stream.pointee.avail_in == 0 || stream.pointee.next_in.pointee == 0 { return }
                inflateReset(stream)
                isComplete = false
            }
            stream.pointee.next_out = buffer.bindMemory(to: UInt8.self).baseAddress
            stream.pointee.avail_out = UInt32(buffer.count)
            let code = inflate(stream, Z_NO_FLUSH)
            guard code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR else {
                throw FarmError("gzip.damaged", .corrupt, "its gzip stream is damaged")
            }
            let made = buffer.count - Int(stream.pointee.avail_out)
            if made > 0 { try body(UnsafeRawBufferPointer(rebasing: buffer[..<made])) }
            isComplete = code == Z_STREAM_END
            if code == Z_BUF_ERROR && made == 0 { return }
        }
    }
}

/// zstd frames one behind the other.
final class ZstandardStream: Unpacking {
    private let decompressor = Zstandard.Decompressor()
    var isComplete: Bool { decompressor.isComplete }

    func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
        try decompressor.feed(bytes, body)
    }
}
