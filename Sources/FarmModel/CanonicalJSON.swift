import Foundation

/// JSON in the one form whose bytes are hashed and signed: keys sorted, no white space, slashes unescaped.
package enum CanonicalJSON {
    /// The canonical bytes of a value.
    package static func encode(_ value: some Encodable) throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            return Array(try encoder.encode(value))
        } catch {
            throw FarmError("json.unencodable", .fault, "a value has no JSON form", cause: error)
        }
    }

    /// The same keys and order, indented, for people.
    package static func pretty(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// Reads a value; throws `json.invalid`, naming `source`, when the bytes do not hold one, and what the value itself has against them.
    package static func decode<Value: Decodable>(
        _ type: Value.Type = Value.self, from bytes: some Sequence<UInt8>, source: String
    ) throws -> Value {
        do {
            return try JSONDecoder().decode(type, from: Data(bytes))
        } catch let error as DecodingError {
            throw FarmError("json.invalid", .invalid, "\(source) is not what it should be: \(explain(error))")
        } catch let error as FarmError {
            throw FarmError(error.code, error.category, "\(source): \(error.message)", hint: error.hint)
        } catch {
            throw FarmError("json.invalid", .invalid, "\(source) is no valid JSON", cause: error)
        }
    }

    /// Reads a settings file: keys that it does not name keep the values of `defaults`, a key that nobody reads is
    /// `settings.key`, so that a slip of the pen does not pass for a setting.
    package static func decodeSettings<Value: Codable>(_ bytes: [UInt8], defaults: Value, source: String) throws -> Value {
        let known = try JSONSerialization.jsonObject(with: Data(try encode(defaults))) as? [String: Any] ?? [:]
        guard let given = (try? JSONSerialization.jsonObject(with: Data(bytes))) as? [String: Any] else {
            throw FarmError("json.invalid", .invalid, "\(source) is no JSON object")
        }
        if let stranger = given.keys.sorted().first(where: { known[$0] == nil }) {
            throw FarmError(
                "settings.key", .invalid, "\(source): \"\(stranger)\" is no setting",
                hint: "known: \(known.keys.sorted().joined(separator: ", "))")
        }
        let merged = try JSONSerialization.data(withJSONObject: known.merging(given) { _, new in new })
        return try decode(from: merged, source: source)
    }

    private static func explain(_ error: DecodingError) -> String {
        func path(_ context: DecodingError.Context) -> String {
            context.codingPath.isEmpty ? "the top level" : context.codingPath.map(\.stringValue).joined(separator: ".")
        }
        switch error {
        case .keyNotFound(let key, let context): return "\"\(key.stringValue)\" is missing in \(path(context))"
        case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
            return "\(context.debugDescription) at \(path(context))"
        @unknown default: return String(describing: error)
        }
    }
}
