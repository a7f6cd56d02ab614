import FarmModel
import Glibc
package import SystemIO

/// What a file system entry is.
package enum EntryKind: Sendable, Hashable {
    case directory
    /// `offset` is where the content lies in the archive's file.
    case file(offset: Int64, size: Int64)
    case symlink(target: [UInt8])
    /// Another name of the entry at this path.
    case hardLink(to: [UInt8])
    case character(major: UInt32, minor: UInt32)
    case block(major: UInt32, minor: UInt32)
    case fifo
}

/// One entry of a layer.
package struct TarEntry: Sendable, Hashable {
    /// Without leading `./` or `/` and without a trailing slash; bytes, because names need not be UTF-8.
    package var path: [UInt8]
    package var kind: EntryKind
    package var mode: UInt16
    package var uid: UInt32
    package var gid: UInt32
    package var modified: Int64
    package var extended: [String: [UInt8]]
}

/// Reads tar archives (POSIX.1-2017 pax, ustar and GNU long names) that lie in a file, without copying content.
package struct TarReader {
    private let file: OpenFile
    private let path: String
    private var position: Int64
    private let end: Int64
    private static let block = 512
    /// Names and pax records longer than this are refused.
    private static let longestRecord: Int64 = 1 << 20

    /// Reads the archive at `start` of an open file, at most `size` bytes long.
    package init(_ file: OpenFile, start: Int64, size: Int64) {
        self.file = file
        path = file.path
        position = start
        end = start + size
    }

    /// The next entry, or `nil` at the end; throws `tar.invalid`.
    package mutating func next() throws -> TarEntry? {
        var pax: [String: [UInt8]] = [:]
        var longName: [UInt8]?
        var longLink: [UInt8]?
        while position + Int64(TarReader.block) <= end {
            let header = try file.read(at: position, count: TarReader.block)
            if header.allSatisfy({ $0 == 0 }) { return nil }
            try check(header)
            var size = try number(header[124..<136])
            if let text = pax["size"], let value = Int64(String(decoding: text, as: UTF8.self)) { size = value }
            let content = position + Int64(TarReader.block)
            let type = header[156]
            guard size >= 0, size <= end - content else { throw invalid("an entry is longer than the archive") }
            let holdsData = !"123456".utf8.contains(type)
            position = content + (holdsData ? (size + 511) / 512 * 512 : 0)
            switch type {
            case UInt8(ascii: "x"): pax.merge(try records(content, size)) { $1 }
            case UInt8(ascii: "g"): break
            case UInt8(ascii: "L"): longName = try long(content, size)
            case UInt8(ascii: "K"): longLink = try long(content, size)
            default: return try entry(header, type, content, size, pax, longName, longLink)
            }
        }
        return nil
    }

    private func entry(
        _ header: [UInt8], _ type: UInt8, _ content: Int64, _ size: Int64, _ pax: [String: [UInt8]],
        _ longName: [UInt8]?, _ longLink: [UInt8]?
    ) throws -> TarEntry {
        var name = pax["path"] ?? longName ?? []
        if name.isEmpty {
            name = text(header[0..<100])
            let prefix = text(header[345..<500])
            if !prefix.isEmpty, Array(header[257..<262]) == Array("ustar".utf8), header[262] == 0 {
                name = prefix + [UInt8(ascii: "/")] + name
            }
        }
        let link = pax["linkpath"] ?? longLink ?? text(header[157..<257])
        let kind: EntryKind
        switch type {
        case 0, UInt8(ascii: "0"), UInt8(ascii: "7"): kind = .file(offset: content, size: size)
        case UInt8(ascii: "1"): kind = .hardLink(to: try TarReader.clean(link, invalid))
        case UInt8(ascii: "2"): kind = .symlink(target: link)
        case UInt8(ascii: "3"): kind = .character(major: try device(header, 329), minor: try device(header, 337))
        case UInt8(ascii: "4"): kind = .block(major: try device(header, 329), minor: try device(header, 337))
        case UInt8(ascii: "5"): kind = .directory
        case UInt8(ascii: "6"): kind = .fifo
        default: throw invalid("an entry has the unknown type \(type)")
        }
        var extended: [String: [UInt8]] = [:]
        for (key, value) in pax where key.hasPrefix("SCHILY.xattr.") { extended[String(key.dropFirst(13))] = value }
        return TarEntry(
            path: try TarReader.clean(name, invalid), kind: kind,
            mode: UInt16(truncatingIfNeeded: try number(header[100..<108])) & 0o7777,
            uid: try owner(pax["uid"], header[108..<116]), gid: try owner(pax["gid"], header[116..<124]),
            modified: try time(pax["mtime"], header), extended: extended)
    }

    private func owner(_ pax: [UInt8]?, _ field: ArraySlice<UInt8>) throws -> UInt32 {
        if let pax, let value = UInt32(String(decoding: pax, as: UTF8.self)) { return value }
        return UInt32(truncatingIfNeeded: try number(field))
    }

    private func device(_ header: [UInt8], _ start: Int) throws -> UInt32 {
        UInt32(truncatingIfNeeded: try number(header[start..<start + 8]))
    }

    private func time(_ pax: [UInt8]?, _ header: [UInt8]) throws -> Int64 {
        if let pax {
            let whole = String(decoding: pax, as: UTF8.self).split(separator: ".").first.flatMap { Int64($0) }
            if let whole { return whole }
        }
        return try number(header[136..<148])
    }

    /// Removes leading `./` and slashes; refuses `..`.
    static func clean(_ name: [UInt8], _ invalid: (String) -> FarmError) throws -> [UInt8] {
        let parts = name.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual([UInt8(ascii: ".")]) }
        if parts.contains(where: { $0.elementsEqual(Array("..".utf8)) }) { throw invalid("a name leads out of the archive") }
        return Array(parts.joined(separator: [UInt8(ascii: "/")]))
    }

    private func text(_ field: ArraySlice<UInt8>) -> [UInt8] { Array(field.prefix { $0 != 0 }) }

    private func number(_ field: ArraySlice<UInt8>) throws -> Int64 {
        // GNU's base-256 form begins with a set high bit.
        if let first = field.first, first & 0x80 != 0 {
            var value = Int64(first & 0x3F)
            for byte in field.dropFirst() {
                let (shifted, overflow) = value.multipliedReportingOverflow(by: 256)
                if overflow { throw invalid("a number is too large") }
                value = shifted | Int64(byte)
            }
            return value
        }
        let digits = field.filter { $0 != 0 && $0 != UInt8(ascii: " ") }
        if digits.isEmpty { return 0 }
        guard let value = Int64(String(decoding: digits, as: UTF8.self), radix: 8) else { throw invalid("a number is unreadable") }
        return value
    }

    private func check(_ header: [UInt8]) throws {
        var sum: Int64 = 0
        for (index, byte) in header.enumerated() { sum += (148..<156).contains(index) ? 32 : Int64(byte) }
        guard try number(header[148..<156]) == sum else { throw invalid("a header's checksum is wrong") }
    }

    private func long(_ start: Int64, _ size: Int64) throws -> [UInt8] {
        guard size <= TarReader.longestRecord else { throw invalid("a name is too long") }
        return Array(try file.read(at: start, count: Int(size)).prefix { $0 != 0 })
    }

    private func records(_ start: Int64, _ size: Int64) throws -> [String: [UInt8]] {
        guard size <= TarReader.longestRecord else { throw invalid("an extended header is too long") }
        var rest = try file.read(at: start, count: Int(size))[...]
        var result: [String: [UInt8]] = [:]
        while !rest.isEmpty {
            guard let space = rest.firstIndex(of: UInt8(ascii: " ")),
                let length = Int(String(decoding: rest[..<space], as: UTF8.self)), length <= rest.count,
                rest.startIndex + length > space + 1
            else { throw invalid("an extended header is unreadable") }
            let record = rest[(space + 1)..<(rest.startIndex + length - 1)]
            guard let equals = record.firstIndex(of: UInt8(ascii: "=")) else {
                throw invalid("an extended header is unreadable")
            }
            result[String(decoding: record[..<equals], as: UTF8.self)] = Array(record[(equals + 1)...])
            rest = rest[(rest.startIndex + length)...]
        }
        return result
    }

    private func invalid(_ why: String) -> FarmError {
        FarmError("tar.invalid", .corrupt, "\(path) is no usable archive near byte \(position): \(why)")
    }
}
