package import FarmModel

/// A place in a template: both count from 1.
package struct TemplatePosition: Hashable, Sendable, CustomStringConvertible {
    package var line: Int
    package var column: Int
    package var description: String { "line \(line), column \(column)" }
}

/// A template's text, and places in it for messages.
struct TemplateSource: Sendable {
    let bytes: [UInt8]

    /// No recipe comes near this.
    private static let longest = 8 << 20

    /// As Jinja reads it: line ends are all `\n`, and one at the very end goes.
    init(_ text: String) throws {
        guard text.utf8.count <= TemplateSource.longest else {
            throw FarmError("template.syntax", .invalid, "the template is longer than \(TemplateSource.longest) bytes")
        }
        var bytes = Array(text.utf8)
        if bytes.contains(0x0D) {
            var plain: [UInt8] = []
            plain.reserveCapacity(bytes.count)
            for (index, byte) in bytes.enumerated() {
                if byte == 0x0D {
                    plain.append(0x0A)
                } else if byte != 0x0A || index == 0 || bytes[index - 1] != 0x0D {
                    plain.append(byte)
                }
            }
            bytes = plain
        }
        if bytes.last == 0x0A { bytes.removeLast() }
        self.bytes = bytes
    }

    func position(of offset: Int) -> TemplatePosition {
        let before = bytes[..<min(offset, bytes.count)]
        let line = before.reduce(1) { $1 == 0x0A ? $0 + 1 : $0 }
        let start = before.lastIndex(of: 0x0A).map { $0 + 1 } ?? 0
        return TemplatePosition(line: line, column: String(decoding: before[start...], as: UTF8.self).count + 1)
    }

    func syntax(_ message: String, at offset: Int) -> FarmError {
        FarmError("template.syntax", .invalid, "\(message), at \(position(of: offset))")
    }

    func undefined(_ name: String, at offset: Int) -> FarmError {
        FarmError("template.undefined", .invalid, "\"\(name)\" is not defined, at \(position(of: offset))")
    }

    func type(_ message: String, at offset: Int) -> FarmError {
        FarmError("template.type", .invalid, "\(message), at \(position(of: offset))")
    }

    func limit(_ message: String, at offset: Int) -> FarmError {
        FarmError("template.limit", .invalid, "\(message), at \(position(of: offset))")
    }
}

/// Errors that functions of a scope throw; the evaluator adds the place.
package enum TemplateFailure {
    /// Wrong arguments or values.
    package static func plain(_ message: String, hint: String? = nil) -> FarmError {
        FarmError("template.type", .invalid, message, hint: hint)
    }

    /// What was asked for does not exist.
    package static func absent(_ message: String, hint: String? = nil) -> FarmError {
        FarmError("template.undefined", .invalid, message, hint: hint)
    }
}
