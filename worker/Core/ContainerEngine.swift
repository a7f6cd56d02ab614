package import FarmModel
package import ImageAssembly
import Microarchitecture
package import ProcessRunner
import SystemIO

/// What builds images on a worker and keeps their layers. Names of images are the same for all of them.
package protocol ContainerEngine: Sendable {
    /// Its name and version, for example `docker 20.10.24`; throws `engine.unreachable`.
    func version() async throws -> String
    /// What it says of itself; `nil` when it does not answer.
    func facts() async -> EngineFacts?
    /// The network of steps, where it is a bridge of this machine's own.
    func bridge() async -> InputProxy.Bridge?
    /// Which of its builders builds a Dockerfile.
    func builder(for dockerfile: String) -> EngineBuilder
    /// The control group, below the hierarchies' roots, in which a builder runs steps where the engine makes groups.
    func stepsGroup(of builder: EngineBuilder) -> String
    /// A command that builds, and speaks as its builder does.
    func build(_ order: EngineOrder) -> Command
    /// Ends what builds that were killed may have left running, or half made: those in a control group, or `nil` for all of them.
    func endBuilds(in group: String?) async

    /// An image's layers where the engine keeps them, or from an archive that it writes.
    ///
    /// - Parameters:
    ///   - machine: whose image is wanted, as the kernel names it.
    ///   - room: takes the archive, which has no name and goes with the image.
    ///   - say: is told when there is an archive, and why.
    func layers(of reference: String, machine: String, room: LayeredImage.Room, say: (String) async -> Void) async throws -> LayeredImage
    /// The engine's directory, where its layers can be read and given back one by one; `nil` where they cannot.
    func layerStore() async throws -> String?
    /// The digests of an image's layers, bottom first.
    func layerNames(of reference: String) async throws -> [Digest]
    /// The engine's own name of an image.
    func identifier(of reference: String) async throws -> String
    /// Bytes of all layers of an image.
    func size(_ reference: String) async throws -> Int64
    /// Whether the engine has an image of that name, for the architecture.
    func has(_ reference: String, _ architecture: String) async throws -> Bool
    /// Takes an image in from an archive that names it.
    func load(_ path: String) async throws
    /// The same from an archive's members, which lie in a directory.
    func load(_ members: [String], in directory: String) async throws
    /// Gives an image another name.
    func tag(_ reference: String, as other: String) async throws
    /// Removes a name; layers that nothing else names go with it.
    func untag(_ reference: String) async
    /// The same for all names that begin so.
    func untagAll(_ beginning: String) async
    /// Bytes that the engine's images and its builder's own layers take up.
    func usage() async throws -> (images: Int64, cache: Int64)
    /// Names of the images that builds of workers have left, and of their bases.
    func ownImages() async throws -> [String]
    /// Has the builder let go what it has used longest ago, but for so many bytes; and images without a name.
    ///
    /// - Parameter isAlone: nothing is being built that may stand on one of those.
    func prune(keeping bytes: Int64, isAlone: Bool) async throws
}

/// What an engine says of itself.
package struct EngineFacts: Sendable, Hashable {
    /// What it can do.
    package var labels: [String]
    /// What tells its store of layers from every other one: two engines of a machine may have the same name, and never the same directory.
    package var identity: String
    /// Where it keeps its images and what it builds.
    package var root: String
    /// Whether it makes control groups of steps where it is told to, below the hierarchies' roots.
    package var makesGroups: Bool
}

/// A program that builds from a Dockerfile.
package enum EngineBuilder: String, Sendable, Hashable, CaseIterable {
    case buildkit
    /// The Docker engine's own, of before BuildKit.
    case classic
    case buildah
}

/// A build that an engine shall run.
package struct EngineOrder: Sendable {
    package var architecture: String
    package var tag: String
    /// A file that gets the image's identifier.
    package var identifier: String
    package var dockerfile: String
    package var context: String
    /// An image whose steps the builder may take as done.
    package var restored: String?
    package var network = StepNetwork()
    package var limits: CageLimits
    /// The control group that steps shall run in; `nil` where they have none of ours.
    package var group: String?
    package var builder: EngineBuilder
    package var deadlineSeconds: Double
    package var silenceSeconds: Double
}

/// What steps reach.
package struct StepNetwork: Sendable, Hashable {
    package var isNone = false
    /// Variables that name the proxy. No builder counts them among what makes a step another one
    /// (https://docs.docker.com/engine/reference/builder/, "Predefined ARGs").
    package var variables: [String] = []

    package init(isNone: Bool = false, variables: [String] = []) {
        self.isNone = isNone
        self.variables = variables
    }
}

extension ContainerEngine {
    /// Makes an image of a root file system, with the same bytes everywhere. `docker import` would call it the engine's own
    /// architecture, whatever it is told, so that a builder for another would not find it.
    ///
    /// - Parameters:
    ///   - tar: moved into the archive of one layer (https://docs.docker.com/engine/api/v1.41/, "Image tarball format") that is loaded.
    ///   - digest: the tar's.
    ///   - scratch: a directory on the tar's file system.
    package func importBase(
        _ tar: String, digest: Digest, as reference: String, _ architecture: String, scratch: String
    ) async throws {
        let platform = enginePlatform(architecture).split(separator: "/").map(String.init)
        let directory = "\(scratch)/import"
        try Disk.remove(directory)
        try Disk.makeDirectory(directory)
        defer { try? Disk.remove(directory) }
        let created = "1970-01-01T00:00:00Z"
        let configuration =
            #"{"architecture":"\#(platform[1])","config":{},"created":"\#(created)","history":[{"created":"\#(created)"}],"os":"linux","rootfs":{"diff_ids":["sha256:\#(digest.hex)"],"type":"layers"}}"#
        try Disk.replace("\(directory)/config.json", with: Array(configuration.utf8))
        try Disk.replace(
            "\(directory)/manifest.json",
            with: Array(#"[{"Config":"config.json","Layers":["layer.tar"],"RepoTags":["\#(reference)"]}]"#.utf8))
        try Disk.hardLink(tar, "\(directory)/layer.tar")
        try await load(["manifest.json", "config.json", "layer.tar"], in: directory)
    }
}

/// An architecture as engines call a platform, for example `linux/arm64`.
package func enginePlatform(_ architecture: String) -> String {
    let name = Microarchitecture.named(architecture)?.ociPlatform ?? "linux/\(architecture)"
    return name.split(separator: "/").prefix(2).joined(separator: "/")
}

/// What an engine that did not do something is reported as.
func engineFailure(_ deed: String, _ says: String) -> FarmError {
    if says.lowercased().contains("no space left on device") {
        return FarmError("disk.full", .full, "the worker's disk is full: the engine cannot \(deed)", hint: "free space on the worker")
    }
    return FarmError(
        "engine.failed", .unavailable, "the engine cannot \(deed): \(says.split(separator: "\n").last.map(String.init) ?? "")")
}

/// `1.5GB` or `1.5 GB` as a number; 0 for what is none.
package func engineBytes(_ text: some StringProtocol) -> Int64 {
    let text = text.filter { !$0.isWhitespace }
    let number = text.prefix { $0.isNumber || $0 == "." }
    let units: [String: Double] = ["B": 1, "bytes": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12]
    let unit = units[String(text.dropFirst(number.count))] ?? 0
    return Int64((Double(String(number)) ?? 0) * unit)
}

extension WorkerConfiguration {
    /// The engine that is set.
    ///
    /// - Parameters:
    ///   - home: in which an engine without a daemon keeps its images.
    ///   - marks: put into the environment of everything that is started, so that it can be found again.
    package func containerEngine(home: WorkerHome, marks: [String: String]) -> any ContainerEngine {
        if builder == .buildah { return BuildahEngine(root: buildahRoot.isEmpty ? "\(home.root)/buildah" : buildahRoot, marks: marks) }
        return DockerEngine(program: docker, host: dockerHost, prefersClassic: builder == .classic, marks: marks)
    }
}

extension EngineBuilder: Codable {}

/// Which builder a Dockerfile needs.
package enum DockerfileNeeds {
    /// The first line of each instruction, in words.
    private static func instructions(_ dockerfile: String) -> [[Substring]] {
        var result: [[Substring]] = []
        var continues = false
        for line in dockerfile.split(separator: "\n") {
            let words = line.split(whereSeparator: \.isWhitespace)
            if !continues, !words.isEmpty { result.append(words) }
            // A remark within an instruction does not end it.
            continues = line.last == "\\" || continues && (words.first?.hasPrefix("#") ?? false)
        }
        return result
    }

    /// How many stages it has.
    package static func stages(_ dockerfile: String) -> Int { instructions(dockerfile).count { $0[0].uppercased() == "FROM" } }

    /// Whether it has something that only BuildKit (and buildah) know: mounts, here-documents, links, modes.
    package static func buildKit(_ dockerfile: String) -> Bool {
        instructions(dockerfile).contains { words in
            guard ["RUN", "COPY", "ADD"].contains(words[0].uppercased()) else { return false }
            let flags = words.dropFirst().prefix { $0.hasPrefix("--") }
            return flags.contains { !$0.hasPrefix("--from=") && !$0.hasPrefix("--chown=") }
                || words.dropFirst(1 + flags.count).contains { $0.hasPrefix("<<") && $0.count > 2 && !$0.hasPrefix("<<<") }
        }
    }
}
