import FarmModel
import Foundation

/// The edit that brings a recipe to another version.
package struct VersionProposal: Sendable, Hashable {
    /// The whole file after the edit.
    package var text: String
    /// A unified diff for `patch -p1`.
    package var patch: String
    /// Lines in which the old version stands too, and which the edit leaves alone: a person has to look.
    package var leftLines: [Int]

    /// - Parameter path: of the file in its repository, for the patch.
    /// - Throws: `upstream.edit` when no line of the file is `version: CURRENT`.
    package init(_ text: String, path: String, from current: String, to newest: String) throws {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard
            let place = lines.firstIndex(where: { line in
                guard line.hasPrefix("version:") else { return false }
                let value = line.dropFirst(8).prefix { $0 != "#" }.trimmingCharacters(in: .whitespaces)
                return value.trimmingCharacters(in: CharacterSet(charactersIn: "\"'")) == current
            })
        else {
            throw FarmError(
                "upstream.edit", .invalid, "\(path) has no line \"version: \(current)\"", hint: "change the version by hand to \(newest)")
        }
        let before = lines[place]
        let comment = before.dropFirst(8).firstIndex(of: "#").map { " \(before[$0...])" } ?? ""
        // In quotes, so that YAML does not read 1.10 as a number.
        lines[place] = "version: \"\(newest)\"\(comment)"
        leftLines = lines.indices.filter { $0 != place && VersionProposal.names(lines[$0], current) }.map { $0 + 1 }
        self.text = lines.joined(separator: "\n")
        let old = text.split(separator: "\n", omittingEmptySubsequences: false)
        let count = text.hasSuffix("\n") ? old.count - 1 : old.count
        let (first, last) = (max(0, place - 3), min(count - 1, place + 3))
        var hunk: [String] = []
        for index in first...last {
            if index == place { hunk += ["-\(before)", "+\(lines[place])"] } else { hunk.append(" \(old[index])") }
        }
        let range = "\(first + 1),\(last - first + 1)"
        patch = (["--- a/\(path)", "+++ b/\(path)", "@@ -\(range) +\(range) @@"] + hunk).joined(separator: "\n") + "\n"
    }

    /// Whether a line holds the version as a word of its own.
    private static func names(_ line: String, _ version: String) -> Bool {
        var rest = line[...]
        while let range = rest.range(of: version) {
            let isInner: (Character?) -> Bool = { $0.map { $0.isNumber || $0 == "." } ?? false }
            let before = range.lowerBound > line.startIndex ? line[line.index(before: range.lowerBound)] : nil
            let after = range.upperBound < line.endIndex ? line[range.upperBound] : nil
            if !isInner(before), !(after.map(\.isNumber) ?? false) { return true }
            rest = rest[range.upperBound...]
        }
        return false
    }
}
