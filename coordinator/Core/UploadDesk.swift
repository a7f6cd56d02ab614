import struct Crypto.HMAC
import struct Crypto.SHA256
import struct Crypto.SymmetricKey
package import FarmModel
import Foundation
package import ObjectStorage
import SystemIO

/// What an upload is for.
package enum UploadKind: String, Codable, Sendable, Hashable {
    case pack, manifest, record, input
    /// A layer's archive, packed with zstd.
    case layer
    /// A `LayerSet`, after its layers.
    case layers

    /// Whether it is taken by the coordinator's own endpoint only, which puts it where it belongs.
    var isTakenHere: Bool { [.input, .layer, .layers].contains(self) }

    /// Bytes that may be granted.
    var largest: UInt64 {
        switch self {
        case .pack: 64 << 20
        case .manifest: 256 << 20
        case .record: 256 << 20
        case .input, .layer: 64 << 30
        case .layers: UInt64(LayerSet.most)
        }
    }
}

/// A right to upload one object of known digest and size, as it stands in a signed URL of our own API.
package struct UploadTicket: Sendable, Hashable {
    package var attempt: AttemptID
    package var kind: UploadKind
    package var digest: Digest
    package var size: Int64
    package var expires: Int64

    package init(attempt: AttemptID, kind: UploadKind, digest: Digest, size: Int64, expires: Int64) {
        self.attempt = attempt
        self.kind = kind
        self.digest = digest
        self.size = size
        self.expires = expires
    }

    var path: String { "/upload/\(attempt)/\(kind.rawValue)/\(digest.hex)/\(size)/\(expires)" }
}

/// Hands out upload grants: presigned ones where the first region has such a thing, else URLs of our own endpoint.
package struct UploadDesk: Sendable {
    private let key: [UInt8]
    private let region: any ObjectStore
    private let apiURL: String
    private static let lifetime: Int64 = 3600

    package init(key: [UInt8], region: any ObjectStore, apiURL: String) {
        self.key = key
        self.region = region
        self.apiURL = apiURL
    }

    /// Where an upload lies until a trusted process has looked at it.
    package static func incomingKey(_ attempt: AttemptID, _ digest: Digest) -> String { "incoming/\(attempt)/\(digest.hex)" }

    /// A grant for one object.
    package func grant(
        _ attempt: AttemptID, _ kind: UploadKind, _ object: IncomingObject, now: Timestamp
    ) async throws -> UploadGrant {
        if !kind.isTakenHere {
            let key = UploadDesk.incomingKey(attempt, object.digest)
            let presigned = try await region.grantUpload(key, size: object.size, seconds: Int(UploadDesk.lifetime))
            if let presigned { return presigned }
        }
        let ticket = UploadTicket(
            attempt: attempt, kind: kind, digest: object.digest, size: object.size,
            expires: now.milliseconds / 1000 + UploadDesk.lifetime)
        return UploadGrant(url: "\(apiURL)\(ticket.path)?signature=\(signature(ticket))")
    }

    /// Throws `upload.refused` unless we signed the ticket and it is still valid.
    package func check(_ ticket: UploadTicket, signature given: String, now: Timestamp) throws {
        guard Digest(given) == Digest(signature(ticket)), ticket.expires * 1000 > now.milliseconds else {
            throw FarmError("upload.refused", .denied, "this upload was not granted, or its grant expired")
        }
    }

    private func signature(_ ticket: UploadTicket) -> String {
        let code = HMAC<SHA256>.authenticationCode(for: Array(ticket.path.utf8), using: SymmetricKey(data: key))
        return Digest(bytes: Array(code))?.hex ?? ""
    }
}
