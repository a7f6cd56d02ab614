import CDispatch
import Dispatch
import Glibc
import Synchronization

/// Threads for work that blocks: each piece begins at once, on a thread that is free or on a new one, up to a limit.
///
/// The system's queues bring threads one by one, a second apart, when those that there are wait for a network: of eight transfers two would run.
package final class ThreadPool: Sendable {
    private struct State {
        var work: [(@Sendable () -> Void)?] = []
        /// Where the work begins that nobody has taken.
        var first = 0
        /// Threads that wait and have not been called.
        var idle = 0
        var count = 0

        mutating func take() -> (@Sendable () -> Void)? {
            guard !work.isEmpty else { return nil }
            defer {
                // Not kept longer than it runs: it may hold buffers.
                work[first] = nil
                first += 1
                if first * 2 >= work.count {
                    work.removeFirst(first)
                    first = 0
                }
            }
            return work[first]
        }
    }

    private let state = Mutex(State())
    private let calls = DispatchSemaphore(value: 0)
    private let limit: Int
    private let patience: Double

    /// - Parameters:
    ///   - limit: the most threads at once; work beyond it waits in order.
    ///   - patience: seconds after which a thread that has nothing to do ends.
    package init(limit: Int, patience: Double = 10) { (self.limit, self.patience) = (limit, patience) }

    /// How many threads there are.
    package var count: Int { state.withLock { $0.count } }

    /// Runs `body` soon, on another thread.
    package func submit(_ body: @escaping @Sendable () -> Void) {
        let needsThread = state.withLock { state in
            state.work.append(body)
            if state.idle > 0 {
                state.idle -= 1
                calls.signal()
                return false
            }
            guard state.count < limit else { return false }
            state.count += 1
            return true
        }
        if needsThread { begin() }
    }

    private func begin() {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        var thread = pthread_t()
        let pool = Unmanaged.passRetained(self)
        let status = pthread_create(
            &thread, &attributes,
            { pool in
                if let pool { Unmanaged<ThreadPool>.fromOpaque(pool).takeRetainedValue().serve() }
                return nil
            }, pool.toOpaque())
        // Where the system gives no more threads of our own, the work goes on in its queues.
        if status != 0 {
            pool.release()
            DispatchQueue.global().async { self.serve() }
        }
    }

    private func serve() {
        while true {
            while let body = state.withLock({ $0.take() }) { body() }
            guard goOn() else { return }
        }
    }

    /// Waits for a call; false when this thread is to end.
    private func goOn() -> Bool {
        let mayWait = state.withLock { state in
            // Work that came since: whoever brought it saw no idle thread.
            guard state.work.isEmpty else { return false }
            state.idle += 1
            return true
        }
        while mayWait, calls.wait(timeout: .now() + patience) == .timedOut {
            let ends = state.withLock { state in
                // Nobody is idle: a call is on its way to this thread.
                guard state.idle > 0 else { return false }
                state.idle -= 1
                state.count -= 1
                return true
            }
            if ends { return false }
        }
        return true
    }
}
