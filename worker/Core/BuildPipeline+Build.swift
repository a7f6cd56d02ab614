import Attestation
import FarmMessages
import HTTPTransport
import ChunkStore
import Foundation
import ISAProof
import ImageAssembly
import ImageTesting
import Microarchitecture
import ProcessRunner
import SingularityImage
import FarmModel
import SystemIO

extension BuildPipeline {
    func build(_ digest: Digest) async throws -> BuildResult {
        await enter(.prepare)
        let plan = try await fetchPlan(digest)
        if let source = plan.source { return try await takeIn(plan, source) }
        let emulator = try emulator(for: plan.architecture)
        await log.say("plan \(digest.hex)\nbuilding \(plan.name) \(plan.version) for \(plan.target) on \(context.worker)")
        if let emulator {
            await log.say("\(emulator.emulator) runs what is built, about \(emulator.cost) times slower than this machine's own programs")
        }
        let images =
            [plan.base.engineName(plan.architecture), cacheTag(plan), layersTag(plan)]
            + plan.moreBases.map { $0.engineName(plan.architecture) }
        await context.disk.hold(images)
        do {
            let result = try await build(plan, holding: images)
            await context.disk.release(images)
            return result
        } catch {
            await context.disk.release(images)
            throw error
        }
    }

    /// What keeps a recipe's layers warm for its next build.
    func cacheTag(_ plan: Plan) -> String { "sciferry-cache:\(plan.name.lowercased())-\(plan.target)" }

    /// What layers of the farm are called in the engine.
    func layersTag(_ plan: Plan) -> String { "sciferry-layers:\(plan.name.lowercased())-\(plan.target)" }

    private func build(_ plan: Plan, holding images: [String]) async throws -> BuildResult {
        var wasTidied = false
        if let root = context.engineRoot {
            let log = log
            let wanted = max(context.diskBytes, BuildLimitsWatch.reserve * 2)
            wasTidied = try await context.disk.makeRoom(wanted, at: root, own: images) { await log.say($0) }
        }
        try await fetchContext(plan)
        await enter(.base, plan.base.reference)
        for base in [plan.base] + plan.moreBases { try await provideBase(base, plan.architecture) }
        let offer = await layerOffer(plan)
        var restored: RestoredLayers?
        if let offer { restored = try await restoreLayers(plan, offer) }
        await enter(.build)
        let (image, output) = try await dockerBuild(plan, offer, restored, wasTidied: wasTidied)
        // The image that was built holds what came. The classic builder does not find that again by itself: it must be shown the image.
        if let restored, output.builder != .classic { await engine.untag(restored.tag) }
        if output.builder == .classic, output.wasShown { try await engine.tag(image, as: layersTag(plan)) }
        await enter(.assemble)
        let sif = try await assemble(plan, image)
        let result: BuildResult
        do { result = try await finish(plan, image, sif) } catch {
            await sif.sender.cancel()
            throw error
        }
        if let offer {
            do { try await handOverLayers(plan, image, offer, output) } catch {
                await log.say("layers are not taken to the farm: \(error)")
            }
        }
        return result
    }

    /// Tests, signs and sends an image.
    private func finish(_ plan: Plan, _ image: String, _ sif: AssembledImage) async throws -> BuildResult {
        try await engine.tag(image, as: cacheTag(plan))
        let (bytes, seconds) = (try await engine.size(image), went.steps.reduce(0) { $0 + $1.seconds })
        context.layers.change { $0.left(cacheTag(plan), seconds: seconds, bytes: bytes, now: .now) }
        let imageDirectory = Disk.parent(of: sif.path)
        await enter(.test)
        let tested = try await test(plan, imageDirectory, sif.partitionOffset, listsRPM: sif.survey.hasRPM, leaves: true)
        await enter(.chunk)
        let content = try await sign(sif.path)
        let growing = sif.growing
        let (manifest, rest) = try await Blocking.run {
            var growing = growing
            return try growing.finish()
        }
        await enter(.upload, "\(manifest.chunks.count) chunks")
        let (uploader, sender) = (uploader, sif.sender)
        let context = context
        try await sender.finish(rest) { await context.report(.upload, Int($0 * 1000), "") }
        let (newChunks, newBytes) = (await sender.newChunks, await sender.newBytes)
        let packages = try await record(
            .packages, InstalledPackages(sif.survey.packages + tested.rpm, distribution: sif.survey.distribution), uploader)
        let instructions = try await record(
            .instructions, BuildPipeline.statement(sif.instructions, about: plan, manifest.image), uploader)
        let files = try await record(.files, sif.listing, uploader)
        var records = [packages, instructions, files]
        if let shot = tested.screenshots.first { records.append(try await record(.screenshot, shot.png, uploader)) }
        let object = try await uploadManifest(manifest, uploader)
        await log.say(
            "image sha256:\(manifest.image.hex), \(manifest.size) bytes in \(manifest.chunks.count) chunks; \(newChunks) were new, \(newBytes) bytes sent"
        )
        clock.enter(.done)
        return BuildResult(
            image: manifest.image, imageSize: manifest.size, manifest: object, packs: await sender.packs,
            records: records,
            chunkCount: manifest.chunks.count, newChunkCount: newChunks, newBytes: newBytes, tests: tested.outcomes,
            testRuntime: tested.runtime, commands: tested.commands, hostTarget: context.host.target,
            emulator: try emulator(for: plan.architecture)?.emulator,
            phaseSeconds: clock.seconds, diskBytes: try await diskBytes(plan, image, sif), content: content)
    }

    /// Bytes that a build takes up at most: its layers in the engine, the image, and what the plan brings. Packs are made in memory.
    private func diskBytes(_ plan: Plan, _ image: String, _ sif: AssembledImage) async throws -> Int64 {
        try await engine.size(image) + (Disk.size(sif.path) ?? 0) + sif.archiveBytes + plan.context.reduce(0) { $0 + $1.size }
    }

    /// What was found of an image's machine code, as a document about it.
    static func statement(_ report: InstructionReport, about plan: Plan, _ image: Digest) -> Statement<InstructionReport> {
        Statement(
            about: "\(plan.name)-\(plan.version)-\(plan.target).sif", image: image, predicateType: PredicateType.instructions,
            predicate: report)
    }

    func uploadManifest(_ manifest: ImageManifest, _ uploader: Uploader) async throws -> IncomingObject {
        let bytes = manifest.bytes
        return try await uploader.send(.bytes(bytes), kind: "manifest", digest: Digest(hashing: bytes), size: Int64(bytes.count))
    }

    /// Uploads a document about the image.
    func record(_ kind: ImageRecord.Kind, _ document: some Encodable, _ uploader: Uploader) async throws -> ImageRecord {
        try await record(kind, try CanonicalJSON.encode(document), uploader)
    }

    func record(_ kind: ImageRecord.Kind, _ bytes: [UInt8], _ uploader: Uploader) async throws -> ImageRecord {
        let object = try await uploader.send(.bytes(bytes), kind: "record", digest: Digest(hashing: bytes), size: Int64(bytes.count))
        return ImageRecord(kind: kind, object: object)
    }

    func provideBase(_ base: BaseImage, _ architecture: String) async throws {
        let name = base.engineName(architecture)
        if try await engine.has(name, architecture) { return await log.say("\(name) is there") }
        let tar = "\(directory)/base.tar"
        await log.say("fetching the base image \(base.reference) from the farm")
        switch base.origin {
        case .registry: try await context.line.fetch(BaseImage.archiveName(base.digest, architecture), to: tar, isAlias: true)
        case .bootstrap: try await context.line.fetch(base.digest, to: tar)
        // Only a finished image has none.
        case .image: throw FarmError("plan.base", .invalid, "the plan builds upon \(base.name), which is no base image")
        }
        try await importBase(base, tar, architecture)
        try Disk.remove(tar)
    }

    func importBase(_ base: BaseImage, _ tar: String, _ architecture: String) async throws {
        let name = base.engineName(architecture)
        if try await engine.has(name, architecture) { return }
        guard base.origin == .registry else {
            return try await engine.importBase(tar, digest: base.digest, as: name, architecture, scratch: directory)
        }
        try await Blocking.run { try BaseArchive.check(tar, digest: base.digest, machine: architecture, name: name) }
        try await engine.load(tar)
    }

    /// The image as it was put together, and what was seen in it.
    struct AssembledImage {
        var path: String
        var partitionOffset: Int64
        var survey: PackageSurvey
        var instructions: InstructionReport
        /// An `ImageListing`.
        var listing: [UInt8]
        /// What of it was cut into chunks and sent while it was written.
        var growing: GrowingImage
        var sender: ChunkSender
        /// Of an archive that the engine had to write.
        var archiveBytes: Int64
    }

    func assemble(_ plan: Plan, _ image: String) async throws -> AssembledImage {
        let (engine, log) = (engine, log)
        let layers = try await engine.layers(of: image, machine: plan.architecture, room: .init(scratch: directory)) { await log.say($0) }
        let path = "\(directory)/image/image.sif"
        try Disk.makeDirectory(Disk.parent(of: path))
        let assembler = try ImageAssembler(
            machine: plan.architecture, format: plan.image, jobs: max(1, context.host.processors))
        let papers = try ImagePapers(plan)
        let proofs = ProofShelf(context.home.proofs)
        let stream = try ImageStream(path, uploader)
        let (report, instructions) = try await following(.assemble) { progress in
            try await stream.during { settled, isOver in
                var proof: InstructionReport?
                let watch = ImageAssembler.Watch(
                    inspect: { files in
                        proof = try BuildPipeline.prove(files, keepTo: plan.target, proofs) { if isOver() { throw CancellationError() } }
                    },
                    progress: { share in
                        if isOver() { throw CancellationError() }
                        progress(Int(share * 1000))
                    }, settled: settled)
                let report = try assembler.assemble(layers, to: path, papers: papers, watch: watch)
                return (report, proof)
            }
        }
        let early = await stream.sender.packs.count
        await log.say(
            "image of \(report.size) bytes from \(report.contentBytes) bytes of files; \(early) packs were sent while it was written")
        guard let instructions else { throw FarmError("isa.missing", .fault, "the image's machine code was not looked at") }
        try await judge(instructions, plan.instructions)
        return AssembledImage(
            path: path, partitionOffset: report.partition.offset, survey: report.survey, instructions: instructions,
            listing: report.listing.bytes, growing: stream.growing, sender: stream.sender, archiveBytes: layers.archiveBytes)
    }

    /// Has the farm sign the image, and puts the signature into it. The untrusted pool's images have none.
    ///
    /// - Returns: the digest of what is signed: all of the image but its signature.
    private func sign(_ path: String) async throws -> Digest {
        let metadata = try await Blocking.run { try SignatureMetadata(of: SingularityFile(path)) }
        let bytes = try CanonicalJSON.encode(metadata)
        let content = Digest(hashing: bytes)
        var request = Sciferry_V1_SignRequest()
        request.metadata = Data(bytes)
        do {
            let signature = Array(try await context.line.ask(context.attempt, .sign(request)).signature)
            try await Blocking.run {
                var image = try SingularityFile(path, isWritable: true)
                try ImageSignature.append(signature, to: &image)
            }
            await log.say("the farm has signed the image")
        } catch let error as FarmError where error.code == "sign.refused" {
            await log.say("the image has no signature: \(error.message)")
        }
        return content
    }

    /// Looks into all programs and libraries of an image.
    static func prove(
        _ files: [ImageAssembler.ImageFile], keepTo target: String, _ proofs: ProofShelf, check: @escaping () throws -> Void
    ) throws -> InstructionReport {
        guard let target = Microarchitecture.named(target) else {
            throw FarmError("plan.target", .invalid, "the plan is for \"\(target)\", which this worker does not know")
        }
        let programs = try files.filter { file in
            try check()
            return try file.size >= 64 && ElfFile.isElf(file.read(4))
        }
        let code = programs.map { file in
            ImageProof.File(path: file.path) {
                guard file.size <= 2 << 30 else { throw FarmError("elf.size", .invalid, "too large, \(file.size) bytes") }
                return try file.read(Int(file.size))
            }
        }
        return try proofs.report(on: code, target: target, check: check)
    }

    /// Tells what was found, and fails the build when the recipe does not allow it.
    func judge(_ report: InstructionReport, _ policy: InstructionPolicy) async throws {
        let lines = InstructionSummary.lines(report)
        for line in lines { await log.say(line) }
        guard report.verdict == .exceeded, policy == .fail else { return }
        var worst = report
        worst.files = report.files.filter { $0.verdict == .exceeded }
        let culprits = worst.files.map(\.path)
        throw AttemptFailure(
            Failure(
                .recipe, code: "isa.exceeded",
                message:
                    "code in \(culprits.prefix(3).joined(separator: ", "))\(culprits.count > 3 ? " and \(culprits.count - 3) more files" : "") needs more than \(report.target) whatever CPU it runs on; compile for the target (CFLAGS is set), ask for a higher one, or set x-sciferry.instructions to warn",
                tail: Array(InstructionSummary.lines(worst).prefix(12))))
    }
}
