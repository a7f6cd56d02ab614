package import FarmModel
import Foundation
package import HTTPTransport
import Synchronization

/// Speaks with registries of images (OCI Distribution Specification 1.1; tokens by the Docker Registry v2 authentication
/// specification). What says "later" is waited for as long as it asks, up to an hour, eight times.
package actor Registry {
    private let client: HTTPClient
    private let credentials: RegistryCredentials
    /// Hosts that have the same images as another and are asked first.
    private let mirrors: [String: [String]]
    private let policy: RetryPolicy
    private let say: @Sendable (String) async -> Void
    private var tokens: [String: String] = [:]

    /// - Parameters:
    ///   - mirrors: by the host that they stand for.
    ///   - policy: how long a registry that is busy is waited for.
    ///   - say: is told of every wait that is worth a word.
    package init(
        client: HTTPClient, credentials: RegistryCredentials = .none, mirrors: [String: [String]] = [:],
        policy: RetryPolicy = RetryPolicy(attempts: 8, firstDelay: 0.5, longestDelay: 3600),
        say: @escaping @Sendable (String) async -> Void = { _ in }
    ) {
        self.say = say
        self.client = client
        self.credentials = credentials
        self.mirrors = mirrors
        self.policy = policy
    }

    /// What an image may be described by; an index of platforms goes first, for its digest is what engines name.
    private static let forms = [
        "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
    ]

    /// The digest that a name stands for now.
    ///
    /// - Throws: `registry.unreachable`, `registry.limit`, `registry.denied`, `registry.absent`, `registry.answer`.
    package func digest(of reference: ImageReference) async throws -> Digest {
        if let pinned = reference.digest { return pinned }
        let response = try await ask("HEAD", reference, at: reference.host, "/manifests/\(reference.tag)")
        guard let text = response.headers["docker-content-digest"], let digest = Digest(text) else {
            throw FarmError(
                "registry.answer", .invalid, "\(reference.host) gives no digest of \(reference.repository):\(reference.tag)")
        }
        return digest
    }

    /// A manifest or an index, with the digest of its bytes, which is the wanted one where one is wanted.
    package func manifest(_ reference: ImageReference) async throws -> (bytes: [UInt8], digest: Digest) {
        try await anywhere(reference) { host, policy in
            let response = try await self.ask("GET", reference, at: host, "/manifests/\(reference.selector)", policy: policy)
            let digest = Digest(hashing: response.body)
            for expected in [reference.digest, response.headers["docker-content-digest"].flatMap { Digest($0) }].compactMap(\.self)
            where expected != digest {
                throw FarmError(
                    "registry.answer", .corrupt, "\(host) answers with other bytes than sha256:\(expected.hex) for \(reference.repository)")
            }
            return (response.body, digest)
        }
    }

    /// A part of an image as a whole, verified.
    package func blob(_ reference: ImageReference, _ digest: Digest, limit: Int64) async throws -> [UInt8] {
        try await blob(reference, digest) { Collected(digest, limit: limit, source: reference.host) }
    }

    /// Streams a part of an image to a taker, which judges it. A transfer that breaks off goes on where it was; where a mirror breaks off
    /// for good or gives other bytes, the next one begins anew with a taker of its own.
    package func blob<Taker: BlobTaker>(
        _ reference: ImageReference, _ digest: Digest, taker make: @escaping @Sendable () throws -> Taker
    ) async throws -> Taker.Result {
        try await anywhere(reference) { host, policy in
            let (taker, progress) = (try make(), Progress())
            _ = try await self.ask("GET", reference, at: host, "/blobs/sha256:\(digest.hex)", policy: policy, progress: progress) { bytes in
                if let new = progress.new(of: bytes) { try taker.take(new) }
            }
            return try taker.finish()
        }
    }

    /// Asks mirrors, then the registry itself. One that says "later" is waited for when no other one has answered.
    private func anywhere<Value: Sendable>(
        _ reference: ImageReference, _ body: @Sendable (_ host: String, _ policy: RetryPolicy) async throws -> Value
    ) async throws -> Value {
        let mirrors = mirrors[reference.host] ?? []
        var busy: String?
        for host in mirrors.isEmpty ? [] : mirrors + [reference.host] {
            do { return try await body(host, Registry.brief) } catch let error as FarmError where error.category != .full {
                if error.category.isTransient { busy = host }
                if host == reference.host, busy == nil { throw error }
                await say("\(host): \(error.message)")
            }
        }
        return try await body(busy ?? reference.host, policy)
    }

    /// While there are others to ask.
    private static let brief = RetryPolicy(attempts: 2, firstDelay: 0.2, longestDelay: 1)

    /// Tells of a wait.
    private func repeating(_ policy: RetryPolicy, _ host: String, _ body: () async throws -> HTTPResponse) async throws -> HTTPResponse {
        let say = say
        return try await policy.repeating(
            waits: { seconds, status in
                guard seconds >= 1 else { return }
                let why = status == 429 ? "asks to be left alone" : status.map { "answers with status \($0)" } ?? "does not answer"
                await say("\(host) \(why); waiting \(Int(seconds.rounded(.up))) s")
            }, body)
    }

    // MARK: - Writing

    /// Makes sure that the registry has a part; true when it had it already.
    @discardableResult
    package func upload(_ reference: ImageReference, _ digest: Digest, _ body: HTTPBody) async throws -> Bool {
        let url = "\(reference.address)/blobs/sha256:\(digest.hex)"
        if try await policy.repeating({ try await self.perform("HEAD", reference, reference.host, url, isWriting: true) }).isSuccess {
            return true
        }
        // An upload that failed is begun anew: its session may be gone.
        let response = try await policy.repeating {
            let begun = try await self.ask("POST", reference, at: reference.host, "/blobs/uploads/", isWriting: true)
            let place = try self.place(begun.headers["location"], reference)
            return try await self.perform(
                "PUT", reference, Registry.host(place) ?? reference.host,
                "\(place)\(place.contains("?") ? "&" : "?")digest=sha256:\(digest.hex)",
                headers: [("Content-Type", "application/octet-stream")], body: body, isWriting: true)
        }
        guard response.isSuccess else { throw refusal(response, reference, reference.host) }
        return false
    }

    /// Where an upload goes; a registry may leave its own host away.
    private func place(_ location: String?, _ reference: ImageReference) throws -> String {
        guard let location else { throw FarmError("registry.answer", .invalid, "\(reference.host) does not say where to upload to") }
        let scheme = reference.isLocal ? "http" : "https"
        let url = location.hasPrefix("/") ? "\(scheme)://\(reference.host)\(location)" : location
        guard Registry.mayBeToldTo(url, by: reference.host) else {
            throw FarmError("registry.answer", .denied, "\(reference.host) sends uploads to another host in the clear")
        }
        return url
    }

    /// Gives an image its name; its parts must be there.
    package func put(_ manifest: [UInt8], type: String, _ reference: ImageReference) async throws -> Digest {
        let response = try await policy.repeating {
            try await self.perform(
                "PUT", reference, reference.host, "\(reference.address)/manifests/\(reference.selector)", headers: [("Content-Type", type)],
                body: .bytes(manifest), isWriting: true)
        }
        guard response.isSuccess else { throw refusal(response, reference, reference.host) }
        return Digest(hashing: manifest)
    }

    // MARK: - Asking

    private func ask(
        _ method: String, _ reference: ImageReference, at host: String, _ path: String, isWriting: Bool = false,
        policy: RetryPolicy? = nil, progress: Progress? = nil, sink: HTTPClient.Sink? = nil
    ) async throws -> HTTPResponse {
        let url = reference.address(at: host) + path
        let response = try await repeating(policy ?? self.policy, host) {
            try await self.perform(method, reference, host, url, isWriting: isWriting, progress: progress, sink: sink)
        }
        // All had come when the line was cut; whoever takes the bytes compares their digest.
        if response.status == 416, progress?.value ?? 0 > 0 { return response }
        guard response.isSuccess else { throw refusal(response, reference, host) }
        return response
    }

    /// Sends one request, and when the registry wants to know who asks, once more with an answer to that.
    private func perform(
        _ method: String, _ reference: ImageReference, _ host: String, _ url: String, headers: [(name: String, value: String)] = [],
        body: HTTPBody = .none, isWriting: Bool, progress: Progress? = nil, sink: HTTPClient.Sink? = nil
    ) async throws -> HTTPResponse {
        let key = "\(host) \(reference.repository) \(isWriting)"
        // Where a registry sends one to, nobody is told who one is.
        let isKnown = host == reference.host || (mirrors[reference.host] ?? []).contains(host)
        func send(_ authorization: String?) async throws -> HTTPResponse {
            var all = headers
            if method == "HEAD" || method == "GET" { all.append((name: "Accept", value: Registry.forms.joined(separator: ", "))) }
            if let authorization { all.append((name: "Authorization", value: authorization)) }
            var request = HTTPRequest(method, url, headers: all, body: body, stallSeconds: Registry.patience(body), responseLimit: 16 << 20)
            request.followsRedirects = method == "GET"
            if let value = progress?.value, value > 0 { request.headers.append((name: "Range", value: "bytes=\(value)-")) }
            if sink == nil, case .none = body { request.deadlineSeconds = 120 }
            do { return try await client.perform(request, sink: sink, head: { progress?.begins($0) }) } catch let error as FarmError
                where error.category == .unavailable
            {
                throw FarmError("registry.unreachable", .unavailable, error.message, cause: error)
            }
        }
        let response = try await send(isKnown ? tokens[key] : nil)
        guard response.status == 401, isKnown else { return response }
        let challenge = response.headers["www-authenticate"] ?? ""
        let token: String
        if challenge.lowercased().hasPrefix("basic"), let mine = credentials.header(for: host) {
            token = mine
        } else {
            token = "Bearer " + (try await grant(challenge, reference, host, isWriting: isWriting))
        }
        tokens[key] = token
        return try await send(token)
    }

    private func refusal(_ response: HTTPResponse, _ reference: ImageReference, _ host: String) -> FarmError {
        switch response.status {
        case 401, 403: return denied(reference, host)
        case 404: return FarmError("registry.absent", .notFound, "\(host) has no \(reference.repository):\(reference.selector)")
        case 429: return FarmError("registry.limit", .unavailable, "\(host) has answered too many questions")
        default:
            return FarmError(
                "registry.unreachable", response.status >= 500 ? .unavailable : .invalid, "\(host) answers with status \(response.status)")
        }
    }

    private func denied(_ reference: ImageReference, _ host: String) -> FarmError {
        FarmError(
            "registry.denied", .denied, "\(host) shows \(reference.repository) to those only who log in", hint: "docker login \(host)")
    }

    /// A token, as the refusal says where to get one.
    private func grant(_ challenge: String, _ reference: ImageReference, _ host: String, isWriting: Bool) async throws -> String {
        guard challenge.lowercased().hasPrefix("bearer ") else { throw denied(reference, host) }
        var fields: [String: String] = [:]
        for match in challenge.matches(of: /([A-Za-z_]+)="([^"]*)"/) { fields[match.1.lowercased()] = String(match.2) }
        guard let realm = fields["realm"], Registry.mayBeToldTo(realm, by: host) else { throw denied(reference, host) }
        let scope = fields["scope"] ?? "repository:\(reference.repository):\(isWriting ? "pull,push" : "pull")"
        var parameters = ["scope=\(Registry.escaped(scope))"]
        if let service = fields["service"] { parameters.append("service=\(Registry.escaped(service))") }
        let separator = realm.contains("?") ? "&" : "?"
        var headers: [(name: String, value: String)] = []
        if let mine = credentials.header(for: host) { headers.append((name: "Authorization", value: mine)) }
        var request = HTTPRequest(
            "GET", "\(realm)\(separator)\(parameters.joined(separator: "&"))", headers: headers, stallSeconds: 20, responseLimit: 1 << 20)
        request.deadlineSeconds = 60
        let asked = request
        let response = try await policy.repeating { try await self.client.perform(asked) }
        struct Grant: Decodable {
            var token: String?
            var access_token: String?
        }
        guard response.isSuccess, let grant = try? JSONDecoder().decode(Grant.self, from: Data(response.body)),
            let token = grant.token ?? grant.access_token
        else { throw denied(reference, host) }
        return token
    }

    /// Seconds without a byte: a registry reads all of an upload again before it answers.
    private static func patience(_ body: HTTPBody) -> Int { if case .none = body { 30 } else { 600 } }

    /// Whether a registry may send one to an address: without TLS only where the registry itself is this machine, and so is the address.
    private static func mayBeToldTo(_ url: String, by asked: String) -> Bool {
        guard let host = host(url), !host.contains("@") else { return false }
        return url.hasPrefix("https://") || url.hasPrefix("http://") && ImageReference.isLocal(asked) && ImageReference.isLocal(host)
    }

    /// The host of an address.
    private static func host(_ url: String) -> String? {
        guard let scheme = url.range(of: "://") else { return nil }
        return String(url[scheme.upperBound...].prefix { $0 != "/" && $0 != " " && $0 != "?" })
    }

    private static func escaped(_ text: String) -> String {
        text.addingPercentEncoding(withAllowedCharacters: .alphanumerics.union(.init(charactersIn: "-._~:/"))) ?? text
    }
}

/// How many bytes of a part have come, over all transfers of it.
private final class Progress: Sendable {
    /// All, and where in the part this transfer is.
    private let state = Mutex<(count: Int64, position: Int64)>((0, 0))
    var value: Int64 { state.withLock { $0.count } }

    /// 206 is the rest (RFC 9110, section 15.3.7); anything else begins at the beginning.
    func begins(_ head: HTTPResponse) { state.withLock { $0.position = head.status == 206 ? $0.count : 0 } }

    /// What of a transfer's bytes has not come before; `nil` for none.
    func new(of bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        let known = state.withLock { state in
            let known = Int(min(state.count - state.position, Int64(bytes.count)))
            state.position += Int64(bytes.count)
            state.count = max(state.count, state.position)
            return known
        }
        return known < bytes.count ? UnsafeRawBufferPointer(rebasing: bytes[known...]) : nil
    }
}

/// Takes a part of an image as it comes; one transfer at a time feeds it.
package protocol BlobTaker: Sendable {
    associatedtype Result: Sendable
    func take(_ bytes: UnsafeRawBufferPointer) throws
    /// Judges the whole.
    func finish() throws -> Result
}

/// A body that is kept whole.
private final class Collected: BlobTaker {
    private let digest: Digest
    private let limit: Int64
    private let source: String
    private let state = Mutex<[UInt8]>([])

    init(_ digest: Digest, limit: Int64, source: String) {
        self.digest = digest
        self.limit = limit
        self.source = source
    }

    func take(_ piece: UnsafeRawBufferPointer) throws {
        let piece = Array(piece)
        try state.withLock { bytes in
            guard Int64(bytes.count + piece.count) <= limit else {
                throw FarmError("registry.answer", .invalid, "a part of the image is longer than \(limit) bytes")
            }
            bytes += piece
        }
    }

    func finish() throws -> [UInt8] {
        let bytes = state.withLock { $0 }
        guard Digest(hashing: bytes) == digest else {
            throw FarmError("registry.answer", .corrupt, "\(source) answers with other bytes than sha256:\(digest.hex)")
        }
        return bytes
    }
}
