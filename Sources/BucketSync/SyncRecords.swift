package import FarmModel
import ObjectStorage

/// Writes and reads the small fields of records.
struct FieldWriter {
    var bytes: [UInt8] = []

    mutating func put(_ number: Int64) { withUnsafeBytes(of: number.littleEndian) { bytes += $0 } }

    /// Text up to 65,534 bytes; `nil` differs from an empty one.
    mutating func put(_ text: String?) {
        let utf8 = text.map { Array($0.utf8.prefix(65_534)) }
        withUnsafeBytes(of: UInt16(utf8?.count ?? 65_535).littleEndian) { bytes += $0 }
        bytes += utf8 ?? []
    }
}

struct FieldReader {
    private let bytes: [UInt8]
    private var place = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func number() -> Int64? {
        guard place + 8 <= bytes.count else { return nil }
        defer { place += 8 }
        return Int64(littleEndian: bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: Int64.self) })
    }

    mutating func text() -> String?? {
        guard place + 2 <= bytes.count else { return .none }
        let count = Int(UInt16(littleEndian: bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: UInt16.self) }))
        place += 2
        if count == 65_535 { return .some(nil) }
        guard place + count <= bytes.count else { return .none }
        defer { place += count }
        return .some(String(decoding: bytes[place..<place + count], as: UTF8.self))
    }
}

extension ObjectInfo {
    /// As a record whose order is `rank`, then the key's bytes.
    func record(rank: UInt8) -> Record {
        var fields = FieldWriter()
        fields.put(size)
        fields.put(modified?.milliseconds ?? Int64.min)
        fields.put(tag)
        return Record(key: [rank] + Array(key.utf8), value: fields.bytes)
    }

    init(_ record: Record) throws {
        var fields = FieldReader(record.value)
        guard let size = fields.number(), let modified = fields.number(), let tag = fields.text() else { throw RecordCoding.damaged }
        self.init(
            key: String(decoding: record.key.dropFirst(), as: UTF8.self), size: size, tag: tag,
            modified: modified == Int64.min ? nil : Timestamp(milliseconds: modified))
    }
}

/// What is remembered of a key from one run to the next.
package enum Known: Sendable, Hashable {
    /// Objects of these tags and this size have one content.
    case same(size: Int64, source: String?, destination: String?)
    /// The source does not have it any more, since then.
    case missing(since: Timestamp)

    var value: [UInt8] {
        var fields = FieldWriter()
        switch self {
        case .same(let size, let source, let destination):
            fields.put(size)
            fields.put(source)
            fields.put(destination)
        case .missing(let since):
            fields.put(-1)
            fields.put(since.milliseconds)
        }
        return fields.bytes
    }

    package init?(_ value: [UInt8]) {
        var fields = FieldReader(value)
        guard let size = fields.number() else { return nil }
        if size == -1 {
            guard let since = fields.number() else { return nil }
            self = .missing(since: Timestamp(milliseconds: since))
        } else {
            guard let source = fields.text(), let destination = fields.text() else { return nil }
            self = .same(size: size, source: source, destination: destination)
        }
    }
}
