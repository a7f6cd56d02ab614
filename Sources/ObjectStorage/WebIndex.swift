import Foundation

/// The pages of links that web servers make of directories (nginx, Apache, Python, Caddy).
package enum WebIndex {
    /// Names of what lies in a directory, as its page links to them; directories end with a slash. Links that lead elsewhere are none.
    ///
    /// - Parameter address: of the page, with a slash behind it.
    package static func links(in page: [UInt8], at address: String) -> [String] {
        let text = String(decoding: page, as: UTF8.self)
        guard let base = URL(string: address) else { return [] }
        var (found, seen) = ([String](), Set<String>())
        var place = text.startIndex
        while let mark = text.range(of: "href=", options: .caseInsensitive, range: place..<text.endIndex) {
            place = mark.upperBound
            guard let quote = text[place...].first, quote == "\"" || quote == "'" else { continue }
            let start = text.index(after: place)
            guard let end = text[start...].firstIndex(of: quote) else { break }
            place = end
            let raw = XMLText.unescape(Array(text[start..<end].utf8)[...])
            let path = raw.prefix { $0 != "?" && $0 != "#" }
            guard !path.isEmpty, let url = URL(string: String(path), relativeTo: base)?.absoluteURL, url.host == base.host,
                url.port == base.port,
                url.scheme == base.scheme
            else { continue }
            let whole = url.absoluteString
            guard whole.hasPrefix(address) else { continue }
            let name = whole.dropFirst(address.count)
            let isDirectory = name.hasSuffix("/")
            guard let plain = (isDirectory ? name.dropLast() : name).removingPercentEncoding, !plain.isEmpty, !plain.contains("/"),
                plain != ".", plain != ".."
            else { continue }
            let link = isDirectory ? plain + "/" : plain
            if seen.insert(link).inserted { found.append(link) }
        }
        return found
    }
}
