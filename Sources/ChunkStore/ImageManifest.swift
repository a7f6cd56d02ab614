package import FarmModel

/// The ordered chunks that rebuild one image, byte for byte (`docs/formats/chunk-store.md`, "Manifests and covers").
package struct ImageManifest: Sendable, Hashable {
    package struct Chunk: Sendable, Hashable {
        package var digest: Digest
        package var size: Int

        package init(digest: Digest, size: Int) {
            self.digest = digest
            self.size = size
        }
    }

    /// SHA-256 of the image.
    package var image: Digest
    package var size: Int64
    package var chunker: ChunkerParameters
    package var chunks: [Chunk]
    /// Gives equal manifests different names, where one of that name is about to go.
    package var salt: [UInt8] = []

    private static let magic = Array("SFMANIF2".utf8)
    private static let headSize = 8 + 32 + 8 + 3 * 4 + 1
    private static let chunkSize = 35

    package init(image: Digest, size: Int64, chunker: ChunkerParameters, chunks: [Chunk]) {
        self.image = image
        self.size = size
        self.chunker = chunker
        self.chunks = chunks
    }

    /// The object's key; manifests are named by their own digest.
    package static func key(_ digest: Digest) -> String { "manifests/\(digest.hex)" }

    /// The key of the object that says which indexes cover a manifest's chunks. It stands apart because indexes are
    /// merged and packs rewritten while the manifest, which the release names by digest, never changes.
    package static func coverKey(_ digest: Digest) -> String { "covers/\(digest.hex)" }

    /// The canonical bytes, whose digest is the manifest's name.
    package var bytes: [UInt8] {
        var bytes = ImageManifest.magic
        bytes.reserveCapacity(ImageManifest.headSize + salt.count + 4 + chunks.count * ImageManifest.chunkSize)
        bytes += image.bytes
        bytes.append(number: Int(size), bytes: 8)
        for number in [chunker.minimum, chunker.average, chunker.maximum] { bytes.append(number: number, bytes: 4) }
        bytes.append(UInt8(salt.count))
        bytes += salt
        bytes.append(number: chunks.count, bytes: 4)
        for chunk in chunks {
            bytes += chunk.digest.bytes
            bytes.append(number: chunk.size - 1, bytes: 3)
        }
        return bytes
    }

    /// Reads a manifest and checks that its parts agree; throws `manifest.invalid`, naming `source`.
    package init(_ bytes: [UInt8], source: String) throws {
        func invalid(_ why: String) -> FarmError { FarmError("manifest.invalid", .corrupt, "\(source) is no manifest: \(why)") }
        self = try bytes.withUnsafeBytes { raw in
            guard raw.count >= ImageManifest.headSize, raw.prefix(8).elementsEqual(ImageManifest.magic) else {
                throw invalid("the magic is missing")
            }
            let sizes = (0..<3).map { ByteFields.number(raw, at: 48 + 4 * $0, bytes: 4) }
            let chunker = ChunkerParameters(minimum: sizes[0], average: sizes[1], maximum: sizes[2])
            try chunker.check()
            let saltEnd = ImageManifest.headSize + Int(raw[ImageManifest.headSize - 1])
            guard raw.count >= saltEnd + 4 else { throw invalid("it is too short") }
            let (count, start) = (ByteFields.number(raw, at: saltEnd, bytes: 4), saltEnd + 4)
            guard raw.count == start + count * ImageManifest.chunkSize else { throw invalid("it has not the length of \(count) chunks") }
            var (chunks, total) = ([Chunk](), 0)
            chunks.reserveCapacity(count)
            for number in 0..<count {
                let place = start + number * ImageManifest.chunkSize
                let chunk = Chunk(
                    digest: ByteFields.digest(raw, at: place), size: ByteFields.number(raw, at: place + 32, bytes: 3) + 1)
                guard chunk.size <= chunker.maximum else { throw invalid("a chunk has \(chunk.size) bytes") }
                chunks.append(chunk)
                total += chunk.size
            }
            guard total == ByteFields.number(raw, at: 40, bytes: 8) else {
                throw invalid("its chunks hold \(total) bytes, not the image's")
            }
            var manifest = ImageManifest(
                image: ByteFields.digest(raw, at: 8), size: Int64(total), chunker: chunker, chunks: chunks)
            manifest.salt = Array(raw[ImageManifest.headSize..<saltEnd])
            return manifest
        }
    }
}

/// Which indexes together locate all chunks of a manifest.
package struct ManifestCover: Codable, Sendable, Hashable {
    package var format = 1
    package var indexes: [Digest]

    package init(indexes: [Digest]) { self.indexes = indexes }

    /// No cover comes near this: it names some indexes.
    package static let largest: Int64 = 1 << 20
}

/// What a bucket says of itself, in `sciferry.json`.
package struct StoreHeader: Codable, Sendable, Hashable {
    package var format: Int
    package var farm: String
    package var chunker: ChunkerParameters
    /// Tells stores of files apart, which have no farm.
    package var store: String?

    package static let key = "sciferry.json"
    package static let currentFormat = 2

    package init(farm: String, chunker: ChunkerParameters, store: String? = nil) {
        format = StoreHeader.currentFormat
        self.farm = farm
        self.chunker = chunker
        self.store = store
    }
}
