import FarmModel
import Foundation
import HTTPTransport

/// One part of a multipart upload that the store has.
package struct UploadedPart: Sendable, Hashable, Codable {
    /// From 1.
    package var number: Int
    package var size: Int64
    package var tag: String

    package init(number: Int, size: Int64, tag: String) {
        self.number = number
        self.size = size
        self.tag = tag
    }
}

/// A store that takes an object in parts, in any order, and shows it when they are put together (Amazon S3 API: multipart upload).
package protocol MultipartStore: ObjectStore {
    /// Begins an upload; returns its name. `facts.md5` is kept as metadata, because the tag will not tell it.
    func beginUpload(_ key: String, _ facts: ObjectFacts) async throws -> String

    /// Sends a part, all but the last of at least 5 MiB; returns its tag. With an `md5` the store refuses other bytes.
    func writePart(_ key: String, upload: String, number: Int, _ source: ObjectSource, md5: [UInt8]?) async throws -> String

    /// Has the store take a part from an object of the same service.
    func copyPart(_ key: String, upload: String, number: Int, of object: ObjectInfo, _ range: Range<Int64>, in other: any ObjectStore)
        async throws
        -> String

    /// The parts that are there, by number; `nil` when there is no such upload any more.
    func parts(_ key: String, upload: String) async throws -> [UploadedPart]?

    /// Puts the parts together; returns the object's tag.
    func completeUpload(_ key: String, upload: String, _ parts: [UploadedPart]) async throws -> String?

    /// Throws the parts away; no error when there is no such upload.
    func abortUpload(_ key: String, upload: String) async throws
}

extension S3Store: MultipartStore {
    /// The largest object that one request copies.
    private static let copyLimit: Int64 = 5 << 30

    package func beginUpload(_ key: String, _ facts: ObjectFacts) async throws -> String {
        try check(key)
        let response = try await send("POST", key: key, query: [("uploads", "")], headers: metadata(facts))
        try expect(response, key, "begin an upload of")
        guard let id = XMLText(response.body).text("UploadId"), !id.isEmpty else {
            throw FarmError("storage.failed", .fault, "\(name) gives the upload of \(key) no name")
        }
        return id
    }

    package func writePart(
        _ key: String, upload: String, number: Int, _ source: ObjectSource, md5: [UInt8]?
    ) async throws -> String {
        let response = try await send(
            "PUT", key: key, query: [("partNumber", String(number)), ("uploadId", upload)],
            headers: md5.map { [("content-md5", $0.base64)] } ?? [], body: S3Store.body(source), payload: S3Store.payload(source, md5))
        try expect(response, key, "write part \(number) of")
        guard let tag = response.headers["etag"].map(S3Store.unquote) else {
            throw FarmError("storage.failed", .fault, "\(name) gives part \(number) of \(key) no tag")
        }
        return tag
    }

    package func copyPart(
        _ key: String, upload: String, number: Int, of object: ObjectInfo, _ range: Range<Int64>, in other: any ObjectStore
    ) async throws -> String {
        guard let other = other as? S3Store else {
            throw FarmError("storage.failed", .fault, "\(other.name) is another service than \(name)")
        }
        var headers = source(object, other)
        headers.append(("x-amz-copy-source-range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
        let response = try await send(
            "PUT", key: key, query: [("partNumber", String(number)), ("uploadId", upload)], headers: headers)
        return try copied(response, key)
    }

    package func parts(_ key: String, upload: String) async throws -> [UploadedPart]? {
        var found: [UploadedPart] = []
        var marker: String?
        repeat {
            let response = try await send(
                "GET", key: key, query: [("uploadId", upload)] + (marker.map { [("part-number-marker", $0)] } ?? []))
            if response.status == 404 { return nil }
            try expect(response, key, "list the parts of")
            let document = XMLText(response.body)
            for part in document.elements("Part") {
                guard let number = part.text("PartNumber").flatMap({ Int($0) }), let size = part.text("Size").flatMap({ Int64($0) }),
                    let tag = part.text("ETag").map(S3Store.unquote)
                else { continue }
                found.append(UploadedPart(number: number, size: size, tag: tag))
            }
            let next = document.text("IsTruncated") == "true" ? document.text("NextPartNumberMarker") : nil
            if next == marker { break }
            marker = next
        } while marker != nil
        return found.sorted { $0.number < $1.number }
    }

    package func completeUpload(_ key: String, upload: String, _ parts: [UploadedPart]) async throws -> String? {
        let list = parts.map { "<Part><PartNumber>\($0.number)</PartNumber><ETag>&quot;\(XMLText.escape($0.tag))&quot;</ETag></Part>" }
            .joined()
        let document = Array("<CompleteMultipartUpload>\(list)</CompleteMultipartUpload>".utf8)
        let response = try await send(
            "POST", key: key, query: [("uploadId", upload)], headers: [("content-type", "application/xml")], body: .bytes(document),
            payload: Digest(hashing: document).hex)
        // The first answer may have been lost on its way.
        if response.status == 404, let there = try await head(key), let tag = there.tag,
            case .parts(let digest, let count) = ContentTag(tag),
            count == parts.count, MD5.of(parts.flatMap { ContentTag($0.tag).md5 ?? [] }) == digest
        {
            return tag
        }
        let tag = try copied(response, key, deed: "put together")
        // Ceph's gateway leaves it empty here.
        return tag.isEmpty ? try await head(key)?.tag : tag
    }

    package func abortUpload(_ key: String, upload: String) async throws {
        let response = try await send("DELETE", key: key, query: [("uploadId", upload)])
        if response.status != 404 { try expect(response, key, "give up the upload of") }
    }

    package func copy(_ object: ObjectInfo, of other: any ObjectStore, to key: String, _ facts: ObjectFacts) async throws -> ObjectInfo? {
        guard let other = other as? S3Store, service.isSame(as: other.service) else { return nil }
        try check(key)
        guard object.size > S3Store.copyLimit else {
            let response = try await send("PUT", key: key, headers: source(object, other))
            if response.status == 404 { throw StorageFailure.absent(object.key, in: other.name) }
            // Swift's s3api compares another tag than it tells for what came in parts. Whoever reads the object finds out whether it has changed.
            if response.status == 412 { return nil }
            // There are services, and keys, that may write and not copy: the bytes go over the line, and that says what is wrong, if anything is.
            if [400, 403, 405, 501].contains(response.status) { return nil }
            return ObjectInfo(key: key, size: object.size, tag: try copied(response, key))
        }
        let upload = try await beginUpload(key, facts)
        do {
            var parts: [UploadedPart] = []
            let size: Int64 = 1 << 30
            for start in stride(from: 0, to: object.size, by: Int64.Stride(size)) {
                let range = start..<min(start + size, object.size)
                let tag = try await copyPart(key, upload: upload, number: parts.count + 1, of: object, range, in: other)
                parts.append(UploadedPart(number: parts.count + 1, size: Int64(range.count), tag: tag))
            }
            return ObjectInfo(key: key, size: object.size, tag: try await completeUpload(key, upload: upload, parts))
        } catch {
            try? await abortUpload(key, upload: upload)
            if let error = error as? FarmError, error.code == "storage.changed" || !error.category.isTransient { return nil }
            throw error
        }
    }

    private func source(_ object: ObjectInfo, _ other: S3Store) -> [(String, String)] {
        var headers = [("x-amz-copy-source", "/\(other.bucket)/\(SignatureV4.encode(other.prefix + object.key, keepSlash: true))")]
        if let tag = object.tag { headers.append(("x-amz-copy-source-if-match", "\"\(tag)\"")) }
        return headers
    }

    /// The tag in an answer that may say after its head that it failed.
    private func copied(_ response: HTTPResponse, _ key: String, deed: String = "copy") throws -> String {
        try expect(response, key, deed)
        let document = XMLText(response.body)
        if document.has("Error>") || document.has("Error ") {
            throw FarmError(
                "storage.failed", .unavailable,
                "cannot \(deed) \(key) in \(name): \(document.text("Code") ?? "") \(document.text("Message") ?? "")")
        }
        guard let tag = (document.text("ETag") ?? response.headers["etag"]).map(S3Store.unquote) else {
            throw FarmError("storage.failed", .fault, "\(name) gives \(key) no tag")
        }
        return tag
    }

    private func metadata(_ facts: ObjectFacts) -> [(String, String)] {
        var headers: [(String, String)] = []
        if let modified = facts.modified { headers.append(("x-amz-meta-mtime", S3Store.seconds(modified))) }
        if let md5 = facts.md5 { headers.append(("x-amz-meta-md5chksum", md5.base64)) }
        return headers
    }
}
