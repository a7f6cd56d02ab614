import FarmModel
import Testing

@testable import TestSuites

/// Files in memory, as tests leave them.
struct KnownFiles: TestFiles {
    var files: [String: [UInt8]] = [:]

    func exists(_ path: String) throws -> Bool { files[path] != nil }
    func read(_ path: String) throws -> [UInt8] {
        guard let bytes = files[path] else { throw FarmError("test.no-file", .notFound, "\(path) was not made") }
        return bytes
    }
    func matching(_ pattern: String) throws -> [String] {
        let parts = pattern.split(separator: "*", omittingEmptySubsequences: false).map(String.init)
        return files.keys.filter { $0.hasPrefix(parts[0]) && $0.hasSuffix(parts[parts.count - 1]) }.sorted()
    }
}

struct SuiteTests {
    private let variables = SuiteVariables([("out", "/w/o"), ("out_dir", "/w/d"), ("deep", "${out}/x"), ("round", "$round.")])

    @Test(arguments: [
        ("a ${out} b", "a /w/o b"), ("$out/x", "/w/o/x"), ("$out_dir", "/w/d"), ("$output", "$output"), ("$out2", "$out2"),
        ("${deep}", "/w/o/x"),
        ("${nobody} $", "${nobody} $"), ("cost: 5$", "cost: 5$"), ("$(out)", "$(out)"), ("'$out'", "'/w/o'"), ("${out", "${out"),
        ("ü$out脳", "ü/w/o脳"),
    ])
    func namesAreReplacedWhole(_ text: String, _ expected: String) { #expect(variables.replaced(in: text) == expected) }

    @Test func aNameThatStandsForItselfEnds() { #expect(variables.replaced(in: "$round").hasPrefix("$round..")) }

    @Test func whatTheOtherRunnerReplacesIsFound() {
        #expect(SuiteVariables.prefixed(in: "$output ${output} $out $other", names: ["out"]) == ["output"])
    }

    private func problems(_ test: FunctionalTest, _ seen: TestObservation, _ files: [String: [UInt8]] = [:]) -> [String] {
        test.judge(seen, files: KnownFiles(files: files), variables: SuiteVariables([("o", "out")])).problems
    }

    @Test func everyDeviationIsNamed() {
        let test = FunctionalTest(name: "t", command: "c", expectedOutput: ["one", "two"], outputFiles: ["$o/a", "$o/b"])
        #expect(problems(test, TestObservation(exitCode: 0, output: "one two"), ["out/a": [], "out/b": [1]]) == [])
        let found = problems(test, TestObservation(exitCode: 3, output: "one"), ["out/a": []])
        #expect(found.count == 3 && found[0].contains("status 3") && found[1].contains("\"two\"") && found[2].contains("out/b"), "\(found)")
    }

    @Test func statusesAreExpectedRejectedOrIgnored() {
        let plain = FunctionalTest(name: "t", command: "c", expectedExitCode: 2)
        #expect(problems(plain, TestObservation(exitCode: 2, output: "")).isEmpty)
        var other = FunctionalTest(name: "t", command: "c")
        other.rejectedExitCode = 0
        #expect(
            problems(other, TestObservation(exitCode: 0, output: "")).count == 1
                && problems(other, TestObservation(exitCode: 9, output: "")).isEmpty)
        other.ignoresExitCode = true
        #expect(problems(other, TestObservation(exitCode: 0, output: "")).isEmpty)
        // A time limit is no exit code.
        #expect(problems(other, TestObservation(exitCode: 137, output: "", timedOut: true)) == ["took longer than 120 s"])
        #expect(problems(other, TestObservation(exitCode: 137, output: "", outOfMemory: true, memoryBytes: 5 << 20))[0].contains("5 MiB"))
    }

    private func check(_ check: TestCheck, output: String = "", files: [String: String] = [:], memory: Int64 = 0, seconds: Double = 0)
        -> [String]
    {
        let test = FunctionalTest(name: "t", command: "c", checks: [check])
        return problems(
            test, TestObservation(exitCode: 0, output: output, seconds: seconds, memoryBytes: memory), files.mapValues { Array($0.utf8) })
    }

    @Test func numbersAreFoundAndCompared() {
        let json = ["out/a.json": #"{"stats": [{"mean": 59.5, "text": "7e-1"}], "flag": true}"#]
        func number(_ place: NumberCheck.Place, _ expected: Double, within: Double = 0, file: String? = "$o/a.json") -> TestCheck {
            .number(NumberCheck(file: file, place: place, expected: expected, within: within))
        }
        #expect(check(number(.json("stats.0.mean"), 59.5), files: json).isEmpty)
        #expect(check(number(.json("stats.-1.text"), 0.7), files: json).isEmpty)
        #expect(check(number(.json("stats.0.mean"), 59.51, within: 0.02), files: json).isEmpty)
        #expect(
            check(number(.json("stats.0.mean"), 60, within: 0.1), files: json)[0].contains("is 59.5, expected 60 within 0.1: off by 0.5"))
        #expect(check(number(.json("stats.1.mean"), 1), files: json)[0].contains("has no number"))
        #expect(check(number(.json("flag"), 1), files: json)[0].contains("has no number"), "truth is no number")
        #expect(check(number(.pattern("mean ([0-9.]+)"), 4.5, file: nil), output: "the mean 4.5 mm").isEmpty)
        #expect(check(number(.json("a"), .nan), files: ["out/a.json": "{\"a\": 1}"]).count == 1, "nothing is near what is no number")
        let table = ["t.csv": "name,\"mean, all\",sd\nA,1.5,2\n\"B, C\",3.25,4\n"]
        #expect(check(number(.table(column: "mean, all", row: 2), 3.25, file: "t.csv"), files: table).isEmpty)
        #expect(check(number(.table(column: "sd", row: -1), 4, file: "t.csv"), files: table).isEmpty)
        #expect(check(number(.table(column: "sd", row: 3), 4, file: "t.csv"), files: table).count == 1)
        #expect(check(number(.table(column: "b", row: 1), 2, file: "t.tsv"), files: ["t.tsv": "a\tb\n1\t2\n"]).isEmpty)
        #expect(check(number(.table(column: "b", row: 1), 2, file: "t.txt"), files: ["t.txt": "a   b\n1   2\n"]).isEmpty)
        #expect(check(.number(NumberCheck(file: nil, place: .pattern("([0-9]+)"), least: 3, most: 5)), output: "4").isEmpty)
        #expect(check(.number(NumberCheck(file: nil, place: .pattern("([0-9]+)"), least: 5)), output: "4")[0].contains("at least 5"))
    }

    @Test func figuresAndFilesAreCompared() {
        #expect(check(.memory(mostMiB: 10), memory: 9 << 20).isEmpty && check(.memory(mostMiB: 10), memory: 11 << 20).count == 1)
        #expect(check(.seconds(most: 1.5), seconds: 1).isEmpty && check(.seconds(most: 1.5), seconds: 2)[0].contains("1.5"))
        #expect(
            check(.output(pattern: "^two$"), output: "one\ntwo\n").isEmpty && check(.output(pattern: "three"), output: "one").count == 1)
        let files = ["a.txt": "x", "b.txt": "y"]
        #expect(check(.fileCount(pattern: "*.txt", least: 2, most: 2), files: files).isEmpty)
        #expect(check(.fileCount(pattern: "*.txt", least: 3, most: .max), files: files) == ["2 files match *.txt, expected at least 3"])
        let hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        #expect(check(.sha256(file: "h", hex: hello), files: ["h": "hello\n"]).isEmpty)
        #expect(check(.sha256(file: "h", hex: hello), files: ["h": "hello"]).count == 1)
        #expect(check(.sha256(file: "gone", hex: hello)) == ["gone was not made"])
    }

    @Test func schemasAreHeld() throws {
        let schema = #"""
            {"type": "object", "required": ["name"], "additionalProperties": false, "properties": {"name": {"type": "string", "pattern": "^a"},
             "count": {"type": "integer", "minimum": 1}, "kind": {"enum": ["x", "y"]}, "list": {"type": "array", "items": {"type": "number"},
             "minItems": 1, "uniqueItems": true}, "on": {"type": "boolean"}, "either": {"anyOf": [{"type": "null"}, {"const": 3}]}}}
            """#
        func found(_ text: String) throws -> [String] { try JSONSchema(schema).problems(of: Array(text.utf8), source: "d") }
        #expect(try found(#"{"name": "abc", "count": 2, "kind": "x", "list": [1, 2.5], "on": true, "either": null}"#) == [])
        for bad in [
            #"{}"#, #"{"name": "b"}"#, #"{"name": "a", "count": 0}"#, #"{"name": "a", "count": 1.5}"#, #"{"name": "a", "kind": "z"}"#,
            #"{"name": "a", "list": []}"#, #"{"name": "a", "list": [1, 1]}"#, #"{"name": "a", "list": ["x"]}"#, #"{"name": "a", "on": 1}"#,
            #"{"name": "a", "either": 4}"#, #"{"name": "a", "more": 1}"#, #"[]"#, #"{"name": "a", "count": true}"#,
        ] {
            let problems = try found(bad)
            #expect(problems.count == 1, "\(bad): \(problems)")
        }
        #expect(throws: FarmError.self) { try JSONSchema(#"{"format": "date"}"#) }
        #expect(throws: FarmError.self) { try JSONSchema(#"{"properties": {"a": {"typo": 1}}}"#) }
        #expect(throws: FarmError.self) { try JSONSchema(#"{"type": "float"}"#) }
        #expect(throws: FarmError.self) { try JSONSchema("{}").problems(of: Array("{".utf8), source: "d") }
    }

    @Test func reportsAreReadByOthers() {
        let report = TestReport(
            subject: "a<b", runtime: "bwrap",
            tests: [
                TestRecord(outcome: TestOutcome(name: "one", passed: true, problems: [], seconds: 0.5)),
                TestRecord(
                    outcome: TestOutcome(name: "two & \"three\"", passed: false, problems: ["x < y", "second\u{1}"], seconds: 1),
                    command: "c > d",
                    tail: ["last <line>"], exitCode: 1),
                TestRecord(outcome: TestOutcome(name: "four", passed: false, problems: ["not run"], seconds: 0, wasSkipped: true)),
            ], seconds: 2)
        #expect(report.junit.contains("tests=\"3\" failures=\"1\" skipped=\"1\"") && report.junit.contains("two &amp; &quot;three&quot;"))
        #expect(!report.junit.contains("\u{1}") && report.junit.contains("last &lt;line&gt;"))
        let lines = report.tap.split(separator: "\n")
        #expect(lines[1] == "1..3" && lines[2] == "ok 1 - one" && lines[3].hasPrefix("not ok 2 - two"))
        #expect(report.tests[1].explanation(repeatedBy: "again").last == "again: again")
    }

    @Test func flakyTestsAreNamed() {
        func run(_ number: Int, _ key: String, host: String = "zen4", _ passed: [String: Bool]) -> TestRun {
            TestRun(
                name: "t", version: "1", target: "x86_64", buildKey: Digest(hashing: key), attempt: "j\(number).1", worker: "w", host: host,
                at: .now, tests: passed.map { TestOutcome(name: $0.key, passed: $0.value, problems: [], seconds: 1) })
        }
        let history = TestHistory([
            run(1, "a", ["mended": false, "flaky": false, "sound": true, "cpu": true]),
            run(2, "a", ["flaky": true, "sound": true]),
            run(3, "a", host: "zen2", ["cpu": false]),
            run(4, "b", ["mended": true, "flaky": true, "sound": true]),
        ])
        #expect(history.tests.map(\.name) == ["flaky", "cpu", "mended", "sound"])
        #expect(history.tests.filter(\.isFlaky).map(\.name) == ["flaky"], "another build or CPU makes a test no flaky one")
        #expect(history.tests[0].marks == "F.." && history.tests[0].passed == 2)
    }
}

struct TestOrderTests {
    private func test(_ name: String, _ needs: String...) -> FunctionalTest {
        FunctionalTest(name: name, command: "c", dependsOn: needs.isEmpty ? nil : needs)
    }

    @Test func whatDependsWaits() {
        var order = TestOrder([test("a"), test("b", "a"), test("c"), test("d", "b", "later"), test("later")], most: 2)
        #expect(order.next() == [.run(0), .run(2)])
        order.end(2, passed: true)
        #expect(order.next() == [.run(4)], "what stands behind is no dependency")
        order.end(0, passed: false)
        #expect(order.next() == [.skip(1, because: ["a"]), .skip(3, because: ["b"])])
        order.end(4, passed: true)
        #expect(order.next().isEmpty && order.isOver)
    }

    @Test func someAreChosenWithWhatTheyStandOn() {
        let tests = [test("a"), test("b", "a"), test("c"), test("d", "b")]
        #expect(TestOrder.only(["d"], of: tests)?.map(\.name) == ["a", "b", "d"])
        #expect(TestOrder.only(["x"], of: tests) == nil)
    }

    @Test(arguments: 0..<200) func everyTestEndsOnce(_ seed: Int) {
        var generator = Seeded(state: UInt64(seed) &* 7919 &+ 1)
        let tests = (0..<Int.random(in: 1...12, using: &generator)).map { index in
            FunctionalTest(
                name: "t\(index)", command: "c",
                dependsOn: index == 0
                    ? nil
                    : (0..<Int.random(in: 0...2, using: &generator)).map { _ in "t\(Int.random(in: 0..<index + 1, using: &generator))" })
        }
        let most = Int.random(in: 1...3, using: &generator)
        var order = TestOrder(tests, most: most)
        var (running, ended): (Set<Int>, [Int: Bool]) = ([], [:])
        var left: [Int] = []
        while !order.isOver {
            if Int.random(in: 0..<30, using: &generator) == 0 { left += order.leave() }
            for step in order.next() {
                switch step {
                case .run(let index):
                    #expect(ended[index] == nil && running.insert(index).inserted && running.count <= most)
                    for need in tests[index].dependsOn ?? [] where need != tests[index].name {
                        #expect(ended[Int(need.dropFirst()) ?? -1] == true)
                    }
                case .skip(let index, _):
                    #expect(ended[index] == nil)
                    ended[index] = false
                }
            }
            guard let next = running.randomElement(using: &generator) else { continue }
            running.remove(next)
            ended[next] = Bool.random(using: &generator)
            order.end(next, passed: ended[next] ?? false)
        }
        #expect(ended.count + left.count == tests.count)
    }

    private struct Seeded: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ state >> 31
        }
    }
}
