package import FarmIdentity
package import FarmMessages
package import FarmModel
import FarmWire
package import Logging
package import NIOCore
import NIOPosix
package import NIOSSL

/// What the coordinator does with what workers say. Calls for one connection come one after the other, except that
/// fetches and questions run beside them.
package protocol LinkServerDelegate: Sendable {
    /// Lets a worker in; throws `identity.revoked` and the like.
    func admit(_ certificate: IssuedCertificate) async throws -> WorkerName
    /// A worker said hello; `session` lives as long as its connection.
    func hello(_ worker: WorkerName, facts: HostFacts, process: String, session: LinkServerSession) async throws -> Sciferry_V1_Welcome
    func state(_ worker: WorkerName, _ report: WorkerReport, session: LinkServerSession) async throws -> DesiredWork
    /// The bytes of a blob or an object, piece by piece.
    func send(_ source: FetchSource, worker: WorkerName, piece: @Sendable ([UInt8]) async throws -> Void) async throws
    /// Checks that a log may be appended from an offset.
    func openLog(_ attempt: AttemptID, offset: Int64, worker: WorkerName) async throws
    func appendLog(_ attempt: AttemptID, _ bytes: [UInt8], worker: WorkerName) async throws
    func answer(_ question: Sciferry_V1_Ask, worker: WorkerName) async throws -> Sciferry_V1_Answer
    func closed(_ worker: WorkerName, session: LinkServerSession) async
}

/// The handle by which the coordinator reaches one connected worker.
package final class LinkServerSession: Sendable {
    private let connection: LinkConnection
    private let channel: any Channel

    init(connection: LinkConnection, channel: any Channel) {
        self.connection = connection
        self.channel = channel
    }

    /// Tells the worker at once what it should be doing.
    package func push(_ desired: DesiredWork) async {
        guard let message = try? Sciferry_V1_DesiredState(desired), let frame = try? Frame(.desired, message) else { return }
        try? await connection.send(frame)
    }

    /// Says why and closes.
    package func dismiss(_ error: FarmError) async {
        try? await connection.send(.goodbye(error))
        channel.close(promise: nil)
    }
}

/// Listens for workers.
package struct LinkServer: Sendable {
    /// Where to listen and how long to bear silence.
    package struct Configuration: Sendable {
        package var host: String
        package var port: Int
        package var silenceSeconds: Int64

        package init(host: String, port: Int, silenceSeconds: Int64) {
            self.host = host
            self.port = port
            self.silenceSeconds = silenceSeconds
        }
    }

    private let configuration: Configuration
    private let context: NIOSSLContext
    private let delegate: any LinkServerDelegate
    private let logger: Logger
    private let group: any EventLoopGroup

    package init(
        _ configuration: Configuration, context: NIOSSLContext, delegate: any LinkServerDelegate, group: any EventLoopGroup,
        logger: Logger
    ) {
        self.configuration = configuration
        self.context = context
        self.delegate = delegate
        self.group = group
        self.logger = logger
    }

    /// Serves until the task is cancelled.
    ///
    /// - Parameter listening: called once with the port, which differs from the configured one when that is 0.
    package func run(listening: @Sendable (Int) async -> Void) async throws {
        let context = context
        let logger = logger
        let silence = configuration.silenceSeconds
        let server: NIOAsyncChannel<NIOAsyncChannel<Frame, Frame>, Never>
        do {
            server = try await ServerBootstrap(group: group)
                .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
                .bind(host: configuration.host, port: configuration.port) { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let peer = channel.remoteAddress?.description ?? "unknown"
                        let pipeline = channel.pipeline.syncOperations
                        try pipeline.addHandler(NIOSSLServerHandler(context: context))
                        try pipeline.addHandler(
                            HandshakeGate { code, reason in
                                logger.warning(
                                    code == "link.handshake" ? "link handshake refused" : "link refused",
                                    metadata: ["error.code": "\(code)", "reason": "\(reason)", "peer": "\(peer)"])
                            })
                        try pipeline.addHandler(IdleStateHandler(readTimeout: .seconds(silence)))
                        try pipeline.addHandler(IdleCloser())
                        try pipeline.addHandler(
                            ByteToMessageHandler(FrameDecoder(), maximumBufferSize: 4 * WireProtocol.largestBody))
                        try pipeline.addHandler(MessageToByteHandler(FrameEncoder()))
                        return try NIOAsyncChannel<Frame, Frame>(wrappingChannelSynchronously: channel)
                    }
                }
        } catch {
            throw FarmError(
                "link.listen", .unavailable, "cannot listen on \(configuration.host):\(configuration.port)",
                hint: "is another coordinator running? set link.port in the farm's configuration", cause: error)
        }
        await listening(server.channel.localAddress?.port ?? configuration.port)
        try await server.executeThenClose { inbound in
            try await withThrowingDiscardingTaskGroup { tasks in
                for try await connection in inbound { tasks.addTask { await serve(connection) } }
            }
        }
    }

    private func serve(_ channel: NIOAsyncChannel<Frame, Frame>) async {
        let peer = channel.channel.remoteAddress?.description ?? "unknown"
        do {
            try await channel.executeThenClose { inbound, outbound in
                let connection = LinkConnection(role: .coordinator, writer: outbound)
                let session = LinkServerSession(connection: connection, channel: channel.channel)
                var worker: WorkerName?
                let deadline = channel.channel.eventLoop.scheduleTask(in: .seconds(WireProtocol.helloSeconds)) {
                    channel.channel.close(promise: nil)
                }
                defer { deadline.cancel() }
                do {
                    // Discarding: a connection lives for days and asks thousands of times.
                    try await withThrowingDiscardingTaskGroup { tasks in
                        var logs: [UInt32: AttemptID] = [:]
                        // Tasks that wait for a window must hear of the end, or the group would wait for them for ever.
                        do {
                            for try await frame in inbound {
                                guard let event = try await connection.receive(frame) else { continue }
                                if worker == nil {
                                    let certificate = try await LinkPeer.certificate(of: channel.channel)
                                    worker = try await delegate.admit(certificate)
                                    deadline.cancel()
                                }
                                guard let worker else { continue }
                                try await handle(event, worker, connection, session, &logs, &tasks)
                            }
                        } catch {
                            await connection.fail(error)
                            throw error
                        }
                        await connection.fail(FarmError("link.closed", .unavailable, "the connection is closed"))
                        tasks.cancelAll()
                    }
                } catch {
                    let known = error as? FarmError ?? FarmError("link.broken", .unavailable, "the connection broke", cause: error)
                    logger.warning(
                        "link refused",
                        metadata: [
                            "error.code": "\(known.code.rawValue)", "reason": "\(known.message)", "peer": "\(peer)",
                            "worker.name": "\(worker?.rawValue ?? "unknown")",
                        ])
                    try? await outbound.write(.goodbye(known))
                }
                if let worker { await delegate.closed(worker, session: session) }
            }
        } catch {
            logger.debug("link closed", metadata: ["peer": "\(peer)", "reason": "\(error)"])
        }
    }

    private func handle(
        _ event: LinkSession.Event, _ worker: WorkerName, _ connection: LinkConnection, _ session: LinkServerSession,
        _ logs: inout [UInt32: AttemptID], _ tasks: inout ThrowingDiscardingTaskGroup<any Error>
    ) async throws {
        switch event {
        case .hello(let hello):
            guard hello.versions.contains(UInt32(WireProtocol.version)) else {
                throw FarmError("protocol.version", .invalid, "the worker speaks versions \(hello.versions)")
            }
            guard hello.worker == worker.rawValue else {
                throw FarmError("protocol.name", .denied, "the worker calls itself \(hello.worker), its certificate says \(worker)")
            }
            let welcome = try await delegate.hello(worker, facts: hello.facts.model, process: hello.process, session: session)
            await connection.welcomed()
            try await connection.send(Frame(.welcome, welcome))
        case .state(let report):
            let desired = try await delegate.state(worker, report, session: session)
            try await connection.send(Frame(.desired, try Sciferry_V1_DesiredState(desired)))
        case .fetch(let stream, let source):
            tasks.addTask { await send(source, worker, connection, stream) }
        case .log(let stream, let attempt, let offset):
            do {
                try await delegate.openLog(attempt, offset: offset, worker: worker)
                logs[stream] = attempt
            } catch let error as FarmError {
                try await connection.end(stream, error)
            }
        case .data(let stream, let body):
            guard let attempt = logs[stream] else { return }
            do {
                try await delegate.appendLog(attempt, Array(body.readableBytesView), worker: worker)
                try await connection.consumed(body.readableBytes, on: stream)
            } catch let error as FarmError {
                logs[stream] = nil
                try await connection.end(stream, error)
            }
        case .end(let stream, _, _): logs[stream] = nil
        case .ask(let stream, let question):
            tasks.addTask {
                let answer: Sciferry_V1_Answer
                do { answer = try await delegate.answer(question, worker: worker) } catch { answer = .failing(error) }
                await connection.close(stream)
                try? await connection.send(Frame(.answer, stream: stream, answer))
            }
        case .goodbye(let code, let message):
            logger.info("worker said goodbye", metadata: ["worker.name": "\(worker)", "error.code": "\(code)", "reason": "\(message)"])
        case .welcome, .desired, .answer, .window: break
        }
    }

    private func send(_ source: FetchSource, _ worker: WorkerName, _ connection: LinkConnection, _ stream: UInt32) async {
        do {
            try await delegate.send(source, worker: worker) { try await connection.sendData($0, on: stream) }
            try await connection.end(stream)
        } catch {
            let known = error as? FarmError ?? FarmError("blob.failed", .unavailable, "the blob cannot be sent", cause: error)
            try? await connection.end(stream, known)
        }
    }
}

extension Sciferry_V1_Answer {
    static func failing(_ error: any Error) -> Sciferry_V1_Answer {
        var answer = Sciferry_V1_Answer()
        let known = error as? FarmError
        answer.failure.code = known?.code.rawValue ?? "coordinator.fault"
        answer.failure.message = known?.message ?? "\(error)"
        return answer
    }
}

/// Closes a connection on which nothing has come for the silence limit.
final class IdleCloser: ChannelInboundHandler {
    typealias InboundIn = NIOAny

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is IdleStateHandler.IdleStateEvent { context.close(promise: nil) }
        context.fireUserInboundEventTriggered(event)
    }
}
