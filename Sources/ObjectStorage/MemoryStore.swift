import FarmModel
import Glibc
import Synchronization
import SystemIO

/// A bucket in memory (`memory:`), for tests and as the plainest reading of the contract.
package final class MemoryStore: ObjectStore {
    package let name: String
    private let objects = Mutex<[String: [UInt8]]>([:])

    package init(name: String = "memory:") { self.name = name }

    package func head(_ key: String) async throws -> ObjectInfo? {
        try ObjectKey.check(key)
        return objects.withLock { $0[key] }.map { ObjectInfo(key: key, size: Int64($0.count)) }
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        try ObjectKey.check(key)
        guard let bytes = objects.withLock({ $0[key] }) else { throw StorageFailure.absent(key, in: name) }
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
            }
        objects.withLock { $0[key] = bytes }
    }

    package func delete(_ key: String) async throws {
        try ObjectKey.check(key)
        objects.withLock { $0[key] = nil }
    }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        let keys = objects.withLock { objects in
            objects.filter { $0.key.hasPrefix(prefix) }.map { ObjectInfo(key: $0.key, size: Int64($0.value.count)) }
        }
        return ObjectPage(objects: keys, next: nil)
    }

    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { nil }
}
