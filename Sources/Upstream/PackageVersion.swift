/// A version of a Debian package, in the order of dpkg (deb-version(7)).
package struct PackageVersion: Sendable, Comparable {
    package let text: String
    private let epoch: Int
    private let upstream: [UInt8]
    private let revision: [UInt8]

    package init(_ text: some StringProtocol) {
        self.text = String(text)
        let colon = text.firstIndex(of: ":")
        epoch = colon.flatMap { Int(text[..<$0]) } ?? 0
        let rest = colon.map { text[text.index(after: $0)...] } ?? text[...]
        let hyphen = rest.lastIndex(of: "-")
        upstream = Array(rest[..<(hyphen ?? rest.endIndex)].utf8)
        // No revision is the same as the revision 0.
        revision = hyphen.map { Array(rest[rest.index(after: $0)...].utf8) } ?? []
    }

    package static func == (one: PackageVersion, other: PackageVersion) -> Bool { one.compared(with: other) == 0 }
    package static func < (one: PackageVersion, other: PackageVersion) -> Bool { one.compared(with: other) < 0 }

    private func compared(with other: PackageVersion) -> Int {
        if epoch != other.epoch { return epoch < other.epoch ? -1 : 1 }
        let first = PackageVersion.compare(upstream, other.upstream)
        return first != 0 ? first : PackageVersion.compare(revision, other.revision)
    }

    /// Runs of other characters and of digits in turn: the former by their rank, the latter by value.
    private static func compare(_ one: [UInt8], _ other: [UInt8]) -> Int {
        var (left, right) = (one[...], other[...])
        while !left.isEmpty || !right.isEmpty {
            while left.first.map({ !$0.isDigit }) ?? false || right.first.map({ !$0.isDigit }) ?? false {
                let (a, b) = (rank(left.first), rank(right.first))
                if a != b { return a < b ? -1 : 1 }
                left = left.dropFirst()
                right = right.dropFirst()
            }
            let (a, b) = (number(&left), number(&right))
            if a.count != b.count { return a.count < b.count ? -1 : 1 }
            if let (low, high) = zip(a, b).first(where: { $0 != $1 }) { return low < high ? -1 : 1 }
        }
        return 0
    }

    /// A tilde is before the end, the end before letters, and letters before all else.
    private static func rank(_ byte: UInt8?) -> Int {
        guard let byte, !byte.isDigit else { return 0 }
        if byte == UInt8(ascii: "~") { return -1 }
        return byte.isLetter ? Int(byte) : Int(byte) + 256
    }

    /// The digits in front, without zeros at their beginning.
    private static func number(_ bytes: inout ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        let digits = bytes.prefix { $0.isDigit }
        bytes = bytes.dropFirst(digits.count)
        return digits.drop { $0 == UInt8(ascii: "0") }
    }
}
