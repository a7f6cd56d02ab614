import FarmModel
import Foundation
import TemplateEngine

/// A `boutique` directive as the JSON document that Boutiques tools read (https://boutiques.github.io, schema 0.5).
enum BoutiqueDescriptor {
    static func json(_ node: RecipeNode) throws -> String {
        let object = plain(node.value)
        let data = try JSONSerialization.data(withJSONObject: object, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data, as: UTF8.self) + "\n"
    }

    private static func plain(_ value: TemplateValue) -> Any {
        switch value {
        case .bool(let value): value
        case .integer(let value): value
        case .decimal(let value): value.isFinite ? value as Any : value.description
        case .text(let value): value
        case .list(let items), .tuple(let items): items.map(plain)
        case .mapping(let mapping):
            Dictionary(mapping.entries.map { ($0.key.printed, plain($0.value)) }) { first, _ in first }
        default: NSNull()
        }
    }
}
