import FarmModel

/// Lets questions to other people's servers through, a few at a time, and stops asking one that does not answer.
package actor QuestionGate {
    private let mostPerHost: Int
    private let mostFailures: Int
    private var running: [String: Int] = [:]
    private var failures: [String: Int] = [:]
    private var waiting: [String: [CheckedContinuation<Void, Never>]] = [:]

    /// - Parameters:
    ///   - mostPerHost: questions to one host at a time.
    ///   - mostFailures: after so many in a row that got no answer a host is left alone.
    package init(mostPerHost: Int = 2, mostFailures: Int = 3) {
        self.mostPerHost = mostPerHost
        self.mostFailures = mostFailures
    }

    /// Asks when it is its turn; `nil` when the host is left alone.
    ///
    /// - Parameter isAnswer: whether the host has said anything.
    package func ask<Value: Sendable>(
        _ host: String, isAnswer: @Sendable (Value) -> Bool, _ question: @Sendable () async -> Value
    ) async -> Value? {
        if running[host, default: 0] >= mostPerHost {
            await withCheckedContinuation { waiting[host, default: []].append($0) }
        } else {
            running[host, default: 0] += 1
        }
        defer { leave(host) }
        guard failures[host, default: 0] < mostFailures else { return nil }
        let value = await question()
        failures[host] = isAnswer(value) ? 0 : failures[host, default: 0] + 1
        return value
    }

    /// The place goes to the next one that waits, if any does.
    private func leave(_ host: String) {
        if var queue = waiting[host], !queue.isEmpty {
            let next = queue.removeFirst()
            waiting[host] = queue
            next.resume()
        } else {
            running[host, default: 1] -= 1
        }
    }
}
