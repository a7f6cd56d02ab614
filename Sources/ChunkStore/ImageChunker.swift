package import FarmModel
import Glibc
package import SystemIO

/// Cuts a finished image into chunks, reading it once.
package enum ImageChunker {
    private static let readSize = 4 << 20

    /// Reads a file and gives its manifest; blocks the calling thread.
    package static func manifest(of path: String, parameters: ChunkerParameters) throws -> ImageManifest {
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let size = try file.size()
        var whole = Digest.Hasher()
        var chunks: [ImageManifest.Chunk] = []
        try forEachChunk(of: file, size: size, parameters: parameters) { digest, bytes, _ in
            whole.update(bytes)
            chunks.append(ImageManifest.Chunk(digest: digest, size: bytes.count))
        }
        return ImageManifest(image: whole.finish(), size: size, chunker: parameters, chunks: chunks)
    }

    /// Calls `body` with every chunk's digest, bytes and offset, in order.
    package static func forEachChunk(
        of file: OpenFile, size: Int64, parameters: ChunkerParameters,
        _ body: (Digest, UnsafeRawBufferPointer, Int64) throws -> Void
    ) throws {
        let chunker = try Chunker(parameters)
        let capacity = max(readSize, 2 * parameters.maximum)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 4096)
        defer { buffer.deallocate() }
        var filled = 0
        var position: Int64 = 0
        while true {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[filled...])
            filled += try file.read(at: position + Int64(filled), into: rest)
            let isLast = position + Int64(filled) >= size
            let data = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<filled])
            var start = 0
            while let length = chunker.length(in: data, from: start, isLast: isLast) {
                let chunk = UnsafeRawBufferPointer(rebasing: data[start..<start + length])
                var hasher = Digest.Hasher()
                hasher.update(chunk)
                try body(hasher.finish(), chunk, position + Int64(start))
                start += length
            }
            if isLast { return }
            guard start > 0 else { throw FarmError("chunk.stuck", .fault, "the chunker found no cut") }
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: data[start...]))
            filled -= start
            position += Int64(start)
        }
    }
}
