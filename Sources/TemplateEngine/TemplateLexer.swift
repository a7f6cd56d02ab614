import FarmModel

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
    /// Byte offset in the template.
    var offset: Int
}

/// Cuts a template into data, expressions and statements (Jinja 3 `lexer.py` states the rules).
struct TemplateLexer {
    enum Piece {
        case data(String)
        case expression([PlacedToken])
        case statement([PlacedToken])
    }

    let source: TemplateSource
    let bytes: [UInt8]
    var index = 0

    init(_ source: TemplateSource) {
        self.source = source
        bytes = source.bytes
    }

    /// All pieces in order; throws `template.syntax`.
    mutating func pieces() throws -> [Piece] {
        var pieces: [Piece] = []
        var trimsNext = false
        while index < bytes.count {
            let start = index
            let opening = nextOpening()
            var data = bytes[start..<(opening?.at ?? bytes.count)]
            if trimsNext { data = data.drop(while: TemplateLexer.isSpace) }
            if let opening, opening.trims { while let last = data.last, TemplateLexer.isSpace(last) { data = data.dropLast() } }
            if !data.isEmpty { pieces.append(.data(String(decoding: data, as: UTF8.self))) }
            guard let opening else { break }
            index = opening.end
            switch opening.kind {
            case "#": trimsNext = try skipComment(from: opening.at)
            case "{":
                let (tokens, trims) = try inside(closing: "}", from: opening.at)
                pieces.append(.expression(tokens))
                trimsNext = trims
            default:
                if let raw = try rawBlock(from: opening.at) {
                    if !raw.data.isEmpty { pieces.append(.data(raw.data)) }
                    trimsNext = raw.trims
                } else {
                    let (tokens, trims) = try inside(closing: "%", from: opening.at)
                    pieces.append(.statement(tokens))
                    trimsNext = trims
                }
            }
        }
        return pieces
    }

    static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

    func byte(_ place: Int) -> UInt8? { place < bytes.count ? bytes[place] : nil }

    private func starts(_ text: StaticString, at place: Int) -> Bool {
        guard place + text.utf8CodeUnitCount <= bytes.count else { return false }
        for offset in 0..<text.utf8CodeUnitCount where bytes[place + offset] != text.utf8Start[offset] { return false }
        return true
    }

    private func nextOpening() -> (at: Int, end: Int, kind: Character, trims: Bool)? {
        var place = index
        while place + 1 < bytes.count {
            if bytes[place] == UInt8(ascii: "{"), "{%#".utf8.contains(bytes[place + 1]) {
                let sign = byte(place + 2)
                let hasSign = sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+")
                return (
                    place, place + (hasSign ? 3 : 2), Character(Unicode.Scalar(bytes[place + 1])), sign == UInt8(ascii: "-")
                )
            }
            place += 1
        }
        return nil
    }

    /// Passes over a comment; says whether it trims what follows.
    private mutating func skipComment(from start: Int) throws -> Bool {
        while index + 1 < bytes.count {
            if starts("#}", at: index) {
                let trims = bytes[index - 1] == UInt8(ascii: "-")
                index += 2
                return trims
            }
            index += 1
        }
        throw source.syntax("a comment is not closed", at: start)
    }

    /// `{% raw %}…{% endraw %}` as data, when that is what stands here.
    private mutating func rawBlock(from start: Int) throws -> (data: String, trims: Bool)? {
        guard let open = tag("raw", at: index) else { return nil }
        var place = open.end
        while place < bytes.count {
            if starts("{%", at: place) {
                let sign = byte(place + 2)
                let after = sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") ? place + 3 : place + 2
                if let close = tag("endraw", at: after) {
                    var data = bytes[open.end..<place]
                    if open.trims { data = data.drop(while: TemplateLexer.isSpace) }
                    if sign == UInt8(ascii: "-") { while let last = data.last, TemplateLexer.isSpace(last) { data = data.dropLast() } }
                    index = close.end
                    return (String(decoding: data, as: UTF8.self), close.trims)
                }
            }
            place += 1
        }
        throw source.syntax("a raw block is not closed", at: start)
    }

    private func tag(_ word: StaticString, at place: Int) -> (end: Int, trims: Bool)? {
        var place = place
        while let next = byte(place), TemplateLexer.isSpace(next) { place += 1 }
        guard starts(word, at: place) else { return nil }
        place += word.utf8CodeUnitCount
        while let next = byte(place), TemplateLexer.isSpace(next) { place += 1 }
        if starts("-%}", at: place) { return (place + 3, true) }
        return starts("%}", at: place) ? (place + 2, false) : nil
    }

    /// The tokens up to the closing mark, which does not count inside brackets.
    private mutating func inside(closing: Character, from start: Int) throws -> (tokens: [PlacedToken], trims: Bool) {
        var tokens: [PlacedToken] = []
        var open: [UInt8] = []
        let mark = closing == "}" ? "}}" as StaticString : "%}"
        while true {
            while let next = byte(index), TemplateLexer.isSpace(next) { index += 1 }
            guard let next = byte(index) else {
                throw source.syntax(closing == "}" ? "\"{{\" is not closed" : "\"{%\" is not closed", at: start)
            }
            if open.isEmpty {
                let hasSign = next == UInt8(ascii: "-") || next == UInt8(ascii: "+")
                if starts(mark, at: index) || hasSign && starts(mark, at: index + 1) {
                    tokens.append(PlacedToken(token: .end, offset: index))
                    index += hasSign ? 3 : 2
                    return (tokens, next == UInt8(ascii: "-"))
                }
            }
            let place = index
            let token = try token(startingWith: next)
            if case .symbol(let symbol) = token { try balance(symbol, &open, at: place) }
            tokens.append(PlacedToken(token: token, offset: place))
        }
    }

    private func balance(_ symbol: String, _ open: inout [UInt8], at place: Int) throws {
        guard let byte = symbol.utf8.first, symbol.utf8.count == 1 else { return }
        switch byte {
        case UInt8(ascii: "("): open.append(UInt8(ascii: ")"))
        case UInt8(ascii: "["): open.append(UInt8(ascii: "]"))
        case UInt8(ascii: "{"): open.append(UInt8(ascii: "}"))
        case UInt8(ascii: ")"), UInt8(ascii: "]"), UInt8(ascii: "}"):
            guard open.popLast() == byte else { throw source.syntax("\"\(symbol)\" closes nothing", at: place) }
        default: break
        }
    }

    private mutating func token(startingWith first: UInt8) throws -> Token {
        if first.isAlphanumeric && !first.isDigit || first == UInt8(ascii: "_") || first >= 0x80 { return .name(try name()) }
        if first.isDigit { return try number() }
        if first == UInt8(ascii: "\"") || first == UInt8(ascii: "'") { return .text(try string(quote: first)) }
        for symbol in ["==", "!=", ">=", "<=", "//", "**"] as [StaticString] where starts(symbol, at: index) {
            index += 2
            return .symbol(symbol.description)
        }
        guard "()[]{}.,|:;~+-*/%<>=".utf8.contains(first) else {
            throw source.syntax("\"\(Character(Unicode.Scalar(first)))\" has no meaning here", at: index)
        }
        index += 1
        return .symbol(String(Character(Unicode.Scalar(first))))
    }

    private mutating func name() throws -> String {
        let start = index
        while let next = byte(index), next.isAlphanumeric || next == UInt8(ascii: "_") || next >= 0x80 { index += 1 }
        let name = String(decoding: bytes[start..<index], as: UTF8.self)
        guard name.unicodeScalars.allSatisfy({ $0.properties.isXIDContinue }),
            name.unicodeScalars.first?.properties.isXIDStart ?? false
                || name.hasPrefix("_")
        else { throw source.syntax("\"\(name)\" is no name", at: start) }
        return name
    }

    private mutating func digits(_ allowed: (UInt8) -> Bool) -> String {
        var text = ""
        while let next = byte(index) {
            if allowed(next) {
                text.unicodeScalars.append(Unicode.Scalar(next))
                index += 1
            } else if next == UInt8(ascii: "_"), !text.isEmpty, let after = byte(index + 1), allowed(after) {
                index += 1
            } else {
                break
            }
        }
        return text
    }

    private mutating func number() throws -> Token {
        let start = index
        let radixes: [(StaticString, Int)] = [("0b", 2), ("0B", 2), ("0o", 8), ("0O", 8), ("0x", 16), ("0X", 16)]
        for (prefix, radix) in radixes where starts(prefix, at: index) {
            index += 2
            let text = digits { Character(Unicode.Scalar($0)).hexDigitValue.map { $0 < radix } ?? false }
            guard let value = Int(text, radix: radix) else { throw source.syntax("this is no number", at: start) }
            return .integer(value)
        }
        var text = digits(\.isDigit)
        var isWhole = true
        if byte(index) == UInt8(ascii: "."), let next = byte(index + 1), next.isDigit, start == 0 || bytes[start - 1] != UInt8(ascii: ".") {
            index += 1
            text += "." + digits(\.isDigit)
            isWhole = false
        }
        if let mark = byte(index), mark == UInt8(ascii: "e") || mark == UInt8(ascii: "E") {
            let sign = byte(index + 1) == UInt8(ascii: "+") || byte(index + 1) == UInt8(ascii: "-")
            if let next = byte(index + (sign ? 2 : 1)), next.isDigit {
                text += "e" + (sign ? String(Unicode.Scalar(bytes[index + 1])) : "")
                index += sign ? 2 : 1
                text += digits(\.isDigit)
                isWhole = false
            }
        }
        if isWhole {
            // Python knows no such number as 007.
            if text.utf8.count > 1, text.hasPrefix("0"), text.contains(where: { $0 != "0" }) {
                throw source.syntax("\"\(text)\" is no number", at: start)
            }
            guard let value = Int(text) else { throw source.syntax("\(text) is too large a number", at: start) }
            return .integer(value)
        }
        guard let value = Double(text) else { throw source.syntax("\"\(text)\" is no number", at: start) }
        return .decimal(value)
    }
}

extension UInt8 {
    /// An ASCII digit.
    package var isDigit: Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }
}
