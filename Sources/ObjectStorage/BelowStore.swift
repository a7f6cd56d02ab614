package import FarmModel

/// The objects of a store below a prefix, as a store of their own.
package struct BelowStore: ObjectStore {
    private let store: any ObjectStore
    private let prefix: String

    /// - Parameter prefix: with a slash at its end.
    package init(_ store: any ObjectStore, prefix: String) {
        self.store = store
        self.prefix = prefix
    }

    package var name: String { "\(store.name)/\(prefix.dropLast())" }

    private func outer(_ object: ObjectInfo) -> ObjectInfo {
        var object = object
        object.key = prefix + object.key
        return object
    }

    private func inner(_ object: ObjectInfo) -> ObjectInfo {
        var object = object
        object.key = String(object.key.dropFirst(prefix.count))
        return object
    }

    package func head(_ key: String) async throws -> ObjectInfo? { try await store.head(prefix + key).map(inner) }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try await store.get(prefix + key, range: range, limit: limit)
    }

    package func put(_ key: String, _ source: ObjectSource) async throws { try await store.put(prefix + key, source) }

    package func delete(_ key: String) async throws { try await store.delete(prefix + key) }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        var page = try await store.list(prefix: self.prefix + prefix, after: after)
        page.objects = page.objects.map(inner)
        return page
    }

    package func each(prefix: String, _ body: ([ObjectInfo]) async throws -> Void) async throws {
        try await store.each(prefix: self.prefix + prefix) { try await body($0.map(inner)) }
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? {
        try await store.grantUpload(prefix + key, size: size, seconds: seconds)
    }

    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        try await store.read(prefix + key, range: range, tag: tag, sink: sink)
    }

    package func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try await store.write(prefix + key, source, facts)
    }

    package func tagIsMD5(of object: ObjectInfo) async throws -> Bool { try await store.tagIsMD5(of: outer(object)) }
    package func md5(of object: ObjectInfo) async throws -> [UInt8]? { try await store.md5(of: outer(object)) }
    package func modified(of object: ObjectInfo) async throws -> Timestamp? { try await store.modified(of: outer(object)) }

    package func delete(_ keys: [String]) async throws -> [(key: String, error: FarmError)] {
        try await store.delete(keys.map { prefix + $0 }).map { (String($0.key.dropFirst(prefix.count)), $0.error) }
    }
}
