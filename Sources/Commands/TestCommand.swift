import ArgumentParser
import FarmModel
import Foundation
import Glibc
import ImageTesting
import Microarchitecture
import Recipes
import SingularityImage
import SiteDelivery
import SystemIO
import TestSuites

/// Runs functional tests.
struct TestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "test", abstract: "Run the functional tests of a release or an image, as an ordinary user, contained.",
        discussion: """
            Takes the tests that the image brings along, or another suite, and the checks of every image: its commands are there, find their
            libraries and start, the launcher passes arguments as they are, its module loads. Needs no farm where the image is here.
            Examples:
              sciferry test dcm2niix
              sciferry test dcm2niix/1.0 --only "reads a header"
              sciferry test image.sif --suite fulltest.yaml --junit report.xml
              sciferry test --check recipes/*/fulltest.yaml
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME, NAME/VERSION or an image; with --check, suites.") var subjects: [String] = []
    @Flag(help: "Only read suites, and say what there is to say of them.") var check = false
    @Flag(help: "Read suites as the collection's own runner does; what that passes over in silence is told.") var compat = false
    @Option(help: "A suite to run in place of the image's own.", completion: .file()) var suite: String?
    @Option(help: "Run this test, and what it depends on; may be repeated.") var only: [String] = []
    @Option(help: "Where datasets lie, each in a directory of its name.", completion: .directory) var data: String?
    @Option(help: "Tests that may run at the same time (default: the processors).") var jobs: Int?
    @Option(help: "Write the results as JUnit XML.", completion: .file()) var junit: String?
    @Option(help: "Write the results as TAP.", completion: .file()) var tap: String?
    @Option(help: "Keep what programs with windows drew, in this directory.", completion: .directory) var screenshots: String?
    @Flag(help: "Leave out the checks of every image.") var suiteOnly = false
    @Flag(help: "Show how the tests of a tool went on the farm, over versions, and which go both ways.") var history = false

    func run() async throws {
        try await reporting {
            if check { return try SuiteReadings(paths: subjects, isCompatible: compat, isJSON: farm.json).tell() }
            guard subjects.count == 1, let subject = subjects.first else {
                throw FarmError("test.subject", .usage, "one release or image is tested at a time", hint: "sciferry test NAME")
            }
            if history { return try await TestHistoryView(subject: subject, farm: farm).tell() }
            try await test(subject)
        }
    }

    private func test(_ subject: String) async throws {
        let image = try await TestSubject.find(subject, site: site, farm: farm)
        await ImageRunner.sweep()
        let runner = try await ImageRunner(
            image.path, launch: image.launch, place: ImageRunner.passingPlace, marks: ["SCIFERRY_TESTER": "\(getpid())"])
        do {
            let report = try await test(image, subject, in: runner)
            await runner.cleanUp()
            try tell(report)
        } catch {
            await runner.cleanUp()
            throw error
        }
    }

    private func test(_ image: TestSubject, _ subject: String, in runner: ImageRunner) async throws -> TestReport {
        let runtime = try await runner.runtime()
        let started = Timestamp.now
        let start = try await runner.start()
        guard start.passed else {
            return TestReport(subject: subject, runtime: runtime, tests: [TestRecord(outcome: start)], seconds: start.seconds)
        }
        var plan = try await image.plan(in: runner)
        if let suite {
            let reading = try RecipeSuite(try Disk.read(suite), path: suite, mode: compat ? .compatible : .own)
            if !compat, let first = reading.findings.first(where: { $0.severity == .error }) { throw reading.error(first) }
            plan.suite = reading.suite
        }
        if !farm.json {
            Console.error("\(plan.name) \(plan.version), \(plan.suite.tests.count) tests, through \(runtime) as \(runner.userName)")
            if !plan.suite.skipped.isEmpty { Console.error("the recipe's own tests are not run: \(plan.suite.skipped)") }
        }
        let watchers = watchers(subject)
        var records: [TestRecord] = []
        let wanted = only
        let jobs = jobs ?? ProcessInfo.processInfo.activeProcessorCount
        let own = TestOrder.only(only.filter { name in plan.suite.tests.contains { $0.name == name } }, of: plan.suite.tests) ?? []
        if !suiteOnly, only.isEmpty || !only.allSatisfy({ name in plan.suite.tests.contains { $0.name == name } }) {
            let programs = try await runner.programs(in: plan.commandPaths)
            let checks = BuiltInChecks(plan, found: programs.found, in: runner)
            let shown = SuiteRunner.Watchers(began: watchers.began) { record in
                if wanted.isEmpty || wanted.contains(record.outcome.name) { await watchers.ended(record) }
            }
            records += try await checks.run(jobs: jobs, shown)
            let windows = try await checks.windows(plan.programs, shown)
            records += windows.records
            if let screenshots { try TestCommand.keep(windows.screenshots, in: screenshots) }
            if !only.isEmpty { records = records.filter { only.contains($0.outcome.name) } }
        }
        let known = Set(records.map(\.outcome.name) + plan.suite.tests.map(\.name))
        if let stranger = only.first(where: { !known.contains($0) }) {
            throw FarmError(
                "test.unknown", .notFound, "there is no test \"\(stranger)\"",
                hint: NearestWord.find(stranger, among: known).map { "did you mean \"\($0)\"?" }
                    ?? "sciferry test \(subject) runs all and names them")
        }
        if !only.isEmpty { plan.suite.tests = own }
        if !plan.suite.tests.isEmpty {
            let data = data
            records += try await SuiteRunner(plan.suite, name: plan.name, in: runner, jobs: jobs).run(
                provide: { try TestCommand.find($0, below: data, runner.root) }, watchers)
        }
        return TestReport(
            subject: "\(plan.name)/\(plan.version)", runtime: runtime, tests: records, seconds: Timestamp.now.seconds(since: started))
    }

    /// A file of a dataset that lies here.
    private static func find(_ file: SuiteFile, below data: String?, _ scratch: String) throws -> String {
        if let data, Disk.exists("\(data)/\(file.dataset)/\(file.path)") { return "\(data)/\(file.dataset)/\(file.path)" }
        if file.dataset == Phantoms.name, let bytes = Phantoms.dataset.files[file.path] {
            let path = "\(scratch)/phantoms/\(file.path)"
            try Disk.makeDirectory(Disk.parent(of: path))
            try Disk.replace(path, with: bytes)
            return path
        }
        throw FarmError(
            "dataset.absent", .notFound, "\(file.dataset)/\(file.path) is not here",
            hint: "put it below a directory and name that with --data")
    }

    private static func keep(_ screenshots: [Screenshot], in directory: String) throws {
        try Disk.makeDirectory(Disk.absolute(directory))
        for shot in screenshots {
            let name = shot.program.map { $0.isLetter || $0.isNumber ? String($0) : "-" }.joined()
            try Disk.replace("\(Disk.absolute(directory))/\(name).png", with: shot.png)
        }
    }

    private func watchers(_ subject: String) -> SuiteRunner.Watchers {
        if farm.json { return SuiteRunner.Watchers() }
        let line = ProgressLine()
        let shows = Console.isTerminal
        let options = suite.map { " --suite \(ShellWord.quoted($0))" } ?? ""
        return SuiteRunner.Watchers(
            began: { done, all, name in
                if shows { line.show("test \(done + 1)/\(all): \(name)", share: Double(done) / Double(max(1, all))) }
            },
            ended: { record in
                line.clear()
                let outcome = record.outcome
                let state = outcome.passed ? "ok      " : outcome.wasSkipped ?? false ? "not run " : "FAILED  "
                let memory = outcome.memoryBytes.map { ", \(Console.bytes($0))" } ?? ""
                Console.print("\(state)\(outcome.name)  (\(Console.seconds(outcome.seconds))\(memory))".printable())
                guard !outcome.passed else { return }
                let again = "sciferry test \(ShellWord.quoted(subject))\(options) --only \(ShellWord.quoted(outcome.name))"
                for line in record.explanation(repeatedBy: again) { Console.print("        \(line.printable())") }
            })
    }

    private func tell(_ report: TestReport) throws {
        if let junit { try Disk.replace(Disk.absolute(junit), with: Array(report.junit.utf8)) }
        if let tap { try Disk.replace(Disk.absolute(tap), with: Array(report.tap.utf8)) }
        if farm.json {
            try Console.json(report)
        } else {
            let passed = report.tests.count - report.failed.count
            Console.print("\(passed) of \(report.tests.count) passed in \(Console.seconds(report.seconds)) through \(report.runtime)")
        }
        guard report.failed.isEmpty else { throw ExitCode(FarmError.Category.failed.exitStatus) }
    }
}

/// An image to be tested, and what is known of it.
private struct TestSubject {
    var path: String
    var launch: String
    var release: Release?

    /// A file, or a tool of the site, which is brought where it is missing.
    static func find(_ text: String, site: SiteOptions, farm: FarmOptions) async throws -> TestSubject {
        if text.hasSuffix(".sif") || text.hasSuffix(".simg") || Disk.kind(text) == .file {
            guard Disk.exists(text) else { throw FarmError("test.subject", .notFound, "there is no \(text)") }
            let path = Disk.realPath(text) ?? Disk.absolute(text)
            return TestSubject(path: path, launch: Launcher.imageLaunch(offset: try ImageFileSystem(path).partition.offset), release: nil)
        }
        let (site, tool) = try await SiteAccess.tool(text, site, farm: farm)
        let host = try SiteAccess.host()
        guard let release = tool.releases.first(where: { Microarchitecture.runs(host.name, $0.image.target) }) ?? tool.releases.first else {
            throw FarmError("test.subject", .notFound, "\(text) has no image")
        }
        let directory = site.imageDirectory(release.image.digest)
        return TestSubject(
            path: "\(directory)/image.sif", launch: String(decoding: try Disk.read("\(directory)/launch", limit: 1 << 20), as: UTF8.self),
            release: release)
    }

    /// Refuses names that could leave the directories that are made of them: an image says of itself what it likes.
    private static func check(_ plan: Plan) throws {
        func isPlain(_ text: String) -> Bool { !text.isEmpty && !text.hasPrefix(".") && !text.contains { "/\n\0".contains($0) } }
        let files = plan.suite.files ?? []
        let isSound =
            isPlain(plan.name) && isPlain(plan.version) && plan.commands.allSatisfy(CommandName.isValid)
            && files.allSatisfy { file in
                TestDataset.isName(file.dataset)
                    && file.path.split(separator: "/", omittingEmptySubsequences: false).allSatisfy { !["", ".", ".."].contains($0) }
            }
        guard isSound else { throw FarmError("test.plan", .corrupt, "what the image says of itself has names that can be no files'") }
    }

    /// What the image says it was built by; for one that says nothing, what its release or its name tells.
    func plan(in runner: ImageRunner) async throws -> Plan {
        if let bytes = try await runner.file("/.singularity.d/sciferry/plan.json") {
            let plan = try Plan.read(bytes)
            try TestSubject.check(plan)
            return plan
        }
        let name = release?.name ?? (Disk.name(of: path).split(separator: ".").first.map(String.init) ?? "image")
        let family = try SiteAccess.host().family
        return Plan(
            name: name, version: release?.version ?? "0", architecture: release?.image.architecture ?? family,
            target: release?.image.target ?? family,
            base: release?.base ?? BaseImage(name: name, digest: Digest(hashing: ""), origin: .registry, size: 0, bootstrap: nil),
            dockerfile: "", context: [],
            commands: release?.commands ?? [], commandPaths: [], programs: release?.programs ?? [], description: release?.description ?? "",
            categories: release?.categories ?? [], licences: release?.licences ?? [],
            suite: TestSuite(skipped: "the image brings none along"),
            diskBytes: 0)
    }
}

/// Suites that are read and not run.
private struct SuiteReadings {
    var paths: [String]
    var isCompatible: Bool
    var isJSON: Bool

    private struct Reading: Encodable {
        var file: String
        var tests: Int
        var ok: Bool
        var findings: [RecipeFinding]
        var error: String?
    }

    func tell() throws {
        guard !paths.isEmpty else {
            throw FarmError("test.subject", .usage, "no suite is named", hint: "sciferry test --check fulltest.yaml")
        }
        let readings = paths.map(read)
        if isJSON { try Console.json(readings) } else { readings.forEach(show) }
        guard readings.allSatisfy(\.ok) else { throw ExitCode(FarmError.Category.invalid.exitStatus) }
    }

    private func read(_ path: String) -> Reading {
        do {
            let reading = try RecipeSuite(try Disk.read(path, limit: 16 << 20), path: path, mode: isCompatible ? .compatible : .strict)
            let isSound = isCompatible || !reading.findings.contains { $0.severity == .error }
            return Reading(file: path, tests: reading.suite.tests.count, ok: isSound, findings: reading.findings)
        } catch {
            let text = (error as? FarmError)?.description ?? "\(error)"
            return Reading(file: path, tests: 0, ok: false, findings: [], error: text)
        }
    }

    private func show(_ reading: Reading) {
        if let error = reading.error { return Console.print("\(reading.file): \(error)") }
        for finding in reading.findings.sorted(by: { $0.line < $1.line }) {
            Console.print(
                "\(finding.file):\(finding.line): \(finding.severity.rawValue): \(finding.message) [\(finding.code)]\n  \(finding.advice)")
        }
        Console.print(
            "\(reading.file): \(reading.tests) tests, \(reading.findings.isEmpty ? "sound" : "\(reading.findings.count) findings")")
    }
}
