/// Methods of Python's `str`, `list`, `dict` that templates call.
enum TemplateMethods {
    static func call(
        _ name: String, on object: TemplateValue, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> TemplateValue {
        guard named.isEmpty || name == "split" || name == "rsplit" else { throw unknown(name, object) }
        switch object {
        case .text(let text): return try ofText(name, text, arguments, named)
        case .mapping(let mapping): return try ofMapping(name, mapping, arguments)
        case .list(let items), .tuple(let items): return try ofItems(name, items, arguments)
        default: throw TemplateFailure.absent("\(object.kind) has no method \"\(name)\"")
        }
    }

    private static func unknown(_ name: String, _ object: TemplateValue) -> any Error {
        TemplateFailure.plain("\(object.kind) has no method \"\(name)\" with these arguments")
    }

    private static func ofText(
        _ name: String, _ text: String, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> TemplateValue {
        if arguments.isEmpty, let result = plain(name, text) { return result }
        let first = arguments.first
        switch (name, first, arguments.count) {
        case ("split", _, 0...2), ("rsplit", _, 0...2): return try split(name, text, arguments, named)
        case ("strip", .text(let characters), 1): return .text(TemplateTexts.strip(text, characters))
        case ("lstrip", .text(let characters), 1): return .text(TemplateTexts.strip(text, characters, right: false))
        case ("rstrip", .text(let characters), 1): return .text(TemplateTexts.strip(text, characters, left: false))
        case ("startswith", let prefix?, 1): return .bool(try any(of: prefix) { TemplateTexts.hasPrefix(text, $0) })
        case ("endswith", let suffix?, 1): return .bool(try any(of: suffix) { TemplateTexts.hasSuffix(text, $0) })
        case ("removeprefix", .text(let prefix), 1):
            return .text(
                TemplateTexts.hasPrefix(text, prefix) ? String(decoding: text.utf8.dropFirst(prefix.utf8.count), as: UTF8.self) : text)
        case ("removesuffix", .text(let suffix), 1):
            return .text(
                TemplateTexts.hasSuffix(text, suffix) ? String(decoding: text.utf8.dropLast(suffix.utf8.count), as: UTF8.self) : text)
        case ("replace", .text(let old), 2...3):
            guard case .text(let new) = arguments[1] else { throw unknown(name, .text(text)) }
            let limit = arguments.count == 3 ? arguments[2].integerValue : -1
            guard let limit else { throw unknown(name, .text(text)) }
            return .text(TemplateTexts.replace(old, with: new, in: text, limit: limit))
        case ("join", let list?, 1):
            guard let items = list.items else { throw unknown(name, .text(text)) }
            let texts = try items.map { item in
                guard case .text(let text) = item else { throw TemplateFailure.plain("join wants texts, not \(item.kind)") }
                return text
            }
            return .text(texts.joined(separator: text))
        case ("count", .text(let part), 1):
            let isEmpty = part.isEmpty
            return .integer(isEmpty ? text.unicodeScalars.count + 1 : TemplateTexts.split(text, by: part).count - 1)
        case ("find", .text(let part), 1):
            let place = TemplateTexts.find(Array(part.utf8), in: Array(text.utf8), from: 0)
            return .integer(place.map { String(decoding: Array(text.utf8)[..<$0], as: UTF8.self).unicodeScalars.count } ?? -1)
        case ("zfill", let width?, 1):
            guard let width = width.integerValue, width <= 1000 else { throw unknown(name, .text(text)) }
            let sign = text.hasPrefix("-") || text.hasPrefix("+") ? String(text.prefix(1)) : ""
            return .text(sign + String(repeating: "0", count: max(0, width - text.unicodeScalars.count)) + text.dropFirst(sign.count))
        default: throw unknown(name, .text(text))
        }
    }

    /// Methods without arguments.
    private static func plain(_ name: String, _ text: String) -> TemplateValue? {
        let scalars = text.unicodeScalars
        switch name {
        case "lower": return .text(text.lowercased())
        case "upper": return .text(text.uppercased())
        case "title": return .text(TemplateTexts.title(text))
        case "capitalize": return .text(TemplateTexts.capitalize(text))
        case "strip": return .text(TemplateTexts.strip(text, nil))
        case "lstrip": return .text(TemplateTexts.strip(text, nil, right: false))
        case "rstrip": return .text(TemplateTexts.strip(text, nil, left: false))
        case "splitlines": return .list(TemplateTexts.lines(text).map { .text($0) })
        case "isdigit", "isdecimal", "isnumeric":
            return .bool(!scalars.isEmpty && scalars.allSatisfy { $0.properties.numericType == .decimal })
        case "isalpha": return .bool(!scalars.isEmpty && scalars.allSatisfy(\.properties.isAlphabetic))
        case "islower": return .bool(scalars.contains(where: \.properties.isCased) && text == text.lowercased())
        case "isupper": return .bool(scalars.contains(where: \.properties.isCased) && text == text.uppercased())
        default: return nil
        }
    }

    private static func any(of value: TemplateValue, _ condition: (String) -> Bool) throws -> Bool {
        if case .text(let text) = value { return condition(text) }
        guard case .tuple(let items) = value else { throw TemplateFailure.plain("a text or a tuple of texts is wanted, not \(value.kind)") }
        return try items.contains { item in
            guard case .text(let text) = item else { throw TemplateFailure.plain("a text is wanted, not \(item.kind)") }
            return condition(text)
        }
    }

    private static func split(
        _ name: String, _ text: String, _ arguments: [TemplateValue], _ named: [String: TemplateValue]
    ) throws -> TemplateValue {
        let limitValue = arguments.dropFirst().first ?? named["maxsplit"] ?? .integer(-1)
        guard let limit = limitValue.integerValue else { throw TemplateFailure.plain("\(name) wants a whole number as its limit") }
        let parts: [String]
        switch arguments.first ?? named["sep"] ?? .none {
        case .none:
            guard name == "split" || limit < 0 else { throw TemplateFailure.plain("rsplit with a limit wants a separator") }
            parts = TemplateTexts.words(text, limit: limit)
        case .text(let separator) where !separator.isEmpty:
            parts =
                name == "split"
                ? TemplateTexts.split(text, by: separator, limit: limit) : TemplateTexts.rightSplit(text, by: separator, limit: limit)
        default: throw TemplateFailure.plain("\(name) wants a separator that is a text and not empty")
        }
        return .list(parts.map { .text($0) })
    }

    private static func ofMapping(_ name: String, _ mapping: TemplateMapping, _ arguments: [TemplateValue]) throws -> TemplateValue {
        switch (name, arguments.count) {
        case ("get", 1...2): return mapping[arguments[0]] ?? (arguments.count == 2 ? arguments[1] : .none)
        case ("keys", 0): return .list(mapping.entries.map(\.key))
        case ("values", 0): return .list(mapping.entries.map(\.value))
        case ("items", 0): return .list(mapping.entries.map { .tuple([$0.key, $0.value]) })
        default: throw TemplateFailure.absent("a mapping has no method or key \"\(name)\"")
        }
    }

    private static func ofItems(_ name: String, _ items: [TemplateValue], _ arguments: [TemplateValue]) throws -> TemplateValue {
        switch (name, arguments.count) {
        case ("count", 1): return .integer(items.filter { $0 == arguments[0] }.count)
        case ("index", 1):
            guard let place = items.firstIndex(of: arguments[0]) else { throw TemplateFailure.plain("the list has no such element") }
            return .integer(place)
        default: throw TemplateFailure.absent("a list has no method \"\(name)\"")
        }
    }
}
