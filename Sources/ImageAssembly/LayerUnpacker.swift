package import FarmModel
import Glibc
import SystemIO

/// Takes a layer as it comes, packed or not, and keeps its tar archive in a file without a name.
package final class LayerUnpacker {
    private let name: String
    private let file: OpenFile
    private let limit: Int64
    private var unpacking: (any Unpacking)?
    private var first: [UInt8] = []
    private var whole = Digest.Hasher()
    private var plain = Digest.Hasher()
    private var size: Int64 = 0
    private var received: Int64 = 0

    /// - Parameters:
    ///   - name: what messages call the layer.
    ///   - scratch: the directory whose file system holds the archive.
    ///   - limit: bytes of an archive that is longer are refused.
    package init(_ name: String, scratch: String, limit: Int64) throws {
        self.name = name
        self.limit = limit
        file = try OpenFile(nameless: scratch)
    }

    /// The next bytes. Throws `layer.damaged`, `layer.too-large`, `disk.full`.
    package func feed(_ bytes: UnsafeRawBufferPointer) throws {
        whole.update(bytes)
        received += Int64(bytes.count)
        if let unpacking { return try unpack(bytes, unpacking) }
        first += bytes
        // Four bytes tell how it is packed.
        if first.count >= 4 { try begin() }
    }

    /// The layer, once all has come.
    ///
    /// - Parameters:
    ///   - digest: of what came; `nil` when nobody knows.
    ///   - diffID: of the archive; `nil` when nobody knows.
    /// - Throws: `layer.damaged` for other bytes than those.
    package func finish(digest: Digest?, diffID: Digest?) throws -> TarFile {
        if unpacking == nil { try begin() }
        guard unpacking?.isComplete ?? true else { throw damaged("it ends too soon") }
        if let digest, whole.finish() != digest { throw damaged("its digest is another") }
        if let diffID, plain.finish() != diffID { throw damaged("unpacked it has another digest than the image's configuration says") }
        return TarFile(file, size: size, name: name)
    }

    private func begin() throws {
        let stream = try Packing(Array(first.prefix(4))).stream
        unpacking = stream
        try first.withUnsafeBytes { try unpack($0, stream) }
        first = []
    }

    private func unpack(_ bytes: UnsafeRawBufferPointer, _ stream: any Unpacking) throws {
        do {
            try stream.feed(bytes) { piece in
                guard size + Int64(piece.count) <= limit else {
                    throw FarmError(
                        "layer.too-large", .invalid, "\(name) is a bomb: \(received) bytes of it unpack to more than \(limit)")
                }
                plain.update(piece)
                try file.write(piece, at: size)
                size += Int64(piece.count)
            }
        } catch let error as FarmError where error.category == .corrupt {
            throw damaged(error.message)
        }
    }

    private func damaged(_ why: String) -> FarmError {
        FarmError("layer.damaged", .corrupt, "\(name) is damaged: \(why)", hint: "fetch the image again")
    }
}
