import FarmModel
import Glibc
import Synchronization
import SystemIO

/// A bucket in memory (`memory:`), for tests and as the plainest reading of the contract.
package final class MemoryStore: ObjectStore {
    package let name: String
    private let objects = Mutex<[String: Entry]>([:])
    private let writes = Atomic<Int>(0)

    private struct Entry {
        var bytes: [UInt8]
        /// The number of the write that made it, which serves as its tag.
        var version: Int

        func info(_ key: String) -> ObjectInfo { ObjectInfo(key: key, size: Int64(bytes.count), tag: "v\(version)") }
    }

    package init(name: String = "memory:") { self.name = name }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try ObjectKey.check(key)
        return objects.withLock { $0[key] }.map { $0.info(key) }
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try ObjectKey.check(key)
        guard let bytes = objects.withLock({ $0[key]?.bytes }) else { throw StorageFailure.absent(key, in: name) }
        guard range.map({ $0.upperBound - $0.lowerBound }) ?? Int64(bytes.count) <= limit else {
            throw StorageFailure.long(key, in: name, limit)
        }
        guard let range else { return bytes }
        guard range.upperBound <= bytes.count else { throw StorageFailure.short(key, in: name) }
        return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    package func put(_ key: String, _ source: ObjectSource) async throws {
        try ObjectKey.check(key)
        let bytes =
            switch source {
            case .bytes(let bytes): bytes
            case .file(let path, let size): try OpenFile(path, flags: O_RDONLY).read(at: 0, count: Int(size))
            case .feed(let size, let read): try await Blocking.run { try MemoryStore.drain(size, key, read) }
            }
        let version = writes.add(1, ordering: .relaxed).newValue
        objects.withLock { $0[key] = Entry(bytes: bytes, version: version) }
    }

    package func write(_ key: String, _ source: ObjectSource, _ facts: ObjectFacts) async throws -> String? {
        try await put(key, source)
        return try await head(key)?.tag
    }

    package func read(_ key: String, range: Range<Int64>?, tag: String?, sink: @escaping ByteSink) async throws {
        if let tag, try await head(key)?.tag != tag { throw StorageFailure.changed(key, in: name) }
        let bytes = try await get(key, range: range)
        try await Blocking.run { try bytes.withUnsafeBytes { try sink($0) } }
    }

    package func md5(of object: ObjectInfo) async throws -> [UInt8]? { objects.withLock { $0[object.key] }.map { MD5.of($0.bytes) } }

    private static func drain(_ size: Int64, _ key: String, _ read: (UnsafeMutableRawBufferPointer) throws -> Int) throws -> [UInt8] {
        try [UInt8](unsafeUninitializedCapacity: Int(size)) { buffer, filled in
            while filled < Int(size) {
                let got = try read(UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[filled...]))
                guard got > 0 else { throw FarmError("storage.feed", .corrupt, "what was to be written to \(key) ended too early") }
                filled += got
            }
        }
    }

    package func delete(_ key: String) async throws {
        try ObjectKey.check(key)
        objects.withLock { $0[key] = nil }
    }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        let keys = objects.withLock { objects in
            objects.filter { $0.key.hasPrefix(prefix) }.map { $0.value.info($0.key) }
        }
        return ObjectPage(objects: keys, next: nil)
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
