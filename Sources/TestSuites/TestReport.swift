package import FarmModel

/// What came out of running a suite, whole.
package struct TestReport: Codable, Sendable, Hashable {
    package var subject: String
    package var runtime: String
    package var tests: [TestRecord]
    package var seconds: Double

    package init(subject: String, runtime: String, tests: [TestRecord], seconds: Double) {
        self.subject = subject
        self.runtime = runtime
        self.tests = tests
        self.seconds = seconds
    }

    package var failed: [TestRecord] { tests.filter { !$0.outcome.passed } }
}

/// One test: how it ended, and what somebody needs to see why.
package struct TestRecord: Codable, Sendable, Hashable {
    package var outcome: TestOutcome
    /// As it was run, variables replaced; empty where nothing was run.
    package var command: String
    /// The end of what it said.
    package var tail: [String]
    package var exitCode: Int32

    package init(outcome: TestOutcome, command: String = "", tail: [String] = [], exitCode: Int32 = 0) {
        self.outcome = outcome
        self.command = command
        self.tail = tail
        self.exitCode = exitCode
    }

    /// What a person needs to see of a test that failed: its command, what is wrong, the last lines.
    package func explanation(repeatedBy command: String) -> [String] {
        var lines: [String] = []
        let written = self.command.split(separator: "\n", omittingEmptySubsequences: true)
        for line in written.prefix(12) { lines.append("$ \(line)") }
        if written.count > 12 { lines.append("$ … \(written.count - 12) more lines") }
        lines += tail.map { "| \($0)" }
        lines += outcome.problems.map { "→ \($0)" }
        lines.append("again: \(command)")
        return lines
    }
}

extension TestReport {
    /// JUnit's XML, as Jenkins and GitLab read it.
    package var junit: String {
        func escaped(_ text: String) -> String {
            var result = ""
            for scalar in text.unicodeScalars {
                switch scalar {
                case "&": result += "&amp;"
                case "<": result += "&lt;"
                case ">": result += "&gt;"
                case "\"": result += "&quot;"
                // XML 1.0 has no other control characters.
                case "\n", "\t": result.unicodeScalars.append(scalar)
                default:
                    result.unicodeScalars.append(
                        scalar.value < 32 || scalar.value == 0xfffe || scalar.value == 0xffff ? "\u{fffd}" : scalar)
                }
            }
            return result
        }
        let skipped = tests.count { $0.outcome.wasSkipped ?? false }
        var lines = [
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
            "<testsuites>",
            "<testsuite name=\"\(escaped(subject))\" tests=\"\(tests.count)\" failures=\"\(failed.count - skipped)\" skipped=\"\(skipped)\" errors=\"0\" time=\"\(seconds)\">",
            "<properties><property name=\"runtime\" value=\"\(escaped(runtime))\"/></properties>",
        ]
        for test in tests {
            let head = "<testcase classname=\"\(escaped(subject))\" name=\"\(escaped(test.outcome.name))\" time=\"\(test.outcome.seconds)\""
            let problems = test.outcome.problems
            if test.outcome.passed {
                lines.append("\(head)/>")
            } else if test.outcome.wasSkipped ?? false {
                lines.append("\(head)><skipped message=\"\(escaped(problems.first ?? ""))\"/></testcase>")
            } else {
                let more = (test.command.isEmpty ? [] : ["$ \(test.command)"]) + test.tail
                lines.append(
                    "\(head)><failure message=\"\(escaped(problems.first ?? "failed"))\">\(escaped(problems.joined(separator: "\n")))</failure><system-out>\(escaped(more.joined(separator: "\n")))</system-out></testcase>"
                )
            }
        }
        return (lines + ["</testsuite>", "</testsuites>", ""]).joined(separator: "\n")
    }

    /// TAP version 13 (testanything.org).
    package var tap: String {
        func line(_ text: String) -> String { text.replacing("\n", with: " ").replacing("#", with: "\\#") }
        var lines = ["TAP version 13", "1..\(tests.count)"]
        for (index, test) in tests.enumerated() {
            let outcome = test.outcome
            if outcome.wasSkipped ?? false {
                // Of a test that stands on one that failed nothing is known, and the suite has failed all the same.
                lines.append("not ok \(index + 1) - \(line(outcome.name))")
            } else {
                lines.append("\(outcome.passed ? "ok" : "not ok") \(index + 1) - \(line(outcome.name))")
            }
            if !outcome.passed {
                lines.append("  ---")
                lines.append("  problems:")
                for problem in outcome.problems { lines.append("    - \(TestReport.quoted(problem))") }
                lines.append("  ...")
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// A text as YAML's double quotes hold it.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            default: result += scalar.value < 32 ? " " : String(scalar)
            }
        }
        return result + "\""
    }
}
