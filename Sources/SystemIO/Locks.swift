import FarmModel
import Foundation
import Glibc
import Synchronization

/// A one-way switch that any thread may raise.
package final class Switch: Sendable {
    private let state = Atomic<Bool>(false)

    package init() {}

    /// Raises it; true for the one call that changed it.
    package func raise() -> Bool { !state.exchange(true, ordering: .acquiringAndReleasing) }

    package var isRaised: Bool { state.load(ordering: .acquiring) }
}

/// An exclusive advisory lock (`flock(2)`) on a file, held until it is dropped or the process ends.
package final class FileLock: Sendable {
    private let file: OpenFile
    /// Raised when it was let go.
    private let isReleased = Switch()

    /// Takes the lock at once or throws `home.locked`, naming the holder that wrote its line into the file.
    package init(_ path: String, holder: String, hint: String) throws {
        file = try OpenFile(path, flags: O_RDWR | O_CREAT, mode: 0o600)
        guard flock(file.descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let other = (try? Disk.read(path, limit: 4096)).map { String(decoding: $0, as: UTF8.self) } ?? "another process"
            throw FarmError(
                "home.locked", .conflict, "\(Disk.parent(of: path)) is in use by \(other)", hint: hint)
        }
        try file.truncate(to: 0)
        try file.write(Array(holder.utf8), at: 0)
    }

    deinit { release() }

    /// Lets go of it, whoever still knows it. A process that is just being started may have the descriptor for a moment: closing would not do.
    package func release() { if isReleased.raise() { flock(file.descriptor, LOCK_UN) } }
}

/// Random names and secrets from the system's generator.
package enum Nonce {
    /// `bytes` random bytes.
    package static func bytes(_ count: Int) -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }

    /// `bytes` random bytes as hexadecimal digits.
    package static func hex(bytes count: Int) -> String { bytes(count).hex }
}

/// A serial executor with a queue of its own, for actors whose work blocks.
package final class SerialQueueExecutor: SerialExecutor {
    private let queue: DispatchQueue

    package init(label: String) { queue = DispatchQueue(label: label) }

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let executor = asUnownedSerialExecutor()
        queue.async { job.runSynchronously(on: executor) }
    }

    package func asUnownedSerialExecutor() -> UnownedSerialExecutor {
        UnownedSerialExecutor(ordinary: self)
    }
}
