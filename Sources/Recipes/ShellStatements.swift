/// The statements of a shell text (POSIX.1-2017, XCU 2): where one ends and the next begins, which decides how a step can be
/// written so that each must succeed.
struct ShellStatements {
    struct Statement: Hashable {
        var text: String
        /// Goes on over a line end that belongs to it: a loop, a text in quotes, a here-document.
        var spansLines = false
        /// Holds an operator between commands, so that it must be held together before another is put beside it.
        var isList = false
    }

    private(set) var statements: [Statement] = []

    private static let openers: Set<String> = ["if", "case", "for", "while", "until", "select", "{"]
    private static let closers: Set<String> = ["fi", "esac", "done", "}"]
    /// After these a command begins.
    private static let leaders: Set<String> = ["then", "do", "else", "elif", "!", "{", "if", "while", "until", "time"]

    private var current = Statement(text: "")
    private var word = ""
    private var wordIsPlain = true
    private var atCommand = true
    private var depth = 0
    private var parens = 0
    private var cases = 0
    private var delimiters: [String] = []
    /// The last thing was an operator that wants another command.
    private var wantsMore = false

    /// Comments outside of quotes and here-documents are left out. A text that never ends what it opens is one statement.
    init(_ text: String) {
        var rest = Array(text.replacing("\r\n", with: "\n"))[...]
        while let character = rest.popFirst() {
            switch character {
            case "\\":
                add(character)
                wordIsPlain = false
                if let next = rest.popFirst() {
                    current.text.append(next)
                    if next != "\n" { word.append(next) }
                }
            case "'", "\"", "`":
                add(character)
                wordIsPlain = false
                while let next = rest.popFirst() {
                    current.text.append(next)
                    if next == "\n" { current.spansLines = true }
                    if next == "\\", character != "'", let escaped = rest.popFirst() { current.text.append(escaped); continue }
                    if next == character { break }
                }
            case "#" where word.isEmpty && (current.text.last.map { $0.isWhitespace || ";&|(".contains($0) } ?? true):
                rest = rest.drop { $0 != "\n" }
            case "<" where rest.first == "<" && !current.text.hasSuffix("<") && parens == 0: hereDocument(&rest)
            case "(":
                endWord()
                current.text.append(character)
                parens += 1
                atCommand = true
            case ")":
                endWord()
                current.text.append(character)
                if parens > 0 { parens -= 1 } else if cases > 0 { atCommand = true }
            case ";", "&", "|": operatorCharacter(character, &rest)
            case "\n": lineEnd(&rest)
            case _ where character.isWhitespace:
                endWord()
                if !current.text.isEmpty { current.text.append(character) }
            default: add(character)
            }
        }
        endWord()
        close()
    }

    private mutating func add(_ character: Character) {
        current.text.append(character)
        word.append(character)
        wantsMore = false
    }

    private mutating func endWord() {
        guard !word.isEmpty else { return }
        defer { (word, wordIsPlain) = ("", true) }
        let isKeyword = wordIsPlain && atCommand
        if isKeyword, ShellStatements.openers.contains(word) {
            depth += 1
            if word == "case" { cases += 1 }
        } else if isKeyword, ShellStatements.closers.contains(word) {
            depth = max(0, depth - 1)
            if word == "esac" { cases = max(0, cases - 1) }
        }
        // An assignment before a command leaves the command to come.
        let isAssignment = wordIsPlain && atCommand && word.contains("=") && !word.hasPrefix("=")
        atCommand = isKeyword && ShellStatements.leaders.contains(word) || isAssignment
    }

    private mutating func operatorCharacter(_ character: Character, _ rest: inout ArraySlice<Character>) {
        let isRedirection = character == "&" && (current.text.last == ">" || current.text.last == "<" || rest.first == ">")
        endWord()
        current.text.append(character)
        guard !isRedirection else { return }
        if rest.first == character, let second = rest.popFirst() { current.text.append(second) }
        if depth == 0, parens == 0 {
            if character != "|" || current.text.hasSuffix("||") { current.isList = true }
            wantsMore = current.text.hasSuffix("&&") || character == "|"
        }
        atCommand = true
    }

    private mutating func lineEnd(_ rest: inout ArraySlice<Character>) {
        endWord()
        if !delimiters.isEmpty {
            current.text.append("\n")
            current.spansLines = true
            while let delimiter = delimiters.first {
                var line = ""
                while let next = rest.popFirst(), next != "\n" { line.append(next) }
                current.text += line
                if line.drop(while: { $0 == "\t" }) == delimiter { delimiters.removeFirst() } else if rest.isEmpty { delimiters = [] }
                if !delimiters.isEmpty { current.text.append("\n") }
            }
            return close()
        }
        if depth == 0, parens == 0, !wantsMore { return close() }
        atCommand = true
        if wantsMore, depth == 0, parens == 0 {
            // The next line goes on with the list.
            current.text += " \\\n"
        } else {
            current.text.append("\n")
            current.spansLines = true
        }
    }

    private mutating func hereDocument(_ rest: inout ArraySlice<Character>) {
        endWord()
        current.text += "<<"
        rest.removeFirst()
        guard rest.first != "<" else { return current.text.append(rest.removeFirst()) }
        var name = ""
        while let next = rest.first, !next.isWhitespace || name.isEmpty && next == " ", !";|&<>()".contains(next) {
            current.text.append(next)
            if !"'\"-\\ ".contains(next) { name.append(next) }
            rest.removeFirst()
        }
        if !name.isEmpty { delimiters.append(name) }
    }

    private mutating func close() {
        let text = current.text.trimmingSpace
        // A comment may stand at the end of a line that goes on.
        if !text.isEmpty { statements.append(Statement(text: text, spansLines: current.spansLines, isList: current.isList)) }
        current = Statement(text: "")
        (atCommand, wantsMore, depth, parens, cases) = (true, false, 0, 0, 0)
    }
}

/// Commands of a step, written so that each statement must succeed.
struct ShellScript {
    private let statements: [ShellStatements.Statement]

    init(_ commands: [String]) { statements = commands.flatMap { ShellStatements($0).statements } }

    var isEmpty: Bool { statements.isEmpty }

    /// One command line joined by `&&`, where no statement spans lines; else `nil`.
    var commandLine: String? {
        guard !statements.contains(where: \.spansLines) else { return nil }
        if statements.count == 1 { return statements[0].text }
        return statements.map { statement in
            guard statement.isList else { return statement.text }
            return "{ \(statement.text)\(statement.text.hasSuffix(";") || statement.text.hasSuffix("&") ? "" : ";") }"
        }.joined(separator: " \\\n && ")
    }

    /// A script. `set -e` alone passes over what fails before a `&&`, so that lists are held together and asked for their end.
    var script: String {
        "set -e\n"
            + statements.map { $0.isList && !$0.spansLines ? "{ \($0.text)\n} || exit $?" : $0.text }.joined(separator: "\n") + "\n"
    }
}
