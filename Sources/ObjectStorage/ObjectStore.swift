package import FarmModel
import SystemIO

/// What a store says of an object without sending it.
package struct ObjectInfo: Sendable, Hashable, Codable {
    package var key: String
    package var size: Int64
    /// The store's own tag of the content, where it has one: another tag, another object. `ContentTag` says what more it may tell.
    package var tag: String?
    /// When it was written, where the store says.
    package var modified: Timestamp?

    package init(key: String, size: Int64, tag: String? = nil, modified: Timestamp? = nil) {
        self.key = key
        self.size = size
        self.tag = tag
        self.modified = modified
    }
}

/// One page of a listing; ask again after `next` until it is `nil`.
package struct ObjectPage: Sendable {
    package var objects: [ObjectInfo]
    package var next: String?

    package init(objects: [ObjectInfo], next: String?) {
        self.objects = objects
        self.next = next
    }
}

/// A URL that lets its holder write one object until it expires.
package struct UploadGrant: Sendable, Hashable, Codable {
    package var url: String
    package var headers: [String: String]

    package init(url: String, headers: [String: String] = [:]) {
        self.url = url
        self.headers = headers
    }
}

/// Where an object's bytes come from when it is written.
package enum ObjectSource: Sendable {
    case bytes([UInt8])
    case file(path: String, size: Int64)
    /// What `read` puts into its buffer, until it has given `size` bytes; 0 before that is an end that comes too early. It is asked on a
    /// thread that may wait, and once only: a store cannot try again by itself.
    case feed(size: Int64, read: @Sendable (UnsafeMutableRawBufferPointer) throws -> Int)

    package var size: Int64 {
        switch self {
        case .bytes(let bytes): Int64(bytes.count)
        case .file(_, let size), .feed(let size, _): size
        }
    }
}

/// What is said of an object when it is written.
package struct ObjectFacts: Sendable, Hashable {
    /// MD5 of the bytes, if it is known before they are sent: the store refuses others (RFC 1864).
    package var md5: [UInt8]?
    /// When the content was last changed, for stores that keep it.
    package var modified: Timestamp?

    package init(md5: [UInt8]? = nil, modified: Timestamp? = nil) {
        self.md5 = md5
        self.modified = modified
    }
}

/// A bucket: named objects, each written whole.
///
/// Contract, proven by one conformance suite for every implementation: a `put` is all or nothing and replaces; `get` of
/// an absent key throws `storage.absent`; `delete` of an absent key succeeds; a listing names every object that was
/// there throughout, in any order; errors that may pass are of the category `unavailable`. Implementations retry
/// transient faults themselves. No operation relies on conditional writes.
package protocol ObjectStore: Sendable {
    /// The bucket's URL, without secrets.
    var name: String { get }

    /// What the store knows of an object, or `nil` when there is none.
    func head(_ key: String) async throws -> ObjectInfo?

    /// The bytes of an object or of a range of it. A range past the end throws `storage.short`; an answer of more than `limit` bytes throws
    /// before more than that is in memory.
    func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8]

    /// Writes an object.
    func put(_ key: String, _ source: ObjectSource) async throws

    /// Removes an object.
    func delete(_ key: String) async throws

    /// One page of the objects whose keys begin with `prefix`.
    func list(prefix: String, after: String?) async throws -> ObjectPage

    /// A grant to write `key`, or `nil` when the store has no such thing (a directory).
    func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant?

    /// Removes what killed writers left, where a store keeps such things in sight.
    func sweep() async throws

    /// Tells all objects whose keys begin with `prefix`, as many at once as the store gives, in any order.
    func each(prefix: String, _ body: ([ObjectInfo]) async throws -> Void) async throws

    /// Sends an object's bytes, or a range of them, to `sink` as they come, in order and each once, whatever breaks on the way. With a `tag`
    /// only bytes of that object: throws `storage.changed` when there is another by now.
    func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws

    /// Writes an object as `put` does; returns its tag where the store tells it. A feed should come with its MD5: there are services that keep
    /// the beginning of what was broken off otherwise.
    func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String?

    /// Whether a tag that looks like an MD5 is one of that object's content.
    func tagIsMD5(of object: ObjectInfo) async throws -> Bool

    /// The MD5 of an object's content, where it can be had without sending the object; `nil` otherwise.
    func md5(of object: ObjectInfo) async throws -> [UInt8]?

    /// When an object's content was last changed, as who wrote it said; `nil` where nobody did.
    func modified(of object: ObjectInfo) async throws -> Timestamp?

    /// Has the store copy an object of another bucket of the same service by itself; returns the copy's tag. `nil` where that is not possible.
    func copy(_ object: ObjectInfo, of other: any ObjectStore, to key: String, _ facts: ObjectFacts) async throws -> ObjectInfo?

    /// Removes objects; returns the errors of those that stay.
    func delete(_ keys: [String]) async throws -> [(key: String, error: FarmError)]
}

/// Receives bytes on a thread that may wait; what it throws ends the transfer.
package typealias ByteSink = @Sendable (UnsafeRawBufferPointer) throws -> Void

extension ObjectStore {
    package func sweep() async throws {}

    package func each(prefix: String, _ body: ([ObjectInfo]) async throws -> Void) async throws {
        var after: String?
        repeat {
            let page = try await list(prefix: prefix, after: after)
            try await body(page.objects)
            after = page.next
        } while after != nil
    }

    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        let bytes = try await get(key, range: range)
        try await Blocking.run { try bytes.withUnsafeBytes { try sink($0) } }
    }

    package func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try await put(key, source)
        return nil
    }

    package func tagIsMD5(of object: ObjectInfo) async throws -> Bool { false }
    package func md5(of object: ObjectInfo) async throws -> [UInt8]? { nil }
    package func modified(of object: ObjectInfo) async throws -> Timestamp? { object.modified }
    package func copy(_ object: ObjectInfo, of other: any ObjectStore, to key: String, _ facts: ObjectFacts) async throws -> ObjectInfo? {
        nil
    }

    package func delete(_ keys: [String]) async throws -> [(key: String, error: FarmError)] {
        var errors: [(key: String, error: FarmError)] = []
        for key in keys {
            do { try await delete(key) } catch let error as FarmError { errors.append((key, error)) }
        }
        return errors
    }
}

extension ObjectStore {
    /// The bytes of a whole object.
    package func get(_ key: String) async throws -> [UInt8] { try await get(key, range: nil) }

    /// The bytes of an object or of a range of it, up to 1 GiB, which no object of ours reaches that is read at once.
    package func get(_ key: String, range: Range<Int64>?) async throws -> [UInt8] {
        try await get(key, range: range, limit: 1 << 30)
    }

    /// Writes bytes.
    package func put(_ key: String, _ bytes: [UInt8]) async throws { try await put(key, .bytes(bytes)) }

    /// All objects below a prefix, sorted by the bytes of their keys, whatever order the store lists in.
    package func all(prefix: String = "") async throws -> [ObjectInfo] {
        var objects: [ObjectInfo] = []
        try await each(prefix: prefix) { objects += $0 }
        return objects.sorted { Array($0.key.utf8).lexicographicallyPrecedes(Array($1.key.utf8)) }
    }
}

/// Errors that all implementations share.
package enum StorageFailure {
    /// No object has that key.
    package static func absent(_ key: String, in store: String) -> FarmError {
        FarmError("storage.absent", .notFound, "\(store) has no object \(key)")
    }

    /// The object is another by now.
    package static func changed(_ key: String, in store: String) -> FarmError {
        FarmError("storage.changed", .conflict, "object \(key) in \(store) was changed while it was read", hint: "run it again")
    }

    /// The object, or what was asked of it, is longer than it may be.
    package static func long(_ key: String, in store: String, _ limit: Int64) -> FarmError {
        FarmError("storage.long", .corrupt, "object \(key) in \(store) has more than the \(limit) bytes that it may have")
    }

    /// The object ends before the range does.
    package static func short(_ key: String, in store: String) -> FarmError {
        FarmError("storage.short", .corrupt, "object \(key) in \(store) is shorter than it should be")
    }
}

/// What an object may be called: no empty, `.` or `..` component, so that a key is also a safe relative path.
package enum ObjectKey {
    /// Throws `storage.key` for anything else.
    package static func check(_ key: String) throws {
        let parts = key.split(separator: "/", omittingEmptySubsequences: false)
        let sound = parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." && !$0.utf8.contains(0) }
        guard sound, key.utf8.count <= 1024 else {
            throw FarmError("storage.key", .invalid, "\"\(key)\" is no object name")
        }
    }
}
