import FarmModel
package import HTTPTransport

/// A bucket behind plain HTTP (`http:` or `https:`), read only and without listings.
package struct WebStore: ObjectStore {
    package let name: String
    private let client: HTTPClient
    private let authority: [UInt8]?

    /// - Parameters:
    ///   - url: of the directory that holds the objects.
    ///   - authority: PEM of the only authority to trust, `nil` for the system's.
    package init(_ url: String, client: HTTPClient, authority: [UInt8]? = nil) {
        name = url.hasSuffix("/") ? String(url.dropLast()) : url
        self.client = client
        self.authority = authority
    }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try ObjectKey.check(key)
        let response = try await client.performRetrying(HTTPRequest("HEAD", url(key), authority: authority))
        if response.status == 404 { return nil }
        try expect(response, key)
        return ObjectInfo(key: key, size: response.headers["content-length"].flatMap { Int64($0) } ?? 0)
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try ObjectKey.check(key)
        if let range, range.isEmpty { return [] }
        let headers = range.map { [(name: "Range", value: "bytes=\($0.lowerBound)-\($0.upperBound - 1)")] } ?? []
        let response = try await client.performRetrying(
            HTTPRequest("GET", url(key), headers: headers, authority: authority, responseLimit: limit))
        if response.status == 404 { throw StorageFailure.absent(key, in: name) }
        if response.status == 416 { throw StorageFailure.short(key, in: name) }
        try expect(response, key)
        guard let range else { return response.body }
        let wanted = response.status == 200 ? response.body.dropFirst(Int(range.lowerBound)).prefix(range.count) : response.body[...]
        guard wanted.count == range.count else { throw StorageFailure.short(key, in: name) }
        return Array(wanted)
    }

    package func put(_ key: String, _ source: ObjectSource) async throws { throw readOnly }
    package func delete(_ key: String) async throws { throw readOnly }
    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        throw FarmError("storage.unlisted", .usage, "\(name) cannot be listed", hint: "use the bucket's own address")
    }
    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { throw readOnly }

    private var readOnly: FarmError { FarmError("storage.read-only", .usage, "\(name) can only be read") }

    private func url(_ key: String) -> String { "\(name)/\(SignatureV4.encode(key, keepSlash: true))" }

    private func expect(_ response: HTTPResponse, _ key: String) throws {
        guard response.isSuccess else {
            throw FarmError(
                "storage.failed", RetryPolicy.isTransient(status: response.status) ? .unavailable : .fault,
                "cannot read \(key) in \(name): status \(response.status)")
        }
    }
}
