package import FarmModel
import Foundation
import SwiftProtobuf

// Between the messages on the wire and the farm's own types. Anything that a peer may have got wrong throws
// `protocol.message`; the session answers with Goodbye.

package enum MessageFailure {
    /// A message that parses but means nothing.
    package static func meaningless(_ what: String) -> FarmError {
        FarmError("protocol.message", .invalid, "the peer sent \(what)")
    }
}

extension Sciferry_V1_HostFacts {
    package init(_ facts: HostFacts) {
        self.init()
        hostName = facts.hostName
        architecture = facts.architecture
        target = facts.target
        processors = UInt32(clamping: facts.processors)
        memoryBytes = UInt64(clamping: facts.memoryBytes)
        diskFreeBytes = UInt64(clamping: facts.diskFreeBytes)
        engine = facts.engine
        kernel = facts.kernel
        slots = UInt32(clamping: facts.slots)
        programVersion = facts.programVersion
        labels = facts.labels ?? []
        engineID = facts.engineID ?? ""
        guard let hardware = facts.hardware else { return }
        cpuVendor = hardware.vendor
        cpuModel = hardware.model
        cpuFeatures = hardware.features
        refusedTargets = hardware.refusedTargets
        numaNodes = UInt32(clamping: hardware.numaNodes)
        gpus = hardware.gpus
        virtualization = hardware.virtualization
        emulated = (hardware.emulated ?? []).map { platform in
            var message = Sciferry_V1_EmulatedPlatform()
            message.architecture = platform.architecture
            message.emulator = platform.emulator
            message.cost = platform.cost
            return message
        }
    }

    package var model: HostFacts {
        var facts = machine
        if !engineID.isEmpty { facts.engineID = String(engineID.prefix(200)) }
        return facts
    }

    private var machine: HostFacts {
        HostFacts(
            hostName: hostName, architecture: architecture, target: target, processors: Int(processors),
            memoryBytes: Int64(clamping: memoryBytes), diskFreeBytes: Int64(clamping: diskFreeBytes), engine: engine,
            kernel: kernel, slots: Int(slots), programVersion: programVersion,
            hardware: cpuFeatures.isEmpty && cpuVendor.isEmpty && emulated.isEmpty
                ? nil
                : HardwareFacts(
                    vendor: cpuVendor, model: cpuModel, features: cpuFeatures, refusedTargets: refusedTargets, numaNodes: Int(numaNodes),
                    gpus: gpus, virtualization: virtualization,
                    emulated: emulated.prefix(16).map {
                        EmulatedPlatform(
                            architecture: String($0.architecture.prefix(40)), emulator: String($0.emulator.prefix(100)),
                            cost: $0.cost.isFinite ? max(1, $0.cost) : 1)
                    }), labels: Array(labels.filter(LabelWish.isLabel).prefix(64)))
    }
}

/// One attempt as its worker reports it.
package struct AttemptReport: Sendable, Hashable {
    package var id: AttemptID
    package var phase: Phase
    package var progressPermille: Int
    package var note: String
    package var outcome: AttemptOutcome?

    package init(id: AttemptID, phase: Phase, progressPermille: Int, note: String, outcome: AttemptOutcome?) {
        self.id = id
        self.phase = phase
        self.progressPermille = progressPermille
        self.note = note
        self.outcome = outcome
    }
}

/// All that a worker says it is doing.
package struct WorkerReport: Sendable, Hashable {
    package var sequence: UInt64
    package var attempts: [AttemptReport]
    package var diskFreeBytes: Int64
    package var refusal: String
    package var freeSlots: Int
    package var renewalRequest: [UInt8]
    /// `nil` where the kernel does not tell.
    package var pressure: Pressure?
    /// What takes up the disk that builds use.
    package var diskUse: [DiskUse]
    /// Which beginnings of builds its engine holds; `nil` when that has not changed.
    package var layers: LayerSummary?
    /// `nil` where builds have fetched nothing through a proxy.
    package var inputCache: InputCacheUse?

    package init(
        sequence: UInt64, attempts: [AttemptReport], diskFreeBytes: Int64, refusal: String, freeSlots: Int,
        renewalRequest: [UInt8], pressure: Pressure? = nil, diskUse: [DiskUse] = [], layers: LayerSummary? = nil,
        inputCache: InputCacheUse? = nil
    ) {
        self.layers = layers
        self.inputCache = inputCache
        self.pressure = pressure
        self.diskUse = diskUse
        self.sequence = sequence
        self.attempts = attempts
        self.diskFreeBytes = diskFreeBytes
        self.refusal = refusal
        self.freeSlots = freeSlots
        self.renewalRequest = renewalRequest
    }
}

/// What one assignment asks for.
package enum WorkOrder: Sendable, Hashable {
    case build(plan: Digest)
    case resolve(ResolveOrder)
    case verify(VerifyOrder)
}

/// What a worker fetches.
package enum FetchSource: Sendable, Hashable {
    /// A blob of the coordinator's, from an offset on.
    case blob(Digest, offset: Int64)
    /// An object of a region, or a range of it that is not empty.
    case object(String, Range<Int64>?, region: Int)
}

extension Sciferry_V1_Fetch {
    package init(_ source: FetchSource) {
        self.init()
        switch source {
        case .blob(let digest, let offset):
            self.digest = Data(digest.bytes)
            self.offset = UInt64(clamping: offset)
        case .object(let key, let range, let region):
            object = key
            self.region = UInt32(clamping: region)
            offset = UInt64(clamping: range?.lowerBound ?? 0)
            length = UInt64(clamping: range?.count ?? 0)
        }
    }

    package func model() throws -> FetchSource {
        guard offset <= UInt64(Int64.max) / 2, length <= UInt64(Int64.max) / 2 else { throw MessageFailure.meaningless("a wrong range") }
        guard object.isEmpty else {
            guard digest.isEmpty, length > 0 || offset == 0 else { throw MessageFailure.meaningless("a wrong fetch") }
            return .object(object, length == 0 ? nil : Int64(offset)..<Int64(offset + length), region: Int(region))
        }
        guard let digest = Digest(bytes: digest), length == 0 else { throw MessageFailure.meaningless("a wrong digest") }
        return .blob(digest, offset: Int64(offset))
    }
}

/// All that a worker should be doing.
package struct DesiredWork: Sendable, Hashable {
    package struct Assignment: Sendable, Hashable {
        package var attempt: AttemptID
        package var order: WorkOrder
        /// Free bytes that it should find; 0 where nobody knows.
        package var diskBytes: Int64

        package init(attempt: AttemptID, order: WorkOrder, diskBytes: Int64 = 0) {
            self.attempt = attempt
            self.order = order
            self.diskBytes = diskBytes
        }
    }

    package var sequence: UInt64
    package var assignments: [Assignment]
    package var nextContactSeconds: Double
    package var draining: Bool
    package var renewedCertificate: [UInt8]
    /// Rises with every one of a coordinator process.
    package var revision: UInt64

    package init(
        sequence: UInt64, assignments: [Assignment], nextContactSeconds: Double, draining: Bool,
        renewedCertificate: [UInt8] = [], revision: UInt64 = 0
    ) {
        self.revision = revision
        self.sequence = sequence
        self.assignments = assignments
        self.nextContactSeconds = nextContactSeconds
        self.draining = draining
        self.renewedCertificate = renewedCertificate
    }
}

extension Sciferry_V1_WorkerState {
    /// Throws when an outcome has no JSON form.
    package init(_ report: WorkerReport) throws {
        self.init()
        sequence = report.sequence
        attempts = try report.attempts.map { attempt in
            var message = Sciferry_V1_Attempt()
            message.id = attempt.id.description
            message.phase = attempt.phase.rawValue
            message.progressPermille = UInt32(clamping: attempt.progressPermille)
            message.note = attempt.note
            if let outcome = attempt.outcome { message.outcome = Data(try CanonicalJSON.encode(outcome)) }
            return message
        }
        diskFreeBytes = UInt64(clamping: report.diskFreeBytes)
        refusal = report.refusal
        freeSlots = UInt32(clamping: report.freeSlots)
        renewalRequest = Data(report.renewalRequest)
        if let pressure = report.pressure {
            self.pressure.cpu = pressure.cpu
            self.pressure.memory = pressure.memory
            self.pressure.io = pressure.io
        }
        diskUse = report.diskUse.map { use in
            var message = Sciferry_V1_DiskUse()
            message.what = use.what
            message.bytes = UInt64(clamping: use.bytes)
            return message
        }
        if let layers = report.layers { layerSummary = Data(layers.bytes) }
        if let use = report.inputCache {
            inputCache.requests = UInt64(clamping: use.requests)
            inputCache.hits = UInt64(clamping: use.hits)
            inputCache.bytes = UInt64(clamping: use.bytes)
            inputCache.hitBytes = UInt64(clamping: use.hitBytes)
            inputCache.tunnels = UInt64(clamping: use.tunnels)
        }
    }

    package func model() throws -> WorkerReport {
        WorkerReport(
            sequence: sequence,
            attempts: try attempts.map { attempt in
                guard let id = AttemptID(attempt.id) else { throw MessageFailure.meaningless("a wrong attempt name") }
                guard let phase = Phase(rawValue: attempt.phase) else {
                    throw MessageFailure.meaningless("an unknown phase")
                }
                let outcome =
                    attempt.outcome.isEmpty
                    ? nil
                    : try CanonicalJSON.decode(AttemptOutcome.self, from: attempt.outcome, source: "an outcome")
                return AttemptReport(
                    id: id, phase: phase, progressPermille: Int(min(1000, attempt.progressPermille)),
                    note: String(attempt.note.prefix(200)), outcome: outcome)
            }, diskFreeBytes: Int64(clamping: diskFreeBytes), refusal: String(refusal.prefix(400)),
            freeSlots: Int(min(1024, freeSlots)), renewalRequest: Array(renewalRequest),
            pressure: hasPressure ? Pressure(cpu: pressure.cpu, memory: pressure.memory, io: pressure.io) : nil,
            diskUse: diskUse.prefix(16).map { DiskUse(what: String($0.what.prefix(40)), bytes: Int64(clamping: $0.bytes)) },
            layers: try layers(), inputCache: hasInputCache ? use() : nil)
    }
}

extension Sciferry_V1_WorkerState {
    private func layers() throws -> LayerSummary? {
        if layerSummary.isEmpty { return nil }
        guard let summary = LayerSummary(bytes: Array(layerSummary)) else { throw MessageFailure.meaningless("a wrong summary of layers") }
        return summary
    }

    /// Numbers that JSON keeps exactly.
    private func use() -> InputCacheUse {
        func bounded(_ value: UInt64) -> Int64 { Int64(min(value, 1 << 52)) }
        return InputCacheUse(
            requests: bounded(inputCache.requests), hits: bounded(inputCache.hits), bytes: bounded(inputCache.bytes),
            hitBytes: bounded(inputCache.hitBytes), tunnels: bounded(inputCache.tunnels))
    }
}

extension Sciferry_V1_DesiredState {
    /// Throws when an order has no JSON form.
    package init(_ desired: DesiredWork) throws {
        self.init()
        sequence = desired.sequence
        assignments = try desired.assignments.map { assignment in
            var message = Sciferry_V1_Assignment()
            message.attempt = assignment.attempt.description
            message.diskBytes = UInt64(clamping: assignment.diskBytes)
            switch assignment.order {
            case .build(let plan): message.plan = Data(plan.bytes)
            case .resolve(let order): message.resolve = Data(try CanonicalJSON.encode(order))
            case .verify(let order): message.verify = Data(try CanonicalJSON.encode(order))
            }
            return message
        }
        nextContactMs = UInt32(clamping: Int(desired.nextContactSeconds * 1000))
        draining = desired.draining
        renewedCertificate = Data(desired.renewedCertificate)
        revision = desired.revision
    }

    package func model() throws -> DesiredWork {
        DesiredWork(
            sequence: sequence,
            assignments: try assignments.map { message in
                guard let attempt = AttemptID(message.attempt) else {
                    throw MessageFailure.meaningless("a wrong attempt name")
                }
                let disk = Int64(clamping: message.diskBytes)
                switch message.order {
                case .plan(let bytes):
                    guard let digest = Digest(bytes: bytes) else { throw MessageFailure.meaningless("a wrong digest") }
                    return .init(attempt: attempt, order: .build(plan: digest), diskBytes: disk)
                case .resolve(let bytes):
                    let order = try CanonicalJSON.decode(ResolveOrder.self, from: bytes, source: "an order")
                    return .init(attempt: attempt, order: .resolve(order), diskBytes: disk)
                case .verify(let bytes):
                    let order = try CanonicalJSON.decode(VerifyOrder.self, from: bytes, source: "an order")
                    return .init(attempt: attempt, order: .verify(order), diskBytes: disk)
                case nil: throw MessageFailure.meaningless("an assignment without an order")
                }
            }, nextContactSeconds: Double(nextContactMs) / 1000, draining: draining,
            renewedCertificate: Array(renewedCertificate), revision: revision)
    }
}
