package import FarmMessages
import FarmModel
import FarmIdentity
import FarmWire
package import NIOCore
import NIOPosix
package import NIOSSL

/// The worker's end of one connection, from the handshake to its end. Reconnecting is the owner's business.
package struct LinkClient: Sendable {
    private let host: String
    private let port: Int
    private let context: NIOSSLContext
    private let group: any EventLoopGroup

    package init(host: String, port: Int, context: NIOSSLContext, group: any EventLoopGroup) {
        self.host = host
        self.port = port
        self.context = context
        self.group = group
    }

    /// Connects, says hello and calls `body` with the open connection; ends when `body` does or the connection breaks.
    ///
    /// - Parameters:
    ///   - onDesired: called for every DESIRED, in order.
    /// - Throws: `link.unreachable`, the coordinator's GOODBYE as an error with its code, or what `body` throws.
    package func run(
        hello: Sciferry_V1_Hello, onDesired: @escaping @Sendable (DesiredWork) async -> Void,
        body: @escaping @Sendable (LinkConnection, Sciferry_V1_Welcome) async throws -> Void
    ) async throws {
        let channel = try await connect()
        try await channel.executeThenClose { inbound, outbound in
            let connection = LinkConnection(role: .worker, writer: outbound)
            do {
                try await connection.send(Frame(.hello, hello))
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    let (welcomes, welcome) = AsyncThrowingStream<Sciferry_V1_Welcome, any Error>.makeStream()
                    tasks.addTask {
                        do {
                            try await read(inbound, connection, welcome, channel.channel, onDesired)
                        } catch {
                            welcome.finish(throwing: error)
                            throw error
                        }
                    }
                    tasks.addTask {
                        let deadline = Task {
                            try await Task.sleep(for: .seconds(WireProtocol.helloSeconds))
                            welcome.finish(
                                throwing: FarmError(
                                    "link.silent", .unavailable, "no WELCOME within \(WireProtocol.helloSeconds) s"))
                        }
                        defer { deadline.cancel() }
                        for try await message in welcomes {
                            deadline.cancel()
                            return try await body(connection, message)
                        }
                    }
                    defer { tasks.cancelAll() }
                    try await tasks.next()
                }
            } catch {
                await connection.fail(error)
                if let error = error as? FarmError, error.code.rawValue.hasPrefix("protocol.") {
                    try? await outbound.write(.goodbye(error))
                }
                throw LinkConnection.broken(error)
            }
            await connection.fail(FarmError("link.closed", .unavailable, "the connection is closed"))
        }
    }

    private func connect() async throws -> NIOAsyncChannel<Frame, Frame> {
        let context = context
        do {
            return try await ClientBootstrap(group: group).connectTimeout(.seconds(5)).connect(host: host, port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    let pipeline = channel.pipeline.syncOperations
                    try pipeline.addHandler(NIOSSLClientHandler(context: context, serverHostname: nil))
                    try pipeline.addHandler(
                        ByteToMessageHandler(FrameDecoder(), maximumBufferSize: 4 * WireProtocol.largestBody))
                    try pipeline.addHandler(MessageToByteHandler(FrameEncoder()))
                    return try NIOAsyncChannel<Frame, Frame>(wrappingChannelSynchronously: channel)
                }
            }
        } catch {
            throw FarmError("link.unreachable", .unavailable, "cannot reach the coordinator at \(host):\(port)", cause: error)
        }
    }

    private func read(
        _ inbound: NIOAsyncChannelInboundStream<Frame>, _ connection: LinkConnection,
        _ welcome: AsyncThrowingStream<Sciferry_V1_Welcome, any Error>.Continuation, _ channel: any Channel,
        _ onDesired: @Sendable (DesiredWork) async -> Void
    ) async throws {
        for try await frame in inbound {
            guard let event = try await connection.receive(frame) else { continue }
            switch event {
            case .welcome(let message):
                let peer = try await LinkPeer.certificate(of: channel)
                guard peer.identity == .coordinator else {
                    throw FarmError("protocol.name", .denied, "the peer is \(peer.identity), not the coordinator")
                }
                welcome.yield(message)
            case .desired(let desired): await onDesired(desired)
            case .goodbye(let code, let message):
                throw FarmError(.init(rawValue: code), .denied, "the coordinator says: \(message)")
            default: break
            }
        }
        throw FarmError("link.closed", .unavailable, "the coordinator closed the connection")
    }
}
