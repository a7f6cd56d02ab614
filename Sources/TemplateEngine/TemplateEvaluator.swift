import FarmModel

/// Evaluates expressions against a scope. What Python would raise is thrown with its place.
struct TemplateEvaluator {
    let source: TemplateSource
    let dialect: Template.Dialect
    var values: [String: TemplateValue]

    /// Texts and lists beyond this are refused.
    static let largest = 16 << 20

    /// A value that may be undefined.
    func lenient(_ expression: Expression) throws -> TemplateValue {
        switch expression {
        case .name(let name, _): values[name] ?? Template.globals[name] ?? .undefined(name)
        case .attribute(let base, let name, let offset): try attribute(name, of: defined(base), at: offset)
        case .index(let base, let key, let offset): try element(of: defined(base), at: lenient(key), offset)
        case .choice(let condition, let then, let otherwise, _):
            if try isTrue(condition) {
                try lenient(then)
            } else if let otherwise {
                try lenient(otherwise)
            } else {
                .undefined("the result of an inline if without else")
            }
        case .either(let left, let right): try lenient(isTrue(left) ? left : right)
        case .both(let left, let right): try lenient(isTrue(left) ? right : left)
        case .call(let callee, let arguments, let offset): try call(callee, arguments, offset)
        case .filter(let base, let name, let arguments, let offset): try filter(base, name, arguments, offset)
        default: try solid(expression)
        }
    }

    /// A value; undefined is an error in the strict dialect.
    func value(_ expression: Expression) throws -> TemplateValue {
        let value = try lenient(expression)
        if case .undefined(let name) = value, dialect.undefined == .strict {
            throw source.undefined(name, at: expression.offset)
        }
        return value
    }

    /// A value that must be defined in either dialect, because something is asked of it.
    private func defined(_ expression: Expression) throws -> TemplateValue {
        let value = try lenient(expression)
        if case .undefined(let name) = value { throw source.undefined(name, at: expression.offset) }
        return value
    }

    func isTrue(_ expression: Expression) throws -> Bool { try value(expression).isTrue }

    private func solid(_ expression: Expression) throws -> TemplateValue {
        switch expression {
        case .literal(let value): return value
        // An undefined element is no error until something is asked of it.
        case .list(let items): return .list(try items.map(lenient))
        case .tuple(let items): return .tuple(try items.map(lenient))
        case .mapping(let entries, let offset):
            var mapping = TemplateMapping()
            for entry in entries { mapping[try key(value(entry.key), at: offset)] = try lenient(entry.value) }
            return .mapping(mapping)
        case .not(let inner): return .bool(!(try isTrue(inner)))
        case .slice(let base, let from, let to, let step, let offset):
            return try slice(defined(base), from.map(value), to.map(value), step.map(value), offset)
        case .test(let base, let name, let arguments, let offset): return .bool(try test(base, name, arguments, offset))
        case .compare(let first, let operands, let offset): return .bool(try compare(first, operands, offset))
        case .joined(let parts, let offset):
            let text = try parts.map { try value($0).printed }.joined()
            try checkSize(text.utf8.count, offset)
            return .text(text)
        case .arithmetic(let symbol, let left, let right, let offset):
            let first = try defined(left)
            // Python takes what can be subscripted for a mapping that a text may leave alone.
            if symbol == "%", case .text(let text) = first, case .undefined = try lenient(right) {
                return .text(try placed(offset) { try TemplateTexts.format(text, .list([])) })
            }
            return try arithmetic(symbol, first, defined(right), offset)
        case .sign(let symbol, let inner, let offset):
            let value = try defined(inner)
            guard symbol == "-" else {
                guard value.decimalValue != nil else { throw source.type("\(value.kind) has no sign", at: offset) }
                return value.integerValue.map { .integer($0) } ?? value
            }
            return try arithmetic("-", .integer(0), value, offset)
        default: return try lenient(expression)
        }
    }

    /// A mapping's key must be something that stays as it is.
    private func key(_ value: TemplateValue, at offset: Int) throws -> TemplateValue {
        guard value.isHashable else { throw source.type("\(value.kind) cannot be a key", at: offset) }
        return value
    }

    func checkSize(_ size: Int, _ offset: Int) throws {
        guard size <= TemplateEvaluator.largest else { throw source.limit("the result is too large", at: offset) }
    }

    // MARK: access

    private func attribute(_ name: String, of base: TemplateValue, at offset: Int) throws -> TemplateValue {
        switch base {
        case .object(let object): return try placed(offset) { try object.attribute(name) ?? .undefined(name) }
        case .mapping(let mapping): return mapping[name] ?? .undefined(name)
        default: return .undefined(name)
        }
    }

    private func element(of base: TemplateValue, at key: TemplateValue, _ offset: Int) throws -> TemplateValue {
        if case .undefined(let name) = key { return .undefined(name) }
        switch base {
        case .mapping(let mapping): return (key.isHashable ? mapping[key] : nil) ?? .undefined(key.printed)
        case .list(let items), .tuple(let items):
            guard let number = key.integerValue else { return .undefined(key.printed) }
            let place = number < 0 ? items.count + number : number
            return items.indices.contains(place) ? items[place] : .undefined("element \(number)")
        case .text(let text):
            guard let number = key.integerValue else { return .undefined(key.printed) }
            let scalars = Array(text.unicodeScalars)
            let place = number < 0 ? scalars.count + number : number
            return scalars.indices.contains(place) ? .text(String(scalars[place])) : .undefined("character \(number)")
        case .object(let object):
            guard case .text(let name) = key else { return .undefined(key.printed) }
            return try placed(offset) { try object.attribute(name) ?? .undefined(name) }
        default: return .undefined(key.printed)
        }
    }

    private func slice(
        _ base: TemplateValue, _ from: TemplateValue?, _ to: TemplateValue?, _ step: TemplateValue?, _ offset: Int
    ) throws -> TemplateValue {
        func number(_ value: TemplateValue?) throws -> Int? {
            guard let value else { return nil }
            if case .none = value { return nil }
            guard let number = value.integerValue else { throw source.type("a slice needs whole numbers", at: offset) }
            return number
        }
        let stride = try number(step) ?? 1
        guard stride != 0 else { throw source.type("a slice cannot step by zero", at: offset) }
        let (start, end) = (try number(from), try number(to))
        func places(_ count: Int) -> [Int] {
            let low = stride > 0 ? 0 : -1
            let high = stride > 0 ? count : count - 1
            func bound(_ value: Int?, _ missing: Int) -> Int {
                guard let value else { return missing }
                let placed = value < 0 ? value.addingReportingOverflow(count).partialValue : value
                return max(low, min(high, placed))
            }
            let first = bound(start, stride > 0 ? low : high)
            let last = bound(end, stride > 0 ? high : low)
            // A stride beyond the bounds takes one element; larger ones could overflow.
            return Array(Swift.stride(from: first, to: last, by: max(-count - 1, min(count + 1, stride))))
        }
        switch base {
        case .list(let items): return .list(places(items.count).map { items[$0] })
        case .tuple(let items): return .tuple(places(items.count).map { items[$0] })
        case .text(let text):
            let scalars = Array(text.unicodeScalars)
            var result = String.UnicodeScalarView()
            for place in places(scalars.count) { result.append(scalars[place]) }
            return .text(String(result))
        default: throw source.type("\(base.kind) cannot be sliced", at: offset)
        }
    }

    // MARK: calls

    private func call(_ callee: Expression, _ arguments: Expression.Arguments, _ offset: Int) throws -> TemplateValue {
        if case .attribute(let base, let method, let place) = callee {
            let object = try defined(base)
            switch object {
            case .object: break
            case .mapping(let mapping) where mapping[method] != nil: break
            default:
                let (plain, named) = try values(of: arguments)
                return try placed(place) { try TemplateMethods.call(method, on: object, plain, named) }
            }
        }
        guard case .function(let function) = try defined(callee) else {
            throw source.type("this cannot be called", at: offset)
        }
        let (plain, named) = try values(of: arguments)
        return try placed(offset) { try function.body(plain, named) }
    }

    func values(of arguments: Expression.Arguments) throws -> ([TemplateValue], [String: TemplateValue]) {
        let named = try arguments.named.map { ($0.name, try value($0.value)) }
        return (try arguments.plain.map(value), Dictionary(named) { _, last in last })
    }

    /// Adds the place to an error that knows none.
    func placed<Value>(_ offset: Int, _ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as FarmError {
            guard error.code == "template.type" || error.code == "template.undefined", !error.message.contains(", at line ") else {
                throw error
            }
            throw FarmError(error.code, error.category, "\(error.message), at \(source.position(of: offset))", hint: error.hint)
        }
    }

    private func filter(
        _ base: Expression, _ name: String, _ arguments: Expression.Arguments, _ offset: Int
    ) throws -> TemplateValue {
        let (plain, named) = try values(of: arguments)
        if name == "default" || name == "d" {
            let subject = try lenient(base)
            let replacement = plain.first ?? named["default_value"] ?? .text("")
            let wantsTruth = (plain.dropFirst().first ?? named["boolean"])?.isTrue ?? false
            if case .undefined = subject { return replacement }
            return wantsTruth && !subject.isTrue ? replacement : subject
        }
        if name == "items", case .undefined = try lenient(base) { return .list([]) }
        let subject = try value(base)
        let result = try placed(offset) { try TemplateFilters.apply(name, to: subject, plain, named) }
        if case .text(let text) = result { try checkSize(text.utf8.count, offset) }
        return result
    }

    private func test(_ base: Expression, _ name: String, _ arguments: Expression.Arguments, _ offset: Int) throws -> Bool {
        let (plain, _) = try values(of: arguments)
        switch name {
        case "defined", "undefined":
            var isDefined = true
            if case .undefined = try lenient(base) { isDefined = false }
            return isDefined == (name == "defined")
        default:
            if TemplateChecks.ofKind.contains(name), case .undefined = try lenient(base) { return false }
            let subject = try value(base)
            return try placed(offset) { try TemplateChecks.holds(name, subject, plain) }
        }
    }
}

extension Expression {
    /// The place to name in messages.
    var offset: Int {
        switch self {
        case .name(_, let offset), .attribute(_, _, let offset), .index(_, _, let offset), .slice(_, _, _, _, let offset),
            .call(_, _, let offset), .filter(_, _, _, let offset), .test(_, _, _, let offset), .mapping(_, let offset),
            .choice(_, _, _, let offset), .compare(_, _, let offset), .joined(_, let offset), .arithmetic(_, _, _, let offset),
            .sign(_, _, let offset):
            offset
        case .not(let inner), .both(let inner, _), .either(let inner, _): inner.offset
        case .list(let items), .tuple(let items): items.first?.offset ?? 0
        case .literal: 0
        }
    }
}
