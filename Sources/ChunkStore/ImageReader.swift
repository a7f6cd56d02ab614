package import FarmModel
import Synchronization

/// Reads any part of an image out of the store; every byte that it gives belongs to a chunk whose digest was compared.
package final class ImageReader: Sendable {
    package let manifest: ImageManifest
    private let locations: [Digest: ChunkLocation]
    private let reader: RegionReader
    private let cache: ChunkCache
    /// Where each chunk begins, and at last where the image ends.
    private let starts: [Int64]

    /// Opens an image; throws what `RegionReader` throws.
    ///
    /// - Parameters:
    ///   - manifest: the manifest's digest, as the release names it.
    ///   - cache: keeps chunks that were read, for this image and others.
    package init(manifest name: Digest, from reader: RegionReader, cache: ChunkCache) async throws {
        manifest = try await reader.manifest(name)
        locations = try await reader.locations(of: manifest, digest: name)
        self.reader = reader
        self.cache = cache
        starts = manifest.chunks.reduce(into: [0]) { $0.append(($0.last ?? 0) + Int64($1.size)) }
    }

    /// The bytes of a part, which must lie in the image. Chunks that are not at hand are fetched side by side, so the part should be no
    /// longer than what may lie in memory.
    package func read(_ range: Range<Int64>) async throws -> [UInt8] {
        guard range.lowerBound >= 0, range.upperBound <= manifest.size else {
            throw FarmError("image.range", .invalid, "image \(manifest.image.short) has \(manifest.size) bytes, not those of \(range)")
        }
        guard !range.isEmpty else { return [] }
        let indexes = chunk(at: range.lowerBound)...chunk(at: range.upperBound - 1)
        let data = try await gather(Set(manifest.chunks[indexes].map(\.digest)))
        var result: [UInt8] = []
        result.reserveCapacity(range.count)
        for index in indexes {
            guard let bytes = data[manifest.chunks[index].digest], bytes.count == manifest.chunks[index].size else {
                throw FarmError(
                    "manifest.uncovered", .corrupt, "chunk \(manifest.chunks[index].digest.short) lies nowhere, or has another size")
            }
            let from = max(0, range.lowerBound - starts[index])
            let to = min(Int64(bytes.count), range.upperBound - starts[index])
            result += bytes[Int(from)..<Int(to)]
        }
        return result
    }

    /// The number of the chunk that holds a byte.
    private func chunk(at offset: Int64) -> Int {
        var (low, high) = (0, manifest.chunks.count - 1)
        while low < high {
            let middle = (low + high + 1) / 2
            if starts[middle] <= offset { low = middle } else { high = middle - 1 }
        }
        return low
    }

    private func gather(_ wanted: Set<Digest>) async throws -> [Digest: [UInt8]] {
        var data: [Digest: [UInt8]] = [:]
        var remote: [ChunkLocation] = []
        for digest in wanted {
            if let bytes = cache.bytes(of: digest) {
                data[digest] = bytes
            } else if let location = locations[digest] {
                remote.append(location)
            }
        }
        let fetched = try await reader.chunks(at: remote)
        for (digest, bytes) in fetched { cache.keep(bytes, of: digest) }
        return data.merging(fetched) { first, _ in first }
    }
}

/// Chunks that were read lately, up to a number of bytes; those that were not asked for longest go first.
package final class ChunkCache: Sendable {
    private struct Content {
        var chunks: [Digest: (bytes: [UInt8], used: UInt64)] = [:]
        var size = 0
        var clock: UInt64 = 0
    }

    private let content = Mutex(Content())
    private let limit: Int

    package init(bytes limit: Int) { self.limit = limit }

    func bytes(of digest: Digest) -> [UInt8]? {
        content.withLock { content in
            guard let bytes = content.chunks[digest]?.bytes else { return nil }
            content.clock += 1
            content.chunks[digest]?.used = content.clock
            return bytes
        }
    }

    func keep(_ bytes: [UInt8], of digest: Digest) {
        content.withLock { content in
            content.clock += 1
            let before = content.chunks.updateValue((bytes, content.clock), forKey: digest)
            content.size += bytes.count - (before?.bytes.count ?? 0)
            guard content.size > limit else { return }
            // A quarter at once, so that this is seldom done.
            for (digest, chunk) in content.chunks.sorted(by: { $0.value.used < $1.value.used }) {
                guard content.size > limit / 4 * 3 else { break }
                content.chunks[digest] = nil
                content.size -= chunk.bytes.count
            }
        }
    }

    /// Bytes that it holds.
    package var size: Int { content.withLock { $0.size } }
}
