import ChunkStore
import FarmModel
import ImageTesting
import SingularityImage
import SiteDelivery
import SystemIO
import TestSuites

/// Running the tests of a finished image.
extension BuildPipeline {
    /// What came out of testing an image.
    struct Tested: Sendable {
        var outcomes: [TestOutcome] = []
        var runtime = ""
        var user = ""
        var commands: [String] = []
        var rpm: [InstalledPackages.Package] = []
        var screenshots: [Screenshot] = []
    }

    /// Runs the checks of every image and the plan's own tests; throws `test.failed` when one fails, and keeps the image then.
    ///
    /// - Parameters:
    ///   - only: the plan's tests that are wanted, and no checks; `nil` for all and the checks.
    ///   - leaves: whether what takes long may be left to others.
    func test(_ plan: Plan, _ imageDirectory: String, _ offset: Int64, listsRPM lists: Bool, only: [String]? = nil, leaves: Bool = false)
        async throws -> Tested
    {
        let image = try await runner(plan, imageDirectory, offset)
        do {
            var tested = Tested(runtime: try await image.runtime(), user: image.userName)
            let records = try await test(plan, in: image, only, leaves: leaves, &tested)
            if lists { tested.rpm = try await image.rpmPackages() }
            await image.cleanUp()
            let failed = records.filter { !$0.outcome.passed && !($0.outcome.wasLeft ?? false) }
            guard failed.isEmpty else { throw AttemptFailure(try keep(imageDirectory, failed, of: records)) }
            return tested
        } catch {
            await image.cleanUp()
            throw error
        }
    }

    private func test(_ plan: Plan, in image: ImageRunner, _ only: [String]?, leaves: Bool, _ tested: inout Tested) async throws
        -> [TestRecord]
    {
        let log = log
        await log.say("running \(plan.suite.tests.count) tests through \(tested.runtime) as \(tested.user)")
        if !plan.suite.skipped.isEmpty { await log.say("the recipe's own tests are not run: \(plan.suite.skipped)") }
        let start = try await image.start()
        guard start.passed else {
            await log.say("the image does not start: \(start.problems.joined(separator: "; "))")
            return [TestRecord(outcome: start)]
        }
        let jobs = max(1, context.host.processors / max(1, context.configuration.slots))
        let watchers = watchers
        if let only {
            var suite = plan.suite
            guard let wanted = TestOrder.only(only, of: suite.tests) else {
                throw AttemptFailure(Failure(.recipe, code: "test.unknown", message: "the plan does not have the tests that are wanted"))
            }
            suite.tests = wanted
            let records = try await SuiteRunner(suite, name: plan.name, in: image, jobs: jobs).run(
                provide: { try await dataset($0) }, watchers)
            // Others were run because these stand on them.
            let asked = Set(only)
            tested.outcomes = records.map(\.outcome).filter { asked.contains($0.name) }
            return records
        }
        let programs = try await image.programs(in: plan.commandPaths)
        if !plan.commandPaths.isEmpty {
            await log.say("\(programs.found.count) commands in \(plan.commandPaths.joined(separator: ", "))")
        }
        if !programs.hidden.isEmpty {
            await log.say("not on the image's PATH, so no commands: \(programs.hidden.joined(separator: ", "))")
        }
        let checks = BuiltInChecks(plan, found: programs.found, in: image)
        var records = try await checks.run(jobs: jobs, watchers)
        let windows = try await checks.windows(plan.programs, watchers)
        records += windows.records
        records += try await SuiteRunner(
            plan.suite, name: plan.name, in: image, jobs: jobs, budget: leaves ? context.configuration.testMinutes * 60 : nil
        ).run(provide: { try await dataset($0) }, watchers)
        let left = records.count { $0.outcome.wasLeft ?? false }
        if left > 0 {
            await log.say("\(left) tests are left to other workers: the suite has taken \(context.configuration.testMinutes) minutes")
        }
        (tested.commands, tested.screenshots) = (programs.found, windows.screenshots)
        tested.outcomes = records.map(\.outcome)
        return records
    }

    /// Tells of each test, in the log and to the coordinator.
    private var watchers: SuiteRunner.Watchers {
        let (context, log) = (context, log)
        let again = "sciferry test \(keptDirectory)/image.sif"
        return SuiteRunner.Watchers(
            began: { done, all, name in
                await context.report(.test, done * 1000 / max(1, all), "test \(done + 1)/\(all): \(name.prefix(60))")
            },
            ended: { record in
                let outcome = record.outcome
                let state = outcome.passed ? "passed" : outcome.wasSkipped ?? false ? "not run" : "FAILED"
                await log.say("test \(state): \(outcome.name) (\(outcome.seconds) s)")
                if !outcome.passed {
                    let only = " --only \(ShellWord.quoted(outcome.name))"
                    for line in record.explanation(repeatedBy: again + only) { await log.say("    \(line)") }
                }
            })
    }

    /// What runs programs of the image, through the launcher that sites use.
    func runner(_ plan: Plan, _ imageDirectory: String, _ offset: Int64) async throws -> ImageRunner {
        try await ImageRunner(
            "\(imageDirectory)/image.sif", launch: Launcher.imageLaunch(offset: offset),
            place: ImageRunner.place(home: context.home.root, name: context.attempt.description),
            marks: marks, patience: min(30, try emulator(for: plan.architecture)?.cost ?? 1))
    }

    /// Brings a file of a dataset, once for all attempts of this worker.
    private func dataset(_ file: SuiteFile) async throws -> String {
        guard let digest = file.digest else {
            throw FarmError(
                "dataset.absent", .notFound, "the farm has no dataset \(file.dataset) with \(file.path)",
                hint: "sciferry dataset add \(file.dataset)")
        }
        let line = context.line
        return try await DatasetShelf(context.home.datasets).file(digest, size: file.size ?? 0) { try await line.fetch(digest, to: $0) }
    }

    /// Brings an image that another worker built and runs its tests here.
    func verify(_ order: VerifyOrder) async throws -> Verification {
        await enter(.prepare)
        let plan = try await fetchPlan(order.plan)
        let emulator = try emulator(for: plan.architecture)
        await log.say("testing \(plan.name) \(plan.version) for \(plan.target) on \(context.worker), \(context.host.target)")
        await enter(.fetch)
        let path = "\(directory)/image/image.sif"
        try Disk.makeDirectory(Disk.parent(of: path))
        let line = context.line
        let reader = RegionReader(regions: (0..<max(1, min(16, order.regions))).map { FarmStore(line: line, region: $0) })
        let manifest = try await reader.manifest(order.manifest)
        let locations = try await reader.locations(of: manifest, digest: order.manifest)
        let rebuild = ImageRebuild(manifest: manifest, locations: locations, seeds: [])
        try await following(.fetch) { report in
            try await rebuild.write(to: path, from: reader) { report(Int($0 * 1000 / max(1, manifest.size))) }
        }
        await log.say("image sha256:\(manifest.image.hex), \(manifest.size) bytes, \(rebuild.quote.fetchBytes) bytes fetched")
        await enter(.test)
        let partition = try await Blocking.run { try ImageFileSystem(path).partition }
        let tested = try await test(plan, Disk.parent(of: path), partition.offset, listsRPM: false, only: order.only)
        clock.enter(.done)
        return Verification(
            asked: order.on, hostTarget: context.host.target, emulator: emulator?.emulator, worker: context.worker,
            runtime: tested.runtime, tests: tested.outcomes)
    }

    private var keptDirectory: String { "\(context.home.kept)/\(context.attempt)" }

    /// The image of a failed test stays on the worker for a while, so that somebody can look into it.
    private func keep(_ imageDirectory: String, _ failed: [TestRecord], of all: [TestRecord]) throws -> Failure {
        try Disk.makeDirectory(context.home.kept)
        try Disk.remove(keptDirectory)
        try Disk.rename(imageDirectory, to: keptDirectory)
        let names = failed.map { "\($0.outcome.name): \($0.outcome.problems.joined(separator: "; "))" }
        var failure = Failure(
            .recipe, code: "test.failed",
            message:
                "\(failed.count) functional tests failed; the image is kept on worker \(context.worker) as \(keptDirectory)/image.sif for \(Int(context.configuration.keepDays)) days",
            tail: names)
        // What was wrong stands in the log; with it the answer might be too long.
        failure.tests = all.map { record in
            var outcome = record.outcome
            outcome.problems = []
            return outcome
        }
        return failure
    }
}
