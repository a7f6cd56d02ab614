import ChunkStore
import Logging
import ObjectStorage
package import FarmIdentity
package import FarmLink
package import FarmMessages
import SingularityImage
package import FarmModel
import Foundation
import SystemIO

/// The coordinator's ear for workers: checks what a worker may ask and hands it to the actor.
package struct WorkerDesk: LinkServerDelegate {
    private let coordinator: Coordinator
    private static let piece = 256 * 1024

    package init(_ coordinator: Coordinator) { self.coordinator = coordinator }

    package func admit(_ certificate: IssuedCertificate) async throws -> WorkerName {
        try await coordinator.admit(certificate)
    }

    package func hello(
        _ worker: WorkerName, facts: HostFacts, process: String, session: LinkServerSession
    ) async throws -> Sciferry_V1_Welcome {
        let (welcome, former) = try await coordinator.hello(worker, facts: facts, session: session)
        await former?.dismiss(FarmError("protocol.superseded", .conflict, "the worker connected anew"))
        return welcome
    }

    package func state(_ worker: WorkerName, _ report: WorkerReport, session: LinkServerSession) async throws -> DesiredWork {
        try await coordinator.exchange(worker, report, session: session)
    }

    package func send(_ source: FetchSource, worker: WorkerName, piece: @Sendable ([UInt8]) async throws -> Void) async throws {
        switch source {
        case .blob(let digest, let offset): try await send(digest, from: offset, piece: piece)
        case .object(let key, let range, let number):
            if key.hasPrefix(LayerSet.place) {
                try await coordinator.requireBuilder(worker)
                guard number == 0, WorkerDesk.isImagePart(String(key.dropFirst(LayerSet.place.count))) else {
                    throw FarmError("fetch.refused", .denied, "\(key) in region \(number) is no object that workers may fetch")
                }
                return try await send(key, range, from: coordinator.firstRegion, piece: piece)
            }
            try await coordinator.requireReader(worker)
            guard WorkerDesk.isImagePart(key), coordinator.regions.indices.contains(number) else {
                throw FarmError("fetch.refused", .denied, "\(key) in region \(number) is no object that workers may fetch")
            }
            try await send(key, range, from: coordinator.regions[number], piece: piece)
        }
    }

    /// What makes up images has a digest for a name; the rest of a region is not the workers' to read.
    private static func isImagePart(_ key: String) -> Bool {
        let parts = key.split(separator: "/", omittingEmptySubsequences: false)
        guard let digest = parts.last.flatMap({ Digest($0) }) else { return false }
        return [Pack.key(digest), PackIndex.key(digest), ImageManifest.key(digest), ImageManifest.coverKey(digest)].contains(key)
    }

    private func send(
        _ key: String, _ range: Range<Int64>?, from region: any ObjectStore, piece: @Sendable ([UInt8]) async throws -> Void
    ) async throws {
        var range = range
        if range == nil {
            guard let size = try await region.head(key)?.size else { throw StorageFailure.absent(key, in: region.name) }
            range = 0..<size
        }
        guard let range else { return }
        for start in stride(from: range.lowerBound, to: range.upperBound, by: 1 << 20) {
            let bytes = try await region.get(key, range: start..<min(start + (1 << 20), range.upperBound))
            for from in stride(from: 0, to: bytes.count, by: WorkerDesk.piece) {
                try await piece(Array(bytes[from..<min(from + WorkerDesk.piece, bytes.count)]))
            }
        }
    }

    private func send(_ name: Digest, from offset: Int64, piece: @Sendable ([UInt8]) async throws -> Void) async throws {
        let digest = await coordinator.blob(named: name)
        try await coordinator.recall(digest)
        let file = try coordinator.blobs.open(digest)
        defer { file.close() }
        let size = try file.size()
        var position = offset
        while position < size {
            let start = position
            let bytes = try await Blocking.run {
                try file.read(at: start, count: Int(min(Int64(WorkerDesk.piece), size - start)))
            }
            try await piece(bytes)
            position += Int64(bytes.count)
        }
    }

    package func openLog(_ attempt: AttemptID, offset: Int64, worker: WorkerName) async throws {
        try await coordinator.requireHeld(attempt, by: worker)
        try coordinator.logs.check(attempt, offset: offset)
    }

    package func appendLog(_ attempt: AttemptID, _ bytes: [UInt8], worker: WorkerName) async throws {
        let logs = coordinator.logs
        try await Blocking.run { try logs.append(attempt, bytes) }
    }

    package func answer(_ question: Sciferry_V1_Ask, worker: WorkerName) async throws -> Sciferry_V1_Answer {
        guard let attempt = AttemptID(question.attempt) else { throw MessageFailure.meaningless("a wrong attempt name") }
        if case .layers(let message) = question.question {
            var answer = Sciferry_V1_Answer()
            let offer = try await coordinator.layerOffer(attempt, by: worker, Array(message.layers), builder: message.builder)
            answer.layers = Data(try CanonicalJSON.encode(offer))
            return answer
        }
        if case .upload(let message) = question.question, ["layer", "layers"].contains(message.kind) {
            try await coordinator.requireBuilt(attempt, by: worker)
        } else {
            try await coordinator.requireHeld(attempt, by: worker)
        }
        var answer = Sciferry_V1_Answer()
        switch question.question {
        case .missing(let message): answer.missing = Data(try await missing(Array(message.digests)))
        case .upload(let message): answer.upload = try await upload(attempt, message)
        case .logPosition: answer.logBytes = UInt64(coordinator.logs.size(attempt))
        case .layers: break
        case .sign(let message): answer.signature = Data(try await coordinator.signImage(attempt, Array(message.metadata)))
        case nil: throw MessageFailure.meaningless("an empty question")
        }
        return answer
    }

    package func closed(_ worker: WorkerName, session: LinkServerSession) async {
        await coordinator.detach(worker, session)
    }

    private func missing(_ packed: [UInt8]) async throws -> [UInt8] {
        guard packed.count % Digest.byteCount == 0, packed.count <= 4096 * Digest.byteCount else {
            throw MessageFailure.meaningless("a wrong list of digests")
        }
        let digests = Digest.unpacked(packed)
        let journal = coordinator.journal
        var found = try await Blocking.run { try journal.locate(digests) }
        // Nothing that begins now relies on what may be taken away.
        let packs = Set(found.values.map(\.pack))
        let listings = try await Blocking.run { try journal.indexes(of: packs) }
        let condemned = await coordinator.condemned(listings)
        found = found.filter { listings[$0.value.pack] != nil && !condemned.contains($0.value.pack) }
        var bits = [UInt8](repeating: 0, count: (digests.count + 7) / 8)
        for (index, digest) in digests.enumerated() where found[digest] == nil { bits[index / 8] |= 1 << UInt8(index % 8) }
        return bits
    }

    private func upload(_ attempt: AttemptID, _ message: Sciferry_V1_UploadRequest) async throws -> Sciferry_V1_UploadGrant {
        guard let kind = UploadKind(rawValue: message.kind), let digest = Digest(bytes: message.digest),
            message.size <= kind.largest
        else { throw MessageFailure.meaningless("a wrong upload request") }
        var grant = Sciferry_V1_UploadGrant()
        // What a build brings of its own must not pass for an input.
        guard try await coordinator.mayUpload(kind, attempt) else {
            throw FarmError("upload.refused", .denied, "\(attempt) is no attempt that uploads of kind \(kind.rawValue) belong to")
        }
        if kind == .input, coordinator.blobs.contains(digest) {
            grant.present = true
            return grant
        }
        let object = IncomingObject(digest: digest, size: Int64(message.size))
        let given = try await coordinator.uploadDesk.grant(attempt, kind, object, now: .now)
        grant.url = given.url
        grant.headers = given.headers
        return grant
    }
}

extension Coordinator {
    /// Lets a certificate's holder in; throws `identity.revoked`, `identity.unknown`.
    func admit(_ certificate: IssuedCertificate) throws -> WorkerName {
        guard case .worker(let name) = certificate.identity, let worker = state.workers[name] else {
            throw FarmError("identity.unknown", .denied, "the farm does not know \(certificate.identity)")
        }
        try state.checkAdmitted(worker)
        // A replaced machine of the same name has another key; the old one's certificate is worth nothing.
        guard worker.keyDigest == certificate.keyDigest else {
            throw FarmError("identity.revoked", .denied, "the worker \(name) was enrolled anew with another key")
        }
        return name
    }

    func hello(
        _ worker: WorkerName, facts: HostFacts, session: LinkServerSession
    ) throws -> (Sciferry_V1_Welcome, former: LinkServerSession?) {
        try transition { try $0.hello(worker, facts: facts, now: .now) }
        var welcome = Sciferry_V1_Welcome()
        welcome.version = 1
        welcome.farm = configuration.farm
        welcome.silenceLimitMs = UInt32(configuration.silenceSeconds * 1000)
        welcome.coordinatorTimeMs = UInt64(Timestamp.now.milliseconds)
        welcome.process = process
        logger.info(
            "worker connected", metadata: ["worker.name": "\(worker)", "host.target": "\(facts.target)", "engine": "\(facts.engine)"])
        return (welcome, attach(worker, session))
    }

    func exchange(_ worker: WorkerName, _ report: WorkerReport, session: LinkServerSession) throws -> DesiredWork {
        // What an earlier connection still brings is older than what this one has said.
        guard isCurrent(session, of: worker) else {
            throw FarmError("protocol.superseded", .conflict, "the worker connected anew")
        }
        var desired = stamped(try transition { try $0.report(worker, report, now: .now) })
        if !report.renewalRequest.isEmpty {
            let keyDigest = try CertificateAuthority.keyDigest(ofRequest: report.renewalRequest)
            guard state.workers[worker]?.keyDigest == keyDigest else {
                throw FarmError("identity.refused", .denied, "the worker \(worker) asked for a certificate for another key")
            }
            desired.renewedCertificate = try authority.issue(
                request: report.renewalRequest, identity: .worker(worker), now: .now, lifetime: configuration.leafSeconds
            ).der
        }
        return desired
    }

    /// Throws `fetch.refused` unless the worker is testing an image now.
    func requireReader(_ worker: WorkerName) throws {
        let isTesting = state.openAttempts(on: worker).contains { state.jobs[$0.id.job]?.kind == .verify }
        guard isTesting, state.workers[worker]?.trusted ?? false else {
            throw FarmError("fetch.refused", .denied, "the worker \(worker) has no image to test")
        }
    }

    /// Throws `attempt.not-held` unless the worker holds the attempt now.
    package func requireHeld(_ attempt: AttemptID, by worker: WorkerName) throws {
        guard state.holds(worker, attempt) else {
            logger.warning("attempt not held", metadata: ["worker.name": "\(worker)", "attempt.id": "\(attempt)"])
            throw FarmError("attempt.not-held", .denied, "the worker \(worker) does not hold attempt \(attempt)")
        }
    }

    /// Signs the digests of the image that a trusted worker has built and tested; throws `sign.refused` for anybody else's.
    ///
    /// What is signed is what the worker says its image is. It says so for its own attempt only, and what it says of a trusted build is
    /// what would be released.
    func signImage(_ attempt: AttemptID, _ bytes: [UInt8]) throws -> [UInt8] {
        guard bytes.count <= 64 << 10,
            let metadata = try? CanonicalJSON.decode(SignatureMetadata.self, from: bytes, source: "the question"),
            metadata.isSound
        else { throw MessageFailure.meaningless("a wrong request for a signature") }
        guard let job = state.jobs[attempt.job], job.kind == .build, !(job.isCandidate ?? false), !(job.takesIn ?? false) else {
            throw FarmError("sign.refused", .denied, "the farm signs what its trusted workers build for release, and nothing else")
        }
        return try publisher.signature(of: metadata)
    }

    /// Whether uploads of a kind belong to an attempt: inputs to those that resolve, everything else to those that build.
    func mayUpload(_ kind: UploadKind, _ attempt: AttemptID) throws -> Bool {
        // Whoever asked has been looked at.
        if kind == .layer || kind == .layers { return true }
        return (kind == .input) == (state.jobs[attempt.job]?.kind == .resolve)
    }

    /// Whether an upload may still come in: its attempt is open, or what it brings comes after its end.
    package func requireOpen(_ attempt: AttemptID, _ kind: UploadKind) throws {
        if kind == .layer || kind == .layers { return }
        guard state.attempts[attempt]?.isOpen ?? false else {
            throw FarmError("attempt.not-held", .denied, "attempt \(attempt) has ended")
        }
    }

    /// Takes an upload that was written to a file of the home's file system and verified.
    package func accept(_ ticket: UploadTicket, file: String) async throws {
        try requireOpen(ticket.attempt, ticket.kind)
        switch ticket.kind {
        case .layer: try take(layer: file, of: ticket.attempt)
        case .layers: try take(layersOf: ticket.attempt, try Disk.read(file, limit: Int64(LayerSet.most)))
        case .input: try blobs.adopt(file, as: ticket.digest)
        case .pack, .manifest, .record:
            try await firstRegion.put(
                UploadDesk.incomingKey(ticket.attempt, ticket.digest), .file(path: file, size: ticket.size))
        }
    }

    /// Checks a ticket's signature and time; throws `upload.refused`.
    package func check(_ ticket: UploadTicket, signature: String) throws {
        try uploadDesk.check(ticket, signature: signature, now: .now)
    }
}
