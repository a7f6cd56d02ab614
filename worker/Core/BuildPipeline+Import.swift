import ChunkStore
import FarmModel
import Foundation
import Glibc
import HTTPTransport
import ImageAssembly
import ProcessRunner
import SingularityImage
import SystemIO

/// Images that others made are taken in as they are.
extension BuildPipeline {
    func takeIn(_ plan: Plan, _ source: ImportSource) async throws -> BuildResult {
        await log.say("taking in \(source.file) of \(source.catalogue) as \(plan.name) \(plan.version)")
        await enter(.fetch, source.file)
        let path = "\(directory)/image/image.sif"
        try Disk.makeDirectory(Disk.parent(of: path))
        let patience = Patience(hours: context.configuration.buildHours)
        let image = try await obtain(plan, source, path, patience)
        await enter(.assemble, "looking into the image")
        let (found, instructions) = try await following(.assemble) { report in
            try await patience.during {
                try BuildPipeline.look(into: image, plan, source) { share in
                    try patience.check()
                    report(Int(share * 1000))
                }
            }
        }
        for line in InstructionSummary.lines(instructions) { await log.say(line) }
        await enter(.test)
        let tested = try await start(plan, path, image.partition.offset, offered: found.commands)
        await log.say(tested.commands.isEmpty ? "nobody says which commands it offers" : "\(tested.commands.count) commands")
        await enter(.chunk)
        let (manifest, cuts) = try await patience.during {
            var whole = GrowingImage(image.file, from: 0, parameters: .standard)
            return try whole.finish(check: patience.check)
        }
        await enter(.upload, "\(manifest.chunks.count) chunks")
        let (uploader, sender) = (uploader, try ChunkSender(uploader, image: path))
        let context = context
        do { try await sender.finish(cuts) { await context.report(.upload, Int($0 * 1000), "") } } catch {
            await sender.cancel()
            throw error
        }
        let records = [
            try await record(.packages, InstalledPackages(found.packages, distribution: found.distribution), uploader),
            try await record(
                .instructions,
                Statement(
                    about: "\(plan.name)-\(plan.version)-\(plan.target).sif", image: manifest.image,
                    predicateType: PredicateType.instructions, predicate: instructions), uploader),
            try await record(.files, found.listing, uploader),
        ]
        let object = try await uploadManifest(manifest, uploader)
        let (newChunks, newBytes) = (await sender.newChunks, await sender.newBytes)
        clock.enter(.done)
        return BuildResult(
            image: manifest.image, imageSize: manifest.size, manifest: object, packs: await sender.packs, records: records,
            chunkCount: manifest.chunks.count, newChunkCount: newChunks, newBytes: newBytes, tests: tested.outcomes,
            testRuntime: tested.runtime, commands: tested.commands, hostTarget: context.host.target, phaseSeconds: clock.seconds,
            diskBytes: Disk.kind(path) == .file ? manifest.size : 0)
    }

    /// What was found in an image.
    private struct Found: Sendable {
        var packages: [InstalledPackages.Package]
        var distribution: InstalledPackages.Distribution?
        var listing: [UInt8]
        var commands: [String]
    }

    /// Opens the image; throws `sif.invalid` for what is none, `import.architecture` for one that is for other machines than was said.
    private func opened(_ plan: Plan, _ path: String) async throws -> ImageFileSystem {
        let image = try await Blocking.run { try ImageFileSystem(path) }
        let machine = image.head.flatMap { SingularityImage.Architecture(rawValue: $0.architecture) }
        guard let machine, machine != .unknown, "\(machine)" != plan.architecture else { return image }
        throw FarmError(
            "import.architecture", .invalid, "the image is for \(machine), its catalogue says \(plan.architecture)",
            hint: "import it under the name of its own architecture")
    }

    private static func look(
        into image: ImageFileSystem, _ plan: Plan, _ source: ImportSource, progress: @escaping (Double) throws -> Void
    ) throws -> (Found, InstructionReport) {
        do {
            let names = Set(source.packages.map { String($0.prefix { $0 != "=" }) })
            let foreign = try ForeignImage(image.file, image.partition, packages: names) { try progress($0 / 2) }
            let report = try prove(foreign.programs, keepTo: plan.target) { try progress(0.5) }
            let found = Found(
                packages: foreign.survey.packages, distribution: foreign.survey.distribution, listing: foreign.listing.bytes,
                commands: foreign.commands)
            return (found, report)
        } catch let error as FarmError where error.code == "image.squashfs" {
            throw AttemptFailure(Failure(.recipe, error))
        }
    }

    /// Starts the image where this machine can, and keeps those of its commands that can be called.
    private func start(
        _ plan: Plan, _ path: String, _ offset: Int64, offered: [String]
    ) async throws -> (outcomes: [TestOutcome], runtime: String, commands: [String]) {
        let all = Array(Set(offered + plan.commands)).sorted()
        let emulator: EmulatedPlatform?
        do { emulator = try self.emulator(for: plan.architecture) } catch {
            await log.say("this worker does not run programs of \(plan.architecture): the image is not started")
            return ([], "", all)
        }
        try await Blocking.run { try Disk.replace("\(Disk.parent(of: path))/offset", with: Array("\(offset)\n".utf8)) }
        let runner = try await SuiteRunner(
            imageDirectory: Disk.parent(of: path), scratch: "\(directory)/runtime",
            work: SuiteRunner.workDirectory(home: context.home.root, attempt: context.attempt.description), marks: marks,
            patience: min(30, emulator?.cost ?? 1))
        let log = log
        do {
            let runtime = try await runner.runtime()
            let suite = TestSuite(tests: [FunctionalTest(name: "the image starts", command: "true")])
            let outcomes = try await runner.run(suite, say: { await log.say($0) }) { _, _ in }
            guard outcomes.allSatisfy(\.passed) else {
                // Perhaps it wants another CPU or runtime than this worker's; the release says so.
                await log.say("the image does not start here; its commands are what it says of itself")
                await runner.cleanUp()
                return (outcomes, runtime, all)
            }
            let callable = try await runner.callable(all)
            let hidden = Set(all).subtracting(callable)
            if !hidden.isEmpty { await log.say("not on the image's PATH, so no commands: \(hidden.sorted().joined(separator: ", "))") }
            await runner.cleanUp()
            return (outcomes, runtime, callable)
        } catch {
            await runner.cleanUp()
            throw error
        }
    }

    // MARK: getting the file

    /// Brings the image from the first place that has it whole.
    private func obtain(_ plan: Plan, _ source: ImportSource, _ path: String, _ patience: Patience) async throws -> ImageFileSystem {
        var failures: [FarmError] = []
        for (location, shown) in zip(source.locations, source.shownLocations) {
            do {
                await log.say("from \(shown)")
                if location.hasPrefix("file://") { try link(location, path) } else { try await download(location, source, path, patience) }
                try await check(source, path, patience)
                return try await opened(plan, path)
            } catch let error as FarmError {
                await log.say("not to be had there: \(error.message)")
                failures.append(error)
            }
        }
        // What another worker may do comes before what time may mend, and that before what nobody does.
        let isOurs = { (error: FarmError) in [.full, .fault].contains(error.category) || error.code == "import.unseen" }
        let first = failures.first(where: isOurs) ?? failures.first { $0.category.isTransient } ?? failures.last
        let error = first ?? FarmError("import.absent", .notFound, "the plan says nowhere to be had \(source.file)")
        throw AttemptFailure(Failure(isOurs(error) ? .infrastructure : error.category.isTransient ? .upstream : .recipe, error))
    }

    /// A file that this worker sees is read where it lies.
    private func link(_ location: String, _ path: String) throws {
        let target = String(location.dropFirst("file://".count)).removingPercentEncoding ?? ""
        guard Disk.kind(Disk.realPath(target) ?? target) == .file else {
            throw FarmError(
                "import.unseen", .notFound, "worker \(context.worker) sees no file \(target)", hint: "is the directory mounted there?")
        }
        try Disk.remove(path)
        try Disk.link(path, to: target)
    }

    private func check(_ source: ImportSource, _ path: String, _ patience: Patience) async throws {
        guard let checksum = source.checksum else {
            return await log.say("its checksum is published nowhere: the image is not verified")
        }
        let found = try await patience.during {
            let file = try OpenFile(path, flags: O_RDONLY)
            var hasher = FileChecksum.Hasher(checksum.algorithm)
            try file.readAll(size: try file.size()) {
                try patience.check()
                hasher.update($0)
            }
            return hasher.finish()
        }
        guard found == checksum else {
            throw FarmError("import.checksum", .corrupt, "\(source.file) has \(found), its catalogue says \(checksum)")
        }
        await log.say("it has its published checksum, \(checksum)")
    }

    private func download(_ url: String, _ source: ImportSource, _ path: String, _ patience: Patience) async throws {
        let (client, scratch) = (context.client, directory)
        try Disk.remove(path)
        let limits = HTTPClient.DownloadLimits(size: ImportSource.possibleSizes.upperBound, deadline: patience.deadline) { size in
            let there = Disk.size(path) ?? 0
            guard try Disk.freeBytes(at: scratch) - (256 << 20) >= size - min(size, there) else {
                throw FarmError("disk.full", .full, "\(scratch) has too little room for \(source.file), \(size >> 20) MiB")
            }
        }
        let response = try await following(.fetch) { report in
            let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_TRUNC)
            return try await client.download(url, to: file, limits: limits) { got, size in
                if let size, size > 0 { report(Int(min(1000, got * 1000 / size))) }
            }
        }
        guard !response.isSuccess else { return }
        let shown = HTTPRequest("GET", url).redactedURL
        let isTransient = RetryPolicy.isTransient(status: response.status)
        throw FarmError(
            isTransient ? "import.unavailable" : "import.absent", isTransient ? .unavailable : .notFound,
            "\(shown) answers with status \(response.status)",
            hint: isTransient ? nil : "import the catalogue again with the right --images")
    }
}

/// How long a job that no recipe limits may take; blocking work that asks ends with it, and with the job.
struct Patience: Sendable {
    let deadline: Timestamp
    private let isOver = Switch()

    init(hours: Double) { deadline = Timestamp.now.adding(seconds: hours * 3600) }

    /// Throws when the time is up or the job was cancelled.
    func check() throws {
        if isOver.isRaised { throw CancellationError() }
        guard .now < deadline else {
            throw FarmError("import.slow", .invalid, "taking the image in took longer than the worker's settings allow")
        }
    }

    /// Runs blocking work away from everybody's threads.
    func during<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        let isOver = isOver
        return try await withTaskCancellationHandler {
            try await Blocking.run(body)
        } onCancel: {
            _ = isOver.raise()
        }
    }
}
