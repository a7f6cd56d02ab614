/// What builds have fetched through a worker's proxy since it began, and what of it lay there already.
package struct InputCacheUse: Codable, Sendable, Hashable {
    package var requests: Int64
    package var hits: Int64
    package var bytes: Int64
    package var hitBytes: Int64
    /// Connections that were passed on unread, as those of https are.
    package var tunnels: Int64

    package init(requests: Int64 = 0, hits: Int64 = 0, bytes: Int64 = 0, hitBytes: Int64 = 0, tunnels: Int64 = 0) {
        self.requests = requests
        self.hits = hits
        self.bytes = bytes
        self.hitBytes = hitBytes
        self.tunnels = tunnels
    }

    /// What has come to it since.
    package func since(_ before: InputCacheUse) -> InputCacheUse {
        InputCacheUse(
            requests: requests - before.requests, hits: hits - before.hits, bytes: bytes - before.bytes,
            hitBytes: hitBytes - before.hitBytes, tunnels: tunnels - before.tunnels)
    }

    /// For people, for example `34 of 40 downloads and 90 % of 120 MiB from the cache`.
    package var sentence: String {
        let share = bytes > 0 ? hitBytes * 100 / bytes : 0
        let unread = tunnels > 0 ? "; \(tunnels) connections passed through unread" : ""
        return "\(hits) of \(requests) downloads and \(share) % of \(bytes >> 20) MiB from the cache\(unread)"
    }
}
