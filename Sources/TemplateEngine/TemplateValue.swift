/// A value in a template; printed as Python prints it, because recipes count on that.
package indirect enum TemplateValue: Hashable, Sendable {
    case none
    case bool(Bool)
    case integer(Int)
    case decimal(Double)
    case text(String)
    case list([TemplateValue])
    case mapping([String: TemplateValue])

    /// What `{{ value }}` prints.
    package var printed: String {
        switch self {
        case .none: "None"
        case .bool(let value): value ? "True" : "False"
        case .integer(let value): String(value)
        case .decimal(let value): String(value)
        case .text(let value): value
        case .list(let items): "[\(items.map(\.quoted).joined(separator: ", "))]"
        case .mapping(let entries):
            "{\(entries.sorted { $0.key < $1.key }.map { "'\($0.key)': \($0.value.quoted)" }.joined(separator: ", "))}"
        }
    }

    /// Python's truth of a value.
    package var isTrue: Bool {
        switch self {
        case .none: false
        case .bool(let value): value
        case .integer(let value): value != 0
        case .decimal(let value): value != 0
        case .text(let value): !value.isEmpty
        case .list(let items): !items.isEmpty
        case .mapping(let entries): !entries.isEmpty
        }
    }

    private var quoted: String {
        if case .text(let value) = self { return value.contains("'") ? "\"\(value)\"" : "'\(value)'" }
        return printed
    }

    var kind: String {
        switch self {
        case .none: "None"
        case .bool: "a truth value"
        case .integer, .decimal: "a number"
        case .text: "a text"
        case .list: "a list"
        case .mapping: "a mapping"
        }
    }
}
