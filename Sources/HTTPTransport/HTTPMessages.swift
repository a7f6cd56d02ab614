package import FarmModel

/// What is sent as a request's body.
package enum HTTPBody: Sendable {
    case none
    case bytes([UInt8])
    /// A run of a file, streamed.
    case file(path: String, offset: Int64, count: Int64)
    /// What `read` puts into its buffer, until it has given `count` bytes. It is asked on the transfer's thread, may wait, and what it
    /// throws ends the transfer. Given once only: such a request cannot be repeated.
    case feed(count: Int64, read: @Sendable (UnsafeMutableRawBufferPointer) throws -> Int)

    var count: Int64 {
        switch self {
        case .none: 0
        case .bytes(let bytes): Int64(bytes.count)
        case .file(_, _, let count), .feed(let count, _): count
        }
    }
}

/// One HTTP request.
package struct HTTPRequest: Sendable {
    package var method: String
    package var url: String
    /// Names and values as they go over the wire.
    package var headers: [(name: String, value: String)]
    package var body: HTTPBody
    /// PEM of the only certificate authority that is trusted; `nil` for the system's.
    package var authority: [UInt8]?
    /// Do not verify the server at all; only for fetching a certificate whose fingerprint is checked afterwards.
    package var skipsVerification: Bool
    /// Ends a request that moves less than one byte a second for so long.
    package var stallSeconds: Int
    package var connectSeconds: Int
    /// Ends a request that is not over after so long; 0 for never.
    package var deadlineSeconds = 0
    /// Bytes that are sent in a second at most; 0 for any number.
    package var bytesPerSecond: Int64 = 0
    /// A longer response body is refused.
    package var responseLimit: Int64
    /// Follow up to five redirects, to https only; for downloads without secrets in their headers.
    package var followsRedirects: Bool

    package init(
        _ method: String, _ url: String, headers: [(name: String, value: String)] = [], body: HTTPBody = .none,
        authority: [UInt8]? = nil, skipsVerification: Bool = false, stallSeconds: Int = 60, connectSeconds: Int = 10,
        responseLimit: Int64 = 64 << 20, followsRedirects: Bool = false
    ) {
        self.followsRedirects = followsRedirects
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.authority = authority
        self.skipsVerification = skipsVerification
        self.stallSeconds = stallSeconds
        self.connectSeconds = connectSeconds
        self.responseLimit = responseLimit
    }

    /// The URL without its query, which may hold a signature.
    package var redactedURL: String { url.split(separator: "?", maxSplits: 1).first.map(String.init) ?? url }
}

/// The answer to a request, whatever its status.
package struct HTTPResponse: Sendable {
    package var status: Int
    /// Names in lower case.
    package var headers: [String: String]
    /// Empty when the body was streamed to a sink.
    package var body: [UInt8]

    package init(status: Int, headers: [String: String] = [:], body: [UInt8] = []) {
        (self.status, self.headers, self.body) = (status, headers, body)
    }

    package var isSuccess: Bool { (200..<300).contains(status) }

    /// Seconds that the server asks to wait (RFC 9110, section 10.2.3: a number of them, or a date).
    package var retryAfter: Double? {
        guard let text = headers["retry-after"] else { return nil }
        if let seconds = Double(text), seconds.isFinite { return max(0, seconds) }
        // By the server's own clock, where it says what that is.
        return HTTPDate.read(text).map { max(0, $0.seconds(since: headers["date"].flatMap(HTTPDate.read) ?? .now)) }
    }
}

/// How often and how long a failed request is tried again.
package struct RetryPolicy: Sendable {
    package var attempts: Int
    package var firstDelay: Double
    package var longestDelay: Double
    /// The longest that a server's Retry-After is obeyed, in seconds.
    package var patience: Double

    /// - Parameter patience: as long as the longest delay, where it is not given.
    package init(attempts: Int = 5, firstDelay: Double = 0.2, longestDelay: Double = 20, patience: Double? = nil) {
        self.attempts = attempts
        self.firstDelay = firstDelay
        self.longestDelay = longestDelay
        self.patience = patience ?? longestDelay
    }

    /// Seconds before try `number` (2 is the first repetition), or `nil` to give up. A server's Retry-After counts when it is longer, up to
    /// `patience`.
    package func delay(beforeTry number: Int, retryAfter: Double?) -> Double? {
        guard number <= attempts else { return nil }
        let backoff = firstDelay * Double(1 << min(number - 2, 16))
        return max(min(longestDelay, backoff), min(patience, retryAfter ?? 0))
    }

    /// Repeats what failed on its way or was answered with "later"; the last answer is returned as it is.
    ///
    /// - Parameter waits: is told, before each wait, for how many seconds, and the answer's status where there was one.
    package func repeating(
        isolation: isolated (any Actor)? = #isolation, waits: (Double, Int?) async -> Void = { _, _ in },
        _ body: () async throws -> HTTPResponse
    ) async throws -> HTTPResponse {
        var number = 1
        while true {
            let outcome: Result<HTTPResponse, any Error>
            do { outcome = .success(try await body()) } catch { outcome = .failure(error) }
            number += 1
            var retryAfter: Double?
            switch outcome {
            case .success(let response):
                guard RetryPolicy.isTransient(status: response.status) else { return response }
                retryAfter = response.retryAfter
            case .failure(let error):
                guard let known = error as? FarmError, known.category.isTransient else { throw error }
                retryAfter = known.retryAfter
            }
            guard let delay = delay(beforeTry: number, retryAfter: retryAfter) else { return try outcome.get() }
            await waits(delay, try? outcome.get().status)
            try await Task.sleep(for: .seconds(delay))
        }
    }

    /// Whether a status says "later" rather than "no".
    package static func isTransient(status: Int) -> Bool {
        status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504
    }
}

extension HTTPResponse {
    /// The error that a refusal of the coordinator's API carries.
    package var refusal: FarmError {
        if let document = try? CanonicalJSON.decode(ErrorDocument.self, from: body, source: "the answer") { return document.farmError }
        return FarmError(
            "api.failed", RetryPolicy.isTransient(status: status) ? .unavailable : .fault, "the coordinator answered with status \(status)")
    }
}
