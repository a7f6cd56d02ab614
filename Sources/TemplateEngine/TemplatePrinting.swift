extension TemplateValue {
    /// What Python's `str` gives.
    package var printed: String {
        switch self {
        case .text(let value): value
        case .undefined: ""
        default: quoted
        }
    }

    /// What Python's `repr` gives.
    var quoted: String {
        switch self {
        case .none: "None"
        case .bool(let value): value ? "True" : "False"
        case .integer(let value): String(value)
        case .decimal(let value): TemplateValue.print(value)
        case .text(let value): TemplateValue.quote(value)
        case .list(let items): "[\(items.map(\.quoted).joined(separator: ", "))]"
        case .tuple(let items): items.count == 1 ? "(\(items[0].quoted),)" : "(\(items.map(\.quoted).joined(separator: ", ")))"
        case .mapping(let mapping):
            "{\(mapping.entries.map { "\($0.key.quoted): \($0.value.quoted)" }.joined(separator: ", "))}"
        case .object: "<object>"
        case .function(let function): "<function \(function.name)>"
        case .undefined: "Undefined"
        }
    }

    /// The shortest digits that read back as the same number; exponents from 1e16 on and below 1e-4.
    private static func print(_ value: Double) -> String {
        if value.isNaN { return "nan" }
        if value.isInfinite { return value < 0 ? "-inf" : "inf" }
        let shortest = "\(value)"
        guard let mark = shortest.firstIndex(of: "e") else { return shortest }
        let size = value.magnitude
        if size >= 1e-4, size < 1e16 {
            // Whole numbers that Swift already writes with an exponent.
            return value == value.rounded() && size < 1e16 ? "\(Int(value)).0" : shortest
        }
        var digits = shortest[..<mark]
        if digits.hasSuffix(".0") { digits = digits.dropLast(2) }
        var exponent = shortest[shortest.index(after: mark)...]
        let sign = exponent.first == "-" ? "-" : "+"
        if let first = exponent.first, first == "-" || first == "+" { exponent = exponent.dropFirst() }
        return "\(digits)e\(sign)\(exponent.count < 2 ? "0" : "")\(exponent)"
    }

    private static func quote(_ text: String) -> String {
        let mark: Unicode.Scalar = text.unicodeScalars.contains("'") && !text.unicodeScalars.contains("\"") ? "\"" : "'"
        var result = String.UnicodeScalarView()
        result.append(mark)
        for scalar in text.unicodeScalars {
            switch scalar {
            case mark, "\\":
                result.append("\\")
                result.append(scalar)
            case "\n": result.append(contentsOf: "\\n".unicodeScalars)
            case "\r": result.append(contentsOf: "\\r".unicodeScalars)
            case "\t": result.append(contentsOf: "\\t".unicodeScalars)
            case _ where !isPrintable(scalar): result.append(contentsOf: escaped(scalar).unicodeScalars)
            default: result.append(scalar)
            }
        }
        result.append(mark)
        return String(result)
    }

    private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        if scalar == " " { return true }
        switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator, .spaceSeparator: return false
        default: return true
        }
    }

    private static func escaped(_ scalar: Unicode.Scalar) -> String {
        func padded(_ width: Int) -> String {
            let digits = String(scalar.value, radix: 16)
            return String(repeating: "0", count: width - digits.count) + digits
        }
        if scalar.value < 0x100 { return "\\x\(padded(2))" }
        return scalar.value < 0x10000 ? "\\u\(padded(4))" : "\\U\(padded(8))"
    }
}
