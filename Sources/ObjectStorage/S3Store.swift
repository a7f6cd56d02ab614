package import FarmModel
import Foundation
import Glibc
import HTTPTransport
import SystemIO

/// A bucket on any S3-compatible service (Amazon S3 API Reference, 2006-03-01).
package struct S3Store: ObjectStore {
    let service: S3Service
    let bucket: String
    let prefix: String
    /// Whether keys may have empty, `.` and `..` components, as those of anybody's buckets.
    private let takesAnyKey: Bool

    /// - Parameters:
    ///   - prefix: put before every key; empty or ending with a slash.
    package init(_ service: S3Service, bucket: String, prefix: String = "", takesAnyKey: Bool = false) {
        self.service = service
        self.bucket = bucket
        self.prefix = prefix
        self.takesAnyKey = takesAnyKey
    }

    package var name: String { "s3:\(service.endpoint)/\(bucket)/\(prefix)" }

    /// Whether only a part of the bucket is looked at: what lies below a prefix.
    package var isPart: Bool { !prefix.isEmpty }

    package func head(_ key: String) async throws -> ObjectInfo? { try await look(key).map { info(key, $0.headers) } }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try check(key)
        if let range, range.isEmpty { return [] }
        let response = try await send("GET", key: key, headers: S3Store.range(range), limit: limit)
        try expectRead(response, key)
        guard let range else { return response.body }
        let wanted = response.status == 200 ? response.body.dropFirst(Int(range.lowerBound)).prefix(range.count) : response.body[...]
        guard wanted.count == range.count else { throw StorageFailure.short(key, in: name) }
        return Array(wanted)
    }

    package func put(_ key: String, _ source: ObjectSource) async throws { _ = try await write(key, source, ObjectFacts()) }

    package func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try check(key)
        var headers: [(String, String)] = []
        // Some services keep the beginning of an upload that was broken off, unless they know what the whole is.
        if let md5 = try await S3Store.md5(of: source, facts) { headers.append(("content-md5", md5.base64)) }
        if let modified = facts.modified { headers.append(("x-amz-meta-mtime", S3Store.seconds(modified))) }
        let response = try await send(
            "PUT", key: key, headers: headers, body: S3Store.body(source), payload: S3Store.payload(source, facts.md5))
        try expect(response, key, "write")
        return response.headers["etag"].map(S3Store.unquote)
    }

    package func delete(_ key: String) async throws {
        try check(key)
        let response = try await send("DELETE", key: key)
        if response.status != 404 { try expect(response, key, "delete") }
    }

    /// 1,000 at a time (DeleteObjects); one by one where the service does not know that.
    package func delete(_ keys: [String]) async throws -> [(key: String, error: FarmError)] {
        var errors: [(key: String, error: FarmError)] = []
        var rest = keys[...]
        while !rest.isEmpty {
            var batch: [String] = []
            for key in rest.prefix(1000) {
                do {
                    try check(key)
                    batch.append(key)
                } catch let error as FarmError { errors.append((key, error)) }
            }
            rest = rest.dropFirst(1000)
            if batch.isEmpty { continue }
            let objects = batch.map { "<Object><Key>\(XMLText.escape(prefix + $0))</Key></Object>" }.joined()
            let document = Array("<Delete><Quiet>true</Quiet>\(objects)</Delete>".utf8)
            // Swift's s3api refuses a batch without Content-MD5.
            let response = try await send(
                "POST", key: nil, query: [("delete", "")],
                headers: [("content-md5", MD5.of(document).base64), ("content-type", "application/xml")], body: .bytes(document),
                payload: Digest(hashing: document).hex)
            guard response.isSuccess else {
                if response.status != 400, response.status != 405, response.status != 501 {
                    try expect(response, "\(batch.count) objects", "delete")
                }
                for key in batch { do { try await delete(key) } catch let error as FarmError { errors.append((key, error)) } }
                continue
            }
            for entry in XMLText(response.body).elements("Error") {
                let code = entry.text("Code") ?? ""
                guard let key = entry.text("Key"), code != "NoSuchKey" else { continue }
                let own = String(key.dropFirst(prefix.count))
                errors.append(
                    (own, FarmError("storage.failed", .fault, "cannot delete \(own) in \(name): \(code) \(entry.text("Message") ?? "")")))
            }
        }
        return errors
    }

    package func list(prefix wanted: String, after: String?) async throws -> ObjectPage {
        var query = [("list-type", "2"), ("max-keys", "1000"), ("prefix", prefix + wanted)]
        if let after { query.append(("continuation-token", after)) }
        var number = 1
        while true {
            let response = try await send("GET", key: nil, query: query)
            try expect(response, wanted, "list")
            do { return try await Blocking.run { try ObjectPage(listing: response.body, dropping: prefix, source: name) } } catch let error
                as FarmError
            {
                number += 1
                guard error.category.isTransient, let delay = service.retry.delay(beforeTry: number, retryAfter: nil) else { throw error }
                try await Task.sleep(for: .seconds(delay))
            }
        }
    }

    /// A transfer that breaks goes on where it ended, as long as the object is the same.
    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        try check(key)
        if let range, range.isEmpty { return }
        let reading = HTTPReading(range: range, tag: tag, mark: { $0["etag"].map(S3Store.unquote) }, sink: sink)
        try await reading.run(service.retry, key, name) { headers in
            try await sendOnce("GET", key: key, headers: headers, sink: reading.sink, head: { try reading.begins($0) })
        } refused: {
            try expectRead($0, key)
        }
    }

    /// It is not where the service encrypts with keys that others hold.
    package func tagIsMD5(of object: ObjectInfo) async throws -> Bool {
        guard let headers = try await look(object.key)?.headers else { throw StorageFailure.absent(object.key, in: name) }
        let encryption = headers["x-amz-server-side-encryption"] ?? ""
        return !encryption.hasPrefix("aws:kms") && headers["x-amz-server-side-encryption-customer-algorithm"] == nil
    }

    package func md5(of object: ObjectInfo) async throws -> [UInt8]? {
        guard let response = try await look(object.key), info(object.key, response.headers).tag == object.tag else {
            throw StorageFailure.changed(object.key, in: name)
        }
        return response.headers["x-amz-meta-md5chksum"].flatMap { Data(base64Encoded: $0) }.map(Array.init)
    }

    package func modified(of object: ObjectInfo) async throws -> Timestamp? {
        guard let response = try await look(object.key) else { throw StorageFailure.absent(object.key, in: name) }
        let said = response.headers["x-amz-meta-mtime"].flatMap { Double($0) }
        return said.map { Timestamp(milliseconds: Int64(($0 * 1000).rounded())) } ?? object.modified
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? {
        try check(key)
        let (host, path) = address(key)
        guard let signer = service.identity.signer else {
            throw FarmError(
                "storage.keys", .denied, "there are no keys for \(name)",
                hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, each also as …_FILE, in the environment")
        }
        let query = signer.presignedQuery(method: "PUT", path: path, headers: [("host", host)], seconds: seconds, at: .now)
        return UploadGrant(url: "\(service.scheme)://\(host)\(path)?\(query)")
    }

    func check(_ key: String) throws {
        if !takesAnyKey { return try ObjectKey.check(key) }
        guard !key.isEmpty, (prefix + key).utf8.count <= 1024, !key.utf8.contains(0) else {
            throw FarmError("storage.key", .invalid, "\"\(key)\" is no object name")
        }
    }

    private func look(_ key: String) async throws -> HTTPResponse? {
        try check(key)
        let response = try await send("HEAD", key: key)
        if response.status == 404 { return nil }
        try expect(response, key, "look at")
        return response
    }

    private func info(_ key: String, _ headers: [String: String]) -> ObjectInfo {
        ObjectInfo(
            key: key, size: headers["content-length"].flatMap { Int64($0) } ?? 0, tag: headers["etag"].map(S3Store.unquote),
            modified: headers["last-modified"].flatMap(HTTPDate.read))
    }

    private func expectRead(_ response: HTTPResponse, _ key: String) throws {
        if response.status == 404 { throw StorageFailure.absent(key, in: name) }
        if response.status == 416 { throw StorageFailure.short(key, in: name) }
        try expect(response, key, "read")
    }

    func expect(_ response: HTTPResponse, _ key: String, _ deed: String) throws {
        try S3Answer.check(response, key, deed, in: name)
    }

    /// Host and path of an object or, without a key, of the bucket.
    func address(_ key: String?) -> (host: String, path: String) {
        service.address(bucket, key.map { prefix + $0 })
    }

    func send(
        _ method: String, key: String?, query: [(String, String)] = [], headers: [(String, String)] = [], body: HTTPBody = .none,
        payload: String = S3Service.emptyPayload, limit: Int64 = 64 << 20
    ) async throws -> HTTPResponse {
        let (host, path) = address(key)
        return try await service.send(method, host, path, query: query, headers: headers, body: body, payload: payload, limit: limit)
    }

    private func sendOnce(
        _ method: String, key: String, headers: [(String, String)], sink: @escaping HTTPClient.Sink, head: @escaping HTTPClient.HeadSink
    ) async throws -> HTTPResponse {
        let (host, path) = address(key)
        return try await service.sendOnce(method, host, path, headers: headers, sink: sink, head: head)
    }

    private static func md5(of source: ObjectSource, _ facts: ObjectFacts) async throws -> [UInt8]? {
        if let known = facts.md5 { return known }
        switch source {
        case .bytes(let bytes): return MD5.of(bytes)
        case .file(let path, let size):
            return try await Blocking.run {
                var digest = MD5()
                try OpenFile(path, flags: O_RDONLY).readAll(size: size) { digest.update($0) }
                return digest.finish()
            }
        case .feed: return nil
        }
    }

    static func range(_ range: Range<Int64>?) -> [(String, String)] {
        range.map { [("range", "bytes=\($0.lowerBound)-\($0.upperBound - 1)")] } ?? []
    }

    static func body(_ source: ObjectSource) -> HTTPBody {
        switch source {
        case .bytes(let bytes): .bytes(bytes)
        case .file(let path, let size): .file(path: path, offset: 0, count: size)
        case .feed(let size, let read): .feed(count: size, read: read)
        }
    }

    /// What is signed for a body: its digest, unless it streams or the service checks its MD5.
    static func payload(_ source: ObjectSource, _ md5: [UInt8]?) -> String {
        if md5 == nil, case .bytes(let bytes) = source { return Digest(hashing: bytes).hex }
        return "UNSIGNED-PAYLOAD"
    }

    static func unquote(_ tag: String) -> String { tag.filter { $0 != "\"" } }

    /// As rclone writes a time into metadata, which others read, too.
    static func seconds(_ time: Timestamp) -> String {
        let (whole, rest) = time.milliseconds.quotientAndRemainder(dividingBy: 1000)
        let digits = String(abs(rest))
        return "\(rest < 0 && whole == 0 ? "-" : "")\(whole).\(String(repeating: "0", count: 3 - digits.count))\(digits)"
    }
}
