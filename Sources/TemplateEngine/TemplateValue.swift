/// A value in a template, with the meaning and the printed form that Python gives it, because recipes count on that.
package indirect enum TemplateValue: Sendable {
    case none
    case bool(Bool)
    case integer(Int)
    case decimal(Double)
    case text(String)
    case list([TemplateValue])
    case tuple([TemplateValue])
    case mapping(TemplateMapping)
    case object(any TemplateObject)
    case function(TemplateFunction)
    /// A name that stands for nothing; what that means is the dialect's.
    case undefined(String)

    /// What Python's `bool` says.
    package var isTrue: Bool {
        switch self {
        case .none, .undefined: false
        case .bool(let value): value
        case .integer(let value): value != 0
        case .decimal(let value): value != 0
        case .text(let value): !value.isEmpty
        case .list(let items), .tuple(let items): !items.isEmpty
        case .mapping(let mapping): !mapping.isEmpty
        case .object, .function: true
        }
    }

    /// A number's value, truth values included, as in Python.
    var integerValue: Int? {
        switch self {
        case .integer(let value): value
        case .bool(let value): value ? 1 : 0
        default: nil
        }
    }

    var decimalValue: Double? {
        if case .decimal(let value) = self { return value }
        return integerValue.map(Double.init)
    }

    var items: [TemplateValue]? {
        switch self {
        case .list(let items), .tuple(let items): items
        default: nil
        }
    }

    /// Whether it may be a key: what can change may not.
    var isHashable: Bool {
        switch self {
        case .list, .mapping: false
        case .tuple(let items): items.allSatisfy(\.isHashable)
        default: true
        }
    }

    /// For messages.
    var kind: String {
        switch self {
        case .none: "None"
        case .bool: "a truth value"
        case .integer, .decimal: "a number"
        case .text: "a text"
        case .list: "a list"
        case .tuple: "a tuple"
        case .mapping: "a mapping"
        case .object: "an object"
        case .function: "a function"
        case .undefined(let name): "the undefined \"\(name)\""
        }
    }
}

/// Something with attributes that templates can ask for.
package protocol TemplateObject: AnyObject, Sendable {
    /// The value of an attribute or method; `nil` when there is none of that name.
    func attribute(_ name: String) throws -> TemplateValue?
}

/// Something that templates can call.
package final class TemplateFunction: Sendable {
    let name: String
    let body: @Sendable (_ arguments: [TemplateValue], _ named: [String: TemplateValue]) throws -> TemplateValue

    package init(
        _ name: String,
        _ body: @escaping @Sendable (_ arguments: [TemplateValue], _ named: [String: TemplateValue]) throws -> TemplateValue
    ) {
        self.name = name
        self.body = body
    }

    /// A function of one text.
    package static func ofText(_ name: String, _ body: @escaping @Sendable (String) throws -> TemplateValue) -> TemplateValue {
        .function(
            TemplateFunction(name) { arguments, named in
                guard arguments.count == 1, named.isEmpty, case .text(let text) = arguments[0] else {
                    throw TemplateFailure.plain("\(name) wants one text")
                }
                return try body(text)
            })
    }
}

/// A mapping that keeps the order in which its keys came, as Python's `dict` does.
package struct TemplateMapping: Sendable, Hashable, ExpressibleByDictionaryLiteral {
    package private(set) var entries: [(key: TemplateValue, value: TemplateValue)] = []
    private var places: [TemplateValue: Int] = [:]

    package init() {}

    package init(_ entries: some Sequence<(TemplateValue, TemplateValue)>) {
        for (key, value) in entries { self[key] = value }
    }

    package init(dictionaryLiteral elements: (String, TemplateValue)...) {
        for (key, value) in elements { self[key] = value }
    }

    package var isEmpty: Bool { entries.isEmpty }
    package var count: Int { entries.count }

    package subscript(key: TemplateValue) -> TemplateValue? {
        get { places[key].map { entries[$0].value } }
        set {
            if let place = places[key] {
                if let newValue {
                    entries[place].value = newValue
                } else {
                    entries.remove(at: place)
                    places = Dictionary(entries.enumerated().map { ($0.element.key, $0.offset) }) { first, _ in first }
                }
            } else if let newValue {
                places[key] = entries.count
                entries.append((key, newValue))
            }
        }
    }

    package subscript(key: String) -> TemplateValue? {
        get { self[.text(key)] }
        set { self[.text(key)] = newValue }
    }

    package static func == (left: TemplateMapping, right: TemplateMapping) -> Bool {
        left.count == right.count && left.entries.allSatisfy { right[$0.key] == $0.value }
    }

    package func hash(into hasher: inout Hasher) { hasher.combine(entries.count) }
}

/// Python's equality: numbers by value, whatever their kind; texts by their code points.
extension TemplateValue: Hashable {
    package static func == (left: TemplateValue, right: TemplateValue) -> Bool {
        switch (left, right) {
        case (.none, .none), (.undefined, .undefined): true
        case (.text(let first), .text(let second)): first.utf8.elementsEqual(second.utf8)
        case (.list(let first), .list(let second)), (.tuple(let first), .tuple(let second)): first == second
        case (.mapping(let first), .mapping(let second)): first == second
        case (.object(let first), .object(let second)): first === second
        case (.function(let first), .function(let second)): first === second
        default:
            if let first = left.integerValue, let second = right.integerValue {
                first == second
            } else if let first = left.decimalValue, let second = right.decimalValue {
                first == second
            } else {
                false
            }
        }
    }

    package func hash(into hasher: inout Hasher) {
        if let number = decimalValue { return hasher.combine(number) }
        switch self {
        case .text(let text): for byte in text.utf8 { hasher.combine(byte) }
        case .list(let items), .tuple(let items): hasher.combine(items)
        case .mapping(let mapping): hasher.combine(mapping)
        case .object(let object): hasher.combine(ObjectIdentifier(object))
        case .function(let function): hasher.combine(ObjectIdentifier(function))
        default: hasher.combine(0)
        }
    }
}
