package import FarmModel
import Foundation
import ImageAssembly
import ProcessRunner
package import Registry
import SystemIO

/// Finds out what a base image is, or makes it: the resolve step, on a trusted worker.
package struct BaseProvider: Sendable {
    private let registry: Registry
    private let scratch: String
    private let marks: [String: String]
    private let emulator: String?

    /// - Parameters:
    ///   - scratch: an empty directory with room for the image.
    ///   - emulator: what runs the base's programs, where it is for another architecture than the host's.
    package init(registry: Registry, scratch: String, marks: [String: String], emulator: String?) {
        self.registry = registry
        self.emulator = emulator
        self.scratch = scratch
        self.marks = marks
    }

    /// A resolved base and what the farm keeps of it: the tar of a root file system that was bootstrapped, or a `BaseArchive`.
    package struct Resolved: Sendable {
        package var input: LockedInput
        package var tar: String
    }

    /// The registry's image when one answers, else a bootstrapped root file system. Throws `base.unavailable`, `base.unreachable`.
    package func resolve(_ order: ResolveOrder, onOutput: @escaping @Sendable ([UInt8]) async -> Void) async throws -> Resolved {
        func say(_ text: String) async { await onOutput(Array("\(text)\n".utf8)) }
        guard var reference = ImageReference(order.name) else {
            throw AttemptFailure(
                Failure(.recipe, code: "base.unavailable", message: "\(order.name) is no name of an image; correct base-image"))
        }
        if let pinned = order.pinned { reference.digest = pinned }
        await say("asking \(reference.host) for \(order.name)")
        do { return try await fetch(reference, order, say) } catch let error as FarmError
            where error.category != .full && error.category != .cancelled
        {
            await say("\(reference.host): \(error.message)")
            guard order.bootstrap != nil, order.pinned == nil else { throw BaseProvider.refusal(order, error) }
        }
        guard let source = order.bootstrap else { preconditionFailure("who may not bootstrap has thrown") }
        await say("no registry offers \(order.name); bootstrapping \(source.title)")
        let tar = try await bootstrap(source, order.architecture, onOutput: onOutput)
        let digest = try await Blocking.run { try BaseProvider.digest(of: tar) }
        await say("bootstrapped \(order.name) as sha256:\(digest.hex)")
        return Resolved(
            input: LockedInput(
                kind: .base, name: order.name, architecture: order.architecture, digest: digest, size: Disk.size(tar) ?? 0,
                origin: .bootstrap, bootstrap: emulator.map { "\(source.title), emulated by \($0)" } ?? source.title, lockedAt: .now,
                emulator: emulator), tar: tar)
    }

    private func fetch(
        _ reference: ImageReference, _ order: ResolveOrder, _ say: (String) async -> Void
    ) async throws -> Resolved {
        let tar = "\(scratch)/base.tar"
        let digest = try await BaseArchive.write(
            reference, from: registry, machine: order.architecture, to: tar, room: .init(scratch: scratch)
        ) { BaseImage.engineName($0, order.architecture) }
        let archive = IncomingObject(digest: try await Blocking.run { try BaseProvider.digest(of: tar) }, size: Disk.size(tar) ?? 0)
        await say("\(order.name) is sha256:\(digest.hex), \(archive.size >> 20) MiB")
        var input = LockedInput(
            kind: .base, name: order.name, architecture: order.architecture, digest: digest, size: 0, origin: .registry, bootstrap: nil,
            lockedAt: .now)
        input.archive = archive
        return Resolved(input: input, tar: tar)
    }

    /// What a registry's refusal means for the recipe.
    private static func refusal(_ order: ResolveOrder, _ error: FarmError) -> any Error {
        if error.category.isTransient {
            return FarmError(
                "base.unreachable", .unavailable, "no registry answers for the base image \(order.name): \(error.message)",
                hint:
                    "check the worker's network, name a mirror under \"mirrors\" in farm.json, or let the farm bootstrap it: \"bootstrap\" there"
            )
        }
        let which = order.pinned.map { " sha256:\($0.hex)" } ?? ""
        return AttemptFailure(
            Failure(
                .recipe, code: "base.unavailable",
                message:
                    "no registry offers the base image \(order.name)\(which), and the farm may not bootstrap it (\(error.message)); check the name, or add it under \"bootstrap\" in farm.json"
            ))
    }

    private func bootstrap(
        _ source: BootstrapSource, _ architecture: String, onOutput: @escaping @Sendable ([UInt8]) async -> Void
    ) async throws -> String {
        let tar = "\(scratch)/base.tar"
        // That the machine's programs run here has been tried; mmdebstrap would want another program to try it with.
        let foreign = emulator != nil ? ["--architectures=\(BaseProvider.debianName(architecture))", "--skip=check/qemu"] : []
        var arguments = ["--variant=minbase", "--include=ca-certificates", "--mode=auto"] + foreign + [source.suite, tar]
        let mirror = source.mirror.replacingOccurrences(of: "{snapshot}", with: source.snapshot)
        if !mirror.isEmpty { arguments.append(mirror) }
        var environment: [String: String?] = ["SOURCE_DATE_EPOCH": String(BaseProvider.epoch(source.snapshot)), "TMPDIR": scratch]
        for (name, value) in marks { environment[name] = value }
        let result = try await ProcessRunner.run(
            Command("mmdebstrap", arguments, environment: environment, deadlineSeconds: 3600), onOutput: onOutput)
        guard result.succeeded, Disk.exists(tar) else {
            throw FarmError(
                "base.unavailable", .unavailable,
                "mmdebstrap cannot make \(source.suite): \(result.text.split(separator: "\n").last ?? "")",
                hint: "check the mirror under \"bootstrap\" in farm.json")
        }
        return tar
    }

    /// What Debian calls an architecture (https://wiki.debian.org/SupportedArchitectures).
    private static func debianName(_ architecture: String) -> String {
        ["x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"][architecture] ?? architecture
    }

    /// Seconds since 1970 of `YYYYMMDDTHHMMSSZ`; 0 when unreadable.
    package static func epoch(_ stamp: String) -> Int64 {
        let digits = stamp.filter(\.isNumber)
        guard digits.count == 14 else { return 0 }
        func part(_ from: Int, _ count: Int) -> Int { Int(digits.dropFirst(from).prefix(count)) ?? 0 }
        var components = DateComponents()
        components.calendar = Calendar(identifier: .gregorian)
        components.timeZone = TimeZone(secondsFromGMT: 0)
        (components.year, components.month, components.day) = (part(0, 4), part(4, 2), part(6, 2))
        (components.hour, components.minute, components.second) = (part(8, 2), part(10, 2), part(12, 2))
        return Int64(components.date?.timeIntervalSince1970 ?? 0)
    }

    /// SHA-256 of a file; blocks.
    package static func digest(of path: String) throws -> Digest {
        let file = try OpenFile(path, flags: O_RDONLY)
        defer { file.close() }
        let size = try file.size()
        var hasher = Digest.Hasher()
        var position: Int64 = 0
        while position < size {
            let bytes = try file.read(at: position, count: Int(min(4 << 20, size - position)))
            hasher.update(bytes)
            position += Int64(bytes.count)
        }
        return hasher.finish()
    }
}

/// A failure whose class is known where it happens.
package struct AttemptFailure: Error, Sendable {
    package let failure: Failure
    package init(_ failure: Failure) { self.failure = failure }
}
