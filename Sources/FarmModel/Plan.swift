/// Where a base image came from.
package enum BaseOrigin: String, Codable, Sendable, Hashable {
    /// Pulled from a registry; `digest` is the registry's manifest digest.
    case registry
    /// Bootstrapped by the farm because no registry offered it; `digest` is that of its root file system's tar.
    case bootstrap
    /// No base: a finished image was taken in. `digest` is that of the image; in a plan, where it may not be known yet, it tells nothing.
    case image
}

/// A recipe's base image, resolved.
package struct BaseImage: Codable, Sendable, Hashable {
    /// As the recipe writes it, for example `debian:bookworm`.
    package var name: String
    package var digest: Digest
    package var origin: BaseOrigin
    /// Bytes of the root file system's tar; 0 when the base lies in a registry.
    package var size: Int64
    /// How it was bootstrapped (suite and snapshot date); `nil` for a registry's image.
    package var bootstrap: String?

    package init(name: String, digest: Digest, origin: BaseOrigin, size: Int64, bootstrap: String?) {
        self.name = name
        self.digest = digest
        self.origin = origin
        self.size = size
        self.bootstrap = bootstrap
    }

    /// What tells it from all others, for people and records.
    package var reference: String {
        switch origin {
        case .registry: "\(repository)@sha256:\(digest.hex)"
        case .bootstrap: "sciferry-base:\(digest.hex.prefix(24))"
        case .image: name
        }
    }

    /// What stands behind `FROM` in a rendered Dockerfile: what engines call it, which get it from the farm and ask no registry. A digest
    /// may be that of an image for several architectures.
    package func engineName(_ architecture: String) -> String {
        switch origin {
        case .registry: BaseImage.engineName(digest, architecture)
        case .bootstrap, .image: reference
        }
    }

    /// The same for an image of a registry.
    package static func engineName(_ digest: Digest, _ architecture: String) -> String {
        "sciferry-base:\(digest.hex.prefix(24))-\(architecture)"
    }

    /// The farm's own name for the bytes that it keeps of an image that lies in a registry (`LockedInput.archive`).
    package static func archiveName(_ digest: Digest, _ architecture: String) -> Digest {
        Digest(hashing: "base image \(architecture) sha256:\(digest.hex)")
    }

    /// The name without its tag and without a digest of its own.
    private var repository: String {
        let name = name.prefix { $0 != "@" }
        guard let colon = name.lastIndex(of: ":"), !name[colon...].contains("/") else { return String(name) }
        return String(name[..<colon])
    }
}

/// A file or image that a recipe declares and whose bytes the lock pins.
package struct LockedInput: Codable, Sendable, Hashable {
    /// What an input is.
    package enum Kind: String, Codable, Sendable, Hashable {
        case base, download
        /// A tag or branch of a git repository; the name is the repository's address, a space, and the reference.
        case git
    }

    package var kind: Kind
    /// The base image's name or the download's URL.
    package var name: String
    /// The architecture it was resolved for, for example `x86_64`.
    package var architecture: String
    package var digest: Digest
    package var size: Int64
    package var origin: BaseOrigin
    package var bootstrap: String?
    /// The commit that a git reference stood for, in hexadecimal; the digest is that of this text.
    package var commit: String?
    package var lockedAt: Timestamp
    /// What ran the programs of a base image while it was bootstrapped, where that was not a CPU that they are for.
    package var emulator: String?
    /// Of an image in a registry: the file in which the farm keeps it. Stands with what `held` gives only.
    package var archive: IncomingObject?

    package init(
        kind: Kind, name: String, architecture: String, digest: Digest, size: Int64, origin: BaseOrigin,
        bootstrap: String?, commit: String? = nil, lockedAt: Timestamp, emulator: String? = nil
    ) {
        self.emulator = emulator
        self.kind = kind
        self.name = name
        self.architecture = architecture
        self.digest = digest
        self.size = size
        self.origin = origin
        self.bootstrap = bootstrap
        self.commit = commit
        self.lockedAt = lockedAt
    }

    /// Of an image in a registry that the farm keeps: what is remembered of that, whatever becomes of the name that it was found by.
    package var held: LockedInput {
        var held = self
        held.name = "sha256:\(digest.hex)"
        return held
    }

    /// The key of that.
    package static func heldKey(_ digest: Digest, _ architecture: String) -> String {
        key(kind: .base, name: "sha256:\(digest.hex)", architecture: architecture)
    }

    /// The key under which the lock keeps it.
    package var key: String { LockedInput.key(kind: kind, name: name, architecture: architecture) }

    /// The key of an input that may not be locked yet.
    package static func key(kind: Kind, name: String, architecture: String) -> String {
        "\(kind.rawValue) \(architecture) \(name)"
    }
}

/// A file of the build context: where it lies and which bytes it has.
package struct ContextFile: Codable, Sendable, Hashable {
    /// Relative to the context's root; no `..`, no leading slash.
    package var path: String
    package var digest: Digest
    package var size: Int64
    package var executable: Bool

    package init(path: String, digest: Digest, size: Int64, executable: Bool) {
        self.path = path
        self.digest = digest
        self.size = size
        self.executable = executable
    }
}

/// How the image's bytes are made; part of the plan because it decides them.
package struct ImageFormat: Codable, Sendable, Hashable {
    /// The version of the image writer; a change of it that changes bytes raises this number.
    package var writer: Int
    package var blockSize: Int
    package var compression: Compression
    /// The compression's own number, higher for smaller.
    package var level: Int

    package enum Compression: String, Codable, Sendable, Hashable, CaseIterable {
        case zstd
        /// For kernels that read nothing else.
        case gzip
    }

    /// The writer of this version.
    package static let currentWriter = 2

    package init(writer: Int = currentWriter, blockSize: Int = 131_072, compression: Compression = .zstd, level: Int = 9) {
        self.writer = writer
        self.blockSize = blockSize
        self.compression = compression
        self.level = level
    }

    private enum CodingKeys: String, CodingKey { case writer, blockSize, compression, level, zstdLevel }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        writer = try values.decode(Int.self, forKey: .writer)
        blockSize = try values.decode(Int.self, forKey: .blockSize)
        // The first writer knew zstd only.
        compression = try values.decodeIfPresent(Compression.self, forKey: .compression) ?? .zstd
        level = try values.decodeIfPresent(Int.self, forKey: .level) ?? values.decode(Int.self, forKey: .zstdLevel)
    }

    package func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(writer, forKey: .writer)
        try values.encode(blockSize, forKey: .blockSize)
        if writer == 1 { return try values.encode(level, forKey: .zstdLevel) }
        try values.encode(compression, forKey: .compression)
        try values.encode(level, forKey: .level)
    }
}

/// A program with windows, for menus.
package struct GraphicalProgram: Codable, Sendable, Hashable {
    package var name: String
    /// The command line that starts it.
    package var command: String

    package init(name: String, command: String) {
        self.name = name
        self.command = command
    }
}

/// What a build may use; 0 stands for what the worker allows.
package struct BuildLimits: Codable, Sendable, Hashable {
    /// Memory of each step.
    package var memoryGiB: Int
    /// Hours until the build is ended.
    package var wallHours: Int
    /// Minutes without a word of output until the build is ended; absent for what the worker allows, and in plans of older versions.
    package var silentMinutes: Int?

    package init(memoryGiB: Int = 0, wallHours: Int = 0, silentMinutes: Int? = nil) {
        self.silentMinutes = silentMinutes
        self.memoryGiB = memoryGiB
        self.wallHours = wallHours
    }
}

/// What the steps of a build may reach.
package enum NetworkPolicy: String, Codable, Sendable, Hashable, CaseIterable {
    case full
    /// What the worker's proxy fetches for them, and nothing else.
    case proxy
    /// Nothing; all inputs must be declared.
    case none
}

/// What becomes of an image whose machine code goes beyond its CPU target.
package enum InstructionPolicy: String, Codable, Sendable, Hashable, CaseIterable {
    /// The build fails.
    case fail
    /// The report says so, and the image is released.
    case warn
}

/// Everything a worker needs to build and test one image; its canonical SHA-256 is the build key.
package struct Plan: Codable, Sendable, Hashable {
    /// Format of this document; readers refuse numbers they do not know.
    package var format: Int
    package var name: String
    package var version: String
    /// The machine architecture, for example `x86_64`.
    package var architecture: String
    /// The CPU target, an archspec name.
    package var target: String
    package var base: BaseImage
    /// Further images that the Dockerfile takes something from.
    package var moreBases: [BaseImage]
    package var dockerfile: String
    package var context: [ContextFile]
    /// Commands that the release offers.
    package var commands: [String]
    /// Directories inside the image whose executables are commands too.
    package var commandPaths: [String]
    package var programs: [GraphicalProgram]
    /// What the runtime shall be given beside its usual arguments.
    package var runtimeArguments: [String]
    package var description: String
    package var categories: [String]
    package var licences: [String]
    package var suite: TestSuite
    package var image: ImageFormat
    /// Free bytes that a worker must have before it starts.
    package var diskBytes: Int64
    /// The same for a recipe that says nothing of it.
    package static let usualDiskBytes: Int64 = 4 << 30
    package var limits: BuildLimits
    package var network: NetworkPolicy
    package var instructions: InstructionPolicy
    /// CPU targets that run `target` and on which the tests shall run too before the release; absent in plans of format 3.
    package var verifyOn: [String]?
    /// What whoever uses it is asked to cite, and variables of which the user's value counts for more than the image's; absent where the
    /// recipe says nothing, as in plans of older versions.
    package var citation: String?
    package var overridable: [String]?
    /// The finished image that is taken in instead of building one; in plans of `importFormat` only.
    package var source: ImportSource?

    package static let currentFormat = 4
    /// A number of its own, so that a worker who would build such a plan refuses it.
    package static let importFormat = 5
    /// What was queued or half published before an upgrade is still understood.
    package static let readableFormats = 3...5

    package init(
        name: String, version: String, architecture: String, target: String, base: BaseImage,
        moreBases: [BaseImage] = [], dockerfile: String,
        context: [ContextFile], commands: [String], commandPaths: [String],
        programs: [GraphicalProgram] = [], runtimeArguments: [String] = [], description: String, categories: [String],
        licences: [String], suite: TestSuite, image: ImageFormat = ImageFormat(), diskBytes: Int64,
        limits: BuildLimits = BuildLimits(), network: NetworkPolicy = .full, instructions: InstructionPolicy = .fail,
        verifyOn: [String] = [], citation: String = "", overridable: [String] = []
    ) {
        self.format = Plan.currentFormat
        self.name = name
        self.version = version
        self.architecture = architecture
        self.target = target
        self.base = base
        self.moreBases = moreBases
        self.dockerfile = dockerfile
        self.context = context
        self.commands = commands
        self.commandPaths = commandPaths
        self.programs = programs
        self.runtimeArguments = runtimeArguments
        self.description = description
        self.categories = categories
        self.licences = licences
        self.suite = suite
        self.image = image
        self.diskBytes = diskBytes
        self.limits = limits
        self.network = network
        self.instructions = instructions
        self.verifyOn = verifyOn
        self.citation = citation.isEmpty ? nil : citation
        self.overridable = overridable.isEmpty ? nil : overridable
    }

    /// The bytes that are hashed, stored and fetched.
    package func canonicalBytes() throws -> [UInt8] { try CanonicalJSON.encode(self) }

    /// Reads a plan and refuses formats it does not know (`plan.format`).
    package static func read(_ bytes: [UInt8]) throws -> Plan {
        let plan = try CanonicalJSON.decode(Plan.self, from: bytes, source: "the plan")
        guard readableFormats.contains(plan.format) else {
            throw FarmError(
                "plan.format", .invalid,
                "the plan has format \(plan.format); this program reads \(readableFormats.lowerBound) to \(readableFormats.upperBound)",
                hint: "upgrade the worker")
        }
        return plan
    }
}

/// What resolving one input means; given to a trusted worker.
package struct ResolveOrder: Codable, Sendable, Hashable {
    package var kind: LockedInput.Kind
    package var name: String
    package var architecture: String
    /// How to bootstrap the base when no registry offers it; `nil` forbids it.
    package var bootstrap: BootstrapSource?
    /// Of a base image: which of all that had the name is wanted; `nil` for the present one.
    package var pinned: Digest?
    /// Hosts that have the same images as another and are asked first, by the host that they stand for.
    package var mirrors: [String: [String]]?

    package init(
        kind: LockedInput.Kind, name: String, architecture: String, bootstrap: BootstrapSource?, pinned: Digest? = nil,
        mirrors: [String: [String]]? = nil
    ) {
        self.pinned = pinned
        self.mirrors = mirrors
        self.kind = kind
        self.name = name
        self.architecture = architecture
        self.bootstrap = bootstrap
    }
}

/// What verifying an image means; given to a trusted worker of another CPU than its builder's.
package struct VerifyOrder: Codable, Sendable, Hashable {
    /// The plan's digest.
    package var plan: Digest
    /// SHA-256 of the image's manifest, which lies in the first region.
    package var manifest: Digest
    /// The CPU target that the recipe asks for.
    package var on: String
    /// How many regions the farm has; the first has the image, others may have parts of it whole where the first has not.
    package var regions: Int
    /// The tests that are wanted, where it is not all of them: the builder has left them to others.
    package var only: [String]?

    package init(plan: Digest, manifest: Digest, on: String, regions: Int, only: [String]? = nil) {
        self.only = only
        self.regions = regions
        self.plan = plan
        self.manifest = manifest
        self.on = on
    }
}

/// A Debian suite at a date, from which a base image can be made without a registry.
package struct BootstrapSource: Codable, Sendable, Hashable {
    package var suite: String
    /// `YYYYMMDDTHHMMSSZ`; stands for `{snapshot}` in the mirror and is the time stamp of every file made.
    package var snapshot: String
    /// A mirror's URL, or empty for the sources that the worker's own apt uses.
    package var mirror: String

    package init(suite: String, snapshot: String, mirror: String) {
        self.suite = suite
        self.snapshot = snapshot
        self.mirror = mirror
    }

    /// What a release says of it: the snapshot only where it was really what was fetched.
    package var title: String {
        if mirror.contains("{snapshot}") { return "\(suite) \(snapshot)" }
        let origin = mirror.isEmpty ? "the worker's own apt sources" : mirror
        return "\(suite) from \(origin), file times \(snapshot)"
    }
}
