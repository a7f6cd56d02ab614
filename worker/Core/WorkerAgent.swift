import ISAProof
import FarmIdentity
import FarmLink
import FarmMessages
import FarmModel
import FarmWire
import Microarchitecture
import Foundation
import ImageTesting
import HTTPTransport
package import Logging
package import NIOCore
import NIOPosix
import ProcessRunner
import SystemIO

/// A worker process: stays in contact with the coordinator and does what it desires.
package actor WorkerAgent {
    private let home: WorkerHome
    private let configuration: WorkerConfiguration
    private let logger: Logger
    private let group: any EventLoopGroup
    private let client = HTTPClient()
    private let line = FarmLine()
    private let lock: FileLock
    private var engineRoot: String?
    private var makesGroups = false
    private var saidUnlimited = false
    private let disk: DiskKeeper
    private var held = DiskKeeper.Holdings()
    private var isSurveying = false
    private let layers: LayerNotes
    private let courier: LayerCourier
    private let proxy: InputProxy
    private let gate: NetworkGate
    /// What this connection's coordinator was told of the engine's layers.
    private var told: LayerSummary?
    private let process = Nonce.hex(bytes: 8)
    private let authority: [UInt8]
    private var facts: HostFacts
    /// Labels that do not change while the process runs.
    private let ownLabels: [String]
    /// What the kernel listed when it was last tried which other machines' programs run.
    private var foreignFormats = EmulationSurvey.listed()
    private var state: WorkerState
    private var tasks: [AttemptID: Task<Void, Never>] = [:]
    private var renewalRequest: [UInt8] = []
    private var leaf: IssuedCertificate?
    private var failures = 0
    private var engineAskedAt = Timestamp.now
    private var keptLookedAt = Timestamp.now
    private var wake: CheckedContinuation<Void, Never>?
    private var isNewsPending = false
    private var answered: UInt64 = 0
    private var nextContact: Double = 2

    /// Opens a worker's home; throws `worker.not-enrolled` and `home.locked`.
    package init(home: WorkerHome, group: any EventLoopGroup, logger: Logger) async throws {
        self.home = home
        self.logger = logger
        self.group = group
        configuration = try home.readConfiguration()
        lock = try FileLock(home.lock, holder: "worker, process \(getpid())", hint: "one worker process serves a home")
        authority = try Disk.read(home.authority, limit: 1 << 16)
        state = WorkerState(slots: configuration.slots)
        layers = LayerNotes(home.layerNotes)
        proxy = InputProxy(home: home, configuration: configuration, logger: logger)
        gate = NetworkGate(home: home)
        disk = DiskKeeper(home: home, configuration: configuration, notes: layers, inputs: proxy.place, logger: logger)
        courier = LayerCourier(
            home: home, configuration: configuration, authority: authority, line: line, client: client, logger: logger)
        // Known before the first build is over.
        try ImageProof.requireDecoder()
        let engine = configuration.containerEngine(home: home, marks: [:])
        let version = (try? await engine.version()) ?? "none"
        let surveyed = try await HostSurvey.facts(home: home.root, engine: version, slots: configuration.slots)
        if let target = configuration.pretendedTargetForTests, !target.isEmpty {
            logger.warning("this worker pretends a CPU target, as only tests may", metadata: ["target": "\(target)"])
            facts = try HostSurvey.pretending(target, surveyed)
        } else {
            facts = surveyed
        }
        ownLabels = (surveyed.labels ?? []) + configuration.labels
    }

    /// Works until the task is cancelled.
    package func run() async throws {
        await sweep()
        while !Task.isCancelled {
            do {
                try await askEngine()
                try await connectOnce()
            } catch let error as FarmError where error.code == "identity.expired" && tasks.isEmpty {
                // Only a new token helps; whoever supervises this process may have one.
                throw error
            } catch let error as FarmError {
                logger.warning("link lost", metadata: ["error.code": "\(error.code.rawValue)", "reason": "\(error.message)"])
                if error.code == "identity.revoked" || error.code == "identity.unknown" {
                    failures = max(failures, 5)
                }
            } catch {
                if Task.isCancelled { break }
                logger.warning("link lost", metadata: ["reason": "\(error)"])
            }
            failures += 1
            let delay = min(5, 0.2 * Double(1 << min(failures, 6)))
            try await Task.sleep(for: .seconds(delay * Double.random(in: 1...1.2)))
        }
    }

    /// Stops all attempts and waits until they have cleaned up.
    package func stop() async {
        for task in tasks.values { task.cancel() }
        for task in tasks.values { await task.value }
        await proxy.end()
    }

    private func connectOnce() async throws {
        let certificate = String(decoding: try Disk.read(home.certificate, limit: 1 << 16), as: UTF8.self)
        let key = String(decoding: try Disk.read(home.key, limit: 1 << 16), as: UTF8.self)
        try planRenewal()
        let context = try LinkCredentials(
            certificatePEM: certificate, keyPEM: key, authorityPEM: String(decoding: authority, as: UTF8.self)
        ).clientContext()
        let address = configuration.link.split(separator: ":")
        guard address.count == 2, let port = Int(address[1]) else {
            throw FarmError(
                "worker.link", .invalid, "\"\(configuration.link)\" is no HOST:PORT", hint: "correct \"link\" in \(home.configuration)")
        }
        facts.diskFreeBytes = try availableBytes()
        // Emulators come and go with packages.
        let formats = EmulationSurvey.listed()
        if formats != foreignFormats, let target = Microarchitecture.named(facts.target) {
            foreignFormats = formats
            facts.hardware?.emulated = await EmulationSurvey.platforms(own: HostSurvey.machine, scratch: home.root)
                .filter { $0.architecture != target.family }
        }
        var hello = Sciferry_V1_Hello()
        hello.versions = [1]
        hello.worker = configuration.name
        hello.facts = Sciferry_V1_HostFacts(facts)
        hello.process = process
        let link = LinkClient(host: String(address[0]), port: port, context: context, group: group)
        try await link.run(hello: hello, onDesired: { await self.obey($0) }) { connection, welcome in
            try await self.converse(connection, welcome)
        }
    }

    /// Section 5 of the protocol: one STATE after the other, each after the answer to the last.
    private func converse(_ connection: LinkConnection, _ welcome: Sciferry_V1_Welcome) async throws {
        logger.info("connected", metadata: ["farm": "\(welcome.farm)", "coordinator.process": "\(welcome.process)"])
        failures = 0
        state.connected(to: welcome.process)
        await line.attach(connection)
        let silence = Double(welcome.silenceLimitMs) / 1000
        told = nil
        do {
            while true {
                try planRenewal()
                let (summary, use) = (layers.summary, await proxy.use())
                let report = state.report(
                    diskFreeBytes: try availableBytes(), refusal: try refusal(), renewalRequest: renewalRequest,
                    pressure: HostSurvey.pressure(), diskUse: held.uses, layers: summary == told ? nil : summary,
                    inputCache: use == InputCacheUse() ? nil : use)
                try await connection.send(Frame(.state, try Sciferry_V1_WorkerState(report)))
                let sent = Timestamp.now
                while answered != report.sequence {
                    try Task.checkCancellation()
                    await sleepUntilWoken(1)
                    if Timestamp.now.seconds(since: sent) > silence {
                        throw FarmError("link.silent", .unavailable, "the coordinator has been silent for \(Int(silence)) s")
                    }
                }
                told = summary
                if state.isIdle, Timestamp.now.seconds(since: engineAskedAt) > 60 { try await askEngine() }
                if Timestamp.now.seconds(since: keptLookedAt) > 3600 { await expireKept() }
                try await waitForNews(min(nextContact, silence / 3))
            }
        } catch {
            await line.detach(connection)
            throw error
        }
    }

    /// Waits, at most so long, for news worth a report.
    private func waitForNews(_ seconds: Double) async throws {
        let end = Timestamp.now.adding(seconds: seconds)
        while !isNewsPending, Timestamp.now < end {
            try Task.checkCancellation()
            await sleepUntilWoken(end.seconds(since: .now))
        }
        // Many small changes make one report.
        if isNewsPending { try await Task.sleep(for: .milliseconds(10)) }
        isNewsPending = false
    }

    private func sleepUntilWoken(_ seconds: Double) async {
        let timer = Task {
            try await Task.sleep(for: .seconds(seconds))
            self.wakeUp()
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { wake = $0 }
        } onCancel: {
            Task { await self.wakeUp() }
        }
        timer.cancel()
    }

    private func wakeUp() {
        wake?.resume()
        wake = nil
    }

    /// Something happened that the coordinator should hear of now.
    private func ring() {
        isNewsPending = true
        wakeUp()
    }

    /// The engine may have been started, stopped or replaced since.
    private func askEngine() async throws {
        let engine = configuration.containerEngine(home: home, marks: [:])
        facts.engine = (try? await engine.version()) ?? "none"
        let said = await engine.facts()
        facts.engineID = said?.identity
        engineRoot = said.flatMap { Disk.isDirectory($0.root) ? $0.root : nil } ?? engineRoot
        if let said { makesGroups = engineRoot != nil && geteuid() == 0 && said.makesGroups }
        // Builders of one engine do not know each other's layers.
        if let identity = said?.identity { layers.change { $0.speaks(of: "\(identity) \(configuration.builder.rawValue)") } }
        let canFence = NetworkGate.isPossible && proxy.isPossible && engineRoot != nil && configuration.builder != .buildah
        let abilities = (canFence ? [LabelWish.networkProxy] : []) + (makesGroups ? ["build-limits"] : [])
        facts.labels = Set(ownLabels + (said?.labels ?? []) + abilities).sorted()
        if said != nil, !makesGroups, !saidUnlimited {
            saidUnlimited = true
            logger.warning(
                "builds have no limits of memory and processes here",
                metadata: [
                    "reason": geteuid() == 0
                        ? "the engine's control groups are systemd's; set native.cgroupdriver=cgroupfs in its exec-opts"
                        : "the worker is not root"
                ])
        }
        engineAskedAt = .now
        surveyDisk()
    }

    /// Looks at what the disk holds, which may take its time: contacts do not wait for it.
    private func surveyDisk() {
        guard !isSurveying else { return }
        isSurveying = true
        Task {
            held = await disk.survey()
            isSurveying = false
        }
    }

    /// Free bytes of the fullest of the file systems that a build writes to.
    private func freeBytes() throws -> Int64 {
        let places = [home.root, "/tmp", engineRoot ?? "/var/lib/docker"].filter { Disk.isDirectory($0) }
        return try places.map { try Disk.freeBytes(at: $0) }.min() ?? 0
    }

    /// The same with what would go for a job, which is on the engine's file system.
    private func availableBytes() throws -> Int64 {
        let free = try freeBytes()
        guard configuration.evicts, held.reclaimable > 0, let root = engineRoot, let device = try Disk.entry(root)?.device else {
            return free
        }
        return try [home.root, "/tmp", root].filter { Disk.isDirectory($0) }.map { place in
            try Disk.freeBytes(at: place) + (Disk.entry(place)?.device == device ? held.reclaimable : 0)
        }.min() ?? free
    }

    private func refusal() throws -> String {
        let free = try availableBytes()
        let needed = Int64(configuration.minimumFreeGiB * Double(1 << 30))
        if free < needed { return "its disk has \(free >> 20) MiB free, \(needed >> 20) MiB are the minimum" }
        return facts.engine == "none" ? "it has no container engine" : ""
    }

    private func obey(_ desired: DesiredWork) async {
        if desired.sequence != 0 { answered = desired.sequence }
        nextContact = desired.nextContactSeconds
        if !desired.renewedCertificate.isEmpty { keepCertificate(desired.renewedCertificate) }
        for action in state.obey(desired) {
            switch action {
            case .start(let assignment): start(assignment)
            case .kill(let id):
                logger.notice("attempt stopped", metadata: ["attempt.id": "\(id)"])
                tasks[id]?.cancel()
            }
        }
        // One of the coordinator's own accord is answered with a report.
        if desired.sequence == 0 { ring() } else { wakeUp() }
    }

    private func start(_ assignment: DesiredWork.Assignment) {
        let id = assignment.attempt
        logger.notice("attempt started", metadata: ["attempt.id": "\(id)"])
        // The next report confirms it.
        ring()
        tasks[id] = Task {
            var outcome: AttemptOutcome?
            do {
                let pipeline = try BuildPipeline(context(for: id, diskBytes: assignment.diskBytes))
                outcome = try await pipeline.run(assignment.order)
            } catch is CancellationError {
                outcome = nil
            } catch {
                outcome = .failed(Failure(.infrastructure, error))
            }
            ended(id, outcome)
        }
    }

    private func context(for id: AttemptID, diskBytes: Int64) -> BuildPipeline.Context {
        BuildPipeline.Context(
            worker: configuration.name, attempt: id, home: home, configuration: configuration, authority: authority, line: line,
            client: client, host: facts, engineRoot: engineRoot, makesGroups: makesGroups, diskBytes: diskBytes, disk: disk, proxy: proxy,
            gate: gate, layers: layers, courier: courier
        ) { phase, permille, note in await self.note(id, phase, permille, note) }
    }

    private func note(_ id: AttemptID, _ phase: Phase, _ permille: Int, _ note: String) {
        if state.note(id, phase: phase, permille: permille, note: note) { ring() }
    }

    private func ended(_ id: AttemptID, _ outcome: AttemptOutcome?) {
        tasks[id] = nil
        state.ended(id, outcome)
        surveyDisk()
        logger.notice("attempt ended", metadata: ["attempt.id": "\(id)", "outcome": "\(WorkerAgent.word(outcome))"])
        ring()
    }

    private static func word(_ outcome: AttemptOutcome?) -> String {
        switch outcome {
        case .built: "built"
        case .resolved: "resolved"
        case .verified: "verified"
        case .failed(let failure): failure.code
        case nil: "stopped"
        }
    }

    // MARK: certificates

    /// Asks for a new leaf once half of this one's time is gone, however long the connection lasts.
    private func planRenewal() throws {
        if leaf == nil {
            let certificate = String(decoding: try Disk.read(home.certificate, limit: 1 << 16), as: UTF8.self)
            leaf = try IssuedCertificate(pem: certificate)
        }
        guard let leaf, leaf.expiresAt > .now else {
            // Somebody may enrol the home anew while this process waits.
            leaf = nil
            throw FarmError(
                "identity.expired", .denied, "the worker's certificate has expired",
                hint: "enrol it anew: sciferry-worker join TOKEN --home \(home.root)")
        }
        guard leaf.expiresAt.seconds(since: .now) < leaf.lifetime / 2 else { return renewalRequest = [] }
        guard renewalRequest.isEmpty else { return }
        let key = String(decoding: try Disk.read(home.key, limit: 1 << 16), as: UTF8.self)
        renewalRequest = try KeyAndRequest(keyPEM: key, commonName: configuration.name).request
    }

    private func keepCertificate(_ der: [UInt8]) {
        do {
            let fresh = try IssuedCertificate(der: der)
            try Disk.replace(home.certificate, with: Array(fresh.pem.utf8))
            renewalRequest = []
            leaf = fresh
            logger.notice("certificate renewed", metadata: ["expires": "\(fresh.expiresAt)"])
        } catch {
            logger.error("the renewed certificate cannot be kept", metadata: ["reason": "\(error)"])
        }
    }

    /// Bytes of test data that a machine keeps.
    private static let mostData: Int64 = 20 << 30

    /// Removes images of failed tests whose time is over, and test data that nobody has used for longest where there is much.
    private func expireKept() async {
        keptLookedAt = .now
        let (kept, limit) = (home.kept, configuration.keepDays * 86400)
        let shelf = DatasetShelf(home.datasets)
        try? await Blocking.run {
            // What tests read can be had again.
            try? shelf.tidy(most: WorkerAgent.mostData)
            for name in try Disk.list(kept) {
                let age = Timestamp.now.seconds(since: Disk.modified("\(kept)/\(name)") ?? .now)
                if age > limit { try? Disk.remove("\(kept)/\(name)") }
            }
        }
    }

    // MARK: what a killed process left

    /// Ends processes, mounts, tags and directories of attempts that an earlier process of this worker was running.
    private func sweep() async {
        let killed = ProcessRunner.killMarked("SCIFERRY_WORKER", home.root)
        await Mounts.release(below: home.attempts)
        let left = (try? Disk.list(home.attempts)) ?? []
        let engine = configuration.containerEngine(home: home, marks: [:])
        for name in left {
            await engine.untag(home.buildTag(name))
            try? Disk.remove("\(home.attempts)/\(name)")
            let place = ImageRunner.place(home: home.root, name: name)
            await Mounts.release(below: place)
            try? Disk.remove(place)
        }
        await engine.untagAll(home.layerTag(""))
        await engine.endBuilds(in: nil)
        try? Disk.remove(home.layers)
        await NetworkGate.sweep(home)
        await expireKept()
        if killed > 0 || !left.isEmpty {
            logger.notice(
                "cleaned up after an earlier process", metadata: ["processes": "\(killed)", "attempts": "\(left.joined(separator: " "))"])
        }
    }
}
