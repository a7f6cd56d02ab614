package import FarmIdentity
package import FarmModel
import Foundation
import Glibc
package import HTTPTransport
import SystemIO

/// What a worker's operator sets, and what enrolment told it: `worker.json` in its home.
package struct WorkerConfiguration: Codable, Sendable, Hashable {
    package var name: String
    package var farm: String
    /// `HOST:PORT` of the worker protocol.
    package var link: String
    /// URL of the coordinator's API.
    package var api: String
    /// Builds at a time.
    package var slots: Int
    /// With less than so much free, the worker takes nothing new.
    package var minimumFreeGiB: Double
    /// The engine's client program.
    package var docker: String
    /// The engine's address; empty for the client's default.
    package var dockerHost: String
    /// What builds: Docker's `buildkit` or `classic` (which leaves to the former what only that understands), or `buildah`, without a daemon.
    package var builder: EngineBuilder
    /// Where buildah keeps images and layers; empty for a place in the worker's home.
    package var buildahRoot: String
    /// Days for which the image of a failed test is kept.
    package var keepDays: Double
    /// Minutes of a suite's tests after which a build leaves the rest to other workers, where the suite allows it.
    package var testMinutes: Double
    /// Hours after which a build is ended.
    package var buildHours: Double
    /// Minutes without a word after which a build is ended.
    package var silentMinutes: Double
    /// Words that recipes may ask for or avoid, beside those that the machine gives itself.
    package var labels: [String]
    /// Whether images and layers of earlier builds go when a build needs their room.
    package var evicts: Bool
    /// What all steps that run at a time may use: GiB of memory (0 for nine tenths of the machine's), processes, processors' time (0 for all).
    package var buildMemoryGiB: Double
    package var buildProcesses: Int
    package var buildProcessors: Double
    /// Megabytes in a second that layers take to the farm at most; 0 for any number.
    package var layerMegabytesPerSecond: Double
    /// Gigabytes of what builds fetch over http that are kept for later ones, a tenth of the disk at most; 0 for no proxy.
    package var inputCacheGigabytes: Double
    /// Where they lie; empty for the usual place, below `/var/cache/sciferry` where the worker is root.
    package var inputCacheDirectory: String
    /// `HOST:PORT` of a proxy that all workers of the farm ask before the world; empty for none.
    package var inputCacheParent: String
    /// For tests only: a CPU target that the worker says it has, whatever it has. A farm with it would hand out broken images.
    package var pretendedTargetForTests: String?

    package init(name: String, farm: String, link: String, api: String) {
        self.name = name
        self.farm = farm
        self.link = link
        self.api = api
        slots = 1
        minimumFreeGiB = 2
        docker = Disk.isExecutable("/usr/bin/docker") ? "/usr/bin/docker" : "docker"
        dockerHost = ""
        (builder, buildahRoot) = (.buildkit, "")
        keepDays = 7
        testMinutes = 20
        buildHours = 12
        silentMinutes = 120
        labels = []
        evicts = true
        (buildMemoryGiB, buildProcesses, buildProcessors) = (0, 8192, 0)
        layerMegabytesPerSecond = 0
        (inputCacheGigabytes, inputCacheDirectory, inputCacheParent) = (10, "", "")
    }
}

/// The directories of a worker's home.
package struct WorkerHome: Sendable, Hashable {
    package let root: String

    package init(_ path: String) { root = Disk.absolute(path) }

    package var configuration: String { "\(root)/worker.json" }
    package var key: String { "\(root)/worker.key" }
    package var certificate: String { "\(root)/worker.pem" }
    package var authority: String { "\(root)/authority.pem" }
    package var attempts: String { "\(root)/attempts" }
    package var kept: String { "\(root)/kept" }
    /// Layers on their way to the farm.
    package var layers: String { "\(root)/layers" }
    /// What is known of the engine's layers: `LayerMemory`.
    package var layerNotes: String { "\(root)/layers.json" }
    /// What was found of images' machine code, for all workers of the machine that run as root.
    package var proofs: String { geteuid() == 0 ? "/var/cache/sciferry/proofs" : "\(root)/proofs" }
    /// Files of test data, by content; shared by all workers of a machine that root runs.
    package var datasets: String { geteuid() == 0 ? "/var/cache/sciferry/datasets" : "\(root)/datasets" }
    package var lock: String { "\(root)/worker.lock" }

    /// The engine's name for what an attempt builds. It names the home too: several workers may share one engine.
    package func buildTag(_ attempt: String) -> String { "sciferry-build:\(Digest(hashing: root).short)-\(attempt)" }

    /// The engine's name for what an attempt has built, while its layers wait to be taken to the farm.
    package func layerTag(_ attempt: String) -> String { "sciferry-deliver:\(Digest(hashing: root).short)-\(attempt)" }

    /// What marks an attempt's processes in their environment, unlike those of any other home.
    package func mark(_ attempt: AttemptID) -> String { "\(Digest(hashing: root).short)/\(attempt)" }

    package func readConfiguration() throws -> WorkerConfiguration {
        guard Disk.exists(configuration) else {
            throw FarmError(
                "worker.not-enrolled", .notFound, "\(root) holds no worker",
                hint: "enrol it: sciferry-worker join TOKEN --home \(root)")
        }
        var defaults = WorkerConfiguration(name: "", farm: "", link: "", api: "")
        // Known, so that tests may set it, and not written by `join`, so that nobody comes upon it.
        defaults.pretendedTargetForTests = ""
        let value = try CanonicalJSON.decodeSettings(
            try Disk.read(configuration, limit: 1 << 20), defaults: defaults, source: configuration)
        guard !value.name.isEmpty, !value.link.isEmpty, !value.api.isEmpty else {
            throw FarmError(
                "worker.settings", .invalid, "\(configuration) lacks \"name\", \"link\" or \"api\"",
                hint: "enrol the worker again: sciferry-worker join TOKEN --home \(root)")
        }
        guard value.inputCacheParent.isEmpty || SquidSettings.hostAndPort(value.inputCacheParent) != nil else {
            throw FarmError(
                "worker.settings", .invalid, "\(configuration): inputCacheParent \"\(value.inputCacheParent)\" is no HOST:PORT",
                hint: "for example cache.example.org:3128")
        }
        if let word = value.labels.first(where: { !LabelWish.isLabel($0) }) {
            throw FarmError(
                "worker.settings", .invalid, "\(configuration): \"\(word)\" is no label",
                hint: "lower-case letters, digits, dots and hyphens, at most 63")
        }
        return value
    }

    package func write(_ value: WorkerConfiguration) throws {
        try Disk.replace(configuration, with: Array(try CanonicalJSON.pretty(value).utf8))
    }
}

/// Section 1 of the protocol: from a join token to a certificate.
package struct Enrolment: Sendable {
    private let client: HTTPClient

    package init(client: HTTPClient) { self.client = client }

    /// Enrols the home, or completes an enrolment that a crash interrupted. Throws `identity.pin` when the coordinator's
    /// authority is not the token's.
    @discardableResult
    package func join(_ token: JoinToken, home: WorkerHome, slots: Int?) async throws -> WorkerConfiguration {
        try Disk.makeDirectory(home.root, mode: 0o700)
        // The key is on the disk before the token is spent: the same token and key may ask again.
        if !Disk.exists(home.key) {
            let fresh = try KeyAndRequest.generate(commonName: "sciferry worker")
            try Disk.replace(home.key, with: Array(fresh.keyPEM.utf8), mode: 0o600)
        }
        let keyPEM = String(decoding: try Disk.read(home.key, limit: 1 << 16), as: UTF8.self)
        let pair = try KeyAndRequest(keyPEM: keyPEM, commonName: "sciferry worker")
        let authority = try await fetchAuthority(token)
        let body = try CanonicalJSON.encode(
            EnrolmentRequest(token: token.id, secret: token.secret, request: Data(pair.request).base64EncodedString()))
        let response = try await client.performRetrying(
            HTTPRequest(
                "POST", "\(token.url)/api/v1/enrol", headers: [("Content-Type", "application/json")], body: .bytes(body),
                authority: Array(authority.utf8)))
        guard response.isSuccess else { throw response.refusal }
        let reply: EnrolmentReply = try CanonicalJSON.decode(from: response.body, source: "the coordinator's answer")
        let previous = try? home.readConfiguration()
        var configuration = previous ?? WorkerConfiguration(name: reply.worker, farm: reply.farm, link: reply.link, api: reply.api)
        configuration.name = reply.worker
        configuration.farm = reply.farm
        configuration.link = reply.link
        configuration.api = reply.api
        if let slots { configuration.slots = slots }
        try Disk.replace(home.authority, with: Array(authority.utf8))
        try Disk.replace(home.certificate, with: Array(reply.certificate.utf8))
        try home.write(configuration)
        return configuration
    }

    private func fetchAuthority(_ token: JoinToken) async throws -> String {
        let response = try await client.performRetrying(
            HTTPRequest("GET", "\(token.url)/api/v1/authority", skipsVerification: true, responseLimit: 1 << 16))
        guard response.isSuccess else { throw response.refusal }
        let pem = String(decoding: response.body, as: UTF8.self)
        guard try CertificateAuthority.fingerprint(pem: pem) == token.authority else {
            throw FarmError(
                "identity.pin", .denied, "\(token.url) is not the coordinator that made this token: its authority has another fingerprint",
                hint: "somebody may be in between; check the address and ask for a new token")
        }
        return pem
    }
}
