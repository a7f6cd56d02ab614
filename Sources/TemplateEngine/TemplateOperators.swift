import FarmModel
import Foundation

extension TemplateEvaluator {
    func compare(_ first: Expression, _ operands: [(symbol: String, operand: Expression)], _ offset: Int) throws -> Bool {
        var left = try value(first)
        for (symbol, operand) in operands {
            let right = try value(operand)
            guard try holds(symbol, left, right, offset) else { return false }
            left = right
        }
        return true
    }

    private func holds(_ symbol: String, _ left: TemplateValue, _ right: TemplateValue, _ offset: Int) throws -> Bool {
        switch symbol {
        case "==": return left == right
        case "!=": return left != right
        case "in": return try placed(offset) { try TemplateOrder.contains(right, left) }
        case "not in": return try placed(offset) { !(try TemplateOrder.contains(right, left)) }
        default:
            // NaN is neither smaller nor larger than anything.
            guard let order = try placed(offset, { try TemplateOrder.compare(left, right) }) else { return false }
            switch symbol {
            case "<": return order < 0
            case "<=": return order <= 0
            case ">": return order > 0
            default: return order >= 0
            }
        }
    }

    func arithmetic(_ symbol: String, _ left: TemplateValue, _ right: TemplateValue, _ offset: Int) throws -> TemplateValue {
        if let first = left.integerValue, let second = right.integerValue, symbol != "/" {
            return try integers(symbol, first, second, offset)
        }
        if let first = left.decimalValue, let second = right.decimalValue { return try decimals(symbol, first, second, offset) }
        switch (symbol, left, right) {
        case ("+", .text(let first), .text(let second)):
            try checkSize(first.utf8.count + second.utf8.count, offset)
            return .text(first + second)
        case ("+", .list(let first), .list(let second)): return .list(first + second)
        case ("+", .tuple(let first), .tuple(let second)): return .tuple(first + second)
        case ("%", .text(let text), _): return .text(try placed(offset) { try TemplateTexts.format(text, right) })
        case ("*", .text(let text), _):
            guard let count = right.integerValue else { break }
            return .text(String(repeating: text, count: try repeats(text.utf8.count, count, offset)))
        case ("*", _, .text(let text)):
            guard let count = left.integerValue else { break }
            return .text(String(repeating: text, count: try repeats(text.utf8.count, count, offset)))
        case ("*", _, .list), ("*", _, .tuple):
            guard left.integerValue != nil else { break }
            return try arithmetic(symbol, right, left, offset)
        case ("*", .list(let items), _):
            guard let count = right.integerValue else { break }
            return .list(Array(repeating: items, count: try repeats(items.count * 16, count, offset)).flatMap { $0 })
        case ("*", .tuple(let items), _):
            guard let count = right.integerValue else { break }
            return .tuple(Array(repeating: items, count: try repeats(items.count * 16, count, offset)).flatMap { $0 })
        default: break
        }
        throw source.type("\(left.kind) and \(right.kind) do not go with \(symbol)", at: offset)
    }

    private func repeats(_ size: Int, _ count: Int, _ offset: Int) throws -> Int {
        let count = max(0, count)
        let (total, overflow) = size.multipliedReportingOverflow(by: count)
        guard !overflow else { throw source.limit("the result is too large", at: offset) }
        try checkSize(total, offset)
        return size == 0 ? 0 : count
    }

    private func integers(_ symbol: String, _ left: Int, _ right: Int, _ offset: Int) throws -> TemplateValue {
        let result: (partialValue: Int, overflow: Bool)
        switch symbol {
        case "+": result = left.addingReportingOverflow(right)
        case "-": result = left.subtractingReportingOverflow(right)
        case "*": result = left.multipliedReportingOverflow(by: right)
        case "**":
            if right < 0 { return try decimals(symbol, Double(left), Double(right), offset) }
            return .integer(try power(left, right, offset))
        default:
            guard right != 0 else { throw source.type("division by zero", at: offset) }
            guard right != -1 else {
                result = symbol == "%" ? (0, false) : (0).subtractingReportingOverflow(left)
                break
            }
            // Python rounds towards minus infinity.
            let remainder = left % right
            let shifts = remainder != 0 && (remainder < 0) != (right < 0)
            return .integer(symbol == "%" ? (shifts ? remainder + right : remainder) : left / right - (shifts ? 1 : 0))
        }
        guard !result.overflow else { throw source.limit("the number is too large", at: offset) }
        return .integer(result.partialValue)
    }

    private func power(_ base: Int, _ exponent: Int, _ offset: Int) throws -> Int {
        if exponent == 0 || base == 1 { return 1 }
        if base == 0 { return 0 }
        if base == -1 { return exponent % 2 == 0 ? 1 : -1 }
        var result = 1
        guard exponent < 64 else { throw source.limit("the number is too large", at: offset) }
        for _ in 0..<exponent {
            let (product, overflow) = result.multipliedReportingOverflow(by: base)
            guard !overflow else { throw source.limit("the number is too large", at: offset) }
            result = product
        }
        return result
    }

    private func decimals(_ symbol: String, _ left: Double, _ right: Double, _ offset: Int) throws -> TemplateValue {
        switch symbol {
        case "+": return .decimal(left + right)
        case "-": return .decimal(left - right)
        case "*": return .decimal(left * right)
        case "**":
            if left == 0, right < 0 { throw source.type("division by zero", at: offset) }
            let result = pow(left, right)
            guard !result.isNaN || left.isNaN || right.isNaN else { throw source.type("the result is no real number", at: offset) }
            guard result.isFinite || !left.isFinite || !right.isFinite else {
                throw source.limit("the number is too large", at: offset)
            }
            return .decimal(result)
        default:
            guard right != 0 else { throw source.type("division by zero", at: offset) }
            if symbol == "/" { return .decimal(left / right) }
            var remainder = fmod(left, right)
            if remainder != 0, (remainder < 0) != (right < 0) { remainder += right }
            if remainder == 0 { remainder = Double(sign: right.sign, exponent: 0, significand: 0) }
            if symbol == "%" { return .decimal(remainder) }
            let quotient = (left - remainder) / right
            return .decimal(quotient.rounded(.toNearestOrEven))
        }
    }
}

/// Python's order of values and what `in` means.
enum TemplateOrder {
    /// Negative, zero or positive; `nil` when neither holds (NaN). Throws for values that have no order.
    static func compare(_ left: TemplateValue, _ right: TemplateValue) throws -> Int? {
        if let first = left.integerValue, let second = right.integerValue { return first < second ? -1 : first > second ? 1 : 0 }
        if let first = left.decimalValue, let second = right.decimalValue {
            return first < second ? -1 : first > second ? 1 : first == second ? 0 : nil
        }
        switch (left, right) {
        case (.text(let first), .text(let second)):
            if first.unicodeScalars.lexicographicallyPrecedes(second.unicodeScalars) { return -1 }
            return first.unicodeScalars.elementsEqual(second.unicodeScalars) ? 0 : 1
        case (.list(let first), .list(let second)), (.tuple(let first), .tuple(let second)):
            for (a, b) in zip(first, second) where a != b { return try compare(a, b) }
            return first.count < second.count ? -1 : first.count > second.count ? 1 : 0
        default: throw TemplateFailure.plain("\(left.kind) and \(right.kind) have no order")
        }
    }

    static func contains(_ container: TemplateValue, _ member: TemplateValue) throws -> Bool {
        switch container {
        case .list(let items), .tuple(let items): return items.contains(member)
        case .mapping(let mapping):
            guard member.isHashable else { throw TemplateFailure.plain("\(member.kind) cannot be a key") }
            return mapping[member] != nil
        case .text(let text):
            guard case .text(let part) = member else { throw TemplateFailure.plain("\(member.kind) cannot be in a text") }
            return TemplateTexts.find(Array(part.utf8), in: Array(text.utf8), from: 0) != nil
        case .undefined: return false
        default: throw TemplateFailure.plain("nothing can be in \(container.kind)")
        }
    }

    /// Sorts as Python's `sorted`, which is stable.
    static func sorted(
        _ items: [TemplateValue], reversed: Bool = false, by key: (TemplateValue) throws -> TemplateValue = { $0 }
    ) throws -> [TemplateValue] {
        let keyed = try items.enumerated().map { (place: $0.offset, key: try key($0.element), value: $0.element) }
        let result = try keyed.sorted { left, right in
            let order = try compare(left.key, right.key) ?? 0
            return order == 0 ? left.place < right.place : (order < 0) != reversed
        }
        return result.map(\.value)
    }
}
