import FarmModel

/// A place in a template: both count from 1.
package struct TemplatePosition: Hashable, Sendable, CustomStringConvertible {
    package var line: Int
    package var column: Int
    package var description: String { "line \(line), column \(column)" }
}

enum Token: Equatable {
    case name(String)
    case text(String)
    case integer(Int)
    case decimal(Double)
    case symbol(String)
    case end
}

struct PlacedToken {
    var token: Token
    var position: TemplatePosition
}

/// Cuts the inside of `{{ }}` into tokens.
struct TemplateLexer {
    private let characters: [Character]
    private var index = 0
    private var position: TemplatePosition

    init(_ text: Substring, at position: TemplatePosition) {
        characters = Array(text)
        self.position = position
    }

    mutating func tokens() throws -> [PlacedToken] {
        var result: [PlacedToken] = []
        while true {
            while let next = peek, next.isWhitespace { advance() }
            let start = position
            guard let next = peek else {
                result.append(PlacedToken(token: .end, position: start))
                return result
            }
            result.append(PlacedToken(token: try token(startingWith: next, at: start), position: start))
        }
    }

    private var peek: Character? { index < characters.count ? characters[index] : nil }

    private mutating func advance() {
        if characters[index] == "\n" {
            position.line += 1
            position.column = 1
        } else {
            position.column += 1
        }
        index += 1
    }

    private mutating func token(startingWith first: Character, at start: TemplatePosition) throws -> Token {
        if first.isLetter || first == "_" {
            return .name(take { $0.isLetter || $0.isNumber || $0 == "_" })
        }
        if first.isASCII, first.isNumber { return try number(at: start) }
        if first == "\"" || first == "'" { return try string(quote: first, at: start) }
        for symbol in ["==", "!=", ">=", "<="] where matches(symbol) {
            advance()
            advance()
            return .symbol(symbol)
        }
        guard "().[],|:~+-<>{}".contains(first) else {
            throw TemplateFailure.syntax("\"\(first)\" has no meaning here", at: start)
        }
        advance()
        return .symbol(String(first))
    }

    private func matches(_ symbol: String) -> Bool {
        characters[index...].prefix(symbol.count).elementsEqual(symbol)
    }

    private mutating func take(while condition: (Character) -> Bool) -> String {
        var text = ""
        while let next = peek, condition(next) {
            text.append(next)
            advance()
        }
        return text
    }

    private mutating func number(at start: TemplatePosition) throws -> Token {
        let digits = take { $0.isASCII && ($0.isNumber || $0 == ".") }
        if let integer = Int(digits) { return .integer(integer) }
        if let decimal = Double(digits) { return .decimal(decimal) }
        throw TemplateFailure.syntax("\"\(digits)\" is no number", at: start)
    }

    private mutating func string(quote: Character, at start: TemplatePosition) throws -> Token {
        advance()
        var text = ""
        while let next = peek {
            advance()
            if next == quote { return .text(text) }
            guard next == "\\" else {
                text.append(next)
                continue
            }
            guard let escaped = peek else { break }
            advance()
            switch escaped {
            case "n": text.append("\n")
            case "t": text.append("\t")
            case "r": text.append("\r")
            case "\\", "'", "\"": text.append(escaped)
            default: text.append("\\\(escaped)")
            }
        }
        throw TemplateFailure.syntax("a text is not closed", at: start)
    }
}

/// The errors of the room, each with its place.
enum TemplateFailure {
    static func syntax(_ message: String, at position: TemplatePosition) -> FarmError {
        FarmError("template.syntax", .invalid, "\(message), at \(position)")
    }

    static func undefined(_ name: String, at position: TemplatePosition) -> FarmError {
        FarmError("template.undefined", .invalid, "\"\(name)\" is not defined, at \(position)")
    }

    static func type(_ message: String, at position: TemplatePosition) -> FarmError {
        FarmError("template.type", .invalid, "\(message), at \(position)")
    }
}
