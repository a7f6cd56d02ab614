import FarmModel
import Foundation

/// A JSON schema of the words that tests need (JSON Schema 2020-12, validation vocabulary); a word that is not among them is refused, so that
/// nothing is passed over in silence.
package struct JSONSchema: Sendable {
    private let rules: JSONValue

    private static let words: Set<String> = [
        "$schema", "$id", "$comment", "title", "description", "type", "enum", "const", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "items", "minItems", "maxItems", "uniqueItems", "properties",
        "required", "additionalProperties", "minProperties", "maxProperties", "allOf", "anyOf", "oneOf", "not",
    ]

    /// Reads a schema; throws `schema.invalid`.
    package init(_ text: String) throws {
        rules = try JSONValue(Array(text.utf8), source: "the schema")
        try JSONSchema.check(rules, depth: 0)
    }

    private static func check(_ rules: JSONValue, depth: Int) throws {
        func invalid(_ reason: String) -> FarmError { FarmError("schema.invalid", .invalid, "the schema is not understood: \(reason)") }
        guard depth < 64 else { throw invalid("it is nested too deeply") }
        if case .bool = rules { return }
        guard case .object(let entries) = rules else { throw invalid("a schema is a mapping, true or false") }
        for (word, value) in entries.sorted(by: { $0.key < $1.key }) {
            guard words.contains(word) else { throw invalid("\"\(word)\" is not known") }
            switch (word, value) {
            case ("items", _), ("additionalProperties", _), ("not", _): try check(value, depth: depth + 1)
            case ("properties", .object(let entries)): for value in entries.values { try check(value, depth: depth + 1) }
            case ("properties", _): throw invalid("\"properties\" is a mapping")
            case ("allOf", .array(let items)), ("anyOf", .array(let items)), ("oneOf", .array(let items)):
                for item in items { try check(item, depth: depth + 1) }
            case ("allOf", _), ("anyOf", _), ("oneOf", _): throw invalid("\"\(word)\" is a list")
            case ("pattern", .text(let pattern)):
                guard (try? Regex(pattern)) != nil else { throw invalid("the pattern \(pattern) is no regular expression") }
            case ("type", .text(let name)): guard types.contains(name) else { throw invalid("there is no type \"\(name)\"") }
            default: break
            }
        }
    }

    private static let types: Set<String> = ["null", "boolean", "integer", "number", "string", "array", "object"]

    /// What a document has against it; empty when it is as it should be.
    package func problems(of document: [UInt8], source: String) throws -> [String] {
        var found: [String] = []
        JSONSchema.test(try JSONValue(document, source: source), rules, at: "", &found)
        return Array(found.prefix(20))
    }

    private static func isOf(_ type: String, _ value: JSONValue) -> Bool {
        switch (type, value) {
        case ("null", .null), ("boolean", .bool), ("number", .number), ("string", .text), ("array", .array), ("object", .object): true
        case ("integer", .number(let number)): number == number.rounded()
        default: false
        }
    }

    private static func test(_ value: JSONValue, _ schema: JSONValue, at place: String, _ found: inout [String]) {
        let here = place.isEmpty ? "the document" : place
        if case .bool(let isAllowed) = schema {
            if !isAllowed { found.append("\(here) may not be there") }
            return
        }
        guard case .object(let rules) = schema else { return }
        func fits(_ schema: JSONValue) -> Bool {
            var inner: [String] = []
            test(value, schema, at: place, &inner)
            return inner.isEmpty
        }
        func number(_ word: String) -> Double? { if case .number(let number)? = rules[word] { number } else { nil } }
        func list(_ word: String) -> [JSONValue]? { if case .array(let items)? = rules[word] { items } else { nil } }
        switch rules["type"] {
        case .text(let name)?: if !isOf(name, value) { found.append("\(here) is \(value.printed), no \(name)") }
        case .array(let names)?:
            let texts = names.compactMap { if case .text(let name) = $0 { name } else { nil } }
            if !texts.contains(where: { isOf($0, value) }) {
                found.append("\(here) is \(value.printed), none of \(texts.joined(separator: ", "))")
            }
        default: break
        }
        if let allowed = list("enum"), !allowed.contains(value) {
            found.append("\(here) is \(value.printed), which is not among what it may be")
        }
        if let constant = rules["const"], constant != value { found.append("\(here) is \(value.printed), not \(constant.printed)") }
        if let all = list("allOf") { for schema in all { test(value, schema, at: place, &found) } }
        if let any = list("anyOf"), !any.contains(where: fits) { found.append("\(here) fits none of anyOf") }
        if let one = list("oneOf"), one.count(where: fits) != 1 { found.append("\(here) fits \(one.count(where: fits)) of oneOf, not 1") }
        if let not = rules["not"], fits(not) { found.append("\(here) is what it must not be") }
        switch value {
        case .number(let is_):
            if let least = number("minimum"), is_ < least { found.append("\(here) is \(is_), less than \(least)") }
            if let most = number("maximum"), is_ > most { found.append("\(here) is \(is_), more than \(most)") }
            if let least = number("exclusiveMinimum"), is_ <= least { found.append("\(here) is \(is_), not more than \(least)") }
            if let most = number("exclusiveMaximum"), is_ >= most { found.append("\(here) is \(is_), not less than \(most)") }
            if let step = number("multipleOf"), step > 0, is_.remainder(dividingBy: step) != 0 {
                found.append("\(here) is \(is_), no multiple of \(step)")
            }
        case .text(let text):
            let length = Double(text.unicodeScalars.count)
            if let least = number("minLength"), length < least { found.append("\(here) is shorter than \(shown(least))") }
            if let most = number("maxLength"), length > most { found.append("\(here) is longer than \(shown(most))") }
            if case .text(let pattern)? = rules["pattern"], let expression = try? Regex(pattern), text.firstMatch(of: expression) == nil {
                found.append("\(here) is \(value.printed), which \(pattern) does not match")
            }
        case .array(let items):
            if let least = number("minItems"), Double(items.count) < least {
                found.append("\(here) has \(items.count) items, fewer than \(shown(least))")
            }
            if let most = number("maxItems"), Double(items.count) > most {
                found.append("\(here) has \(items.count) items, more than \(shown(most))")
            }
            if rules["uniqueItems"] == .bool(true), Set(items).count != items.count { found.append("\(here) has equal items") }
            if let schema = rules["items"] {
                for (index, item) in items.enumerated() where found.count < 50 { test(item, schema, at: "\(place)[\(index)]", &found) }
            }
        case .object(let entries):
            testObject(entries, rules, at: place, &found)
        default: break
        }
    }

    private static func testObject(_ entries: [String: JSONValue], _ rules: [String: JSONValue], at place: String, _ found: inout [String])
    {
        let here = place.isEmpty ? "the document" : place
        if case .array(let names)? = rules["required"] {
            for case .text(let name) in names where entries[name] == nil { found.append("\(here) has no \"\(name)\"") }
        }
        if case .number(let least)? = rules["minProperties"], Double(entries.count) < least {
            found.append("\(here) has \(entries.count) entries")
        }
        if case .number(let most)? = rules["maxProperties"], Double(entries.count) > most {
            found.append("\(here) has \(entries.count) entries")
        }
        var known: [String: JSONValue] = [:]
        if case .object(let properties)? = rules["properties"] { known = properties }
        for (name, value) in entries.sorted(by: { $0.key < $1.key }) where found.count < 50 {
            if let schema = known[name] ?? rules["additionalProperties"] {
                test(value, schema, at: place.isEmpty ? name : "\(place).\(name)", &found)
            }
        }
    }
}

/// A JSON document as a value.
package enum JSONValue: Sendable, Hashable {
    case null
    case bool(Bool)
    case number(Double)
    case text(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// Reads a document; throws `json.invalid`.
    package init(_ bytes: [UInt8], source: String) throws {
        do {
            self = JSONValue(try JSONSerialization.jsonObject(with: Data(bytes), options: [.fragmentsAllowed]))
        } catch {
            throw FarmError("json.invalid", .invalid, "\(source) is no JSON")
        }
    }

    private init(_ any: Any) {
        switch any {
        case let number as NSNumber where String(cString: number.objCType) == "c": self = .bool(number.boolValue)
        case let number as NSNumber: self = .number(number.doubleValue)
        case let text as String: self = .text(text)
        case let items as [Any]: self = .array(items.map(JSONValue.init))
        case let entries as [String: Any]: self = .object(entries.mapValues(JSONValue.init))
        default: self = .null
        }
    }

    /// Follows keys and indexes, separated by dots; `nil` where something is not there.
    package func at(_ path: String) -> JSONValue? {
        var value = self
        for part in path.split(separator: ".") {
            switch value {
            case .object(let entries):
                guard let next = entries[String(part)] else { return nil }
                value = next
            case .array(let items):
                guard let index = Int(part), let at = Optional(index < 0 ? items.count + index : index), items.indices.contains(at) else {
                    return nil
                }
                value = items[at]
            default: return nil
            }
        }
        return value
    }

    package var number: Double? {
        switch self {
        case .number(let number): number
        case .text(let text): Double(text)
        default: nil
        }
    }

    package var printed: String {
        switch self {
        case .null: "null"
        case .bool(let flag): "\(flag)"
        case .number(let number): "\(number)"
        case .text(let text): "\"\(text.prefix(60))\""
        case .array(let items): "a list of \(items.count)"
        case .object(let entries): "an object with \(entries.count) entries"
        }
    }
}
