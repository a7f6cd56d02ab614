package import FarmModel

/// Squid's settings for a worker's builds, and what its log tells (https://www.squid-cache.org/Doc/config/, version 5).
package struct SquidSettings: Sendable, Hashable {
    /// The address that steps reach it at, on the engine's bridge, and the subnet that they have their own addresses of.
    package var address: String
    package var port: Int
    package var subnet: String
    /// A directory of its own.
    package var place: String
    package var megabytes: Int
    /// `HOST:PORT` of the farm's own cache, which is asked before the world; empty for none.
    package var parent: String
    /// Whether it starts as root, and goes on as the user that Debian makes for it.
    package var changesUser: Bool

    package static let user = "proxy"

    package init(
        address: String, port: Int, subnet: String, place: String, megabytes: Int, parent: String = "", changesUser: Bool = false
    ) {
        self.address = address
        self.port = port
        self.subnet = subnet
        self.place = place
        self.megabytes = megabytes
        self.parent = parent
        self.changesUser = changesUser
    }

    /// The address and port of `HOST:PORT`; `nil` for what is none.
    package static func hostAndPort(_ text: String) -> (host: String, port: Int)? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty, let port = Int(parts[1]), (1...65535).contains(port),
            parts[0].utf8.allSatisfy({ $0.isAlphanumeric || "-.".utf8.contains($0) })
        else { return nil }
        return (String(parts[0]), port)
    }

    /// The file that squid reads.
    package var text: String {
        var lines = [
            "http_port \(address):\(port)", "visible_hostname sciferry", "pid_filename \(place)/squid.pid",
            "cache_log \(place)/squid.log", "cache_store_log none", "coredump_dir none", "netdb_filename none", "pinger_enable off",
            "shutdown_lifetime 0 seconds", "max_filedescriptors 4096", "cache_mem 64 MB", "maximum_object_size 8 GB",
            "forwarded_for delete",
            // Hit or miss, bytes to the client; addresses of what is fetched are nobody's business.
            "logformat sciferry %Ss %<st", "access_log stdio:\(place)/access.log logformat=sciferry",
            // Builds alone, and nothing of the machine itself or of what a cloud tells its machines.
            "acl builds src \(subnet)",
            "acl own dst 127.0.0.0/8 0.0.0.0/8 169.254.0.0/16 ::1/128 fe80::/10\(address.hasPrefix("127.") ? "" : " \(address)")",
            "acl tls port 443", "http_access deny own", "http_access deny CONNECT !tls", "http_access allow builds",
            "http_access deny all",
            "cache_dir ufs \(place)/objects \(max(16, megabytes)) 16 64", "cache_replacement_policy lru",
            // Two builds that want the same at a time fetch it once, and what one gives up is fetched to its end.
            "collapsed_forwarding on", "quick_abort_min -1 KB",
            // Packages never change under one name; all else is kept as long as its origin says, and asked after.
            #"refresh_pattern -i \.(deb|udeb|rpm|whl|conda)$ 43200 100% 129600"#, "refresh_pattern . 0 20% 1440",
        ]
        if changesUser { lines.append("cache_effective_user \(SquidSettings.user)") }
        if let (host, port) = SquidSettings.hostAndPort(parent) {
            lines += ["cache_peer \(host) parent \(port) 0 no-query default", "prefer_direct off", "nonhierarchical_direct off"]
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// Reckons up squid's log as it grows.
package struct SquidLog: Sendable, Hashable {
    package private(set) var use = InputCacheUse()
    private var partial: [UInt8] = []

    package init() {}

    /// Takes what was written since.
    package mutating func take(_ bytes: some Collection<UInt8>) {
        partial += bytes
        while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
            note(String(decoding: partial[..<end], as: UTF8.self))
            partial.removeFirst(end + 1)
        }
        if partial.count > 4096 { partial = [] }
    }

    private mutating func note(_ line: String) {
        let words = line.split(separator: " ")
        guard words.count == 2, let bytes = Int64(words[1]), bytes >= 0 else { return }
        let tags = words[0].split(separator: "_")
        if tags.contains("TUNNEL") { return use.tunnels += 1 }
        // Refused, or not understood.
        guard !tags.contains("DENIED"), !words[0].hasPrefix("NONE"), !tags.contains("ABORTED") else { return }
        use.requests += 1
        use.bytes += bytes
        // UNMODIFIED: the origin was asked, and what lay there was good.
        guard tags.contains("HIT") || tags.contains("UNMODIFIED") else { return }
        use.hits += 1
        use.hitBytes += bytes
    }
}
