/// Python's text methods, by code points and bytes, never by grapheme clusters.
package enum TemplateTexts {
    static func find(_ needle: [UInt8], in text: [UInt8], from start: Int) -> Int? {
        if needle.isEmpty { return start <= text.count ? start : nil }
        var place = start
        while place + needle.count <= text.count {
            if text[place] == needle[0], text[place..<place + needle.count].elementsEqual(needle) { return place }
            place += 1
        }
        return nil
    }

    /// `str.split(separator, limit)`; a negative limit is none.
    static func split(_ text: String, by separator: String, limit: Int = -1) -> [String] {
        let (bytes, mark) = (Array(text.utf8), Array(separator.utf8))
        var parts: [String] = []
        var start = 0
        while limit < 0 || parts.count < limit, let place = find(mark, in: bytes, from: start) {
            parts.append(String(decoding: bytes[start..<place], as: UTF8.self))
            start = place + mark.count
        }
        return parts + [String(decoding: bytes[start...], as: UTF8.self)]
    }

    /// `str.split()`: at runs of white space.
    static func words(_ text: String, limit: Int = -1) -> [String] {
        var words: [String] = []
        var rest = text.unicodeScalars[...].drop(while: isSpace)
        while !rest.isEmpty {
            if limit >= 0, words.count == limit {
                while let last = rest.last, isSpace(last) { rest = rest.dropLast() }
                return words + [String(rest)]
            }
            let word = rest.prefix { !isSpace($0) }
            words.append(String(word))
            rest = rest[word.endIndex...].drop(while: isSpace)
        }
        return words
    }

    static func rightSplit(_ text: String, by separator: String, limit: Int) -> [String] {
        let parts = split(text, by: separator)
        guard limit >= 0, parts.count - 1 > limit else { return parts }
        let kept = parts.count - limit
        return [parts[..<kept].joined(separator: separator)] + parts[kept...]
    }

    /// `str.replace(old, new, limit)`; a negative limit is none.
    package static func replace(_ old: String, with new: String, in text: String, limit: Int = -1) -> String {
        if limit == 0 { return text }
        guard old.isEmpty else { return split(text, by: old, limit: limit).joined(separator: new) }
        // Between all code points, as Python does.
        var result = ""
        var done = 0
        for scalar in text.unicodeScalars {
            if limit < 0 || done < limit {
                result += new
                done += 1
            }
            result.unicodeScalars.append(scalar)
        }
        return limit < 0 || done < limit ? result + new : result
    }

    /// `text % value` with the conversions `%s`, `%r`, `%d` and `%%`.
    static func format(_ text: String, _ value: TemplateValue) throws -> String {
        var arguments = [value]
        if case .tuple(let items) = value { arguments = items }
        var rest = arguments[...]
        var result = ""
        var scalars = text.unicodeScalars[...]
        while let next = scalars.popFirst() {
            guard next == "%" else {
                result.unicodeScalars.append(next)
                continue
            }
            let conversion = scalars.popFirst()
            if conversion == "%" {
                result += "%"
                continue
            }
            guard let argument = rest.popFirst() else { throw TemplateFailure.plain("there are too few values for this text") }
            switch conversion {
            case "s": result += argument.printed
            case "r": result += argument.quoted
            case "d":
                guard let number = argument.decimalValue, number.magnitude < 9e18 else { throw TemplateFailure.plain("%d wants a number") }
                result += String(argument.integerValue ?? Int(number))
            default: throw TemplateFailure.plain("only %s, %r, %d and %% are understood in texts")
            }
        }
        switch value {
        case .list, .mapping: break
        default: guard rest.isEmpty else { throw TemplateFailure.plain("not all values have a place in this text") }
        }
        return result
    }

    static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
    }

    static func strip(_ text: String, _ characters: String?, left: Bool = true, right: Bool = true) -> String {
        let members = characters.map { Set($0.unicodeScalars) }
        func goes(_ scalar: Unicode.Scalar) -> Bool { members?.contains(scalar) ?? isSpace(scalar) }
        var rest = text.unicodeScalars[...]
        if left { rest = rest.drop(while: goes) }
        if right { while let last = rest.last, goes(last) { rest = rest.dropLast() } }
        return String(rest)
    }

    /// The first letter large, the rest small.
    static func capitalize(_ text: String) -> String {
        guard let first = text.unicodeScalars.first else { return text }
        return first.properties.titlecaseMapping + String(text.unicodeScalars.dropFirst()).lowercased()
    }

    /// `str.title`: after anything that is no letter a large one.
    static func title(_ text: String) -> String {
        var result = ""
        var isInside = false
        for scalar in text.unicodeScalars {
            result += isInside ? scalar.properties.lowercaseMapping : scalar.properties.titlecaseMapping
            isInside = scalar.properties.isCased
        }
        return result
    }

    package static func lines(_ text: String) -> [String] {
        var lines = split(text.replacingLineEnds, by: "\n")
        if lines.last == "" { lines.removeLast() }
        return lines
    }

    static func hasPrefix(_ text: String, _ prefix: String) -> Bool { text.utf8.starts(with: prefix.utf8) }

    static func hasSuffix(_ text: String, _ suffix: String) -> Bool { text.utf8.reversed().starts(with: suffix.utf8.reversed()) }
}

extension String {
    fileprivate var replacingLineEnds: String {
        TemplateTexts.replace("\r", with: "\n", in: TemplateTexts.replace("\r\n", with: "\n", in: self))
    }
}
