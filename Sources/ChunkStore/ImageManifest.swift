package import FarmModel

/// The ordered chunks that rebuild one image, byte for byte.
package struct ImageManifest: Codable, Sendable, Hashable {
    package struct Chunk: Sendable, Hashable {
        package var digest: Digest
        package var size: Int

        package init(digest: Digest, size: Int) {
            self.digest = digest
            self.size = size
        }
    }

    package var format: Int
    /// SHA-256 of the image.
    package var image: Digest
    package var size: Int64
    package var chunker: ChunkerParameters
    package var chunks: [Chunk]
    /// Gives equal manifests different names, where one of that name is about to go.
    package var salt: String?

    package static let currentFormat = 1

    package init(image: Digest, size: Int64, chunker: ChunkerParameters, chunks: [Chunk]) {
        format = ImageManifest.currentFormat
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

    /// Reads a manifest and checks that its parts agree; throws `manifest.invalid`, naming `source`.
    package static func read(_ bytes: [UInt8], source: String) throws -> ImageManifest {
        let manifest = try CanonicalJSON.decode(ImageManifest.self, from: bytes, source: source)
        func invalid(_ why: String) -> FarmError { FarmError("manifest.invalid", .corrupt, "\(source): \(why)") }
        guard manifest.format == currentFormat else { throw invalid("format \(manifest.format) is not known here") }
        try manifest.chunker.check()
        var total: Int64 = 0
        for chunk in manifest.chunks {
            guard chunk.size > 0, chunk.size <= manifest.chunker.maximum else { throw invalid("a chunk has \(chunk.size) bytes") }
            total += Int64(chunk.size)
        }
        guard total == manifest.size else { throw invalid("its chunks hold \(total) bytes, the image has \(manifest.size)") }
        return manifest
    }
}

extension ImageManifest.Chunk: Codable {
    // Written as one text, `DIGEST:SIZE`: an image has thousands of them.
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        let parts = text.split(separator: ":")
        guard parts.count == 2, let digest = Digest(parts[0]), let size = Int(parts[1]) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" names no chunk")
        }
        self.init(digest: digest, size: size)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode("\(digest.hex):\(size)")
    }
}

/// Which indexes together locate all chunks of a manifest.
package struct ManifestCover: Codable, Sendable, Hashable {
    package var format = 1
    package var indexes: [Digest]

    package init(indexes: [Digest]) { self.indexes = indexes }
}

/// What a bucket says of itself, in `sciferry.json`.
package struct StoreHeader: Codable, Sendable, Hashable {
    package var format: Int
    package var farm: String
    package var chunker: ChunkerParameters
    /// Tells stores of files apart, which have no farm.
    package var store: String?

    package static let key = "sciferry.json"
    package static let currentFormat = 1

    package init(farm: String, chunker: ChunkerParameters, store: String? = nil) {
        format = StoreHeader.currentFormat
        self.farm = farm
        self.chunker = chunker
        self.store = store
    }
}
