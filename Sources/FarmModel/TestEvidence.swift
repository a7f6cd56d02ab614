/// How an image's tests went on one machine: the predicate of in-toto's test results, with what that leaves out under `details`.
package struct TestEvidence: Codable, Sendable, Hashable {
    package enum Result: String, Codable, Sendable {
        case passed = "PASSED"
        case warned = "WARNED"
        case failed = "FAILED"
    }

    /// Something that decided what was tested.
    package struct Configuration: Codable, Sendable, Hashable {
        package var name: String
        /// Hexadecimal digests by algorithm.
        package var digest: [String: String]
    }

    package struct Details: Codable, Sendable, Hashable {
        /// The CPU target that the tests were asked for, that of the machine that they ran on, and what emulated it, if anything.
        package var asked: String
        package var host: String
        package var emulator: String?
        package var worker: String
        /// With its version.
        package var runtime: String
        package var tests: [TestOutcome]
    }

    package var result: Result
    package var configuration: [Configuration]
    package var passedTests: [String]
    /// The recipe's own tests, where they were not run.
    package var warnedTests: [String]
    package var failedTests: [String]
    package var details: Details

    /// - Parameters:
    ///   - key: of the build; names the plan, and with it the suite.
    package init(_ found: Verification, of plan: Plan, key: Digest) throws {
        let suite = Digest(hashing: try CanonicalJSON.encode(plan.suite))
        configuration = [
            Configuration(name: "suite", digest: ["sha256": suite.hex]), Configuration(name: "plan", digest: ["sha256": key.hex]),
        ]
        passedTests = found.tests.filter(\.passed).map(\.name)
        failedTests = found.tests.filter { !$0.passed }.map(\.name)
        warnedTests = plan.suite.skipped.isEmpty ? [] : ["the recipe's own tests: \(plan.suite.skipped)"]
        result = !failedTests.isEmpty ? .failed : warnedTests.isEmpty ? .passed : .warned
        details = Details(
            asked: found.asked, host: found.hostTarget, emulator: found.emulator, worker: found.worker, runtime: found.runtime,
            tests: found.tests)
    }
}
