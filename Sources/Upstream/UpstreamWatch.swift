package import FarmModel
import Foundation
import SystemIO
package import HTTPTransport

/// What asking a source has shown.
package struct UpstreamFinding: Codable, Sendable, Hashable {
    /// The recipe's own version.
    package var current: String
    /// The newest that there is; the current one where there is no newer.
    package var newest: String
    /// As the source writes it.
    package var label: String

    package init(current: String, newest: String, label: String) {
        self.current = current
        self.newest = newest
        self.label = label
    }

    package var isNew: Bool { newest != current }
}

/// Asks services for new versions.
package struct UpstreamWatch: Sendable {
    private let client: HTTPClient
    /// Replaces the scheme and host of every address, for tests.
    private let origin: String?
    private let token: String?
    private static let mostPages = 10

    /// - Parameters:
    ///   - githubToken: raises GitHub's limit of 60 questions an hour; goes to api.github.com alone.
    ///   - origin: for tests, `http://127.0.0.1:PORT` in place of every service.
    package init(client: HTTPClient, githubToken: String? = nil, origin: String? = nil) {
        self.client = client
        self.origin = origin
        token = githubToken
    }

    /// The newest version of a source, in the series of `current`.
    ///
    /// - Throws: `upstream.unreachable`, `upstream.absent`, `upstream.limit`, `upstream.answer`, `upstream.pattern`, `upstream.nothing` when
    ///   nothing that is listed is a version.
    package func newest(_ source: UpstreamSource, current: String) async throws -> UpstreamFinding {
        var releases: [UpstreamRelease] = []
        var next: String? = UpstreamAnswer.url(source)
        for _ in 0..<UpstreamWatch.mostPages {
            guard let url = next else { break }
            let response = try await ask(url, source)
            releases += try UpstreamAnswer.releases(response.body, source)
            next = UpstreamWatch.next(response)
        }
        do {
            return try await Blocking.run(seconds: 20) { [releases] in
                try UpstreamWatch.choose(releases, source, current: current)
            }
        } catch let error as FarmError where error.code == "blocking.deadline" {
            throw UpstreamWatch.slowPattern(source)
        }
    }

    private func ask(_ url: String, _ source: UpstreamSource) async throws -> HTTPResponse {
        var headers = [(name: "User-Agent", value: "sciferry/\(Program.version)")]
        if url.hasPrefix("https://api.github.com/") {
            headers.append((name: "Accept", value: "application/vnd.github+json"))
            if let token { headers.append((name: "Authorization", value: "Bearer \(token)")) }
        }
        // libcurl does not send the token on to another host.
        var request = HTTPRequest("GET", moved(url), headers: headers, stallSeconds: 20, responseLimit: 32 << 20, followsRedirects: true)
        request.deadlineSeconds = 120
        let response: HTTPResponse
        do {
            response = try await client.performRetrying(request, policy: RetryPolicy(attempts: 3))
        } catch let error as FarmError {
            throw FarmError("upstream.unreachable", .unavailable, "\(source.kind.rawValue) \(source.name) cannot be asked", cause: error)
        }
        if response.isSuccess { return response }
        let isLimit = response.status == 429 || response.status == 403 && response.headers["x-ratelimit-remaining"] == "0"
        if isLimit {
            throw FarmError(
                "upstream.limit", .unavailable, "\(source.kind.rawValue) has answered too many questions",
                hint: source.kind == .githubRelease || source.kind == .githubTag
                    ? "set SCIFERRY_GITHUB_TOKEN, or watch git_tag https://github.com/\(source.name)" : nil)
        }
        if response.status == 404 || response.status == 410 {
            throw FarmError(
                "upstream.absent", .notFound, "\(source.kind.rawValue) knows no \(source.name)",
                hint: "it should be \(source.kind.nameHint)")
        }
        throw FarmError(
            "upstream.unreachable", response.status >= 500 ? .unavailable : .invalid,
            "\(source.kind.rawValue) \(source.name) answered with status \(response.status)")
    }

    private func moved(_ url: String) -> String {
        guard let origin, let scheme = url.range(of: "://") else { return url }
        let rest = url[scheme.upperBound...]
        return "\(origin)/\(rest)"
    }

    /// The next page: a Link header (RFC 8288), or Bitbucket's own.
    private static func next(_ response: HTTPResponse) -> String? {
        for link in response.headers["link"]?.split(separator: ",") ?? [] where link.contains("rel=\"next\"") {
            if let start = link.firstIndex(of: "<"), let end = link.firstIndex(of: ">"), start < end {
                return String(link[link.index(after: start)..<end])
            }
        }
        struct Page: Decodable { var next: String? }
        guard response.body.first == UInt8(ascii: "{") else { return nil }
        return (try? JSONDecoder().decode(Page.self, from: Data(response.body)))?.next.flatMap { $0.hasPrefix("https://") ? $0 : nil }
    }

    /// The newest of what is listed; throws `upstream.pattern` and `upstream.nothing`.
    package static func choose(_ releases: [UpstreamRelease], _ source: UpstreamSource, current: String) throws -> UpstreamFinding {
        let pattern = try source.pattern.map { text in
            try UpstreamPattern.check(text)
            do { return try Regex(text) } catch {
                throw FarmError("upstream.pattern", .invalid, "\"\(text)\" is no regular expression", cause: error)
            }
        }
        let own = UpstreamVersion(current)
        let end = ContinuousClock.now + .seconds(15)
        var best: (version: UpstreamVersion, label: String)?
        for release in releases {
            if ContinuousClock.now > end { throw slowPattern(source) }
            for (text, label) in versions(in: release.label, pattern, source.kind) {
                guard let version = UpstreamVersion(text) else { continue }
                if !source.prereleases, release.isPrerelease || version.isPrerelease { continue }
                // Some projects have tags of another counting beside those of their versions.
                if let own, source.pattern == nil, !version.isOfSeries(own) { continue }
                if let best, version <= best.version { continue }
                best = (version, label)
            }
        }
        guard let best else {
            throw FarmError(
                "upstream.nothing", .notFound, "nothing that \(source.kind.rawValue) \(source.name) lists is a version",
                hint: "give a \"pattern\" whose first group is the version")
        }
        let isNew = own.map { best.version > $0 } ?? (best.version.text != current)
        return UpstreamFinding(
            current: current, newest: isNew ? best.version.text : current, label: best.label.prefix(200).printable())
    }

    private static func slowPattern(_ source: UpstreamSource) -> FarmError {
        FarmError("upstream.pattern", .invalid, "the pattern \"\(source.pattern ?? "")\" takes too long", hint: "repeat less in it")
    }

    /// Versions in what a source lists, each with the text around it.
    private static func versions(
        in label: String, _ pattern: Regex<AnyRegexOutput>?, _ kind: UpstreamSource.Kind
    ) -> [(text: String, label: String)] {
        if let pattern {
            return label.matches(of: pattern).map { match in
                let whole = match.output[0].substring ?? ""
                return (String((match.output.count > 1 ? match.output[1].substring : nil) ?? whole), String(whole))
            }
        }
        // v1.2, release-1.2, tool_1_2: from the first digit on; of a file's name, without what follows.
        var text = label.drop { !$0.isNumber }
        if kind == .sourceforge || kind == .http {
            for ending in [".tar", ".tgz", ".zip", ".exe", ".dmg", ".deb", ".rpm", "/", "\"", "<"] {
                if let range = text.range(of: ending) { text = text[..<range.lowerBound] }
            }
        }
        return [(text.contains(".") ? String(text) : text.replacingOccurrences(of: "_", with: "."), label)]
    }
}
