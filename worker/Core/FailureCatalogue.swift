package import FarmModel

/// What the end of a log says went wrong: the classes of `failure-classes.txt`.
package struct FailureCatalogue: Sendable {
    /// One thing that goes wrong.
    package struct Class: Sendable, Hashable {
        package var code: String
        package var owner: FailureClass
        package var retry: RetryRule
        /// What a person is told.
        package var sentence: String
        /// Texts in lower case that a line must hold, part after part.
        var patterns: [[String]]
    }

    package let classes: [Class]
    package static let shared = FailureCatalogue(String(decoding: PackageResources.failure_classes_txt, as: UTF8.self))

    /// How many lines from the end a reason is looked for in.
    private static let reach = 60

    init(_ text: String) {
        var classes: [Class] = []
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            if fields.count == 5, fields[0] == "class", let owner = FailureClass(rawValue: fields[2]),
                let retry = RetryRule(rawValue: fields[3])
            {
                classes.append(Class(code: fields[1], owner: owner, retry: retry, sentence: fields[4], patterns: []))
            } else if fields.count == 2, fields[0].isEmpty, !classes.isEmpty {
                classes[classes.count - 1].patterns.append(FailureCatalogue.parts(fields[1]))
            } else {
                preconditionFailure("failure-classes.txt has a line of no known form: \(line)")
            }
        }
        self.classes = classes
    }

    private static func parts(_ pattern: String) -> [String] {
        var parts: [String] = []
        var rest = pattern.lowercased()[...]
        while let dots = rest.firstRange(of: "...") {
            parts.append(String(rest[..<dots.lowerBound]))
            rest = rest[dots.upperBound...]
        }
        return (parts + [String(rest)]).filter { !$0.isEmpty }
    }

    /// The first class of which the end of a log holds a pattern, and the line that does.
    package func explain(_ lines: some Sequence<String>) -> (class: Class, line: String)? {
        let end = Array(lines).suffix(FailureCatalogue.reach)
        let lowered = end.map { $0.lowercased() }
        for candidate in classes {
            for (line, text) in zip(end, lowered).reversed() where candidate.patterns.contains(where: { FailureCatalogue.holds(text, $0) })
            {
                return (candidate, line)
            }
        }
        return nil
    }

    private static func holds(_ text: String, _ parts: [String]) -> Bool {
        var rest = text.utf8[...]
        for part in parts {
            guard let found = rest.firstRange(of: part.utf8) else { return false }
            rest = rest[found.upperBound...]
        }
        return true
    }
}
