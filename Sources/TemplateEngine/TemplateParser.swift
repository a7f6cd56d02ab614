import FarmModel

indirect enum Expression: Sendable {
    case literal(TemplateValue)
    case name(String, TemplatePosition)
    case attribute(Expression, String, TemplatePosition)
    case index(Expression, Expression, TemplatePosition)
    case slice(Expression, Expression?, Expression?, TemplatePosition)
    case call(Expression, [Expression], TemplatePosition)
    case filter(Expression, String, [Expression], TemplatePosition)
    case list([Expression])
    case not(Expression)
    case both(Expression, Expression)
    case either(Expression, Expression)
    case compare(String, Expression, Expression, TemplatePosition)
    case joined(Expression, Expression)
    case add(Expression, Expression, TemplatePosition)
}

/// Precedence climbing over the expression part of Jinja's grammar (Jinja 3 "Expressions").
struct TemplateParser {
    private let tokens: [PlacedToken]
    private var index = 0
    private var depth = 0
    private static let deepest = 64

    init(_ tokens: [PlacedToken]) { self.tokens = tokens }

    mutating func expression() throws -> Expression {
        let result = try disjunction()
        guard current.token == .end else {
            throw TemplateFailure.syntax("this does not belong to the expression", at: current.position)
        }
        return result
    }

    private var current: PlacedToken { tokens[min(index, tokens.count - 1)] }

    private mutating func accept(_ symbol: String) -> Bool {
        guard current.token == .symbol(symbol) else { return false }
        index += 1
        return true
    }

    private mutating func acceptWord(_ word: String) -> Bool {
        guard current.token == .name(word) else { return false }
        index += 1
        return true
    }

    private mutating func require(_ symbol: String) throws {
        guard accept(symbol) else { throw TemplateFailure.syntax("\"\(symbol)\" is missing", at: current.position) }
    }

    private mutating func disjunction() throws -> Expression {
        depth += 1
        defer { depth -= 1 }
        guard depth < TemplateParser.deepest else {
            throw TemplateFailure.syntax("the expression is nested too deeply", at: current.position)
        }
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
        let inner = try comparison()
        return (0..<count).reduce(inner) { result, _ in .not(result) }
    }

    private mutating func comparison() throws -> Expression {
        let left = try concatenation()
        let position = current.position
        for symbol in ["==", "!=", ">=", "<=", ">", "<"] where accept(symbol) {
            return .compare(symbol, left, try concatenation(), position)
        }
        if acceptWord("in") { return .compare("in", left, try concatenation(), position) }
        if current.token == .name("not"), index + 1 < tokens.count, tokens[index + 1].token == .name("in") {
            index += 2
            return .not(.compare("in", left, try concatenation(), position))
        }
        return left
    }

    private mutating func concatenation() throws -> Expression {
        var left = try sum()
        while accept("~") { left = .joined(left, try sum()) }
        return left
    }

    private mutating func sum() throws -> Expression {
        var left = try postfix()
        while current.token == .symbol("+") {
            let position = current.position
            index += 1
            left = .add(left, try postfix(), position)
        }
        return left
    }

    private mutating func postfix() throws -> Expression {
        var result = try primary()
        while true {
            let position = current.position
            if accept(".") {
                guard case .name(let name) = current.token else {
                    throw TemplateFailure.syntax("a name must follow the dot", at: current.position)
                }
                index += 1
                result = .attribute(result, name, position)
            } else if accept("[") {
                result = try subscription(of: result, at: position)
            } else if accept("(") {
                result = .call(result, try arguments(), position)
            } else if accept("|") {
                guard case .name(let name) = current.token else {
                    throw TemplateFailure.syntax("a filter's name must follow", at: current.position)
                }
                index += 1
                result = .filter(result, name, accept("(") ? try arguments() : [], position)
            } else {
                return result
            }
        }
    }

    private mutating func subscription(of base: Expression, at position: TemplatePosition) throws -> Expression {
        if accept(":") {
            let end = current.token == .symbol("]") ? nil : try disjunction()
            try require("]")
            return .slice(base, nil, end, position)
        }
        let first = try disjunction()
        if accept(":") {
            let end = current.token == .symbol("]") ? nil : try disjunction()
            try require("]")
            return .slice(base, first, end, position)
        }
        try require("]")
        return .index(base, first, position)
    }

    private mutating func arguments() throws -> [Expression] {
        var result: [Expression] = []
        if accept(")") { return result }
        repeat { result.append(try disjunction()) } while accept(",")
        try require(")")
        return result
    }

    private mutating func primary() throws -> Expression {
        let placed = current
        index += 1
        switch placed.token {
        case .text(let value): return .literal(.text(value))
        case .integer(let value): return .literal(.integer(value))
        case .decimal(let value): return .literal(.decimal(value))
        case .name("true"), .name("True"): return .literal(.bool(true))
        case .name("false"), .name("False"): return .literal(.bool(false))
        case .name("none"), .name("None"): return .literal(.none)
        case .name(let name): return .name(name, placed.position)
        case .symbol("("):
            let inner = try disjunction()
            try require(")")
            return inner
        case .symbol("["):
            var items: [Expression] = []
            if accept("]") { return .list(items) }
            repeat { items.append(try disjunction()) } while accept(",")
            try require("]")
            return .list(items)
        case .symbol("-"):
            guard case .integer(let value) = current.token else {
                throw TemplateFailure.syntax("a number must follow the minus", at: current.position)
            }
            index += 1
            return .literal(.integer(-value))
        default:
            throw TemplateFailure.syntax("a value is missing", at: placed.position)
        }
    }
}
