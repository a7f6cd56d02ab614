package import FarmModel
import Foundation
package import HTTPTransport

/// Asks registries which image a name leads to, without pulling it (OCI Distribution Specification 1.1, "Checking if content exists in
/// the registry"; the token by the Docker Registry v2 authentication specification).
package struct RegistryWatch: Sendable {
    private let client: HTTPClient

    package init(client: HTTPClient) { self.client = client }

    /// What an image may be described by; an index of platforms goes first, for its digest is what the engine names.
    private static let forms = [
        "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
    ]

    /// The digest that a name stands for now.
    ///
    /// - Throws: `registry.unreachable`, `registry.limit`, `registry.denied`, `registry.absent`, `registry.answer`.
    package func digest(of reference: ImageReference) async throws -> Digest {
        if let pinned = reference.digest { return pinned }
        let url = "\(reference.address)/manifests/\(reference.tag)"
        var response = try await ask("HEAD", url, token: nil)
        if response.status == 401 {
            let token = try await token(response.headers["www-authenticate"] ?? "", reference)
            response = try await ask("HEAD", url, token: token)
            if response.status == 401 { throw denied(reference) }
        }
        switch response.status {
        case 200: break
        case 403: throw denied(reference)
        case 404: throw FarmError("registry.absent", .notFound, "\(reference.host) has no \(reference.repository):\(reference.tag)")
        case 429: throw FarmError("registry.limit", .unavailable, "\(reference.host) has answered too many questions")
        default:
            throw FarmError(
                "registry.unreachable", response.status >= 500 ? .unavailable : .invalid,
                "\(reference.host) answers with status \(response.status)")
        }
        guard let text = response.headers["docker-content-digest"], let digest = Digest(text) else {
            throw FarmError(
                "registry.answer", .invalid, "\(reference.host) gives no digest of \(reference.repository):\(reference.tag)")
        }
        return digest
    }

    private func ask(_ method: String, _ url: String, token: String?) async throws -> HTTPResponse {
        var headers = [(name: "Accept", value: RegistryWatch.forms.joined(separator: ", "))]
        if let token { headers.append((name: "Authorization", value: "Bearer \(token)")) }
        do {
            var request = HTTPRequest(method, url, headers: headers, stallSeconds: 20, responseLimit: 1 << 20)
            request.deadlineSeconds = 60
            return try await client.performRetrying(request, policy: RetryPolicy(attempts: 2))
        } catch let error as FarmError {
            throw FarmError("registry.unreachable", .unavailable, error.message, cause: error)
        }
    }

    private func denied(_ reference: ImageReference) -> FarmError {
        FarmError("registry.denied", .denied, "\(reference.host) shows \(reference.repository) to those only who log in")
    }

    /// A token for reading, as the refusal says where to get one.
    private func token(_ challenge: String, _ reference: ImageReference) async throws -> String {
        guard challenge.lowercased().hasPrefix("bearer ") else { throw denied(reference) }
        var fields: [String: String] = [:]
        for match in challenge.matches(of: /([A-Za-z_]+)="([^"]*)"/) { fields[match.1.lowercased()] = String(match.2) }
        // Without TLS only where the registry itself is this machine, and so is what it sends the farm to.
        guard let realm = fields["realm"], let host = InputWatch.host(realm), !host.contains("@"),
            realm.hasPrefix("https://") || realm.hasPrefix("http://") && reference.isLocal && ImageReference.isLocal(host)
        else { throw denied(reference) }
        var parameters = ["scope=\(RegistryWatch.escaped(fields["scope"] ?? "repository:\(reference.repository):pull"))"]
        if let service = fields["service"] { parameters.append("service=\(RegistryWatch.escaped(service))") }
        let separator = realm.contains("?") ? "&" : "?"
        let response = try await ask("GET", "\(realm)\(separator)\(parameters.joined(separator: "&"))", token: nil)
        struct Grant: Decodable {
            var token: String?
            var access_token: String?
        }
        guard response.isSuccess, let grant = try? JSONDecoder().decode(Grant.self, from: Data(response.body)),
            let token = grant.token ?? grant.access_token
        else { throw denied(reference) }
        return token
    }

    private static func escaped(_ text: String) -> String {
        text.addingPercentEncoding(withAllowedCharacters: .alphanumerics.union(.init(charactersIn: "-._~:/"))) ?? text
    }
}
