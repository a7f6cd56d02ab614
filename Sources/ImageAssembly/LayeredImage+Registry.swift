import FarmModel
import HTTPTransport
package import Registry
import Synchronization
import SystemIO

extension LayeredImage {
    /// Pulls an image from a registry. Layers are unpacked while they come, three at a time, and never lie packed on the disk.
    ///
    /// - Parameter machine: as the kernel names it: which platform of an index is wanted.
    /// - Throws: `registry.…`, `image.platform`, `layer.damaged` for bytes that are not what their digest says.
    package static func pull(
        _ reference: ImageReference, from registry: Registry, machine: String, room: Room
    ) async throws -> LayeredImage {
        var wanted = reference
        var (bytes, digest) = try await registry.manifest(wanted)
        let source = "\(reference.host)/\(reference.repository)"
        var manifest = try CanonicalJSON.decode(Manifest.self, from: bytes, source: source)
        for _ in 0..<4 where manifest.manifests != nil {
            wanted.digest = try manifest.choose(platform(of: machine), name: "", source: source).content()
            (bytes, digest) = try await registry.manifest(wanted)
            manifest = try CanonicalJSON.decode(Manifest.self, from: bytes, source: "sha256:\(digest.hex)")
        }
        guard let config = manifest.config, let parts = manifest.layers else {
            throw FarmError("image.archive", .invalid, "\(source) is no image: it names no configuration and no layers")
        }
        let document = try await registry.blob(wanted, try config.content(), limit: Manifest.longest)
        let configuration = try ImageConfiguration(document, source: config.digest)
        try check(configuration, parts.count, source)
        let layers = try await withThrowingTaskGroup(of: (Int, TarFile).self) { tasks in
            var layers = [TarFile?](repeating: nil, count: parts.count)
            var next = 0
            while next < parts.count || !tasks.isEmpty {
                while next < parts.count, next < 3 + layers.count(where: { $0 != nil }) {
                    let (index, part, diffID, image) = (next, parts[next], configuration.diffIDs[next], wanted)
                    tasks.addTask { (index, try await layer(part, diffID, image, registry, room)) }
                    next += 1
                }
                if let (index, layer) = try await tasks.next() { layers[index] = layer }
            }
            return layers.compactMap(\.self)
        }
        return LayeredImage(configuration: configuration, layers: layers)
    }

    // One transfer feeds it at a time, and the caller looks at it when there is none.
    private final class Incoming: BlobTaker {
        private let lock = Mutex(())
        private nonisolated(unsafe) let unpacker: LayerUnpacker
        private let digest: Digest
        private let diffID: Digest

        init(_ part: Descriptor, _ digest: Digest, _ diffID: Digest, _ room: Room) throws {
            unpacker = try LayerUnpacker(part.digest, scratch: room.scratch, limit: room.limit)
            (self.digest, self.diffID) = (digest, diffID)
        }

        func take(_ bytes: UnsafeRawBufferPointer) throws { try lock.withLock { _ in try unpacker.feed(bytes) } }
        func finish() throws -> TarFile { try lock.withLock { _ in try unpacker.finish(digest: digest, diffID: diffID) } }
    }

    /// One of an image's layers, unpacked.
    static func layer(
        _ part: Descriptor, _ diffID: Digest, _ image: ImageReference, _ registry: Registry, _ room: Room
    ) async throws -> TarFile {
        let digest = try part.content()
        return try await registry.blob(image, digest) { try Incoming(part, digest, diffID, room) }
    }
}
