import struct Crypto.HMAC
import struct Crypto.SHA256
import struct Crypto.SymmetricKey
package import FarmModel
import Foundation

/// Keys for an S3-compatible service.
package struct StorageCredentials: Sendable, Hashable, CustomStringConvertible {
    package var keyID: String
    package var secret: String
    package var sessionToken: String?

    package init(keyID: String, secret: String, sessionToken: String? = nil) {
        self.keyID = keyID
        self.secret = secret
        self.sessionToken = sessionToken
    }

    package var description: String { "StorageCredentials(\(keyID), <redacted>)" }
}

/// AWS Signature Version 4 (AWS General Reference, "Signing AWS API requests").
package struct SignatureV4: Sendable {
    package var credentials: StorageCredentials
    package var region: String
    package var service: String

    package init(credentials: StorageCredentials, region: String, service: String = "s3") {
        self.credentials = credentials
        self.region = region
        self.service = service
    }

    /// The headers to add to a request: `x-amz-date`, `x-amz-content-sha256`, `Authorization` and a session token.
    ///
    /// - Parameters:
    ///   - path: percent-encoded as it goes over the wire.
    ///   - query: names and values, not encoded.
    ///   - headers: those to sign, `host` among them.
    ///   - payload: hexadecimal SHA-256 of the body or `UNSIGNED-PAYLOAD`.
    package func headers(
        method: String, path: String, query: [(String, String)], headers: [(String, String)], payload: String,
        at time: Timestamp
    ) -> [(String, String)] {
        let stamp = SignatureV4.stamp(time)
        var added = [("x-amz-content-sha256", payload), ("x-amz-date", stamp)]
        if let token = credentials.sessionToken { added.append(("x-amz-security-token", token)) }
        let (signed, signature) = sign(
            method: method, path: path, query: query, headers: headers + added, payload: payload, stamp: stamp)
        let scope = scope(stamp)
        added.append(
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=\(credentials.keyID)/\(scope),SignedHeaders=\(signed),Signature=\(signature)"
            ))
        return added
    }

    /// The query of a presigned URL, encoded and in order.
    package func presignedQuery(
        method: String, path: String, headers: [(String, String)], seconds: Int, at time: Timestamp
    ) -> String {
        let stamp = SignatureV4.stamp(time)
        let signedNames = headers.map { $0.0.lowercased() }.sorted().joined(separator: ";")
        var query = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-Credential", "\(credentials.keyID)/\(scope(stamp))"),
            ("X-Amz-Date", stamp), ("X-Amz-Expires", String(seconds)), ("X-Amz-SignedHeaders", signedNames),
        ]
        if let token = credentials.sessionToken { query.append(("X-Amz-Security-Token", token)) }
        let (_, signature) = sign(
            method: method, path: path, query: query, headers: headers, payload: "UNSIGNED-PAYLOAD", stamp: stamp)
        return SignatureV4.canonicalQuery(query) + "&X-Amz-Signature=\(signature)"
    }

    /// Percent-encodes all but RFC 3986's unreserved characters; `keepSlash` for paths.
    package static func encode(_ text: String, keepSlash: Bool = false) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var out: [UInt8] = []
        for byte in text.utf8 {
            if byte.isAlphanumeric || "-_.~".utf8.contains(byte) || (keepSlash && byte == UInt8(ascii: "/")) {
                out.append(byte)
            } else {
                out += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    package static func canonicalQuery(_ query: [(String, String)]) -> String {
        query.map { (encode($0.0), encode($0.1)) }.sorted { $0 < $1 }.map { "\($0)=\($1)" }.joined(separator: "&")
    }

    private func scope(_ stamp: String) -> String { "\(stamp.prefix(8))/\(region)/\(service)/aws4_request" }

    private func sign(
        method: String, path: String, query: [(String, String)], headers: [(String, String)], payload: String,
        stamp: String
    ) -> (signedHeaders: String, signature: String) {
        let canonical = headers.map { ($0.0.lowercased(), $0.1.trimmingCharacters(in: .whitespaces)) }.sorted { $0 < $1 }
        let signed = canonical.map(\.0).joined(separator: ";")
        let request = [
            method, path, SignatureV4.canonicalQuery(query), canonical.map { "\($0):\($1)\n" }.joined(), signed, payload,
        ].joined(separator: "\n")
        let toSign = ["AWS4-HMAC-SHA256", stamp, scope(stamp), Digest(hashing: request).hex].joined(separator: "\n")
        var key = SymmetricKey(data: Array("AWS4\(credentials.secret)".utf8))
        for part in [String(stamp.prefix(8)), region, service, "aws4_request"] {
            key = SymmetricKey(data: HMAC<SHA256>.authenticationCode(for: Array(part.utf8), using: key))
        }
        let signature = Array(HMAC<SHA256>.authenticationCode(for: Array(toSign.utf8), using: key))
        return (signed, Digest(bytes: signature)?.hex ?? "")
    }

    /// `YYYYMMDDTHHMMSSZ`.
    package static func stamp(_ time: Timestamp) -> String {
        time.description.filter { $0 != "-" && $0 != ":" }
    }
}
