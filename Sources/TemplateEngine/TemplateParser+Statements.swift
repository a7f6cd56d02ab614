import FarmModel

/// A part of a parsed template.
indirect enum TemplateNode: Sendable {
    case data(String)
    case output(Expression, Int)
    case branch([(condition: Expression, body: [TemplateNode])], otherwise: [TemplateNode])
    case loop(Loop)
    case set([String], Expression, Int)
    case setBlock(String, [TemplateNode])

    struct Loop: Sendable {
        var targets: [String]
        var iterable: Expression
        var condition: Expression?
        var body: [TemplateNode]
        var otherwise: [TemplateNode]
        var offset: Int
    }
}

/// Puts pieces together to nodes: the statements of Jinja that the collections' templates use.
struct TemplateAssembler {
    private let source: TemplateSource
    private let pieces: [TemplateLexer.Piece]
    private let allowsStatements: Bool
    private var index = 0
    private var depth = 0
    private static let deepest = 50

    init(_ source: TemplateSource, allowsStatements: Bool) throws {
        self.source = source
        self.allowsStatements = allowsStatements
        var lexer = TemplateLexer(source)
        pieces = try lexer.pieces()
    }

    mutating func nodes() throws -> [TemplateNode] {
        let result = try nodes(until: [])
        return result.nodes
    }

    /// Nodes up to a statement that begins with one of the words; that statement's parser comes back, past the word.
    private mutating func nodes(until words: Set<String>) throws -> (nodes: [TemplateNode], word: String, parser: TemplateParser?) {
        depth += 1
        defer { depth -= 1 }
        var result: [TemplateNode] = []
        while index < pieces.count {
            let piece = pieces[index]
            index += 1
            switch piece {
            case .data(let text): result.append(.data(text))
            case .expression(let tokens):
                guard tokens.count > 1 else { throw source.syntax("an expression is missing", at: tokens[0].offset) }
                var parser = TemplateParser(tokens, of: source)
                result.append(.output(try parser.whole(), tokens[0].offset))
            case .statement(let tokens):
                var parser = TemplateParser(tokens, of: source)
                let offset = parser.current.offset
                guard allowsStatements else {
                    throw source.syntax("statements ({% %}) are not understood here; use {{ }} and condition", at: offset)
                }
                guard depth < TemplateAssembler.deepest else { throw source.limit("statements are nested too deeply", at: offset) }
                let word = try parser.requireName()
                if words.contains(word) { return (result, word, parser) }
                result.append(try statement(word, &parser, at: offset))
            }
        }
        guard words.isEmpty else {
            throw source.syntax("\(words.sorted().last.map { "{% \($0) %}" } ?? "") is missing at the end", at: source.bytes.count)
        }
        return (result, "", nil)
    }

    private mutating func statement(_ word: String, _ parser: inout TemplateParser, at offset: Int) throws -> TemplateNode {
        switch word {
        case "if": return try branch(&parser)
        case "for": return try loop(&parser, at: offset)
        case "set": return try set(&parser, at: offset)
        default:
            throw source.syntax("\"\(word)\" is no statement that is understood; known: if, for, set, raw", at: offset)
        }
    }

    private mutating func branch(_ parser: inout TemplateParser) throws -> TemplateNode {
        var branches: [(Expression, [TemplateNode])] = []
        var condition = try parser.wholeCondition()
        while true {
            var (body, word, next) = try nodes(until: ["elif", "else", "endif"])
            branches.append((condition, body))
            if word == "elif", var parser = next {
                condition = try parser.wholeCondition()
                continue
            }
            try next?.requireEnd()
            var otherwise: [TemplateNode] = []
            if word == "else" {
                (otherwise, word, next) = try nodes(until: ["endif"])
                try next?.requireEnd()
            }
            return .branch(branches, otherwise: otherwise)
        }
    }

    private mutating func loop(_ parser: inout TemplateParser, at offset: Int) throws -> TemplateNode {
        let targets = try names(&parser)
        guard parser.acceptWord("in") else { throw source.syntax("\"in\" is missing", at: parser.current.offset) }
        // A bare `if` after the iterable filters; it is no inline choice.
        var items = [try parser.disjunction()]
        while parser.accept(",") { items.append(try parser.disjunction()) }
        let iterable = items.count == 1 ? items[0] : .tuple(items)
        let condition = parser.acceptWord("if") ? try parser.expression() : nil
        if parser.acceptWord("recursive") { throw source.syntax("recursive loops are not understood", at: offset) }
        try parser.requireEnd()
        var (body, word, next) = try nodes(until: ["else", "endfor"])
        try next?.requireEnd()
        var otherwise: [TemplateNode] = []
        if word == "else" {
            (otherwise, word, next) = try nodes(until: ["endfor"])
            try next?.requireEnd()
        }
        return .loop(.init(targets: targets, iterable: iterable, condition: condition, body: body, otherwise: otherwise, offset: offset))
    }

    private mutating func set(_ parser: inout TemplateParser, at offset: Int) throws -> TemplateNode {
        let targets = try names(&parser)
        if parser.accept("=") { return .set(targets, try parser.whole(), offset) }
        try parser.requireEnd()
        guard targets.count == 1 else { throw source.syntax("\"=\" is missing", at: offset) }
        let (body, _, next) = try nodes(until: ["endset"])
        try next?.requireEnd()
        return .setBlock(targets[0], body)
    }

    private func names(_ parser: inout TemplateParser) throws -> [String] {
        let isBracketed = parser.accept("(")
        var names = [try parser.requireName()]
        while parser.accept(",") { names.append(try parser.requireName()) }
        if isBracketed { try parser.require(")") }
        return names
    }
}
