package import FarmModel
import Glibc
package import SystemIO

/// Cuts images into chunks, reading them once.
package enum ImageChunker {
    private static let readSize = 4 << 20

    /// A chunk and where it lies.
    package struct Cut: Sendable, Hashable {
        package var chunk: ImageManifest.Chunk
        package var offset: Int64
        package var end: Int64 { offset + Int64(chunk.size) }
    }

    /// Reads a file and gives its manifest; blocks the calling thread.
    ///
    /// - Parameter see: gets the file's bytes in order, chunk by chunk; a thrown error ends the work.
    package static func manifest(
        of path: String, parameters: ChunkerParameters, see: (UnsafeRawBufferPointer) throws -> Void = { _ in }
    ) throws -> ImageManifest {
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let size = try file.size()
        var whole = Digest.Hasher()
        var chunks: [ImageManifest.Chunk] = []
        try forEachChunk(of: file, size: size, parameters: parameters) { digest, bytes, _ in
            try see(bytes)
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
        _ = try cut(file, from: 0, to: size, isLast: true, parameters) {
            try body($0, $1, $2)
            return true
        }
    }

    /// Cuts the bytes from `start`, where a chunk begins, up to `end`, and gives the place where the next chunk begins.
    ///
    /// - Parameters:
    ///   - isLast: whether the image ends at `end`; otherwise a chunk that may go on beyond it is left for later.
    ///   - body: gets each chunk's digest, bytes and offset; whether it wants another.
    static func cut(
        _ file: OpenFile, from start: Int64, to end: Int64, isLast: Bool, _ parameters: ChunkerParameters,
        _ body: (Digest, UnsafeRawBufferPointer, Int64) throws -> Bool
    ) throws -> Int64 {
        let chunker = try Chunker(parameters)
        let capacity = max(readSize, 2 * parameters.maximum)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 4096)
        defer { buffer.deallocate() }
        var position = start
        while position < end {
            let wanted = Int(min(Int64(capacity), end - position))
            let data = UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted])
            guard try file.read(at: position, into: data) == wanted else {
                throw FarmError("file.short", .corrupt, "\(file.path) became shorter while it was read")
            }
            let isEnd = isLast && position + Int64(wanted) == end
            var begin = 0
            for length in chunker.lengths(in: UnsafeRawBufferPointer(data), isLast: isEnd) {
                let chunk = UnsafeRawBufferPointer(rebasing: data[begin..<begin + length])
                var hasher = Digest.Hasher()
                hasher.update(chunk)
                let goesOn = try body(hasher.finish(), chunk, position + Int64(begin))
                begin += length
                if !goesOn { return position + Int64(begin) }
            }
            position += Int64(begin)
            // What is left may be the beginning of a longer chunk.
            if begin == 0 { return position }
        }
        return position
    }
}

extension ImageManifest {
    /// Its chunks with their places.
    package var cuts: [ImageChunker.Cut] {
        var end: Int64 = 0
        return chunks.map { chunk in
            defer { end += Int64(chunk.size) }
            return ImageChunker.Cut(chunk: chunk, offset: end)
        }
    }
}

/// Cuts an image while it is being written.
///
/// An image's head is known last, and where chunks end follows from where those before them do. So cutting begins behind the head as if
/// a chunk began there. When the image is whole it is cut from its true beginning until a cut falls where one was made already: from
/// there on all are the same, for a cut depends on nothing but the one before it and on bytes that have not changed.
package struct GrowingImage {
    private let file: OpenFile
    private let parameters: ChunkerParameters
    private var cuts: [ImageChunker.Cut] = []
    private var position: Int64

    /// - Parameters:
    ///   - file: open for reading.
    ///   - start: where what may still change ends.
    package init(_ file: OpenFile, from start: Int64, parameters: ChunkerParameters) {
        self.file = file
        self.parameters = parameters
        position = start
    }

    /// Cuts what has settled, the bytes up to `end`, and gives what is new. Blocks.
    package mutating func advance(to end: Int64) throws -> [ImageChunker.Cut] {
        guard end - position >= Int64(parameters.maximum) else { return [] }
        return try cutOn(to: end, isLast: false)
    }

    /// Cuts the whole image, once it is. Blocks.
    ///
    /// - Returns: the manifest, and those chunks that `advance` has not given.
    package mutating func finish() throws -> (manifest: ImageManifest, new: [ImageChunker.Cut]) {
        let size = try file.size()
        var new = size > position ? try cutOn(to: size, isLast: true) : []
        let known = Dictionary(cuts.enumerated().map { ($0.element.offset, $0.offset) }) { first, _ in first }
        var head: [ImageChunker.Cut] = []
        var meeting: Int?
        _ = try ImageChunker.cut(file, from: 0, to: size, isLast: true, parameters) { digest, bytes, offset in
            let cut = ImageChunker.Cut(chunk: .init(digest: digest, size: bytes.count), offset: offset)
            head.append(cut)
            meeting = known[cut.end]
            return meeting == nil
        }
        new += head
        let chunks = (head + (meeting.map { Array(cuts[$0...]) } ?? [])).map(\.chunk)
        return (ImageManifest(image: try file.digest(size: size), size: size, chunker: parameters, chunks: chunks), new)
    }

    private mutating func cutOn(to end: Int64, isLast: Bool) throws -> [ImageChunker.Cut] {
        var new: [ImageChunker.Cut] = []
        position = try ImageChunker.cut(file, from: position, to: end, isLast: isLast, parameters) { digest, bytes, offset in
            new.append(.init(chunk: .init(digest: digest, size: bytes.count), offset: offset))
            return true
        }
        cuts += new
        return new
    }
}
