/// A version as a project writes it, in an order: numbers by value, words by what they mean (`dev` < `alpha` < `beta` < `rc` < the release
/// < `post`), as PEP 440 and Debian's policy agree on where both speak.
package struct UpstreamVersion: Sendable, Hashable, Comparable, CustomStringConvertible {
    private enum Part: Sendable, Hashable {
        case number([UInt8])
        case word(Int, String)
    }

    package let text: String
    private let parts: [Part]

    /// `nil` for a text without a digit at its beginning, or with what no version has.
    package init?(_ text: String) {
        guard let first = text.utf8.first, first.isDigit, text.utf8.count <= 64,
            text.utf8.allSatisfy({ $0.isDigit || $0.isLetter || "._-+~".utf8.contains($0) })
        else { return nil }
        self.text = text
        var parts: [Part] = []
        var rest = Array(text.lowercased().utf8)[...]
        while let byte = rest.first {
            if byte.isDigit {
                let digits = rest.prefix { $0.isDigit }
                rest = rest.dropFirst(digits.count)
                parts.append(.number(Array(digits.drop { $0 == UInt8(ascii: "0") })))
            } else if byte.isLetter {
                let letters = String(decoding: rest.prefix { $0.isLetter }, as: UTF8.self)
                rest = rest.dropFirst(letters.utf8.count)
                parts.append(.word(UpstreamVersion.rank(letters), letters))
            } else {
                rest = rest.dropFirst()
            }
        }
        // 1.0 and 1 are the same version.
        while parts.count > 1, parts.last == .number([]) { parts.removeLast() }
        self.parts = parts
    }

    package var description: String { text }

    /// Whether it comes before a release of its numbers.
    package var isPrerelease: Bool {
        parts.contains { if case .word(let rank, _) = $0 { rank < 0 } else { false } }
    }

    /// Whether the two look like numbers of one series: a date and a count are none.
    package func isOfSeries(_ other: UpstreamVersion) -> Bool { isDate == other.isDate }

    private var isDate: Bool {
        guard case .number(let digits)? = parts.first else { return false }
        return digits.count >= 4
    }

    private static func rank(_ word: String) -> Int {
        switch word {
        case "dev", "nightly", "snapshot": -5
        case "a", "alpha": -4
        case "b", "beta": -3
        case "m", "milestone", "pre", "preview": -2
        case "c", "rc": -1
        default: 1
        }
    }

    package static func == (one: UpstreamVersion, other: UpstreamVersion) -> Bool { one.parts == other.parts }
    package func hash(into hasher: inout Hasher) { hasher.combine(parts) }

    package static func < (one: UpstreamVersion, other: UpstreamVersion) -> Bool {
        for index in 0..<max(one.parts.count, other.parts.count) {
            let (a, b) = (one.part(index), other.part(index))
            if a == b { continue }
            switch (a, b) {
            case (.number(let a), .number(let b)): return a.count != b.count ? a.count < b.count : a.lexicographicallyPrecedes(b)
            case (.word(let a, let one), .word(let b, let other)): return (a, one) < (b, other)
            // 1.0rc1 < 1.0 < 1.0.1 and 1.0 < 1.0post1 < 1.0.1.
            case (.word(let rank, _), .number(let number)): return rank < 0 || !number.isEmpty
            case (.number(let number), .word(let rank, _)): return !(rank < 0 || !number.isEmpty)
            }
        }
        return false
    }

    private func part(_ index: Int) -> Part { index < parts.count ? parts[index] : .number([]) }
}

extension UInt8 {
    var isDigit: Bool { UInt8(ascii: "0")...UInt8(ascii: "9") ~= self }
    var isLetter: Bool { UInt8(ascii: "a")...UInt8(ascii: "z") ~= self | 0x20 }
}
