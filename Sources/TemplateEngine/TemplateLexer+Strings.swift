extension TemplateLexer {
    /// A quoted text with Python's escapes; an escape that Python does not know stays as it is written.
    mutating func string(quote: UInt8) throws -> String {
        let start = index
        index += 1
        var text: [UInt8] = []
        while let next = byte(index) {
            index += 1
            if next == quote { return String(decoding: text, as: UTF8.self) }
            guard next == UInt8(ascii: "\\") else {
                text.append(next)
                continue
            }
            guard let escaped = byte(index) else { break }
            index += 1
            switch escaped {
            case UInt8(ascii: "n"): text.append(0x0A)
            case UInt8(ascii: "t"): text.append(0x09)
            case UInt8(ascii: "r"): text.append(0x0D)
            case UInt8(ascii: "a"): text.append(0x07)
            case UInt8(ascii: "b"): text.append(0x08)
            case UInt8(ascii: "f"): text.append(0x0C)
            case UInt8(ascii: "v"): text.append(0x0B)
            case UInt8(ascii: "\n"): break
            case UInt8(ascii: "\\"), UInt8(ascii: "'"), UInt8(ascii: "\""): text.append(escaped)
            case UInt8(ascii: "0")...UInt8(ascii: "7"): text += octal(first: escaped)
            case UInt8(ascii: "x"): text += try hexadecimal(2, from: start)
            case UInt8(ascii: "u"): text += try hexadecimal(4, from: start)
            case UInt8(ascii: "U"): text += try hexadecimal(8, from: start)
            default: text += [UInt8(ascii: "\\"), escaped]
            }
        }
        throw source.syntax("a text is not closed", at: start)
    }

    private mutating func octal(first: UInt8) -> [UInt8] {
        var value = UInt32(first - UInt8(ascii: "0"))
        for _ in 0..<2 {
            guard let next = byte(index), (UInt8(ascii: "0")...UInt8(ascii: "7")).contains(next) else { break }
            value = value * 8 + UInt32(next - UInt8(ascii: "0"))
            index += 1
        }
        return Unicode.Scalar(value).map { Array(String($0).utf8) } ?? []
    }

    private mutating func hexadecimal(_ count: Int, from start: Int) throws -> [UInt8] {
        let end = index + count
        guard end <= bytes.count, let value = UInt32(String(decoding: bytes[index..<end], as: UTF8.self), radix: 16),
            let scalar = Unicode.Scalar(value)
        else { throw source.syntax("an escape in this text is not complete", at: start) }
        index = end
        return Array(String(scalar).utf8)
    }
}
