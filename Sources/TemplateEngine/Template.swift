import FarmModel

/// The Jinja subset that recipes use: text with `{{ expression }}` in it; an undefined name is an error.
package struct Template: Sendable {
    /// What names and functions mean while a template renders.
    package struct Scope: Sendable {
        package var values: [String: TemplateValue]
        /// Functions by name, for example `get_file` or, for methods of an object, `local.has_local`.
        package var functions: [String: @Sendable ([TemplateValue]) throws -> TemplateValue]

        package init(
            values: [String: TemplateValue] = [:],
            functions: [String: @Sendable ([TemplateValue]) throws -> TemplateValue] = [:]
        ) {
            self.values = values
            self.functions = functions
        }
    }

    private enum Part: Sendable {
        case text(String)
        case expression(Expression)
    }

    private let parts: [Part]

    /// Parses a template; throws `template.syntax` with line and column, counted within the text.
    package init(_ source: String) throws {
        // Jinja drops one line end at the end of every template.
        var rest = source.hasSuffix("\n") ? source.dropLast() : source[...]
        var position = TemplatePosition(line: 1, column: 1)
        var parts: [Part] = []
        while let open = Template.firstRange(of: "{{", in: rest) {
            if let statement = Template.firstRange(of: "{%", in: rest), statement.lowerBound < open.lowerBound {
                throw Template.statementError(before: statement.lowerBound, in: rest, from: position)
            }
            let text = rest[..<open.lowerBound]
            parts.append(.text(String(text)))
            position.advance(over: text)
            let start = position
            position.advance(over: rest[open])
            guard let close = Template.closing(in: rest[open.upperBound...]) else {
                throw TemplateFailure.syntax("\"{{\" is not closed", at: start)
            }
            let inside = rest[open.upperBound..<close]
            var lexer = TemplateLexer(inside, at: position)
            var parser = TemplateParser(try lexer.tokens())
            parts.append(.expression(try parser.expression()))
            let end = rest.index(close, offsetBy: 2)
            position.advance(over: rest[open.upperBound..<end])
            rest = rest[end...]
        }
        if let statement = Template.firstRange(of: "{%", in: rest) {
            throw Template.statementError(before: statement.lowerBound, in: rest, from: position)
        }
        parts.append(.text(String(rest)))
        self.parts = parts
    }

    /// Renders; throws `template.undefined` and `template.type` with their place.
    package func render(_ scope: Scope) throws -> String {
        var output = ""
        for part in parts {
            switch part {
            case .text(let text): output += text
            case .expression(let expression): output += try TemplateEvaluator(scope: scope).value(of: expression).printed
            }
        }
        return output
    }

    /// The value of a template that is one expression and nothing else, else its rendered text.
    package func value(_ scope: Scope) throws -> TemplateValue {
        let solid = parts.filter { part in
            if case .text(let text) = part { return !text.isEmpty }
            return true
        }
        if solid.count == 1, case .expression(let expression) = solid[0] {
            return try TemplateEvaluator(scope: scope).value(of: expression)
        }
        return .text(try render(scope))
    }

    private static func statementError(
        before index: Substring.Index, in rest: Substring, from position: TemplatePosition
    ) -> FarmError {
        var place = position
        place.advance(over: rest[..<index])
        return TemplateFailure.syntax("statements ({% %}) are not understood in recipes; use {{ }} and condition", at: place)
    }

    /// Where the `}}` that ends an expression stands, passing over quoted text.
    private static func closing(in text: Substring) -> Substring.Index? {
        var quote: Character?
        var index = text.startIndex
        while index < text.endIndex {
            let character = text[index]
            if let open = quote {
                if character == "\\" {
                    index = text.index(after: index)
                    if index == text.endIndex { return nil }
                } else if character == open {
                    quote = nil
                }
            } else if character == "\"" || character == "'" {
                quote = character
            } else if character == "}", text[index...].hasPrefix("}}") {
                return index
            }
            index = text.index(after: index)
        }
        return nil
    }

    private static func firstRange(of needle: String, in text: Substring) -> Range<Substring.Index>? {
        var index = text.startIndex
        while index < text.endIndex {
            if text[index...].hasPrefix(needle) { return index..<text.index(index, offsetBy: needle.count) }
            index = text.index(after: index)
        }
        return nil
    }
}

extension TemplatePosition {
    mutating func advance(over text: Substring) {
        for character in text {
            if character == "\n" {
                line += 1
                column = 1
            } else {
                column += 1
            }
        }
    }
}
