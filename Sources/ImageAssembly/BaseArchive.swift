package import FarmModel
import Foundation
import Glibc
import HTTPTransport
package import Registry
import Synchronization
import SystemIO

/// A base image of a registry in one file, which the farm keeps and engines load: an OCI layout with everything from the digest down
/// (image-spec, "image-layout.md"), and `manifest.json` as `docker save` writes it. Layers are as the registry packs them, but for those
/// that an older engine cannot unpack. The same image gives the same bytes.
package enum BaseArchive {
    /// Brings an image into a file that is made for it.
    ///
    /// - Parameters:
    ///   - machine: as the kernel names it: which platform of an index is wanted.
    ///   - name: what engines shall call the image of that digest.
    /// - Returns: what the registry names the image by: the digest of its index, or else of its manifest.
    /// - Throws: `registry.…`, `image.platform`, `layer.damaged`, `disk.full`.
    package static func write(
        _ reference: ImageReference, from registry: Registry, machine: String, to path: String, room: LayeredImage.Room,
        name: (Digest) -> String
    ) async throws -> Digest {
        let source = "\(reference.host)/\(reference.repository)"
        var (bytes, digest) = try await registry.manifest(reference)
        let named = digest
        var documents = [member(digest): bytes]
        var wanted = reference
        var manifest = try CanonicalJSON.decode(LayeredImage.Manifest.self, from: bytes, source: source)
        for _ in 0..<4 where manifest.manifests != nil {
            wanted.digest = try manifest.choose(LayeredImage.platform(of: machine), name: "", source: source).content()
            (bytes, digest) = try await registry.manifest(wanted)
            documents[member(digest)] = bytes
            manifest = try CanonicalJSON.decode(LayeredImage.Manifest.self, from: bytes, source: "sha256:\(digest.hex)")
        }
        guard let config = manifest.config, let layers = manifest.layers else {
            throw FarmError("image.archive", .invalid, "\(source) is no image: it names no configuration and no layers")
        }
        let document = try await registry.blob(wanted, try config.content(), limit: LayeredImage.Manifest.longest)
        documents[member(try config.content())] = document
        let configuration = try ImageConfiguration(document, source: config.digest)
        try LayeredImage.check(configuration, layers.count, source)

        var parts: [Part] = []
        for (layer, diffID) in zip(layers, configuration.diffIDs) {
            var part = Part(name: member(try layer.content()), size: layer.size, digest: try layer.content(), unpacked: nil)
            if layer.mediaType?.contains("zstd") ?? false {
                let unpacked = try await LayeredImage.layer(layer, diffID, wanted, registry, room)
                part = Part(name: "layers/\(diffID.hex).tar", size: unpacked.size, digest: diffID, unpacked: unpacked)
            }
            parts.append(part)
        }
        documents["oci-layout"] = Array(#"{"imageLayoutVersion":"1.0.0"}"#.utf8)
        documents["index.json"] = Array(
            #"{"manifests":[{"digest":"sha256:\#(digest.hex)","mediaType":"\#(manifest.mediaType ?? "application/vnd.oci.image.manifest.v1+json")","size":\#(bytes.count)}],"schemaVersion":2}"#
                .utf8)
        documents["manifest.json"] = try CanonicalJSON.encode([
            LayeredImage.SavedImage(Config: member(try config.content()), RepoTags: [name(named)], Layers: parts.map(\.name))
        ])
        try await lay(documents, parts, wanted, registry, to: path)
        return named
    }

    private struct Part: Sendable {
        var name: String
        var size: Int64
        var digest: Digest
        /// Of a layer that is not kept as it came.
        var unpacked: TarFile?
    }

    private static func member(_ digest: Digest) -> String { "blobs/sha256/\(digest.hex)" }

    /// Lays members one behind the other; sizes are known, so that layers come side by side.
    private static func lay(
        _ documents: [String: [UInt8]], _ parts: [Part], _ image: ImageReference, _ registry: Registry, to path: String
    ) async throws {
        let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_TRUNC)
        defer { file.close() }
        var position: Int64 = 0
        func put(_ bytes: [UInt8]) throws {
            try bytes.withUnsafeBytes { try file.write($0, at: position) }
            position += Int64(bytes.count)
        }
        for (name, bytes) in documents.sorted(by: { $0.key < $1.key }) {
            try put(TarWriter.header(name, size: Int64(bytes.count)) + bytes + TarWriter.padding(Int64(bytes.count)))
        }
        var places: [(part: Part, offset: Int64)] = []
        var seen: Set<String> = []
        for part in parts where seen.insert(part.name).inserted {
            guard part.size >= 0, part.size < 1 << 40 else {
                throw FarmError("layer.too-large", .invalid, "a layer of \(image.repository) says that it has \(part.size) bytes")
            }
            try put(TarWriter.header(part.name, size: part.size))
            places.append((part, position))
            position += part.size
            try put(TarWriter.padding(part.size))
        }
        try put(TarWriter.end)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for (index, (part, offset)) in places.enumerated() {
                if index >= 3 { try await tasks.next() }
                tasks.addTask {
                    if let unpacked = part.unpacked {
                        try await Blocking.run { try copy(unpacked, to: file, at: offset) }
                    } else {
                        try await registry.blob(image, part.digest) { Arriving(part.digest, part.size, file, offset) }
                    }
                }
            }
            try await tasks.waitForAll()
        }
    }

    private static func copy(_ tar: TarFile, to file: OpenFile, at offset: Int64) throws {
        for start in stride(from: 0, to: tar.size, by: 1 << 20) {
            let bytes = try tar.read(at: start, count: Int(min(1 << 20, tar.size - start)))
            try bytes.withUnsafeBytes { try file.write($0, at: offset + start) }
        }
    }

    /// A layer on its way into its place.
    private final class Arriving: BlobTaker {
        private let digest: Digest
        private let size: Int64
        private let file: OpenFile
        private let offset: Int64
        private let state = Mutex<(count: Int64, hasher: Digest.Hasher)>((0, Digest.Hasher()))

        init(_ digest: Digest, _ size: Int64, _ file: OpenFile, _ offset: Int64) {
            (self.digest, self.size, self.file, self.offset) = (digest, size, file, offset)
        }

        func take(_ bytes: UnsafeRawBufferPointer) throws {
            let start = try state.withLock { state in
                guard state.count + Int64(bytes.count) <= size else {
                    throw FarmError("layer.damaged", .corrupt, "sha256:\(digest.hex) is longer than the image's manifest says")
                }
                state.hasher.update(bytes)
                state.count += Int64(bytes.count)
                return state.count - Int64(bytes.count)
            }
            try file.write(bytes, at: offset + start)
        }

        func finish() throws {
            guard state.withLock({ $0.count == size && $0.hasher.finish() == digest }) else {
                throw FarmError(
                    "layer.damaged", .corrupt, "sha256:\(digest.hex) is damaged: its digest is another", hint: "fetch the image again")
            }
        }
    }

    // MARK: - Reading

    /// Makes sure that an engine that loads a file gets the image of a digest, by one name, and nothing else. The engine itself compares
    /// layers with what the configuration says of them. Blocks.
    ///
    /// - Throws: `image.archive` for any other file.
    package static func check(_ path: String, digest: Digest, machine: String, name: String) throws {
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let archive = try ImageArchive(TarFile(file, size: try file.size()))
        func fail(_ why: String) -> FarmError {
            FarmError("image.archive", .corrupt, "the farm's copy of the base image sha256:\(digest.hex) is damaged: \(why)")
        }
        func document(_ digest: Digest) throws -> [UInt8] {
            guard let bytes = try archive.document(member(digest)), Digest(hashing: bytes) == digest else {
                throw fail("it has no sha256:\(digest.hex)")
            }
            return bytes
        }
        var current = digest
        var manifest = try CanonicalJSON.decode(LayeredImage.Manifest.self, from: try document(digest), source: path)
        for _ in 0..<4 where manifest.manifests != nil {
            current = try manifest.choose(LayeredImage.platform(of: machine), name: "", source: path).content()
            manifest = try CanonicalJSON.decode(LayeredImage.Manifest.self, from: try document(current), source: path)
        }
        guard let config = try manifest.config?.content() else { throw fail("it names no configuration") }
        let layers = try ImageConfiguration(try document(config), source: path).diffIDs.count
        guard let bytes = try archive.document("manifest.json"),
            let images = try? CanonicalJSON.decode([LayeredImage.SavedImage].self, from: bytes, source: path), images.count == 1
        else { throw fail("it is not one image") }
        guard images[0].Config == member(config), images[0].RepoTags == [name], images[0].Layers.count == layers else {
            throw fail("an engine would make another image of it")
        }
        for layer in images[0].Layers { _ = try archive.member(layer) }
    }
}
