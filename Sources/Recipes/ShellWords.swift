/// Splits a text into words as a POSIX shell would, without expanding anything (Python's `shlex.split`).
package enum ShellWords {
    /// The words; `nil` when a quote is not closed. A `#` is a character like any other.
    package static func split(_ text: String) -> [String]? {
        var words: [String] = []
        var word: String.UnicodeScalarView?
        var scalars = text.unicodeScalars[...]
        while let next = scalars.popFirst() {
            switch next {
            case " ", "\t", "\r", "\n":
                if let done = word { words.append(String(done)) }
                word = nil
            case "\\":
                guard let escaped = scalars.popFirst() else { return nil }
                word = word ?? .init()
                word?.append(escaped)
            case "'":
                guard let end = scalars.firstIndex(of: "'") else { return nil }
                word = word ?? .init()
                word?.append(contentsOf: scalars[..<end])
                scalars = scalars[scalars.index(after: end)...]
            case "\"":
                word = word ?? .init()
                var isClosed = false
                while let inner = scalars.popFirst() {
                    if inner == "\"" {
                        isClosed = true
                        break
                    }
                    if inner == "\\", let escaped = scalars.first, escaped == "\"" || escaped == "\\" {
                        scalars.removeFirst()
                        word?.append(escaped)
                    } else {
                        word?.append(inner)
                    }
                }
                guard isClosed else { return nil }
            default:
                word = word ?? .init()
                word?.append(next)
            }
        }
        if let done = word { words.append(String(done)) }
        return words
    }
}

extension StringProtocol {
    /// Without white space at either end.
    var trimmingSpace: String {
        var rest = self[...]
        while let first = rest.first, first.isWhitespace { rest = rest.dropFirst() }
        while let last = rest.last, last.isWhitespace { rest = rest.dropLast() }
        return String(rest)
    }

    /// Without white space at the end.
    var trimmingEnd: String {
        var rest = self[...]
        while let last = rest.last, last.isWhitespace { rest = rest.dropLast() }
        return String(rest)
    }
}
