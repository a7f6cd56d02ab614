import ChunkStore
package import FarmModel

/// A file that a store keeps, as its pointer `files/NAME.json` says (`docs/formats/chunk-store.md`, "Files without a farm").
package struct StoredFile: Codable, Sendable, Hashable {
    package var format = 1
    package var name: String
    /// The manifest's digest.
    package var manifest: Digest
    /// SHA-256 of the file.
    package var digest: Digest
    package var size: Int64
    /// SHA-256 of the list of its chunks: files of one list are equal, which is seen without hashing them as a whole.
    package var chunks: Digest
    /// Permission bits.
    package var mode: Int
    package var modified: Timestamp
    package var added: Timestamp

    private static let prefix = "files/"
    private static let suffix = ".json"

    /// The pointer's key: bytes other than letters, digits, `-`, `_` and inner dots stand as `%` and two digits.
    ///
    /// - Throws: `file.name` for a name that no bucket could hold.
    package static func key(_ name: String) throws -> String {
        var text = ""
        for (index, byte) in name.utf8.enumerated() {
            let scalar = Unicode.Scalar(byte)
            let isPlain = scalar.properties.isAlphabetic && byte < 128 || (48...57).contains(byte) || byte == 45 || byte == 95
            text += isPlain || byte == 46 && index > 0 ? String(scalar) : "%" + CollectionOfOne(byte).hex
        }
        guard !name.isEmpty, text.utf8.count <= 240 else {
            throw FarmError("file.name", .usage, "\"\(name.printable())\" is no name for a stored file", hint: "give another with --as")
        }
        return prefix + text + suffix
    }

    /// All keys of pointers begin so.
    package static var keys: String { prefix }

    static func read(_ bytes: [UInt8], key: String) throws -> StoredFile {
        let file = try CanonicalJSON.decode(StoredFile.self, from: bytes, source: key)
        guard file.format == 1, try StoredFile.key(file.name) == key, (0...1 << 60).contains(file.size), file.modified.isSensible,
            file.added.isSensible
        else { throw FarmError("file.pointer", .corrupt, "\(key) is the pointer of another file or of a format not known here") }
        return file
    }

    /// The digest of a list of chunks.
    static func digest(of chunks: [ImageManifest.Chunk]) -> Digest {
        var hasher = Digest.Hasher()
        for chunk in chunks {
            hasher.update(chunk.digest.bytes)
            hasher.update(withUnsafeBytes(of: UInt64(chunk.size).bigEndian) { Array($0) })
        }
        return hasher.finish()
    }
}

extension Timestamp {
    /// Whether it can be reckoned with: within a hundred thousand years.
    var isSensible: Bool { abs(max(milliseconds, -.max)) < 1 << 52 }
}
