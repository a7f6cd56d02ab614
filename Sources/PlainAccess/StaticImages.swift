import ChunkStore
package import FarmModel
import Glibc
package import ObjectStorage
import SystemIO

/// Whole files of all images in a bucket, under the addresses that `ImageService` gives them, for who serves a bucket and runs nothing.
package struct StaticImages: Sendable {
    /// What a run did.
    package struct Report: Codable, Sendable, Hashable {
        package var written = 0
        package var writtenBytes: Int64 = 0
        package var unchanged = 0
        package var deleted = 0
    }

    private let library: ImageLibrary
    private let bucket: any ObjectStore
    private static let index = "index.json"
    private static let prefix = "images/"

    package init(_ library: ImageLibrary, in bucket: any ObjectStore) {
        self.library = library
        self.bucket = bucket
    }

    /// Writes what the bucket lacks, then the list of what it has; killed anywhere, the next run goes on. Files of images that the channel no
    /// longer has go last, when asked.
    ///
    /// - Parameters:
    ///   - scratch: a directory with room for the largest image.
    ///   - progress: called with each image's path before it is written.
    package func write(
        scratch: String, deletes: Bool, now: Timestamp, progress: (_ path: String, _ size: Int64) -> Void = { _, _ in }
    ) async throws -> Report {
        let images = try await library.all(now: now)
        let there = Dictionary(uniqueKeysWithValues: try await bucket.all(prefix: StaticImages.prefix).map { ($0.key, $0.size) })
        let listed = Set(try await listing())
        var report = Report()
        var done: [ServedImage] = []
        for image in images {
            let key = StaticImages.prefix + image.path
            if listed.contains(image), there[key] == image.size {
                report.unchanged += 1
            } else {
                progress(image.path, image.size)
                // What is written over counts no more until it is whole.
                try await put(done + listed.filter { $0.path != image.path && !done.contains($0) })
                try await copy(image, to: key, scratch)
                report.written += 1
                report.writtenBytes += image.size
            }
            done.append(image)
        }
        try await put(done)
        let wanted = Set(images.map { StaticImages.prefix + $0.path })
        for key in there.keys.filter({ !wanted.contains($0) }).sorted() where deletes {
            try await bucket.delete(key)
            report.deleted += 1
        }
        return report
    }

    private func listing() async throws -> [ServedImage] {
        do {
            let bytes = try await bucket.get(StaticImages.index)
            return try CanonicalJSON.decode(from: bytes, source: "\(StaticImages.index) in \(bucket.name)")
        } catch let error as FarmError where error.category == .notFound || error.category == .invalid { return [] }
    }

    private func put(_ images: [ServedImage]) async throws {
        try await bucket.put(StaticImages.index, try CanonicalJSON.encode(images.sorted { $0.path < $1.path }))
    }

    private func copy(_ image: ServedImage, to key: String, _ scratch: String) async throws {
        let reader = try await library.reader(of: image)
        let path = "\(scratch)/\(Nonce.hex(bytes: 8)).sif"
        defer { unlink(path) }
        let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_EXCL, mode: 0o600)
        defer { file.close() }
        var hasher = Digest.Hasher()
        for start in stride(from: 0, to: image.size, by: 4 << 20) {
            let bytes = try await reader.read(start..<min(start + 4 << 20, image.size))
            hasher.update(bytes)
            try await Blocking.run { try file.write(bytes, at: start) }
        }
        guard hasher.finish() == image.sha256 else {
            throw FarmError("image.mismatch", .corrupt, "the chunks do not make \(image.path)")
        }
        try await bucket.put(key, .file(path: path, size: image.size))
    }
}
