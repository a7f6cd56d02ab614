import Attestation
import FarmModel
package import ObjectStorage

/// What is to be seen to before a channel is poured from one bucket into another.
package struct ChannelImport: Sendable {
    private let source: any ObjectStore
    private let target: any ObjectStore

    package init(from source: any ObjectStore, to target: any ObjectStore) { (self.source, self.target) = (source, target) }

    /// Throws `channel.rollback` when the target has a newer channel, `tar.incomplete` when a release that came along would lack something
    /// then, and what is wrong with the source's channels.
    package func check() async throws {
        let first = TrustRoot.key(1)
        if try await target.head(first) != nil, try await target.get(first) != source.get(first) {
            throw FarmError(
                "store.foreign", .conflict, "\(target.name) belongs to another farm than \(source.name): their first roots differ",
                hint: "give the copy a bucket of its own")
        }
        for object in try await source.all(prefix: "channels/") where object.key.hasSuffix(".json") {
            let name = String(object.key.dropFirst("channels/".count).dropLast(".json".count))
            let there = Set(try await source.all(prefix: "releases/").map(\.key))
            let contents = try await ChannelContents.read(name, from: source) { entry in
                there.contains(ReleaseDocument.key(name: entry.name, version: entry.version, digest: entry.release))
            }
            if let finding = contents.findings.first { throw finding.error }
            if let old = try? await ChannelContents.read(name, from: target, where: { _ in false }), contents.channel.isBehind(old.channel)
            {
                throw FarmError(
                    "channel.rollback", .conflict,
                    "\(target.name) has version \(old.channel.version) of the channel \(name), newer than \(contents.channel.version) in \(source.name)",
                    hint: "import the newest export last")
            }
            for named in contents.releases { try await check(named) }
        }
    }

    private func check(_ named: ChannelContents.Named) async throws {
        let reader = RegionReader(regions: [source, target])
        func absent(_ key: String, _ cause: FarmError? = nil) -> FarmError {
            FarmError(
                "tar.incomplete", .invalid, "\(named.release.title) needs \(key), which neither \(source.name) nor \(target.name) has",
                hint: "import the earlier exports first", cause: cause)
        }
        let manifest = named.release.image.manifest
        do {
            let parsed = try await reader.manifest(manifest)
            // The cover that will count: the source's where it has one.
            let cover = ImageManifest.coverKey(manifest)
            let from = try await source.head(cover) != nil ? source : target
            let bytes = try await from.get(cover, range: nil, limit: ManifestCover.largest)
            let named = try CanonicalJSON.decode(ManifestCover.self, from: bytes, source: cover)
            for pack in Set(try await reader.locations(of: parsed, cover: named, source: cover).values.map(\.pack)) {
                let key = Pack.key(pack)
                if try await source.head(key) != nil { continue }
                if try await target.head(key) == nil { throw absent(key) }
            }
        } catch let error as FarmError where error.category == .notFound { throw absent(ImageManifest.key(manifest), error) }
    }
}
