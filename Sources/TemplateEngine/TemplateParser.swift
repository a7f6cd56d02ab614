import FarmModel

/// An expression; the number in most cases is the byte offset to name in messages.
indirect enum Expression: Sendable {
    case literal(TemplateValue)
    case name(String, Int)
    case attribute(Expression, String, Int)
    case index(Expression, Expression, Int)
    case slice(Expression, from: Expression?, to: Expression?, step: Expression?, Int)
    case call(Expression, Arguments, Int)
    case filter(Expression, String, Arguments, Int)
    case test(Expression, String, Arguments, Int)
    case list([Expression])
    case tuple([Expression])
    case mapping([(key: Expression, value: Expression)], Int)
    case not(Expression)
    case both(Expression, Expression)
    case either(Expression, Expression)
    case choice(Expression, then: Expression, otherwise: Expression?, Int)
    case compare(Expression, [(symbol: String, operand: Expression)], Int)
    case joined([Expression], Int)
    case arithmetic(String, Expression, Expression, Int)
    case sign(String, Expression, Int)

    struct Arguments: Sendable {
        var plain: [Expression] = []
        var named: [(name: String, value: Expression)] = []
    }
}

/// The expression part of Jinja's grammar (Jinja 3 `parser.py`), method by method.
struct TemplateParser {
    let source: TemplateSource
    let tokens: [PlacedToken]
    var index = 0
    private var depth = 0
    private static let deepest = 100

    init(_ tokens: [PlacedToken], of source: TemplateSource) {
        self.tokens = tokens
        self.source = source
    }

    /// One expression and nothing after it; a bare `a, b` is a tuple.
    mutating func whole() throws -> Expression {
        let result = try tuple()
        try requireEnd()
        return result
    }

    var current: PlacedToken { tokens[min(index, tokens.count - 1)] }
    var isAtEnd: Bool { current.token == .end }

    func requireEnd() throws {
        guard isAtEnd else { throw source.syntax("this does not belong to the expression", at: current.offset) }
    }

    mutating func accept(_ symbol: String) -> Bool {
        guard current.token == .symbol(symbol) else { return false }
        index += 1
        return true
    }

    mutating func acceptWord(_ word: String) -> Bool {
        guard current.token == .name(word) else { return false }
        index += 1
        return true
    }

    mutating func require(_ symbol: String) throws {
        guard accept(symbol) else { throw source.syntax("\"\(symbol)\" is missing", at: current.offset) }
    }

    mutating func requireName() throws -> String {
        guard case .name(let name) = current.token else { throw source.syntax("a name is missing", at: current.offset) }
        index += 1
        return name
    }

    /// The condition of an `if`, in which an inline choice may not stand bare.
    mutating func wholeCondition() throws -> Expression {
        let result = try tuple { try $0.disjunction() }
        try requireEnd()
        return result
    }

    /// Expressions with commas between them, up to what cannot begin one.
    mutating func tuple(
        _ item: (inout TemplateParser) throws -> Expression = { try $0.expression() }
    ) throws -> Expression {
        let first = try item(&self)
        guard current.token == .symbol(",") else { return first }
        var items = [first]
        while accept(",") {
            if isTupleEnd { break }
            items.append(try item(&self))
        }
        return .tuple(items)
    }

    private var isTupleEnd: Bool { isAtEnd || current.token == .symbol(")") || current.token == .name("in") }

    mutating func expression() throws -> Expression {
        depth += 1
        defer { depth -= 1 }
        guard depth < TemplateParser.deepest else { throw source.limit("the expression is nested too deeply", at: current.offset) }
        var result = try disjunction()
        while current.token == .name("if") {
            let offset = current.offset
            index += 1
            let condition = try disjunction()
            let otherwise = acceptWord("else") ? try expression() : nil
            result = .choice(condition, then: result, otherwise: otherwise, offset)
        }
        return result
    }

    mutating func disjunction() throws -> Expression {
        var left = try conjunction()
        while acceptWord("or") { left = .either(left, try conjunction()) }
        return left
    }

    private mutating func conjunction() throws -> Expression {
        var left = try negation()
        while acceptWord("and") { left = .both(left, try negation()) }
        return left
    }

    private mutating func negation() throws -> Expression {
        var count = 0
        while acceptWord("not") { count += 1 }
        var result = try comparison()
        for _ in 0..<min(count, 2 - count % 2) where count > 0 { result = .not(result) }
        return result
    }

    private mutating func comparison() throws -> Expression {
        let left = try sum()
        let offset = current.offset
        var operands: [(String, Expression)] = []
        while let symbol = comparator() { operands.append((symbol, try sum())) }
        return operands.isEmpty ? left : .compare(left, operands, offset)
    }

    private mutating func comparator() -> String? {
        for symbol in ["==", "!=", ">=", "<=", ">", "<"] where accept(symbol) { return symbol }
        if acceptWord("in") { return "in" }
        if current.token == .name("not"), index + 1 < tokens.count, tokens[index + 1].token == .name("in") {
            index += 2
            return "not in"
        }
        return nil
    }

    private mutating func sum() throws -> Expression {
        var left = try concatenation()
        while let symbol = accepted(of: ["+", "-"]) { left = .arithmetic(symbol.0, left, try concatenation(), symbol.1) }
        return left
    }

    private mutating func concatenation() throws -> Expression {
        let offset = current.offset
        var parts = [try product()]
        while accept("~") { parts.append(try product()) }
        return parts.count == 1 ? parts[0] : .joined(parts, offset)
    }

    private mutating func product() throws -> Expression {
        var left = try power()
        while let symbol = accepted(of: ["*", "//", "/", "%"]) { left = .arithmetic(symbol.0, left, try power(), symbol.1) }
        return left
    }

    private mutating func power() throws -> Expression {
        var left = try unary(takesFilters: true)
        while let symbol = accepted(of: ["**"]) { left = .arithmetic(symbol.0, left, try unary(takesFilters: true), symbol.1) }
        return left
    }

    private mutating func accepted(of symbols: [String]) -> (String, Int)? {
        let offset = current.offset
        for symbol in symbols where accept(symbol) { return (symbol, offset) }
        return nil
    }

    private mutating func unary(takesFilters: Bool) throws -> Expression {
        depth += 1
        defer { depth -= 1 }
        guard depth < TemplateParser.deepest else { throw source.limit("the expression is nested too deeply", at: current.offset) }
        var result: Expression
        if let symbol = accepted(of: ["-", "+"]) {
            result = .sign(symbol.0, try unary(takesFilters: false), symbol.1)
        } else {
            result = try primary()
        }
        result = try postfix(result)
        return takesFilters ? try filters(result) : result
    }

    private mutating func primary() throws -> Expression {
        let placed = current
        index += 1
        switch placed.token {
        case .text(var value):
            while case .text(let more) = current.token {
                value += more
                index += 1
            }
            return .literal(.text(value))
        case .integer(let value): return .literal(.integer(value))
        case .decimal(let value): return .literal(.decimal(value))
        case .name("true"), .name("True"): return .literal(.bool(true))
        case .name("false"), .name("False"): return .literal(.bool(false))
        case .name("none"), .name("None"): return .literal(.none)
        case .name(let name): return .name(name, placed.offset)
        case .symbol("("):
            if accept(")") { return .tuple([]) }
            let inner = try tuple()
            try require(")")
            return inner
        case .symbol("["): return .list(try items(until: "]"))
        case .symbol("{"): return try mapping(at: placed.offset)
        default: throw source.syntax("a value is missing", at: placed.offset)
        }
    }

    private mutating func items(until end: String) throws -> [Expression] {
        var items: [Expression] = []
        while !accept(end) {
            if !items.isEmpty {
                try require(",")
                if accept(end) { break }
            }
            items.append(try expression())
        }
        return items
    }

    private mutating func mapping(at offset: Int) throws -> Expression {
        var entries: [(Expression, Expression)] = []
        while !accept("}") {
            if !entries.isEmpty {
                try require(",")
                if accept("}") { break }
            }
            let key = try expression()
            try require(":")
            entries.append((key, try expression()))
        }
        return .mapping(entries, offset)
    }

    private mutating func postfix(_ base: Expression) throws -> Expression {
        var result = base
        var length = 0
        while true {
            length += 1
            guard length < TemplateParser.deepest else { throw source.limit("the expression is too long", at: current.offset) }
            let offset = current.offset
            if accept(".") {
                switch current.token {
                case .name(let name): result = .attribute(result, name, offset)
                case .integer(let number): result = .index(result, .literal(.integer(number)), offset)
                default: throw source.syntax("a name must follow the dot", at: current.offset)
                }
                index += 1
            } else if accept("[") {
                result = try subscription(of: result, at: offset)
            } else if accept("(") {
                result = .call(result, try arguments(), offset)
            } else {
                return result
            }
        }
    }

    private mutating func filters(_ base: Expression) throws -> Expression {
        var result = base
        var length = 0
        while true {
            length += 1
            guard length < TemplateParser.deepest else { throw source.limit("the expression is too long", at: current.offset) }
            let offset = current.offset
            if accept("|") {
                let name = try requireName()
                result = .filter(result, name, accept("(") ? try arguments() : .init(), offset)
            } else if acceptWord("is") {
                result = try test(of: result, at: offset)
            } else if accept("(") {
                result = .call(result, try arguments(), offset)
            } else {
                return result
            }
        }
    }

    private mutating func test(of base: Expression, at offset: Int) throws -> Expression {
        let isNegated = acceptWord("not")
        let name = try requireName()
        var arguments = Expression.Arguments()
        if accept("(") {
            arguments = try self.arguments()
        } else if beginsTestArgument {
            if current.token == .name("is") { throw source.syntax("tests cannot be chained with is", at: current.offset) }
            arguments.plain = [try postfix(try primary())]
        }
        let result = Expression.test(base, name, arguments, offset)
        return isNegated ? .not(result) : result
    }

    private var beginsTestArgument: Bool {
        switch current.token {
        case .name(let word): !["else", "or", "and"].contains(word)
        case .text, .integer, .decimal: true
        case .symbol(let symbol): ["[", "{"].contains(symbol)
        case .end: false
        }
    }

    private mutating func subscription(of base: Expression, at offset: Int) throws -> Expression {
        func isBound(_ token: Token) -> Bool { token != .symbol(":") && token != .symbol("]") && token != .symbol(",") }
        let from = isBound(current.token) ? try expression() : nil
        guard accept(":") else {
            guard let from else { throw source.syntax("a value is missing", at: current.offset) }
            var items = [from]
            while accept(",") { items.append(try expression()) }
            try require("]")
            return .index(base, items.count == 1 ? from : .tuple(items), offset)
        }
        let to = isBound(current.token) ? try expression() : nil
        var step: Expression?
        if accept(":"), isBound(current.token) { step = try expression() }
        try require("]")
        return .slice(base, from: from, to: to, step: step, offset)
    }

    private mutating func arguments() throws -> Expression.Arguments {
        var result = Expression.Arguments()
        while !accept(")") {
            if !(result.plain.isEmpty && result.named.isEmpty) {
                try require(",")
                if accept(")") { break }
            }
            if case .name(let name) = current.token, index + 1 < tokens.count, tokens[index + 1].token == .symbol("=") {
                index += 2
                result.named.append((name, try expression()))
            } else {
                if current.token == .symbol("*") || current.token == .symbol("**") {
                    throw source.syntax("arguments cannot be unpacked here", at: current.offset)
                }
                guard result.named.isEmpty else { throw source.syntax("a plain argument follows a named one", at: current.offset) }
                result.plain.append(try expression())
            }
        }
        return result
    }
}
