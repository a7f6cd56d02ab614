import FarmModel
import Foundation
package import HTTPTransport
import SystemIO

/// Where a bucket lies, as people write it:
/// `file:/srv/farm/region-a`, `s3:https://store.example/bucket/prefix?region=melbourne`, `https://mirror.example/farm`, `tar:/media/farm.tar`.
///
/// What may stand in an S3 bucket's query: `region=NAME`; `address=host` for `bucket.endpoint` instead of `endpoint/bucket`; `ca=FILE`, the
/// only authority that is trusted; `keys=NAME`, `profile=NAME` or `anonymous` for whom to ask as; `stall=SECONDS`, which ends a transfer that
/// stands still; `tries=N`, which bounds the repetitions.
package struct BucketLocation: Sendable, Hashable, Codable, CustomStringConvertible {
    package let text: String

    package init(_ text: String) { self.text = text }

    package init(from decoder: any Decoder) throws {
        text = try decoder.singleValueContainer().decode(String.self)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }

    package var description: String { text }

    /// Opens the bucket. S3 keys are looked for as `CredentialChain` says; with `keys=NAME` in the address `…_NAME` is asked first, so that
    /// several services may be used. Without keys a bucket is read as the public does. Throws `storage.location` for an address of no known form.
    ///
    /// - Parameter takesAnyKey: for buckets that are not ours, whose keys may be anything.
    package func open(client: HTTPClient, takesAnyKey: Bool = false) throws -> any ObjectStore {
        if text.hasPrefix("file:") {
            return DirectoryStore(Disk.absolute(String(text.dropFirst(5))))
        }
        if text.hasPrefix("tar:") { return try TarStore(Disk.absolute(String(text.dropFirst(4)))) }
        if text.hasPrefix("http://") || text.hasPrefix("https://") { return WebStore(text, client: client) }
        if text.hasPrefix("s3:http") { return try openS3(client: client, takesAnyKey: takesAnyKey) }
        if text.hasPrefix("/") || text.hasPrefix(".") { return DirectoryStore(Disk.absolute(text)) }
        throw FarmError(
            "storage.location", .usage, "\"\(text)\" is no bucket",
            hint: "write file:/directory, s3:https://endpoint/bucket?region=NAME https://mirror/directory or tar:FILE")
    }

    private func openS3(client: HTTPClient, takesAnyKey: Bool) throws -> S3Store {
        guard let url = URLComponents(string: String(text.dropFirst(3))), let scheme = url.scheme, let host = url.host else {
            throw FarmError("storage.location", .usage, "\"\(text)\" is no S3 address")
        }
        let parts = url.path.split(separator: "/", omittingEmptySubsequences: !takesAnyKey).map(String.init).drop { $0.isEmpty }
        guard let bucket = parts.first else {
            throw FarmError("storage.location", .usage, "\"\(text)\" names no bucket", hint: "write s3:https://endpoint/bucket")
        }
        let known = ["region", "keys", "profile", "anonymous", "address", "ca", "tries", "stall"]
        if let unknown = url.queryItems?.first(where: { !known.contains($0.name) }) {
            throw FarmError(
                "storage.location", .usage, "\"\(unknown.name)\" in \(text) is no setting of a bucket",
                hint: "there are \(known.joined(separator: ", "))")
        }
        func option(_ name: String) -> String? { url.queryItems?.first { $0.name == name }?.value }
        func number(_ name: String, _ standard: Int) throws -> Int {
            guard let value = option(name) else { return standard }
            guard let number = Int(value), (1...86_400).contains(number) else {
                throw FarmError("storage.location", .usage, "\(name)=\(value) in \(text) is no number from 1 to 86400")
            }
            return number
        }
        guard let addressing = S3Service.Addressing(rawValue: option("address") ?? "path") else {
            throw FarmError("storage.location", .usage, "address=\(option("address") ?? "") in \(text) is neither path nor host")
        }
        let rest = parts.dropFirst().joined(separator: "/")
        let (set, profile, isAnonymous) = (option("keys"), option("profile"), url.queryItems?.contains { $0.name == "anonymous" } ?? false)
        let identity = try S3Identity(region: option("region") ?? "us-east-1") {
            if isAnonymous { return nil }
            return try CredentialChain.find(set: set, profile: profile, environment: ProcessInfo.processInfo.environment) { path in
                Disk.exists(path) ? try Disk.read(path, limit: 1 << 20) : nil
            }
        }
        let service = S3Service(
            endpoint: "\(scheme)://\(host)\(url.port.map { ":\($0)" } ?? "")", identity: identity, client: client, addressing: addressing,
            authority: try option("ca").map { try Disk.read($0, limit: 1 << 20) }, retry: RetryPolicy(attempts: try number("tries", 5)),
            stallSeconds: try number("stall", 60))
        return S3Store(
            service, bucket: bucket, prefix: rest.isEmpty || rest.hasSuffix("/") ? rest : rest + "/", takesAnyKey: takesAnyKey)
    }
}
