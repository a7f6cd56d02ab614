import FarmModel

/// Headers of a tar archive in the pax form (POSIX.1-2017, `pax`), for the files of an image.
struct TarWriter {
    /// What names of the inodes met so far are.
    private var first: [UInt32: [UInt8]] = [:]

    /// Two empty blocks end an archive.
    static let end = [UInt8](repeating: 0, count: 1024)

    /// Zeros between a content of that size and the next header.
    static func padding(_ size: Int64) -> [UInt8] { [UInt8](repeating: 0, count: Int((512 - size % 512) % 512)) }

    /// The headers of an entry, and whether its content follows: of a file with several names it stands once.
    mutating func headers(of entry: SquashfsReader.Entry) -> (bytes: [UInt8], holdsContent: Bool) {
        var path = Array(entry.path.drop { $0 == UInt8(ascii: "/") })
        if entry.kind == "d" { path.append(UInt8(ascii: "/")) }
        var (type, link, size): (Character, [UInt8], Int64) = ("0", [], 0)
        switch entry.kind {
        case "d": type = "5"
        case "l": (type, link) = ("2", entry.target)
        case "c": type = "3"
        case "b": type = "4"
        case "p": type = "6"
        default:
            if let other = first[entry.inode] {
                (type, link) = ("1", other)
            } else {
                first[entry.inode] = path
                size = entry.size
            }
        }
        var records: [UInt8] = []
        if path.count > 100 { records += TarWriter.record("path", path) }
        if link.count > 100 { records += TarWriter.record("linkpath", link) }
        if size >= 1 << 33 { records += TarWriter.record("size", Array("\(size)".utf8)) }
        if entry.owner >= 1 << 21 { records += TarWriter.record("uid", Array("\(entry.owner)".utf8)) }
        if entry.group >= 1 << 21 { records += TarWriter.record("gid", Array("\(entry.group)".utf8)) }
        for (name, value) in entry.attributes.sorted(by: { $0.key < $1.key }) where type != "1" {
            records += TarWriter.record("SCHILY.xattr.\(name)", value)
        }
        var bytes: [UInt8] = []
        if !records.isEmpty {
            bytes +=
                TarWriter.header(Array("pax".utf8), "x", [], Int64(records.count), entry) + records
                + TarWriter.padding(Int64(records.count))
        }
        return (bytes + TarWriter.header(path, type, link, size, entry), type == "0" && size > 0)
    }

    /// The header of a file with a short name, of nobody and no time.
    static func header(_ name: String, size: Int64) -> [UInt8] {
        let entry = SquashfsReader.Entry(
            kind: "f", path: [], mode: 0o644, owner: 0, group: 0, modified: Timestamp(seconds: 0), size: size, target: [], inode: 0,
            attributes: [:], number: 0)
        let records = size >= 1 << 33 ? record("size", Array("\(size)".utf8)) : []
        let extended =
            records.isEmpty ? [] : header(Array("pax".utf8), "x", [], Int64(records.count), entry) + records + padding(Int64(records.count))
        return extended + header(Array(name.utf8), "0", [], size, entry)
    }

    private static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
        let rest = key.utf8.count + value.count + 3
        var length = rest + 1
        // The length counts its own digits.
        while rest + "\(length)".utf8.count != length { length = rest + "\(length)".utf8.count }
        return Array("\(length) \(key)=".utf8) + value + [UInt8(ascii: "\n")]
    }

    private static func header(
        _ path: [UInt8], _ type: Character, _ link: [UInt8], _ size: Int64, _ entry: SquashfsReader.Entry
    ) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ bytes: some Collection<UInt8>, _ offset: Int, _ room: Int) {
            header.replaceSubrange(offset..<offset + min(room, bytes.count), with: bytes.prefix(room))
        }
        func octal(_ value: Int64, _ offset: Int, _ digits: Int) {
            let limited = min(max(0, value), (1 << (3 * Int64(digits))) - 1)
            let text = String(limited, radix: 8)
            put(Array((String(repeating: "0", count: digits - text.count) + text).utf8), offset, digits)
        }
        put(path, 0, 100)
        octal(Int64(entry.mode), 100, 7)
        octal(entry.owner < 1 << 21 ? Int64(entry.owner) : 0, 108, 7)
        octal(entry.group < 1 << 21 ? Int64(entry.group) : 0, 116, 7)
        octal(size < 1 << 33 ? size : 0, 124, 11)
        octal(entry.modified.milliseconds / 1000, 136, 11)
        put(Array("        ".utf8), 148, 8)
        put(Array(String(type).utf8), 156, 1)
        put(link, 157, 100)
        put(Array("ustar\u{0}00".utf8), 257, 8)
        if type == "3" || type == "4" {
            octal(Int64(entry.device.major), 329, 7)
            octal(Int64(entry.device.minor), 337, 7)
        }
        octal(header.reduce(0) { $0 + Int64($1) }, 148, 6)
        put([0, UInt8(ascii: " ")], 154, 2)
        return header
    }
}
