import FarmModel

/// Evaluates expressions against a scope.
struct TemplateEvaluator {
    let scope: Template.Scope

    func value(of expression: Expression) throws -> TemplateValue {
        switch expression {
        case .literal(let value): return value
        case .list(let items): return .list(try items.map(value(of:)))
        case .name(let name, let position):
            guard let value = scope.values[name] else { throw TemplateFailure.undefined(name, at: position) }
            return value
        case .attribute(let base, let name, let position):
            let object = try value(of: base)
            guard case .mapping(let entries) = object, let found = entries[name] else {
                throw TemplateFailure.undefined(name, at: position)
            }
            return found
        case .index(let base, let key, let position): return try element(of: base, at: key, position)
        case .slice(let base, let from, let to, let position): return try slice(base, from, to, position)
        case .call(let callee, let arguments, let position): return try call(callee, arguments, position)
        case .filter(let base, let name, let arguments, let position):
            return try filter(base, name, arguments, position)
        case .not(let inner): return .bool(!(try value(of: inner).isTrue))
        case .both(let left, let right):
            let first = try value(of: left)
            return first.isTrue ? try value(of: right) : first
        case .either(let left, let right):
            let first = try value(of: left)
            return first.isTrue ? first : try value(of: right)
        case .compare(let symbol, let left, let right, let position):
            return .bool(try compare(symbol, value(of: left), value(of: right), position))
        case .joined(let left, let right): return .text(try value(of: left).printed + value(of: right).printed)
        case .add(let left, let right, let position): return try add(value(of: left), value(of: right), position)
        }
    }

    private func element(of base: Expression, at key: Expression, _ position: TemplatePosition) throws -> TemplateValue {
        switch (try value(of: base), try value(of: key)) {
        case (.list(let items), .integer(let number)):
            let index = number < 0 ? items.count + number : number
            guard items.indices.contains(index) else {
                throw TemplateFailure.type("the list has no element \(number)", at: position)
            }
            return items[index]
        case (.text(let text), .integer(let number)):
            let characters = Array(text)
            let index = number < 0 ? characters.count + number : number
            guard characters.indices.contains(index) else {
                throw TemplateFailure.type("the text has no character \(number)", at: position)
            }
            return .text(String(characters[index]))
        case (.mapping(let entries), .text(let name)):
            guard let found = entries[name] else { throw TemplateFailure.undefined(name, at: position) }
            return found
        case (let object, let key):
            throw TemplateFailure.type("\(object.kind) cannot be indexed by \(key.kind)", at: position)
        }
    }

    private func slice(
        _ base: Expression, _ from: Expression?, _ to: Expression?, _ position: TemplatePosition
    ) throws -> TemplateValue {
        func bound(_ expression: Expression?, _ count: Int, _ missing: Int) throws -> Int {
            guard let expression else { return missing }
            guard case .integer(let number) = try value(of: expression) else {
                throw TemplateFailure.type("a slice needs numbers", at: position)
            }
            return max(0, min(count, number < 0 ? count + number : number))
        }
        func range(_ count: Int) throws -> Range<Int> {
            let start = try bound(from, count, 0)
            return start..<max(start, try bound(to, count, count))
        }
        switch try value(of: base) {
        case .list(let items): return .list(Array(items[try range(items.count)]))
        case .text(let text): return .text(String(Array(text)[try range(text.count)]))
        case let other: throw TemplateFailure.type("\(other.kind) cannot be sliced", at: position)
        }
    }

    private func call(
        _ callee: Expression, _ arguments: [Expression], _ position: TemplatePosition
    ) throws -> TemplateValue {
        let values = try arguments.map(value(of:))
        switch callee {
        case .name(let name, let place):
            guard let function = scope.functions[name] else { throw TemplateFailure.undefined(name, at: place) }
            return try placed(position) { try function(values) }
        case .attribute(let base, let method, let place):
            if case .name(let object, _) = base, let function = scope.functions["\(object).\(method)"] {
                return try placed(position) { try function(values) }
            }
            return try self.method(method, of: value(of: base), values, place)
        default: throw TemplateFailure.type("this cannot be called", at: position)
        }
    }

    /// Adds the place to an error that a function of the scope throws.
    private func placed(_ position: TemplatePosition, _ body: () throws -> TemplateValue) throws -> TemplateValue {
        do { return try body() } catch let error as FarmError {
            throw FarmError(error.code, error.category, "\(error.message), at \(position)", hint: error.hint)
        }
    }

    private func method(
        _ name: String, of object: TemplateValue, _ arguments: [TemplateValue], _ position: TemplatePosition
    ) throws -> TemplateValue {
        guard case .text(let text) = object else {
            throw TemplateFailure.type("\(object.kind) has no method \"\(name)\"", at: position)
        }
        let (first, second, extra) = Self.three(arguments)
        switch (name, first, second, extra) {
        case ("lower", nil, nil, nil): return .text(text.lowercased())
        case ("upper", nil, nil, nil): return .text(text.uppercased())
        case ("split", nil, nil, nil): return .list(text.split(whereSeparator: \.isWhitespace).map { .text(String($0)) })
        case ("split", .text(let separator), nil, nil) where !separator.isEmpty:
            return .list(Self.split(text, by: separator).map { .text($0) })
        case ("startswith", .text(let prefix), nil, nil): return .bool(text.hasPrefix(prefix))
        case ("endswith", .text(let suffix), nil, nil): return .bool(text.hasSuffix(suffix))
        case ("replace", .text(let old), .text(let new), nil):
            return .text(Self.replace(old, with: new, in: text, count: nil))
        default: throw TemplateFailure.type("a text has no method \"\(name)\" with these arguments", at: position)
        }
    }

    private func filter(
        _ base: Expression, _ name: String, _ arguments: [Expression], _ position: TemplatePosition
    ) throws -> TemplateValue {
        let values = try arguments.map(value(of:))
        if name == "default" {
            do { return try value(of: base) } catch let error as FarmError where error.code == "template.undefined" {
                return values.first ?? .text("")
            }
        }
        let (first, second, third) = Self.three(values)
        switch (name, try value(of: base), first, second, third) {
        case ("replace", let object, .text(let old), .text(let new), nil):
            return .text(Self.replace(old, with: new, in: object.printed, count: nil))
        case ("replace", let object, .text(let old), .text(let new), .integer(let count)):
            return .text(Self.replace(old, with: new, in: object.printed, count: count))
        case ("join", .list(let items), let separator, nil, nil):
            return .text(items.map(\.printed).joined(separator: separator?.printed ?? ""))
        case ("lower", let object, nil, nil, nil): return .text(object.printed.lowercased())
        case ("upper", let object, nil, nil, nil): return .text(object.printed.uppercased())
        default: throw TemplateFailure.type("there is no filter \"\(name)\" for this", at: position)
        }
    }

    private func compare(
        _ symbol: String, _ left: TemplateValue, _ right: TemplateValue, _ position: TemplatePosition
    ) throws -> Bool {
        switch (symbol, left, right) {
        case ("==", _, _): return left == right
        case ("!=", _, _): return left != right
        case ("in", .text(let needle), .text(let text)): return needle.isEmpty || Self.split(text, by: needle).count > 1
        case ("in", _, .list(let items)): return items.contains(left)
        case ("in", .text(let key), .mapping(let entries)): return entries[key] != nil
        case (_, .integer(let first), .integer(let second)): return Self.ordered(symbol, first, second)
        case (_, .text(let first), .text(let second)): return Self.ordered(symbol, first, second)
        default: throw TemplateFailure.type("\(left.kind) and \(right.kind) cannot be compared by \(symbol)", at: position)
        }
    }

    private static func ordered<Value: Comparable>(_ symbol: String, _ left: Value, _ right: Value) -> Bool {
        switch symbol {
        case "<": left < right
        case "<=": left <= right
        case ">": left > right
        default: left >= right
        }
    }

    private func add(
        _ left: TemplateValue, _ right: TemplateValue, _ position: TemplatePosition
    ) throws -> TemplateValue {
        switch (left, right) {
        case (.integer(let first), .integer(let second)):
            let (sum, overflow) = first.addingReportingOverflow(second)
            guard !overflow else { throw TemplateFailure.type("the sum is too large", at: position) }
            return .integer(sum)
        case (.text(let first), .text(let second)): return .text(first + second)
        case (.list(let first), .list(let second)): return .list(first + second)
        default: throw TemplateFailure.type("\(left.kind) and \(right.kind) cannot be added", at: position)
        }
    }

    /// The first three arguments, so that a pattern can name them.
    private static func three(_ values: [TemplateValue]) -> (TemplateValue?, TemplateValue?, TemplateValue?) {
        (values.first, values.dropFirst().first, values.dropFirst(2).first)
    }

    private static func split(_ text: String, by separator: String) -> [String] {
        var parts = [""]
        var rest = text[...]
        while let next = rest.first {
            if rest.hasPrefix(separator) {
                parts.append("")
                rest = rest.dropFirst(separator.count)
            } else {
                parts[parts.count - 1].append(next)
                rest = rest.dropFirst()
            }
        }
        return parts
    }

    private static func replace(_ old: String, with new: String, in text: String, count: Int?) -> String {
        guard !old.isEmpty else { return text }
        let parts = split(text, by: old)
        guard let count, count >= 0, count < parts.count - 1 else { return parts.joined(separator: new) }
        return parts[...count].joined(separator: new) + old + parts[(count + 1)...].joined(separator: old)
    }
}
