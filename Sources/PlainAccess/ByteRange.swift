/// What part of a file a request asks for (RFC 9110, section 14).
package enum ByteRange: Sendable, Hashable {
    /// All of it: nothing was asked, or something that may be passed over.
    case whole
    case part(Range<Int64>)
    /// Nothing that the file has.
    case none

    /// Reads a `Range` header. Several parts at once are answered with the whole file, which the section allows.
    package init(_ header: String?, size: Int64) {
        self = .whole
        guard let header, let equals = header.firstIndex(of: "="), header[..<equals].lowercased() == "bytes" else { return }
        let spec = header[header.index(after: equals)...].split(separator: " ").joined()
        let parts = spec.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, !spec.contains(",") else { return }
        func number(_ text: Substring) -> Int64? { text.utf8.allSatisfy { (0x30...0x39).contains($0) } ? Int64(text) : nil }
        if parts[0].isEmpty {
            guard let count = number(parts[1]) else { return }
            self = count == 0 || size == 0 ? .none : .part(max(0, size - count)..<size)
            return
        }
        guard let first = number(parts[0]) else { return }
        if parts[1].isEmpty {
            self = first < size ? .part(first..<size) : .none
        } else if let last = number(parts[1]), last >= first {
            self = first < size ? .part(first..<min(size, last == .max ? last : last + 1)) : .none
        }
    }
}
