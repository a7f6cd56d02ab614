import FarmModel

/// Reads elements out of the small XML answers of S3, which do not nest elements of one name and put no attributes on those that are read.
struct XMLText {
    private let bytes: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { self.bytes = bytes[...] }
    private init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

    /// The text of the first element of that name.
    func text(_ name: String) -> String? { raw(name).map { XMLText.unescape($0.bytes) } }

    /// The first element of that name, as it stands.
    func raw(_ name: String) -> XMLText? { next(Array("<\(name)>".utf8), Array("</\(name)>".utf8), from: bytes.startIndex)?.content }

    /// All elements of that name.
    func elements(_ name: String) -> [XMLText] {
        let (open, close) = (Array("<\(name)>".utf8), Array("</\(name)>".utf8))
        var found: [XMLText] = []
        var place = bytes.startIndex
        while let element = next(open, close, from: place) {
            found.append(element.content)
            place = element.end
        }
        return found
    }

    /// Its bytes, for what has no entities.
    var plain: ArraySlice<UInt8> { bytes }

    /// Whether the element opens anywhere, attributes or not.
    func has(_ name: String) -> Bool { XMLText.find(Array("<\(name)".utf8), in: bytes, from: bytes.startIndex) != nil }

    private func next(_ open: [UInt8], _ close: [UInt8], from start: Int) -> (content: XMLText, end: Int)? {
        guard let begin = XMLText.find(open, in: bytes, from: start) else { return nil }
        let content = begin + open.count
        guard let end = XMLText.find(close, in: bytes, from: content) else { return nil }
        return (XMLText(bytes[content..<end]), end + close.count)
    }

    private static func find(_ word: [UInt8], in bytes: ArraySlice<UInt8>, from start: Int) -> Int? {
        guard let first = word.first, bytes.endIndex - start >= word.count else { return nil }
        return bytes.withUnsafeBufferPointer { buffer in
            word.withUnsafeBufferPointer { word in
                let base = bytes.startIndex
                var place = start - base
                let last = buffer.count - word.count
                while place <= last {
                    if buffer[place] == first {
                        var matched = 1
                        while matched < word.count, buffer[place + matched] == word[matched] { matched += 1 }
                        if matched == word.count { return place + base }
                    }
                    place += 1
                }
                return nil
            }
        }
    }

    static func unescape(_ bytes: ArraySlice<UInt8>) -> String {
        guard bytes.contains(UInt8(ascii: "&")) else { return String(decoding: bytes, as: UTF8.self) }
        let names: [String: UInt8] = ["lt": 60, "gt": 62, "quot": 34, "apos": 39, "amp": 38]
        var out: [UInt8] = []
        var rest = bytes
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "&"), let end = rest.prefix(12).firstIndex(of: UInt8(ascii: ";")) else {
                out.append(byte)
                continue
            }
            let name = String(decoding: rest[..<end], as: UTF8.self)
            if let plain = names[name] {
                out.append(plain)
            } else if name.hasPrefix("#"), let scalar = number(name.dropFirst()) {
                out += Array(String(Character(scalar)).utf8)
            } else {
                out.append(byte)
                continue
            }
            rest = rest[(end + 1)...]
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func number(_ text: Substring) -> Unicode.Scalar? {
        let value = text.first == "x" || text.first == "X" ? UInt32(text.dropFirst(), radix: 16) : UInt32(text)
        return value.flatMap(Unicode.Scalar.init)
    }

    /// Text as an element's content; what XML cannot hold goes as a character reference, which servers of S3 read.
    static func escape(_ text: String) -> String {
        var out = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "<": out += "&lt;"
            case ">": out += "&gt;"
            case "&": out += "&amp;"
            case "\"": out += "&quot;"
            case _ where scalar.value < 32: out += "&#x\(String(scalar.value, radix: 16));"
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out
    }
}

extension ObjectPage {
    /// Reads an answer to ListObjectsV2. Throws `storage.listing` for what is none, and for one that is not whole: half a listing would
    /// look like objects that are not there.
    package init(listing bytes: [UInt8], dropping prefix: String, source: String) throws {
        func refused(_ why: String) -> FarmError {
            FarmError("storage.listing", .unavailable, "\(source) does not answer as S3 does when it lists objects: \(why)")
        }
        let document = XMLText(bytes)
        guard document.has("ListBucketResult") else { throw refused("the answer is no listing") }
        guard document.has("/ListBucketResult") else { throw refused("the answer ends too early") }
        objects = []
        for entry in document.elements("Contents") {
            guard let key = entry.text("Key"), key.hasPrefix(prefix) else { throw refused("an object has no key below \(prefix)") }
            // The marker of the folder that the bucket's prefix is.
            if key == prefix { continue }
            guard let size = entry.raw("Size").flatMap({ Int64(String(decoding: $0.plain, as: UTF8.self)) }), size >= 0 else {
                throw refused("\(key) has no size")
            }
            objects.append(
                ObjectInfo(
                    key: String(key.dropFirst(prefix.count)), size: size, tag: entry.text("ETag").map(S3Store.unquote),
                    modified: entry.raw("LastModified").flatMap { CivilTime.read($0.plain) }))
        }
        next = nil
        if document.text("IsTruncated") == "true" {
            next = document.text("NextContinuationToken")
            guard next != nil else { throw refused("it goes on, and says not where") }
        }
    }
}
