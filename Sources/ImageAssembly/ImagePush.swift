package import FarmModel
import HTTPTransport
package import Registry
import SingularityImage
import SystemIO

/// Images on their way into registries.
package enum ImagePush {
    private struct Manifest: Encodable {
        struct Part: Encodable {
            var mediaType: String
            var digest: String
            var size: Int64
            var annotations: [String: String]?

            init(_ mediaType: String, _ digest: Digest, _ size: Int64, _ annotations: [String: String]? = nil) {
                self.mediaType = mediaType
                self.digest = "sha256:\(digest.hex)"
                self.size = size
                self.annotations = annotations
            }
        }
        var schemaVersion = 2
        var mediaType: String
        var config: Part
        var layers: [Part]
    }

    /// Sends a SIF as an artifact that `apptainer pull oras://` takes; gives the manifest's digest.
    package static func artifact(_ path: String, _ digest: Digest, to reference: ImageReference, _ registry: Registry) async throws
        -> Digest
    {
        let size = try SingularityFile(path).file.size()
        let config = Array("{}".utf8)
        try await registry.upload(reference, digest, .file(path: path, offset: 0, count: size))
        try await registry.upload(reference, Digest(hashing: config), .bytes(config))
        let type = "application/vnd.oci.image.manifest.v1+json"
        let manifest = Manifest(
            mediaType: type, config: .init("application/vnd.sylabs.sif.config.v1+json", Digest(hashing: config), Int64(config.count)),
            layers: [
                .init(
                    "application/vnd.sylabs.sif.layer.v1.sif", digest, size, ["org.opencontainers.image.title": Disk.name(of: path)])
            ])
        return try await registry.put(try CanonicalJSON.encode(manifest), type: type, reference)
    }

    /// Sends the file system of a SIF as a Docker image of one layer, which runs as the image's own configuration says; gives the
    /// manifest's digest. Blocks while it packs.
    package static func image(_ path: String, to reference: ImageReference, _ registry: Registry, scratch: String) async throws -> Digest {
        let (packed, digest, size, configuration) = try await Blocking.run { try pack(path, scratch: scratch) }
        // A file without a name is read through the descriptor.
        try await registry.upload(reference, digest, .file(path: "/proc/self/fd/\(packed.descriptor)", offset: 0, count: size))
        withExtendedLifetime(packed) {}
        let config = Digest(hashing: configuration)
        try await registry.upload(reference, config, .bytes(configuration))
        let type = "application/vnd.docker.distribution.manifest.v2+json"
        let manifest = Manifest(
            mediaType: type, config: .init("application/vnd.docker.container.image.v1+json", config, Int64(configuration.count)),
            layers: [.init("application/vnd.docker.image.rootfs.diff.tar.gzip", digest, size)])
        return try await registry.put(try CanonicalJSON.encode(manifest), type: type, reference)
    }

    private static func pack(
        _ path: String, scratch: String
    ) throws -> (file: OpenFile, digest: Digest, size: Int64, configuration: [UInt8]) {
        let image = try SingularityFile(path)
        let reader = try SquashfsReader(image.file, try SingularityImage.primaryPartition(of: image.head))
        let packer = try LayerPacker(scratch: scratch)
        var writer = TarWriter()
        try reader.walk { entry, content in
            guard entry.path != [UInt8(ascii: "/")], entry.kind != "s" else { return }
            let (headers, holdsContent) = writer.headers(of: entry)
            try packer.feed(headers)
            if holdsContent {
                try content { try packer.feed($0) }
                try packer.feed(TarWriter.padding(entry.size))
            }
        }
        try packer.feed(TarWriter.end)
        let (digest, diffID) = try packer.finish()
        return (packer.file, digest, packer.size, try configuration(of: image, diffID))
    }

    /// The configuration that the image was made from, of one layer now; an image without one runs a shell.
    private static func configuration(of image: SingularityFile, _ diffID: Digest) throws -> [UInt8] {
        var document: [String: JSONValue] = [:]
        if let object = image.head.descriptors.first(where: { $0.kind == .genericJSON && $0.name == "oci-config.json" }) {
            let bytes = try image.bytes(of: object, limit: LayeredImage.Manifest.longest)
            document = try CanonicalJSON.decode([String: JSONValue].self, from: bytes, source: "\(image.file.path): oci-config.json")
        }
        let machine = SingularityImage.Architecture(rawValue: image.head.architecture).map { "\($0)" } ?? "x86_64"
        document["architecture"] = .text(LayeredImage.platform(of: machine))
        document["os"] = .text("linux")
        document["rootfs"] = .object(["type": .text("layers"), "diff_ids": .list([.text("sha256:\(diffID.hex)")])])
        document["history"] = .list([.object(["created_by": .text("sciferry image push")])])
        if document["config"] == nil { document["config"] = .object([:]) }
        for key in ["container", "container_config", "id", "parent"] { document[key] = nil }
        return try CanonicalJSON.encode(document)
    }
}

/// Any JSON, for documents of which only parts are understood.
private enum JSONValue: Codable {
    case null
    case flag(Bool)
    case integer(Int64)
    case number(Double)
    case text(String)
    case list([JSONValue])
    case object([String: JSONValue])

    init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let flag = try? value.decode(Bool.self) {
            self = .flag(flag)
        } else if let integer = try? value.decode(Int64.self) {
            self = .integer(integer)
        } else if let number = try? value.decode(Double.self) {
            self = .number(number)
        } else if let text = try? value.decode(String.self) {
            self = .text(text)
        } else if let list = try? value.decode([JSONValue].self) {
            self = .list(list)
        } else {
            self = .object(try value.decode([String: JSONValue].self))
        }
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .flag(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .text(let value): try container.encode(value)
        case .list(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }
}
