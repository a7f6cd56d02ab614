package import FarmModel

/// What came out of running one functional test.
package struct TestObservation: Sendable {
    package var exitCode: Int32
    package var output: String
    package var timedOut: Bool
    /// Sizes of the files that the test was to make; absent files are missing here.
    package var files: [String: Int64]
    package var seconds: Double

    package init(exitCode: Int32, output: String, timedOut: Bool, files: [String: Int64], seconds: Double) {
        self.exitCode = exitCode
        self.output = output
        self.timedOut = timedOut
        self.files = files
        self.seconds = seconds
    }
}

extension FunctionalTest {
    /// Compares what was seen with what was expected. Every deviation is named, not only the first.
    package func judge(_ seen: TestObservation) -> TestOutcome {
        var problems: [String] = []
        if seen.timedOut {
            problems.append("took longer than \(timeoutSeconds) s")
        } else if seen.exitCode != expectedExitCode {
            problems.append("ended with status \(seen.exitCode), expected \(expectedExitCode)")
        }
        for text in expectedOutput where !seen.output.contains(text) {
            problems.append("the output does not contain \"\(text)\"")
        }
        for file in outputFiles {
            switch seen.files[file] {
            case nil: problems.append("\(file) was not made")
            case 0: problems.append("\(file) is empty")
            default: break
            }
        }
        if !problems.isEmpty {
            let tail = seen.output.split(separator: "\n").suffix(5)
            if !tail.isEmpty { problems.append("last output: \(tail.joined(separator: " / "))") }
        }
        return TestOutcome(name: name, passed: problems.isEmpty, problems: problems, seconds: seen.seconds)
    }
}
