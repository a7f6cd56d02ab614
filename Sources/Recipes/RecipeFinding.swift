import FarmModel

/// Something in a recipe that a maintainer should know of, with its place and what to write instead.
package struct RecipeFinding: Sendable, Hashable, Codable {
    package enum Severity: String, Sendable, Hashable, Codable, CaseIterable, Comparable {
        case note, warning, error

        private var rank: Int { Severity.allCases.firstIndex(of: self) ?? 0 }

        package static func < (one: Severity, other: Severity) -> Bool { one.rank < other.rank }
    }

    /// A replacement within one line.
    package struct Edit: Sendable, Hashable, Codable {
        package var line: Int
        /// Counts from 1, in Unicode code points.
        package var column: Int
        package var old: String
        package var new: String
    }

    package var code: String
    package var severity: Severity
    package var file: String
    /// Both count from 1.
    package var line: Int
    package var column: Int
    package var message: String
    /// What to write.
    package var advice: String
    /// Set where the advice can be followed without judgement.
    package var edit: Edit?

    package init(
        _ code: String, _ severity: Severity, file: String, _ node: RecipeNode, _ message: String, advice: String, edit: Edit? = nil
    ) {
        self.code = code
        self.severity = severity
        self.file = file
        line = node.line
        column = node.column
        self.message = message
        self.advice = advice
        self.edit = edit
    }
}

extension RecipeFinding {
    /// A text with the edits of findings made. Edits whose old text is not where it should be are left out.
    package static func apply(_ findings: [RecipeFinding], to text: String) -> String {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { Array($0.unicodeScalars) }
        // From the right, so that earlier columns stay true.
        for edit in findings.compactMap(\.edit).sorted(by: { ($0.line, $0.column) > ($1.line, $1.column) }) {
            guard lines.indices.contains(edit.line - 1) else { continue }
            let old = Array(edit.old.unicodeScalars)
            let start = edit.column - 1
            guard start >= 0, start + old.count <= lines[edit.line - 1].count,
                lines[edit.line - 1][start..<start + old.count].elementsEqual(old)
            else { continue }
            lines[edit.line - 1].replaceSubrange(start..<start + old.count, with: edit.new.unicodeScalars)
        }
        return lines.map { line in
            var text = String.UnicodeScalarView()
            text.append(contentsOf: line)
            return String(text)
        }.joined(separator: "\n")
    }
}
