import TemplateEngine
package import FarmModel
import Yams

/// A YAML document whose every complaint names the file, the line and the key.
package struct RecipeDocument: Sendable {
    package let path: String
    package let root: RecipeNode
    /// What its errors are about, the first part of their codes.
    let subject: String

    /// No recipe comes near these; they bound what a hostile one can cost.
    private static let longest = 4 << 20
    private static let deepest = 64
    private static let mostNodes = 200_000

    /// Parses YAML; throws `recipe.yaml` with line and column.
    ///
    /// - Parameter subject: what errors are about, in place of a recipe.
    package init(_ bytes: [UInt8], path: String, subject: String = "recipe") throws {
        self.path = path
        self.subject = subject
        do { root = try RecipeDocument.parse(bytes, path: path) } catch let error as FarmError {
            throw FarmError(RecipeDocument.code(error.code, subject), error.category, error.message, hint: error.hint)
        }
    }

    private static func code(_ code: FarmError.Code, _ subject: String) -> FarmError.Code {
        subject == "recipe" ? code : FarmError.Code(rawValue: subject + code.rawValue.dropFirst("recipe".count))
    }

    private static func parse(_ bytes: [UInt8], path: String) throws -> RecipeNode {
        guard bytes.count <= RecipeDocument.longest else {
            throw FarmError("recipe.yaml", .invalid, "\(path) is longer than \(RecipeDocument.longest) bytes")
        }
        try RecipeDocument.checkDepth(bytes, path: path)
        // A byte order mark says nothing in UTF-8.
        let text = String(decoding: bytes.starts(with: [0xEF, 0xBB, 0xBF]) ? bytes[3...] : bytes[...], as: UTF8.self)
        do {
            guard let node = try Yams.compose(yaml: text) else { throw FarmError("recipe.yaml", .invalid, "\(path) is empty") }
            var count = 0
            return try RecipeDocument.convert(node, path: path, depth: 0, count: &count)
        } catch let error as YamlError {
            throw FarmError("recipe.yaml", .invalid, "\(path):\(RecipeDocument.explain(error))", hint: "mend the YAML there")
        }
    }

    package func fail(_ code: FarmError.Code, _ node: RecipeNode, _ message: String, hint: String? = nil) -> FarmError {
        FarmError(RecipeDocument.code(code, subject), .invalid, "\(path):\(node.line): \(message)", hint: hint)
    }

    /// The parser below calls itself for each level, so that depth is bounded before it begins: brackets, and the `- - -`
    /// and `? ? ?` of one line.
    private static func checkDepth(_ bytes: [UInt8], path: String) throws {
        var open = 0
        var marks = 0
        var line = 1
        var indent = 0
        var isLeading = true
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\n"):
                line += 1
                (marks, indent, isLeading) = (0, 0, true)
            case UInt8(ascii: "["), UInt8(ascii: "{"):
                open += 1
                isLeading = false
            case UInt8(ascii: "]"), UInt8(ascii: "}"):
                open = max(0, open - 1)
                isLeading = false
            case UInt8(ascii: "-"), UInt8(ascii: "?"), UInt8(ascii: ":"): if isLeading { marks += 1 }
            case UInt8(ascii: " "): if isLeading { indent += 1 }
            default: isLeading = false
            }
            // Brackets in texts and scripts count too, so that the bound is far above the depth of nodes.
            guard open < 5000, marks < 200, indent < 2000 else {
                throw FarmError("recipe.yaml", .invalid, "\(path):\(line): the document is nested too deeply")
            }
        }
    }

    private static func convert(_ node: Node, path: String, depth: Int, count: inout Int) throws -> RecipeNode {
        count += 1
        let (line, column) = (node.mark?.line ?? 1, node.mark?.column ?? 1)
        guard count <= mostNodes, depth <= deepest else {
            throw FarmError(
                "recipe.yaml", .invalid, "\(path):\(line): the document is \(depth > deepest ? "nested too deeply" : "too large")",
                hint: "aliases count as often as they are used")
        }
        switch node {
        case .scalar(let scalar):
            let value = scalar.style == .plain ? PlainScalar.value(scalar.string) : .text(scalar.string)
            return RecipeNode(.scalar(value, text: scalar.string), line: line, column: column)
        case .sequence(let sequence):
            let items = try sequence.map { try convert($0, path: path, depth: depth + 1, count: &count) }
            return RecipeNode(.sequence(items), line: line, column: column)
        case .mapping(let mapping):
            let entries = try mapping.map { key, value in
                RecipeNode.Entry(
                    key: try convert(key, path: path, depth: depth + 1, count: &count),
                    value: try convert(value, path: path, depth: depth + 1, count: &count))
            }
            return RecipeNode(.mapping(entries), line: line, column: column)
        case .alias: throw FarmError("recipe.yaml", .invalid, "\(path):\(line): an alias stands for nothing")
        }
    }

    private static func explain(_ error: YamlError) -> String {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            "\(mark.line):\(mark.column): \(problem)"
        case .duplicatedKeysInMapping(let duplicates, let context):
            "\(context.mark.line): a key stands twice: \(duplicates.map { "\($0)" }.joined(separator: ", "))"
        default: " \(error)"
        }
    }
}
