package import FarmModel
import Foundation
package import ObjectStorage

/// Which objects a run looks at, by rclone's rules: the first rule that matches decides, and what none matches is taken.
package struct ObjectFilter: Sendable {
    package struct Rule: Sendable {
        package var includes: Bool
        package var pattern: GlobPattern
    }

    /// The rules as they are given, before they are put into order.
    package struct Options: Sendable {
        /// Lines of `--include` and of the files of `--include-from`.
        package var include: [String] = []
        package var exclude: [String] = []
        /// `+ PATTERN`, `- PATTERN`, and `!`, which forgets the rules before it.
        package var filter: [String] = []
        /// The only keys to look at; no other rule counts then.
        package var filesFrom: [String]?
        /// Bytes.
        package var minSize: Int64?
        package var maxSize: Int64?
        /// Nothing that was changed after this.
        package var notAfter: Timestamp?
        /// Nothing that was changed before this.
        package var notBefore: Timestamp?
        package var ignoresCase = false
        /// So many components at most.
        package var maxDepth: Int?

        package init() {}
    }

    private let rules: [Rule]
    private let names: Set<String>?
    private let options: Options

    package static var all: ObjectFilter { ObjectFilter() }

    private init() { (rules, names, options) = ([], nil, Options()) }

    /// Throws `filter.pattern` and `filter.rule`, naming the rule; `filter.mixed` where `filesFrom` stands beside others.
    package init(_ options: Options) throws {
        func rule(_ includes: Bool, _ text: String) throws -> Rule {
            Rule(includes: includes, pattern: try GlobPattern(text, ignoresCase: options.ignoresCase))
        }
        // rclone's order: includes, then excludes, then filters; includes alone leave all others out.
        var rules = try options.include.map { try rule(true, $0) } + options.exclude.map { try rule(false, $0) }
        for line in options.filter {
            if line == "!" {
                rules = []
            } else if line.hasPrefix("+ ") || line.hasPrefix("- ") {
                rules.append(try rule(line.hasPrefix("+"), String(line.dropFirst(2))))
            } else {
                throw FarmError("filter.rule", .usage, "\"\(line)\" is no filter rule", hint: "write \"+ PATTERN\", \"- PATTERN\" or \"!\"")
            }
        }
        if !options.include.isEmpty { rules.append(try rule(false, "/**")) }
        if options.filesFrom != nil,
            !rules.isEmpty || options.minSize != nil || options.maxSize != nil || options.notAfter != nil || options.notBefore != nil
        {
            throw FarmError(
                "filter.mixed", .usage, "--files-from stands alone: other filters would not count", hint: "leave one of them away")
        }
        if let after = options.notBefore, let before = options.notAfter, before < after {
            throw FarmError("filter.age", .usage, "--min-age is larger than --max-age: nothing would be left")
        }
        self.rules = rules
        self.options = options
        names = options.filesFrom.map { Set($0.map { String($0.drop { $0 == "/" }) }) }
    }

    /// Whether it asks when objects were written.
    var hasAges: Bool { options.notAfter != nil || options.notBefore != nil }

    /// Whether everything is looked at.
    package var isOpen: Bool {
        rules.isEmpty && names == nil && options.minSize == nil && options.maxSize == nil && options.notAfter == nil
            && options.notBefore == nil
            && options.maxDepth == nil
    }

    /// Whether a key is looked at, whatever the object is like.
    package func includes(key: String) -> Bool {
        if let names { return names.contains(key) }
        if let depth = options.maxDepth, key.utf8.reduce(1, { $0 + ($1 == UInt8(ascii: "/") ? 1 : 0) }) > depth { return false }
        for rule in rules where rule.pattern.matches(key) { return rule.includes }
        return true
    }

    /// Whether an object is looked at.
    package func includes(_ object: ObjectInfo) -> Bool {
        if let least = options.minSize, object.size < least { return false }
        if let most = options.maxSize, object.size > most { return false }
        if let last = options.notAfter, let modified = object.modified, modified > last { return false }
        if let first = options.notBefore, let modified = object.modified, modified < first { return false }
        return includes(key: object.key)
    }

    /// The keys that are named, if they are.
    package var named: Set<String>? { names }
}

/// A pattern of rclone's filters: `*` and `?` stay within a component, `**` does not; `[a-z]`, `{a,b}`, `{{regular expression}}`, `\\` before what
/// counts as itself. With a slash before it, it matches from the beginning, else from any component on; with one behind it, all below.
package struct GlobPattern: Sendable {
    package let text: String
    private let expression: NSRegularExpression

    package init(_ text: String, ignoresCase: Bool = false) throws {
        self.text = text
        do {
            expression = try NSRegularExpression(
                pattern: try GlobPattern.translate(text),
                options: ignoresCase ? [.caseInsensitive, .dotMatchesLineSeparators] : [.dotMatchesLineSeparators])
        } catch let error as FarmError { throw error } catch {
            throw FarmError("filter.pattern", .usage, "\"\(text)\" is no pattern: a part of it is no regular expression")
        }
    }

    package func matches(_ key: String) -> Bool {
        expression.firstMatch(in: key, range: NSRange(location: 0, length: key.utf16.count)) != nil
    }

    private static func translate(_ text: String) throws -> String {
        func wrong(_ why: String) -> FarmError { FarmError("filter.pattern", .usage, "\"\(text)\" is no pattern: \(why)") }
        var glob = Array(text)
        var out = "(^|/)"
        if glob.first == "/" {
            glob.removeFirst()
            out = "^"
        }
        if glob.last == "/" { glob += ["*", "*"] }
        var (place, depth) = (0, 0)
        while place < glob.count {
            let character = glob[place]
            place += 1
            switch character {
            case "\\":
                guard place < glob.count else { throw wrong("it ends with a backslash") }
                out += NSRegularExpression.escapedPattern(for: String(glob[place]))
                place += 1
            case "*":
                var stars = 1
                while place < glob.count, glob[place] == "*" { (stars, place) = (stars + 1, place + 1) }
                guard stars <= 2 else { throw wrong("there are too many stars in a row") }
                out += stars == 1 ? "[^/]*" : ".*"
            case "?": out += "[^/]"
            case "[":
                guard let end = classEnd(glob, place) else { throw wrong("a [ is not closed") }
                out += "[\(String(glob[place..<end]))]"
                place = end + 1
            case "]": throw wrong("a ] was not opened")
            case "{" where place < glob.count && glob[place] == "{":
                guard let end = regularExpressionEnd(glob, place + 1) else { throw wrong("a {{ is not closed") }
                out += "(\(String(glob[(place + 1)..<end])))"
                place = end + 2
            case "{":
                depth += 1
                out += "("
            case "}":
                depth -= 1
                guard depth >= 0 else { throw wrong("a } was not opened") }
                out += ")"
            case "," where depth > 0: out += "|"
            default: out += NSRegularExpression.escapedPattern(for: String(character))
            }
        }
        guard depth == 0 else { throw wrong("a { is not closed") }
        return out + "$"
    }

    /// Where the bracket is that closes a class; classes such as `[:digit:]` stand in brackets of their own.
    private static func classEnd(_ glob: [Character], _ start: Int) -> Int? {
        var depth = 1
        for place in start..<glob.count {
            if glob[place] == "[" { depth += 1 }
            if glob[place] == "]" { depth -= 1 }
            if depth == 0 { return place == start ? nil : place }
        }
        return nil
    }

    /// Where the braces begin that end a regular expression: the last two of a row.
    private static func regularExpressionEnd(_ glob: [Character], _ start: Int) -> Int? {
        var place = start
        while place + 1 < glob.count {
            if glob[place] == "}", glob[place + 1] == "}", place + 2 >= glob.count || glob[place + 2] != "}" { return place }
            place += 1
        }
        return nil
    }
}
