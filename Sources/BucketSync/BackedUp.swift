import Synchronization

/// What a run has brought to the backup and not replaced yet: a second try must not put what it wrote itself over what was there before.
final class BackedUp: Sendable {
    private let keys = Mutex<Set<String>>([])

    func contains(_ key: String) -> Bool { keys.withLock { $0.contains(key) } }
    func add(_ key: String) { keys.withLock { _ = $0.insert(key) } }
    /// It is replaced: nobody will try again.
    func remove(_ key: String) { keys.withLock { _ = $0.remove(key) } }
}
