package import FarmModel
import SystemIO

/// What an operator hands to a new machine: where the coordinator is, whom to trust, and a secret that works once.
///
/// Text form: `https://HOST:PORT#ca=FINGERPRINT&token=ID.SECRET`.
package struct JoinToken: Sendable, Hashable {
    package var url: String
    package var authority: Digest
    package var id: String
    package var secret: String

    package init(url: String, authority: Digest, id: String, secret: String) {
        self.url = url
        self.authority = authority
        self.id = id
        self.secret = secret
    }

    /// Reads the text form; throws `identity.token`.
    package init(text: String) throws {
        let trouble = FarmError(
            "identity.token", .usage, "this is no join token",
            hint: "ask an operator for one: sciferry worker token NAME")
        let halves = text.split(separator: "#", maxSplits: 1)
        guard halves.count == 2, halves[0].hasPrefix("https://") else { throw trouble }
        var fields: [Substring: Substring] = [:]
        for field in halves[1].split(separator: "&") {
            let pair = field.split(separator: "=", maxSplits: 1)
            guard pair.count == 2 else { throw trouble }
            fields[pair[0]] = pair[1]
        }
        guard let authority = fields["ca"].flatMap({ Digest($0) }), let token = fields["token"],
            let dot = token.firstIndex(of: ".")
        else { throw trouble }
        url = String(halves[0])
        self.authority = authority
        id = String(token[..<dot])
        secret = String(token[token.index(after: dot)...])
    }

    package var text: String { "\(url)#ca=\(authority.hex)&token=\(id).\(secret)" }
}

/// What the coordinator keeps of a join token: never the secret itself.
package struct TokenRecord: Codable, Sendable, Hashable {
    package var id: String
    package var secretDigest: Digest
    package var worker: WorkerName
    /// Whether the worker's results may serve releases and other workers.
    package var trusted: Bool
    package var expiresAt: Timestamp
    /// The key that redeemed it.
    package var keyDigest: Digest?
    /// The certificate it was given.
    package var certificate: String?
    package var certificateExpiresAt: Timestamp?

    package init(id: String, secret: String, worker: WorkerName, trusted: Bool, expiresAt: Timestamp) {
        self.id = id
        self.secretDigest = Digest(hashing: secret)
        self.worker = worker
        self.trusted = trusted
        self.expiresAt = expiresAt
    }

    /// What presenting a token leads to.
    package enum Answer: Sendable, Equatable {
        /// Sign the request and keep the result with `accept`.
        case issue
        /// The same certificate as before: the worker crashed between being signed and keeping it.
        case again(String)
    }

    /// Decides without changing anything; throws `identity.refused` and says why.
    package func redeem(secret: String, keyDigest: Digest, now: Timestamp) throws -> Answer {
        // Digests of equal length are compared, so time tells nothing of the secret.
        guard Digest(hashing: secret) == secretDigest else { throw TokenRecord.refusal("its secret is wrong") }
        if let certificate, let certificateExpiresAt {
            guard self.keyDigest == keyDigest else { throw TokenRecord.refusal("it was used already, with another key") }
            guard now < certificateExpiresAt else { throw TokenRecord.refusal("it was used and its certificate has expired") }
            return .again(certificate)
        }
        guard now < expiresAt else { throw TokenRecord.refusal("it expired at \(expiresAt)") }
        return .issue
    }

    /// Keeps what was issued.
    package mutating func accept(_ certificate: IssuedCertificate) {
        keyDigest = certificate.keyDigest
        self.certificate = certificate.pem
        certificateExpiresAt = certificate.expiresAt
    }

    /// The refusal of a token that nobody knows reads like that of a wrong secret.
    package static func refusal(_ reason: String) -> FarmError {
        FarmError(
            "identity.refused", .denied, "the join token is refused: \(reason)",
            hint: "ask an operator for a new one: sciferry worker token NAME")
    }
}
