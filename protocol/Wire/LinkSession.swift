package import FarmMessages
package import FarmModel
package import NIOCore
package import SwiftProtobuf

/// One connection's rules as a value: frames go in, events or the violation come out. No I/O, no clock.
package struct LinkSession: Sendable {
    package enum Role: Sendable, Hashable { case worker, coordinator }

    /// What a frame means once it has passed the rules.
    package enum Event: Sendable, Equatable {
        case hello(Sciferry_V1_Hello)
        case welcome(Sciferry_V1_Welcome)
        case state(WorkerReport)
        case desired(DesiredWork)
        case fetch(stream: UInt32, FetchSource)
        case log(stream: UInt32, attempt: AttemptID, offset: Int64)
        case ask(stream: UInt32, Sciferry_V1_Ask)
        case answer(stream: UInt32, Sciferry_V1_Answer)
        case data(stream: UInt32, ByteBuffer)
        case end(stream: UInt32, code: String, message: String)
        /// The stream's owner may send again.
        case window(stream: UInt32)
        case goodbye(code: String, message: String)
    }

    package enum StreamKind: Sendable, Hashable { case fetch, log, ask }

    private struct Stream: Sendable {
        var kind: StreamKind
        /// DATA bytes that this side may still send.
        var toSend = WireProtocol.window
        /// DATA bytes that the peer may still send.
        var toReceive = WireProtocol.window
        /// Consumed but not yet granted anew.
        var consumed = 0
    }

    private enum Phase: Sendable { case opening, open }

    private let role: Role
    private var phase = Phase.opening
    private var streams: [UInt32: Stream] = [:]
    private var highestStream: UInt32 = 0
    /// Numbers used within reach of the highest.
    private var usedLately: Set<UInt32> = []

    package init(role: Role) { self.role = role }

    /// Judges one frame. Throws the violation (`protocol.…`); `nil` for a frame that is rightly ignored.
    package mutating func receive(_ frame: Frame) throws -> Event? {
        try checkSender(frame)
        switch frame.type {
        case .hello: return .hello(try message(frame))
        case .welcome:
            phase = .open
            return .welcome(try message(frame))
        case .state: return .state(try (message(frame) as Sciferry_V1_WorkerState).model())
        case .desired: return .desired(try (message(frame) as Sciferry_V1_DesiredState).model())
        case .goodbye:
            let message: Sciferry_V1_Goodbye = try message(frame)
            return .goodbye(code: message.code, message: message.message)
        case .fetch, .log, .ask: return try opened(frame)
        case .data, .end, .window, .answer: return try continued(frame)
        }
    }

    /// The coordinator has answered HELLO.
    package mutating func welcomed() { phase = .open }

    /// Opens a stream of the worker's; throws `protocol.stream` when too many are open.
    package mutating func open(_ kind: StreamKind) throws -> UInt32 {
        guard streams.count < WireProtocol.mostStreams else { throw WireFailure.stream("has too many open streams") }
        highestStream += 1
        streams[highestStream] = Stream(kind: kind)
        return highestStream
    }

    /// This side has ended a stream.
    package mutating func close(_ stream: UInt32) { streams[stream] = nil }

    package func isOpen(_ stream: UInt32) -> Bool { streams[stream] != nil }

    /// DATA bytes that may be sent on a stream now, at most one frame's worth; 0 when the window is shut or the stream
    /// closed.
    package func sendable(_ stream: UInt32) -> Int {
        min(WireProtocol.largestBody, streams[stream]?.toSend ?? 0)
    }

    /// Notes DATA sent.
    package mutating func sent(_ bytes: Int, on stream: UInt32) { streams[stream]?.toSend -= bytes }

    /// Notes DATA consumed; returns the bytes to grant in a WINDOW frame once half the window is used.
    package mutating func consumed(_ bytes: Int, on stream: UInt32) -> Int? {
        guard var state = streams[stream] else { return nil }
        state.consumed += bytes
        guard state.consumed >= WireProtocol.window / 2 else {
            streams[stream] = state
            return nil
        }
        let grant = state.consumed
        state.consumed = 0
        state.toReceive += grant
        streams[stream] = state
        return grant
    }

    private func checkSender(_ frame: Frame) throws {
        let fromWorker: Set<FrameType> = [.hello, .state, .fetch, .log, .ask, .data, .end, .window, .goodbye]
        let fromCoordinator: Set<FrameType> = [.welcome, .desired, .answer, .data, .end, .window, .goodbye]
        guard (role == .coordinator ? fromWorker : fromCoordinator).contains(frame.type) else {
            throw WireFailure.order(frame.type, "which this side does not send")
        }
        let opening = frame.type == .hello || frame.type == .welcome
        switch phase {
        case .opening where !opening && frame.type != .goodbye: throw WireFailure.order(frame.type, "before the opening")
        case .open where opening: throw WireFailure.order(frame.type, "a second time")
        default: break
        }
        let onZero: Set<FrameType> = [.hello, .welcome, .state, .desired, .goodbye]
        guard onZero.contains(frame.type) == (frame.stream == 0) else {
            throw WireFailure.stream("sent \(frame.type) on stream \(frame.stream)")
        }
    }

    private mutating func opened(_ frame: Frame) throws -> Event {
        guard streams.count < WireProtocol.mostStreams else { throw WireFailure.stream("opened too many streams") }
        try useNumber(frame.stream)
        switch frame.type {
        case .fetch:
            let source = try (message(frame) as Sciferry_V1_Fetch).model()
            streams[frame.stream] = Stream(kind: .fetch)
            return .fetch(stream: frame.stream, source)
        case .log:
            let message: Sciferry_V1_LogOpen = try message(frame)
            guard let attempt = AttemptID(message.attempt) else { throw MessageFailure.meaningless("a wrong attempt name") }
            streams[frame.stream] = Stream(kind: .log)
            return .log(stream: frame.stream, attempt: attempt, offset: Int64(clamping: message.offset))
        default:
            streams[frame.stream] = Stream(kind: .ask)
            return .ask(stream: frame.stream, try message(frame))
        }
    }

    /// Each number once. They may arrive a little out of order, since a worker opens streams from many tasks.
    private mutating func useNumber(_ number: UInt32) throws {
        let reach = UInt32(WireProtocol.mostStreams)
        guard UInt64(number) + UInt64(reach) > UInt64(highestStream), usedLately.insert(number).inserted else {
            throw WireFailure.stream("used stream \(number) again")
        }
        if number > highestStream {
            highestStream = number
            usedLately = usedLately.filter { UInt64($0) + UInt64(reach) > UInt64(number) }
        }
    }

    private mutating func continued(_ frame: Frame) throws -> Event? {
        guard frame.stream <= highestStream else { throw WireFailure.stream("spoke on stream \(frame.stream), which never was") }
        guard var stream = streams[frame.stream] else { return nil }
        switch frame.type {
        case .data:
            let sender: Role = stream.kind == .log ? .worker : .coordinator
            guard stream.kind != .ask, sender != role else {
                throw WireFailure.stream("sent data on stream \(frame.stream), where it may not")
            }
            stream.toReceive -= frame.body.readableBytes
            guard stream.toReceive >= 0 else { throw WireFailure.window(frame.stream) }
            streams[frame.stream] = stream
            return .data(stream: frame.stream, frame.body)
        case .window:
            let message: Sciferry_V1_Window = try message(frame)
            guard message.bytes <= UInt64(WireProtocol.window) - UInt64(max(0, stream.toSend)) else {
                throw WireFailure.stream("granted more than the window on stream \(frame.stream)")
            }
            stream.toSend += Int(message.bytes)
            streams[frame.stream] = stream
            return .window(stream: frame.stream)
        case .answer:
            guard stream.kind == .ask else { throw WireFailure.stream("answered stream \(frame.stream), which asked nothing") }
            streams[frame.stream] = nil
            return .answer(stream: frame.stream, try message(frame))
        default:
            let message: Sciferry_V1_End = try message(frame)
            streams[frame.stream] = nil
            return .end(stream: frame.stream, code: message.code, message: message.message)
        }
    }

    private func message<Value: SwiftProtobuf.Message>(_ frame: Frame) throws -> Value {
        do { return try Value(serializedBytes: Array(frame.body.readableBytesView)) } catch {
            throw FarmError("protocol.message", .invalid, "the peer sent a \(frame.type) that cannot be read", cause: error)
        }
    }
}

extension Frame {
    /// A frame that carries a message.
    package init(_ type: FrameType, stream: UInt32 = 0, _ message: some SwiftProtobuf.Message) throws {
        let bytes: [UInt8] = try message.serializedBytes()
        guard bytes.count <= WireProtocol.largestBody else {
            throw FarmError("protocol.frame-size", .fault, "a \(type) of \(bytes.count) bytes does not fit into a frame")
        }
        self.init(type: type, stream: stream, body: ByteBuffer(bytes: bytes))
    }

    /// The last frame before a connection is closed for a fault.
    package static func goodbye(_ error: FarmError) -> Frame {
        var message = Sciferry_V1_Goodbye()
        message.code = error.code.rawValue
        message.message = error.message
        return (try? Frame(.goodbye, message)) ?? Frame(type: .goodbye, stream: 0, body: ByteBuffer())
    }

    /// The end of a stream; without an error it ended well.
    package static func end(_ stream: UInt32, _ error: FarmError? = nil) -> Frame {
        var message = Sciferry_V1_End()
        message.code = error?.code.rawValue ?? ""
        message.message = error?.message ?? ""
        return (try? Frame(.end, stream: stream, message)) ?? Frame(type: .end, stream: stream, body: ByteBuffer())
    }

    /// A grant of DATA bytes.
    package static func window(_ stream: UInt32, _ bytes: Int) -> Frame {
        var message = Sciferry_V1_Window()
        message.bytes = UInt64(bytes)
        return (try? Frame(.window, stream: stream, message)) ?? Frame(type: .window, stream: stream, body: ByteBuffer())
    }
}
