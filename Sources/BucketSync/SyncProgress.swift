import Foundation
import Synchronization

/// What a run is doing just now, for those who watch it.
package final class SyncProgress: Sendable {
    package struct Transfer: Sendable, Hashable {
        package var key: String
        package var size: Int64
        package var done: Int64
        /// Bytes a second since it began.
        package var rate: Double
        /// Seconds that are left; `nil` as long as nobody can tell.
        package var left: Double?
    }

    package struct Snapshot: Sendable, Hashable {
        /// What is being done: `listing`, `comparing`, `copying`, `deleting`.
        package var phase: String
        package var listed: Int
        package var objects: Int
        package var bytes: Int64
        package var doneObjects: Int
        package var doneBytes: Int64
        /// Of the last 10 s.
        package var rate: Double
        package var left: Double?
        package var transfers: [Transfer]
    }

    private struct Running {
        var size: Int64
        var done: Int64 = 0
        var started: UInt64
    }

    private struct State {
        var phase = "listing"
        var listed = 0
        var objects = 0
        var bytes: Int64 = 0
        var doneObjects = 0
        var moved: Int64 = 0
        var done: Int64 = 0
        var running: [String: Running] = [:]
        var samples: [(time: UInt64, moved: Int64)] = []
    }

    private let state = Mutex(State())

    package init() {}

    /// Bytes that went over the line so far, those of failed tries among them.
    var moved: Int64 { state.withLock { $0.moved } }

    func enter(_ phase: String) { state.withLock { $0.phase = phase } }
    func listed(_ count: Int) { state.withLock { $0.listed += count } }
    func plan(_ objects: Int, _ bytes: Int64) { state.withLock { ($0.objects, $0.bytes) = (objects, bytes) } }
    func begin(_ key: String, _ size: Int64) { state.withLock { $0.running[key] = Running(size: size, started: SyncProgress.now) } }

    func move(_ key: String, _ count: Int) {
        state.withLock { state in
            state.moved += Int64(count)
            state.done += Int64(count)
            state.running[key]?.done += Int64(count)
        }
    }

    /// So many bytes of an object were there from an earlier run.
    func resume(_ key: String, _ count: Int64) {
        state.withLock { state in
            state.done += count
            state.running[key]?.done += count
        }
    }

    /// A try has failed: what it moved has to be moved again.
    func restart(_ key: String) { state.withLock { $0.running[key]?.done = 0 } }

    func end(_ key: String) {
        state.withLock { state in
            state.running[key] = nil
            state.doneObjects += 1
        }
    }

    package func snapshot() -> Snapshot {
        state.withLock { state in
            let now = SyncProgress.now
            state.samples.append((now, state.moved))
            state.samples.removeAll { now - $0.time > 10_000_000_000 }
            let span = state.samples.first.map { Double(now - $0.time) / 1e9 } ?? 0
            let rate = span > 0.2 ? Double(state.moved - (state.samples.first?.moved ?? 0)) / span : 0
            let transfers = state.running.sorted { $0.value.started < $1.value.started }.map { key, one in
                let seconds = max(0.001, Double(now - one.started) / 1e9)
                let speed = Double(one.done) / seconds
                return Transfer(
                    key: key, size: one.size, done: one.done, rate: speed,
                    left: speed > 0 ? Double(max(0, one.size - one.done)) / speed : nil)
            }
            return Snapshot(
                phase: state.phase, listed: state.listed, objects: state.objects, bytes: state.bytes, doneObjects: state.doneObjects,
                doneBytes: state.done, rate: rate, left: rate > 0 ? Double(max(0, state.bytes - state.done)) / rate : nil,
                transfers: transfers)
        }
    }

    private static var now: UInt64 { DispatchTime.now().uptimeNanoseconds }
}
