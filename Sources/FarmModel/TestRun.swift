/// How a suite went once, wherever it ran: part of a tool's history.
package struct TestRun: Codable, Sendable, Hashable {
    /// Of the release that was to be.
    package var name: String
    package var version: String
    package var target: String
    /// What was built: runs with the same one tested the same.
    package var buildKey: Digest
    package var attempt: String
    package var worker: String
    /// The CPU target of the host.
    package var host: String
    package var at: Timestamp
    /// Without what was wrong: that stands in the attempt's log.
    package var tests: [Outcome]

    package struct Outcome: Codable, Sendable, Hashable {
        package var name: String
        package var passed: Bool
        package var seconds: Double

        package init(name: String, passed: Bool, seconds: Double) {
            self.name = name
            self.passed = passed
            self.seconds = seconds
        }
    }

    package init(
        name: String, version: String, target: String, buildKey: Digest, attempt: String, worker: String, host: String, at: Timestamp,
        tests: [TestOutcome]
    ) {
        self.name = name
        self.version = version
        self.target = target
        self.buildKey = buildKey
        self.attempt = attempt
        self.worker = worker
        self.host = host
        self.at = at
        // What was left out tells nothing of itself.
        self.tests = tests.filter { !($0.wasSkipped ?? false) && !($0.wasLeft ?? false) }.map {
            Outcome(name: $0.name, passed: $0.passed, seconds: $0.seconds)
        }
    }
}
