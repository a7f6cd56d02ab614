import Dispatch
import FarmModel
import Synchronization

/// Runs blocking work (system calls, compression, SQLite, libcurl) away from the cooperative pool.
package enum Blocking {
    private static let threads = ThreadPool(limit: 256)
    private static let doubtful = ThreadPool(limit: 1024)
    private static let clock = DispatchQueue(label: "sciferry.deadlines")

    /// Runs `body` on a thread of its own and returns what it returns.
    package static func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            threads.submit { continuation.resume(with: Result { try body() }) }
        }
    }

    /// The same for what only waits.
    package static func pause(_ body: @escaping @Sendable () -> Void) async {
        await withCheckedContinuation { continuation in
            threads.submit {
                body()
                continuation.resume()
            }
        }
    }

    /// The same for work that looks now and then at its argument, which is raised when the caller is cancelled.
    package static func interruptible<Value: Sendable>(_ body: @escaping @Sendable (Switch) throws -> Value) async throws -> Value {
        let isOver = Switch()
        return try await withTaskCancellationHandler {
            try await run { try body(isOver) }
        } onCancel: {
            _ = isOver.raise()
        }
    }

    /// The same for work that might never end: after so many seconds it is left to itself, and `blocking.deadline` is thrown.
    package static func run<Value: Sendable>(
        seconds: Double, _ body: @escaping @Sendable () throws -> Value
    ) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            let waiting = WaitingContinuation(continuation)
            // Not among all others: what never ends keeps its thread.
            doubtful.submit { waiting.resume(Result { try body() }) }
            clock.asyncAfter(deadline: .now() + seconds) {
                waiting.resume(.failure(FarmError("blocking.deadline", .unavailable, "it took longer than \(Int(seconds)) s")))
            }
        }
    }
}

/// A continuation that the first of two resumes.
private final class WaitingContinuation<Value: Sendable>: Sendable {
    private let continuation: Mutex<CheckedContinuation<Value, any Error>?>

    init(_ continuation: CheckedContinuation<Value, any Error>) { self.continuation = Mutex(continuation) }

    func resume(_ result: Result<Value, any Error>) {
        let waiting = continuation.withLock { continuation in
            defer { continuation = nil }
            return continuation
        }
        waiting?.resume(with: result)
    }
}
