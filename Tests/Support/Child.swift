import FarmModel
import Foundation
package import Glibc

/// A process of ours that a test may kill.
package final class Child: Sendable {
    package let pid: pid_t

    package init(_ program: String, _ arguments: [String], log: String, environment: [String: String] = [:]) throws {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        variables["SWIFT_BACKTRACE"] = "enable=no"
        let words = ([program] + arguments).map { strdup($0) } + [nil]
        let settings = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer {
            for word in words { free(word) }
            for setting in settings { free(setting) }
        }
        var process = pid_t()
        guard posix_spawn(&process, program, &actions, nil, words, settings) == 0 else {
            throw FarmError("test.spawn", .fault, "cannot start \(program)")
        }
        pid = process
    }

    deinit { kill() }

    package func kill(_ signal: Int32 = SIGKILL) {
        Glibc.kill(pid, signal)
        if signal == SIGKILL { _ = wait() }
    }

    /// Waits for the end; the raw status, or `nil` when somebody else took it.
    package func wait() -> Int32? {
        var status: Int32 = 0
        return waitpid(pid, &status, 0) == pid ? status : nil
    }
}
