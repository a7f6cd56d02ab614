import Glibc
import Synchronization
import SystemIO
import Testing

private final class Counts: Sendable {
    let running = Atomic<Int>(0)
    let most = Atomic<Int>(0)
    let done = Atomic<Int>(0)
}

@Suite struct ThreadPoolTests {
    /// Work that waits for the rest of it: with fewer threads than pieces it would never end.
    @Test(.timeLimit(.minutes(1))) func allThatIsSubmittedRunsAtOnce() async {
        let pool = ThreadPool(limit: 64)
        let counts = Counts()
        await withTaskGroup { group in
            for _ in 0..<64 {
                group.addTask { [counts, pool] in
                    await withCheckedContinuation { continuation in
                        pool.submit {
                            counts.done.add(1, ordering: .sequentiallyConsistent)
                            while counts.done.load(ordering: .sequentiallyConsistent) < 64 { sched_yield() }
                            continuation.resume()
                        }
                    }
                }
            }
        }
        #expect(counts.done.load(ordering: .sequentiallyConsistent) == 64 && pool.count <= 64)
    }

    @Test(.timeLimit(.minutes(1))) func whatIsBeyondTheLimitWaitsAndThreadsEnd() async throws {
        let pool = ThreadPool(limit: 3, patience: 0.05)
        let counts = Counts()
        for round in 0..<40 {
            await withTaskGroup { group in
                for piece in 0..<25 {
                    group.addTask { [counts, pool] in
                        await withCheckedContinuation { continuation in
                            pool.submit {
                                counts.most.max(counts.running.add(1, ordering: .relaxed).newValue, ordering: .relaxed)
                                if piece % 5 == 0 { usleep(500) }
                                counts.running.subtract(1, ordering: .relaxed)
                                counts.done.add(1, ordering: .relaxed)
                                continuation.resume()
                            }
                        }
                    }
                }
            }
            // Calls meet threads that are just about to end.
            if round % 4 == 0 { try await Task.sleep(for: .milliseconds(50)) }
        }
        #expect(counts.done.load(ordering: .relaxed) == 1000)
        #expect((1...3).contains(counts.most.load(ordering: .relaxed)))
        for _ in 0..<400 where pool.count > 0 { try await Task.sleep(for: .milliseconds(50)) }
        #expect(pool.count == 0)
    }
}
