import FarmModel
package import HTTPTransport

/// A bucket behind plain HTTP (`http:` or `https:`), read only. It is listed through the pages of links that web servers make of directories.
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
        return ObjectInfo(
            key: key, size: response.headers["content-length"].flatMap { Int64($0) } ?? 0, tag: WebStore.mark(response.headers),
            modified: response.headers["last-modified"].flatMap(HTTPDate.read))
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
        var found: [ObjectInfo] = []
        try await each(prefix: prefix) { found += $0 }
        return ObjectPage(objects: found, next: nil)
    }

    package func each(prefix: String, _ body: ([ObjectInfo]) async throws -> Void) async throws {
        var directories = [prefix.lastIndex(of: "/").map { String(prefix[...$0]) } ?? ""]
        var seen = Set(directories)
        while let directory = directories.popLast() {
            let response = try await client.performRetrying(HTTPRequest("GET", url(directory), authority: authority))
            if response.status == 404, directory.isEmpty {
                throw FarmError("storage.absent", .notFound, "\(name) does not exist", hint: "check the address")
            }
            if response.status == 404, directory == prefix { return }
            guard response.isSuccess, response.headers["content-type"]?.contains("html") ?? false else {
                throw FarmError(
                    "storage.unlisted", .usage, "\(url(directory)) is no list of what is there", hint: "use the bucket's own address")
            }
            let links = WebIndex.links(in: response.body, at: url(directory)).map { directory + $0 }.filter { link in
                link.hasPrefix(prefix) || (link.hasSuffix("/") && prefix.hasPrefix(link))
            }
            for link in links where link.hasSuffix("/") && seen.insert(link).inserted { directories.append(link) }
            try await body(try await heads(links.filter { !$0.hasSuffix("/") }))
        }
    }

    /// The sizes, which no page tells exactly.
    private func heads(_ keys: [String]) async throws -> [ObjectInfo] {
        try await withThrowingTaskGroup(of: ObjectInfo?.self) { tasks in
            var (found, waiting) = ([ObjectInfo](), keys[...])
            for _ in 0..<8 { if let key = waiting.popFirst() { tasks.addTask { try await self.head(key) } } }
            while let object = try await tasks.next() {
                if let object { found.append(object) }
                if let key = waiting.popFirst() { tasks.addTask { try await self.head(key) } }
            }
            return found
        }
    }

    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        try ObjectKey.check(key)
        if let range, range.isEmpty { return }
        let reading = HTTPReading(range: range, tag: tag, mark: WebStore.mark, sink: sink)
        try await reading.run(RetryPolicy(), key, name) { headers in
            try await self.client.perform(
                HTTPRequest("GET", self.url(key), headers: headers.map { (name: $0.0, value: $0.1) }, authority: self.authority),
                sink: reading.sink,
                head: { try reading.begins($0) })
        } refused: { response in
            if response.status == 404 { throw StorageFailure.absent(key, in: self.name) }
            if response.status == 416 { throw StorageFailure.short(key, in: self.name) }
            try self.expect(response, key)
        }
    }

    /// What tells a file from a later one of its name.
    private static func mark(_ headers: [String: String]) -> String? {
        if let tag = headers["etag"], !tag.hasPrefix("W/") { return tag.filter { $0 != "\"" } }
        return headers["last-modified"]
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { throw readOnly }

    private var readOnly: FarmError { FarmError("storage.read-only", .usage, "\(name) can only be read") }

    private func url(_ key: String) -> String { "\(name)/\(SignatureV4.encode(key, keepSlash: true))" }

    private func expect(_ response: HTTPResponse, _ key: String) throws {
        guard response.isSuccess else {
            throw FarmError(
                "storage.failed", RetryPolicy.isTransient(status: response.status) ? .unavailable : .fault,
                "cannot read \(key) in \(name): status \(response.status)", retryAfter: response.retryAfter)
        }
    }
}
