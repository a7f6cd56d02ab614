import FarmModel
import Foundation
import Yams

/// A YAML document whose every complaint names the file, the line and the key.
struct RecipeDocument {
    let path: String
    let root: Node

    /// No recipe comes near this; it bounds what a hostile one can cost.
    private static let longest = 4 << 20

    /// Parses YAML; throws `recipe.yaml` with the line.
    init(_ bytes: [UInt8], path: String) throws {
        self.path = path
        guard bytes.count <= RecipeDocument.longest else {
            throw FarmError("recipe.yaml", .invalid, "\(path) is longer than \(RecipeDocument.longest) bytes")
        }
        let text = String(decoding: bytes, as: UTF8.self)
        do {
            guard let node = try Yams.compose(yaml: text) else {
                throw FarmError("recipe.yaml", .invalid, "\(path) is empty")
            }
            var count = 0
            try RecipeDocument.check(node, path: path, depth: 0, count: &count)
            root = node
        } catch let error as YamlError {
            throw FarmError("recipe.yaml", .invalid, "\(path): \(RecipeDocument.explain(error))", hint: "mend the YAML there")
        }
    }

    /// Aliases make small texts large, and every level costs stack: both are bounded before anything walks the document.
    private static func check(_ node: Node, path: String, depth: Int, count: inout Int) throws {
        count += 1
        guard count <= 200_000, depth <= 64 else {
            throw FarmError(
                "recipe.yaml", .invalid, "\(path):\(node.mark?.line ?? 1): the document is nested too deeply or too large",
                hint: "an alias counts as often as it is used")
        }
        if let items = node.sequence { for item in items { try check(item, path: path, depth: depth + 1, count: &count) } }
        if let mapping = node.mapping {
            for (key, value) in mapping {
                try check(key, path: path, depth: depth + 1, count: &count)
                try check(value, path: path, depth: depth + 1, count: &count)
            }
        }
    }

    func fail(_ code: FarmError.Code, _ node: Node, _ message: String, hint: String? = nil) -> FarmError {
        FarmError(code, .invalid, "\(path):\(node.mark?.line ?? 1): \(message)", hint: hint)
    }

    private static func explain(_ error: YamlError) -> String {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            "line \(mark.line), column \(mark.column): \(problem)"
        case .duplicatedKeysInMapping(let duplicates, _):
            "a key stands twice: \(duplicates.map { "\($0)" }.joined(separator: ", "))"
        default: "\(error)"
        }
    }
}

/// One mapping of a document, of which every key must be known.
struct RecipeMapping {
    let document: RecipeDocument
    let node: Node
    let what: String
    private let entries: [(key: String, keyNode: Node, value: Node)]

    /// - Parameter keys: those that may stand here; another is `recipe.unknown-key`.
    init(_ node: Node, in document: RecipeDocument, what: String, keys: Set<String>?) throws {
        guard let mapping = node.mapping else {
            throw document.fail("recipe.type", node, "\(what) must be a mapping")
        }
        self.document = document
        self.node = node
        self.what = what
        var entries: [(String, Node, Node)] = []
        for (keyNode, value) in mapping {
            guard let key = keyNode.string else { throw document.fail("recipe.type", keyNode, "a key of \(what) is no text") }
            if let keys, !keys.contains(key) {
                let near = RecipeMapping.nearest(to: key, among: keys).map { "did you mean \"\($0)\"?" }
                throw document.fail(
                    "recipe.unknown-key", keyNode, "\"\(key)\" is not a key of \(what)",
                    hint: near ?? "known keys: \(keys.sorted().joined(separator: ", "))")
            }
            entries.append((key, keyNode, value))
        }
        self.entries = entries
    }

    var keys: [String] { entries.map(\.key) }

    subscript(key: String) -> Node? { entries.first { $0.key == key }?.value }

    func keyNode(_ key: String) -> Node { entries.first { $0.key == key }?.keyNode ?? node }

    func require(_ key: String) throws -> Node {
        guard let value = self[key] else {
            throw document.fail("recipe.missing-key", node, "\(what) needs the key \"\(key)\"")
        }
        return value
    }

    /// A text; numbers and truth values are taken as they are written.
    func text(_ key: String) throws -> String? {
        guard let value = self[key] else { return nil }
        return try RecipeMapping.text(value, in: document, what: "\"\(key)\" of \(what)")
    }

    func requireText(_ key: String) throws -> String {
        _ = try require(key)
        return try text(key) ?? ""
    }

    /// A list of texts; one text alone counts as a list of one.
    func texts(_ key: String) throws -> [String] {
        guard let value = self[key] else { return [] }
        guard let sequence = value.sequence else { return [try text(key) ?? ""] }
        return try sequence.map { try RecipeMapping.text($0, in: document, what: "an entry of \"\(key)\" of \(what)") }
    }

    func flag(_ key: String) throws -> Bool? {
        guard let value = self[key] else { return nil }
        guard let flag = value.bool else { throw document.fail("recipe.type", value, "\"\(key)\" of \(what) must be true or false") }
        return flag
    }

    func integer(_ key: String) throws -> Int? {
        guard let value = self[key] else { return nil }
        guard let number = value.int else { throw document.fail("recipe.type", value, "\"\(key)\" of \(what) must be a number") }
        return number
    }

    static func text(_ node: Node, in document: RecipeDocument, what: String) throws -> String {
        guard let text = node.scalar?.string else { throw document.fail("recipe.type", node, "\(what) must be a text") }
        return text
    }

    /// The key that differs from `word` by the fewest edits, if by no more than two.
    private static func nearest(to word: String, among keys: Set<String>) -> String? {
        func distance(_ left: [Character], _ right: [Character]) -> Int {
            var row = Array(0...right.count)
            for (i, a) in left.enumerated() {
                var previous = row[0]
                row[0] = i + 1
                for (j, b) in right.enumerated() {
                    let cost = previous + (a == b ? 0 : 1)
                    previous = row[j + 1]
                    row[j + 1] = min(cost, row[j] + 1, previous + 1)
                }
            }
            return row[right.count]
        }
        return keys.map { (distance(Array(word), Array($0)), $0) }.filter { $0.0 <= 2 }.min { $0 < $1 }?.1
    }
}
