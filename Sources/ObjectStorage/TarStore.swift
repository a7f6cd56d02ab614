import FarmModel
import Glibc
package import SystemIO

/// A bucket in one file: a tar archive (POSIX.1-1988 `ustar`) whose names are the keys. It can be carried where no network goes, read where it
/// lies, and unpacked by any `tar` into a directory that is a bucket again. Read-only.
package struct TarStore: ObjectStore {
    private let file: OpenFile
    private let objects: [String: Range<Int64>]
    private let sorted: [String]
    package let name: String
    private static let block: Int64 = 512

    /// Reads the archive's headers; throws `tar.invalid` for one of another form, and for one that is not whole.
    package init(_ path: String) throws { try self.init(try OpenFile(path, flags: O_RDONLY), path) }

    /// The same of an open file, which must not change.
    package init(_ file: OpenFile, _ path: String) throws {
        name = "tar:\(path)"
        self.file = file
        let size = try file.size()
        var (objects, position, isWhole) = ([String: Range<Int64>](), Int64(0), false)
        while position + TarStore.block <= size {
            let header = try file.read(at: position, count: Int(TarStore.block))
            if header.allSatisfy({ $0 == 0 }) {
                isWhole = true
                break
            }
            guard let entry = TarHeader(header) else {
                throw FarmError(
                    "tar.invalid", .corrupt, "\(path) is no export of a channel: nothing that can be read is at byte \(position)",
                    hint: "export it again: sciferry store export")
            }
            let start = position + TarStore.block
            guard entry.size <= size - start else { break }
            if !entry.isDirectory {
                try ObjectKey.check(entry.key)
                objects[entry.key] = start..<start + entry.size
            }
            position = start + (entry.size + TarStore.block - 1) / TarStore.block * TarStore.block
        }
        guard isWhole else {
            throw FarmError("tar.invalid", .corrupt, "\(path) ends too early, at byte \(size)", hint: "copy or export it again")
        }
        self.objects = objects
        sorted = objects.keys.sorted { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }
    }

    package func head(_ key: String) async throws -> ObjectInfo? {
        objects[key].map { ObjectInfo(key: key, size: $0.upperBound - $0.lowerBound) }
    }

    package func get(_ key: String, range: Range<Int64>?, limit: Int64) async throws -> [UInt8] {
        guard let place = objects[key] else { throw StorageFailure.absent(key, in: name) }
        let size = place.upperBound - place.lowerBound
        let wanted = range ?? 0..<size
        guard wanted.lowerBound >= 0, wanted.upperBound <= size else { throw StorageFailure.short(key, in: name) }
        guard Int64(wanted.count) <= limit else { throw StorageFailure.long(key, in: name, limit) }
        let file = file
        return try await Blocking.run { try file.read(at: place.lowerBound + wanted.lowerBound, count: wanted.count) }
    }

    package func list(prefix: String, after: String?) async throws -> ObjectPage {
        ObjectPage(
            objects: sorted.filter { $0.hasPrefix(prefix) }.compactMap { key in
                objects[key].map { ObjectInfo(key: key, size: $0.upperBound - $0.lowerBound) }
            }, next: nil)
    }

    package func put(_ key: String, _ source: ObjectSource) async throws { throw readOnly }
    package func delete(_ key: String) async throws { throw readOnly }
    package func grantUpload(_ key: String, size: Int64, seconds: Int) async throws -> UploadGrant? { throw readOnly }

    private var readOnly: FarmError { FarmError("storage.read-only", .usage, "\(name) can only be read") }
}

/// Writes such an archive, object by object.
package struct TarStoreWriter: Sendable {
    private let file: OpenFile
    /// Bytes so far.
    package private(set) var size: Int64 = 0

    /// - Parameter file: empty.
    package init(_ file: OpenFile) { self.file = file }

    /// Puts an object behind those that are there; throws `tar.name` for a key that no archive of this form holds.
    package mutating func add(_ key: String, _ bytes: [UInt8]) throws {
        guard let header = TarHeader.bytes(key, size: Int64(bytes.count)) else {
            throw FarmError("tar.name", .invalid, "the key \(key) is too long for an archive")
        }
        try file.write(header)
        try file.write(bytes)
        try file.write([UInt8](repeating: 0, count: (512 - bytes.count % 512) % 512))
        size += Int64(header.count + bytes.count + (512 - bytes.count % 512) % 512)
    }

    /// Ends the archive.
    package mutating func finish() throws {
        try file.write([UInt8](repeating: 0, count: 1024))
        size += 1024
    }
}

/// One entry's header.
private struct TarHeader {
    var key: String
    var size: Int64
    var isDirectory: Bool

    init?(_ header: [UInt8]) {
        func text(_ range: Range<Int>) -> String { String(decoding: header[range].prefix { $0 != 0 }, as: UTF8.self) }
        func number(_ range: Range<Int>) -> Int64? {
            let digits = header[range].drop { $0 == UInt8(ascii: " ") }.prefix { (UInt8(ascii: "0")...UInt8(ascii: "7")).contains($0) }
            return digits.isEmpty ? nil : Int64(String(decoding: digits, as: UTF8.self), radix: 8)
        }
        var sum: Int64 = 0
        for (place, byte) in header.enumerated() { sum += (148..<156).contains(place) ? 32 : Int64(byte) }
        guard header[257..<262].elementsEqual("ustar".utf8), number(148..<156) == sum, let size = number(124..<136) else { return nil }
        let prefix = text(345..<500)
        var key = prefix.isEmpty ? text(0..<100) : prefix + "/" + text(0..<100)
        if key.hasPrefix("./") { key.removeFirst(2) }
        switch header[156] {
        case 0, UInt8(ascii: "0"): isDirectory = false
        case UInt8(ascii: "5"): isDirectory = true
        default: return nil
        }
        (self.key, self.size) = (key, isDirectory ? 0 : size)
    }

    /// The header of a file that everybody may read. `nil` for a name that does not fit.
    static func bytes(_ key: String, size: Int64) -> [UInt8]? {
        var (name, prefix) = (Array(key.utf8)[...], ArraySlice<UInt8>())
        if name.count > 100 {
            guard let cut = name.indices.first(where: { name[$0] == UInt8(ascii: "/") && name.count - $0 - 1 <= 100 }) else { return nil }
            (prefix, name) = (name[..<cut], name[(cut + 1)...])
        }
        guard prefix.count <= 155, !name.isEmpty, size < 1 << 33 else { return nil }
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ bytes: some Collection<UInt8>, _ offset: Int) { header.replaceSubrange(offset..<offset + bytes.count, with: bytes) }
        func octal(_ value: Int64, _ offset: Int, _ digits: Int) {
            let text = String(value, radix: 8)
            put(Array((String(repeating: "0", count: digits - text.count) + text).utf8), offset)
        }
        put(name, 0)
        octal(0o644, 100, 7)
        octal(0, 108, 7)
        octal(0, 116, 7)
        octal(size, 124, 11)
        octal(0, 136, 11)
        put(Array("        0".utf8), 148)
        put(Array("ustar\u{0}00".utf8), 257)
        put(prefix, 345)
        octal(header.reduce(0) { $0 + Int64($1) }, 148, 6)
        put([0, UInt8(ascii: " ")], 154)
        return header
    }
}
