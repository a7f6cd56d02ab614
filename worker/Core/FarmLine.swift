import FarmLink
package import FarmMessages
package import FarmModel
import Foundation
import Glibc
package import SystemIO

/// The worker's line to the coordinator for attempts: whatever is asked waits for a connection and is asked again after
/// it breaks, so that a restart of the coordinator costs a build nothing but time.
package actor FarmLine {
    private var connection: LinkConnection?
    private var waiters: [CheckedContinuation<LinkConnection, any Error>] = []
    /// Fetches that run at a time: a connection has 64 streams for all that a worker does.
    private static let mostFetches = 12
    private var fetches = 0
    private var fetchWaiters: [CheckedContinuation<Void, Never>] = []

    package init() {}

    private func beginFetch() async {
        if fetches < FarmLine.mostFetches {
            fetches += 1
        } else {
            await withCheckedContinuation { fetchWaiters.append($0) }
        }
    }

    /// Hands the place on to one who waits.
    private func endFetch() {
        if fetchWaiters.isEmpty { fetches -= 1 } else { fetchWaiters.removeFirst().resume() }
    }

    func attach(_ connection: LinkConnection) {
        self.connection = connection
        for waiter in waiters { waiter.resume(returning: connection) }
        waiters = []
    }

    func detach(_ connection: LinkConnection) {
        if self.connection === connection { self.connection = nil }
    }

    private func open() async throws -> LinkConnection {
        if let connection { return connection }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { waiters.append($0) }
        } onCancel: {
            Task { await self.cancelWaiters() }
        }
    }

    private func cancelWaiters() {
        // Those that were not meant simply wait again.
        for waiter in waiters { waiter.resume(throwing: CancellationError()) }
        waiters = []
    }

    /// Runs `body` with a connection, again and again until one lasts; errors of other rooms pass through.
    func withConnection<Value: Sendable>(_ body: @Sendable (LinkConnection) async throws -> Value) async throws -> Value {
        while true {
            try Task.checkCancellation()
            let connection: LinkConnection
            do { connection = try await open() } catch is CancellationError {
                try Task.checkCancellation()
                continue
            }
            do { return try await body(connection) } catch let error as FarmError where error.code.rawValue.hasPrefix("link.") {
                detach(connection)
                try await Task.sleep(for: .milliseconds(100))
            }
        }
    }

    /// Asks a question for an attempt; throws the coordinator's refusal.
    package func ask(_ attempt: AttemptID, _ question: Sciferry_V1_Ask.OneOf_Question) async throws -> Sciferry_V1_Answer {
        var message = Sciferry_V1_Ask()
        message.attempt = attempt.description
        message.question = question
        let sent = message
        let answer = try await withConnection { try await $0.ask(sent) }
        if case .failure(let failure)? = answer.answer {
            throw FarmError(.init(rawValue: failure.code), .unavailable, failure.message)
        }
        return answer
    }

    /// Which of the digests the farm lacks.
    package func missing(_ digests: [Digest], _ attempt: AttemptID) async throws -> Set<Digest> {
        var result: Set<Digest> = []
        for start in stride(from: 0, to: digests.count, by: 4096) {
            let part = digests[start..<min(start + 4096, digests.count)]
            var message = Sciferry_V1_MissingChunks()
            message.digests = Data(part.flatMap(\.bytes))
            let bits = Array(try await ask(attempt, .missing(message)).missing)
            guard bits.count == (part.count + 7) / 8 else { throw MessageFailure.meaningless("an answer of the wrong length") }
            for (index, digest) in part.enumerated() where bits[index / 8] & (1 << UInt8(index % 8)) != 0 { result.insert(digest) }
        }
        return result
    }

    /// Fetches a blob into a file and verifies it; throws `blob.damaged` when the bytes are others.
    ///
    /// - Parameter isAlias: the digest is the farm's name for something whose bytes have another; whoever asks judges them.
    package func fetch(_ digest: Digest, to path: String, isAlias: Bool = false) async throws {
        await beginFetch()
        defer { endFetch() }
        try await withConnection { connection in
            let (stream, pieces) = try await connection.fetch(.blob(digest, offset: 0))
            // A stream that nobody reads any more would stay open for as long as the connection does.
            defer { Task { try? await connection.end(stream) } }
            let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
            defer { file.close() }
            var hasher = Digest.Hasher()
            for try await piece in pieces {
                hasher.update(piece)
                try await Blocking.run { try file.write(piece) }
                try await connection.consumed(piece.count, on: stream)
            }
            guard isAlias || hasher.finish() == digest else {
                throw FarmError("blob.damaged", .corrupt, "the coordinator sent other bytes than those of \(digest.short)")
            }
        }
    }

    /// Reads an object of a region, or a range of it. Nothing is verified: whoever asks knows what it must be.
    ///
    /// - Parameter region: which of the farm's regions, counted from 0.
    package func object(_ key: String, range: Range<Int64>?, region: Int) async throws -> [UInt8] {
        await beginFetch()
        defer { endFetch() }
        return try await withConnection { connection in
            let (stream, pieces) = try await connection.fetch(.object(key, range, region: region))
            defer { Task { try? await connection.end(stream) } }
            var bytes: [UInt8] = []
            for try await piece in pieces {
                bytes += piece
                try await connection.consumed(piece.count, on: stream)
            }
            return bytes
        }
    }

    /// Follows an attempt's log file and sends what is added, until `isOver` says that nothing more comes. Returns when
    /// everything is with the coordinator, or it wants no more.
    package func forwardLog(_ attempt: AttemptID, from path: String, isOver: Switch) async throws {
        while true {
            do { return try await forwardOnce(attempt, from: path, isOver: isOver) } catch let error as FarmError
                where error.code == "log.full" || error.code == "attempt.not-held"
            {
                return
            } catch let error as FarmError where error.category == .unavailable {
                // The stream was ended for a reason that may pass; the position is asked for anew.
                try await Task.sleep(for: .seconds(1))
            }
        }
    }

    private func forwardOnce(_ attempt: AttemptID, from path: String, isOver: Switch) async throws {
        try await withConnection { connection in
            var position = Int64(try await self.ask(attempt, .logPosition(Sciferry_V1_LogPosition())).logBytes)
            let stream = try await connection.openLog(attempt, offset: position)
            defer { Task { try? await connection.end(stream) } }
            while true {
                let last = isOver.isRaised
                let size = Disk.size(path) ?? 0
                if size > position {
                    let start = position
                    let file = try OpenFile(path, flags: O_RDONLY)
                    let bytes = try await Blocking.run { try file.read(at: start, count: Int(min(1 << 18, size - start))) }
                    file.close()
                    try await connection.sendData(bytes, on: stream)
                    position += Int64(bytes.count)
                } else if last {
                    return try await connection.end(stream)
                } else {
                    try await Task.sleep(for: .milliseconds(100))
                }
            }
        }
    }
}
