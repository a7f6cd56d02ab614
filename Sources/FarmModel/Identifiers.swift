/// A name of one kind of thing; the kind keeps a job's name from being taken for a worker's.
package struct Identifier<Kind>: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let rawValue: String

    package init(_ rawValue: String) { self.rawValue = rawValue }

    package var description: String { rawValue }

    package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

extension Identifier: Codable {
    package init(from decoder: any Decoder) throws {
        rawValue = try decoder.singleValueContainer().decode(String.self)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(rawValue)
    }
}

/// The kinds that identifiers belong to.
package enum IdentifierKind {
    package enum Job {}
    package enum Worker {}
}

/// `j1`, `j2`, …: the wish for one result.
package typealias JobID = Identifier<IdentifierKind.Job>

extension Identifier where Kind == IdentifierKind.Job {
    package init(number: Int) { self.init("j\(number)") }

    /// What counts the jobs of a farm from 1; 0 for a text that names no job.
    package var number: Int {
        guard rawValue.first == "j", let number = Int(rawValue.dropFirst()), rawValue == "j\(number)" else { return 0 }
        return max(0, number)
    }
}

/// A worker's name, unique in the farm.
package typealias WorkerName = Identifier<IdentifierKind.Worker>

/// One try of a job on one worker: `j7.2` is the second try of job `j7`.
package struct AttemptID: Hashable, Sendable, CustomStringConvertible, Codable {
    package let job: JobID
    /// Counts from 1; a greater number is a newer attempt and fences the older ones.
    package let number: Int

    package init(job: JobID, number: Int) {
        self.job = job
        self.number = number
    }

    /// Reads `j7.2`; `nil` for anything else.
    package init?(_ text: String) {
        guard let dot = text.lastIndex(of: "."), let number = Int(text[text.index(after: dot)...]), number > 0,
            text.startIndex < dot
        else { return nil }
        self.init(job: JobID(String(text[..<dot])), number: number)
    }

    package var description: String { "\(job.rawValue).\(number)" }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let value = AttemptID(text) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" names no attempt")
        }
        self = value
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}

/// Names of recipes, workers, sites: what may stand in a path, a URL and a Docker tag.
package enum PlainName {
    /// Letters, digits, `-`, `_`, `.`; begins with a letter or digit; at most 64 bytes.
    package static func isValid(_ name: String) -> Bool {
        guard let first = name.utf8.first, name.utf8.count <= 64, first.isAlphanumeric else { return false }
        return name.utf8.allSatisfy { $0.isAlphanumeric || "-_.".utf8.contains($0) }
    }
}

/// Names of commands: file names that need no quotes in a shell, a module or a link, for example `g++` or `@auto_tlrc`.
package enum CommandName {
    /// Letters, digits and `-_.+@%=,:^`; begins with none of `-`, `.`, `=`; at most 128 bytes.
    package static func isValid(_ name: String) -> Bool {
        guard let first = name.utf8.first, name.utf8.count <= 128, !"-.=".utf8.contains(first) else { return false }
        return name.utf8.allSatisfy { $0.isAlphanumeric || "-_.+@%=,:^".utf8.contains($0) }
    }
}

extension UInt8 {
    /// An ASCII letter or digit.
    package var isAlphanumeric: Bool {
        switch self {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "a")...UInt8(ascii: "z"):
            true
        default: false
        }
    }
}
