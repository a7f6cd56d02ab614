import ChunkStore
import FarmModel
import Foundation
import ImageTesting
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
        let (image, manifest) = try await obtain(plan, source, path, patience)
        await enter(.assemble, "looking into the image")
        let proofs = ProofShelf(context.home.proofs)
        let (found, instructions) = try await following(.assemble) { report in
            try await patience.during { check in
                try BuildPipeline.look(into: image, plan, source, proofs) { share in
                    try check()
                    report(Int(share * 1000))
                }
            }
        }
        for line in InstructionSummary.lines(instructions) { await log.say(line) }
        await enter(.test)
        let tested = try await start(plan, path, image.partition.offset, offered: found.commands)
        await log.say(tested.commands.isEmpty ? "nobody says which commands it offers" : "\(tested.commands.count) commands")
        await enter(.upload, "\(manifest.chunks.count) chunks")
        let (uploader, sender) = (uploader, try ChunkSender(uploader, image: path))
        let context = context
        do { try await sender.finish(manifest.cuts) { await context.report(.upload, Int($0 * 1000), "") } } catch {
            await sender.cancel()
            throw error
        }
        let records = [
            try await record(.packages, InstalledPackages(found.packages, distribution: found.distribution), uploader),
            try await record(.instructions, BuildPipeline.statement(instructions, about: plan, manifest.image), uploader),
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
        into image: ImageFileSystem, _ plan: Plan, _ source: ImportSource, _ proofs: ProofShelf, progress: @escaping (Double) throws -> Void
    ) throws -> (Found, InstructionReport) {
        do {
            let names = Set(source.packages.map { String($0.prefix { $0 != "=" }) })
            let foreign = try ForeignImage(image.file, image.partition, packages: names) { try progress($0 / 2) }
            let report = try prove(foreign.programs, keepTo: plan.target, proofs) { try progress(0.5) }
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
        do { _ = try emulator(for: plan.architecture) } catch {
            await log.say("this worker does not run programs of \(plan.architecture): the image is not started")
            return ([], "", all)
        }
        let runner = try await runner(plan, Disk.parent(of: path), offset)
        let log = log
        do {
            let runtime = try await runner.runtime()
            let start = try await runner.start()
            let outcomes = [start]
            guard start.passed else {
                for problem in start.problems { await log.say("    \(problem)") }
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
    private func obtain(
        _ plan: Plan, _ source: ImportSource, _ path: String, _ patience: Patience
    ) async throws -> (ImageFileSystem, ImageManifest) {
        var failures: [FarmError] = []
        for (location, shown) in zip(source.locations, source.shownLocations) {
            do {
                await log.say("from \(shown)")
                if location.hasPrefix("file://") { try link(location, path) } else { try await download(location, source, path, patience) }
                let image = try await opened(plan, path)
                return (image, try await cut(source, path, patience))
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

    /// Cuts the image into chunks, and compares its checksum in the same go: what is sent is what was compared.
    private func cut(_ source: ImportSource, _ path: String, _ patience: Patience) async throws -> ImageManifest {
        let (manifest, md5) = try await patience.during { check in
            var md5 = source.checksum?.algorithm == .md5 ? FileChecksum.MD5() : nil
            let manifest = try ImageChunker.manifest(of: path, parameters: .standard) {
                try check()
                md5?.update($0)
            }
            return (manifest, md5?.finish())
        }
        guard let checksum = source.checksum else {
            await log.say("its checksum is published nowhere: the image is not verified")
            return manifest
        }
        let found = md5 ?? FileChecksum(manifest.image)
        guard found == checksum else {
            throw FarmError("import.checksum", .corrupt, "\(source.file) has \(found), its catalogue says \(checksum)")
        }
        await log.say("it has its published checksum, \(checksum)")
        return manifest
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

/// How long a job that no recipe limits may take.
struct Patience: Sendable {
    let deadline: Timestamp

    init(hours: Double) { deadline = Timestamp.now.adding(seconds: hours * 3600) }

    /// Runs blocking work away from everybody's threads.
    ///
    /// - Parameter body: gets a function to call now and then, which throws when the time is up or the job was cancelled.
    func during<Value: Sendable>(
        _ body: @escaping @Sendable (_ check: @escaping @Sendable () throws -> Void) throws -> Value
    ) async throws -> Value {
        let deadline = deadline
        return try await Blocking.interruptible { isOver in
            try body {
                if isOver.isRaised { throw CancellationError() }
                guard .now < deadline else {
                    throw FarmError("import.slow", .invalid, "taking the image in took longer than the worker's settings allow")
                }
            }
        }
    }
}
