import SystemIO
import FarmModel

/// What a signature of an image says: digests of its header, of its objects and of their descriptors (apptainer/sif `pkg/integrity`,
/// `metadata.go`).
package struct SignatureMetadata: Codable, Sendable, Hashable {
    /// The signed part of the header.
    package struct Header: Codable, Sendable, Hashable { package var digest: String }

    /// One signed object; ids count from the smallest of the group.
    package struct Object: Codable, Sendable, Hashable {
        package var relativeId: UInt32
        package var descriptorDigest: String
        package var objectDigest: String
    }

    package var version: Int
    package var header: Header
    package var objects: [Object]

    /// The media type of the document.
    package static let payloadType = "application/vnd.sylabs.sif-metadata+json"

    /// Reads all objects of a group; signatures are in none. Throws `sif.group` for one without objects.
    package init(of image: SingularityFile, group: UInt32 = SingularityImage.firstGroup) throws {
        let members = image.head.descriptors.filter { $0.group == group }
        guard let first = members.map(\.id).min() else {
            throw FarmError("sif.group", .notFound, "\(image.file.path) has no objects in group \(group & 0x0FFF_FFFF)")
        }
        version = 1
        header = Header(digest: SignatureMetadata.text(Digest(hashing: image.head.signedBytes)))
        objects = try members.map { object in
            let digest = try SignatureMetadata.digest(of: object, in: image)
            return Object(
                relativeId: object.id - first, descriptorDigest: SignatureMetadata.text(Digest(hashing: object.signedBytes(from: first))),
                objectDigest: SignatureMetadata.text(digest))
        }
    }

    /// Whether it is what `init(of:)` makes: of this version, every digest one of SHA-256.
    package var isSound: Bool {
        version == 1 && !objects.isEmpty && Digest(header.digest) != nil
            && objects.allSatisfy { Digest($0.descriptorDigest) != nil && Digest($0.objectDigest) != nil }
    }

    private static func digest(of object: SingularityImage.Descriptor, in image: SingularityFile) throws -> Digest {
        var hasher = Digest.Hasher()
        try image.read(object) { hasher.update($0) }
        return hasher.finish()
    }

    private static func text(_ digest: Digest) -> String { "sha256:\(digest.hex)" }

    /// What differs between what a signature says and what an image is, in words; empty when nothing does. It may speak of a part of the
    /// group only.
    ///
    /// - Parameters:
    ///   - actual: the same document made of the image.
    ///   - first: the smallest id of the group.
    package func differences(from actual: SignatureMetadata, first: UInt32) -> [String] {
        var found: [String] = []
        if version != actual.version { found.append("the signature is of version \(version)") }
        if header != actual.header { found.append("the header was changed") }
        let seen = Dictionary(actual.objects.map { ($0.relativeId, $0) }) { $1 }
        for object in objects {
            let id = first &+ object.relativeId
            guard let other = seen[object.relativeId] else {
                found.append("object \(id) is missing")
                continue
            }
            if object.objectDigest != other.objectDigest { found.append("object \(id) was changed") }
            if object.descriptorDigest != other.descriptorDigest { found.append("the description of object \(id) was changed") }
        }
        return found
    }
}

extension SingularityImage.Head {
    /// What a signature covers of the header.
    fileprivate var signedBytes: [UInt8] {
        launch + Array(SingularityImage.magic.utf8) + Array(SingularityImage.version.utf8) + identifier
    }
}
