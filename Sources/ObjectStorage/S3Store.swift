import FarmModel
import Foundation
package import HTTPTransport
import SystemIO

/// A bucket on any S3-compatible service, addressed by path.
package struct S3Store: ObjectStore {
    private let endpoint: String
    private let host: String
    private let bucket: String
    private let prefix: String
    /// `nil` reads as the public does.
    private let signer: SignatureV4?
    private let client: HTTPClient
    private let retry: RetryPolicy
    private let stallSeconds: Int

    /// - Parameters:
    ///   - endpoint: scheme and authority, for example `https://object-store.example:443`.
    ///   - prefix: put before every key; empty or ending with a slash.
    package init(
        endpoint: String, bucket: String, prefix: String, signer: SignatureV4?, client: HTTPClient,
        retry: RetryPolicy = RetryPolicy(), stallSeconds: Int = 60
    ) {
        self.endpoint = endpoint
        self.host = endpoint.split(separator: "/").last.map(String.init) ?? endpoint
        self.bucket = bucket
        self.prefix = prefix
        self.signer = signer
        self.client = client
        self.retry = retry
        self.stallSeconds = stallSeconds
    }

    package var name: String { "s3:\(endpoint)/\(bucket)/\(prefix)" }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try ObjectKey.check(key)
        let response = try await send("HEAD", key: key)
        if response.status == 404 { return nil }
        try expect(response, key, "look at")
        let size = response.headers["content-length"].flatMap { Int64($0) } ?? 0
        return ObjectInfo(key: key, size: size, tag: response.headers["etag"].map(unquote))
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try ObjectKey.check(key)
        if let range, range.isEmpty { return [] }
        var headers: [(String, String)] = []
        if let range { headers.append(("range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)")) }
        let response = try await send("GET", key: key, headers: headers, limit: limit)
        if response.status == 404 { throw StorageFailure.absent(key, in: name) }
        if response.status == 416 { throw StorageFailure.short(key, in: name) }
        try expect(response, key, "read")
        guard let range else { return response.body }
        let wanted = response.status == 200 ? response.body.dropFirst(Int(range.lowerBound)).prefix(range.count) : response.body[...]
        guard wanted.count == range.count else { throw StorageFailure.short(key, in: name) }
        return Array(wanted)
    }

    package func put(_ key: String, _ source: ObjectSource) async throws {
        try ObjectKey.check(key)
        let body: HTTPBody
        let payload: String
        switch source {
        case .bytes(let bytes):
            body = .bytes(bytes)
            payload = Digest(hashing: bytes).hex
        case .file(let path, let size):
            body = .file(path: path, offset: 0, count: size)
            payload = "UNSIGNED-PAYLOAD"
        }
        try expect(try await send("PUT", key: key, body: body, payload: payload), key, "write")
    }

    package func delete(_ key: String) async throws {
        try ObjectKey.check(key)
        let response = try await send("DELETE", key: key)
        if response.status != 404 { try expect(response, key, "delete") }
    }

    package func list(prefix wanted: String, after: String?) async throws -> ObjectPage {
        var query = [("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix + wanted)]
        if let after { query.append(("continuation-token", after)) }
        let response = try await send("GET", key: nil, query: query)
        try expect(response, wanted, "list")
        let document = try ListDocument(response.body, source: name)
        let objects = document.objects.map {
            ObjectInfo(key: String($0.key.dropFirst(prefix.count)), size: $0.size, tag: $0.tag.map(unquote))
        }
        return ObjectPage(objects: objects, next: document.next)
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? {
        try ObjectKey.check(key)
        let path = "/\(bucket)/\(SignatureV4.encode(prefix + key, keepSlash: true))"
        guard let signer else {
            throw FarmError(
                "storage.keys", .denied, "there are no keys for \(name)",
                hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, each also as …_FILE, in the environment")
        }
        let query = signer.presignedQuery(
            method: "PUT", path: path, headers: [("host", host)], seconds: seconds, at: .now)
        return UploadGrant(url: "\(endpoint)\(path)?\(query)")
    }

    private func send(
        _ method: String, key: String?, query: [(String, String)] = [], headers: [(String, String)] = [],
        body: HTTPBody = .none, payload: String = Digest(hashing: "").hex, limit: Int64 = 64 << 20
    ) async throws -> HTTPResponse {
        let path = "/\(bucket)" + (key.map { "/" + SignatureV4.encode(prefix + $0, keepSlash: true) } ?? "")
        let encoded = SignatureV4.canonicalQuery(query)
        var number = 1
        // Signed anew for every try, because a signature ages while the store asks to wait.
        while true {
            let signed =
                signer?.headers(
                    method: method, path: path, query: query, headers: headers + [("host", host)], payload: payload, at: .now) ?? []
            let request = HTTPRequest(
                method, "\(endpoint)\(path)\(encoded.isEmpty ? "" : "?\(encoded)")",
                headers: (headers + signed).map { (name: $0.0, value: $0.1) }, body: body, stallSeconds: stallSeconds,
                responseLimit: limit)
            let outcome: Result<HTTPResponse, any Error>
            do { outcome = .success(try await client.perform(request)) } catch { outcome = .failure(error) }
            var retryAfter: Double?
            switch outcome {
            case .success(let response):
                guard RetryPolicy.isTransient(status: response.status) else { return response }
                retryAfter = response.retryAfter
            case .failure(let error):
                guard (error as? FarmError)?.category.isTransient ?? false else { throw error }
            }
            number += 1
            guard let delay = retry.delay(beforeTry: number, retryAfter: retryAfter) else { return try outcome.get() }
            try await Task.sleep(for: .seconds(delay))
        }
    }

    private func expect(_ response: HTTPResponse, _ key: String, _ deed: String) throws {
        try S3Answer.check(response, key, deed, in: name)
    }

    private func unquote(_ tag: String) -> String { tag.filter { $0 != "\"" } }
}

/// What an S3 server's refusal means.
package enum S3Answer {
    /// Throws `storage.denied`, `storage.full` or `storage.failed`, naming bucket and object, unless the answer is a success.
    package static func check(_ response: HTTPResponse, _ key: String, _ deed: String, in bucket: String) throws {
        if response.isSuccess { return }
        let code = XMLScan.text(of: "Code", in: String(decoding: response.body, as: UTF8.self)) ?? ""
        let message = "cannot \(deed) \(key) in \(bucket): status \(response.status) \(code)"
        let isFull = response.status == 507 || code.contains("QuotaExceeded") || code == "XMinioStorageFull"
        if isFull { throw FarmError("storage.full", .full, message, hint: "free space in the bucket or raise its quota") }
        if response.status == 403 || response.status == 401 {
            throw FarmError("storage.denied", .denied, message, hint: "check the bucket's keys and its region setting")
        }
        throw FarmError(
            "storage.failed", RetryPolicy.isTransient(status: response.status) ? .unavailable : .fault, message)
    }
}

/// The part of a ListObjectsV2 answer that is needed.
private struct ListDocument {
    var objects: [(key: String, size: Int64, tag: String?)] = []
    var next: String?

    init(_ bytes: [UInt8], source: String) throws {
        let text = String(decoding: bytes, as: UTF8.self)
        // Half a listing would look like objects that are not there.
        func refused(_ why: String) -> FarmError {
            FarmError("storage.listing", .unavailable, "\(source) does not answer as S3 does when it lists objects: \(why)")
        }
        guard text.contains("<ListBucketResult") else { throw refused("the answer is no listing") }
        for entry in text.components(separatedBy: "<Contents>").dropFirst() {
            guard let key = XMLScan.text(of: "Key", in: entry) else { continue }
            let size = XMLScan.text(of: "Size", in: entry).flatMap { Int64($0) } ?? 0
            objects.append((key, size, XMLScan.text(of: "ETag", in: entry)))
        }
        if XMLScan.text(of: "IsTruncated", in: text) == "true" {
            next = XMLScan.text(of: "NextContinuationToken", in: text)
            guard next != nil else { throw refused("it goes on, and says not where") }
        }
    }
}

/// Reads single elements out of the small XML answers of S3, which neither nest these names nor carry attributes on
/// them.
private enum XMLScan {
    static func text(of element: String, in document: String) -> String? {
        guard let open = document.range(of: "<\(element)>"),
            let close = document.range(of: "</\(element)>", range: open.upperBound..<document.endIndex)
        else { return nil }
        var text = String(document[open.upperBound..<close.lowerBound])
        for (entity, character) in [
            ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&"),
        ] {
            text = text.replacingOccurrences(of: entity, with: character)
        }
        return text
    }
}
