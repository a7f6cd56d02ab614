package import FarmModel
package import ProcessRunner
import Foundation
import Glibc
package import ImageAssembly
import SystemIO

/// The Docker engine, through its own client, building with BuildKit or with the builder that it had before.
package struct DockerEngine: ContainerEngine {
    private let program: String
    private let host: String
    private let prefersClassic: Bool
    private let marks: [String: String]

    /// - Parameters:
    ///   - host: the engine's address, empty for the default.
    ///   - prefersClassic: builds with the classic builder what that understands.
    ///   - marks: put into the environment of everything that is started, so that it can be found again.
    package init(program: String, host: String, prefersClassic: Bool = false, marks: [String: String]) {
        self.program = program
        self.host = host
        self.prefersClassic = prefersClassic
        self.marks = marks
    }

    package func builder(for dockerfile: String) -> EngineBuilder {
        prefersClassic && !DockerfileNeeds.buildKit(dockerfile) ? .classic : .buildkit
    }

    package func stepsGroup(of builder: EngineBuilder) -> String {
        builder == .classic ? "/sciferry-builds" : BuildCage.usualGroup
    }

    package func build(_ order: EngineOrder) -> Command {
        var words = [
            "build", "--platform", enginePlatform(order.architecture), "--tag", order.tag, "--iidfile", order.identifier,
            "--file", order.dockerfile, "--network", order.network.isNone ? "none" : "default",
        ]
        words += order.network.variables.flatMap { ["--build-arg", $0] }
        if let restored = order.restored { words += ["--cache-from", restored] }
        switch order.builder {
        case .classic:
            // It takes limits itself; what it does not know of, the group has.
            words += ["--memory", "\(order.limits.memory)", "--memory-swap", "\(order.limits.memory)"]
            if order.limits.processors > 0 {
                words += ["--cpu-period", "100000", "--cpu-quota", "\(Int(order.limits.processors * 100_000))"]
            }
            if let group = order.group { words += ["--cgroup-parent", group] }
        // The builder's notes go into the image, so that other engines find its steps in its layers.
        default: words += ["--build-arg", "BUILDKIT_INLINE_CACHE=1"]
        }
        var command = command(
            words + [order.context], deadlineSeconds: order.deadlineSeconds, silenceSeconds: order.silenceSeconds)
        if order.builder == .classic { command.environment["DOCKER_BUILDKIT"] = "0" }
        return command
    }

    /// The engine ends a build whose client has gone.
    package func endBuilds(in group: String?) async {}

    /// A client command.
    package func command(_ arguments: [String], deadlineSeconds: Double? = nil, silenceSeconds: Double? = nil) -> Command {
        var environment: [String: String?] = [
            "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "DOCKER_CLI_HINTS": "false",
        ]
        for (name, value) in marks { environment[name] = value }
        if !host.isEmpty { environment["DOCKER_HOST"] = host }
        return Command(program, arguments, environment: environment, deadlineSeconds: deadlineSeconds, silenceSeconds: silenceSeconds)
    }

    /// Asks the engine about itself; `nil` when it does not answer.
    package func facts() async -> EngineFacts? {
        let format =
            "{{.ID}} {{.DockerRootDir}}\t{{.CgroupDriver}}\t{{.Driver}} cgroup{{.CgroupVersion}}{{range $name, $_ := .Runtimes}} {{$name}}{{end}}\t{{range .SecurityOptions}} {{.}}{{end}}"
        guard let seen = try? await ProcessRunner.run(command(["info", "--format", format], deadlineSeconds: 20)), seen.succeeded,
            let line = seen.text.split(separator: "\n").last
        else { return nil }
        let parts = line.split(separator: "\t", maxSplits: 3, omittingEmptySubsequences: false)
        let words = (parts.dropFirst(2).first ?? "").split(separator: " ").map(String.init)
        guard parts.count == 4, words.count >= 2 else { return nil }
        let runtimes = words.dropFirst(2).map { "runtime-\($0.lowercased())" }
        // Root of a container is nobody of the machine's.
        let isRemapped = parts[3].split(separator: " ").contains { $0.hasPrefix("name=userns") || $0.hasPrefix("name=rootless") }
        let labels = ["storage-\(words[0])", "cgroup-v\(words[1].dropFirst(6))"] + runtimes + (isRemapped ? ["userns"] : [])
        let root = parts[0].split(separator: " ", maxSplits: 1).last.map(String.init) ?? ""
        return EngineFacts(
            labels: labels.filter(LabelWish.isLabel), identity: String(parts[0]), root: root, makesGroups: parts[1] == "cgroupfs")
    }

    /// The network of steps, where it is a bridge of this machine's own.
    package func bridge() async -> InputProxy.Bridge? {
        let format =
            #"{{index .Options "com.docker.network.bridge.name"}} {{range .IPAM.Config}}{{.Gateway}} {{.Subnet}} {{end}}"#
        guard
            let said = try? await ProcessRunner.require(command(["network", "inspect", "--format", format, "bridge"], deadlineSeconds: 20))
        else { return nil }
        let words = (said.split(separator: "\n").last ?? "").split(separator: " ").map(String.init)
        // Of an engine elsewhere the bridge has a name that means nothing here, or another address.
        guard words.count >= 3, Disk.exists("/sys/class/net/\(words[0])"), (try? FreePort.find(on: words[1])) != nil else { return nil }
        return InputProxy.Bridge(name: words[0], address: words[1], subnet: words[2])
    }

    /// An image's layers where the engine keeps them, or from an archive that it writes when these cannot be read.
    ///
    /// - Parameters:
    ///   - machine: whose image is wanted, as the kernel names it.
    ///   - room: takes the archive, which has no name and goes with the image.
    ///   - say: is told when there is an archive, and why.
    package func layers(
        of reference: String, machine: String, room: LayeredImage.Room, say: (String) async -> Void
    ) async throws -> LayeredImage {
        do {
            let place = try await store(of: reference)
            return try await Blocking.run { try LayeredImage.engine(root: place.root, identifier: place.identifier) }
        } catch let error as FarmError where error.code == "image.engine" && error.category == .unavailable {
            await say("the engine writes an archive of the image: \(error.message)")
            let archive = "\(room.scratch)/sciferry-\(Nonce.hex(bytes: 8)).tar"
            defer { try? Disk.remove(archive) }
            try await save(reference, to: archive)
            var image = try await Blocking.run { try LayeredImage.archive(archive, machine: machine, room: room) }
            image.archiveBytes = Disk.size(archive) ?? 0
            return image
        }
    }

    /// The engine's directory, where its layers can be read one by one; `nil` where they cannot.
    package func layerStore() async throws -> String? {
        guard geteuid() == 0 else { return nil }
        let seen = try await ProcessRunner.require(command(["info", "--format", "{{.Driver}} {{.DockerRootDir}}"], deadlineSeconds: 60))
        let words = (seen.split(separator: "\n").last ?? "").split(separator: " ", maxSplits: 1).map(String.init)
        guard words.count == 2, words[0] == "overlay2", Disk.isDirectory("\(words[1])/image/overlay2") else { return nil }
        return words[1]
    }

    /// The digests of an image's layers, bottom first.
    package func layerNames(of reference: String) async throws -> [Digest] {
        let text = try await ProcessRunner.require(
            command(["image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", reference], deadlineSeconds: 60))
        return try text.split(whereSeparator: \.isWhitespace).map { word in
            guard let digest = Digest(word) else { throw FarmError("engine.failed", .corrupt, "the engine calls a layer \"\(word)\"") }
            return digest
        }
    }

    /// The engine's own name of an image.
    package func identifier(of reference: String) async throws -> String {
        try await ProcessRunner.require(command(["image", "inspect", "--format", "{{.Id}}", reference], deadlineSeconds: 60))
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Where the engine keeps an image: its directory, and its own name of the image. Throws `image.engine` when it keeps layers otherwise
    /// than in overlay2's directories.
    private func store(of reference: String) async throws -> (root: String, identifier: String) {
        let seen = try await ProcessRunner.require(command(["info", "--format", "{{.Driver}} {{.DockerRootDir}}"], deadlineSeconds: 60))
        let words = (seen.split(separator: "\n").last ?? "").split(separator: " ", maxSplits: 1).map(String.init)
        guard words.count == 2, words[0] == "overlay2" else {
            throw FarmError("image.engine", .unavailable, "the engine's driver is \(words.first ?? "unknown"), not overlay2")
        }
        return (words[1], try await identifier(of: reference))
    }

    /// Bytes of all layers of an image.
    package func size(_ reference: String) async throws -> Int64 {
        let text = try await ProcessRunner.require(
            command(["image", "inspect", "--format", "{{.Size}}", reference], deadlineSeconds: 60))
        return Int64(text.trimmingCharacters(in: .whitespacesAndNewlines)) ?? 0
    }

    /// The engine's version; throws `engine.unreachable`.
    package func version() async throws -> String {
        do {
            let text = try await ProcessRunner.require(
                command(["version", "--format", "{{.Server.Version}}"], deadlineSeconds: 20))
            return "docker \(text.split(separator: "\n").last.map(String.init) ?? "")"
        } catch let error as FarmError {
            throw FarmError(
                "engine.unreachable", .unavailable, "no Docker engine answers", hint: "start dockerd, or set dockerHost in worker.json",
                cause: error)
        }
    }

    /// Whether the engine has an image of that name, for the architecture.
    package func has(_ reference: String, _ architecture: String) async throws -> Bool {
        let seen = try await ProcessRunner.run(
            command(["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", reference], deadlineSeconds: 60))
        return seen.succeeded && seen.text.split(whereSeparator: \.isWhitespace).contains { $0 == enginePlatform(architecture) }
    }

    /// Takes an image in from an archive that names it.
    package func load(_ path: String) async throws {
        let result = try await ProcessRunner.run(command(["load", "--quiet", "--input", path], deadlineSeconds: 3600))
        guard !result.succeeded else { return }
        throw engineFailure("take in \(path)", result.text)
    }

    /// Takes an image in from an archive's members, which is never on the disk as a whole.
    package func load(_ members: [String], in directory: String) async throws {
        var load = command([], deadlineSeconds: 3600)
        load.arguments = ["-ec", "set -o pipefail; tar -C \"$1\" -cf - \"${@:3}\" | \"$2\" load", "load", directory, program] + members
        load.executable = "bash"
        let result = try await ProcessRunner.run(load)
        guard !result.succeeded else { return }
        throw engineFailure("take in an image", result.text)
    }

    /// Gives an image another name.
    package func tag(_ reference: String, as other: String) async throws {
        try await ProcessRunner.require(command(["tag", reference, other], deadlineSeconds: 60))
    }

    /// Removes a name; layers that nothing else names go with it.
    package func untag(_ reference: String) async {
        _ = try? await ProcessRunner.run(command(["rmi", "--no-prune", reference], deadlineSeconds: 120))
    }

    package func untagAll(_ beginning: String) async {
        let names = try? await ProcessRunner.require(
            command(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=\(beginning)*"], deadlineSeconds: 60))
        for name in (names ?? "").split(separator: "\n") { await untag(String(name)) }
    }

    /// Bytes that the engine's images and its builder's own layers take up.
    package func usage() async throws -> (images: Int64, cache: Int64) {
        let text = try await ProcessRunner.require(
            command(["system", "df", "--format", "{{.Type}}\t{{.Size}}"], deadlineSeconds: 120))
        var sizes: [String: Int64] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "\t")
            if parts.count == 2 { sizes[String(parts[0])] = engineBytes(parts[1]) }
        }
        return (sizes["Images"] ?? 0, sizes["Build Cache"] ?? 0)
    }

    /// Names of the images that builds of workers have left, and of their bases.
    package func ownImages() async throws -> [String] {
        let text = try await ProcessRunner.require(
            command(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=sciferry-*"], deadlineSeconds: 60))
        return text.split(separator: "\n").map(String.init).filter {
            $0.hasPrefix("sciferry-cache:") || $0.hasPrefix("sciferry-base:") || $0.hasPrefix("sciferry-layers:")
        }
    }

    /// Has the builder let go what it has used longest ago, but for so many bytes; and images without a name.
    package func prune(keeping bytes: Int64, isAlone: Bool) async throws {
        if isAlone || !prefersClassic { _ = try await ProcessRunner.run(command(["image", "prune", "--force"], deadlineSeconds: 600)) }
        try await ProcessRunner.require(
            command(["builder", "prune", "--all", "--force", "--keep-storage", "\(bytes)"], deadlineSeconds: 600))
    }

    /// Writes an image archive.
    package func save(_ reference: String, to path: String) async throws {
        let result = try await ProcessRunner.run(command(["save", "-o", path, reference], deadlineSeconds: 3600))
        guard !result.succeeded else { return }
        throw engineFailure("save the image to \(path)", result.text)
    }
}
