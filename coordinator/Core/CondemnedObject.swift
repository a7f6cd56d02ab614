import ChunkStore
package import FarmModel

/// An object of the regions that nothing needs. It stays for the grace time, so that whoever reads it comes to an end; and nothing begins
/// that would need it.
package struct CondemnedObject: Codable, Sendable, Hashable {
    package var key: String
    package var at: Timestamp
    /// It is being removed: until no region has it any more nobody may write it.
    package var isGoing: Bool

    package init(key: String, at: Timestamp, isGoing: Bool = false) {
        (self.key, self.at, self.isGoing) = (key, at, isGoing)
    }

    /// Of a pack: its name.
    package var pack: Digest? { name(Pack.key) }

    /// Of an index: its name.
    var index: Digest? { name(PackIndex.key) }

    private func name(_ key: (Digest) -> String) -> Digest? {
        self.key.split(separator: "/").last.flatMap { Digest($0) }.flatMap { key($0) == self.key ? $0 : nil }
    }
}
