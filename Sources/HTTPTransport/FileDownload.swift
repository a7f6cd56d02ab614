package import FarmModel
import Synchronization
package import SystemIO

extension HTTPClient {
    /// What a download may cost.
    package struct DownloadLimits: Sendable {
        /// Bytes.
        package var size: Int64
        /// When it must be over.
        package var deadline: Timestamp
        /// Told how long the file will be, or has become where nobody says; throws where there is no room for it.
        package var room: @Sendable (Int64) throws -> Void

        package init(size: Int64, deadline: Timestamp, room: @escaping @Sendable (Int64) throws -> Void = { _ in }) {
            self.size = size
            self.deadline = deadline
            self.room = room
        }
    }

    /// Fetches a file. A transfer that breaks goes on where it ended as long as the server still has the same file (RFC 9110, section
    /// 13.1.5), and begins anew otherwise.
    ///
    /// - Parameters:
    ///   - file: open for writing; what is in it is replaced.
    ///   - progress: called often with the bytes that are there and those that there will be, where the server says.
    /// - Returns: the last response, whatever its status.
    /// - Throws: `http.unreachable`; `download.size`, `download.short`, `download.slow`, and what `room` throws.
    package func download(
        _ url: String, to file: OpenFile, limits: DownloadLimits, policy: RetryPolicy = RetryPolicy(attempts: 8),
        progress: @escaping @Sendable (Int64, Int64?) -> Void = { _, _ in }
    ) async throws -> HTTPResponse {
        let state = Mutex(Download(url: HTTPRequest("GET", url).redactedURL))
        let response = try await HTTPClient.whileItGrows({ state.withLock { $0.got } }, policy) {
            var request = HTTPRequest("GET", url, followsRedirects: true)
            request.headers = state.withLock { $0.question() }
            let response = try await self.perform(
                request,
                sink: { bytes in
                    let (offset, size) = try state.withLock { ($0.got, try $0.takes(bytes.count, limits)) }
                    try file.write(bytes, at: offset)
                    progress(offset + Int64(bytes.count), size)
                },
                head: { head in
                    let begins = try state.withLock { try $0.begins(head, limits) }
                    if begins { try file.truncate(to: 0) }
                })
            return try state.withLock { try $0.ended(response) }
        }
        // An empty file has no body that would have begun it.
        if response.isSuccess, state.withLock({ $0.got }) == 0 { try file.truncate(to: 0) }
        return response
    }

    /// Repeats what fails on its way, and begins to count anew whenever some of it has come.
    private static func whileItGrows(
        _ got: () -> Int64, _ policy: RetryPolicy, _ body: () async throws -> HTTPResponse
    ) async throws -> HTTPResponse {
        while true {
            let before = got()
            do { return try await policy.repeating(body) } catch let error as FarmError where error.category.isTransient {
                guard got() > before else { throw error }
            }
        }
    }
}

/// How far a download has come.
private struct Download: Sendable {
    let url: String
    var got: Int64 = 0
    private var size: Int64?
    /// What tells the file from a later one of the same name.
    private var mark: String?
    private var looked: Int64 = 0

    init(url: String) { self.url = url }

    /// Asks for the rest of what is there.
    mutating func question() -> [(name: String, value: String)] {
        guard got > 0, let mark else { return [] }
        return [(name: "Range", value: "bytes=\(got)-"), (name: "If-Range", value: mark)]
    }

    /// A response's head; whether it brings the file from its beginning.
    mutating func begins(_ head: HTTPResponse, _ limits: HTTPClient.DownloadLimits) throws -> Bool {
        let length = head.headers["content-length"].flatMap { Int64($0) }
        if head.status == 206, got > 0 {
            guard head.headers["content-range"]?.hasPrefix("bytes \(got)-") ?? false, Download.mark(head).map({ $0 == mark }) ?? true else {
                (got, mark) = (0, nil)
                throw FarmError("download.short", .unavailable, "\(url) answers with another part than it was asked for")
            }
            return false
        }
        (got, looked, mark, size) = (0, 0, Download.mark(head), length)
        guard length.map({ (0...limits.size).contains($0) }) ?? true else {
            throw FarmError("download.size", .invalid, "\(url) says that it has \(length ?? 0) bytes, \(limits.size) are allowed")
        }
        if let length { try limits.room(length) }
        return true
    }

    /// More bytes; how many there will be.
    mutating func takes(_ count: Int, _ limits: HTTPClient.DownloadLimits) throws -> Int64? {
        guard got + Int64(count) <= size ?? limits.size else {
            throw FarmError("download.size", .invalid, "\(url) sends more than \(size ?? limits.size) bytes")
        }
        got += Int64(count)
        if size == nil, got - looked >= 64 << 20 {
            looked = got
            try limits.room(got)
        }
        guard .now < limits.deadline else {
            throw FarmError("download.slow", .invalid, "\(url) has sent \(got) bytes in all the time that there is for it")
        }
        return size
    }

    /// The end of a transfer that was not broken.
    mutating func ended(_ response: HTTPResponse) throws -> HTTPResponse {
        if response.status == 416, got > 0 {
            // All had come when the line was cut; or there is less of it than before.
            if response.headers["content-range"] == "bytes */\(got)" {
                return HTTPResponse(status: 200, headers: response.headers, body: [])
            }
            (got, mark) = (0, nil)
            throw FarmError("download.short", .unavailable, "\(url) does not have the rest any more")
        }
        guard response.isSuccess, let size, got != size else { return response }
        throw FarmError("download.short", .unavailable, "\(url) has sent \(got) of \(size) bytes")
    }

    private static func mark(_ head: HTTPResponse) -> String? {
        if let tag = head.headers["etag"], !tag.hasPrefix("W/") { return tag }
        return head.headers["last-modified"]
    }
}
