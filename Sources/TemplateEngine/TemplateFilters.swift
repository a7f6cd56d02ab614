import FarmModel
import Foundation

/// Jinja's built-in filters, those that recipes and templates have a use for (Jinja 3 `filters.py`).
enum TemplateFilters {
    static let names: [String] = [
        "abs", "capitalize", "count", "d", "default", "first", "float", "int", "join", "last", "length", "list", "lower", "map", "max",
        "min", "reject", "replace", "reverse", "round", "select", "sort", "string", "sum", "title", "trim", "unique", "upper", "items",
    ].sorted()

    static func apply(
        _ name: String, to value: TemplateValue, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> TemplateValue {
        switch name {
        case "lower": return .text(value.printed.lowercased())
        case "upper": return .text(value.printed.uppercased())
        case "capitalize": return .text(TemplateTexts.capitalize(value.printed))
        case "title": return .text(title(value.printed))
        case "trim": return .text(TemplateTexts.strip(value.printed, try text(arguments.first, or: nil)))
        case "string": return .text(value.printed)
        case "replace":
            guard arguments.count >= 2 else { throw TemplateFailure.plain("replace wants two texts") }
            let limit = arguments.dropFirst(2).first ?? named["count"]
            return .text(
                TemplateTexts.replace(
                    arguments[0].printed, with: arguments[1].printed, in: value.printed, limit: limit?.integerValue ?? -1))
        case "join":
            let separator = arguments.first ?? named["d"] ?? .text("")
            let attribute = arguments.dropFirst().first ?? named["attribute"]
            let items = try iterate(value).map { item in attribute.map { get($0, of: item) } ?? item }
            return .text(items.map(\.printed).joined(separator: separator.printed))
        case "length", "count": return .integer(try length(value))
        case "list": return .list(try iterate(value))
        case "first": return try iterate(value).first ?? .undefined("the first of nothing")
        case "last": return try iterate(value).last ?? .undefined("the last of nothing")
        case "reverse":
            if case .text(let text) = value { return .text(String(String.UnicodeScalarView(text.unicodeScalars.reversed()))) }
            return .list(try iterate(value).reversed())
        case "items":
            guard case .mapping(let mapping) = value else { throw TemplateFailure.plain("items wants a mapping, not \(value.kind)") }
            return .list(mapping.entries.map { .tuple([$0.key, $0.value]) })
        default: return try further(name, to: value, arguments, named)
        }
    }

    private static func further(
        _ name: String, to value: TemplateValue, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> TemplateValue {
        switch name {
        case "int": return try integer(value, arguments.first ?? named["default"] ?? .integer(0))
        case "float": return try decimal(value, arguments.first ?? named["default"] ?? .decimal(0))
        case "abs":
            if let number = value.integerValue { return .integer(number == .min ? .max : abs(number)) }
            guard let number = value.decimalValue else { throw TemplateFailure.plain("\(value.kind) has no absolute value") }
            return .decimal(abs(number))
        case "round": return try round(value, arguments, named)
        case "sum":
            var total = named["start"] ?? .integer(0)
            let evaluator = TemplateEvaluator(source: try TemplateSource(""), dialect: .init(), values: [:])
            for item in try iterate(value) { total = try evaluator.arithmetic("+", total, item, 0) }
            return total
        case "min", "max":
            let items = try iterate(value)
            let ignoresCase = !(named["case_sensitive"]?.isTrue ?? false)
            let sorted = try TemplateOrder.sorted(items, reversed: name == "max") { folded($0, ignoresCase) }
            return sorted.first ?? .undefined("the \(name) of nothing")
        case "sort":
            let reversed = (arguments.first ?? named["reverse"])?.isTrue ?? false
            let ignoresCase = !((arguments.dropFirst().first ?? named["case_sensitive"])?.isTrue ?? false)
            let attribute = arguments.dropFirst(2).first ?? named["attribute"]
            return .list(
                try TemplateOrder.sorted(try iterate(value), reversed: reversed) { item in
                    folded(attribute.map { get($0, of: item) } ?? item, ignoresCase)
                })
        case "unique":
            var seen: Set<TemplateValue> = []
            let ignoresCase = !((arguments.first ?? named["case_sensitive"])?.isTrue ?? false)
            return .list(
                try iterate(value).filter { item in
                    guard item.isHashable else { throw TemplateFailure.plain("\(item.kind) cannot be told apart by unique") }
                    return seen.insert(folded(item, ignoresCase)).inserted
                })
        // What is false is not gone through, whatever it is.
        case "map": return .list(value.isTrue ? try map(value, arguments, named) : [])
        case "select", "reject":
            if !value.isTrue { return .list([]) }
            guard let test = arguments.first else { return .list(try iterate(value).filter { $0.isTrue == (name == "select") }) }
            guard case .text(let test) = test else { throw TemplateFailure.plain("\(name) wants a test's name") }
            return .list(
                try iterate(value).filter { try TemplateChecks.holds(test, $0, Array(arguments.dropFirst())) == (name == "select") })
        default:
            throw TemplateFailure.plain("there is no filter \"\(name)\"", hint: "known: \(names.joined(separator: ", "))")
        }
    }

    /// What a `for` would go through.
    static func iterate(_ value: TemplateValue) throws -> [TemplateValue] {
        switch value {
        case .list(let items), .tuple(let items): return items
        case .mapping(let mapping): return mapping.entries.map(\.key)
        case .text(let text): return text.unicodeScalars.map { .text(String($0)) }
        case .undefined: return []
        default: throw TemplateFailure.plain("\(value.kind) has no elements")
        }
    }

    private static func length(_ value: TemplateValue) throws -> Int {
        if case .text(let text) = value { return text.unicodeScalars.count }
        return try iterate(value).count
    }

    private static func text(_ value: TemplateValue?, or missing: String?) throws -> String? {
        switch value {
        case nil, .some(.none): return missing
        case .text(let text): return text
        case let other?: throw TemplateFailure.plain("a text is wanted, not \(other.kind)")
        }
    }

    private static func folded(_ value: TemplateValue, _ ignoresCase: Bool) -> TemplateValue {
        if ignoresCase, case .text(let text) = value { return .text(text.lowercased()) }
        return value
    }

    private static func get(_ key: TemplateValue, of value: TemplateValue) -> TemplateValue {
        switch value {
        case .mapping(let mapping): return mapping[key] ?? .undefined(key.printed)
        case .list(let items), .tuple(let items):
            guard let place = key.integerValue, items.indices.contains(place) else { return .undefined(key.printed) }
            return items[place]
        default: return .undefined(key.printed)
        }
    }

    private static func map(
        _ value: TemplateValue, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> [TemplateValue] {
        if let attribute = named["attribute"] {
            return try iterate(value).map { item in
                let found = get(attribute, of: item)
                if case .undefined = found { return named["default"] ?? found }
                return found
            }
        }
        guard case .text(let filter)? = arguments.first else { throw TemplateFailure.plain("map wants a filter's name or attribute=") }
        return try iterate(value).map { try apply(filter, to: $0, Array(arguments.dropFirst()), named) }
    }

    /// Python's `int()`, falling back to `missing`.
    private static func integer(_ value: TemplateValue, _ missing: TemplateValue) throws -> TemplateValue {
        if let number = value.integerValue { return .integer(number) }
        if case .text(let text) = value {
            let plain = TemplateTexts.strip(text, nil)
            if let number = Int(plain.replacingUnderscores) { return .integer(number) }
            if let number = number(plain), number.isFinite, number.magnitude < 9e18 { return .integer(Int(number)) }
            return missing
        }
        if let number = value.decimalValue, number.isFinite, number.magnitude < 9e18 { return .integer(Int(number)) }
        return missing
    }

    private static func decimal(_ value: TemplateValue, _ missing: TemplateValue) throws -> TemplateValue {
        if let number = value.decimalValue { return .decimal(number) }
        if case .text(let text) = value, let number = number(TemplateTexts.strip(text, nil)) { return .decimal(number) }
        return missing
    }

    /// A number as Python's `float` reads it.
    private static func number(_ text: String) -> Double? {
        guard text.utf8.allSatisfy({ $0.isDigit || "+-.eE_".utf8.contains($0) }) else {
            let word = text.lowercased().drop { $0 == "+" || $0 == "-" }
            guard ["inf", "infinity", "nan"].contains(String(word)) else { return nil }
            return word == "nan" ? .nan : text.hasPrefix("-") ? -.infinity : .infinity
        }
        return Double(text.replacingUnderscores)
    }

    private static func round(
        _ value: TemplateValue, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> TemplateValue {
        guard let number = value.decimalValue else { throw TemplateFailure.plain("\(value.kind) cannot be rounded") }
        let digits = (arguments.first ?? named["precision"])?.integerValue ?? 0
        let method = (arguments.dropFirst().first ?? named["method"])?.printed ?? "common"
        guard abs(digits) <= 15 else { throw TemplateFailure.plain("round takes at most 15 digits") }
        let scale = pow(10, Double(digits))
        switch method {
        case "ceil": return .decimal((number * scale).rounded(.up) / scale)
        case "floor": return .decimal((number * scale).rounded(.down) / scale)
        case "common":
            if let whole = value.integerValue, digits >= 0 { return .integer(whole) }
            if let whole = value.integerValue { return .integer(Int((Double(whole) * scale).rounded(.toNearestOrEven) / scale)) }
            // Rounded on the decimal digits, half to even only when the digits say exactly half.
            guard digits >= 0 else { return .decimal((number * scale).rounded(.toNearestOrEven) / scale) }
            return .decimal(Double(String(format: "%.\(digits)f", number)) ?? number)
        default: throw TemplateFailure.plain("round knows common, ceil and floor, not \"\(method)\"")
        }
    }

    /// Jinja's own: a large letter after white space, hyphens and opening brackets only.
    private static func title(_ text: String) -> String {
        var result = ""
        var isStart = true
        for scalar in text.unicodeScalars {
            result += isStart ? String(scalar).uppercased() : String(scalar).lowercased()
            isStart = TemplateTexts.isSpace(scalar) || "-({[<".unicodeScalars.contains(scalar)
        }
        return result
    }
}

extension String {
    /// Digits with single underscores between them read without them.
    fileprivate var replacingUnderscores: String {
        guard contains("_"), !hasPrefix("_"), !hasSuffix("_"), !contains("__") else { return self }
        return filter { $0 != "_" }
    }
}

/// Jinja's built-in tests, what may follow `is` (Jinja 3 `tests.py`).
enum TemplateChecks {
    /// Tests of what a value is; an undefined one is none of it.
    static let ofKind: Set<String> = [
        "none", "boolean", "integer", "float", "string", "mapping", "sequence", "number", "callable", "true", "false",
    ]

    static func holds(_ name: String, _ value: TemplateValue, _ arguments: [TemplateValue]) throws -> Bool {
        switch (name, value) {
        case ("none", .none), ("boolean", .bool), ("integer", .integer), ("float", .decimal), ("string", .text), ("mapping", .mapping),
            ("sequence", .list), ("sequence", .tuple), ("sequence", .text), ("sequence", .mapping), ("iterable", .list),
            ("iterable", .tuple), ("iterable", .text), ("iterable", .mapping), ("number", .integer), ("number", .decimal),
            ("number", .bool), ("callable", .function), ("true", .bool(true)), ("false", .bool(false)):
            return true
        case ("none", _), ("boolean", _), ("integer", _), ("float", _), ("string", _), ("mapping", _), ("sequence", _), ("iterable", _),
            ("number", _), ("callable", _), ("true", _), ("false", _):
            return false
        case ("lower", _): return TemplateMethodsCase.isLower(value.printed)
        case ("upper", _): return TemplateMethodsCase.isUpper(value.printed)
        case ("odd", _), ("even", _):
            guard let number = value.decimalValue else { throw TemplateFailure.plain("\(value.kind) is neither odd nor even") }
            return number.truncatingRemainder(dividingBy: 2).magnitude == (name == "odd" ? 1 : 0)
        default: break
        }
        guard let other = arguments.first else { throw TemplateFailure.plain("there is no test \"\(name)\" without an argument") }
        switch name {
        case "divisibleby":
            guard let number = value.decimalValue, let divisor = other.decimalValue, divisor != 0 else {
                throw TemplateFailure.plain("divisibleby wants numbers, and not zero")
            }
            return number.truncatingRemainder(dividingBy: divisor) == 0
        case "eq", "equalto", "==": return value == other
        case "ne", "!=": return value != other
        case "in": return try TemplateOrder.contains(other, value)
        case "lt", "lessthan", "<": return try (TemplateOrder.compare(value, other) ?? 1) < 0
        case "le", "<=": return try (TemplateOrder.compare(value, other) ?? 1) <= 0
        case "gt", "greaterthan", ">": return try (TemplateOrder.compare(value, other) ?? -1) > 0
        case "ge", ">=": return try (TemplateOrder.compare(value, other) ?? -1) >= 0
        default: throw TemplateFailure.plain("there is no test \"\(name)\"")
        }
    }
}

private enum TemplateMethodsCase {
    static func isLower(_ text: String) -> Bool { text.unicodeScalars.contains(where: \.properties.isCased) && text == text.lowercased() }
    static func isUpper(_ text: String) -> Bool { text.unicodeScalars.contains(where: \.properties.isCased) && text == text.uppercased() }
}
