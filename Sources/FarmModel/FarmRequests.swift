/// Section 1 of the worker protocol: what a new worker sends with its join token.
package struct EnrolmentRequest: Codable, Sendable, Hashable {
    /// The token's id.
    package var token: String
    package var secret: String
    /// PKCS #10, DER, base64.
    package var request: String

    package init(token: String, secret: String, request: String) {
        self.token = token
        self.secret = secret
        self.request = request
    }
}

/// Section 1 of the worker protocol: what an enrolled worker gets.
package struct EnrolmentReply: Codable, Sendable, Hashable {
    /// The leaf, PEM.
    package var certificate: String
    package var worker: String
    /// `HOST:PORT` of the worker protocol.
    package var link: String
    /// URL of the API.
    package var api: String
    package var farm: String

    package init(certificate: String, worker: String, link: String, api: String, farm: String) {
        self.certificate = certificate
        self.worker = worker
        self.link = link
        self.api = api
        self.farm = farm
    }
}

/// What a holder of an API token may do; each role may do what those before it may.
package enum AccessRole: String, Codable, Sendable, Hashable, CaseIterable, Comparable {
    /// A contributor may ask for candidates; each role may do what the ones before it may.
    case reader, contributor, maintainer, releaser, `operator`, admin

    private var rank: Int { AccessRole.allCases.firstIndex(of: self) ?? 0 }

    package static func < (one: AccessRole, other: AccessRole) -> Bool { one.rank < other.rank }
}

/// Asks for a candidate's release.
package struct PromotionRequest: Codable, Sendable, Hashable {
    /// The very image, instead of one that a trusted worker builds again.
    package var bytes: Bool
    /// Whatever differs in what is built again.
    package var acceptsDifferences: Bool

    package init(bytes: Bool, acceptsDifferences: Bool) {
        self.bytes = bytes
        self.acceptsDifferences = acceptsDifferences
    }
}

/// Asks that a version be yanked, or be as others again.
package struct YankRequest: Codable, Sendable, Hashable {
    package var name: String
    package var version: String
    /// Why; `nil` to take it back.
    package var reason: String?

    package init(name: String, version: String, reason: String?) {
        self.name = name
        self.version = version
        self.reason = reason
    }
}

/// Asks for an API token.
package struct AccessRequest: Codable, Sendable, Hashable {
    package var name: String
    package var role: AccessRole

    package init(name: String, role: AccessRole) {
        self.name = name
        self.role = role
    }
}

/// A new API token; the farm keeps only its hash.
package struct AccessReply: Codable, Sendable, Hashable {
    package var token: String

    package init(token: String) { self.token = token }
}

/// Asks for a join token.
package struct JoinTokenRequest: Codable, Sendable, Hashable {
    package var worker: String
    /// Whether the worker may build releases.
    package var trusted: Bool
    package var minutes: Int

    package init(worker: String, trusted: Bool, minutes: Int) {
        self.worker = worker
        self.trusted = trusted
        self.minutes = minutes
    }
}

/// A new join token in the form that `sciferry-worker join` takes.
package struct JoinTokenReply: Codable, Sendable, Hashable {
    package var token: String
    package var expiresAt: Timestamp

    package init(token: String, expiresAt: Timestamp) {
        self.token = token
        self.expiresAt = expiresAt
    }
}
