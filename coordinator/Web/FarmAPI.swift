import FarmIdentity
package import CoordinatorCore
import FarmModel
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdTLS
package import Logging
import NIOCore
import NIOSSL

/// The coordinator's HTTPS API (`docs/api.md` lists the routes). Every route but the authority, enrolment and signed
/// uploads wants a bearer token; the role it needs stands beside the route.
package struct FarmAPI: Sendable {
    let coordinator: Coordinator
    private let logger: Logger
    static let submissionLimit = 64 << 20

    package init(_ coordinator: Coordinator, logger: Logger) {
        self.coordinator = coordinator
        self.logger = logger
    }

    /// Serves until cancelled or told to shut down gracefully.
    ///
    /// - Parameter listening: called once with the port.
    package func run(
        host: String, port: Int, certificatePEM: String, keyPEM: String, listening: @escaping @Sendable (Int) async -> Void
    ) async throws {
        let router = Router()
        router.middlewares.add(ErrorMiddleware(logger: logger))
        addRoutes(to: router)
        var tls = TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMBytes(Array(certificatePEM.utf8)).map { .certificate($0) },
            privateKey: .privateKey(try NIOSSLPrivateKey(bytes: Array(keyPEM.utf8), format: .pem)))
        tls.minimumTLSVersion = .tlsv12
        tls.applicationProtocols = ["http/1.1"]
        let application = Application(
            router: router, server: try .tls(.http1(), tlsConfiguration: tls),
            configuration: .init(address: .hostname(host, port: port), serverName: "sciferry"),
            onServerRunning: { channel in await listening(channel.localAddress?.port ?? port) }, logger: logger)
        do { try await application.run() } catch let error as IOError {
            throw FarmError(
                "api.listen", .unavailable, "cannot listen on \(host):\(port)",
                hint: "is another coordinator running? set apiPort in the farm's configuration", cause: error)
        }
    }

    private func addRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.get("api/v1/authority") { _, _ in
            Response(
                status: .ok, headers: [.contentType: "application/x-pem-file"],
                body: .init(byteBuffer: ByteBuffer(string: coordinator.authority.pem)))
        }
        router.post("api/v1/enrol") { request, _ in try await enrol(request) }
        router.put("upload/:attempt/:kind/:digest/:size/:expires") { request, context in try await upload(request, context) }
        router.get("api/v1/farm") { request, _ in
            try await require(.reader, request)
            return try json(await coordinator.farmView())
        }
        addJobRoutes(to: router)
        addWorkerRoutes(to: router)
        addNightRoutes(to: router)
        addImportRoutes(to: router)
        addCollectionRoutes(to: router)
        addTestRoutes(to: router)
        addRegionRoutes(to: router)
        router.get("api/v1/releases") { request, _ in
            try await require(.reader, request)
            return try json(await coordinator.releaseViews())
        }
        router.post("api/v1/yank") { request, _ in
            let holder = try await require(.releaser, request)
            let body: YankRequest = try await read(request)
            return try json(try await coordinator.yank(body, by: holder.name))
        }
        router.get("api/v1/records/:digest") { request, context in
            try await require(.reader, request)
            let text = try context.parameters.require("digest")
            guard let digest = Digest(text) else { throw FarmError("record.name", .usage, "\"\(text)\" is no digest") }
            return Response(
                status: .ok, headers: [.contentType: "application/json"],
                body: .init(byteBuffer: ByteBuffer(bytes: try await coordinator.record(digest))))
        }
        router.post("api/v1/access") { request, _ in
            try await require(.admin, request)
            let body: AccessRequest = try await read(request)
            return try json(AccessReply(token: try await coordinator.newAccess(name: body.name, role: body.role)))
        }
    }

    private func addJobRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.get("api/v1/jobs") { request, _ in
            try await require(.reader, request)
            let query = request.uri.queryParameters
            if query["open"] != nil { return try json(try await coordinator.openJobViews()) }
            let before = query["before"].flatMap { Int($0) } ?? .max
            let limit = min(1000, max(1, query["limit"].flatMap { Int($0) } ?? 200))
            return try json(try await coordinator.jobViews(before: before, limit: limit))
        }
        router.post("api/v1/jobs") { request, _ in
            let holder = try await require(.contributor, request)
            let submission: Submission = try await read(request, limit: FarmAPI.submissionLimit)
            // Whoever may ask for candidates only must not move what releases are built from either.
            if holder.role < .maintainer, !(submission.isCandidate ?? false) || submission.isPrivileged {
                throw FarmError(
                    "api.role", .denied, "\(holder.name) is contributor and may ask for candidates only, with the inputs that are locked",
                    hint: "sciferry build --candidate")
            }
            return try json(try await coordinator.submit(submission, by: holder.name))
        }
        router.get("api/v1/candidates") { request, _ in
            try await require(.reader, request)
            return try json(try await coordinator.candidateViews())
        }
        router.post("api/v1/jobs/:id/promote") { request, context in
            let holder = try await require(.releaser, request)
            let body: PromotionRequest = try await read(request)
            return try json(try await coordinator.promote(JobID(try context.parameters.require("id")), body, by: holder.name))
        }
        router.post("api/v1/locks") { request, _ in
            let holder = try await require(.maintainer, request)
            let submission: Submission = try await read(request, limit: FarmAPI.submissionLimit)
            return try json(try await coordinator.lock(submission, by: holder.name))
        }
        router.get("api/v1/jobs/:id") { request, context in
            try await require(.reader, request)
            return try json(try await coordinator.jobView(JobID(try context.parameters.require("id"))))
        }
        router.get("api/v1/jobs/:id/submission") { request, context in
            try await require(.reader, request)
            return try json(try await coordinator.submission(of: JobID(try context.parameters.require("id"))))
        }
        router.get("api/v1/jobs/:id/why") { request, context in
            try await require(.reader, request)
            return try json(try await coordinator.explanation(of: JobID(try context.parameters.require("id"))))
        }
        router.post("api/v1/jobs/:id/cancel") { request, context in
            let holder = try await require(.contributor, request)
            let id = JobID(try context.parameters.require("id"))
            if try await !coordinator.isCandidate(id, of: holder.name) { try await require(.maintainer, request) }
            try await coordinator.cancel(id, by: holder.name)
            return Response(status: .noContent)
        }
        router.get("api/v1/jobs/:id/log") { request, context in
            try await require(.reader, request)
            return try await log(request, JobID(try context.parameters.require("id")))
        }
    }

    private func addWorkerRoutes(to router: Router<BasicRequestContext>) {
        let coordinator = coordinator
        router.get("api/v1/workers") { request, _ in
            try await require(.reader, request)
            return try json(await coordinator.workerViews())
        }
        router.post("api/v1/tokens") { request, _ in
            try await require(.operator, request)
            let body: JoinTokenRequest = try await read(request)
            let (token, expires) = try await coordinator.newJoinToken(
                worker: body.worker, trusted: body.trusted, minutes: body.minutes)
            return try json(JoinTokenReply(token: token.text, expiresAt: expires))
        }
        router.post("api/v1/workers/:name/:deed") { request, context in
            try await require(.operator, request)
            let name = WorkerName(try context.parameters.require("name"))
            switch try context.parameters.require("deed") {
            case "drain": try await coordinator.drain(name, true)
            case "resume": try await coordinator.drain(name, false)
            case "revoke": try await coordinator.revoke(name)
            default: throw HTTPError(.notFound)
            }
            return Response(status: .noContent)
        }
    }

    // MARK: tools for routes

    /// The token's holder; throws unless its role is at least `role`.
    @discardableResult
    func require(_ role: AccessRole, _ request: Request) async throws -> AccessRecord {
        let header = request.headers[.authorization] ?? ""
        guard header.hasPrefix("Bearer "), let holder = await coordinator.holder(ofToken: String(header.dropFirst(7))) else {
            throw FarmError(
                "api.token", .denied, "the request has no valid token", hint: "set SCIFERRY_TOKEN, or name the farm's home with --home")
        }
        guard holder.role >= role else {
            throw FarmError("api.role", .denied, "this needs the role \(role.rawValue); \(holder.name) is \(holder.role.rawValue)")
        }
        return holder
    }

    func read<Value: Decodable>(_ request: Request, limit: Int = 1 << 20) async throws -> Value {
        let body: ByteBuffer
        do { body = try await request.body.collect(upTo: limit) } catch {
            throw FarmError("api.body", .invalid, "the request's body is longer than \(limit) bytes or broke off", cause: error)
        }
        return try CanonicalJSON.decode(from: Array(body.readableBytesView), source: "the request")
    }

    func json(_ value: some Encodable) throws -> Response {
        Response(
            status: .ok, headers: [.contentType: "application/json"],
            body: .init(byteBuffer: ByteBuffer(bytes: try CanonicalJSON.encode(value))))
    }
}

/// Turns our errors into their statuses and documents.
struct ErrorMiddleware: RouterMiddleware {
    typealias Context = BasicRequestContext
    let logger: Logger

    func handle(
        _ request: Request, context: Context, next: (Request, Context) async throws -> Response
    ) async throws -> Response {
        do { return try await next(request, context) } catch let error as FarmError {
            logger.info(
                "request refused",
                metadata: ["path": "\(request.uri.path)", "error.code": "\(error.code.rawValue)", "reason": "\(error.message)"])
            let body = try CanonicalJSON.encode(ErrorDocument(error))
            return Response(
                status: .init(code: error.category.httpStatus), headers: [.contentType: "application/json"],
                body: .init(byteBuffer: ByteBuffer(bytes: body)))
        }
    }
}
