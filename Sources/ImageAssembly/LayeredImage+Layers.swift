package import FarmModel
import Foundation
import Glibc
package import SystemIO
import Zstandard

/// Layers of an engine's images one by one: taken out, and given back.
extension LayeredImage {
    /// The names of chains of layers, from the lowest one on (OCI image-spec, "Layer ChainID").
    static func chains(_ layers: [Digest]) -> [Digest] {
        var chain: Digest?
        return layers.map { layer in
            let next = chain.map { Digest(hashing: "sha256:\($0.hex) sha256:\(layer.hex)") } ?? layer
            chain = next
            return next
        }
    }

    /// How many layers of a chain a Docker engine with the overlay2 driver has, from the lowest one on. Blocks.
    ///
    /// - Parameter root: the engine's directory, as `docker info` tells it.
    package static func held(_ layers: [Digest], root: String) -> Int {
        chains(layers).prefix { Disk.isDirectory("\(root)/image/overlay2/layerdb/sha256/\($0.hex)") }.count
    }

    /// A layer's archive in a file.
    package struct PackedLayer: Sendable, Hashable {
        /// Bytes of the archive itself.
        package var size: Int64
        /// What the file has: the archive as one zstd frame.
        package var packed: IncomingObject
    }

    /// Writes a layer's archive into a file, packed. Blocks. Throws `layer.damaged` when it is not what its name says.
    ///
    /// - Parameters:
    ///   - isOver: looked at now and then; once raised, `CancellationError` is thrown.
    package func pack(_ index: Int, to path: String, level: Int32 = 3, isOver: Switch) throws -> PackedLayer {
        let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
        defer { file.close() }
        let compressor = Zstandard.StreamCompressor(level: level)
        var (content, packed) = (Digest.Hasher(), Digest.Hasher())
        var (size, written): (Int64, Int64) = (0, 0)
        func keep(_ bytes: UnsafeRawBufferPointer) throws {
            packed.update(bytes)
            written += Int64(bytes.count)
            try file.write(Array(bytes))
        }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            if isOver.isRaised { throw CancellationError() }
            let count = try layers[index].read(at: size, into: buffer)
            if count == 0 { break }
            let piece = UnsafeRawBufferPointer(rebasing: buffer[..<count])
            content.update(piece)
            size += Int64(count)
            try compressor.feed(piece, keep)
        }
        try compressor.feed(UnsafeRawBufferPointer(start: nil, count: 0), ends: true, keep)
        guard content.finish() == configuration.diffIDs[index] else {
            throw FarmError("layer.damaged", .corrupt, "the engine's \(layers[index].name) has other bytes than its name says")
        }
        return PackedLayer(size: size, packed: IncomingObject(digest: packed.finish(), size: written))
    }

    /// Unpacks what `pack` wrote. Blocks. Throws `zstd.damaged`, and `layer.size` for more than `limit` bytes.
    ///
    /// - Returns: the archive's digest and size.
    package static func unpack(_ path: String, to destination: String, limit: Int64) throws -> IncomingObject {
        let (source, file) = (try OpenFile(path, flags: O_RDONLY), try OpenFile(destination, flags: O_WRONLY | O_CREAT | O_TRUNC))
        defer {
            source.close()
            file.close()
        }
        let unpacker = Zstandard.Decompressor()
        var content = Digest.Hasher()
        var (position, size): (Int64, Int64) = (0, 0)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            let count = try source.read(at: position, into: buffer)
            if count == 0 { break }
            position += Int64(count)
            try unpacker.feed(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { piece in
                size += Int64(piece.count)
                guard size <= limit else { throw FarmError("layer.size", .invalid, "a layer has more than \(limit) bytes") }
                content.update(piece)
                try file.write(Array(piece))
            }
        }
        guard unpacker.isComplete else { throw FarmError("zstd.damaged", .corrupt, "its zstd stream ends too early") }
        return IncomingObject(digest: content.finish(), size: size)
    }
}

/// An image's configuration, cut down to its first layers, with what a builder has noted of them: enough for an engine to take the
/// steps that made them as done.
package enum CacheConfiguration {
    /// BuildKit's notes of what made which layer ("inline cache"): records that name the layers they gave by number.
    private static let notes = "moby.buildkit.cache.v0"

    /// - Parameters:
    ///   - text: the whole image's configuration.
    ///   - count: layers that are kept, the base's among them.
    /// - Throws: `image.configuration`.
    package static func cut(_ text: String, layers count: Int) throws -> [UInt8] {
        func wrong(_ what: String) -> FarmError { FarmError("image.configuration", .corrupt, "a kept image's configuration \(what)") }
        guard var document = (try? JSONSerialization.jsonObject(with: Data(text.utf8))) as? [String: Any],
            var root = document["rootfs"] as? [String: Any], let layers = root["diff_ids"] as? [String], layers.count >= count
        else { throw wrong("names too few layers") }
        root["diff_ids"] = Array(layers.prefix(count))
        document["rootfs"] = root
        if let history = document["history"] as? [[String: Any]] {
            var left = count
            var kept: [[String: Any]] = []
            for entry in history {
                let isLayer = !(entry["empty_layer"] as? Bool ?? false)
                if isLayer, left == 0 { break }
                if isLayer { left -= 1 }
                kept.append(entry)
            }
            document["history"] = kept
        }
        if let packed = document[notes] as? String {
            guard let bytes = Data(base64Encoded: packed),
                let records = (try? JSONSerialization.jsonObject(with: bytes)) as? [[String: Any]]
            else { throw wrong("has notes of another form") }
            // Records name each other by their places, so all of them stay, but for what they say of layers that are not there.
            let cut = records.map { record in
                var record = record
                if let results = record["layers"] as? [[String: Any]] {
                    let there = results.filter { ($0["layer"] as? Int ?? .max) < count }
                    record["layers"] = there.isEmpty ? nil : there
                }
                return record
            }
            document[notes] = try JSONSerialization.data(withJSONObject: cut, options: [.sortedKeys]).base64EncodedString()
        }
        return Array(try JSONSerialization.data(withJSONObject: document, options: [.sortedKeys, .withoutEscapingSlashes]))
    }

    /// Which of the steps at an image's end made a layer. Throws `image.configuration` when its history tells of fewer instructions.
    ///
    /// - Parameters:
    ///   - text: the image's configuration.
    ///   - entries: of each of the last instructions, in order, whether it is a step; others make no layers.
    package static func madeLayers(_ text: String, entries: [Bool]) throws -> [Bool] {
        let document = (try? JSONSerialization.jsonObject(with: Data(text.utf8))) as? [String: Any]
        guard let history = document?["history"] as? [[String: Any]], history.count >= entries.count else {
            throw FarmError("image.configuration", .corrupt, "an image's history tells of fewer than \(entries.count) instructions")
        }
        return zip(entries, history.suffix(entries.count)).filter(\.0).map { !($0.1["empty_layer"] as? Bool ?? false) }
    }

    /// Whether it has a builder's notes: without them only the classic builder finds steps in it.
    package static func hasNotes(_ text: String) -> Bool { text.contains("\"\(notes)\"") }
}
