import FarmModel
import TemplateEngine

/// One mapping of a document, of which every key must be known.
package struct RecipeMapping {
    let document: RecipeDocument
    package let node: RecipeNode
    let what: String
    package let entries: [RecipeNode.Entry]

    /// - Parameter keys: those that may stand here; another is `recipe.unknown-key`.
    package init(_ node: RecipeNode, in document: RecipeDocument, what: String, keys: Set<String>?) throws {
        guard let entries = node.mapping else { throw document.fail("recipe.type", node, "\(what) must be a mapping") }
        self.document = document
        self.node = node
        self.what = what
        self.entries = entries
        for entry in entries {
            guard let key = entry.key.text else { throw document.fail("recipe.type", entry.key, "a key of \(what) is no text") }
            if let keys, !keys.contains(key) {
                let near = NearestWord.find(key, among: keys).map { "did you mean \"\($0)\"?" }
                throw document.fail(
                    "recipe.unknown-key", entry.key, "\"\(key)\" is not a key of \(what)",
                    hint: near ?? "known keys: \(keys.sorted().joined(separator: ", "))")
            }
        }
    }

    package subscript(key: String) -> RecipeNode? { entries.first { $0.key.text == key }?.value }

    package func require(_ key: String) throws -> RecipeNode {
        guard let value = self[key] else { throw document.fail("recipe.missing-key", node, "\(what) needs the key \"\(key)\"") }
        return value
    }

    /// A scalar as Python's `str` prints it; nothing for null.
    package func text(_ key: String) throws -> String? {
        guard let value = self[key], !value.isNull else { return nil }
        guard value.text != nil else { throw document.fail("recipe.type", value, "\"\(key)\" of \(what) must be a text") }
        return value.printed
    }

    package func requireText(_ key: String) throws -> String {
        let node = try require(key)
        guard let text = try text(key), !text.isEmpty else { throw document.fail("recipe.empty", node, "\"\(key)\" of \(what) is empty") }
        return text
    }

    /// A list of texts; one text alone counts as a list of one.
    package func texts(_ key: String) throws -> [String] {
        guard let value = self[key], !value.isNull else { return [] }
        guard let sequence = value.sequence else { return [try text(key) ?? ""] }
        return try sequence.map { item in
            guard item.text != nil else { throw document.fail("recipe.type", item, "an entry of \"\(key)\" of \(what) must be a text") }
            return item.printed
        }
    }

    package func nodes(_ key: String) throws -> [RecipeNode] {
        guard let value = self[key], !value.isNull else { return [] }
        guard let sequence = value.sequence else { throw document.fail("recipe.type", value, "\"\(key)\" of \(what) must be a list") }
        return sequence
    }

    package func flag(_ key: String) throws -> Bool? {
        guard let value = self[key], !value.isNull else { return nil }
        guard case .scalar(.bool(let flag), _) = value.content else {
            throw document.fail("recipe.type", value, "\"\(key)\" of \(what) must be true or false")
        }
        return flag
    }

    package func integer(_ key: String) throws -> Int? {
        guard let value = self[key], !value.isNull else { return nil }
        guard case .scalar(.integer(let number), _) = value.content else {
            throw document.fail("recipe.type", value, "\"\(key)\" of \(what) must be a whole number")
        }
        return number
    }
}

/// The word that somebody probably meant.
package enum NearestWord {
    /// The one that differs by the fewest edits, if by no more than two.
    package static func find(_ word: String, among words: some Sequence<String>) -> String? {
        words.map { (distance(Array(word.unicodeScalars), Array($0.unicodeScalars)), $0) }.filter { $0.0 <= 2 }.min { $0 < $1 }?.1
    }

    private static func distance(_ left: [Unicode.Scalar], _ right: [Unicode.Scalar]) -> Int {
        guard abs(left.count - right.count) <= 2 else { return .max }
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
}
