package import TemplateEngine

/// A YAML node with its place. Scalars have the value that the collection's builder gives them (YAML 1.1), and their text.
package struct RecipeNode: Sendable, Hashable {
    package indirect enum Content: Sendable, Hashable {
        case scalar(TemplateValue, text: String)
        case sequence([RecipeNode])
        case mapping([Entry])
    }

    package struct Entry: Sendable, Hashable {
        package var key: RecipeNode
        package var value: RecipeNode
    }

    package var content: Content
    /// Both count from 1.
    package var line: Int
    package var column: Int

    package init(_ content: Content, line: Int, column: Int) {
        self.content = content
        self.line = line
        self.column = column
    }

    /// A scalar's text as it is written, without quotes.
    package var text: String? {
        if case .scalar(_, let text) = content { return text }
        return nil
    }

    package var sequence: [RecipeNode]? {
        if case .sequence(let items) = content { return items }
        return nil
    }

    package var mapping: [Entry]? {
        if case .mapping(let entries) = content { return entries }
        return nil
    }

    package var isNull: Bool {
        if case .scalar(.none, _) = content { return true }
        return false
    }

    package subscript(key: String) -> RecipeNode? { mapping?.first { $0.key.text == key }?.value }

    /// The node and all below it as a template's value.
    package var value: TemplateValue {
        switch content {
        case .scalar(let value, _): value
        case .sequence(let items): .list(items.map(\.value))
        case .mapping(let entries): .mapping(TemplateMapping(entries.map { ($0.key.value, $0.value.value) }))
        }
    }

    /// What Python's `bool` says of it.
    package var isTrue: Bool {
        switch content {
        case .scalar(let value, _): value.isTrue
        case .sequence(let items): !items.isEmpty
        case .mapping(let entries): !entries.isEmpty
        }
    }

    /// A node as `str()` would print it; for names and numbers that recipes leave unquoted.
    package var printed: String { value.printed }
}

/// Types of plain scalars: YAML 1.1, https://yaml.org/type/, as PyYAML implements it.
enum PlainScalar {
    private static let words: [String: TemplateValue] = {
        var words: [String: TemplateValue] = ["": .none, "~": .none]
        for word in ["null", "Null", "NULL"] { words[word] = TemplateValue.none }
        for word in ["yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"] { words[word] = .bool(true) }
        for word in ["no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"] { words[word] = .bool(false) }
        for word in [".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"] { words[word] = .decimal(.infinity) }
        for word in ["-.inf", "-.Inf", "-.INF"] { words[word] = .decimal(-.infinity) }
        for word in [".nan", ".NaN", ".NAN"] { words[word] = .decimal(.nan) }
        return words
    }()

    static func value(_ text: String) -> TemplateValue {
        guard text.utf8.count <= 40 else { return .text(text) }
        if let word = words[text] { return word }
        guard let first = text.utf8.first, "+-.0123456789".utf8.contains(first) else { return .text(text) }
        return number(text) ?? .text(text)
    }

    private static func number(_ text: String) -> TemplateValue? {
        var digits = text[...]
        let isNegative = digits.first == "-"
        if isNegative || digits.first == "+" { digits = digits.dropFirst() }
        guard let lead = digits.first else { return nil }
        let plain = digits.filter { $0 != "_" }
        func whole(_ text: String.SubSequence, _ radix: Int) -> TemplateValue? {
            Int(text, radix: radix).map { .integer(isNegative ? -$0 : $0) }
        }
        if digits.contains(":") { return sixties(digits, isNegative) }
        let isNumeral = lead.isASCII && lead.isNumber
        if isNumeral, digits.allSatisfy({ ($0.isASCII && $0.isNumber) || $0 == "_" }) {
            if lead == "0", plain.count > 1 {
                return plain.allSatisfy({ "01234567".contains($0) }) ? whole(plain[...], 8) : nil
            }
            return whole(plain[...], 10)
        }
        if digits.hasPrefix("0b"), plain.count > 2 { return whole(plain.dropFirst(2), 2) }
        if digits.hasPrefix("0x"), plain.count > 2 { return whole(plain.dropFirst(2), 16) }
        return decimal(plain, isNumeral: isNumeral).map { .decimal(isNegative ? -$0 : $0) }
    }

    /// `1.5`, `1.`, `.5`, `1.5e+3`: the exponent needs its sign and the number its dot.
    private static func decimal(_ text: String, isNumeral: Bool) -> Double? {
        guard let dot = text.firstIndex(of: ".") else { return nil }
        let before = text[..<dot]
        var after = text[text.index(after: dot)...]
        guard before.allSatisfy({ $0.isASCII && $0.isNumber }), isNumeral || !after.isEmpty else { return nil }
        if let mark = after.firstIndex(where: { $0 == "e" || $0 == "E" }) {
            let exponent = after[after.index(after: mark)...]
            guard exponent.first == "+" || exponent.first == "-", exponent.count > 1,
                exponent.dropFirst().allSatisfy({ $0.isASCII && $0.isNumber })
            else { return nil }
            after = after[..<mark]
        }
        guard after.allSatisfy({ $0.isASCII && $0.isNumber }), !before.isEmpty || !after.isEmpty else { return nil }
        let closed = before.isEmpty ? "0\(text)" : text
        return Double(closed.hasSuffix(".") ? "\(closed)0" : closed.replacingDotExponent)
    }

    /// `1:30` is ninety: YAML 1.1 counts by sixties.
    private static func sixties(_ text: Substring, _ isNegative: Bool) -> TemplateValue? {
        let parts = text.filter { $0 != "_" }.split(separator: ":", omittingEmptySubsequences: false)
        guard let first = parts.first, let lead = first.first, ("1"..."9").contains(lead) else { return nil }
        var total = 0
        for (index, part) in parts.enumerated() {
            guard let number = Int(part), part.allSatisfy({ $0.isASCII && $0.isNumber }), index == 0 || (number < 60 && part.count <= 2),
                total < 1 << 40
            else { return nil }
            total = total * 60 + number
        }
        return .integer(isNegative ? -total : total)
    }
}

extension String {
    /// `1.e+3` in a form that `Double` reads.
    fileprivate var replacingDotExponent: String {
        guard let dot = firstIndex(of: "."), let next = self[dot...].dropFirst().first, next == "e" || next == "E" else { return self }
        return "\(self[...dot])0\(self[index(after: dot)...])"
    }
}
