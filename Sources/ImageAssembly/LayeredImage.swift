package import FarmModel
import Foundation
import Glibc
import SystemIO

/// An image as its configuration and its layers, bottom first, wherever these are.
package struct LayeredImage: Sendable {
    package var configuration: ImageConfiguration
    package var layers: [any LayerArchive]
    /// Bytes of an archive that was written for it and lies on the disk as long as it does.
    package var archiveBytes: Int64 = 0

    package init(configuration: ImageConfiguration, layers: [any LayerArchive]) {
        self.configuration = configuration
        self.layers = layers
    }

    /// Where an image's parts are unpacked, and how much of them.
    package struct Room: Sendable {
        /// A directory whose file system takes unpacked layers, in files without names.
        package var scratch: String
        /// Bytes of one layer.
        package var limit: Int64

        package init(scratch: String, limit: Int64 = 1 << 40) {
            self.scratch = scratch
            self.limit = limit
        }
    }

    /// What an index or a manifest names (OCI image-spec, "descriptor.md").
    package struct Descriptor: Codable, Sendable {
        package struct Platform: Codable, Sendable {
            package var architecture: String
            package var os: String?
            package var variant: String?
        }
        package var mediaType: String?
        package var digest: String
        package var size: Int64
        package var platform: Platform?
        package var annotations: [String: String]?

        /// Throws `image.descriptor` for a digest that is none of SHA-256.
        package func content() throws -> Digest {
            guard let digest = Digest(digest) else {
                throw FarmError("image.descriptor", .invalid, "\"\(self.digest.printable())\" is no digest of SHA-256")
            }
            return digest
        }
    }

    /// An image's manifest or an index of several.
    package struct Manifest: Codable, Sendable {
        package var mediaType: String?
        package var manifests: [Descriptor]?
        package var config: Descriptor?
        package var layers: [Descriptor]?

        /// No document that describes images is so long.
        package static let longest: Int64 = 16 << 20

        /// The one of an index that an architecture, as Go names it, can run; throws `image.platform`, `image.name`.
        ///
        /// - Parameter name: the `org.opencontainers.image.ref.name` wanted; empty for any.
        package func choose(_ architecture: String, name: String, source: String) throws -> Descriptor {
            let images = (manifests ?? []).filter { ["linux", ""].contains($0.platform?.os ?? "") }
            let named = images.filter { name.isEmpty || $0.annotations?["org.opencontainers.image.ref.name"] == name }
            guard !named.isEmpty else {
                throw FarmError("image.name", .notFound, "\(source) has no image\(name.isEmpty ? "" : " named \(name)")")
            }
            let fitting = named.filter { $0.platform.map { $0.architecture == architecture } ?? true }
            guard let first = fitting.first else {
                let there = Set(named.compactMap(\.platform?.architecture)).sorted().joined(separator: ", ")
                throw FarmError("image.platform", .notFound, "\(source) has no image for \(architecture), only for \(there.printable())")
            }
            // Of one image's variants the plainest runs everywhere; several images in one place must be told apart by name.
            let plain = fitting.min { ($0.platform?.variant ?? "") < ($1.platform?.variant ?? "") } ?? first
            let rivals = Set(fitting.filter { $0.platform?.variant == plain.platform?.variant }.map(\.digest))
            guard !name.isEmpty || rivals.count == 1 else {
                throw FarmError(
                    "image.name", .invalid, "\(source) has \(rivals.count) images for \(architecture)", hint: "say which: SOURCE:TAG")
            }
            return plain
        }
    }

    /// Names of machines that Go and kernels do not agree on.
    private static let platforms = ["amd64": "x86_64", "arm64": "aarch64", "386": "i386", "loong64": "loongarch64"]

    /// How a kernel calls the machine that Go, and so every registry, calls so; `nil` for no name.
    package static func machine(of platform: String) -> String? {
        platform.isEmpty ? nil : platforms[platform] ?? platform
    }

    /// How Go, and so every registry, calls a kernel's machine.
    package static func platform(of machine: String) -> String {
        platforms.first { $0.value == machine }?.key ?? (machine.hasPrefix("arm") ? "arm" : machine)
    }
}

/// Parts of an image by digest, in files.
protocol BlobPlace {
    var name: String { get }
    /// Where a part's bytes are; throws `image.archive` when it is missing.
    func blob(_ digest: Digest) throws -> TarFile
}

extension LayeredImage {
    /// Reads `docker save`'s archives and those of OCI layouts, packed with gzip or zstd or not packed. Blocks.
    ///
    /// - Parameters:
    ///   - machine: as the kernel names it: which of several images is wanted.
    ///   - name: which of several names; empty for the only one.
    /// - Throws: `image.archive`, `layer.damaged`.
    package static func archive(_ path: String, machine: String, name: String = "", room: Room) throws -> LayeredImage {
        let file = try OpenFile(path, flags: O_RDONLY)
        var tar = TarFile(file, size: try file.size())
        let first = try tar.read(at: 0, count: Int(min(4, tar.size)))
        if Packing(first) != .none { tar = try unpacked(tar, path, nil, nil, room) }
        let archive = try ImageArchive(tar)
        if let index = try archive.document("index.json") { return try layout(index, archive, machine, name, room) }
        guard let bytes = try archive.document("manifest.json") else {
            throw FarmError(
                "image.archive", .invalid, "\(path) is no image archive: it has neither index.json nor manifest.json",
                hint: "docker save and skopeo copy … oci-archive: write one")
        }
        return try saved(bytes, archive, name, room)
    }

    /// Reads a directory in the OCI image layout. Blocks.
    package static func layout(_ directory: String, machine: String, name: String = "", room: Room) throws -> LayeredImage {
        let place = LayoutDirectory(name: directory)
        let index = try Disk.read("\(directory)/index.json", limit: Manifest.longest)
        return try layout(index, place, machine, name, room)
    }

    private static func layout(
        _ index: [UInt8], _ place: some BlobPlace, _ machine: String, _ name: String, _ room: Room
    ) throws -> LayeredImage {
        var manifest = try CanonicalJSON.decode(Manifest.self, from: index, source: "\(place.name)/index.json")
        // An index may name another one.
        for depth in 0..<4 where manifest.manifests != nil {
            let chosen = try manifest.choose(platform(of: machine), name: depth == 0 ? name : "", source: place.name)
            manifest = try CanonicalJSON.decode(Manifest.self, from: try verified(chosen, place), source: chosen.digest)
        }
        guard let config = manifest.config, let layers = manifest.layers else {
            throw FarmError("image.archive", .corrupt, "\(place.name) names no configuration and no layers")
        }
        let configuration = try ImageConfiguration(try verified(config, place), source: config.digest)
        try check(configuration, layers.count, place.name)
        return LayeredImage(
            configuration: configuration,
            layers: try zip(layers, configuration.diffIDs).map { descriptor, diffID in
                let digest = try descriptor.content()
                let blob = try place.blob(digest)
                guard blob.size == descriptor.size else {
                    throw FarmError("layer.damaged", .corrupt, "\(descriptor.digest) has \(blob.size) bytes, not \(descriptor.size)")
                }
                return try unpacked(blob, descriptor.digest, digest, diffID, room)
            })
    }

    struct SavedImage: Codable {
        var Config: String
        var RepoTags: [String]?
        var Layers: [String]
    }

    private static func saved(_ bytes: [UInt8], _ archive: ImageArchive, _ name: String, _ room: Room) throws -> LayeredImage {
        let images = try CanonicalJSON.decode([SavedImage].self, from: bytes, source: "\(archive.name)/manifest.json")
        let wanted = images.filter { image in name.isEmpty || (image.RepoTags ?? []).contains { $0 == name || $0 == "\(name):latest" } }
        guard let image = wanted.first else {
            throw FarmError("image.name", .notFound, "\(archive.name) has no image\(name.isEmpty ? "" : " named \(name)")")
        }
        guard wanted.count == 1 else {
            throw FarmError("image.name", .invalid, "\(archive.name) has \(wanted.count) images", hint: "say which: SOURCE:NAME")
        }
        guard let config = try archive.document(image.Config) else {
            throw FarmError("image.archive", .corrupt, "\(archive.name) has no \(image.Config.printable())")
        }
        let configuration = try ImageConfiguration(config, source: "\(archive.name)/\(image.Config.printable())")
        try check(configuration, image.Layers.count, archive.name)
        return LayeredImage(
            configuration: configuration,
            layers: try zip(image.Layers, configuration.diffIDs).map { name, diffID in
                try unpacked(try archive.member(name), "sha256:\(diffID.hex)", nil, diffID, room)
            })
    }

    static func check(_ configuration: ImageConfiguration, _ layers: Int, _ source: String) throws {
        guard configuration.diffIDs.count == layers else {
            throw FarmError(
                "image.archive", .corrupt, "\(source) has \(layers) layers, its configuration speaks of \(configuration.diffIDs.count)")
        }
    }

    private static func verified(_ descriptor: Descriptor, _ place: some BlobPlace) throws -> [UInt8] {
        let digest = try descriptor.content()
        let blob = try place.blob(digest)
        guard blob.size <= Manifest.longest else { throw FarmError("image.archive", .corrupt, "\(descriptor.digest) is too long") }
        let bytes = try blob.read(at: 0, count: Int(blob.size))
        guard Digest(hashing: bytes) == digest else {
            throw FarmError("image.archive", .corrupt, "\(place.name) has other bytes under \(descriptor.digest)")
        }
        return bytes
    }

    /// The layer as it lies when it is not packed, after its bytes were looked at; otherwise unpacked.
    private static func unpacked(_ blob: TarFile, _ name: String, _ digest: Digest?, _ diffID: Digest?, _ room: Room) throws -> TarFile {
        let first = try blob.read(at: 0, count: Int(min(4, blob.size)))
        let unpacker = Packing(first) != .none ? try LayerUnpacker(name, scratch: room.scratch, limit: room.limit) : nil
        var hasher = Digest.Hasher()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        for offset in stride(from: 0, to: blob.size, by: buffer.count) {
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(min(Int64(buffer.count), blob.size - offset))])
            try blob.fill(part, at: offset)
            if let unpacker { try unpacker.feed(UnsafeRawBufferPointer(part)) } else { hasher.update(UnsafeRawBufferPointer(part)) }
        }
        if let unpacker { return try unpacker.finish(digest: digest, diffID: diffID) }
        let seen = hasher.finish()
        for expected in [digest, diffID].compactMap(\.self) where expected != seen {
            throw FarmError("layer.damaged", .corrupt, "\(name) is damaged: its digest is another", hint: "fetch the image again")
        }
        return blob.renamed(name)
    }
}

/// A directory in the OCI image layout.
private struct LayoutDirectory: BlobPlace {
    let name: String

    func blob(_ digest: Digest) throws -> TarFile {
        let file = try OpenFile("\(name)/blobs/sha256/\(digest.hex)", flags: O_RDONLY)
        return TarFile(file, size: try file.size())
    }
}

/// A tar archive with an image's parts as members.
struct ImageArchive: BlobPlace {
    private let tar: TarFile
    private var members: [String: EntryKind] = [:]
    var name: String { tar.name }

    init(_ tar: TarFile) throws {
        self.tar = tar
        var reader = TarReader(tar)
        while let entry = try reader.next() { members[String(decoding: entry.path, as: UTF8.self)] = entry.kind }
    }

    /// A member's bytes; `nil` when there is none.
    func document(_ name: String) throws -> [UInt8]? {
        guard members[name] != nil else { return nil }
        let part = try member(name)
        guard part.size <= LayeredImage.Manifest.longest else {
            throw FarmError("image.archive", .corrupt, "\(name.printable()) is too long")
        }
        return try part.read(at: 0, count: Int(part.size))
    }

    func blob(_ digest: Digest) throws -> TarFile { try member("blobs/sha256/\(digest.hex)") }

    /// A member's place; links between layers, which engines write for equal ones, are followed once.
    func member(_ name: String) throws -> TarFile {
        var found = members[name]
        if case .symlink(let target)? = found {
            let parts = Disk.parent(of: name).split(separator: "/") + String(decoding: target, as: UTF8.self).split(separator: "/")
            var path: [Substring] = []
            for part in parts { if part == ".." { _ = path.popLast() } else if part != "." { path.append(part) } }
            found = members[path.joined(separator: "/")]
        }
        guard case .file(let content)? = found, content.runs.count <= 1 else {
            throw FarmError("image.archive", .corrupt, "\(tar.name) has no \(name.printable())")
        }
        return tar.part(at: content.runs.first?.offset ?? 0, size: content.size, name: "\(tar.name)/\(name.printable())")
    }
}
