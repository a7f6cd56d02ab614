import ArgumentParser
import BucketSync
import FarmModel
import Foundation
import HTTPTransport
import ObjectStorage
import SystemIO

/// Which objects a verb looks at; names and meaning are rclone's.
struct FilterOptions: ParsableArguments {
    @Option(help: "Look at what matches only; may be repeated.") var include: [String] = []
    @Option(help: "Leave out what matches; may be repeated.") var exclude: [String] = []
    @Option(help: "A rule: \"+ PATTERN\", \"- PATTERN\" or \"!\"; may be repeated.") var filter: [String] = []
    @Option(help: "A file of patterns to look at, one a line (- for standard input).", completion: .file()) var includeFrom: [String] = []
    @Option(help: "A file of patterns to leave out.", completion: .file()) var excludeFrom: [String] = []
    @Option(help: "A file of rules.", completion: .file()) var filterFrom: [String] = []
    @Option(help: "A file of the only keys to look at.", completion: .file()) var filesFrom: [String] = []
    @Option(help: "Smaller objects are left out: 100k, 10M.") var minSize: String?
    @Option(help: "Larger objects are left out.") var maxSize: String?
    @Option(help: "What was changed since is left out: 90s, 2h, 7d, 1d12h, or a date.") var minAge: String?
    @Option(help: "What was changed before is left out.") var maxAge: String?
    @Option(help: "So many components of a key at most.") var maxDepth: Int?
    @Flag(help: "Patterns match whatever the case.") var ignoreCase = false

    func rules() throws -> ObjectFilter {
        var options = ObjectFilter.Options()
        options.include = try include + includeFrom.flatMap(FilterOptions.lines)
        options.exclude = try exclude + excludeFrom.flatMap(FilterOptions.lines)
        options.filter = try filter + filterFrom.flatMap(FilterOptions.lines)
        if !filesFrom.isEmpty { options.filesFrom = try filesFrom.flatMap(FilterOptions.lines) }
        options.minSize = try minSize.map { try FilterOptions.bytes($0, "--min-size") }
        options.maxSize = try maxSize.map { try FilterOptions.bytes($0, "--max-size") }
        options.notAfter = try minAge.map { try FilterOptions.moment($0, "--min-age") }
        options.notBefore = try maxAge.map { try FilterOptions.moment($0, "--max-age") }
        options.maxDepth = maxDepth
        options.ignoresCase = ignoreCase
        return try ObjectFilter(options)
    }

    static func bytes(_ text: String, _ option: String, unit: Int64 = 1024) throws -> Int64 {
        guard let bytes = ByteCount.read(text, unit: unit) else {
            throw FarmError("sync.option", .usage, "\(option) \(text) is no number of bytes", hint: "write 512B, 100k, 10M or 2G")
        }
        return bytes
    }

    static func seconds(_ text: String, _ option: String) throws -> Double {
        guard let seconds = SpanOfTime.read(text) else {
            throw FarmError("sync.option", .usage, "\(option) \(text) is no span of time", hint: "write 90s, 2h, 7d or 1d12h")
        }
        return seconds
    }

    private static func moment(_ text: String, _ option: String) throws -> Timestamp {
        if let seconds = SpanOfTime.read(text) { return Timestamp.now.adding(seconds: -seconds) }
        for style in [Date.ISO8601FormatStyle(), Date.ISO8601FormatStyle().year().month().day()] {
            if let date = try? Date(text, strategy: style) { return Timestamp(date) }
        }
        throw FarmError("sync.option", .usage, "\(option) \(text) is neither a span of time nor a date", hint: "write 7d or 2026-11-23")
    }

    private static func lines(_ path: String) throws -> [String] {
        let bytes = path == "-" ? Array(FileHandle.standardInput.readDataToEndOfFile()) : try Disk.read(path, limit: 256 << 20)
        return String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline).map { $0.trimmingCharacters(in: .whitespaces) }
            .filter {
                !$0.isEmpty && !$0.hasPrefix("#") && !$0.hasPrefix(";")
            }
    }
}

/// Spans of time as rclone writes them: `90s`, `1h30m`, `7d`, `2w`, `6M`, `1y`; a number alone counts seconds.
enum SpanOfTime {
    static func read(_ text: String) -> Double? {
        if let seconds = Double(text), seconds >= 0, seconds.isFinite { return seconds }
        let units: [String: Double] = ["ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800, "M": 2_592_000, "y": 31_536_000]
        var (total, rest) = (0.0, text[...])
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isNumber || $0 == "." }
            rest = rest.dropFirst(digits.count)
            let name = rest.prefix { $0.isLetter }
            rest = rest.dropFirst(name.count)
            guard let number = Double(digits), let unit = units[String(name)] else { return nil }
            total += number * unit
        }
        return text.isEmpty ? nil : total
    }
}

/// How objects are told apart.
struct ComparisonOptions: ParsableArguments {
    @Flag(help: "Compare size and time of the last change instead of checksums.") var sizeAndTime = false
    @Flag(help: "Compare sizes only: blind for changes that keep them.") var sizeOnly = false

    var comparison: Comparison { sizeOnly ? .size : sizeAndTime ? .time : .checksum }
}

/// What is shown of a run.
struct ReportOptions: ParsableArguments {
    @Flag(help: "Print events as they come, one JSON object a line.") var json = false
    @Option(help: "Write \"= key\", \"- key\", \"+ key\", \"* key\" and \"! key\" to a file (- for standard output).", completion: .file())
    var combined: String?
    @Flag(help: "No progress, and no line for each object.") var quiet = false
}

/// Opens the buckets that a verb is given.
enum Buckets {
    /// A bucket that is read; throws `storage.absent` for a directory that is not there.
    static func source(_ text: String) throws -> any ObjectStore {
        let store = try open(text)
        if let directory = store as? DirectoryStore, !Disk.isDirectory(directory.path) {
            throw FarmError("storage.absent", .notFound, "\(text) does not exist", hint: "check the address")
        }
        return store
    }

    /// Each has connections of its own.
    static func open(_ text: String) throws -> any ObjectStore { try BucketLocation(text).open(client: HTTPClient(), takesAnyKey: true) }

    /// What this pair of buckets remembers here.
    static func memory(_ source: any ObjectStore, _ destination: any ObjectStore) throws -> SyncMemory {
        try SyncMemory(
            directory: SyncMemory.standardDirectory(ProcessInfo.processInfo.environment), source: source.name, destination: destination.name
        )
    }
}
