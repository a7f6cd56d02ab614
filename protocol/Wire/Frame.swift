package import FarmModel
package import NIOCore

/// The protocol's constants (protocol/README.md).
package enum WireProtocol {
    package static let version: UInt8 = 1
    package static let alpn = "sciferry/1"
    package static let headerSize = 12
    /// Bytes of a body, whatever its type.
    package static let largestBody = 262_144
    /// DATA bytes in flight on a stream.
    package static let window = 1 << 20
    package static let mostStreams = 64
    package static let helloSeconds: Int64 = 10
    package static let mostDigestsAsked = 4096
}

/// The kinds of frames; the raw value is the byte on the wire.
package enum FrameType: UInt8, Sendable, Hashable, CaseIterable {
    case hello = 1
    case welcome = 2
    case state = 3
    case desired = 4
    case fetch = 5
    case data = 6
    case end = 7
    case window = 8
    case log = 9
    case ask = 10
    case answer = 11
    case goodbye = 12
}

/// One frame.
package struct Frame: Sendable, Hashable {
    package var type: FrameType
    package var stream: UInt32
    package var body: ByteBuffer

    package init(type: FrameType, stream: UInt32, body: ByteBuffer) {
        self.type = type
        self.stream = stream
        self.body = body
    }

    /// Appends the frame's bytes.
    package func write(into buffer: inout ByteBuffer) {
        buffer.writeInteger(UInt32(body.readableBytes))
        buffer.writeInteger(WireProtocol.version)
        buffer.writeInteger(type.rawValue)
        buffer.writeInteger(UInt16(0))
        buffer.writeInteger(stream)
        var body = body
        buffer.writeBuffer(&body)
    }
}

/// Errors that end a connection; the code goes over the wire in GOODBYE.
package enum WireFailure {
    package static func frameSize(_ length: UInt32) -> FarmError {
        FarmError(
            "protocol.frame-size", .invalid, "the peer announced a frame of \(length) bytes; the limit is \(WireProtocol.largestBody)")
    }
    package static func version(_ version: UInt8) -> FarmError {
        FarmError(
            "protocol.version", .invalid, "the peer speaks version \(version) of the protocol; this side speaks \(WireProtocol.version)")
    }
    package static func frame(_ what: String) -> FarmError {
        FarmError("protocol.frame", .invalid, "the peer sent \(what)")
    }
    package static func order(_ type: FrameType, _ state: String) -> FarmError {
        FarmError("protocol.order", .invalid, "the peer sent \(type) \(state)")
    }
    package static func stream(_ what: String) -> FarmError {
        FarmError("protocol.stream", .invalid, "the peer \(what)")
    }
    package static func window(_ stream: UInt32) -> FarmError {
        FarmError("protocol.window", .invalid, "the peer sent more than it was granted on stream \(stream)")
    }
}

/// Cuts bytes into frames. A header is judged as soon as it is complete; nothing of a refused body is kept.
package struct FrameDecoder: NIOSingleStepByteToMessageDecoder {
    package typealias InboundOut = Frame

    private struct Header {
        var length: Int
        var type: FrameType
        var stream: UInt32
    }
    private var pending: Header?

    package init() {}

    package mutating func decode(buffer: inout ByteBuffer) throws -> Frame? {
        if pending == nil { pending = try readHeader(&buffer) }
        guard let header = pending, let body = buffer.readSlice(length: header.length) else { return nil }
        pending = nil
        return Frame(type: header.type, stream: header.stream, body: body)
    }

    package mutating func decodeLast(buffer: inout ByteBuffer, seenEOF: Bool) throws -> Frame? {
        try decode(buffer: &buffer)
    }

    private func readHeader(_ buffer: inout ByteBuffer) throws -> Header? {
        guard buffer.readableBytes >= WireProtocol.headerSize,
            let (length, version, rawType, flags, stream) = buffer.readMultipleIntegers(
                as: (UInt32, UInt8, UInt8, UInt16, UInt32).self)
        else { return nil }
        guard version == WireProtocol.version else { throw WireFailure.version(version) }
        guard length <= WireProtocol.largestBody else { throw WireFailure.frameSize(length) }
        guard let type = FrameType(rawValue: rawType) else { throw WireFailure.frame("a frame of the unknown type \(rawType)") }
        guard flags == 0 else { throw WireFailure.frame("a frame with unknown flags") }
        return Header(length: Int(length), type: type, stream: stream)
    }
}
