import FarmModel

/// A template in the Jinja subset that recipes and collections use. Bounded: depth, steps and the size of what comes out.
package struct Template: Sendable {
    /// How a template is read and what an undefined name means.
    package struct Dialect: Sendable, Hashable {
        package enum Undefined: Sendable, Hashable {
            /// Any use is an error.
            case strict
            /// Prints nothing and is false; only asking something of it is an error.
            case lenient
        }
        package var undefined: Undefined
        /// Whether `{% %}` may stand in it.
        package var allowsStatements: Bool

        package init(undefined: Undefined = .strict, allowsStatements: Bool = false) {
            self.undefined = undefined
            self.allowsStatements = allowsStatements
        }

        /// Texts of recipes: expressions, strict.
        package static let recipe = Dialect()
        /// Template files of collections: statements too, lenient.
        package static let collection = Dialect(undefined: .lenient, allowsStatements: true)
    }

    private let source: TemplateSource
    private let dialect: Dialect
    private let nodes: [TemplateNode]

    /// Parses a template; throws `template.syntax` and `template.limit` with line and column.
    package init(_ text: String, dialect: Dialect = .recipe) throws {
        source = try TemplateSource(text)
        self.dialect = dialect
        var assembler = try TemplateAssembler(source, allowsStatements: dialect.allowsStatements)
        nodes = try assembler.nodes()
    }

    /// Renders; throws `template.undefined`, `template.type` and `template.limit` with their place, and what functions of
    /// the scope throw.
    package func render(_ values: [String: TemplateValue]) throws -> String {
        // Most texts have nothing to render.
        if nodes.isEmpty { return "" }
        if nodes.count == 1, case .data(let text) = nodes[0] { return text }
        var renderer = TemplateRenderer(TemplateEvaluator(source: source, dialect: dialect, values: values))
        try renderer.render(nodes)
        return renderer.output
    }

    /// Whether anything in a text would be rendered.
    package static func isActive(_ text: String) -> Bool {
        var previous: UInt8 = 0
        for byte in text.utf8 {
            if previous == UInt8(ascii: "{"), "{%#".utf8.contains(byte) { return true }
            previous = byte
        }
        return false
    }

    /// What every template knows, as in Jinja.
    static let globals: [String: TemplateValue] = [
        "range": .function(
            TemplateFunction("range") { arguments, _ in
                let numbers = arguments.compactMap(\.integerValue)
                guard numbers.count == arguments.count, (1...3).contains(numbers.count) else {
                    throw TemplateFailure.plain("range wants one to three whole numbers")
                }
                let step = numbers.count == 3 ? numbers[2] : 1
                let (start, end) = numbers.count == 1 ? (0, numbers[0]) : (numbers[0], numbers[1])
                guard step != 0, start.magnitude < 1 << 40, end.magnitude < 1 << 40, step.magnitude < 1 << 40,
                    abs(end - start) / abs(step) <= 100_000
                else { throw TemplateFailure.plain("range gives at most 100000 numbers") }
                return .list(stride(from: start, to: end, by: step).map { .integer($0) })
            }),
        "dict": .function(
            TemplateFunction("dict") { arguments, named in
                guard arguments.isEmpty else { throw TemplateFailure.plain("dict wants named values") }
                return .mapping(TemplateMapping(named.sorted { $0.key < $1.key }.map { (.text($0.key), $0.value) }))
            }),
    ]
}

/// One rendering of a template.
private struct TemplateRenderer {
    var output = ""
    private var evaluator: TemplateEvaluator
    private var steps = 0
    private static let mostSteps = 100_000

    init(_ evaluator: TemplateEvaluator) { self.evaluator = evaluator }

    mutating func render(_ nodes: [TemplateNode]) throws {
        for node in nodes {
            try step()
            switch node {
            case .data(let text): output += text
            case .output(let expression, let offset):
                output += try evaluator.value(expression).printed
                try evaluator.checkSize(output.utf8.count, offset)
            case .branch(let branches, let otherwise):
                let chosen = try branches.first { try evaluator.isTrue($0.condition) }
                try render(chosen?.body ?? otherwise)
            case .loop(let loop): try render(loop)
            case .set(let targets, let expression, let offset): try assign(try evaluator.value(expression), to: targets, at: offset)
            case .setBlock(let target, let body):
                let before = output
                output = ""
                try render(body)
                evaluator.values[target] = .text(output)
                output = before
            }
        }
    }

    private mutating func step() throws {
        steps += 1
        guard steps <= TemplateRenderer.mostSteps else { throw evaluator.source.limit("the template does not come to an end", at: 0) }
    }

    private mutating func assign(_ value: TemplateValue, to targets: [String], at offset: Int) throws {
        if targets.count == 1 { return evaluator.values[targets[0]] = value }
        let parts = try evaluator.placed(offset) { try TemplateFilters.iterate(value) }
        guard parts.count == targets.count else {
            throw evaluator.source.type("\(parts.count) values for \(targets.count) names", at: offset)
        }
        for (target, part) in zip(targets, parts) { evaluator.values[target] = part }
    }

    private mutating func render(_ loop: TemplateNode.Loop) throws {
        let outside = evaluator.values
        var items = try evaluator.placed(loop.offset) { try TemplateFilters.iterate(try evaluator.value(loop.iterable)) }
        if let condition = loop.condition {
            var kept: [TemplateValue] = []
            for item in items {
                try assign(item, to: loop.targets, at: loop.offset)
                if try evaluator.isTrue(condition) { kept.append(item) }
                evaluator.values = outside
            }
            items = kept
        }
        if items.isEmpty { return try render(loop.otherwise) }
        for (index, item) in items.enumerated() {
            try step()
            // What a round sets is gone in the next, as in Jinja.
            evaluator.values = outside
            try assign(item, to: loop.targets, at: loop.offset)
            evaluator.values["loop"] = .mapping([
                "index": .integer(index + 1), "index0": .integer(index), "first": .bool(index == 0),
                "last": .bool(index == items.count - 1), "length": .integer(items.count), "revindex": .integer(items.count - index),
                "revindex0": .integer(items.count - index - 1), "previtem": index > 0 ? items[index - 1] : .undefined("previtem"),
                "nextitem": index + 1 < items.count ? items[index + 1] : .undefined("nextitem"),
            ])
            try render(loop.body)
        }
        evaluator.values = outside
    }
}
