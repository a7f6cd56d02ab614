package import FarmModel
import Foundation
package import Logging
import Synchronization

/// How a process writes its log.
package enum LogFormat: String, Sendable, CaseIterable {
    /// One JSON object a line.
    case json
    /// Time, level, message and metadata, for a terminal.
    case text
}

/// Sets up logging once, in main.
package enum LogSetup {
    /// Every logger of the process writes to standard error in `format`, from `level` on, both as an operator wrote them.
    /// Throws `log.setting` for a word that is neither.
    package static func bootstrap(format: String, level: String) throws {
        guard let format = LogFormat(rawValue: format) else { throw unknown("log format", format, LogFormat.allCases.map(\.rawValue)) }
        guard let level = Logger.Level(rawValue: level) else { throw unknown("log level", level, Logger.Level.allCases.map(\.rawValue)) }
        LoggingSystem.bootstrap { label in
            StreamLogHandler(label: label, format: format, level: level)
        }
    }

    private static func unknown(_ setting: String, _ word: String, _ known: [String]) -> FarmError {
        FarmError("log.setting", .usage, "\"\(word)\" is no \(setting)", hint: "known: \(known.joined(separator: ", "))")
    }
}

/// A record as it is written; separate so that tests can look at it.
package enum LogLine {
    private struct Record: Encodable {
        var time: String
        var level: String
        var logger: String
        var message: String
        var metadata: [String: String]
    }

    /// The line, without its line end.
    package static func render(
        format: LogFormat, time: Timestamp, level: Logger.Level, label: String, message: String,
        metadata: Logger.Metadata
    ) -> String {
        let flat = metadata.mapValues { "\($0)" }
        switch format {
        case .json:
            let record = Record(
                time: time.description, level: level.rawValue, logger: label, message: message, metadata: flat)
            return (try? CanonicalJSON.encode(record)).map { String(decoding: $0, as: UTF8.self) } ?? message
        case .text:
            let pairs = flat.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
            return ([time.description, level.rawValue.uppercased(), message] + pairs).joined(separator: " ")
        }
    }
}

private struct StreamLogHandler: LogHandler {
    let label: String
    let format: LogFormat
    var logLevel: Logger.Level
    var metadata: Logger.Metadata = [:]

    private static let lock = Mutex(())

    init(label: String, format: LogFormat, level: Logger.Level) {
        self.label = label
        self.format = format
        self.logLevel = level
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let merged = metadata.merging(event.metadata ?? [:]) { $1 }
        let line = LogLine.render(
            format: format, time: .now, level: event.level, label: label, message: event.message.description,
            metadata: merged)
        StreamLogHandler.lock.withLock { _ in
            FileHandle.standardError.write(Data((line + "\n").utf8))
        }
    }
}
