import FarmModel
import Glibc
import Subprocess
import Synchronization
import SystemIO
import SystemPackage

/// A command to run, with everything that it inherits spelled out.
package struct Command: Sendable {
    package var executable: String
    package var arguments: [String]
    /// Added to the caller's environment; a `nil` value removes the variable.
    package var environment: [String: String?]
    package var directory: String?
    /// Standard input; the right way in for a secret, which arguments would show to everybody.
    package var input: [UInt8]
    /// The whole tree is killed after so long.
    package var deadlineSeconds: Double?
    /// The whole tree is killed after so long without output.
    package var silenceSeconds: Double?

    /// - Parameter executable: a name looked up in PATH, or a path when it holds a slash.
    package init(
        _ executable: String, _ arguments: [String], environment: [String: String?] = [:], directory: String? = nil,
        input: [UInt8] = [], deadlineSeconds: Double? = nil, silenceSeconds: Double? = nil
    ) {
        self.silenceSeconds = silenceSeconds
        self.executable = executable
        self.arguments = arguments
        self.environment = environment
        self.directory = directory
        self.input = input
        self.deadlineSeconds = deadlineSeconds
    }
}

/// How a command ended.
package struct CommandResult: Sendable, CustomStringConvertible {
    /// The exit status, or 128 + the signal that ended it.
    package var status: Int32
    /// The end of its combined output, at most 256 KiB.
    package var output: [UInt8]
    package var timedOut: Bool
    /// It was killed because it had said nothing for too long.
    package var fellSilent = false

    package var text: String { String(decoding: output, as: UTF8.self) }
    package var succeeded: Bool { status == 0 && !timedOut && !fellSilent }
    package var description: String { "status \(status)\(timedOut ? ", out of time" : fellSilent ? ", silent" : ""): \(text)" }
}

/// When a command said something last.
private final class LastWord: Sendable {
    private let time = Mutex(Timestamp.now)

    var at: Timestamp { time.withLock { $0 } }

    func spoken() { time.withLock { $0 = .now } }
}

/// Runs commands in sessions of their own, streams their combined output, and leaves no process of the tree behind:
/// after the end, a cancellation or the deadline the whole process group gets SIGTERM, then SIGKILL.
package enum ProcessRunner {
    private static let keptOutput = 256 * 1024

    /// Runs a command to its end.
    ///
    /// - Parameter onOutput: receives the output as it comes, in order.
    /// - Throws: `process.missing` when there is no such program; `CancellationError` after a cancellation.
    package static func run(
        _ command: Command, onOutput: (@Sendable ([UInt8]) async -> Void)? = nil
    ) async throws -> CommandResult {
        var options = PlatformOptions()
        options.createSession = true
        options.teardownSequence = [.send(signal: .terminate, toProcessGroup: true, allowedDurationToNextStep: .seconds(2))]
        let group = Atomic<Int32>(0)
        let (expired, silenced) = (Switch(), Switch())
        let lastWord = LastWord()
        defer {
            let leader = group.load(ordering: .acquiring)
            if leader > 1 { kill(-leader, SIGKILL) }
        }
        do {
            let result = try await Subprocess.run(
                executable(command.executable), arguments: Arguments(command.arguments),
                environment: environment(command.environment),
                workingDirectory: command.directory.map { FilePath($0) }, platformOptions: options, input: .array(command.input),
                output: .sequence, error: .combinedWithOutput
            ) { execution in
                let leader = execution.processIdentifier.value
                group.store(leader, ordering: .releasing)
                let timer = command.deadlineSeconds.map { seconds in
                    Task {
                        try await Task.sleep(for: .seconds(seconds))
                        if expired.raise() { kill(-leader, SIGKILL) }
                    }
                }
                let listener = command.silenceSeconds.map { seconds in
                    Task {
                        while true {
                            let left = seconds - Timestamp.now.seconds(since: lastWord.at)
                            if left <= 0 { break }
                            try await Task.sleep(for: .seconds(left))
                        }
                        if silenced.raise() { kill(-leader, SIGKILL) }
                    }
                }
                defer {
                    timer?.cancel()
                    listener?.cancel()
                }
                var kept: [UInt8] = []
                for try await buffer in execution.standardOutput {
                    let bytes = buffer.withUnsafeBytes { Array($0) }
                    lastWord.spoken()
                    await onOutput?(bytes)
                    kept += bytes
                    if kept.count > 2 * keptOutput { kept.removeFirst(kept.count - keptOutput) }
                }
                return kept
            }
            try Task.checkCancellation()
            return CommandResult(
                status: status(result.terminationStatus), output: Array(result.closureResult.suffix(keptOutput)),
                timedOut: expired.isRaised, fellSilent: silenced.isRaised)
        } catch let error as SubprocessError {
            try Task.checkCancellation()
            throw FarmError(
                "process.missing", .unavailable, "cannot run \(command.executable)",
                hint: "install it or put it on PATH", cause: error)
        }
    }

    /// Runs a command that must succeed and returns its output; throws `process.failed` with the output's end.
    @discardableResult
    package static func require(
        _ command: Command, onOutput: (@Sendable ([UInt8]) async -> Void)? = nil
    ) async throws -> String {
        let result = try await run(command, onOutput: onOutput)
        guard result.succeeded else {
            // No further arguments: one of them may be a secret.
            let words = ([command.executable] + command.arguments.prefix(1)).joined(separator: " ")
            let tail = result.text.split(separator: "\n").suffix(8).joined(separator: "\n")
            let reason =
                result.timedOut
                ? "took too long" : result.fellSilent ? "said nothing for too long" : "ended with status \(result.status)"
            throw FarmError("process.failed", .unavailable, "\(words) … \(reason): \(tail)")
        }
        return result.text
    }

    /// Where a program stands in PATH, or `nil`.
    package static func find(_ name: String) -> String? {
        guard let path = getenv("PATH") else { return nil }
        return String(cString: path).split(separator: ":").map { "\($0)/\(name)" }.first { Disk.isExecutable($0) }
    }

    /// Kills every process whose environment holds `variable=value`, whoever its parent is now. Returns how many.
    ///
    /// A worker marks what it starts, so that after its own death by SIGKILL it finds what is left.
    package static func killMarked(_ variable: String, _ value: String) -> Int {
        let found = marked(variable, value)
        for process in found { kill(process, SIGKILL) }
        return found.count
    }

    /// Processes whose environment holds `variable=value`, this one excepted.
    package static func marked(_ variable: String, _ value: String) -> [Int32] {
        let mark = Array("\(variable)=\(value)".utf8)
        return ((try? Disk.list("/proc")) ?? []).compactMap { name in
            guard let identifier = Int32(name), identifier != getpid(), identifier > 1,
                let environment = Disk.kernelFile("/proc/\(name)/environ"),
                environment.split(separator: 0).contains(where: { $0.elementsEqual(mark) })
            else { return nil }
            return identifier
        }
    }

    /// Bytes of memory that belong to some processes and to no file, as their kernel counts them.
    package static func memory(of processes: [Int32]) -> Int64 {
        processes.reduce(0) { sum, process in
            let lines = (Disk.kernelText("/proc/\(process)/status") ?? "").split(separator: "\n")
            let kibibytes = lines.filter { $0.hasPrefix("RssAnon:") || $0.hasPrefix("RssShmem:") }.compactMap { line in
                line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int64($0) }
            }
            return sum + kibibytes.reduce(0, +) << 10
        }
    }

    private static func executable(_ name: String) -> Executable {
        name.contains("/") ? .path(FilePath(name)) : .name(name)
    }

    private static func environment(_ changes: [String: String?]) -> Environment {
        .inherit.updating(
            Dictionary(uniqueKeysWithValues: changes.map { (Environment.Key(stringLiteral: $0.key), $0.value) }))
    }

    private static func status(_ status: TerminationStatus) -> Int32 {
        switch status {
        case .exited(let code): code
        case .signaled(let code): 128 + code
        }
    }
}
