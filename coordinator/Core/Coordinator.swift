package import Attestation
import ChunkStore
package import FarmIdentity
import FarmLink
import FarmMessages
package import FarmModel
package import HTTPTransport
package import Logging
import Microarchitecture
package import ObjectStorage
import Recipes
import SiteDelivery
import Glibc
import SystemIO

/// The owner of the farm's state. Runs on an executor of its own, because journals block; a transition computes a new
/// state, commits its changes in one transaction, and only then lets anyone see it.
package actor Coordinator {
    package nonisolated let configuration: FarmConfiguration
    package nonisolated let home: FarmHome
    package nonisolated let authority: CertificateAuthority
    package nonisolated let root: TrustRoot
    package nonisolated let blobs: BlobStore
    package nonisolated let logs: LogStore
    package nonisolated let logger: Logger

    private let executor = SerialQueueExecutor(label: "sciferry.coordinator")
    private let lock: FileLock
    nonisolated let journal: any FarmJournal
    private let bare: Publisher
    /// Its buckets; the first is where builds are streamed to.
    package nonisolated let regions: [any ObjectStore]
    nonisolated var firstRegion: any ObjectStore { regions[0] }
    private let uploadKey: [UInt8]
    let process = Nonce.hex(bytes: 8)
    private var revision: UInt64 = 0
    /// Something was journalled since the last dispatch.
    private var isChanged = true
    private var dispatchedAt = Timestamp(seconds: 0)
    /// Mirrors whose channel has not been replaced by the renewed one yet.
    var unrenewed: Set<String> = []

    /// It is known that nobody has published more than this journal knows.
    var isAdopted = false
    /// The channel names releases that have been retired.
    var channelIsStale = false
    /// The last collection of the regions, or the one that goes on.
    var collection: CollectionReport?
    var isCollecting = false
    var (collectedAt, hasCollected) = (Timestamp.now, true)
    /// What regions were seen to be, and what is remembered of them.
    var watches: [String: RegionWatch] = [:]
    var regionRecords: [String: RegionRecord] = [:]
    /// New regions, which get what the others have before their channel.
    var unfilled: Set<String> = []
    /// Of these, those that have got it and wait for their channel.
    var filled: Set<String> = []
    var isAuditing = false
    /// Regions that were tried out since this start, and whether a farm can rely on their stores.
    var fit: [String: Bool] = [:]
    /// The survey of a collection that goes on.
    var surveying: (asksOutside: Bool, task: Task<SurveyedNight, any Error>)?
    /// Inputs that the first region keeps, with their sizes.
    var archived: [Digest: Int64] = [:]
    /// What tests may read, by name; files of it are among the blobs or in the archive.
    var datasets: [String: TestDataset] = [:]
    /// Those that the first region knows.
    var archivedDatasets: Set<String> = []
    /// The layers that the farm keeps for builds, and what of them is on its way into the store.
    var shelf = LayerShelf()
    var arrivingLayers: [ArrivingLayers] = []
    /// Recalls on their way, so that many workers that ask at once wait for one.
    var recalls: [Digest: Task<Void, any Error>] = [:]

    private(set) var state: FarmState
    private var tokens: [String: TokenRecord]
    private var access: [Digest: AccessRecord]
    private var sessions: [WorkerName: LinkServerSession] = [:]
    package private(set) var endpoints = FarmEndpoints(link: "", api: "", process: 0)

    package nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    /// Opens a farm's home. Throws `home.locked` when another coordinator has it.
    package init(home: FarmHome, client: HTTPClient, logger: Logger) throws {
        self.home = home
        self.logger = logger
        lock = try FileLock(
            home.lock, holder: "coordinator, process \(getpid())",
            hint: "one coordinator serves a home; stop the other one first")
        configuration = try FarmConfiguration.read(home.configuration)
        authority = try CertificateAuthority(directory: home.identity)
        let keys = try FarmKeys(home)
        root = keys.root
        blobs = try BlobStore(home.blobs)
        logs = try LogStore(home.logs)
        try Disk.makeDirectory(home.uploads)
        uploadKey = try Disk.read(home.uploadKey, limit: 4096)
        let journal = try SQLiteJournal(path: home.journal)
        self.journal = journal
        var rules = FarmState.Rules(
            silenceSeconds: configuration.silenceSeconds, contactSeconds: configuration.contactSeconds,
            retrySeconds: configuration.retrySeconds)
        rules.scheduling = configuration.scheduling
        rules.regions = configuration.regions.count
        rules.promotion = configuration.promotion
        rules.candidateSeconds = configuration.candidateDays * 86400
        rules.candidateNeeds = LabelWish(needs: configuration.candidateNeeds)
        try rules.candidateNeeds.check()
        let snapshot = try journal.load(recent: rules.keptJobs)
        state = FarmState(snapshot, rules: rules, now: .now)
        tokens = Dictionary(uniqueKeysWithValues: snapshot.tokens.map { ($0.id, $0) })
        access = Dictionary(uniqueKeysWithValues: snapshot.access.map { ($0.tokenDigest, $0) })
        let regions = try configuration.regions.map { (name: $0.name, store: try $0.bucket.open(client: client)) }
        self.regions = regions.map(\.store)
        bare = Publisher(regions: regions, keys: keys, journal: journal, farm: configuration.farm)
        // What an upload left behind when the process was killed.
        for name in try Disk.list(home.uploads) { try Disk.remove("\(home.uploads)/\(name)") }
    }

    /// Jobs whose planning failed for a reason of ours, and when it is tried again.
    var planAgainAt: [JobID: Timestamp] = [:]

    /// What carries publications on; whatever it writes is claimed before.
    nonisolated var publisher: Publisher {
        var publisher = bare
        publisher.claim = { [weak self] in try await self?.claim($0) }
        return publisher
    }

    // MARK: transitions

    /// Runs a transition: its changes are taken back unless they are in the journal before anybody else sees them.
    func transition<Value>(_ body: (inout FarmState) throws -> Value) throws -> Value {
        let value: Value
        let remarks: [FarmState.Remark]
        do {
            value = try body(&state)
            let drained = state.drainChanges()
            if !drained.changes.isEmpty {
                try journal.commit(drained.changes)
                isChanged = true
            }
            state.accept()
            remarks = drained.remarks
        } catch {
            state.rollBack()
            throw error
        }
        for remark in remarks {
            logger.notice("\(remark.message)", metadata: remark.metadata.mapValues { "\($0)" })
        }
        return value
    }

    /// Numbers a desired state, so that one that is overtaken on its way does no harm.
    func stamped(_ desired: DesiredWork) -> DesiredWork {
        var desired = desired
        revision += 1
        desired.revision = revision
        return desired
    }

    /// Tells a worker at once, if it is connected, what it should be doing now.
    func push(_ worker: WorkerName) {
        guard let session = sessions[worker] else { return }
        let desired = stamped(state.desired(worker, sequence: 0))
        Task { await session.push(desired) }
    }

    package func listening(link: String, api: String) throws {
        endpoints = FarmEndpoints(link: link, api: api, process: getpid())
        try Disk.replace(home.endpoints, with: try CanonicalJSON.encode(endpoints))
    }

    var uploadDesk: UploadDesk { UploadDesk(key: uploadKey, region: firstRegion, apiURL: endpoints.api) }

    // MARK: background work

    /// Works on leases, resolving jobs and publications until cancelled. A region that hangs delays publications only.
    package func run() async throws {
        try openDatasets()
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await self.keepHouse() }
            tasks.addTask { try await self.publish() }
            tasks.addTask { try await self.keepArchive() }
            tasks.addTask { try await self.keepNights() }
            tasks.addTask { try await self.keepStore() }
            tasks.addTask { try await self.keepRegions() }
            tasks.addTask { try await self.keepLayers() }
            defer { tasks.cancelAll() }
            try await tasks.next()
        }
    }

    private func keepHouse() async throws {
        while !Task.isCancelled {
            reportingFaults {
                try transition {
                    $0.expireLeases(now: .now)
                    $0.expireCandidates(now: .now)
                }
                advanceResolving()
                try dispatch()
            }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    /// Gives work to idle workers at once instead of at their next contact, when anything has changed or a pause may be over.
    private func dispatch() throws {
        guard isChanged || Timestamp.now.seconds(since: dispatchedAt) >= 1 else { return }
        isChanged = false
        dispatchedAt = .now
        let served = try transition { $0.dispatch(now: .now) }
        for worker in served { push(worker) }
    }

    func reportingFaults(_ body: () throws -> Void) {
        do { try body() } catch { report(error) }
    }

    func report(_ error: any Error) {
        let known = error as? FarmError ?? FarmError("coordinator.fault", .fault, "background work failed", cause: error)
        logger.error("background work failed", metadata: ["error.code": "\(known.code.rawValue)", "reason": "\(known.message)"])
    }
}

// MARK: people and tokens

extension Coordinator {
    /// Who holds a token of the API, or `nil`.
    package func holder(ofToken token: String) -> AccessRecord? { access[Digest(hashing: token)] }

    /// A new token of the API, to be shown once.
    package func newAccess(name: String, role: AccessRole) throws -> String {
        let token = "sf_\(Nonce.hex(bytes: 24))"
        let record = AccessRecord(tokenDigest: Digest(hashing: token), name: name, role: role, createdAt: .now)
        try journal.commit([.access(record)])
        access[record.tokenDigest] = record
        return token
    }

    /// A one-time join token for a worker of that name.
    package func newJoinToken(worker: String, trusted: Bool, minutes: Int) throws -> (token: JoinToken, expiresAt: Timestamp) {
        guard PlainName.isValid(worker) else {
            throw FarmError("worker.name", .invalid, "\"\(worker)\" is no worker name", hint: "use letters, digits, dots and hyphens")
        }
        guard (1...43200).contains(minutes) else {
            throw FarmError("worker.token", .usage, "a token lives for 1 to 43200 minutes, not \(minutes)")
        }
        let id = Nonce.hex(bytes: 6)
        let secret = Nonce.hex(bytes: 24)
        let expires = Timestamp.now.adding(seconds: Double(minutes) * 60)
        let record = TokenRecord(id: id, secret: secret, worker: WorkerName(worker), trusted: trusted, expiresAt: expires)
        try journal.commit([.token(record)])
        tokens[id] = record
        return (JoinToken(url: endpoints.api, authority: authority.fingerprint, id: id, secret: secret), expires)
    }

    /// Redeems a join token; throws `identity.refused`.
    package func enrol(token id: String, secret: String, request: [UInt8]) throws -> (certificate: String, worker: WorkerName) {
        do {
            guard var record = tokens[id] else { throw TokenRecord.refusal("its secret is wrong") }
            let keyDigest = try CertificateAuthority.keyDigest(ofRequest: request)
            switch try record.redeem(secret: secret, keyDigest: keyDigest, now: .now) {
            case .again(let certificate): return (certificate, record.worker)
            case .issue:
                let issued = try authority.issue(
                    request: request, identity: .worker(record.worker), now: .now, lifetime: configuration.leafSeconds)
                record.accept(issued)
                let (worker, trusted) = (record.worker, record.trusted)
                try transition {
                    try $0.enrol(worker, trusted: trusted, keyDigest: keyDigest, now: .now)
                    $0.add(.token(record))
                }
                tokens[id] = record
                logger.notice("worker enrolled", metadata: ["worker.name": "\(worker)", "trusted": "\(trusted)"])
                return (issued.pem, worker)
            }
        } catch let error as FarmError {
            logger.warning(
                "enrolment refused", metadata: ["token.id": "\(id)", "error.code": "\(error.code.rawValue)", "reason": "\(error.message)"])
            throw error
        }
    }

    package func drain(_ worker: WorkerName, _ drained: Bool) throws {
        try transition { try $0.setDrained(worker, drained) }
        push(worker)
    }

    package func revoke(_ worker: WorkerName) async throws {
        try transition { try $0.revoke(worker, now: .now) }
        let session = sessions.removeValue(forKey: worker)
        await session?.dismiss(FarmError("identity.revoked", .denied, "the worker \(worker) was revoked"))
        logger.notice("worker revoked", metadata: ["worker.name": "\(worker)"])
    }
}

// MARK: sessions

extension Coordinator {
    func attach(_ worker: WorkerName, _ session: LinkServerSession) -> LinkServerSession? {
        sessions.updateValue(session, forKey: worker)
    }

    func detach(_ worker: WorkerName, _ session: LinkServerSession) {
        if sessions[worker] === session { sessions[worker] = nil }
    }
}

extension Coordinator {
    func sessionIsOpen(_ worker: WorkerName) -> Bool { sessions[worker] != nil }

    func isCurrent(_ session: LinkServerSession, of worker: WorkerName) -> Bool { sessions[worker] === session }
}
