import FarmModel

/// What patterns of recipes may be. Matching goes back and tries again: a repetition of what itself repeats can take longer than anybody
/// waits, unless the parts cannot be told apart in two ways.
package enum UpstreamPattern {
    private struct Group {
        var repeats = false
        var chooses = false
        /// Something in it matches separators too.
        var isWild = false
        var beginsWithSeparator = false
        var endsWithSeparator = false
        var atoms = 0

        /// What stood last may be there many times, or not at all.
        mutating func quantify() {
            if atoms == 1 { beginsWithSeparator = false }
            endsWithSeparator = false
        }
    }

    private static let separators: Set<Unicode.Scalar> = [".", "-", "_", "/", ":"]

    /// Throws `upstream.pattern` for a repeated group that repeats or chooses, unless a separator stands at its beginning or end that
    /// nothing else in it matches, as in `(?:[0-9]+\\.)+`.
    package static func check(_ pattern: String) throws {
        var groups = [Group()]
        var closed: Group?
        var rest = pattern.unicodeScalars[...]

        func atom(isSeparator: Bool = false, isWild: Bool = false) {
            let last = groups.count - 1
            if groups[last].atoms == 0 { groups[last].beginsWithSeparator = isSeparator }
            groups[last].atoms += 1
            groups[last].endsWithSeparator = isSeparator
            groups[last].isWild = groups[last].isWild || isWild
        }

        while let scalar = rest.popFirst() {
            let repeated = closed
            closed = nil
            switch scalar {
            case "\\":
                let next = rest.popFirst() ?? "\\"
                atom(isSeparator: separators.contains(next), isWild: ["S", "D", "W", "N"].contains(next))
            case "[": atom(isWild: set(&rest))
            case ".": atom(isWild: true)
            case "(":
                groups.append(Group())
                // What follows says of what kind the group is.
                if rest.first == "?" {
                    rest = rest.dropFirst().drop { "P:=!".unicodeScalars.contains($0) }
                    if rest.first == "<" { rest = rest.drop { $0 != ">" }.dropFirst() }
                }
            case ")":
                guard groups.count > 1 else { continue }
                let group = groups.removeLast()
                closed = group
                atom(isWild: group.isWild)
                groups[groups.count - 1].repeats = groups[groups.count - 1].repeats || group.repeats
                groups[groups.count - 1].chooses = groups[groups.count - 1].chooses || group.chooses
            case "|":
                groups[groups.count - 1].chooses = true
            case "*", "+", "{":
                if let repeated, repeated.chooses || repeated.repeats {
                    let isApart = (repeated.beginsWithSeparator || repeated.endsWithSeparator) && !repeated.isWild && !repeated.chooses
                    guard isApart else {
                        throw FarmError(
                            "upstream.pattern", .invalid, "\"\(pattern)\" repeats a group that itself repeats or chooses",
                            hint: "write it without the outer repetition, or with a separator: (?:[0-9]+\\.)+")
                    }
                }
                groups[groups.count - 1].repeats = true
                groups[groups.count - 1].quantify()
                if scalar == "{" { rest = rest.drop { $0 != "}" }.dropFirst() }
            case "?": groups[groups.count - 1].quantify()
            default: atom(isSeparator: separators.contains(scalar))
            }
        }
    }

    /// Goes past a set of characters; whether it holds separators.
    private static func set(_ rest: inout Substring.UnicodeScalarView) -> Bool {
        var isWild = rest.first == "^"
        var isFirst = true
        while let scalar = rest.popFirst() {
            if scalar == "]", !isFirst { break }
            if scalar == "\\" { isWild = isWild || separators.contains(rest.popFirst() ?? " ") }
            // A hyphen between two others is a range.
            if scalar != "-", separators.contains(scalar) { isWild = true }
            if scalar != "^" { isFirst = false }
        }
        return isWild
    }
}
