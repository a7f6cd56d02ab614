/// One published image of a release.
package struct ReleaseImage: Codable, Sendable, Hashable {
    package var target: String
    package var architecture: String
    /// SHA-256 of the SIF.
    package var digest: Digest
    package var size: Int64
    /// SHA-256 of the manifest's canonical bytes.
    package var manifest: Digest
    package var buildKey: Digest

    package init(
        target: String, architecture: String, digest: Digest, size: Int64, manifest: Digest, buildKey: Digest
    ) {
        self.target = target
        self.architecture = architecture
        self.digest = digest
        self.size = size
        self.manifest = manifest
        self.buildKey = buildKey
    }
}

/// A signed statement: this name and version, for this CPU target, is this image, made so and tested so.
package struct Release: Codable, Sendable, Hashable {
    package var format: Int
    package var name: String
    package var version: String
    package var image: ReleaseImage
    package var base: BaseImage
    package var commands: [String]
    package var description: String
    package var categories: [String]
    package var licences: [String]
    package var tests: [TestOutcome]
    package var testRuntime: String
    package var builtOn: String
    package var publishedAt: Timestamp
    /// Programs with windows. Absent in releases of older versions, as is what follows.
    package var programs: [GraphicalProgram]?
    package var runtimeArguments: [String]?
    /// Documents about the image: digests by kind.
    package var records: [String: Digest]?
    /// The CPU target of the host that built and tested.
    package var hostTarget: String?
    /// What ran the image's programs there, where it was not that host's CPU.
    package var emulator: String?
    /// The same tests on other CPUs.
    package var verified: [Verification]?
    /// The candidate that it was, if it was one.
    package var candidate: CandidateOrigin?
    /// Where the image was taken from, if the farm did not build it.
    package var imported: ImportOrigin?
    /// What whoever uses it is asked to cite.
    package var citation: String?
    /// Variables of which the user's value counts for more than the image's.
    package var overridable: [String]?

    package static let currentFormat = 1

    package init(
        plan: Plan, buildKey: Digest, result: BuildResult, builtOn: String, verified: [Verification] = [],
        candidate: CandidateOrigin? = nil, evidence: [String: Digest] = [:], publishedAt: Timestamp
    ) {
        self.candidate = candidate
        format = Release.currentFormat
        name = plan.name
        version = plan.version
        image = ReleaseImage(
            target: plan.target, architecture: plan.architecture, digest: result.image, size: result.imageSize,
            manifest: result.manifest.digest, buildKey: buildKey)
        base = plan.base
        if let source = plan.source {
            imported = ImportOrigin(source)
            base.digest = result.image
            base.size = result.imageSize
        }
        let found = result.commands.filter { CommandName.isValid($0) && !CommandName.isCommon($0) && !plan.commands.contains($0) }
        // Of an image that was taken in, those that could be called there.
        commands = (plan.source == nil ? plan.commands : result.commands.filter(plan.commands.contains)) + Set(found).sorted()
        description = plan.description
        categories = plan.categories
        licences = plan.licences
        tests = result.tests
        testRuntime = result.testRuntime
        self.builtOn = builtOn
        self.publishedAt = publishedAt
        programs = plan.programs
        runtimeArguments = plan.runtimeArguments
        records = Dictionary(result.records.map { ($0.kind.rawValue, $0.object.digest) }) { first, _ in first }
            .merging(evidence) { first, _ in first }
        citation = plan.citation
        overridable = plan.overridable
        hostTarget = result.hostTarget
        emulator = result.emulator
        self.verified = verified
    }

    /// Which machine built it, for people: `w1 (zen3)`, with the emulator where one ran it.
    package var builder: String {
        let details = [hostTarget, emulator.map { "emulated by \($0)" }].compactMap { $0 }
        return details.isEmpty ? builtOn : "\(builtOn) (\(details.joined(separator: ", ")))"
    }

    /// The DOIs in what is to be cited (DOI Handbook, section 2.2), each once.
    package var cited: [String] {
        var found: [String] = []
        for match in (citation ?? "").matches(of: /10\.[0-9]{4,9}(?:\.[0-9]+)*\/[!-~]+/) {
            var name = match.output.prefix { !"\"<>".contains($0) }
            // A sentence or a bracket around it ends there, too; brackets within belong to it.
            while let last = name.last,
                ".,;:'".contains(last) || (last == ")" && name.count { $0 == ")" } > name.count { $0 == "(" })
                    || (last == "]" && !name.contains("["))
            { name.removeLast() }
            if !found.contains(String(name)) { found.append(String(name)) }
        }
        return found
    }

    /// `dcm2niix 1.0 (x86_64_v3)`, for people.
    package var title: String { "\(name) \(version) (\(image.target))" }
}

/// Where signed documents lie in a bucket.
package enum ReleaseDocument {
    package static func key(name: String, version: String, digest: Digest) -> String {
        "releases/\(name)/\(version)/\(digest.hex)"
    }
}

/// A release as a channel names it.
package struct ChannelEntry: Codable, Sendable, Hashable {
    package var name: String
    package var version: String
    package var target: String
    /// SHA-256 of the signed release document.
    package var release: Digest
    /// Why nobody should begin to use it; absent where nothing is wrong. It stays where it is, to be had by its version.
    package var yanked: String?

    package init(name: String, version: String, target: String, release: Digest, yanked: String? = nil) {
        self.yanked = yanked
        self.name = name
        self.version = version
        self.target = target
        self.release = release
    }
}

/// The signed, versioned, expiring list of releases that sites follow.
package struct ReleaseChannel: Codable, Sendable, Hashable {
    package var format: Int
    package var farm: String
    package var name: String
    /// Rises when a coordinator takes over from another one, whose channels count no more then.
    package var epoch: Int
    /// Rises by one with every change; a reader never goes back to a lower one.
    package var version: Int
    package var issuedAt: Timestamp
    package var expiresAt: Timestamp
    package var entries: [ChannelEntry]

    package static let currentFormat = 2

    package init(
        farm: String, name: String, epoch: Int = 1, version: Int, issuedAt: Timestamp, expiresAt: Timestamp, entries: [ChannelEntry]
    ) {
        format = ReleaseChannel.currentFormat
        self.farm = farm
        self.name = name
        self.epoch = epoch
        self.version = version
        self.issuedAt = issuedAt
        self.expiresAt = expiresAt
        self.entries = entries
    }

    /// The object's key.
    package static func key(_ name: String) -> String { "channels/\(name).json" }

    /// No channel comes near this: half a million releases.
    package static let largest: Int64 = 128 << 20

    /// Whether its numbers leave room for those that follow.
    package var isSound: Bool { (0..<1 << 52).contains(version) && (0..<1 << 52).contains(epoch) }

    /// Whether another one of the same name counts more.
    package func isBehind(_ other: ReleaseChannel) -> Bool { (epoch, version) < (other.epoch, other.version) }
}
