package import FarmModel

/// In what order objects are written, so that nobody who reads the destination meanwhile sees a name before what it names.
package enum SyncOrder: Sendable, Hashable {
    /// By key.
    case plain
    /// A farm's or a store's bucket: packs, indexes, manifests and covers, records, releases, then roots and the channels that point at them.
    case farm

    private static let ranks = [
        "packs/", "indexes/", "manifests/", "covers/", "records/", "releases/", "", "roots/", "channels/", "files/",
    ]
    private static let contents = ["packs/", "indexes/", "manifests/", "releases/", "records/", "inputs/"]

    /// The first farm's file, by which its bucket is known.
    package static let identity = "sciferry.json"

    func rank(_ key: String) -> UInt8 {
        guard self == .farm else { return 0 }
        return UInt8(SyncOrder.ranks.firstIndex { !$0.isEmpty && key.hasPrefix($0) } ?? 6)
    }

    /// What is written last and read first.
    static func isPointer(_ key: String) -> Bool { key.hasPrefix("roots/") || key.hasPrefix("channels/") || key.hasPrefix("files/") }
    static let pointers = ["roots/", "channels/", "files/"]

    /// Uploads that nobody has verified yet stay where they are, and so do layers for builds and what a store's collections decided.
    func isTransient(_ key: String) -> Bool {
        self == .farm && ["incoming/", "condemned/", "layers/"].contains(where: key.hasPrefix)
    }

    /// The digest that a key promises, for objects of farms and stores that are named by their content.
    package static func contentName(of key: String) -> Digest? {
        guard contents.contains(where: { key.hasPrefix($0) }), let last = key.split(separator: "/").last else { return nil }
        return Digest(last)
    }
}
