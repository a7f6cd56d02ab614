import FarmModel
import Glibc
import Synchronization
import SystemIO

/// An attempt's log on the worker's disk; what comes after 64 MiB is lost, and the log says so.
package final class AttemptLog: Sendable {
    package let path: String
    private let file: OpenFile
    private let written = Mutex<Int>(0)
    private static let longest = 64 << 20

    init(_ path: String) throws {
        self.path = path
        file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC | O_APPEND)
    }

    /// Bytes as a program wrote them. A log that cannot be written must not fail a build.
    func write(_ bytes: [UInt8]) async {
        let before = written.withLock { count in
            defer { count += bytes.count }
            return count
        }
        if before + bytes.count <= AttemptLog.longest { return _ = try? file.write(bytes) }
        if before <= AttemptLog.longest { try? file.write(Array("\n[the log is cut here, at \(AttemptLog.longest >> 20) MiB]\n".utf8)) }
    }

    /// A line of our own.
    func say(_ text: String) async { await write(Array("\(text)\n".utf8)) }
}

/// How the steps of an attempt's build went, as far as it came.
final class StepRecord: Sendable {
    private let state = Mutex<[BuildStep]>([])

    var steps: [BuildStep] {
        get { state.withLock(\.self) }
        set { state.withLock { $0 = newValue } }
    }
}

/// How long each phase took.
final class PhaseClock: Sendable {
    private let state = Mutex<(current: Phase?, since: Timestamp, seconds: [String: Double])>((nil, .now, [:]))

    func enter(_ phase: Phase) {
        state.withLock { state in
            let now = Timestamp.now
            if let current = state.current { state.seconds[current.rawValue, default: 0] += now.seconds(since: state.since) }
            state.current = phase
            state.since = now
        }
    }

    var seconds: [String: Double] { state.withLock { $0.seconds } }
}
