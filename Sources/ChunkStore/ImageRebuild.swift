package import FarmModel
package import Glibc
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
    private let wanted: Set<Digest>
    private var local: [Digest: Place] = [:]

    /// Plans a rebuild. Chunks found in seeds are not fetched.
    package init(manifest: ImageManifest, locations: [Digest: ChunkLocation], seeds: [Seed] = []) {
        self.manifest = manifest
        self.locations = locations
        wanted = Set(manifest.chunks.map(\.digest))
        for seed in seeds { take(from: seed) }
    }

    /// Whether nothing is left to be fetched.
    package var isLocal: Bool { local.count == wanted.count }

    /// Takes what a local image has and no earlier one had.
    package mutating func take(from seed: Seed) {
        var offset: Int64 = 0
        for chunk in seed.manifest.chunks {
            if wanted.contains(chunk.digest), local[chunk.digest] == nil {
                local[chunk.digest] = Place(path: seed.path, offset: offset, size: chunk.size)
            }
            offset += Int64(chunk.size)
        }
    }

    /// Takes what a broken rebuild of this very image has left; every chunk is compared now. Blocks.
    package mutating func take(fromPartial path: String) throws {
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let size = try file.size()
        for cut in manifest.cuts where local[cut.chunk.digest] == nil && cut.end <= size {
            let bytes = try file.read(at: cut.offset, count: cut.chunk.size)
            guard Digest(hashing: bytes) == cut.chunk.digest else { continue }
            local[cut.chunk.digest] = Place(path: path, offset: cut.offset, size: cut.chunk.size)
        }
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

    /// Writes the image to `path` (a new file) and checks its digest.
    ///
    /// - Parameters:
    ///   - mode: the new file's permissions.
    ///   - checksWhole: whether the image is hashed as a whole beside its chunks. These are all verified; together they are what a manifest
    ///     names, so this finds writers of manifests that were wrong.
    ///   - isDurable: whether it shall be on the disk when this returns, and outlive a loss of power: not what is read once and goes.
    ///   - keepsRemains: whether a file that broke off for a reason that may pass stays, for `take(fromPartial:)`.
    ///   - progress: called with the bytes of the image written so far.
    /// - Throws: `image.mismatch` when the chunks do not make the image; the file is removed then.
    package func write(
        to path: String, mode: mode_t = 0o644, from reader: RegionReader, checksWhole: Bool = true, isDurable: Bool = true,
        keepsRemains: Bool = false, progress: @escaping @Sendable (Int64) -> Void
    ) async throws {
        do {
            let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_TRUNC, mode: mode)
            defer { file.close() }
            // What is shared with a seed is not looked at again but by the digest of the whole.
            let cloner = checksWhole ? Cloner() : nil
            let image = try await withThrowingTaskGroup(of: Event.self) { tasks in
                var windows = windows(mostBytes: ImageRebuild.windowBytes)[...]
                var (fetching, written, settled, hashed) = (0, Int64(0), Int64(0), Int64(0))
                var ahead: [Int64: Int64] = [:]
                var hasher: Digest.Hasher? = Digest.Hasher()
                repeat {
                    while fetching < ImageRebuild.atOnce, let window = windows.popFirst() {
                        fetching += 1
                        tasks.addTask { .written(try await write(window, to: file, reader, cloner, isDurable: isDurable)) }
                    }
                    if checksWhole, settled > hashed, let state = hasher {
                        hasher = nil
                        let range = hashed..<settled
                        tasks.addTask { .hashed(try await file.hash(range, after: state), range.upperBound) }
                    }
                    guard let event = try await tasks.next() else { break }
                    switch event {
                    case .written(let range):
                        fetching -= 1
                        written += range.upperBound - range.lowerBound
                        ahead[range.lowerBound] = range.upperBound
                        while let end = ahead.removeValue(forKey: settled) { settled = end }
                        progress(written)
                    case .hashed(let state, let end): (hasher, hashed) = (state, end)
                    }
                } while true
                return hasher?.finish()
            }
            guard !checksWhole || image == manifest.image else {
                throw FarmError("image.mismatch", .corrupt, "the chunks do not make image \(manifest.image.short)")
            }
            if isDurable { try await Blocking.run { try file.sync() } }
        } catch {
            if !(keepsRemains && error.mayPass) { unlink(path) }
            throw error
        }
    }

    /// Together what a killed pull may have to fetch again: 16 MiB. So many at once keep regions of different speed busy.
    private static let windowBytes = 2 << 20
    private static let atOnce = 8

    private enum Event: Sendable {
        case written(Range<Int64>)
        case hashed(Digest.Hasher, Int64)
    }

    private struct Window: Sendable {
        var offset: Int64
        var chunks: [ImageManifest.Chunk]
    }

    /// The image in pieces, which bounds the memory that they take.
    private func windows(mostBytes: Int) -> [Window] {
        var windows: [Window] = []
        var (end, bytes) = (Int64(0), Int.max)
        for chunk in manifest.chunks {
            if bytes >= mostBytes {
                windows.append(Window(offset: end, chunks: []))
                bytes = 0
            }
            windows[windows.count - 1].chunks.append(chunk)
            bytes += chunk.size
            end += Int64(chunk.size)
        }
        return windows
    }

    private func write(
        _ window: Window, to file: OpenFile, _ reader: RegionReader, _ cloner: Cloner?, isDurable: Bool
    ) async throws -> Range<Int64> {
        let (data, seeded) = try await gather(window.chunks, reader)
        return try await Blocking.run {
            var pieces: [Cloner.Piece] = []
            var end = window.offset
            for chunk in window.chunks {
                guard let bytes = data[chunk.digest] else {
                    throw FarmError("manifest.uncovered", .corrupt, "chunk \(chunk.digest.short) lies nowhere")
                }
                guard bytes.count == chunk.size else {
                    throw FarmError("image.mismatch", .corrupt, "chunk \(chunk.digest.short) has not the size that the manifest says")
                }
                try file.write(bytes, at: end)
                if let place = seeded[chunk.digest] {
                    pieces.append(.init(path: place.path, from: place.offset, to: end, count: Int64(place.size)))
                }
                end += Int64(bytes.count)
            }
            cloner?.share(pieces, with: file)
            if isDurable { file.beginWriteback(at: window.offset, count: end - window.offset) }
            return window.offset..<end
        }
    }

    private func gather(
        _ window: [ImageManifest.Chunk], _ reader: RegionReader
    ) async throws -> (data: [Digest: [UInt8]], seeded: [Digest: Place]) {
        var data: [Digest: [UInt8]] = [:]
        var seeded: [Digest: Place] = [:]
        var remote: [ChunkLocation] = []
        let unique = Set(window)
        let read = unique.compactMap { chunk in
            local[chunk.digest].flatMap { place in ImageRebuild.read(place).map { (digest: chunk.digest, place: place, bytes: $0) } }
        }
        // A seed may have been damaged on its disk: what does not verify is fetched like the rest.
        for (found, digest) in zip(read, Digest.several(borrowing: read.map(\.bytes))) where digest == found.digest {
            (data[digest], seeded[digest]) = (found.bytes, found.place)
        }
        for chunk in unique where data[chunk.digest] == nil {
            if let location = locations[chunk.digest] {
                remote.append(location)
            }
        }
        return (data.merging(try await reader.chunks(at: remote)) { first, _ in first }, seeded)
    }

    private static func read(_ place: Place) -> [UInt8]? {
        guard let file = try? OpenFile(place.path, flags: O_RDONLY) else { return nil }
        defer { file.close() }
        return try? file.read(at: place.offset, count: place.size)
    }
}
