package import FarmModel

/// An image's name as recipes write it, taken apart (https://github.com/distribution/reference, "grammar", with Docker's defaults).
package struct ImageReference: Sendable, Hashable {
    /// The registry's host, with its port where it has one.
    package var host: String
    package var repository: String
    package var tag: String
    /// The digest that the name itself pins.
    package var digest: Digest?

    /// `nil` for a text that is no image's name.
    package init?(_ text: String) {
        guard !text.isEmpty, text.utf8.count <= 512, text.utf8.allSatisfy({ $0.isAlphanumeric || "._-/:@".utf8.contains($0) }) else {
            return nil
        }
        let parts = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2 {
            guard let pinned = Digest(parts[1]) else { return nil }
            digest = pinned
        }
        var name = parts[0]
        tag = "latest"
        if let colon = name.lastIndex(of: ":"), !name[colon...].contains("/") {
            tag = String(name[name.index(after: colon)...])
            name = name[..<colon]
        }
        let segments = name.split(separator: "/", omittingEmptySubsequences: false)
        guard !tag.isEmpty, segments.allSatisfy({ !$0.isEmpty && !$0.hasPrefix(".") }) else { return nil }
        if segments.count > 1, segments[0].contains(".") || segments[0].contains(":") || segments[0] == "localhost" {
            host = String(segments[0])
            repository = segments.dropFirst().joined(separator: "/")
        } else {
            host = "docker.io"
            repository = segments.count == 1 ? "library/\(name)" : String(name)
        }
        if host == "docker.io" || host == "index.docker.io" { host = "registry-1.docker.io" }
    }

    /// Where the registry's API begins. A registry on this machine is asked without TLS, as the engine does.
    package var address: String { address(at: host) }

    /// The same at another host, which has the same images.
    package func address(at host: String) -> String {
        "\(ImageReference.isLocal(host) ? "http" : "https")://\(host)/v2/\(repository)"
    }

    /// What a manifest is asked for by.
    package var selector: String { digest.map { "sha256:\($0.hex)" } ?? tag }

    /// Whether the registry runs on this machine.
    package var isLocal: Bool { ImageReference.isLocal(host) }

    /// Whether a host, with a port or without, is this machine.
    static func isLocal(_ host: String) -> Bool {
        let name = host.prefix { $0 != ":" }
        let numbers = name.split(separator: ".", omittingEmptySubsequences: false)
        return name == "localhost" || numbers.count == 4 && numbers[0] == "127" && numbers.allSatisfy { UInt8($0) != nil }
    }
}
