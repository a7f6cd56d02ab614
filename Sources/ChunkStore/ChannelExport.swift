import Attestation
import FarmModel
import Glibc
package import ObjectStorage
import SystemIO

/// Puts all that a channel needs into one file, for sites that no network leads to: `TarStore` reads it, any `tar` unpacks it into a bucket.
package struct ChannelExport: Sendable {
    /// What went into the file.
    package struct Report: Codable, Sendable, Hashable {
        package var releases: Int
        package var objects = 0
        /// Left out, as whoever gets the file has them.
        package var omitted = 0
        /// Of the file.
        package var bytes: Int64 = 0
    }

    private let contents: ChannelContents
    private let bucket: any ObjectStore

    /// - Parameter contents: of that bucket; throws the first of its findings: what is damaged is not passed on.
    package init(_ contents: ChannelContents, from bucket: any ObjectStore) throws {
        if let finding = contents.findings.first { throw finding.error }
        (self.contents, self.bucket) = (contents, bucket)
    }

    /// Writes the file, whole or not at all. Every object is verified on its way.
    ///
    /// - Parameters:
    ///   - known: keys of objects that go without saying.
    ///   - progress: called with the bytes so far.
    package func write(to path: String, except known: Set<String> = [], progress: (Int64) -> Void = { _ in }) async throws -> Report {
        let temporary = "\(path).part-\(Nonce.hex(bytes: 6))"
        do {
            let file = try OpenFile(temporary, flags: O_WRONLY | O_CREAT | O_EXCL)
            defer { file.close() }
            var writer = TarStoreWriter(file)
            var report = Report(releases: contents.releases.count)
            var written: Set<String> = []
            func add(_ key: String, _ read: () async throws -> [UInt8]) async throws {
                guard written.insert(key).inserted else { return }
                // Releases are small, and tell whoever imports what must be there.
                guard !known.contains(key) || key.hasPrefix("releases/") else { return report.omitted += 1 }
                let (bytes, before) = (try await read(), writer)
                writer = try await Blocking.run {
                    var next = before
                    try next.add(key, bytes)
                    return next
                }
                report.objects += 1
                progress(writer.size)
            }
            let bucket = bucket
            try await add(StoreHeader.key) { try await bucket.get(StoreHeader.key) }
            for (number, root) in contents.roots.enumerated() { try await add(TrustRoot.key(number + 1)) { root } }
            let reader = RegionReader(regions: [bucket])
            for named in contents.releases {
                let needs = try await ChannelContents.needs(of: named.release, in: bucket, reader)
                let manifest = needs.manifest
                for pack in needs.packs {
                    try await add(Pack.key(pack)) { try await reader.content(pack, key: Pack.key(pack), size: 32 << 20) }
                }
                for index in needs.indexes {
                    try await add(PackIndex.key(index)) { try await reader.content(index, key: PackIndex.key(index)) }
                }
                try await add(ImageManifest.key(manifest)) { try await reader.content(manifest, key: ImageManifest.key(manifest)) }
                try await add(ImageManifest.coverKey(manifest)) { needs.cover }
                for key in named.keys {
                    try await add(key) {
                        guard let digest = Digest(key.split(separator: "/").last ?? "") else { return try await bucket.get(key) }
                        return try await reader.content(digest, key: key)
                    }
                }
            }
            try await add(contents.key) { contents.bytes }
            try writer.finish()
            report.bytes = writer.size
            try await Blocking.run { try file.sync() }
            try Disk.rename(temporary, to: path)
            try Disk.syncDirectory(Disk.parent(of: Disk.absolute(path)))
            return report
        } catch {
            unlink(temporary)
            throw error
        }
    }
}
