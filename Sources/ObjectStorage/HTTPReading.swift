import FarmModel
import HTTPTransport
import Synchronization

/// How far a streamed read over HTTP has come; what one try did not bring the next asks for (RFC 9110, sections 13 and 14).
final class HTTPReading: Sendable {
    private struct State {
        var got: Int64 = 0
        /// Where the answer that is coming begins.
        var skip: Int64 = 0
        var tag: String?
        var end: Int64?
        var isRefused = false
    }

    private let range: Range<Int64>?
    private let mark: @Sendable ([String: String]) -> String?
    private let receiver: ByteSink
    private let state: Mutex<State>

    /// - Parameter mark: the object's tag in an answer's headers.
    init(range: Range<Int64>?, tag: String?, mark: @escaping @Sendable ([String: String]) -> String?, sink: @escaping ByteSink) {
        self.range = range
        self.mark = mark
        receiver = sink
        state = Mutex(State(tag: tag, end: range?.upperBound))
    }

    /// Bytes that the sink has.
    var got: Int64 { state.withLock { $0.got } }
    /// The sink threw: trying again would not help.
    var isRefused: Bool { state.withLock { $0.isRefused } }

    /// Asks until all is there. A transfer that breaks goes on where it ended, as long as the object is the same.
    ///
    /// - Parameters:
    ///   - ask: sends the question with the headers that it is given, once.
    ///   - refused: throws what an answer without the bytes means.
    func run(
        _ retry: RetryPolicy, _ key: String, _ store: String, ask: ([(String, String)]) async throws -> HTTPResponse,
        refused: (HTTPResponse) throws -> Void
    ) async throws {
        var number = 1
        while true {
            let before = got
            do {
                let response = try await ask(question())
                if response.status == 412 { throw StorageFailure.changed(key, in: store) }
                if !RetryPolicy.isTransient(status: response.status) {
                    try refused(response)
                    return try ended(key, store)
                }
                number += 1
                guard let delay = retry.delay(beforeTry: number, retryAfter: response.retryAfter) else { return try refused(response) }
                try await Task.sleep(for: .seconds(delay))
            } catch let error as FarmError where error.category.isTransient && !isRefused {
                // What moves is not counted out.
                number = got > before ? 2 : number + 1
                guard let delay = retry.delay(beforeTry: number, retryAfter: error.retryAfter) else { throw error }
                try await Task.sleep(for: .seconds(delay))
            }
        }
    }

    func question() -> [(String, String)] {
        state.withLock { state in
            let start = (range?.lowerBound ?? 0) + state.got
            var headers: [(String, String)] = []
            if range != nil || state.got > 0 { headers.append(("range", "bytes=\(start)-\(state.end.map { String($0 - 1) } ?? "")")) }
            // A date is no tag; that the answer is of the same object is looked at when it comes.
            if let tag = state.tag, !tag.contains(" ") { headers.append(("if-match", "\"\(tag)\"")) }
            return headers
        }
    }

    func begins(_ head: HTTPResponse) throws {
        try state.withLock { state in
            let tag = mark(head.headers)
            if let expected = state.tag, let tag, tag != expected {
                state.isRefused = true
                throw FarmError("storage.changed", .conflict, "the object was changed while it was read", hint: "run it again")
            }
            state.tag = state.tag ?? tag
            let length = head.headers["content-length"].flatMap { Int64($0) }
            // Who does not know ranges sends everything.
            state.skip = head.status == 206 ? 0 : (range?.lowerBound ?? 0) + state.got
            if state.end == nil { state.end = length.map { $0 + (head.status == 206 ? state.got : 0) } }
        }
    }

    func sink(_ bytes: UnsafeRawBufferPointer) throws {
        let part = state.withLock { state in
            let skipped = min(state.skip, Int64(bytes.count))
            state.skip -= skipped
            let rest = (state.end ?? Int64.max) - (range?.lowerBound ?? 0) - state.got
            return Int(skipped)..<Int(skipped + max(0, min(Int64(bytes.count) - skipped, rest)))
        }
        guard !part.isEmpty else { return }
        do { try receiver(UnsafeRawBufferPointer(rebasing: bytes[part])) } catch {
            state.withLock { $0.isRefused = true }
            throw error
        }
        state.withLock { $0.got += Int64(part.count) }
    }

    /// Throws `storage.short` for an end that came too early.
    func ended(_ key: String, _ store: String) throws {
        let isWhole = state.withLock { state in state.end.map { state.got == $0 - (range?.lowerBound ?? 0) } ?? true }
        guard isWhole else { throw StorageFailure.short(key, in: store) }
    }
}
