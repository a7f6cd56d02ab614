import FarmMessages
import FarmModel
import FarmWire
import Foundation
import NIOCore
import Support
import SystemIO
import Testing

@Suite struct FrameTests {
    private struct Vector: Decodable {
        /// What the bytes decode to: the frame's type, stream and body length.
        var type: String?
        var stream: UInt32?
        var body: Int?
        /// Or the code that they lead to.
        var error: String?
        /// Whose bytes they are: what the session of the other side says.
        var receiver: String?
        var sessionError: String?
    }

    private static func names() throws -> [String] {
        try Disk.list("\(Repository.root)/protocol/vectors").filter { $0.hasSuffix(".hex") }.map { String($0.dropLast(4)) }
    }

    private static func bytes(_ name: String) throws -> [UInt8] {
        let digits = String(decoding: try Repository.file("protocol/vectors/\(name).hex"), as: UTF8.self).filter { !$0.isWhitespace }
        return stride(from: 0, to: digits.count, by: 2).compactMap { index in
            let start = digits.index(digits.startIndex, offsetBy: index)
            return UInt8(digits[start...digits.index(after: start)], radix: 16)
        }
    }

    @Test func theGoldenVectorsReplay() throws {
        let names = try Self.names()
        #expect(names.count >= 12)
        for name in names {
            let vector = try JSONDecoder().decode(Vector.self, from: Data(try Repository.file("protocol/vectors/\(name).json")))
            var buffer = ByteBuffer(bytes: try Self.bytes(name))
            var decoder = FrameDecoder()
            do {
                let frame = try #require(try decoder.decode(buffer: &buffer), "\(name)")
                #expect(vector.error == nil, "\(name)")
                #expect(
                    "\(frame.type)" == vector.type && frame.stream == vector.stream && frame.body.readableBytes == vector.body, "\(name)")
                var written = ByteBuffer()
                frame.write(into: &written)
                #expect(Array(written.readableBytesView) == (try Self.bytes(name)), "\(name)")
                try checkSession(name, frame, vector)
            } catch let error as FarmError {
                #expect(error.code.rawValue == vector.error, "\(name)")
            }
        }
    }

    private func checkSession(_ name: String, _ frame: Frame, _ vector: Vector) throws {
        guard let receiver = vector.receiver else { return }
        var session = LinkSession(role: receiver == "worker" ? .worker : .coordinator)
        if frame.type != .hello && frame.type != .welcome { session.welcomed() }
        do {
            _ = try session.receive(frame)
            #expect(vector.sessionError == nil, "\(name)")
        } catch let error as FarmError {
            #expect(error.code.rawValue == vector.sessionError, "\(name)")
        }
    }

    @Test func aFrameOfFourGigabytesIsRefusedAtItsHeader() {
        var buffer = ByteBuffer(bytes: [0xFF, 0xFF, 0xFF, 0xFF, 1, 6, 0, 0, 0, 0, 0, 1])
        var decoder = FrameDecoder()
        let error = #expect(throws: FarmError.self) { try decoder.decode(buffer: &buffer) }
        #expect(error?.code == "protocol.frame-size")
    }

    @Test func framesComeOutHoweverTheBytesArrive() throws {
        for seed in 0..<50 {
            var generator = SeededGenerator(UInt64(seed))
            var stream = ByteBuffer()
            var sent: [Frame] = []
            for number in 0..<20 {
                let body = ByteBuffer(bytes: generator.bytes(Int(generator.next() % 3000)))
                let frame = Frame(type: .data, stream: UInt32(number + 1), body: body)
                frame.write(into: &stream)
                sent.append(frame)
            }
            var decoder = FrameDecoder()
            var pending = ByteBuffer()
            var received: [Frame] = []
            while stream.readableBytes > 0 {
                let length = min(stream.readableBytes, 1 + Int(generator.next() % 700))
                guard var piece = stream.readSlice(length: length) else { break }
                pending.writeBuffer(&piece)
                while let frame = try decoder.decode(buffer: &pending) { received.append(frame) }
            }
            #expect(received == sent, "seed \(seed)")
        }
    }

    @Test func randomBytesNeverCrash() {
        for seed in 0..<5000 {
            var generator = SeededGenerator(UInt64(seed))
            var buffer = ByteBuffer(bytes: generator.bytes(40))
            var decoder = FrameDecoder()
            var session = LinkSession(role: seed % 2 == 0 ? .worker : .coordinator)
            session.welcomed()
            do {
                while let frame = try decoder.decode(buffer: &buffer) { _ = try session.receive(frame) }
            } catch {
                #expect(error is FarmError, "seed \(seed)")
            }
        }
    }
}

@Suite struct SessionTests {
    private func code(_ body: () throws -> Void) -> String? {
        do {
            try body()
            return nil
        } catch { return (error as? FarmError)?.code.rawValue }
    }

    private func fetch(_ stream: UInt32) throws -> Frame {
        var message = Sciferry_V1_Fetch()
        message.digest = Data(Digest(hashing: "x").bytes)
        return try Frame(.fetch, stream: stream, message)
    }

    private func opened() -> LinkSession {
        var session = LinkSession(role: .coordinator)
        session.welcomed()
        return session
    }

    @Test func nothingComesBeforeHelloAndHelloComesOnce() throws {
        var session = LinkSession(role: .coordinator)
        let state = try Frame(.state, Sciferry_V1_WorkerState())
        #expect(code { _ = try session.receive(state) } == "protocol.order")
        #expect(try session.receive(Frame(.hello, Sciferry_V1_Hello())) != nil)
        session.welcomed()
        #expect(code { _ = try session.receive(Frame(.hello, Sciferry_V1_Hello())) } == "protocol.order")
        #expect(code { _ = try session.receive(Frame(.desired, Sciferry_V1_DesiredState())) } == "protocol.order")
    }

    @Test func streamsAreUsedOnceAndBounded() throws {
        var session = opened()
        // A little out of order is right; twice is not.
        for stream in [2, 1, 3] as [UInt32] { _ = try session.receive(try fetch(stream)) }
        session.close(2)
        #expect(code { _ = try session.receive(try fetch(2)) } == "protocol.stream")
        #expect(code { _ = try session.receive(.end(99)) } == "protocol.stream")
        #expect(try session.receive(.end(2)) == nil)
        #expect(code { for stream in 4...80 as ClosedRange<UInt32> { _ = try session.receive(try fetch(stream)) } } == "protocol.stream")
        #expect(code { _ = try session.receive(try fetch(0)) } == "protocol.stream")
    }

    @Test func aFetchNamesABlobOrARangeOfAnObject() throws {
        for source in [
            FetchSource.blob(Digest(hashing: "x"), offset: 7), .object("packs/ab/cd", nil, region: 0),
            .object("packs/ab/cd", 5..<9, region: 2),
        ] {
            #expect(try Sciferry_V1_Fetch(source).model() == source)
        }
        for change in [
            { $0.digest = Data([1]) }, { $0.object = "packs/a" }, { $0.length = 5 }, { $0.length = .max }, { $0.offset = .max },
        ] as [(inout Sciferry_V1_Fetch) -> Void] {
            var message = Sciferry_V1_Fetch(.blob(Digest(hashing: "x"), offset: 0))
            change(&message)
            let sent = message
            #expect(code { _ = try sent.model() } == "protocol.message")
        }
    }

    @Test func windowsBindBothSides() throws {
        var coordinator = opened()
        var log = Sciferry_V1_LogOpen()
        log.attempt = "j1.1"
        _ = try coordinator.receive(Frame(.log, stream: 1, log))
        let piece = Frame(type: .data, stream: 1, body: ByteBuffer(repeating: 1, count: WireProtocol.largestBody))
        for _ in 0..<4 { _ = try coordinator.receive(piece) }
        #expect(code { _ = try coordinator.receive(piece) } == "protocol.window")
        var granting = opened()
        _ = try granting.receive(Frame(.log, stream: 1, log))
        for _ in 0..<20 {
            _ = try granting.receive(piece)
            _ = granting.consumed(piece.body.readableBytes, on: 1)
        }
        var worker = LinkSession(role: .worker)
        worker.welcomed()
        let stream = try worker.open(.log)
        #expect(worker.sendable(stream) == WireProtocol.largestBody)
        worker.sent(WireProtocol.window, on: stream)
        #expect(worker.sendable(stream) == 0)
        _ = try worker.receive(.window(stream, 1000))
        #expect(worker.sendable(stream) == 1000)
        #expect(code { _ = try worker.receive(.window(stream, WireProtocol.window)) } == "protocol.stream")
        #expect(code { _ = try worker.receive(Frame(type: .data, stream: stream, body: ByteBuffer(string: "x"))) } == "protocol.stream")
    }

    @Test func reportsRoundTrip() throws {
        let attempt = AttemptReport(
            id: try #require(AttemptID("j3.2")), phase: .test, progressPermille: 400, note: "n",
            outcome: .failed(Failure(.recipe, code: "test.failed", message: "m", tail: ["t"])))
        let report = WorkerReport(
            sequence: 9, attempts: [attempt], diskFreeBytes: 5, refusal: "r", freeSlots: 2, renewalRequest: [1, 2],
            layers: LayerSummary([5, 6, 7]), inputCache: InputCacheUse(requests: 4, hits: 3, bytes: 2, hitBytes: 1, tunnels: 9))
        #expect(try Sciferry_V1_WorkerState(report).model() == report)
        let order = ResolveOrder(kind: .base, name: "debian:bookworm", architecture: "x86_64", bootstrap: nil)
        let desired = DesiredWork(
            sequence: 1,
            assignments: [
                .init(attempt: attempt.id, order: .resolve(order)),
                .init(attempt: try #require(AttemptID("j4.1")), order: .build(plan: Digest(hashing: "p"))),
            ],
            nextContactSeconds: 1.5, draining: true, renewedCertificate: [3], revision: 8)
        #expect(try Sciferry_V1_DesiredState(desired).model() == desired)
    }
}
