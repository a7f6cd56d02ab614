import Foundation
import Glibc
import HTTPTransport
import FarmModel
import Registry
import SystemIO
import Upstream

extension BuildPipeline {
    func resolve(_ order: ResolveOrder) async throws -> LockedInput {
        await enter(.base, order.name)
        let log = log
        switch order.kind {
        case .base:
            let context = context
            let registry = Registry(
                client: context.client, credentials: try RegistryCredentials(environment: ProcessInfo.processInfo.environment),
                mirrors: order.mirrors ?? [:]
            ) { words in
                await log.say(words)
                await context.report(.base, 0, words)
            }
            let provider = BaseProvider(
                registry: registry, scratch: directory, marks: marks,
                emulator: order.bootstrap == nil ? nil : try emulator(for: order.architecture)?.emulator)
            let resolved = try await provider.resolve(order) { await log.write($0) }
            let input = resolved.input
            // The worker that will build is often this one.
            try await importBase(
                BaseImage(name: order.name, digest: input.digest, origin: input.origin, size: input.size, bootstrap: nil), resolved.tar,
                order.architecture)
            await enter(.upload, "the base image")
            let kept = input.archive ?? IncomingObject(digest: input.digest, size: input.size)
            _ = try await uploader.send(
                .file(path: resolved.tar, offset: 0, count: kept.size), kind: "input", digest: kept.digest, size: kept.size)
            return input
        case .git:
            let commit: String
            do { commit = try await GitReferences.commit(order.name, client: context.client) } catch let error as FarmError {
                throw AttemptFailure(Failure(error.category.isTransient ? .infrastructure : .recipe, error))
            }
            await log.say("\(order.name) is \(commit)")
            return LockedInput(
                kind: .git, name: order.name, architecture: order.architecture, digest: Digest(hashing: commit), size: 0,
                origin: .registry, bootstrap: nil, commit: commit, lockedAt: .now)
        case .download:
            let path = "\(directory)/download"
            let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
            let limits = HTTPClient.DownloadLimits(
                size: 64 << 30, deadline: Timestamp.now.adding(seconds: context.configuration.buildHours * 3600))
            let response: HTTPResponse
            do {
                response = try await context.client.download(order.name, to: file, limits: limits, policy: RetryPolicy(attempts: 3))
            } catch let error as FarmError {
                throw AttemptFailure(Failure(error.category == .invalid ? .recipe : .infrastructure, error))
            }
            try file.sync()
            file.close()
            guard response.isSuccess else {
                let isTransient = RetryPolicy.isTransient(status: response.status)
                throw AttemptFailure(
                    Failure(
                        isTransient ? .infrastructure : .recipe, code: "download.failed",
                        message: "\(order.name) answers with status \(response.status); correct the URL"))
            }
            let digest = try await Blocking.run { try BaseProvider.digest(of: path) }
            let size = Disk.size(path) ?? 0
            await enter(.upload, order.name)
            _ = try await uploader.send(.file(path: path, offset: 0, count: size), kind: "input", digest: digest, size: size)
            return LockedInput(
                kind: .download, name: order.name, architecture: order.architecture, digest: digest, size: size, origin: .registry,
                bootstrap: nil, lockedAt: .now)
        }
    }
}
