import FarmModel
import Foundation
package import HTTPTransport
import SystemIO

/// Where a bucket lies, as people write it:
/// `file:/srv/farm/region-a`, `s3:https://store.example/bucket/prefix?region=melbourne`, `https://mirror.example/farm`, `tar:/media/farm.tar`.
///
/// `stall=SECONDS` in an S3 bucket's query ends a transfer that stands still; `tries=N` bounds the repetitions.
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

    /// Opens the bucket. S3 keys come from the environment: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, each also
    /// as `…_FILE`, and `AWS_SESSION_TOKEN`; with `keys=NAME` in the address `…_NAME` is asked first, so that several
    /// services may be used. Without keys a bucket is read as the public does. Throws `storage.location` for an address of no known form.
    package func open(client: HTTPClient) throws -> any ObjectStore {
        if text.hasPrefix("file:") {
            return DirectoryStore(Disk.absolute(String(text.dropFirst(5))))
        }
        if text.hasPrefix("tar:") { return try TarStore(Disk.absolute(String(text.dropFirst(4)))) }
        if text.hasPrefix("http://") || text.hasPrefix("https://") { return WebStore(text, client: client) }
        if text.hasPrefix("s3:http") { return try openS3(client: client) }
        if text.hasPrefix("/") || text.hasPrefix(".") { return DirectoryStore(Disk.absolute(text)) }
        throw FarmError(
            "storage.location", .usage, "\"\(text)\" is no bucket",
            hint: "write file:/directory, s3:https://endpoint/bucket?region=NAME https://mirror/directory or tar:FILE")
    }

    private func openS3(client: HTTPClient) throws -> S3Store {
        guard let url = URLComponents(string: String(text.dropFirst(3))), let scheme = url.scheme, let host = url.host else {
            throw FarmError("storage.location", .usage, "\"\(text)\" is no S3 address")
        }
        let parts = url.path.split(separator: "/").map(String.init)
        guard let bucket = parts.first else {
            throw FarmError("storage.location", .usage, "\"\(text)\" names no bucket", hint: "write s3:https://endpoint/bucket")
        }
        func option(_ name: String) -> String? { url.queryItems?.first { $0.name == name }?.value }
        let rest = parts.dropFirst().joined(separator: "/")
        let set = option("keys").map { "_\($0)" } ?? ""
        var signer: SignatureV4?
        if let keyID = try secret("AWS_ACCESS_KEY_ID", set), let key = try secret("AWS_SECRET_ACCESS_KEY", set) {
            let token = try secret("AWS_SESSION_TOKEN", set)
            signer = SignatureV4(
                credentials: StorageCredentials(keyID: keyID, secret: key, sessionToken: token), region: option("region") ?? "us-east-1")
        }
        return S3Store(
            endpoint: "\(scheme)://\(host)\(url.port.map { ":\($0)" } ?? "")", bucket: bucket,
            prefix: rest.isEmpty ? "" : rest + "/",
            signer: signer, client: client,
            retry: RetryPolicy(attempts: option("tries").flatMap { Int($0) } ?? 5),
            stallSeconds: option("stall").flatMap { Int($0) } ?? 60)
    }

    /// A value from the environment or from the file that it names; the set's own first.
    private func secret(_ name: String, _ set: String) throws -> String? {
        let environment = ProcessInfo.processInfo.environment
        for name in set.isEmpty ? [name] : [name + set, name] {
            if let value = environment[name], !value.isEmpty { return value }
            if let path = environment["\(name)_FILE"] {
                return String(decoding: try Disk.read(path, limit: 4096), as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
            }
        }
        return nil
    }
}
