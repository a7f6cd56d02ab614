import FarmModel
import ObjectStorage

/// By what two objects of one key are told apart.
package enum Comparison: String, Sendable, Codable, CaseIterable {
    /// Size and checksum; where no checksum is at hand, what is remembered of the last run.
    case checksum
    /// Size and when the content was last changed, as who wrote it said.
    case time
    /// Size alone: blind for what keeps it.
    case size

    enum Verdict: Sendable, Hashable {
        case same
        case differs
        /// The listings do not say: the stores have to be asked.
        case unknown
    }

    /// What two listings say, with what is remembered.
    ///
    /// - Parameter isNamedByContent: the key is the object's digest.
    func verdict(_ source: ObjectInfo, _ destination: ObjectInfo, _ known: Known?, isNamedByContent: Bool) -> Verdict {
        if source.size != destination.size { return .differs }
        if self == .size || isNamedByContent { return .same }
        if case .same(let size, let one, let other) = known, size == source.size, one != nil, other != nil, one == source.tag,
            other == destination.tag
        {
            return .same
        }
        if self == .checksum, Comparison.tell(source, destination) { return .same }
        return .unknown
    }

    /// Whether the tags prove by themselves that the content is one. Unlike tags prove nothing: they may be of another kind.
    static func tell(_ source: ObjectInfo, _ destination: ObjectInfo) -> Bool {
        guard let one = source.tag, let other = destination.tag, one == other, source.size == destination.size else { return false }
        if case .opaque = ContentTag(one) { return false }
        return true
    }

    /// Asks the stores for what their listings did not say: whether the content is one, `nil` where nothing short of reading both can tell.
    static func ask(_ one: ObjectInfo, in source: any ObjectStore, _ other: ObjectInfo, in destination: any ObjectStore) async throws
        -> Bool?
    {
        async let left = md5(of: one, in: source)
        async let right = md5(of: other, in: destination)
        if let left = try await left, let right = try await right { return left == right }
        // One of them was uploaded in parts, and the other can be read where it lies.
        for (composite, plain, store) in [(one, other, destination), (other, one, source)] {
            guard case .parts(let digest, let count) = composite.tag.map(ContentTag.init), store is DirectoryStore || store is MemoryStore
            else { continue }
            return try await PartLayout.candidates(size: plain.size, count: count).contains(digest, of: plain, in: store)
        }
        return nil
    }

    private static func md5(of object: ObjectInfo, in store: any ObjectStore) async throws -> [UInt8]? {
        if let plain = object.tag.map(ContentTag.init)?.md5 { return plain }
        if case .parts = object.tag.map(ContentTag.init) { return try await store.md5(of: object) }
        return try await store.md5(of: object)
    }
}
