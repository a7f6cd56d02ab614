import FarmModel

/// What a file system entry is.
package enum EntryKind: Sendable, Hashable {
    case directory
    case file(FileContent)
    case symlink(target: [UInt8])
    /// Another name of the entry at this path.
    case hardLink(to: [UInt8])
    case character(major: UInt32, minor: UInt32)
    case block(major: UInt32, minor: UInt32)
    case fifo
}

/// Where a file's content lies in its layer's archive.
package struct FileContent: Sendable, Hashable {
    /// A part of a file; what lies between parts is zeros.
    package struct Run: Sendable, Hashable {
        /// In the file.
        package var position: Int64
        /// In the archive.
        package var offset: Int64
        package var count: Int64
    }

    package var size: Int64
    package var runs: [Run]

    package init(offset: Int64, size: Int64) {
        self.size = size
        runs = size > 0 ? [Run(position: 0, offset: offset, count: size)] : []
    }

    /// A sparse file of parts in order, none beyond `size`.
    package init(size: Int64, runs: [Run]) {
        self.size = size
        self.runs = runs
    }
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

/// Reads a tar archive (POSIX.1-2017 pax, ustar, GNU long names and sparse files) without copying content.
package struct TarReader {
    let archive: any LayerArchive
    private var position: Int64 = 0
    /// The entry that is being read, for messages.
    private var current: [UInt8] = []
    private static let block = 512
    /// The extended headers of one entry may be as long as this together.
    static let longestRecords: Int64 = 1 << 20

    package init(_ archive: any LayerArchive) { self.archive = archive }

    /// What stands before an entry's own header and belongs to it.
    private struct Extension {
        var pax: [(key: String, value: [UInt8])] = []
        var name: [UInt8]?
        var link: [UInt8]?
        var bytes: Int64 = 0

        /// The last one counts.
        subscript(_ key: String) -> [UInt8]? { pax.last { $0.key == key }?.value }
    }

    /// The next entry, or `nil` at the end; throws `tar.invalid`, naming the layer and the entry.
    package mutating func next() throws -> TarEntry? {
        var more = Extension()
        current = []
        while position + Int64(TarReader.block) <= archive.size {
            var header = [UInt8](repeating: 0, count: TarReader.block)
            let got = try header.withUnsafeMutableBytes { try archive.read(at: position, into: $0) }
            // An archive may end without the two empty blocks that it should end with.
            if got == 0 { return nil }
            guard got == TarReader.block else { throw invalid("the layer ends inside its header") }
            if header.allSatisfy({ $0 == 0 }) { return nil }
            try check(header)
            current = more["path"] ?? more.name ?? name(in: header)
            var size = try number(header[124..<136], "size")
            if let text = more["size"] {
                guard let value = Int64(String(decoding: text, as: UTF8.self)) else { throw invalid("its size is unreadable") }
                size = value
            }
            let content = position + Int64(TarReader.block)
            let type = header[156]
            // Links, devices and directories have no content, whatever their size says.
            let stored = "123456".utf8.contains(type) ? 0 : size
            guard stored >= 0, stored <= archive.size - content else {
                throw invalid("it is said to have \(size) bytes, more than the layer has left")
            }
            position = content + (stored + 511) / 512 * 512
            switch type {
            case UInt8(ascii: "x"): more.pax += try records(content, size, &more.bytes)
            case UInt8(ascii: "g"): break
            case UInt8(ascii: "L"): more.name = try long(content, size, &more.bytes)
            case UInt8(ascii: "K"): more.link = try long(content, size, &more.bytes)
            default: return try entry(header, type, content, stored, more)
            }
        }
        return nil
    }

    private mutating func entry(
        _ header: [UInt8], _ type: UInt8, _ content: Int64, _ size: Int64, _ more: Extension
    ) throws -> TarEntry {
        let link = more["linkpath"] ?? more.link ?? text(header[157..<257])
        var name = current
        let kind: EntryKind
        switch type {
        case 0, UInt8(ascii: "0"), UInt8(ascii: "7"):
            if let real = more["GNU.sparse.name"] { (name, current) = (real, real) }
            kind = .file(try sparse(more, content, size) ?? FileContent(offset: content, size: size))
        case UInt8(ascii: "1"): kind = .hardLink(to: try clean(link))
        case UInt8(ascii: "2"):
            guard !link.isEmpty, link.count <= 4095 else { throw invalid("a link's target has \(link.count) bytes") }
            kind = .symlink(target: link)
        case UInt8(ascii: "3"): kind = .character(major: try device(header, 329, 1 << 12), minor: try device(header, 337, 1 << 20))
        case UInt8(ascii: "4"): kind = .block(major: try device(header, 329, 1 << 12), minor: try device(header, 337, 1 << 20))
        case UInt8(ascii: "5"): kind = .directory
        case UInt8(ascii: "6"): kind = .fifo
        case UInt8(ascii: "S"): kind = .file(try oldSparse(header, content, size))
        default: throw invalid("its type is \(type), which means nothing")
        }
        var extended: [String: [UInt8]] = [:]
        for (key, value) in more.pax where key.hasPrefix("SCHILY.xattr.") {
            let name = String(key.dropFirst(13))
            // The kernel's own limits (xattr(7)).
            guard (1...255).contains(name.utf8.count), !name.utf8.contains(0), value.count <= 1 << 16, extended.count < 1024 else {
                throw invalid("it has an extended attribute that no file can have")
            }
            extended[name] = value
        }
        return TarEntry(
            path: try clean(name), kind: kind,
            mode: UInt16(truncatingIfNeeded: try number(header[100..<108], "mode")) & 0o7777,
            uid: try owner(more["uid"], header[108..<116]), gid: try owner(more["gid"], header[116..<124]),
            modified: try time(more["mtime"], header), extended: extended)
    }

    /// The place of a sparse file's parts by GNU's pax records of the versions 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse
    /// Files"); `nil` for a file that is not sparse.
    private func sparse(_ more: Extension, _ content: Int64, _ stored: Int64) throws -> FileContent? {
        func numeral(_ bytes: [UInt8]) throws -> Int64 {
            guard let value = Int64(String(decoding: bytes, as: UTF8.self)), value >= 0 else {
                throw invalid("its sparse map is unreadable")
            }
            return value
        }
        var map: [Int64] = []
        var start = content
        if let map1 = more["GNU.sparse.map"] {
            map = try map1.split(separator: UInt8(ascii: ",")).map { try numeral(Array($0)) }
        } else if more["GNU.sparse.major"] != nil {
            var lines = SparseLines(archive: archive, position: content, end: content + stored)
            guard let count = try lines.next(), count <= 1 << 20 else { throw invalid("its sparse map is unreadable") }
            for _ in 0..<2 * count {
                guard let value = try lines.next() else { throw invalid("its sparse map ends too soon") }
                map.append(value)
            }
            start = content + (lines.position - content + 511) / 512 * 512
        } else if more["GNU.sparse.size"] != nil {
            map = try more.pax.filter { ["GNU.sparse.offset", "GNU.sparse.numbytes"].contains($0.key) }.map { try numeral($0.value) }
        } else {
            return nil
        }
        guard let size = try (more["GNU.sparse.realsize"] ?? more["GNU.sparse.size"]).map(numeral) else {
            throw invalid("it is sparse and does not say how long")
        }
        return try assemble(map, size, start, content + stored)
    }

    /// Pairs of position and count, the parts one behind the other from `start` on.
    private func assemble(_ map: [Int64], _ size: Int64, _ start: Int64, _ end: Int64) throws -> FileContent {
        guard size >= 0 else { throw invalid("it is sparse and says that it has \(size) bytes") }
        var runs: [FileContent.Run] = []
        var (offset, last) = (start, Int64(0))
        for pair in stride(from: 0, to: map.count - 1, by: 2) {
            let (position, count) = (map[pair], map[pair + 1])
            guard position >= last, count >= 0, count <= end - offset, position <= size, count <= size - position else {
                throw invalid("its sparse map leads out of it")
            }
            if count > 0 { runs.append(.init(position: position, offset: offset, count: count)) }
            offset += count
            last = position + count
        }
        return FileContent(size: size, runs: runs)
    }

    /// GNU's old form: the map in the header and in blocks behind it.
    private mutating func oldSparse(_ header: [UInt8], _ content: Int64, _ stored: Int64) throws -> FileContent {
        var map: [Int64] = []
        func take(_ bytes: [UInt8], _ start: Int, _ count: Int) throws {
            for slot in 0..<count {
                let field = start + 24 * slot
                if bytes[field] == 0 { return }
                map.append(try number(bytes[field..<field + 12], "sparse map"))
                map.append(try number(bytes[field + 12..<field + 24], "sparse map"))
            }
        }
        try take(header, 386, 4)
        var (isMore, start) = (header[482] != 0, content)
        while isMore {
            guard start + 512 <= archive.size, map.count < 1 << 21 else { throw invalid("its sparse map has no end") }
            let block = try archive.read(at: start, count: 512)
            try take(block, 0, 21)
            isMore = block[504] != 0
            start += 512
        }
        guard stored <= archive.size - start else { throw invalid("it is longer than the layer") }
        position = start + (stored + 511) / 512 * 512
        return try assemble(map, try number(header[483..<495], "real size"), start, start + stored)
    }

    private func name(in header: [UInt8]) -> [UInt8] {
        let name = text(header[0..<100])
        let prefix = text(header[345..<500])
        let isPosix = Array(header[257..<262]) == Array("ustar".utf8) && header[262] == 0
        return prefix.isEmpty || !isPosix ? name : prefix + [UInt8(ascii: "/")] + name
    }

    private func owner(_ pax: [UInt8]?, _ field: ArraySlice<UInt8>) throws -> UInt32 {
        let value = try pax.flatMap { Int64(String(decoding: $0, as: UTF8.self)) } ?? number(field, "owner")
        guard let owner = UInt32(exactly: value) else { throw invalid("its owner is the number \(value)") }
        return owner
    }

    /// - Parameter end: the first number that squashfs has no room for.
    private func device(_ header: [UInt8], _ start: Int, _ end: Int64) throws -> UInt32 {
        let value = try number(header[start..<start + 8], "device")
        guard (0..<end).contains(value) else { throw invalid("it is a device with the number \(value)") }
        return UInt32(value)
    }

    private func time(_ pax: [UInt8]?, _ header: [UInt8]) throws -> Int64 {
        if let pax {
            let whole = String(decoding: pax, as: UTF8.self).split(separator: ".").first.flatMap { Int64($0) }
            if let whole { return whole }
        }
        return try number(header[136..<148], "time")
    }

    /// Removes leading `./` and slashes; refuses `..` and what no file system holds.
    private func clean(_ name: [UInt8]) throws -> [UInt8] {
        let parts = name.split(separator: UInt8(ascii: "/")).filter { !$0.elementsEqual([UInt8(ascii: ".")]) }
        for part in parts {
            if part.elementsEqual(Array("..".utf8)) { throw invalid("a name leads out of the layer") }
            if part.count > 255 { throw invalid("a part of its name has \(part.count) bytes, more than 255") }
            if part.contains(0) { throw invalid("its name holds a NUL") }
        }
        guard name.count <= 1 << 16, parts.count <= 1000 else { throw invalid("its name is too long") }
        return Array(parts.joined(separator: [UInt8(ascii: "/")]))
    }

    private func text(_ field: ArraySlice<UInt8>) -> [UInt8] { Array(field.prefix { $0 != 0 }) }

    private func number(_ field: ArraySlice<UInt8>, _ what: String) throws -> Int64 {
        // GNU's base-256 form begins with a set high bit; the next one is the sign.
        if let first = field.first, first & 0x80 != 0 {
            var value = first & 0x40 != 0 ? Int64(-1) : 0
            value = value << 7 | Int64(first & 0x7F)
            for byte in field.dropFirst() {
                let (shifted, overflow) = value.multipliedReportingOverflow(by: 256)
                if overflow { throw invalid("its \(what) is too large a number") }
                value = shifted | Int64(byte)
            }
            return value
        }
        let digits = field.filter { $0 != 0 && $0 != UInt8(ascii: " ") }
        if digits.isEmpty { return 0 }
        guard let value = Int64(String(decoding: digits, as: UTF8.self), radix: 8) else { throw invalid("its \(what) is unreadable") }
        return value
    }

    private func check(_ header: [UInt8]) throws {
        var sum: Int64 = 0
        for (index, byte) in header.enumerated() { sum += (148..<156).contains(index) ? 32 : Int64(byte) }
        guard try number(header[148..<156], "checksum") == sum else { throw invalid("its header's checksum is wrong") }
    }

    private func long(_ start: Int64, _ size: Int64, _ total: inout Int64) throws -> [UInt8] {
        total += size
        guard total <= TarReader.longestRecords else { throw invalid("its name is too long") }
        return Array(try archive.read(at: start, count: Int(size)).prefix { $0 != 0 })
    }

    private func records(_ start: Int64, _ size: Int64, _ total: inout Int64) throws -> [(key: String, value: [UInt8])] {
        total += size
        guard total <= TarReader.longestRecords else { throw invalid("its extended headers have no end") }
        var rest = try archive.read(at: start, count: Int(size))[...]
        var result: [(key: String, value: [UInt8])] = []
        while let first = rest.first, first != 0 {
            guard let space = rest.firstIndex(of: UInt8(ascii: " ")),
                let length = Int(String(decoding: rest[..<space], as: UTF8.self)), length <= rest.count,
                length > 0, rest.startIndex + length > space + 1
            else { throw invalid("its extended header is unreadable") }
            let record = rest[(space + 1)..<(rest.startIndex + length - 1)]
            guard let equals = record.firstIndex(of: UInt8(ascii: "=")) else { throw invalid("its extended header is unreadable") }
            result.append((String(decoding: record[..<equals], as: UTF8.self), Array(record[(equals + 1)...])))
            rest = rest[(rest.startIndex + length)...]
        }
        return result
    }

    /// An error about the entry that is being read.
    func invalid(_ why: String) -> FarmError { TarReader.invalid(archive.name, current, why) }

    /// An error about an entry of a layer.
    static func invalid(_ layer: String, _ path: [UInt8], _ why: String) -> FarmError {
        let entry = path.isEmpty ? "an entry" : "\"\(ImageListing.escaped(Array(path.prefix(200))))\""
        return FarmError("tar.invalid", .corrupt, "\(layer) is no usable layer: \(entry): \(why)")
    }
}

/// Decimal numbers, one to a line: the map at the beginning of a sparse file's content in GNU's version 1.0.
private struct SparseLines {
    let archive: any LayerArchive
    var position: Int64
    let end: Int64
    private var buffer: ArraySlice<UInt8> = []

    init(archive: any LayerArchive, position: Int64, end: Int64) {
        self.archive = archive
        self.position = position
        self.end = end
    }

    /// `nil` where there is none.
    mutating func next() throws -> Int64? {
        var digits: [UInt8] = []
        while digits.count < 20 {
            if buffer.isEmpty {
                let count = min(512, end - position)
                guard count > 0 else { return nil }
                buffer = try archive.read(at: position, count: Int(count))[...]
            }
            let byte = buffer.removeFirst()
            position += 1
            if byte == UInt8(ascii: "\n") { return Int64(String(decoding: digits, as: UTF8.self)).flatMap { $0 >= 0 ? $0 : nil } }
            digits.append(byte)
        }
        return nil
    }
}
