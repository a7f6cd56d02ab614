package import FarmModel

/// How each test of a tool went, over versions and machines.
package struct TestHistory: Codable, Sendable, Hashable {
    package struct Test: Codable, Sendable, Hashable {
        package var name: String
        package var runs: Int
        package var passed: Int
        package var lastPassed: Bool
        /// Of the runs that passed, the middle one's.
        package var seconds: Double
        /// It has passed and failed on the very same build and CPU.
        package var isFlaky: Bool
        /// The last runs, oldest first: `.` for one that passed, `F` for one that failed.
        package var marks: String
    }

    /// Flaky ones first, then those that failed last, then by name.
    package var tests: [Test]

    private static let mostMarks = 20

    /// - Parameter runs: of one tool, oldest first.
    package init(_ runs: [TestRun]) {
        struct Key: Hashable {
            var build: Digest
            var host: String
        }
        var seen: [String: [(passed: Bool, seconds: Double)]] = [:]
        var ways: [String: [Key: Set<Bool>]] = [:]
        for run in runs {
            for test in run.tests {
                seen[test.name, default: []].append((test.passed, test.seconds))
                ways[test.name, default: [:]][Key(build: run.buildKey, host: run.host), default: []].insert(test.passed)
            }
        }
        tests = seen.map { name, all in
            let times = all.filter(\.passed).map(\.seconds).sorted()
            return Test(
                name: name, runs: all.count, passed: all.count(where: \.passed), lastPassed: all.last?.passed ?? false,
                seconds: times.isEmpty ? 0 : times[times.count / 2], isFlaky: ways[name]?.values.contains { $0.count > 1 } ?? false,
                marks: all.suffix(TestHistory.mostMarks).map { $0.passed ? "." : "F" }.joined())
        }
        .sorted { left, right in
            if left.isFlaky != right.isFlaky { return left.isFlaky }
            if left.lastPassed != right.lastPassed { return !left.lastPassed }
            return left.name < right.name
        }
    }
}
