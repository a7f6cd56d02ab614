import FarmModel
import Foundation
import SystemIO

/// Who one is to registries, as `docker login` wrote it down. Never printed.
package struct RegistryCredentials: Sendable, CustomStringConvertible {
    /// Base64 of `user:password`, by host.
    private let known: [String: String]

    /// Nobody anywhere.
    package static let none = RegistryCredentials(known: [:])

    private init(known: [String: String]) { self.known = known }

    private struct Document: Decodable {
        struct Entry: Decodable { var auth: String? }
        var auths: [String: Entry]?
    }

    /// Reads `config.json` in DOCKER_CONFIG or `~/.docker`; programs that keep passwords are not asked. Throws `registry.credentials` for a
    /// file that cannot be understood.
    package init(environment: [String: String]) throws {
        let directory = environment["DOCKER_CONFIG"] ?? "\(environment["HOME"] ?? "")/.docker"
        let path = "\(directory)/config.json"
        guard Disk.exists(path) else {
            known = [:]
            return
        }
        do {
            let document = try JSONDecoder().decode(Document.self, from: Data(try Disk.read(path, limit: 1 << 20)))
            var found: [String: String] = [:]
            for (name, entry) in document.auths ?? [:] {
                guard let auth = entry.auth, !auth.isEmpty else { continue }
                var host = name.split(separator: "://").last.map(String.init) ?? name
                host = String(host.prefix { $0 != "/" })
                if host == "index.docker.io" || host == "docker.io" { host = "registry-1.docker.io" }
                found[host] = auth
            }
            known = found
        } catch {
            throw FarmError(
                "registry.credentials", .invalid, "\(path) cannot be understood", hint: "docker login writes it anew", cause: error)
        }
    }

    /// The value of the header that says who one is.
    func header(for host: String) -> String? { known[host].map { "Basic \($0)" } }

    package var description: String { "RegistryCredentials(\(known.count), <redacted>)" }
}
