package import FarmModel
import Foundation
package import HTTPTransport
import Registry

/// Whether upstream still has what is locked.
package enum InputStanding: Sendable, Hashable {
    case same
    /// It has something else; the text stands for what.
    case moved(String)
    /// It could not be found out, and why.
    case unknown(String)
    /// Nobody answered.
    case unreachable(String)
}

/// Asks upstream about locked inputs, without fetching them.
package struct InputWatch: Sendable {
    private let client: HTTPClient
    private let registry: Registry
    private let bootstrap: [String: BootstrapSource]

    /// - Parameter bootstrap: how base images are made that no registry offers, by name.
    package init(client: HTTPClient, bootstrap: [String: BootstrapSource]) {
        self.client = client
        self.bootstrap = bootstrap
        // A survey asks many; one that is busy is asked again the next night.
        registry = Registry(client: client, policy: RetryPolicy(attempts: 2))
    }

    /// The host that would be asked; `nil` where nobody has to be.
    package func host(of input: LockedInput) -> String? {
        switch input.kind {
        case .base: input.origin == .registry ? ImageReference(input.name)?.host : nil
        case .git, .download: InputWatch.host(input.name)
        }
    }

    /// The host of an address.
    package static func host(_ url: String) -> String? {
        guard let scheme = url.range(of: "://") else { return nil }
        return String(url[scheme.upperBound...].prefix { $0 != "/" && $0 != " " && $0 != "?" })
    }

    /// How a locked input stands.
    package func standing(of input: LockedInput) async -> InputStanding {
        do {
            switch input.kind {
            case .base where input.origin == .bootstrap:
                guard let source = bootstrap[input.name] else { return .unknown("farm.json does not bootstrap it any more") }
                return input.bootstrap?.hasPrefix(source.title) ?? false ? .same : .moved(source.title)
            case .base:
                guard let reference = ImageReference(input.name) else { return .unknown("it is no image's name") }
                let now = try await registry.digest(of: reference)
                return now == input.digest ? .same : .moved(now.hex)
            case .git:
                let now = try await GitReferences.commit(input.name, client: client)
                return now == input.commit ? .same : .moved(now)
            case .download: return try await file(input)
            }
        } catch let error as FarmError {
            return error.category == .unavailable ? .unreachable(error.message) : .unknown(error.message)
        } catch {
            return .unknown("\(error)")
        }
    }

    /// By its size, and by when the server says it was changed last. Some servers know neither; what they have is taken to be the same.
    private func file(_ input: LockedInput) async throws -> InputStanding {
        var request = HTTPRequest("HEAD", input.name, stallSeconds: 20, followsRedirects: true)
        request.deadlineSeconds = 60
        let response = try await client.performRetrying(request, policy: RetryPolicy(attempts: 2))
        guard response.isSuccess else {
            let words = "the server answers with status \(response.status)"
            return RetryPolicy.isTransient(status: response.status) ? .unreachable(words) : .unknown(words)
        }
        if let size = response.headers["content-length"].flatMap(Int64.init), size > 0, response.headers["content-encoding"] == nil {
            if size != input.size { return .moved("\(size) bytes") }
        }
        if let text = response.headers["last-modified"], let changed = InputWatch.date(text) {
            // Clocks of servers differ by a little, and what is made for each question is always new.
            let asked = response.headers["date"].flatMap(InputWatch.date) ?? .now
            if changed.seconds(since: input.lockedAt) > 60, asked.seconds(since: changed) > 60 { return .moved("changed \(changed)") }
        }
        return .same
    }

    /// A date of HTTP (RFC 9110, section 5.6.7, the form that servers must write).
    package static func date(_ text: String) -> Timestamp? {
        guard let match = text.wholeMatch(of: /[A-Z][a-z]{2}, (\d{2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT/),
            let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"].firstIndex(of: match.2)
        else { return nil }
        var components = DateComponents()
        components.calendar = Calendar(identifier: .gregorian)
        components.timeZone = TimeZone(secondsFromGMT: 0)
        (components.year, components.month, components.day) = (Int(match.3), month + 1, Int(match.1))
        (components.hour, components.minute, components.second) = (Int(match.4), Int(match.5), Int(match.6))
        return components.date.map { Timestamp(seconds: Int64($0.timeIntervalSince1970)) }
    }
}
