import CoordinatorCore
import FarmModel
import Foundation
import HTTPTransport
import SystemIO

/// Speaks to a coordinator's API.
struct FarmClient: Sendable {
    let url: String
    private let token: String
    private let authority: [UInt8]
    private let http = HTTPClient()

    /// The farm of a home on this machine, or the remote one that the environment names.
    static func connect(_ home: FarmHome, chosen: Bool) throws -> FarmClient {
        let environment = ProcessInfo.processInfo.environment
        if !chosen, let url = environment["SCIFERRY_URL"] {
            guard let authority = environment["SCIFERRY_AUTHORITY"] else {
                throw FarmError(
                    "client.authority", .usage, "SCIFERRY_URL is set, SCIFERRY_AUTHORITY is not",
                    hint: "let it name the farm's authority.pem")
            }
            return FarmClient(url: url, token: try secret("SCIFERRY_TOKEN"), authority: try Disk.read(authority, limit: 1 << 16))
        }
        guard Disk.exists(home.configuration) else {
            throw FarmError(
                "home.absent", .notFound, "there is no farm in \(home.root)", hint: "make one: sciferry init --home \(home.root)")
        }
        guard let bytes = try? Disk.read(home.endpoints, limit: 1 << 16) else {
            throw FarmError(
                "farm.stopped", .unavailable, "the farm in \(home.root) has never been started", hint: "start it: sciferry up --detach")
        }
        let endpoints: FarmEndpoints = try CanonicalJSON.decode(from: bytes, source: home.endpoints)
        return FarmClient(
            url: endpoints.api,
            token: String(decoding: try Disk.read(home.adminToken, limit: 4096), as: UTF8.self).trimmingCharacters(
                in: .whitespacesAndNewlines),
            authority: try Disk.read("\(home.identity)/ca.pem", limit: 1 << 16))
    }

    private init(url: String, token: String, authority: [UInt8]) {
        self.url = url
        self.token = token
        self.authority = authority
    }

    private static func secret(_ name: String) throws -> String {
        let environment = ProcessInfo.processInfo.environment
        if let value = environment[name] { return value }
        if let path = environment["\(name)_FILE"] {
            return String(decoding: try Disk.read(path, limit: 4096), as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
        }
        throw FarmError("client.token", .usage, "\(name) is not set", hint: "ask an operator: sciferry access NAME --role maintainer")
    }

    /// - Parameter stallSeconds: how long the coordinator may think without a word.
    func get<Value: Decodable>(_ path: String, _ type: Value.Type = Value.self, stallSeconds: Int = 60) async throws -> Value {
        try CanonicalJSON.decode(
            type, from: try await send("GET", path, .none, tries: 5, stallSeconds: stallSeconds).body, source: "the coordinator's answer")
    }

    func post<Value: Decodable>(_ path: String, _ body: some Encodable, _ type: Value.Type = Value.self, stallSeconds: Int = 60)
        async throws -> Value
    {
        let bytes = try CanonicalJSON.encode(body)
        return try CanonicalJSON.decode(
            type, from: try await send("POST", path, .bytes(bytes), tries: 1, stallSeconds: stallSeconds).body,
            source: "the coordinator's answer")
    }

    func post(_ path: String) async throws { _ = try await send("POST", path, .bytes([]), tries: 1) }

    /// Sends a file under the name of its digest.
    func put(_ path: String, file: String) async throws {
        _ = try await send("PUT", path, .file(path: file, offset: 0, count: Disk.size(file) ?? 0), tries: 3, stallSeconds: 300)
    }

    /// A job's log as it comes.
    func log(_ id: String, attempt: Int?, follow: Bool, sink: @escaping @Sendable ([UInt8]) -> Void) async throws {
        var query: [String] = []
        if let attempt { query.append("attempt=\(attempt)") }
        if follow { query.append("follow=1") }
        let response = try await http.perform(
            request("GET", "/api/v1/jobs/\(id)/log?\(query.joined(separator: "&"))", .none, stallSeconds: 86400)
        ) { sink(Array($0)) }
        guard response.isSuccess else { throw response.refusal }
    }

    private func request(_ method: String, _ path: String, _ body: HTTPBody, stallSeconds: Int = 60) -> HTTPRequest {
        HTTPRequest(
            method, "\(url)\(path)",
            headers: [("Authorization", "Bearer \(token)"), ("Content-Type", "application/json")], body: body,
            authority: authority, stallSeconds: stallSeconds, responseLimit: 256 << 20)
    }

    private func send(_ method: String, _ path: String, _ body: HTTPBody, tries: Int, stallSeconds: Int = 60) async throws -> HTTPResponse {
        do {
            let response = try await http.performRetrying(
                request(method, path, body, stallSeconds: stallSeconds), policy: RetryPolicy(attempts: tries))
            guard response.isSuccess else { throw response.refusal }
            return response
        } catch let error as FarmError where error.code == "http.unreachable" {
            throw FarmError(
                "farm.unreachable", .unavailable, "the coordinator at \(url) does not answer", hint: "start it: sciferry up --detach",
                cause: error)
        }
    }
}
