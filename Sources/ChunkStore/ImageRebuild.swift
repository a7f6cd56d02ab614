package import FarmModel
import Glibc
import SystemIO

/// Rebuilds images from chunks, taking from images that lie there already what they share.
package struct ImageRebuild: Sendable {
    /// A local image whose chunks may be taken over.
    package struct Seed: Sendable {
        package var path: String
        package var manifest: ImageManifest

        package init(path: String, manifest: ImageManifest) {
            self.path = path
            self.manifest = manifest
        }
    }

    /// What a rebuild costs; known before a chunk is fetched.
    package struct Quote: Sendable, Hashable, Codable {
        package var imageBytes: Int64
        package var fetchBytes: Int64
        package var fetchChunks: Int
        package var seedBytes: Int64

        package init(imageBytes: Int64, fetchBytes: Int64, fetchChunks: Int, seedBytes: Int64) {
            self.imageBytes = imageBytes
            self.fetchBytes = fetchBytes
            self.fetchChunks = fetchChunks
            self.seedBytes = seedBytes
        }
    }

    private struct Place: Sendable {
        var path: String
        var offset: Int64
        var size: Int
    }

    private let manifest: ImageManifest
    private let locations: [Digest: ChunkLocation]
    private let local: [Digest: Place]

    /// Plans a rebuild. Chunks found in seeds are not fetched.
    package init(manifest: ImageManifest, locations: [Digest: ChunkLocation], seeds: [Seed]) {
        self.manifest = manifest
        self.locations = locations
        let wanted = Set(manifest.chunks.map(\.digest))
        var local: [Digest: Place] = [:]
        for seed in seeds {
            var offset: Int64 = 0
            for chunk in seed.manifest.chunks {
                if wanted.contains(chunk.digest) {
                    local[chunk.digest] = Place(path: seed.path, offset: offset, size: chunk.size)
                }
                offset += Int64(chunk.size)
            }
        }
        self.local = local
    }

    package var quote: Quote {
        var quote = Quote(imageBytes: manifest.size, fetchBytes: 0, fetchChunks: 0, seedBytes: 0)
        for chunk in Set(manifest.chunks) {
            if local[chunk.digest] != nil {
                quote.seedBytes += Int64(chunk.size)
            } else if let location = locations[chunk.digest] {
                quote.fetchBytes += Int64(location.entry.storedSize)
                quote.fetchChunks += 1
            }
        }
        return quote
    }

    /// Writes the image to `path` (a new file, durable when this returns) and checks its digest.
    ///
    /// - Parameter progress: called with the bytes of the image written so far.
    /// - Throws: `image.mismatch` when the chunks do not make the image; the file is removed then.
    package func write(
        to path: String, from reader: RegionReader, progress: @escaping @Sendable (Int64) -> Void
    ) async throws {
        do {
            let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_TRUNC)
            defer { file.close() }
            var hasher = Digest.Hasher()
            var written: Int64 = 0
            // A window of chunks at a time bounds memory: 256 chunks are 64 MiB at the most.
            for start in stride(from: 0, to: manifest.chunks.count, by: 256) {
                let window = Array(manifest.chunks[start..<min(start + 256, manifest.chunks.count)])
                let data = try await gather(window, reader)
                for chunk in window {
                    guard let bytes = data[chunk.digest] else {
                        throw FarmError("manifest.uncovered", .corrupt, "chunk \(chunk.digest.short) lies nowhere")
                    }
                    hasher.update(bytes)
                    try file.write(bytes, at: written)
                    written += Int64(bytes.count)
                }
                progress(written)
            }
            guard hasher.finish() == manifest.image else {
                throw FarmError("image.mismatch", .corrupt, "the chunks do not make image \(manifest.image.short)")
            }
            try await Blocking.run { try file.sync() }
        } catch {
            unlink(path)
            throw error
        }
    }

    private func gather(_ window: [ImageManifest.Chunk], _ reader: RegionReader) async throws -> [Digest: [UInt8]] {
        var data: [Digest: [UInt8]] = [:]
        var remote: [ChunkLocation] = []
        for chunk in Set(window) {
            // A seed may have been damaged on its disk: what does not verify is fetched like the rest.
            if let place = local[chunk.digest], let bytes = ImageRebuild.read(place), Digest(hashing: bytes) == chunk.digest {
                data[chunk.digest] = bytes
            } else if let location = locations[chunk.digest] {
                remote.append(location)
            }
        }
        return data.merging(try await reader.chunks(at: remote)) { first, _ in first }
    }

    private static func read(_ place: Place) -> [UInt8]? {
        guard let file = try? OpenFile(place.path, flags: O_RDONLY) else { return nil }
        defer { file.close() }
        return try? file.read(at: place.offset, count: place.size)
    }
}
