package import FarmModel
import Glibc
import ProcessRunner
import SystemIO
package import TestSuites

/// Runs a suite inside an image.
package struct SuiteRunner: Sendable {
    private let image: ImageRunner
    private let suite: TestSuite
    private let variables: SuiteVariables
    private let files: PlaceFiles
    private let data: String
    /// Most tests at the same time.
    private let jobs: Int
    /// Seconds after which no further test begins, where the suite's tests may be spread over machines.
    private let budget: Double?

    private static let setupSeconds = 600

    /// - Parameters:
    ///   - name: of what is tested; the suite's datasets lie in a directory of that name.
    ///   - jobs: how many tests may run at the same time, where the suite allows it.
    ///   - budget: seconds after which the rest is left to others, where the suite allows it.
    package init(_ suite: TestSuite, name: String, in image: ImageRunner, jobs: Int, budget: Double? = nil) {
        self.image = image
        self.suite = suite
        self.budget = suite.isParallel ?? false ? budget : nil
        self.jobs = suite.isParallel ?? false ? jobs : 1
        data = suite.files == nil ? image.place.work : "\(image.place.work)/\(name)"
        variables = SuiteVariables(suite, work: image.place.work, data: data)
        files = PlaceFiles(image.place)
    }

    /// What is told while tests run.
    package struct Watchers: Sendable {
        package var began: @Sendable (_ done: Int, _ all: Int, _ name: String) async -> Void
        package var ended: @Sendable (TestRecord) async -> Void

        package init(
            began: @escaping @Sendable (_ done: Int, _ all: Int, _ name: String) async -> Void = { _, _, _ in },
            ended: @escaping @Sendable (TestRecord) async -> Void = { _ in }
        ) {
            self.began = began
            self.ended = ended
        }
    }

    /// Runs everything. What prepares the tests and fails is a test of its own, and no other runs then.
    ///
    /// - Parameters:
    ///   - provide: where a file of the suite's datasets lies on this machine; throws where it cannot be had.
    package func run(
        provide: @Sendable (SuiteFile) async throws -> String = { _ in throw FarmError("dataset.absent", .notFound, "no datasets are here")
        },
        _ watchers: Watchers = Watchers()
    ) async throws -> [TestRecord] {
        if let failed = try await prepare(provide) {
            await watchers.ended(failed)
            return [failed]
        }
        var order = TestOrder(suite.tests, most: jobs)
        let started = Timestamp.now
        var records = [TestRecord?](repeating: nil, count: suite.tests.count)
        try await withThrowingTaskGroup(of: (Int, TestRecord).self) { tasks in
            while !order.isOver {
                if let budget, Timestamp.now.seconds(since: started) > budget {
                    for index in order.leave() {
                        records[index] = TestRecord(
                            outcome: TestOutcome(name: suite.tests[index].name, passed: false, problems: [], seconds: 0, wasLeft: true))
                    }
                }
                for step in order.next() {
                    switch step {
                    case .skip(let index, let failed):
                        let record = TestRecord(
                            outcome: TestOutcome(
                                name: suite.tests[index].name, passed: false,
                                problems: ["not run: it depends on \(failed.joined(separator: ", ")), which failed"], seconds: 0,
                                wasSkipped: true))
                        records[index] = record
                        await watchers.ended(record)
                    case .run(let index):
                        await watchers.began(records.count { $0 != nil }, suite.tests.count, suite.tests[index].name)
                        let test = suite.tests[index]
                        tasks.addTask { (index, try await run(test, index)) }
                    }
                }
                guard let (index, record) = try await tasks.next() else { continue }
                order.end(index, passed: record.outcome.passed)
                records[index] = record
                await watchers.ended(record)
            }
        }
        if let script = suite.cleanup {
            _ = try await image.run(script: variables.replaced(in: script), name: "cleanup", terms(SuiteRunner.setupSeconds))
        }
        return records.compactMap { $0 }
    }

    private func terms(_ seconds: Int) -> ImageRunner.Terms {
        ImageRunner.Terms(
            timeout: Double(seconds), network: suite.network ?? !(suite.isStrict ?? false), isStrict: suite.isStrict ?? false,
            memoryBytes: suite.memoryMiB.map { Int64($0) << 20 })
    }

    // MARK: before the tests

    /// Datasets, directories and setups; the record of what failed.
    private func prepare(_ provide: @Sendable (SuiteFile) async throws -> String) async throws -> TestRecord? {
        let place = image.place
        try await Blocking.run { try place.renew() }
        do {
            for file in suite.files ?? [] {
                let source = try await provide(file)
                let path = "\(data)/\(file.dataset)/\(file.path)"
                try await Blocking.run { try SuiteRunner.makeDirectories(Disk.parent(of: path), below: place) }
                // A copy that tests may change or remove, as some programs do with what they read.
                try await ProcessRunner.require(Command("cp", ["--reflink=auto", "--no-preserve=all", "--", source, path]))
                try await Blocking.run { try place.give(path) }
            }
        } catch let error as FarmError where error.code == "dataset.absent" {
            return TestRecord(outcome: TestOutcome(name: "test data", passed: false, problems: [error.message], seconds: 0))
        }
        for variable in suite.variables ?? [] where variable.kind == .output {
            let path = variables.replaced(in: "${\(variable.name)}")
            if path.hasPrefix("\(place.work)/") { try await Blocking.run { try SuiteRunner.makeDirectories(path, below: place) } }
        }
        if let script = suite.hostSetup, let failed = try await hostSetup(variables.replaced(in: script)) { return failed }
        if suite.setup.isEmpty { return nil }
        let script = variables.replaced(in: suite.setup)
        let seen = try await image.run(script: script, name: "setup", terms(SuiteRunner.setupSeconds))
        return failure("setup", script, seen)
    }

    private func failure(_ name: String, _ script: String, _ seen: TestObservation) -> TestRecord? {
        let outcome = FunctionalTest(name: name, command: script, timeoutSeconds: SuiteRunner.setupSeconds).judge(seen, files: files)
        return outcome.passed
            ? nil : TestRecord(outcome: outcome, command: script, tail: SuiteRunner.tail(seen.output), exitCode: seen.exitCode)
    }

    private static func makeDirectories(_ path: String, below place: TestPlace) throws {
        var at = place.work
        for part in path.dropFirst(place.work.count).split(separator: "/") {
            at += "/\(part)"
            if !Disk.exists(at) {
                try Disk.makeDirectory(at)
                try place.give(at)
            }
        }
    }

    /// The script for the machine itself: it gets the system's programs, a working directory, and nothing else of it.
    private func hostSetup(_ script: String) async throws -> TestRecord? {
        guard let bubblewrap = ProcessRunner.find("bwrap") else {
            return TestRecord(
                outcome: TestOutcome(
                    name: "setup on the host", passed: false,
                    problems: ["a script for the host runs within bubblewrap, which is not installed"],
                    seconds: 0))
        }
        let place = image.place
        let file = try await Blocking.run { try place.write(".sciferry-host.sh", script) }
        defer { place.discard(file) }
        var words = ["--unshare-all", "--die-with-parent", "--new-session", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        for path in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache", "/etc/passwd"] {
            if Disk.kind(path) == .link {
                words += ["--symlink", "usr\(path)", path]
            } else if Disk.exists(path) {
                words += ["--ro-bind", path, path]
            }
        }
        words += [
            "--bind", place.work, place.work, "--chdir", place.work, "--clearenv", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin",
        ]
        words += ["--setenv", "HOME", place.work, "--setenv", "LANG", "C.UTF-8", "--", "/bin/sh", file]
        let all = place.words(bubblewrap, words, processes: 1024)
        let started = Timestamp.now
        let result = try await ProcessRunner.run(
            Command(all[0], Array(all.dropFirst()), directory: place.work, deadlineSeconds: Double(SuiteRunner.setupSeconds)))
        return failure(
            "setup on the host", script,
            TestObservation(
                exitCode: result.status, output: result.text, timedOut: result.timedOut, seconds: Timestamp.now.seconds(since: started)))
    }

    // MARK: one test

    private func run(_ test: FunctionalTest, _ index: Int) async throws -> TestRecord {
        var command = variables.replaced(in: test.command)
        var written: String?
        if let script = test.script {
            let text = variables.replaced(in: script.text)
            let path = try await Blocking.run { [place = image.place] in
                try place.write(".sciferry-script-\(index)\(script.suffix)", text, mode: 0o755)
            }
            written = path
            command = script.runner.isEmpty ? path : "\(variables.replaced(in: script.runner)) \(path)"
        }
        defer { if let written { image.place.discard(written) } }
        let preparation = variables.replaced(in: test.preparation ?? suite.preparation ?? "")
        let seen = try await image.run(
            script: preparation.isEmpty ? "\(command)\n" : "\(preparation)\n\(command)\n", name: "test-\(index)", terms(test.timeoutSeconds)
        )
        let (files, variables) = (files, variables)
        let outcome = try await Blocking.run { test.judge(seen, files: files, variables: variables) }
        return TestRecord(
            outcome: outcome, command: test.script.map { variables.replaced(in: $0.text) } ?? command,
            tail: outcome.passed ? [] : SuiteRunner.tail(seen.output), exitCode: seen.exitCode)
    }

    static func tail(_ output: String) -> [String] {
        output.split(separator: "\n").suffix(12).map { String($0.prefix(400)) }
    }
}
