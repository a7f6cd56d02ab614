import ChunkStore
import FarmModel
import Foundation
import Glibc
import HTTPTransport
import ImageAssembly
import ProcessRunner
import SingularityImage
import Synchronization
import SystemIO

/// Images that others made are taken in as they are.
extension BuildPipeline {
    func takeIn(_ plan: Plan, _ source: ImportSource) async throws -> BuildResult {
        await log.say("taking in \(source.file) of \(source.catalogue) as \(plan.name) \(plan.version)")
        await enter(.fetch, source.file)
        let path = "\(directory)/image/image.sif"
        try Disk.makeDirectory(Disk.parent(of: path))
        try await obtain(source, path)
        await enter(.assemble, "looking into the image")
        let image = try await opened(plan, path)
        let (found, instructions) = try await following(.assemble) { report in
            let isOver = Switch()
            return try await withTaskCancellationHandler {
                try await Blocking.run {
                    try BuildPipeline.look(into: image, plan, source) { share in
                        if isOver.isRaised { throw CancellationError() }
                        report(Int(share * 1000))
                    }
                }
            } onCancel: {
                _ = isOver.raise()
            }
        }
        for line in InstructionSummary.lines(instructions) { await log.say(line) }
        await enter(.test)
        let tested = try await start(plan, path, image.partition.offset, offered: found.commands)
        await log.say(tested.commands.isEmpty ? "nobody says which commands it offers" : "\(tested.commands.count) commands")
        await enter(.chunk)
        let (manifest, cuts) = try await Blocking.run {
            var whole = GrowingImage(image.file, from: 0, parameters: .standard)
            return try whole.finish()
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

    /// Opens the image; what is none, or is for other machines than it was said to be, is nobody's to repair.
    private func opened(_ plan: Plan, _ path: String) async throws -> ImageFileSystem {
        do {
            let image = try await Blocking.run { try ImageFileSystem(path) }
            let machine = image.head.flatMap { SingularityImage.Architecture(rawValue: $0.architecture) }
            guard let machine, machine != .unknown, "\(machine)" != plan.architecture else { return image }
            throw FarmError(
                "import.architecture", .invalid, "the image is for \(machine), its catalogue says \(plan.architecture)",
                hint: "import it under the name of its own architecture")
        } catch let error as FarmError where [.corrupt, .invalid].contains(error.category) {
            throw AttemptFailure(Failure(.recipe, error))
        }
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
            if let failed = outcomes.first(where: { !$0.passed }) {
                throw AttemptFailure(
                    Failure(
                        .recipe, code: "import.broken", message: "the image does not start through \(runtime)", tail: failed.problems))
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
    private func obtain(_ source: ImportSource, _ path: String) async throws {
        var failures: [FarmError] = []
        for location in source.locations {
            do {
                await log.say("from \(location)")
                if location.hasPrefix("file://") { try link(location, path) } else { try await download(location, source, path) }
                try await check(source, path)
                return
            } catch let error as FarmError {
                await log.say("not to be had there: \(error.message)")
                failures.append(error)
            }
        }
        let error = failures.first { $0.category.isTransient } ?? failures.last ?? FarmError("import.absent", .notFound, "nobody has it")
        let isOurs =
            [.full, .fault].contains(error.category) || source.locations.contains { $0.hasPrefix("file:") } && error.code == "import.absent"
        throw AttemptFailure(Failure(isOurs ? .infrastructure : error.category.isTransient ? .upstream : .recipe, error))
    }

    /// A file that this worker sees is read where it lies.
    private func link(_ location: String, _ path: String) throws {
        let target = String(location.dropFirst("file://".count)).removingPercentEncoding ?? ""
        guard Disk.kind(Disk.realPath(target) ?? target) == .file else {
            throw FarmError("import.absent", .notFound, "this worker sees no file \(target)", hint: "is the directory mounted here?")
        }
        try Disk.remove(path)
        try Disk.link(path, to: target)
    }

    private func check(_ source: ImportSource, _ path: String) async throws {
        guard let checksum = source.checksum else {
            return await log.say("its checksum is published nowhere: the image is not verified")
        }
        let found = try await Blocking.run {
            let file = try OpenFile(path, flags: O_RDONLY)
            var hasher = FileChecksum.Hasher(checksum.algorithm)
            try file.readAll(size: try file.size()) { hasher.update($0) }
            return hasher.finish()
        }
        guard found == checksum else {
            throw FarmError("import.checksum", .corrupt, "\(source.file) has \(found), its catalogue says \(checksum)")
        }
        await log.say("it has its published checksum, \(checksum)")
    }

    /// Fetches a file, going on where a broken transfer ended as long as the server still has the same one.
    private func download(_ url: String, _ source: ImportSource, _ path: String) async throws {
        let (client, scratch) = (context.client, directory)
        var question = HTTPRequest("HEAD", url, stallSeconds: 60, followsRedirects: true)
        question.deadlineSeconds = 120
        let asked = question
        let head = try await RetryPolicy().repeating { try await client.perform(asked) }
        // Some servers answer GET only; they will say the same then.
        guard head.isSuccess || [403, 405, 501].contains(head.status) else { throw BuildPipeline.refusal(head.status, url) }
        let size = head.isSuccess ? head.headers["content-length"].flatMap { Int64($0) } ?? source.size : source.size
        if let size, try Disk.freeBytes(at: scratch) < size + (256 << 20) {
            throw FarmError("disk.full", .full, "\(scratch) has too little room for \(source.file), \(size >> 20) MiB")
        }
        let mark = head.isSuccess ? BuildPipeline.mark(head) : nil
        try await following(.fetch) { report in
            let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_TRUNC)
            let got = Mutex<Int64>(0)
            func begin() throws {
                got.withLock { $0 = 0 }
                try file.truncate(to: 0)
            }
            let response = try await RetryPolicy(attempts: 8).repeating {
                if mark == nil { try begin() }
                var request = HTTPRequest("GET", url, stallSeconds: 60, followsRedirects: true)
                request.resumeAt = got.withLock { $0 }
                if let mark, request.resumeAt > 0 { request.headers.append((name: "If-Range", value: mark)) }
                let response = try await client.perform(request) { bytes in
                    let now = got.withLock { $0 }
                    try file.write(bytes, at: now)
                    got.withLock { $0 += Int64(bytes.count) }
                    if let size, size > 0 { report(Int(min(1000, (now + Int64(bytes.count)) * 1000 / size))) }
                }
                // All had come when the line was cut.
                if response.status == 416, size == got.withLock({ $0 }) { return response }
                if response.isSuccess, let mark, let now = BuildPipeline.mark(response), now != mark {
                    try begin()
                    throw FarmError("import.changed", .unavailable, "\(url) became another file while it was fetched")
                }
                return response
            }
            guard response.isSuccess || response.status == 416 else { throw BuildPipeline.refusal(response.status, url) }
            let count = got.withLock { $0 }
            guard size.map({ $0 == count }) ?? true else {
                throw FarmError("import.short", .unavailable, "\(url) has \(count) bytes, not \(size ?? 0)")
            }
            try await Blocking.run { try file.sync() }
        }
    }

    /// What tells a file from a later one of the same name; `nil` where the server says nothing that may be compared.
    private static func mark(_ response: HTTPResponse) -> String? {
        if let tag = response.headers["etag"], !tag.hasPrefix("W/") { return tag }
        return response.headers["last-modified"]
    }

    private static func refusal(_ status: Int, _ url: String) -> FarmError {
        if RetryPolicy.isTransient(status: status) {
            return FarmError("import.unavailable", .unavailable, "\(url) answers with status \(status)")
        }
        return FarmError(
            "import.absent", .notFound, "\(url) answers with status \(status)", hint: "import the catalogue again with the right --images")
    }
}
