import FarmModel
import TestSuites

/// How the tests of a tool went, for people.
struct TestHistoryView {
    var subject: String
    var farm: FarmOptions

    func tell() async throws {
        let name = SiteAccess.split(subject).name
        let runs: [TestRun] = try await farm.client().get("/api/v1/tests/\(name)")
        guard !runs.isEmpty else {
            throw FarmError("test.history", .notFound, "no tests of \(name) have run", hint: "sciferry list shows what the farm has")
        }
        let history = TestHistory(runs)
        if farm.json { return try Console.json(history) }
        Console.table(
            ["TEST", "PASSED", "LAST", "SECONDS", "RUNS"],
            history.tests.map { test in
                [
                    test.name, "\(test.passed) of \(test.runs)", test.isFlaky ? "goes both ways" : test.lastPassed ? "passed" : "FAILED",
                    Console.rounded(test.seconds), test.marks,
                ]
            })
        for run in runs.suffix(5) {
            Console.print(
                "\(Console.date(run.at))  \(run.version) for \(run.target) on \(run.worker): \(run.tests.filter(\.passed).count) of \(run.tests.count) passed, \(run.attempt)"
            )
        }
    }
}
