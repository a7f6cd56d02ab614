import FarmModel
import Foundation
package import HTTPTransport
import Synchronization

/// Where an S3-compatible service is, who asks it, and how long it is waited for.
package struct S3Service: Sendable {
    package enum Addressing: String, Sendable { case path, host }

    let scheme: String
    /// Host and port.
    let authorityName: String
    let addressing: Addressing
    let identity: S3Identity
    let client: HTTPClient
    let retry: RetryPolicy
    let stallSeconds: Int
    let authority: [UInt8]?

    static let emptyPayload = Digest(hashing: "").hex

    /// - Parameters:
    ///   - endpoint: scheme and authority, for example `https://object-store.example:443`.
    ///   - authority: PEM of the only certificate authority that is trusted; `nil` for the system's.
    package init(
        endpoint: String, identity: S3Identity, client: HTTPClient, addressing: Addressing = .path, authority: [UInt8]? = nil,
        retry: RetryPolicy = RetryPolicy(), stallSeconds: Int = 60
    ) {
        let parts = endpoint.components(separatedBy: "://")
        scheme = parts.count == 2 ? parts[0] : "https"
        authorityName = parts.last ?? endpoint
        self.identity = identity
        self.client = client
        self.addressing = addressing
        self.authority = authority
        self.retry = retry
        self.stallSeconds = stallSeconds
    }

    /// The same service, asked by somebody else.
    func asked(as other: S3Identity) -> S3Service {
        S3Service(
            endpoint: endpoint, identity: other, client: client, addressing: addressing, authority: authority, retry: retry,
            stallSeconds: stallSeconds)
    }

    var endpoint: String { "\(scheme)://\(authorityName)" }

    /// Whether another service can copy from here by itself: the same one, for the same account.
    func isSame(as other: S3Service) -> Bool {
        endpoint == other.endpoint && identity.keyID == other.identity.keyID
    }

    func address(_ bucket: String, _ key: String?) -> (host: String, path: String) {
        let path = key.map { "/" + SignatureV4.encode($0, keepSlash: true) }
        return switch addressing {
        case .path: (authorityName, "/\(bucket)\(path ?? "")")
        case .host: ("\(bucket).\(authorityName)", path ?? "/")
        }
    }

    /// Sends a request until it is answered with other than "later", or patience ends; what a feed sends goes out once.
    func send(
        _ method: String, _ host: String, _ path: String, query: [(String, String)], headers: [(String, String)], body: HTTPBody,
        payload: String,
        limit: Int64
    ) async throws -> HTTPResponse {
        var number = 1
        var isOnce = false
        var learned = 0
        if case .feed = body { isOnce = true }
        // Signed anew for every try, because a signature ages while the store asks to wait.
        while true {
            let outcome: Result<HTTPResponse, any Error>
            do {
                outcome = .success(
                    try await sendOnce(method, host, path, query: query, headers: headers, body: body, payload: payload, limit: limit))
            } catch { outcome = .failure(error) }
            var retryAfter: Double?
            switch outcome {
            case .success(let response):
                guard RetryPolicy.isTransient(status: response.status) else { return response }
                retryAfter = response.retryAfter
            case .failure(let error as FarmError) where error.code == S3Identity.renewed && !isOnce && learned < 3:
                learned += 1
                continue
            case .failure(let error):
                guard let known = error as? FarmError, known.category.isTransient else { throw error }
                retryAfter = known.retryAfter
            }
            number += 1
            guard !isOnce, let delay = retry.delay(beforeTry: number, retryAfter: retryAfter) else { return try outcome.get() }
            try await Task.sleep(for: .seconds(delay))
        }
    }

    /// Sends a request once. Throws `storage.renewed`, which passes, for a refusal from which something was learned that lets the next try
    /// succeed, unless it is the refusal that is asked for.
    func sendOnce(
        _ method: String, _ host: String, _ path: String, query: [(String, String)] = [], headers: [(String, String)],
        body: HTTPBody = .none,
        payload: String = emptyPayload, limit: Int64 = 64 << 20, learns: Bool = true, sink: HTTPClient.Sink? = nil,
        head: HTTPClient.HeadSink? = nil
    ) async throws -> HTTPResponse {
        let encoded = SignatureV4.canonicalQuery(query)
        let signer = identity.signer
        let signed =
            signer?.headers(method: method, path: path, query: query, headers: headers + [("host", host)], payload: payload, at: .now) ?? []
        let request = HTTPRequest(
            method, "\(scheme)://\(host)\(path)\(encoded.isEmpty ? "" : "?\(encoded)")",
            headers: (headers + signed).map { (name: $0.0, value: $0.1) },
            body: body, authority: authority, stallSeconds: stallSeconds, responseLimit: limit)
        let response = try await client.perform(request, sink: sink, head: head)
        if learns, !response.isSuccess, let signer, identity.learns(from: response, to: signer) {
            throw FarmError(S3Identity.renewed, .unavailable, "the keys or the region of \(endpoint) were other ones: they are read anew")
        }
        return response
    }
}

/// In whose name a service is asked: keys that may be renewed while a run goes on, and the region that signatures name.
package final class S3Identity: Sendable {
    private let load: @Sendable () throws -> StorageCredentials?
    private let state: Mutex<(credentials: StorageCredentials?, region: String)>

    /// - Parameter load: reads the keys anew; `nil` asks as the public does.
    package init(region: String, load: @escaping @Sendable () throws -> StorageCredentials?) throws {
        self.load = load
        state = Mutex((try load(), region))
    }

    /// For the public, and for keys that stay.
    package init(_ credentials: StorageCredentials?, region: String = "us-east-1") {
        load = { credentials }
        state = Mutex((credentials, region))
    }

    var signer: SignatureV4? {
        state.withLock { state in state.credentials.map { SignatureV4(credentials: $0, region: state.region) } }
    }

    var keyID: String? { state.withLock { $0.credentials?.keyID } }

    /// The code of an error that says: ask again, in the name that is known now.
    static let renewed: FarmError.Code = "storage.renewed"

    /// Whether a refusal lets the next try succeed: keys were renewed meanwhile, or the region has another name than the one in which it was
    /// asked. Many may be refused at once: whoever comes second finds what the first one learned.
    func learns(from response: HTTPResponse, to signer: SignatureV4) -> Bool {
        guard (400..<404).contains(response.status) || response.status == 301 else { return false }
        // To a HEAD nobody says why.
        guard !response.body.isEmpty else { return reloads(signer) }
        let answer = XMLText(response.body)
        let code = answer.text("Code") ?? ""
        if code == "AuthorizationHeaderMalformed", let region = answer.text("Region"), !region.isEmpty {
            state.withLock { $0.region = region }
            return signer.region != region
        }
        let reasons = [
            "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired",
        ]
        return reasons.contains(code) && reloads(signer)
    }

    private func reloads(_ signer: SignatureV4) -> Bool {
        guard let fresh = try? load() else { return false }
        state.withLock { $0.credentials = fresh }
        return signer.credentials != fresh
    }
}

/// Keys as the tools of S3 look for them.
package enum CredentialChain {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN` of the environment, each also as `…_FILE`, with `set` first as
    /// `…_SET`; then the shared file (`AWS_SHARED_CREDENTIALS_FILE` or ~/.aws/credentials) with the profile, `AWS_PROFILE` or `default`.
    /// `nil` when there are none. Throws what keeps a named file from being read, and `storage.keys` for a profile that is asked for and not there.
    package static func find(
        set: String?, profile: String?, environment: [String: String], read: (String) throws -> [UInt8]?
    ) throws -> StorageCredentials? {
        func secret(_ name: String) throws -> String? {
            for name in set.map({ ["\(name)_\($0)", name] }) ?? [name] {
                if let value = environment[name], !value.isEmpty { return value }
                if let path = environment["\(name)_FILE"] {
                    guard let bytes = try read(path) else {
                        throw FarmError("storage.keys", .notFound, "\(name)_FILE names \(path), which is not there")
                    }
                    return String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
                }
            }
            return nil
        }
        if profile == nil, let keyID = try secret("AWS_ACCESS_KEY_ID"), let key = try secret("AWS_SECRET_ACCESS_KEY") {
            return StorageCredentials(keyID: keyID, secret: key, sessionToken: try secret("AWS_SESSION_TOKEN"))
        }
        let path = environment["AWS_SHARED_CREDENTIALS_FILE"] ?? "\(environment["HOME"] ?? "")/.aws/credentials"
        let wanted = profile ?? environment["AWS_PROFILE"]
        let profiles = try read(path).map { SharedCredentials(String(decoding: $0, as: UTF8.self)) }
        if let found = profiles?.profiles[wanted ?? "default"] { return found }
        guard let wanted else { return nil }
        throw FarmError("storage.keys", .notFound, "\(path) has no keys for the profile \(wanted)")
    }
}

/// The shared credentials file (AWS SDKs and Tools Reference Guide): sections of `key = value`.
struct SharedCredentials {
    var profiles: [String: StorageCredentials] = [:]

    init(_ text: String) {
        var section: String?
        var values: [String: [String: String]] = [:]
        for line in text.split(whereSeparator: \.isNewline) {
            let line = line.trimmingCharacters(in: .whitespaces)
            if line.hasPrefix("#") || line.hasPrefix(";") { continue }
            if line.hasPrefix("["), line.hasSuffix("]") {
                section = line.dropFirst().dropLast().trimmingCharacters(in: .whitespaces)
            } else if let section, let equals = line.firstIndex(of: "=") {
                let key = line[..<equals].trimmingCharacters(in: .whitespaces).lowercased()
                values[section, default: [:]][key] = line[line.index(after: equals)...].trimmingCharacters(in: .whitespaces)
            }
        }
        profiles = values.compactMapValues { section in
            guard let id = section["aws_access_key_id"], let secret = section["aws_secret_access_key"] else { return nil }
            return StorageCredentials(keyID: id, secret: secret, sessionToken: section["aws_session_token"])
        }
    }
}
