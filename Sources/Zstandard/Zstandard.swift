import CZstd
import FarmModel

/// zstd frames (RFC 8878) over whole buffers, with bounded decompression.
package enum Zstandard {
    /// Compresses at `level`; the frame carries its content size and a checksum.
    package static func compress(_ bytes: UnsafeRawBufferPointer, level: Int32, using context: Compressor) throws -> [UInt8] {
        try context.compress(bytes, level: level)
    }

    /// Decompresses one frame that must hold exactly `size` bytes; throws `zstd.damaged` otherwise.
    package static func decompress(_ bytes: UnsafeRawBufferPointer, size: Int) throws -> [UInt8] {
        let declared = ZSTD_getFrameContentSize(bytes.baseAddress, bytes.count)
        guard declared == UInt64(size) else {
            throw FarmError("zstd.damaged", .corrupt, "a compressed frame does not hold the \(size) bytes it should")
        }
        return try [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
            let got = ZSTD_decompress(buffer.baseAddress, size, bytes.baseAddress, bytes.count)
            guard ZSTD_isError(got) == 0, got == size else {
                throw FarmError("zstd.damaged", .corrupt, "a compressed frame is damaged")
            }
            filled = size
        }
    }

    /// A reusable compression context; one thread at a time.
    package final class Compressor {
        private let context: OpaquePointer

        package init() {
            guard let context = ZSTD_createCCtx() else { preconditionFailure("out of memory") }
            self.context = context
            ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
        }

        deinit { ZSTD_freeCCtx(context) }

        fileprivate func compress(_ bytes: UnsafeRawBufferPointer, level: Int32) throws -> [UInt8] {
            ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)
            let bound = ZSTD_compressBound(bytes.count)
            return try [UInt8](unsafeUninitializedCapacity: bound) { buffer, filled in
                let put = ZSTD_compress2(context, buffer.baseAddress, bound, bytes.baseAddress, bytes.count)
                guard ZSTD_isError(put) == 0 else {
                    throw FarmError("zstd.failed", .fault, "zstd: \(String(cString: ZSTD_getErrorName(put)))")
                }
                filled = put
            }
        }
    }
}
