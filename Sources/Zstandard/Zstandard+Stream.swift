import CZstd
import FarmModel

extension Zstandard {
    /// Unpacks frames that come in pieces, with a window of at most 128 MiB; one thread at a time.
    package final class Decompressor {
        private let context: OpaquePointer
        private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: ZSTD_DStreamOutSize(), alignment: 16)
        /// Whether the last frame has ended.
        package private(set) var isComplete = true

        package init() {
            guard let context = ZSTD_createDCtx() else { preconditionFailure("out of memory") }
            self.context = context
        }

        deinit {
            ZSTD_freeDCtx(context)
            buffer.deallocate()
        }

        /// Unpacks a piece and passes on what it gives; throws `zstd.damaged`.
        package func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
            var input = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
            var isFull = false
            while input.pos < input.size || isFull {
                var output = ZSTD_outBuffer(dst: buffer.baseAddress, size: buffer.count, pos: 0)
                let left = ZSTD_decompressStream(context, &output, &input)
                guard ZSTD_isError(left) == 0 else { throw FarmError("zstd.damaged", .corrupt, "its zstd stream is damaged") }
                if output.pos > 0 { try body(UnsafeRawBufferPointer(rebasing: buffer[..<output.pos])) }
                isComplete = left == 0
                isFull = output.pos == output.size && !isComplete
            }
        }
    }
}

extension Zstandard {
    /// The library's version, for example `1.5.4`: another one may pack the same bytes otherwise.
    package static var libraryVersion: String { String(cString: ZSTD_versionString()) }
}

extension Zstandard {
    /// Packs one frame whose bytes come in pieces; one thread at a time.
    package final class StreamCompressor {
        private let context: OpaquePointer
        private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: ZSTD_CStreamOutSize(), alignment: 16)

        package init(level: Int32) {
            guard let context = ZSTD_createCCtx() else { preconditionFailure("out of memory") }
            ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)
            ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
            self.context = context
        }

        deinit {
            ZSTD_freeCCtx(context)
            buffer.deallocate()
        }

        /// Packs a piece, the last one with `ends`, and passes on what it gives; throws `zstd.failed`.
        package func feed(_ bytes: UnsafeRawBufferPointer, ends: Bool = false, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
            var input = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
            while true {
                var output = ZSTD_outBuffer(dst: buffer.baseAddress, size: buffer.count, pos: 0)
                let left = ZSTD_compressStream2(context, &output, &input, ends ? ZSTD_e_end : ZSTD_e_continue)
                guard ZSTD_isError(left) == 0 else { throw FarmError("zstd.failed", .fault, "bytes cannot be packed") }
                if output.pos > 0 { try body(UnsafeRawBufferPointer(rebasing: buffer[..<output.pos])) }
                if ends ? left == 0 : input.pos == input.size { return }
            }
        }
    }
}
