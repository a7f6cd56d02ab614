import CCurl
import FarmModel
import Foundation
import Glibc
import Synchronization
import SystemIO

/// HTTP over libcurl: proxies from the environment, streaming both ways, stall limits, connection reuse. Every transfer
/// runs on a thread away from the cooperative pool. Safe to share.
package final class HTTPClient: Sendable {
    /// Receives a response's body as it comes; a thrown error ends the transfer.
    package typealias Sink = @Sendable (UnsafeRawBufferPointer) throws -> Void
    /// Receives a successful response without its body, before the sink gets any of that; a thrown error ends the transfer.
    package typealias HeadSink = @Sendable (HTTPResponse) throws -> Void

    // The handles are only touched by the transfer that took them out under the lock.
    private struct Handle: @unchecked Sendable { let pointer: UnsafeMutableRawPointer }
    private let idle = Mutex<[Handle]>([])
    private static let started: Bool = curl_global_init(Int(CURL_GLOBAL_ALL)) == CURLE_OK

    package init() { precondition(HTTPClient.started, "libcurl cannot start") }

    deinit {
        for handle in idle.withLock({ $0 }) { curl_easy_cleanup(handle.pointer) }
    }

    /// Sends a request and returns its response, whatever the status. Throws `http.unreachable` when no response came,
    /// `http.too-large` over the limit, and whatever the sink throws.
    package func perform(_ request: HTTPRequest, sink: Sink? = nil, head: HeadSink? = nil) async throws -> HTTPResponse {
        try await Blocking.interruptible { try self.transfer(request, head: head, sink: sink, cancelled: $0) }
    }

    /// As `perform`, trying again after transport failures and "later" statuses; the last response is returned as it is.
    /// For requests without a sink that may be repeated.
    package func performRetrying(_ request: HTTPRequest, policy: RetryPolicy = RetryPolicy()) async throws -> HTTPResponse {
        try await policy.repeating { try await perform(request) }
    }

    private func transfer(_ request: HTTPRequest, head: HeadSink?, sink: Sink?, cancelled: Switch) throws -> HTTPResponse {
        guard let curl = idle.withLock({ $0.popLast() })?.pointer ?? curl_easy_init() else {
            throw FarmError("http.fault", .fault, "libcurl gives no handle")
        }
        curl_easy_reset(curl)
        let transfer = Transfer(
            body: request.body, limit: request.responseLimit, head: head, sink: sink, cancelled: cancelled)
        let context = Unmanaged.passRetained(transfer)
        defer { context.release() }
        var list: UnsafeMutablePointer<curl_slist>?
        for header in request.headers { list = curl_slist_append(list, "\(header.name): \(header.value)") }
        list = curl_slist_append(list, "Expect:")
        defer { curl_slist_free_all(list) }
        try transfer.openBody()
        configure(curl, request, list: list, context: context.toOpaque())
        let code = curl_easy_perform(curl)
        let status = Int(sciferry_curl_get_status(curl))
        if let error = transfer.error {
            curl_easy_cleanup(curl)
            throw error
        }
        guard code == CURLE_OK else {
            curl_easy_cleanup(curl)
            throw unreachable(code, request, cancelled: cancelled.isRaised)
        }
        idle.withLock { if $0.count < 64 { $0.append(Handle(pointer: curl)) } else { curl_easy_cleanup(curl) } }
        return HTTPResponse(status: status, headers: transfer.headers, body: transfer.received)
    }

    private func unreachable(_ code: CURLcode, _ request: HTTPRequest, cancelled: Bool) -> any Error {
        if cancelled { return CancellationError() }
        let reason = String(cString: curl_easy_strerror(code))
        if code == CURLE_PEER_FAILED_VERIFICATION {
            return FarmError("http.untrusted", .denied, "\(request.redactedURL): \(reason)")
        }
        return FarmError("http.unreachable", .unavailable, "\(request.method) \(request.redactedURL): \(reason)")
    }

    private func configure(
        _ curl: UnsafeMutableRawPointer, _ request: HTTPRequest, list: UnsafeMutablePointer<curl_slist>?,
        context: UnsafeMutableRawPointer
    ) {
        sciferry_curl_set_string(curl, CURLOPT_URL, request.url)
        sciferry_curl_set_string(curl, CURLOPT_CUSTOMREQUEST, request.method)
        sciferry_curl_set_long(curl, CURLOPT_NOSIGNAL, 1)
        // An object may be called "a/../b".
        sciferry_curl_set_long(curl, CURLOPT_PATH_AS_IS, 1)
        sciferry_curl_set_long(curl, CURLOPT_BUFFERSIZE, 512 * 1024)
        sciferry_curl_set_long(curl, CURLOPT_UPLOAD_BUFFERSIZE, 512 * 1024)
        sciferry_curl_set_long(curl, CURLOPT_CONNECTTIMEOUT, request.connectSeconds)
        sciferry_curl_set_long(curl, CURLOPT_LOW_SPEED_LIMIT, 1)
        sciferry_curl_set_long(curl, CURLOPT_LOW_SPEED_TIME, request.stallSeconds)
        sciferry_curl_set_long(curl, CURLOPT_TIMEOUT, request.deadlineSeconds)
        sciferry_curl_set_offset(curl, CURLOPT_MAX_SEND_SPEED_LARGE, curl_off_t(request.bytesPerSecond))
        // Addresses come from recipes too: libcurl would speak to mail servers and read files.
        sciferry_curl_set_string(curl, CURLOPT_PROTOCOLS_STR, "http,https")
        sciferry_curl_set_long(curl, CURLOPT_NOPROGRESS, 0)
        sciferry_curl_set_string(curl, CURLOPT_USERAGENT, "sciferry/\(Program.version)")
        sciferry_curl_set_list(curl, CURLOPT_HTTPHEADER, list)
        if request.followsRedirects {
            sciferry_curl_set_long(curl, CURLOPT_FOLLOWLOCATION, 1)
            sciferry_curl_set_long(curl, CURLOPT_MAXREDIRS, 5)
            sciferry_curl_set_string(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https")
        }
        if request.method == "HEAD" { sciferry_curl_set_long(curl, CURLOPT_NOBODY, 1) }
        if request.skipsVerification {
            sciferry_curl_set_long(curl, CURLOPT_SSL_VERIFYPEER, 0)
            sciferry_curl_set_long(curl, CURLOPT_SSL_VERIFYHOST, 0)
        } else if let authority = request.authority {
            // Only this authority counts: without this the system's directory of authorities would count too.
            sciferry_curl_set_string(curl, CURLOPT_CAPATH, nil)
            _ = authority.withUnsafeBytes {
                sciferry_curl_set_blob(curl, CURLOPT_CAINFO_BLOB, $0.baseAddress, $0.count)
            }
        }
        // Without a length some services refuse an empty body (RFC 9110, section 8.6).
        var isSent = ["PUT", "POST"].contains(request.method)
        if case .none = request.body {} else { isSent = true }
        if isSent {
            sciferry_curl_set_long(curl, CURLOPT_UPLOAD, 1)
            sciferry_curl_set_offset(curl, CURLOPT_INFILESIZE_LARGE, curl_off_t(request.body.count))
        }
        sciferry_curl_set_read(
            curl,
            { data, size, count, context in
                Transfer.of(context).send(UnsafeMutableRawBufferPointer(start: data, count: size * count))
            }, context)
        sciferry_curl_set_write(
            curl,
            { data, size, count, context in
                Transfer.of(context).receive(UnsafeRawBufferPointer(start: data, count: size * count))
            }, context)
        sciferry_curl_set_header(
            curl,
            { data, size, count, context in
                Transfer.of(context).header(UnsafeRawBufferPointer(start: data, count: size * count))
            }, context)
        sciferry_curl_set_progress(
            curl,
            { context, _, _, _, _ in
                Transfer.of(context).cancelled.isRaised ? 1 : 0
            }, context)
    }
}

/// The state of one transfer; used by one thread only.
private final class Transfer {
    let body: HTTPBody
    let limit: Int64
    let sink: HTTPClient.Sink?
    let cancelled: Switch
    private var head: HTTPClient.HeadSink?
    var headers: [String: String] = [:]
    var received: [UInt8] = []
    var error: (any Error)?
    private var file: OpenFile?
    private var sent: Int64 = 0
    private var status = 0

    init(body: HTTPBody, limit: Int64, head: HTTPClient.HeadSink?, sink: HTTPClient.Sink?, cancelled: Switch) {
        self.head = head
        self.body = body
        self.limit = limit
        self.sink = sink
        self.cancelled = cancelled
    }

    static func of(_ context: UnsafeMutableRawPointer?) -> Transfer {
        guard let context else { preconditionFailure("libcurl lost its context") }
        return Unmanaged<Transfer>.fromOpaque(context).takeUnretainedValue()
    }

    func openBody() throws {
        if case .file(let path, _, _) = body { file = try OpenFile(path, flags: O_RDONLY) }
    }

    func send(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        let count = Int(min(Int64(buffer.count), body.count - sent))
        guard count > 0 else { return 0 }
        switch body {
        case .none: return 0
        case .bytes(let bytes):
            bytes.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(sent)..<Int(sent) + count])) }
            sent += Int64(count)
            return count
        case .file(let path, let offset, _):
            do {
                let got =
                    try file?.read(
                        at: offset + sent, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])) ?? 0
                guard got > 0 else { throw FarmError("file.short", .corrupt, "\(path) became shorter while it was sent") }
                sent += Int64(got)
                return got
            } catch {
                self.error = error
                return Int(CURL_READFUNC_ABORT)
            }
        case .feed(let size, let read):
            do {
                let got = try read(UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
                // A server might take the beginning for the whole.
                guard got > 0 else { throw FarmError("http.short", .corrupt, "what was to be sent ended \(size - sent) bytes too early") }
                sent += Int64(got)
                return got
            } catch {
                self.error = error
                return Int(CURL_READFUNC_ABORT)
            }
        }
    }

    func receive(_ buffer: UnsafeRawBufferPointer) -> Int {
        // A refusal's body explains it and must not reach the sink.
        if let sink, (200..<300).contains(status) {
            do {
                try head?(HTTPResponse(status: status, headers: headers, body: []))
                head = nil
                try sink(buffer)
            } catch {
                self.error = error
                return 0
            }
            return buffer.count
        }
        guard Int64(received.count + buffer.count) <= limit else {
            error = FarmError("http.too-large", .invalid, "the response is longer than \(limit) bytes")
            return 0
        }
        received.append(contentsOf: buffer)
        return buffer.count
    }

    func header(_ buffer: UnsafeRawBufferPointer) -> Int {
        let line = String(decoding: buffer, as: UTF8.self)
        if line.hasPrefix("HTTP/") {
            headers = [:]
            status = line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
        } else if let colon = line.firstIndex(of: ":") {
            let value = line[line.index(after: colon)...]
            headers[line[..<colon].lowercased()] = value.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        return buffer.count
    }
}
