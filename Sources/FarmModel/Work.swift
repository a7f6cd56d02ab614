/// What the farm is asked for.
package enum JobKind: String, Codable, Sendable, Hashable {
    case build
    /// Finds out what an input is.
    case resolve
    /// Runs the tests of a built image on another CPU.
    case verify
}

/// Where a job stands.
package enum JobState: String, Codable, Sendable, Hashable, CaseIterable {
    /// Waits for its inputs to be resolved.
    case resolving
    /// Waits for a worker.
    case queued
    /// An attempt runs.
    case running
    /// Built and stored; other workers run its tests before it is released.
    case verifying
    /// A candidate built again: somebody has to say whether the differences matter.
    case review
    /// Built; the publication is under way.
    case publishing
    case succeeded
    case failed
    case cancelled

    /// Nothing will change it any more.
    package var isFinal: Bool { self == .succeeded || self == .failed || self == .cancelled }
}

/// Where one attempt stands.
package enum AttemptState: String, Codable, Sendable, Hashable {
    /// Given to a worker that has not confirmed it yet.
    case assigned
    case running
    case succeeded
    case failed
    /// The lease ended: the worker fell silent, lost the attempt or was revoked.
    case lost
    case cancelled

    package var isFinal: Bool { self != .assigned && self != .running }
}

/// What a worker is doing with an attempt, in order.
package enum Phase: String, Codable, Sendable, Hashable, CaseIterable {
    case prepare, base, fetch, build, assemble, test, chunk, upload, done
}

/// Who is to blame, which decides whether the job is tried again.
package enum FailureClass: String, Codable, Sendable, Hashable {
    /// The recipe: a step or a test failed. Failed once, never retried.
    case recipe
    /// The worker, the network or a store. Retried elsewhere.
    case infrastructure
    /// A server that the recipe names. Retried when it has had time.
    case upstream
    /// Someone asked for it to stop.
    case cancelled
}

/// What is done after a failure.
package enum RetryRule: String, Codable, Sendable, Hashable, CaseIterable {
    case never
    /// After a few seconds, anywhere.
    case soon
    /// After minutes: somebody else has to mend something.
    case later
    /// On another worker.
    case elsewhere
}

/// Why an attempt or a job ended badly, in a form that people and programs can read.
package struct Failure: Codable, Sendable, Hashable {
    package var failureClass: FailureClass
    /// A `FarmError` code.
    package var code: String
    package var message: String
    /// The last lines of the log, for a failing step.
    package var tail: [String]
    /// How the tests went, where they ran. Absent in failures of older versions.
    package var tests: [TestOutcome]?
    /// What the log says went wrong: a class of `worker/Core/Resources/failure-classes.txt`. Absent where it says nothing known.
    package var reason: String?
    /// What is done about it; where it is absent, what befits the class.
    package var retry: RetryRule?
    /// Of a build that failed: how its steps went.
    package var steps: [BuildStep]?

    package init(
        _ failureClass: FailureClass, code: String, message: String, tail: [String] = [], reason: String? = nil, retry: RetryRule? = nil
    ) {
        self.reason = reason
        self.retry = retry
        self.failureClass = failureClass
        self.code = code
        // It rides in a frame of bounded size, and a person reads it.
        self.message = String(message.prefix(4000))
        self.tail = tail.suffix(40).map { String($0.prefix(500)) }
    }

    /// Takes over an error of ours, or wraps a stranger as `worker.fault`.
    package init(_ failureClass: FailureClass, _ error: any Error, tail: [String] = []) {
        if let error = error as? FarmError {
            var message = error.message
            if let cause = error.cause { message += " (\(cause))" }
            if let hint = error.hint { message += "; \(hint)" }
            self.init(failureClass, code: error.code.rawValue, message: message, tail: tail)
        } else {
            self.init(failureClass, code: "worker.fault", message: String(describing: error), tail: tail)
        }
    }
}

/// The outcome of one functional test.
package struct TestOutcome: Codable, Sendable, Hashable {
    package var name: String
    package var passed: Bool
    /// What was expected and what came instead; empty when it passed.
    package var problems: [String]
    package var seconds: Double
    /// The most memory that its processes held together, where somebody looked. Absent in results of older versions.
    package var memoryBytes: Int64?
    /// It was not run, because another one that it depends on failed.
    package var wasSkipped: Bool?
    /// Other machines may not have what it takes to run it.
    package var wantsMore: Bool?
    /// It was left to another worker, because the suite takes long; nothing is known of it yet.
    package var wasLeft: Bool?
    /// The worker that ran it, where it was another one than the builder, with its CPU target and runtime.
    package var worker: String?
    package var host: String?
    package var runtime: String?

    package init(
        name: String, passed: Bool, problems: [String], seconds: Double, memoryBytes: Int64? = nil, wasSkipped: Bool? = nil,
        wantsMore: Bool? = nil, wasLeft: Bool? = nil
    ) {
        self.wasLeft = wasLeft
        self.wantsMore = wantsMore
        self.memoryBytes = memoryBytes
        self.wasSkipped = wasSkipped
        self.name = String(name.prefix(200))
        self.passed = passed
        self.problems = problems.prefix(20).map { String($0.prefix(1000)) }
        self.seconds = (seconds * 1000).rounded() / 1000
    }
}

/// A pack that waits under `incoming/` for a trusted process.
package struct IncomingObject: Codable, Sendable, Hashable {
    package var digest: Digest
    package var size: Int64

    package init(digest: Digest, size: Int64) {
        self.digest = digest
        self.size = size
    }
}

/// Something that was found out about an image: a document of its own beside it, named in the signed release.
package struct ImageRecord: Codable, Sendable, Hashable {
    /// What a record tells.
    package enum Kind: String, Codable, Sendable, Hashable {
        /// What package managers installed: `InstalledPackages`.
        case packages
        /// What the machine code needs of the CPU: `Statement<InstructionReport>`.
        case instructions
        /// The files that it consists of: `ImageListing`.
        case files
        /// What its first program with a window drew: a PNG file.
        case screenshot
    }
    package var kind: Kind
    /// The document's canonical bytes.
    package var object: IncomingObject

    package init(kind: Kind, object: IncomingObject) {
        self.kind = kind
        self.object = object
    }

    /// The kind under which a release names how its tests went where it was built, and on another CPU.
    package static let tests = "tests"
    package static func tests(on target: String) -> String { "tests-\(target)" }

    /// Whether the farm signs records of a kind.
    package static func isSigned(_ kind: String) -> Bool {
        kind == Kind.instructions.rawValue || kind == tests || kind.hasPrefix("\(tests)-")
    }

    /// Where regions keep a record.
    package static func key(_ digest: Digest) -> String { "records/\(digest.hex)" }

    /// Where they keep the same in an envelope that the farm has signed.
    package static func attestationKey(_ digest: Digest) -> String { "records/\(digest.hex).dsse.json" }
}

/// What a successful build attempt hands over.
package struct BuildResult: Codable, Sendable, Hashable {
    package var image: Digest
    package var imageSize: Int64
    /// The manifest's bytes, uploaded under `incoming/`.
    package var manifest: IncomingObject
    package var packs: [IncomingObject]
    package var records: [ImageRecord]
    package var chunkCount: Int
    package var newChunkCount: Int
    package var newBytes: Int64
    package var tests: [TestOutcome]
    /// How the tests ran the image, for example `apptainer` or `bwrap`.
    package var testRuntime: String
    /// The programs found in the plan's `commandPaths`, sorted.
    package var commands: [String]
    /// The CPU target of the host that built and tested.
    package var hostTarget: String
    /// What ran the image's programs on that host where its CPU does not; `nil` for its CPU.
    package var emulator: String?
    package var phaseSeconds: [String: Double]
    /// Bytes that the build took up on the worker's disks at most, its base and layers among them. Absent in results of older versions.
    package var diskBytes: Int64?
    /// Digest of what the farm signs of the image: equal for images that differ in their signatures only. Absent in results of older
    /// versions.
    package var content: Digest?
    /// How the build went; absent in results of older versions, and where nothing was built.
    package var steps: [BuildStep]?

    package init(
        image: Digest, imageSize: Int64, manifest: IncomingObject, packs: [IncomingObject], records: [ImageRecord], chunkCount: Int,
        newChunkCount: Int, newBytes: Int64, tests: [TestOutcome], testRuntime: String, commands: [String], hostTarget: String,
        emulator: String? = nil, phaseSeconds: [String: Double], diskBytes: Int64? = nil, content: Digest? = nil,
        steps: [BuildStep]? = nil
    ) {
        self.steps = steps
        self.diskBytes = diskBytes
        self.content = content
        self.image = image
        self.imageSize = imageSize
        self.manifest = manifest
        self.packs = packs
        self.records = records
        self.chunkCount = chunkCount
        self.newChunkCount = newChunkCount
        self.newBytes = newBytes
        self.tests = tests
        self.testRuntime = testRuntime
        self.commands = commands
        self.hostTarget = hostTarget
        self.emulator = emulator
        self.phaseSeconds = phaseSeconds
    }
}

/// The functional tests of an image, run once more on another CPU.
package struct Verification: Codable, Sendable, Hashable {
    /// The CPU target that the recipe asks for.
    package var asked: String
    /// The CPU target of the host that they ran on, which runs what was asked for and may be higher.
    package var hostTarget: String
    /// What ran the image's programs there; `nil` for the host's CPU.
    package var emulator: String?
    package var worker: String
    package var runtime: String
    package var tests: [TestOutcome]

    package init(asked: String, hostTarget: String, emulator: String?, worker: String, runtime: String, tests: [TestOutcome]) {
        self.asked = asked
        self.hostTarget = hostTarget
        self.emulator = emulator
        self.worker = worker
        self.runtime = runtime
        self.tests = tests
    }

    /// For people: `zen4: 3 of 3 passed on w2 (zen5) through apptainer`.
    package var title: String {
        let cpu = [hostTarget, emulator.map { "emulated by \($0)" }].compactMap { $0 }.joined(separator: ", ")
        return "\(asked): \(tests.filter(\.passed).count) of \(tests.count) passed on \(worker) (\(cpu)) through \(runtime)"
    }
}

/// How an attempt ended on its worker.
package enum AttemptOutcome: Codable, Sendable, Hashable {
    case built(BuildResult)
    case resolved(LockedInput)
    case verified(Verification)
    case failed(Failure)

    /// Of a build: how its steps went.
    package var steps: [BuildStep]? {
        get {
            switch self {
            case .built(let result): result.steps
            case .failed(let failure): failure.steps
            case .resolved, .verified: nil
            }
        }
        set {
            switch self {
            case .built(var result):
                result.steps = newValue
                self = .built(result)
            case .failed(var failure):
                failure.steps = newValue
                self = .failed(failure)
            case .resolved, .verified: return
            }
        }
    }
}

/// This program.
package enum Program {
    /// Semantic version of the whole house.
    package static let version = "0.1.0"
}
