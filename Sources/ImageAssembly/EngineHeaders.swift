import Foundation
import FarmModel
import Glibc
import SystemIO

/// What a line of the engine's headers says.
enum HeaderRecord {
    /// Bytes of the archive: headers, and the padding of the entry before.
    case segment([UInt8])
    /// The content of a file follows, which is not here.
    ///
    /// - Parameter check: the content's CRC-64 in base64, as the line has it; hardly any is ever looked at.
    case file(path: [UInt8], size: Int64, check: [UInt8]?)
}

/// Lines of JSON in a gzip file, unpacked as they are wanted.
struct RecordReader {
    private let file: OpenFile
    private let stream: GzipStream
    private var position: Int64 = 0
    private var text: [UInt8] = []
    private var start = 0

    init(_ path: String) throws {
        file = try OpenFile(path, flags: O_RDONLY)
        stream = try GzipStream()
    }

    mutating func next() throws -> HeaderRecord? {
        while true {
            if let end = text[start...].firstIndex(of: UInt8(ascii: "\n")) {
                let line = text[start..<end]
                start = end + 1
                if line.isEmpty { continue }
                return try record(line)
            }
            text.removeFirst(start)
            start = 0
            var piece = [UInt8](repeating: 0, count: 1 << 16)
            let got = try piece.withUnsafeMutableBytes { try file.read(at: position, into: $0) }
            if got == 0 {
                guard stream.isComplete, text.isEmpty else { throw damaged() }
                return nil
            }
            position += Int64(got)
            try piece.withUnsafeBytes { bytes in
                try stream.feed(UnsafeRawBufferPointer(rebasing: bytes[..<got])) { text += $0 }
            }
            // A header with its extended headers is no longer than what a layer's entry may have.
            guard text.count <= 64 << 20 else { throw damaged() }
        }
    }

    private struct Line: Decodable {
        var type: Int
        var name: String?
        var name_raw: Data?
        var size: Int64?
        var payload: Data?
        var check: [UInt8]?

        private enum CodingKeys: String, CodingKey { case type, name, name_raw, size, payload }
    }

    private func record(_ line: ArraySlice<UInt8>) throws -> HeaderRecord {
        guard let fields = RecordReader.plain(line) ?? (try? JSONDecoder().decode(Line.self, from: Data(line))) else { throw damaged() }
        switch fields.type {
        case 1:
            guard let size = Optional(fields.size ?? 0), (0...(1 << 50)).contains(size) else { throw damaged() }
            let check = fields.check ?? fields.payload.map { Array($0.base64EncodedData()) }
            return .file(path: fields.name_raw.map(Array.init) ?? Array((fields.name ?? "").utf8), size: size, check: check)
        case 2: return .segment(Array(fields.payload ?? Data()))
        default: throw damaged()
        }
    }

    /// A line in the form that engines write, taken apart without a parser of JSON, which would take most of the time; `nil` for
    /// another form.
    private static func plain(_ line: ArraySlice<UInt8>) -> Line? {
        var result = Line(type: 0)
        guard !line.contains(UInt8(ascii: "\\")), line.first == UInt8(ascii: "{"), line.last == UInt8(ascii: "}") else { return nil }
        var rest = line.dropFirst().dropLast()
        while !rest.isEmpty {
            guard rest.first == UInt8(ascii: "\""), let close = rest.dropFirst().firstIndex(of: UInt8(ascii: "\"")),
                close + 1 < rest.endIndex, rest[close + 1] == UInt8(ascii: ":")
            else { return nil }
            let key = rest[(rest.startIndex + 1)..<close]
            rest = rest[(close + 2)...]
            let value: ArraySlice<UInt8>
            let isText = rest.first == UInt8(ascii: "\"")
            if isText {
                guard let end = rest.dropFirst().firstIndex(of: UInt8(ascii: "\"")) else { return nil }
                value = rest[(rest.startIndex + 1)..<end]
                rest = rest[(end + 1)...]
            } else {
                let end = rest.firstIndex(of: UInt8(ascii: ",")) ?? rest.endIndex
                value = rest[rest.startIndex..<end]
                rest = rest[end...]
            }
            if !rest.isEmpty {
                guard rest.first == UInt8(ascii: ",") else { return nil }
                rest = rest.dropFirst()
            }
            switch String(decoding: key, as: UTF8.self) {
            case "type": result.type = Int(String(decoding: value, as: UTF8.self)) ?? 0
            case "size": result.size = Int64(String(decoding: value, as: UTF8.self))
            case "name" where isText: result.name = String(decoding: value, as: UTF8.self)
            case "name_raw" where isText:
                guard let data = Data(base64Encoded: Data(value)) else { return nil }
                result.name_raw = data
            case "payload" where isText && result.type == 1: result.check = Array(value)
            case "payload" where isText && result.type == 2:
                guard let data = Data(base64Encoded: Data(value)) else { return nil }
                result.payload = data
            default: break
            }
        }
        return result
    }

    private func damaged() -> FarmError {
        FarmError(
            "image.engine", .corrupt, "the engine's headers of a layer are unreadable: \(file.path)",
            hint: "remove the image from the engine and build it again")
    }
}

/// CRC-64 of ISO 3309 (polynomial x^64 + x^4 + x^3 + x + 1, reflected, begun and ended with all bits), with which tar-split marks contents.
struct ContentCheck {
    private static let table: [UInt64] = (0..<256).map {
        (0..<8).reduce(UInt64($0)) { value, _ in value >> 1 ^ (value & 1) * (0xD8 << 56) }
    }
    private var state = UInt64.max

    mutating func update(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { state = ContentCheck.table[Int(UInt8(truncatingIfNeeded: state) ^ byte)] ^ state >> 8 }
    }

    /// Eight bytes in base64, as engines write them.
    var text: [UInt8] { Array(withUnsafeBytes(of: (~state).bigEndian) { Data($0) }.base64EncodedData()) }
}
