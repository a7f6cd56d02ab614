package import FarmMessages
package import FarmModel
package import FarmWire
import Foundation
import NIOCore

/// One connection: its session, its writer, and those who wait for windows and answers. The session's rules are judged
/// under this actor; reading and writing happen outside.
package actor LinkConnection {
    private var session: LinkSession
    private let writer: NIOAsyncChannelOutboundWriter<Frame>
    private var windowWaiters: [UInt32: CheckedContinuation<Void, any Error>] = [:]
    private var answerWaiters: [UInt32: CheckedContinuation<Sciferry_V1_Answer, any Error>] = [:]
    private var receivers: [UInt32: AsyncThrowingStream<[UInt8], any Error>.Continuation] = [:]
    private var closed: (any Error)?
    /// Why the peer ended streams that somebody of ours may still write to.
    private var endings: [UInt32: FarmError] = [:]

    init(role: LinkSession.Role, writer: NIOAsyncChannelOutboundWriter<Frame>) {
        session = LinkSession(role: role)
        self.writer = writer
    }

    /// Judges a frame and settles what waits for it; returns what the owner must act on.
    func receive(_ frame: Frame) throws -> LinkSession.Event? {
        guard let event = try session.receive(frame) else { return nil }
        switch event {
        case .window(let stream):
            windowWaiters.removeValue(forKey: stream)?.resume()
            return nil
        case .answer(let stream, let answer):
            answerWaiters.removeValue(forKey: stream)?.resume(returning: answer)
            return nil
        case .data(let stream, let body):
            guard let receiver = receivers[stream] else { return event }
            receiver.yield(Array(body.readableBytesView))
            return nil
        case .end(let stream, let code, let message):
            let error = code.isEmpty ? nil : FarmError(.init(rawValue: code), .unavailable, message)
            receivers.removeValue(forKey: stream)?.finish(throwing: error)
            let ending = error ?? FarmError("stream.ended", .unavailable, "the peer ended the stream")
            endings[stream] = ending
            windowWaiters.removeValue(forKey: stream)?.resume(throwing: ending)
            return event
        default: return event
        }
    }

    /// Ends everything that waits.
    func fail(_ error: any Error) {
        // Whoever waits asks again on the next connection, whatever ended this one.
        let error = FarmError("link.closed", .unavailable, "the connection is closed", cause: error)
        closed = closed ?? error
        for waiter in windowWaiters.values { waiter.resume(throwing: error) }
        for waiter in answerWaiters.values { waiter.resume(throwing: error) }
        for receiver in receivers.values { receiver.finish(throwing: error) }
        windowWaiters = [:]
        answerWaiters = [:]
        receivers = [:]
    }

    func welcomed() { session.welcomed() }

    package func send(_ frame: Frame) async throws {
        if let closed { throw closed }
        do { try await writer.write(frame) } catch { throw LinkConnection.broken(error) }
    }

    /// Whatever ended a connection, in our own form; cancellation stays what it is.
    static func broken(_ error: any Error) -> any Error {
        if error is FarmError || error is CancellationError { return error }
        return FarmError("link.broken", .unavailable, "the connection broke", cause: error)
    }

    func close(_ stream: UInt32) { session.close(stream) }

    /// Sends bytes on a stream as its window allows; throws when the peer ends the stream or the connection breaks.
    package func sendData(_ bytes: [UInt8], on stream: UInt32) async throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            if let closed { throw closed }
            guard session.isOpen(stream) else {
                throw endings[stream] ?? FarmError("stream.ended", .unavailable, "the stream is closed")
            }
            let count = min(rest.count, session.sendable(stream))
            if count == 0 {
                try await withCheckedThrowingContinuation { windowWaiters[stream] = $0 }
                continue
            }
            session.sent(count, on: stream)
            let part = rest.prefix(count)
            rest = rest.dropFirst(count)
            try await send(Frame(type: .data, stream: stream, body: ByteBuffer(bytes: part)))
        }
    }

    /// Ends a stream of either side's.
    package func end(_ stream: UInt32, _ error: FarmError? = nil) async throws {
        endings[stream] = nil
        guard session.isOpen(stream) else { return }
        session.close(stream)
        try await send(.end(stream, error))
    }

    /// Grants the peer as much as was consumed.
    package func consumed(_ bytes: Int, on stream: UInt32) async throws {
        if let grant = session.consumed(bytes, on: stream) { try await send(.window(stream, grant)) }
    }

    // MARK: the worker's half

    /// Opens a log stream and returns its number.
    package func openLog(_ attempt: AttemptID, offset: Int64) async throws -> UInt32 {
        let stream = try session.open(.log)
        var message = Sciferry_V1_LogOpen()
        message.attempt = attempt.description
        message.offset = UInt64(clamping: offset)
        try await send(Frame(.log, stream: stream, message))
        return stream
    }

    /// Asks and waits for the answer.
    package func ask(_ question: Sciferry_V1_Ask) async throws -> Sciferry_V1_Answer {
        if let closed { throw closed }
        let stream = try session.open(.ask)
        let frame = try Frame(.ask, stream: stream, question)
        return try await withCheckedThrowingContinuation { continuation in
            answerWaiters[stream] = continuation
            Task {
                do { try await send(frame) } catch { failAsk(stream, error) }
            }
        }
    }

    private func failAsk(_ stream: UInt32, _ error: any Error) {
        answerWaiters.removeValue(forKey: stream)?.resume(throwing: error)
    }

    /// Fetches bytes piece by piece; the receiver must call `consumed` as it goes.
    package func fetch(_ source: FetchSource) async throws -> (stream: UInt32, data: AsyncThrowingStream<[UInt8], any Error>) {
        if let closed { throw closed }
        let stream = try session.open(.fetch)
        let (data, continuation) = AsyncThrowingStream<[UInt8], any Error>.makeStream()
        receivers[stream] = continuation
        try await send(Frame(.fetch, stream: stream, Sciferry_V1_Fetch(source)))
        return (stream, data)
    }
}
