import FarmIdentity
package import FarmModel

/// A wish as the journal keeps it.
package struct JobRecord: Codable, Sendable, Hashable {
    package var id: JobID
    package var number: Int
    package var kind: JobKind
    package var state: JobState
    /// For people: `dcm2niix 1.0 for x86_64_v2`.
    package var title: String
    package var recipe: String
    package var version: String
    package var target: String
    package var requestedBy: String
    package var createdAt: Timestamp
    package var finishedAt: Timestamp?
    /// The plan's digest, which is the build key; for a resolve job the digest of what is resolved.
    package var key: Digest?
    /// The uploaded recipe, in the blob store.
    package var submission: Digest?
    package var resolve: ResolveOrder?
    /// Resolve jobs that must end first.
    package var waitsFor: [JobID] = []
    /// The job in flight for the same key, whose end is this one's.
    package var joined: JobID?
    package var attempts = 0
    /// Infrastructure failures so far.
    package var setbacks = 0
    package var notBefore: Timestamp?
    package var failure: Failure?
    /// Why nothing was done, or what is still to do.
    package var note: String?
    /// The signed release that came of it, or that was there already.
    package var release: Digest?
    package var diskBytes: Int64 = 0
    /// Memory that a worker must have. Absent in jobs of older versions, as is what follows.
    package var memoryBytes: Int64?
    /// A worker that only emulates the CPU may have it.
    package var allowsEmulation: Bool?
    /// CPU targets on which the tests shall run before the release.
    package var verifyOn: [String]?
    /// Of a verify job: what is to be tested, and the build that waits for it.
    package var verify: VerifyOrder?
    package var parent: JobID?
    package var priority: JobPriority?
    /// Seconds that it is expected to take on a worker of speed 1.
    package var expectedSeconds: Double?
    /// Workers on which it failed through no fault of its own; they get it again only when no other may have it.
    package var avoided: [WorkerName]?
    /// Jobs that test it on further CPUs.
    package var verifyJobs: [JobID]?
    /// Labels of the workers that may have it.
    package var labels: LabelWish?
    /// What its image is after the base and after each instruction: equal numbers, equal layers.
    package var layers: [UInt64]?
    /// The last of them that some worker had when it was queued.
    package var warmth: UInt64?
    /// Of a recipe that nobody has reviewed: built by the untrusted pool, never released as it is.
    package var isCandidate: Bool?
    /// It takes in an image that others made, which any worker can do.
    package var takesIn: Bool?
    /// Of a candidate: the plan of its release, where that packs the image otherwise.
    package var releaseKey: Digest?
    /// The candidate that it brings to a release.
    package var promotes: JobID?
    /// Whatever differs from that one is accepted.
    package var acceptsDifferences: Bool?

    package init(
        id: JobID, number: Int, kind: JobKind, state: JobState, title: String, recipe: String, version: String,
        target: String, requestedBy: String, createdAt: Timestamp
    ) {
        self.id = id
        self.number = number
        self.kind = kind
        self.state = state
        self.title = title
        self.recipe = recipe
        self.version = version
        self.target = target
        self.requestedBy = requestedBy
        self.createdAt = createdAt
    }
}

/// How urgent a job is; each class goes before the next.
package enum JobPriority: String, Codable, Sendable, Hashable, CaseIterable {
    /// Somebody waits for it.
    case interactive
    case release
    case nightly
    /// When nothing else is to be done.
    case background

    var rank: Int { JobPriority.allCases.firstIndex(of: self) ?? 0 }
}

/// One try as the journal keeps it.
package struct AttemptRecord: Codable, Sendable, Hashable {
    package var id: AttemptID
    package var worker: WorkerName
    package var state: AttemptState
    package var phase: Phase = .prepare
    package var progressPermille = 0
    package var note = ""
    package var startedAt: Timestamp
    package var finishedAt: Timestamp?
    package var failure: Failure?
    /// When each phase was first reported.
    package var phaseStarts: [String: Timestamp] = [:]
    /// Seconds that it was expected to take on this worker.
    package var expectedSeconds: Double?
    /// Why this worker was chosen, in words.
    package var choice: String?
    /// How the steps of the build went, once it has ended. Absent in attempts of older versions.
    package var steps: [BuildStep]?
    /// Why the first of them that was run had to be; for views only.
    package var miss: String?
    /// When phase, progress or note changed last; for this process only.
    package var movedAt: Timestamp?

    package init(id: AttemptID, worker: WorkerName, state: AttemptState, startedAt: Timestamp) {
        self.id = id
        self.worker = worker
        self.state = state
        self.startedAt = startedAt
    }
}

/// A worker as the journal keeps it.
package struct WorkerRecord: Codable, Sendable, Hashable {
    package var name: WorkerName
    package var trusted: Bool
    package var drained = false
    package var revoked = false
    package var facts: HostFacts?
    package var enrolledAt: Timestamp
    package var lastSeen: Timestamp?
    /// Why it takes no work, in its own words.
    package var refusal = ""
    package var keyDigest: Digest?
    /// How fast it builds, learned: 1 for a worker that takes as long as is expected.
    package var speed: Double?
    /// Failures of the infrastructure since its last success.
    package var failuresInARow: Int?
    /// Why it gets nothing more until an operator resumes it; `nil` for a worker in good standing.
    package var quarantine: String?
    /// How strained it was when it spoke last.
    package var pressure: Pressure?
    /// What took up its disk then.
    package var diskUse: [DiskUse]?
    /// What its builds had fetched through its proxy.
    package var inputCache: InputCacheUse?
    /// Of a worker of the untrusted pool: all container engines that it has ever named.
    package var engines: [String]?

    package init(name: WorkerName, trusted: Bool, enrolledAt: Timestamp) {
        self.name = name
        self.trusted = trusted
        self.enrolledAt = enrolledAt
    }
}

/// How far a publication has come. Steps are idempotent; the record says which need not be repeated.
package struct PublicationRecord: Codable, Sendable, Hashable {
    package enum Step: String, Codable, Sendable, Hashable, CaseIterable {
        /// Nothing is done until somebody decides: a candidate, or one built again that differs.
        case held
        /// What was built again is compared with the candidate.
        case compare
        /// Packs are re-hashed and moved from `incoming/` to their names in the first region.
        case packs
        /// Index, manifest and cover are written.
        case manifest
        /// Verify jobs have run the tests on the CPUs that the recipe asks for.
        case verify
        /// The signed release document is written.
        case release
        /// The channel points at it in the first region.
        case pointer
        /// All other regions have it too.
        case mirrors
        /// `incoming/` is empty again.
        case cleanup
        case done
    }

    package var job: JobID
    package var attempt: AttemptID
    package var plan: Digest
    package var result: BuildResult
    package var builtOn: String
    package var step: Step
    package var startedAt: Timestamp
    /// Canonical bytes of the signed release, once made, so that a repetition writes the same ones.
    package var document: String?
    package var index: Digest?
    package var setbacks = 0
    package var notBefore: Timestamp?
    package var lastError: String?
    /// Regions that have everything.
    package var regionsDone: [String] = []
    /// What verify jobs found. Absent in records of older versions.
    package var verified: [Verification]?
    /// What building a candidate again has shown.
    package var comparison: ImageComparison?

    package init(
        job: JobID, attempt: AttemptID, plan: Digest, result: BuildResult, builtOn: String, startedAt: Timestamp
    ) {
        self.job = job
        self.attempt = attempt
        self.plan = plan
        self.result = result
        self.builtOn = builtOn
        self.step = .packs
        self.startedAt = startedAt
    }
}

/// A published release as the journal keeps it.
package struct ReleaseRecord: Codable, Sendable, Hashable {
    package var release: Release
    /// SHA-256 of the signed document.
    package var digest: Digest
    package var job: JobID
    /// Since when it is in no channel and its objects may go. Absent in releases that are kept.
    package var retiredAt: Timestamp?
    /// Why nobody should begin to use it. Absent where nothing is wrong.
    package var yanked: String?

    package init(release: Release, digest: Digest, job: JobID) {
        self.release = release
        self.digest = digest
        self.job = job
    }
}

/// The channel's counter, and when it was last signed.
package struct ChannelRecord: Codable, Sendable, Hashable {
    package var name: String
    package var version: Int
    package var issuedAt: Timestamp
    /// Of which coordinator; absent in journals of older versions.
    package var epoch: Int?
    /// What a coordinator that was taken over from had released beyond what this journal knows, and when that was.
    package var carried: Carried?

    package struct Carried: Codable, Sendable, Hashable {
        package var entries: [ChannelEntry]
        package var at: Timestamp
    }

    package init(name: String, version: Int, issuedAt: Timestamp, epoch: Int = 1, carried: Carried? = nil) {
        self.name = name
        self.version = version
        self.issuedAt = issuedAt
        self.epoch = epoch
        self.carried = carried
    }
}

/// A token of the API; the token itself is not kept.
package struct AccessRecord: Codable, Sendable, Hashable {
    package var tokenDigest: Digest
    package var name: String
    package var role: AccessRole
    package var createdAt: Timestamp

    package init(tokenDigest: Digest, name: String, role: AccessRole, createdAt: Timestamp) {
        self.tokenDigest = tokenDigest
        self.name = name
        self.role = role
        self.createdAt = createdAt
    }
}
