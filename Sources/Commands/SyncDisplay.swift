import ArgumentParser
import BucketSync
import CLinux
import Dispatch
import FarmModel
import Foundation
import Glibc
import Synchronization
import SystemIO

/// Shows a run: lines that move on a terminal, plain lines elsewhere, events as JSON, the combined report.
final class SyncDisplay: Sendable {
    private struct State {
        var lines = 0
        var firstError: FarmError?
        var pending: [UInt8] = []
        var end: Int64 = 0
    }

    private let options: ReportOptions
    private let progress: SyncProgress
    private let showsObjects: Bool
    private let showsDifferences: Bool
    private let isTerminal: Bool
    private let combined: OpenFile?
    private let state = Mutex(State())

    /// - Parameters:
    ///   - showsObjects: a line of the combined report for every object that differs.
    ///   - showsDifferences: a sentence for every object that differs.
    init(_ options: ReportOptions, _ progress: SyncProgress, showsObjects: Bool, showsDifferences: Bool = false) throws {
        self.options = options
        self.progress = progress
        self.showsObjects = showsObjects && options.combined == nil
        self.showsDifferences = showsDifferences && options.combined != "-"
        isTerminal = Console.isTerminal && !options.quiet && !options.json
        combined = try options.combined.flatMap { $0 == "-" ? nil : try OpenFile($0, flags: O_WRONLY | O_CREAT | O_TRUNC) }
    }

    /// The first error of an object.
    var firstError: FarmError? { state.withLock { $0.firstError } }

    func tell(_ event: SyncEvent) {
        if case .failed(_, let error) = event { state.withLock { $0.firstError = $0.firstError ?? error } }
        if case .found(let key, let sign) = event { found(key, sign) }
        if options.json { return json(event) }
        switch event {
        case .failed(let key, let error): line(key.isEmpty ? "\(error)" : "\(key.printable()): \(error)", isError: true)
        case .resumed(let key, let bytes): line("\(key.printable()): goes on, \(Console.bytes(bytes)) were there")
        case .copied(let key, let bytes, _, let onServer) where !options.quiet && !isTerminal:
            line("copied  \(key.printable())  \(Console.bytes(bytes))\(onServer ? ", by the service itself" : "")")
        case .deleted(let key, _) where !options.quiet && !isTerminal: line("deleted  \(key.printable())")
        case .listed, .planned, .found, .copied, .deleted, .backedUp: break
        }
    }

    private func found(_ key: String, _ sign: SyncSign) {
        let text = "\(sign.rawValue) \(key.printable())"
        if options.combined == "-", !options.json { return line(text) }
        if let combined {
            // Written in pieces: there may be a million.
            state.withLock { state in
                state.pending += Array((text + "\n").utf8)
                if state.pending.count > 64 << 10 { SyncDisplay.flush(combined, &state) }
            }
        }
        if options.json { return }
        if showsObjects, sign != .same, sign != .failed { line(text) }
        if showsDifferences, sign != .same, sign != .failed { line(text) }
    }

    private static func flush(_ file: OpenFile, _ state: inout State) {
        try? file.write(state.pending, at: state.end)
        state.end += Int64(state.pending.count)
        state.pending = []
    }

    private struct Event: Encodable {
        var event: String
        var key: String?
        var sign: String?
        var bytes: Int64?
        var seconds: Double?
        var onServer: Bool?
        var source: Int?
        var destination: Int?
        var objects: Int?
        var error: String?
        var message: String?
    }

    private func json(_ event: SyncEvent) {
        let document =
            switch event {
            case .listed(let source, let destination): Event(event: "listed", source: source, destination: destination)
            case .planned(let objects, let bytes): Event(event: "planned", bytes: bytes, objects: objects)
            case .found(let key, let sign): Event(event: "found", key: key, sign: sign.rawValue)
            case .copied(let key, let bytes, let seconds, let onServer):
                Event(event: "copied", key: key, bytes: bytes, seconds: seconds, onServer: onServer)
            case .deleted(let key, let bytes): Event(event: "deleted", key: key, bytes: bytes)
            case .backedUp(let key): Event(event: "backed-up", key: key)
            case .failed(let key, let error): Event(event: "failed", key: key, error: error.code.rawValue, message: error.message)
            case .resumed(let key, let bytes): Event(event: "resumed", key: key, bytes: bytes)
            }
        SyncDisplay.line(document)
    }

    private static func line(_ document: some Encodable) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        if let bytes = try? encoder.encode(document) { Console.print(String(decoding: bytes, as: UTF8.self)) }
    }

    private func line(_ text: String, isError: Bool = false) {
        state.withLock { state in
            SyncDisplay.clear(&state)
            if isError { Console.error(text) } else { Console.print(text) }
        }
    }

    /// Runs `body`, and on a terminal shows what goes on twice a second.
    func watching<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) async throws -> Value {
        guard isTerminal else { return try await body() }
        return try await withThrowingTaskGroup(of: Value?.self) { tasks in
            tasks.addTask { try await body() }
            tasks.addTask {
                while !Task.isCancelled {
                    self.draw()
                    try? await Task.sleep(for: .milliseconds(500))
                }
                return nil
            }
            defer { tasks.cancelAll() }
            while let value = try await tasks.next() { if let value { return value } }
            throw CancellationError()
        }
    }

    private func draw() {
        let shot = progress.snapshot()
        let columns = max(20, Int(sciferry_terminal_columns(1)) - 1)
        var lines: [String] = []
        switch shot.phase {
        case "listing": lines.append("listing: \(shot.listed) objects")
        case "copying":
            let share = shot.bytes > 0 ? min(100, Int(Double(shot.doneBytes) / Double(shot.bytes) * 100)) : 100
            lines.append(
                "\(share) %  \(shot.doneObjects) of \(shot.objects) objects, \(Console.bytes(shot.doneBytes)) of \(Console.bytes(shot.bytes)), \(Console.bytes(Int64(shot.rate)))/s\(Console.about(shot.left))"
            )
        default: lines.append(shot.phase)
        }
        for one in shot.transfers.prefix(8) {
            let share = one.size > 0 ? Int(Double(one.done) / Double(one.size) * 100) : 100
            lines.append(
                "  \(min(100, share)) %  \(one.key.printable())  \(Console.bytes(one.size)), \(Console.bytes(Int64(one.rate)))/s\(Console.about(one.left))"
            )
        }
        state.withLock { state in
            SyncDisplay.clear(&state)
            Console.write(lines.map { String($0.prefix(columns)) + "\n" }.joined())
            state.lines = lines.count
        }
    }

    /// Takes the moving lines away.
    private static func clear(_ state: inout State) {
        if state.lines > 0 { Console.write("\u{1B}[\(state.lines)A\u{1B}[J") }
        state.lines = 0
    }

    /// Ends the display, with a report if there is one.
    func end(_ report: SyncReport? = nil) throws {
        state.withLock { state in
            SyncDisplay.clear(&state)
            if let combined { SyncDisplay.flush(combined, &state) }
        }
        guard let report else { return }
        if options.json {
            struct Summary: Encodable {
                var event = "done"
                var report: SyncReport
            }
            return SyncDisplay.line(Summary(report: report))
        }
        var parts = [
            "\(report.copied) copied (\(Console.bytes(report.copiedBytes)))", "\(report.same) the same", "\(report.deleted) deleted",
        ]
        if report.waiting > 0 { parts.append("\(report.waiting) kept until their grace time is over") }
        if report.left > 0 { parts.append("\(report.left) left alone") }
        if report.failed > 0 { parts.append("\(report.failed) failed") }
        Console.print(parts.joined(separator: ", ") + (report.dryRun ? " (only planned)" : ""))
        for key in report.damaged { Console.error("damaged in the source, not copied: \(key.printable())") }
        if let limit = report.limit { Console.error("ended before everything was done: --\(limit); the next run goes on from here") }
    }
}

/// The bandwidth that a run may use, which can be changed while it goes on: by a file, or by SIGUSR2.
final class BandwidthWatch: Sendable {
    let limit: BandwidthLimit
    private let sources = Mutex<[Timer]>([])

    private struct Timer: @unchecked Sendable { let source: any DispatchSourceProtocol }

    init(text: String?, file: String?) throws {
        func read(_ path: String) throws -> BandwidthTimetable? {
            let text = String(decoding: try Disk.read(path, limit: 64 << 10), as: UTF8.self).split(whereSeparator: \.isNewline).joined(
                separator: " ")
            return text.allSatisfy(\.isWhitespace) ? nil : try BandwidthTimetable(text)
        }
        let first = try file.map(read) ?? text.map { try BandwidthTimetable($0) }
        let limit = BandwidthLimit(first)
        self.limit = limit
        if let file {
            let timer = DispatchSource.makeTimerSource()
            let last = Mutex(try Disk.entry(file)?.tag)
            timer.schedule(deadline: .now() + 1, repeating: 1)
            timer.setEventHandler {
                guard let tag = (try? Disk.entry(file))??.tag, last.withLock({ $0 != tag }) else { return }
                last.withLock { $0 = tag }
                do { limit.change(to: try read(file)) } catch { Console.error("\(file): \(error); the last limit stays") }
            }
            timer.resume()
            sources.withLock { $0.append(Timer(source: timer)) }
        }
        if first != nil || file != nil {
            signal(SIGUSR2, SIG_IGN)
            let switching = DispatchSource.makeSignalSource(signal: SIGUSR2)
            switching.setEventHandler { limit.toggle() }
            switching.resume()
            sources.withLock { $0.append(Timer(source: switching)) }
        }
    }

    deinit { for one in sources.withLock({ $0 }) { one.source.cancel() } }
}

/// Keeps the first error that a run tells.
final class FirstFailure: Sendable {
    private let state = Mutex<FarmError?>(nil)

    var error: FarmError? { state.withLock { $0 } }

    func look(_ event: SyncEvent) { if case .failed(_, let error) = event { state.withLock { $0 = $0 ?? error } } }
}
