import Synchronization

/// What a run has brought to the backup and not replaced yet: a second try must not put what it wrote itself over what was there before.
final class BackedUp: Sendable {
    /// Bytes: texts that look alike may be other objects.
    private let keys = Mutex<Set<[UInt8]>>([])

    func contains(_ key: String) -> Bool { keys.withLock { $0.contains(Array(key.utf8)) } }
    func add(_ key: String) { keys.withLock { _ = $0.insert(Array(key.utf8)) } }
    /// It is replaced: nobody will try again.
    func remove(_ key: String) { keys.withLock { _ = $0.remove(Array(key.utf8)) } }
}
