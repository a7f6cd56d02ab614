import Synchronization

/// All that a command prints; a `CommandResult` keeps only the end.
package final class OutputCollector: Sendable {
    private let kept = Mutex<[UInt8]>([])

    package init() {}

    package var bytes: [UInt8] { kept.withLock { $0 } }

    package func add(_ more: [UInt8]) { kept.withLock { $0 += more } }
}
