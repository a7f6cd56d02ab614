import SingularityImage
import ChunkStore
import FarmModel
import SiteDelivery
import SystemIO

/// Running the tests of a finished image.
extension BuildPipeline {
    func test(
        _ plan: Plan, _ imageDirectory: String, _ offset: Int64, listsRPM lists: Bool
    ) async throws -> (outcomes: [TestOutcome], runtime: String, commands: [String], rpm: [InstalledPackages.Package]) {
        let runner = try await runner(plan, imageDirectory, offset)
        let (context, log) = (context, log)
        do {
            let runtime = try await runner.runtime()
            await log.say("running \(plan.suite.tests.count) tests through \(runtime)")
            if !plan.suite.skipped.isEmpty { await log.say("the recipe's own tests are not run: \(plan.suite.skipped)") }
            let suite = TestSuite(setup: plan.suite.setup, tests: BuildPipeline.deployTests(plan) + plan.suite.tests)
            let outcomes = try await runner.run(suite, say: { await log.say($0) }) { done, all in
                await context.report(.test, done * 1000 / max(1, all), "test \(done + 1)/\(all)")
            }
            let programs = try await runner.programs(in: plan.commandPaths)
            if !plan.commandPaths.isEmpty {
                await log.say("\(programs.found.count) commands in \(plan.commandPaths.joined(separator: ", "))")
            }
            if !programs.hidden.isEmpty {
                await log.say("not on the image's PATH, so no commands: \(programs.hidden.joined(separator: ", "))")
            }
            let rpm = lists ? try await runner.rpmPackages() : []
            await runner.cleanUp()
            let failed = outcomes.filter { !$0.passed }
            guard failed.isEmpty else { throw AttemptFailure(try keep(imageDirectory, failed)) }
            return (outcomes, runtime, programs.found, rpm)
        } catch {
            await runner.cleanUp()
            throw error
        }
    }

    /// What runs programs of the image in a directory, through the launcher that sites use.
    func runner(_ plan: Plan, _ imageDirectory: String, _ offset: Int64) async throws -> SuiteRunner {
        try await Blocking.run { try Disk.replace("\(imageDirectory)/launch", with: Array(Launcher.imageLaunch(offset: offset).utf8)) }
        return try await SuiteRunner(
            imageDirectory: imageDirectory, scratch: "\(directory)/runtime",
            work: SuiteRunner.workDirectory(home: context.home.root, attempt: context.attempt.description), marks: marks,
            patience: min(30, try emulator(for: plan.architecture)?.cost ?? 1))
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
        let tested = try await test(plan, Disk.parent(of: path), partition.offset, listsRPM: false)
        clock.enter(.done)
        return Verification(
            asked: order.on, hostTarget: context.host.target, emulator: emulator?.emulator, worker: context.worker,
            runtime: tested.runtime, tests: tested.outcomes)
    }

    /// Every command that a release offers must be there, whatever the recipe's own tests look at.
    static func deployTests(_ plan: Plan) -> [FunctionalTest] {
        plan.commands.map { command in
            FunctionalTest(
                name: "command \(command) is there", command: "command -v -- \(ShellWord.quoted(command))", timeoutSeconds: 60)
        }
    }

    /// The image of a failed test stays on the worker for a while, so that somebody can look into it.
    func keep(_ imageDirectory: String, _ failed: [TestOutcome]) throws -> Failure {
        let kept = "\(context.home.kept)/\(context.attempt)"
        try Disk.makeDirectory(context.home.kept)
        try Disk.remove(kept)
        try Disk.rename(imageDirectory, to: kept)
        let names = failed.map { "\($0.name): \($0.problems.joined(separator: "; "))" }
        return Failure(
            .recipe, code: "test.failed",
            message:
                "\(failed.count) functional tests failed; the image is kept on worker \(context.worker) as \(kept)/image.sif for \(Int(context.configuration.keepDays)) days",
            tail: names)
    }
}
