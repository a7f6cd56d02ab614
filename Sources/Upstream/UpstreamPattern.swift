import FarmModel

/// What patterns of recipes may be. Matching goes back and tries again, so a repetition of what itself repeats can take longer than anybody
/// waits. A repeated group must either be of fixed length, or hold digits and letters between separators that stand once, at its beginning
/// or end: `(?:[0-9]+\\.)+`, `(?:[._-][0-9]+)*`.
package struct UpstreamPattern {
    private enum Atom {
        /// A digit or a letter, or a set of such.
        case plain
        /// A point, hyphen and the like, or a set of such.
        case separator
        case other
    }

    private struct Group {
        var atoms: [Atom] = []
        /// Places of atoms that may be there many times or not at all.
        var loose: Set<Int> = []
        var chooses = false
        var holdsLooseGroup = false

        /// Whether it can be matched in one way only, however often it is repeated.
        var isApart: Bool {
            if loose.isEmpty, !chooses, !holdsLooseGroup { return true }
            guard !chooses, !holdsLooseGroup, !atoms.contains(.other) else { return false }
            let places = atoms.indices.filter { atoms[$0] == .separator }
            return places.count == 1 && !loose.contains(places[0]) && (places[0] == 0 || places[0] == atoms.count - 1)
        }
    }

    private let pattern: String
    private var rest: Substring.UnicodeScalarView
    private var groups = [Group()]
    /// Repetitions without an end of what matches nearly everything: each makes a search longer by the length of the text.
    private var wildRepetitions = 0

    private static let separators: Set<Unicode.Scalar> = [".", "-", "_", "/", ":"]
    private static let mostWild = 3

    private init(_ pattern: String) {
        self.pattern = pattern
        rest = pattern.unicodeScalars[...]
    }

    /// Throws `upstream.pattern` for what could take for ever, and for what is not understood well enough to know.
    package static func check(_ pattern: String) throws {
        var checker = UpstreamPattern(pattern)
        try checker.run()
    }

    private func fail(_ why: String) -> FarmError {
        FarmError(
            "upstream.pattern", .invalid, "\"\(pattern.prefix(200))\" \(why)",
            hint: "repeat groups only where a separator keeps them apart: (?:[0-9]+\\.)+")
    }

    private mutating func run() throws {
        guard pattern.utf8.count <= 500 else { throw fail("is too long") }
        var closed: Group?
        while let scalar = rest.popFirst() {
            let group = closed
            closed = nil
            switch scalar {
            case "\\": add(try escape())
            case "[": add(try set())
            case ".": add(.other)
            case "(": try open()
            case ")":
                guard groups.count > 1 else { throw fail("closes a group that was not opened") }
                let ended = groups.removeLast()
                add(.other)
                if !ended.loose.isEmpty || ended.chooses || ended.holdsLooseGroup { groups[groups.count - 1].holdsLooseGroup = true }
                closed = ended
            case "|": groups[groups.count - 1].chooses = true
            case "?": loosen()
            case "*", "+", "{":
                if let group, !group.isApart { throw fail("repeats a group that itself repeats or chooses") }
                if groups[groups.count - 1].atoms.last == .other, group == nil { wildRepetitions += 1 }
                if scalar == "{" { rest = rest.drop { $0 != "}" }.dropFirst() }
                loosen()
            default: add(UpstreamPattern.separators.contains(scalar) ? .separator : UpstreamPattern.isPlain(scalar) ? .plain : .other)
            }
        }
        if wildRepetitions > UpstreamPattern.mostWild {
            throw fail("has more than \(UpstreamPattern.mostWild) wide repetitions, as .* is one")
        }
    }

    private static func isPlain(_ scalar: Unicode.Scalar) -> Bool {
        "a"..."z" ~= scalar || "A"..."Z" ~= scalar || "0"..."9" ~= scalar
    }

    private mutating func add(_ atom: Atom) { groups[groups.count - 1].atoms.append(atom) }

    private mutating func loosen() {
        let last = groups.count - 1
        if !groups[last].atoms.isEmpty { groups[last].loose.insert(groups[last].atoms.count - 1) }
    }

    private mutating func open() throws {
        groups.append(Group())
        guard rest.first == "?" else { return }
        rest = rest.dropFirst()
        if rest.first == "P" { rest = rest.dropFirst() }
        switch rest.popFirst() {
        case ":": return
        case "<" where rest.first.map(UpstreamPattern.isPlain) ?? false: rest = rest.drop { $0 != ">" }.dropFirst()
        default: throw fail("has a group of a kind that is not known here")
        }
    }

    private mutating func escape() throws -> Atom {
        guard let scalar = rest.popFirst() else { throw fail("ends with a backslash") }
        if UpstreamPattern.separators.contains(scalar) { return .separator }
        if scalar == "d" { return .plain }
        if UpstreamPattern.isPlain(scalar), !"wWsSDbnrt".unicodeScalars.contains(scalar) {
            throw fail("has \\\(scalar), which is not known here")
        }
        return .other
    }

    /// Goes past a set of characters.
    private mutating func set() throws -> Atom {
        if rest.first == "^" {
            rest = rest.dropFirst()
            _ = try set()
            return .other
        }
        var kinds: Set<Atom> = []
        var before: Unicode.Scalar?
        var isFirst = true
        while let scalar = rest.popFirst() {
            if scalar == "]", !isFirst { return kinds.count == 1 ? kinds.first ?? .other : .other }
            isFirst = false
            if scalar == "-", let low = before, let high = rest.first, high != "]" {
                rest = rest.dropFirst()
                // Only among digits, or among letters of one case, is it clear what lies between.
                let isClear = [("0", "9"), ("a", "z"), ("A", "Z")].contains { (first: Unicode.Scalar, last: Unicode.Scalar) in
                    first...last ~= low && first...last ~= high
                }
                kinds.insert(isClear ? .plain : .other)
                before = nil
                continue
            }
            if scalar == "\\" {
                kinds.insert(try escape())
                before = nil
                continue
            }
            if scalar == "[" || scalar == "&" { kinds.insert(.other) }
            kinds.insert(UpstreamPattern.separators.contains(scalar) ? .separator : UpstreamPattern.isPlain(scalar) ? .plain : .other)
            before = scalar
        }
        throw fail("opens a set that it does not close")
    }
}
