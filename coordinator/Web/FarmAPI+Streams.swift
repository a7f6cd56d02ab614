import CoordinatorCore
import FarmModel
import Foundation
import HTTPTypes
import Hummingbird
import NIOCore
import SystemIO

extension FarmAPI {
    /// Section 1 of the worker protocol.
    func enrol(_ request: Request) async throws -> Response {
        let body: EnrolmentRequest = try await read(request, limit: 64 << 10)
        guard let csr = Data(base64Encoded: body.request) else {
            throw FarmError("identity.request", .invalid, "the certificate request is no base64")
        }
        let (certificate, worker) = try await coordinator.enrol(token: body.token, secret: body.secret, request: Array(csr))
        let endpoints = await coordinator.endpoints
        return try json(
            EnrolmentReply(
                certificate: certificate, worker: worker.rawValue, link: endpoints.link, api: endpoints.api,
                farm: coordinator.configuration.farm))
    }

    /// Takes a granted upload: to a file first, hashed on the way, then to its place.
    func upload(_ request: Request, _ context: BasicRequestContext) async throws -> Response {
        let parameters = context.parameters
        guard let attempt = AttemptID(try parameters.require("attempt")),
            let kind = UploadKind(rawValue: try parameters.require("kind")),
            let digest = Digest(try parameters.require("digest")), let size = Int64(try parameters.require("size")),
            let expires = Int64(try parameters.require("expires"))
        else { throw FarmError("upload.refused", .denied, "this upload was not granted") }
        let ticket = UploadTicket(attempt: attempt, kind: kind, digest: digest, size: size, expires: expires)
        try await coordinator.check(ticket, signature: request.uri.queryParameters.get("signature") ?? "")
        try await coordinator.requireOpen(attempt, kind)
        let path = "\(coordinator.home.uploads)/\(Nonce.hex(bytes: 12))"
        do {
            try await receive(request, to: path, ticket.digest, size: ticket.size)
            try await coordinator.accept(ticket, file: path)
            try Disk.remove(path)
        } catch {
            try? Disk.remove(path)
            throw error
        }
        return Response(status: .created)
    }

    /// Writes a request's body to a file; throws `upload.damaged` when it is not what was announced.
    func receive(_ request: Request, to path: String, _ digest: Digest, size: Int64) async throws {
        let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_EXCL)
        defer { file.close() }
        var hasher = Digest.Hasher()
        var received: Int64 = 0
        for try await buffer in request.body {
            received += Int64(buffer.readableBytes)
            guard received <= size else { break }
            let bytes = Array(buffer.readableBytesView)
            hasher.update(bytes)
            try await Blocking.run { try file.write(bytes) }
        }
        guard received == size, hasher.finish() == digest else {
            throw FarmError("upload.damaged", .unavailable, "the upload is not what was announced")
        }
        try await Blocking.run { try file.sync() }
    }

    /// A job's log: of `attempt` (the newest when not named), from `offset` on; with `follow=1` until the job ends.
    func log(_ request: Request, _ id: JobID) async throws -> Response {
        let view = try await coordinator.jobView(id)
        let source = view.job.joined ?? id
        let wanted = request.uri.queryParameters.get("attempt").flatMap { Int($0) }
        let follows = request.uri.queryParameters.get("follow") == "1"
        let offset = request.uri.queryParameters.get("offset").flatMap { Int64($0) } ?? 0
        let coordinator = coordinator
        return Response(
            status: .ok, headers: [.contentType: "text/plain; charset=utf-8"],
            body: .init { writer in
                var number = wanted ?? max(1, view.job.attempts)
                var position = offset
                while true {
                    let now = try await coordinator.jobView(source)
                    let isOver = now.job.state.isFinal || [.publishing, .verifying, .review].contains(now.job.state)
                    if wanted == nil, now.job.attempts > number {
                        number = now.job.attempts
                        position = 0
                    }
                    let attempt = AttemptID(job: source, number: number)
                    let start = position
                    let logs = coordinator.logs
                    let bytes = try await Blocking.run { try logs.read(attempt, from: start, limit: 1 << 18) }
                    if !bytes.isEmpty {
                        try await writer.write(ByteBuffer(bytes: bytes))
                        position += Int64(bytes.count)
                    } else if !follows || isOver || !(now.attempts.last?.isOpen ?? true) && wanted != nil {
                        break
                    } else {
                        try await Task.sleep(for: .milliseconds(150))
                    }
                }
                try await writer.finish(nil)
            })
    }
}
