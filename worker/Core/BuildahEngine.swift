package import FarmModel
import Foundation
import Glibc
package import ImageAssembly
package import ProcessRunner
import SystemIO

/// buildah, which needs no daemon, with a store of the worker's own (https://github.com/containers/buildah/tree/main/docs, version 1.28).
/// It keeps layers of earlier builds; those of the farm it is not given, for it takes none but from registries.
package struct BuildahEngine: ContainerEngine {
    private let root: String
    private let marks: [String: String]

    /// - Parameters:
    ///   - root: a directory for its store, in which nobody else builds.
    ///   - marks: put into the environment of everything that is started, so that it can be found again.
    package init(root: String, marks: [String: String]) {
        self.root = root
        self.marks = marks
    }

    private func command(_ arguments: [String], deadlineSeconds: Double? = nil, silenceSeconds: Double? = nil) -> Command {
        Command(
            "buildah", ["--root", "\(root)/store", "--runroot", "\(root)/run"] + arguments, environment: marks.mapValues { $0 },
            deadlineSeconds: deadlineSeconds, silenceSeconds: silenceSeconds)
    }

    private func ask(_ arguments: [String]) async throws -> String {
        try await ProcessRunner.require(command(arguments, deadlineSeconds: 120)).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    package func version() async throws -> String {
        do {
            // `buildah version 1.28.2 (image-spec …)`
            let words = try await ask(["--version"]).split(separator: " ")
            return "buildah \(words.dropFirst(2).first ?? "")"
        } catch let error as FarmError {
            throw FarmError(
                "engine.unreachable", .unavailable, "there is no buildah", hint: "install buildah, or set builder in worker.json",
                cause: error)
        }
    }

    package func facts() async -> EngineFacts? {
        guard let driver = try? await ask(["info", "--format", "{{.store.GraphDriverName}}"]) else { return nil }
        let machine = Disk.kernelText("/etc/machine-id")?.trimmingCharacters(in: .whitespacesAndNewlines) ?? ""
        let version = Disk.exists("/sys/fs/cgroup/cgroup.controllers") ? 2 : 1
        return EngineFacts(
            labels: ["storage-\(driver)", "cgroup-v\(version)", "builder-buildah"].filter(LabelWish.isLabel),
            identity: "buildah \(Digest(hashing: "\(machine) \(root)").short)", root: root, makesGroups: geteuid() == 0)
    }

    /// Steps share the machine's own network.
    package func bridge() async -> InputProxy.Bridge? { InputProxy.Bridge(name: "lo", address: "127.0.0.1", subnet: "127.0.0.0/8") }

    package func builder(for dockerfile: String) -> EngineBuilder { .buildah }

    /// One of its own, so that what is left in it is known to be left by this store's builds.
    package func stepsGroup(of builder: EngineBuilder) -> String { "/sciferry-buildah-\(Digest(hashing: root).short)" }

    package func build(_ order: EngineOrder) -> Command {
        var words = [
            "bud", "--layers", "--pull-never", "--format", "docker", "--platform", enginePlatform(order.architecture), "--tag", order.tag,
            "--iidfile", order.identifier, "--file", order.dockerfile, "--network", order.network.isNone ? "none" : "host",
            "--memory", "\(order.limits.memory)", "--memory-swap", "\(order.limits.memory)",
        ]
        words += order.network.variables.flatMap { ["--build-arg", $0] }
        if order.limits.processors > 0 {
            words += ["--cpu-period", "100000", "--cpu-quota", "\(Int(order.limits.processors * 100_000))"]
        }
        if let group = order.group { words += ["--cgroup-parent", group] }
        return command(words + [order.context], deadlineSeconds: order.deadlineSeconds, silenceSeconds: order.silenceSeconds)
    }

    /// A step's processes outlive a buildah that was killed, and so does the container that it worked in; that of a build beside others stays
    /// until nothing is built.
    package func endBuilds(in group: String?) async {
        BuildCage.killAll(in: group ?? stepsGroup(of: .buildah))
        if group == nil { _ = try? await ProcessRunner.run(command(["rm", "--all"], deadlineSeconds: 300)) }
    }

    package func layers(
        of reference: String, machine: String, room: LayeredImage.Room, say: (String) async -> Void
    ) async throws -> LayeredImage {
        await say("buildah writes an archive of the image")
        let archive = "\(room.scratch)/sciferry-\(Nonce.hex(bytes: 8)).tar"
        defer { try? Disk.remove(archive) }
        let result = try await ProcessRunner.run(
            command(["push", "--quiet", reference, "docker-archive:\(archive)"], deadlineSeconds: 3600))
        guard result.succeeded else { throw engineFailure("save the image to \(archive)", result.text) }
        var image = try await Blocking.run { try LayeredImage.archive(archive, machine: machine, room: room) }
        image.archiveBytes = Disk.size(archive) ?? 0
        return image
    }

    package func layerStore() async throws -> String? { nil }

    package func layerNames(of reference: String) async throws -> [Digest] {
        let text = try await ask(["inspect", "--type", "image", "--format", "{{range .OCIv1.RootFS.DiffIDs}}{{.}} {{end}}", reference])
        return try text.split(whereSeparator: \.isWhitespace).map { word in
            guard let digest = Digest(word) else { throw FarmError("engine.failed", .corrupt, "buildah calls a layer \"\(word)\"") }
            return digest
        }
    }

    package func identifier(of reference: String) async throws -> String {
        try await ask(["inspect", "--type", "image", "--format", "{{.FromImageID}}", reference])
    }

    package func size(_ reference: String) async throws -> Int64 {
        let identifier = try await identifier(of: reference)
        let lines = try await ask(["images", "--all", "--no-trunc", "--format", "{{.ID}}\t{{.Size}}"]).split(separator: "\n")
        return lines.first { $0.contains(identifier) }.map { engineBytes($0.drop { $0 != "\t" }.dropFirst()) } ?? 0
    }

    package func has(_ reference: String, _ architecture: String) async throws -> Bool {
        let seen = try await ProcessRunner.run(
            command(
                ["inspect", "--type", "image", "--format", "{{.OCIv1.OS}}/{{.OCIv1.Architecture}}", reference], deadlineSeconds: 60))
        return seen.succeeded && seen.text.split(whereSeparator: \.isWhitespace).contains { $0 == enginePlatform(architecture) }
    }

    package func load(_ path: String) async throws {
        let result = try await ProcessRunner.run(command(["pull", "--quiet", "docker-archive:\(path)"], deadlineSeconds: 3600))
        guard result.succeeded else { throw engineFailure("take in \(path)", result.text) }
    }

    package func load(_ members: [String], in directory: String) async throws {
        let archive = "\(directory)/load-\(Nonce.hex(bytes: 4)).tar"
        defer { try? Disk.remove(archive) }
        try await ProcessRunner.require(Command("tar", ["-C", directory, "-cf", archive] + members, deadlineSeconds: 3600))
        try await load(archive)
    }

    package func tag(_ reference: String, as other: String) async throws { _ = try await ask(["tag", reference, other]) }

    package func untag(_ reference: String) async {
        _ = try? await ProcessRunner.run(command(["rmi", reference], deadlineSeconds: 120))
    }

    package func untagAll(_ beginning: String) async {
        for name in (try? await names()) ?? [] where name.hasPrefix(beginning) { await untag(name) }
    }

    /// What images are called, without the registry that buildah puts before names that have none.
    private func names() async throws -> [String] {
        try await ask(["images", "--format", "{{.Name}}:{{.Tag}}"]).split(separator: "\n").map {
            $0.hasPrefix("localhost/") ? String($0.dropFirst("localhost/".count)) : String($0)
        }
    }

    package func usage() async throws -> (images: Int64, cache: Int64) {
        let store = "\(root)/store"
        return (try await Blocking.run { Disk.exists(store) ? try Disk.treeSize(store) : 0 }, 0)
    }

    package func ownImages() async throws -> [String] {
        try await names().filter { $0.hasPrefix("sciferry-cache:") || $0.hasPrefix("sciferry-base:") }
    }

    /// It does not know what was used when: all goes, or nothing.
    package func prune(keeping bytes: Int64, isAlone: Bool) async throws {
        if isAlone { _ = try await ProcessRunner.run(command(["rmi", "--prune", "--force"], deadlineSeconds: 600)) }
    }
}
