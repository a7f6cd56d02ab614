import enum Crypto.P256
package import FarmModel
import Foundation
import SwiftASN1
import SystemIO
import X509

/// Who a certificate of the farm speaks for.
package enum PeerIdentity: Sendable, Hashable, CustomStringConvertible {
    case coordinator
    case worker(WorkerName)

    /// The URI subject alternative name that carries it.
    package var uri: String {
        switch self {
        case .coordinator: "sciferry:coordinator"
        case .worker(let name): "sciferry:worker/\(name)"
        }
    }

    package init?(uri: String) {
        if uri == "sciferry:coordinator" {
            self = .coordinator
        } else if uri.hasPrefix("sciferry:worker/"), PlainName.isValid(String(uri.dropFirst(16))) {
            self = .worker(WorkerName(String(uri.dropFirst(16))))
        } else {
            return nil
        }
    }

    package var description: String { uri }
}

/// A certificate with what the farm needs to know of it.
package struct IssuedCertificate: Sendable, Hashable {
    package var pem: String
    package var der: [UInt8]
    package var serial: String
    package var identity: PeerIdentity
    package var expiresAt: Timestamp
    /// Seconds from its issue to its end.
    package var lifetime: Double
    /// SHA-256 of the subject's public key.
    package var keyDigest: Digest

    /// Reads a leaf of the farm; throws `identity.certificate` when it names nobody.
    package init(der: [UInt8]) throws {
        do {
            let certificate = try Certificate(derEncoded: der)
            let names = try certificate.extensions.subjectAlternativeNames
            let identity = names?.lazy.compactMap { name -> PeerIdentity? in
                guard case .uniformResourceIdentifier(let uri) = name else { return nil }
                return PeerIdentity(uri: uri)
            }.first
            guard let identity else {
                throw FarmError("identity.certificate", .denied, "the certificate names nobody of the farm")
            }
            self.identity = identity
            self.der = der
            pem = try certificate.serializeAsPEM().pemString
            serial = certificate.serialNumber.description
            expiresAt = Timestamp(certificate.notValidAfter)
            let begins = Timestamp(certificate.notValidBefore).adding(seconds: CertificateAuthority.clockTolerance)
            lifetime = expiresAt.seconds(since: begins)
            keyDigest = Digest(hashing: Array(certificate.publicKey.subjectPublicKeyInfoBytes))
        } catch let error as FarmError {
            throw error
        } catch {
            throw FarmError("identity.certificate", .denied, "a certificate cannot be read", cause: error)
        }
    }

    /// Reads a PEM file's leaf.
    package init(pem: String) throws {
        let document: PEMDocument
        do { document = try PEMDocument(pemString: pem) } catch {
            throw FarmError("identity.certificate", .denied, "a certificate is no PEM", cause: error)
        }
        try self.init(der: document.derBytes)
    }
}

/// A private P-256 key and the request to certify it.
package struct KeyAndRequest: Sendable {
    package var keyPEM: String
    /// PKCS #10 (RFC 2986), DER.
    package var request: [UInt8]

    /// A new key.
    package static func generate(commonName: String) throws -> KeyAndRequest {
        try KeyAndRequest(keyPEM: P256.Signing.PrivateKey().pemRepresentation, commonName: commonName)
    }

    /// A request for a key that exists already.
    package init(keyPEM: String, commonName: String) throws {
        do {
            let key = Certificate.PrivateKey(try P256.Signing.PrivateKey(pemRepresentation: keyPEM))
            let request = try CertificateSigningRequest(
                version: .v1, subject: try DistinguishedName { CommonName(commonName) }, privateKey: key,
                attributes: .init())
            var serializer = DER.Serializer()
            try serializer.serialize(request)
            self.keyPEM = keyPEM
            self.request = serializer.serializedBytes
        } catch {
            throw FarmError("identity.key", .fault, "cannot make a certificate request for \(commonName)", cause: error)
        }
    }
}

/// The farm's own certificate authority: P-256, one level, short-lived leaves.
package struct CertificateAuthority: Sendable {
    private let key: P256.Signing.PrivateKey
    private let certificate: Certificate
    package let pem: String
    /// SHA-256 of the certificate's DER; what a join token pins.
    package let fingerprint: Digest

    /// Seconds for which a leaf is valid.
    package static let leafLifetime: Double = 24 * 3600
    /// Clocks of workers may be so far behind.
    fileprivate static let clockTolerance: Double = 300

    /// Reads `ca.key` and `ca.pem` of a directory.
    package init(directory: String) throws {
        let keyText = String(decoding: try Disk.read("\(directory)/ca.key", limit: 1 << 16), as: UTF8.self)
        let text = String(decoding: try Disk.read("\(directory)/ca.pem", limit: 1 << 16), as: UTF8.self)
        do {
            key = try P256.Signing.PrivateKey(pemRepresentation: keyText)
            certificate = try Certificate(pemEncoded: text)
            pem = text
            fingerprint = try CertificateAuthority.fingerprint(pem: text)
        } catch let error as FarmError {
            throw error
        } catch {
            throw FarmError("identity.authority", .invalid, "the authority in \(directory) cannot be read", cause: error)
        }
    }

    /// Makes a new authority in a directory; throws `identity.exists` when one is there.
    package static func create(directory: String, farm: String, now: Timestamp) throws {
        guard !Disk.exists("\(directory)/ca.key") else {
            throw FarmError("identity.exists", .conflict, "\(directory) holds an authority already")
        }
        do {
            let key = P256.Signing.PrivateKey()
            let name = try DistinguishedName { CommonName("Sciferry farm \(farm)") }
            let certificate = try Certificate(
                version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: .init(key.publicKey),
                notValidBefore: now.adding(seconds: -clockTolerance).date,
                notValidAfter: now.adding(seconds: 10 * 365 * 86400).date, issuer: name, subject: name,
                signatureAlgorithm: .ecdsaWithSHA256,
                extensions: try Certificate.Extensions {
                    Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                    Critical(KeyUsage(keyCertSign: true, cRLSign: true))
                    SubjectKeyIdentifier(hash: Certificate.PublicKey(key.publicKey))
                }, issuerPrivateKey: .init(key))
            try Disk.replace("\(directory)/ca.key", with: Array(key.pemRepresentation.utf8), mode: 0o600)
            try Disk.replace("\(directory)/ca.pem", with: Array((try certificate.serializeAsPEM().pemString + "\n").utf8))
        } catch let error as FarmError {
            throw error
        } catch {
            throw FarmError("identity.authority", .fault, "cannot make an authority in \(directory)", cause: error)
        }
    }

    /// SHA-256 of a PEM certificate's DER.
    package static func fingerprint(pem: String) throws -> Digest {
        do { return Digest(hashing: try PEMDocument(pemString: pem).derBytes) } catch {
            throw FarmError("identity.certificate", .denied, "the authority's certificate is no PEM", cause: error)
        }
    }

    /// Checks a request's own signature and returns its key's digest; throws `identity.request`.
    package static func keyDigest(ofRequest request: [UInt8]) throws -> Digest {
        Digest(hashing: Array(try read(request).publicKey.subjectPublicKeyInfoBytes))
    }

    /// A leaf for the key in a request. Names in the request are ignored: the farm says who it is.
    ///
    /// - Parameters:
    ///   - hosts: DNS names and IP addresses under which the holder may be reached.
    ///   - lifetime: seconds of validity.
    package func issue(
        request: [UInt8], identity: PeerIdentity, hosts: [String] = [], now: Timestamp,
        lifetime: Double = CertificateAuthority.leafLifetime
    ) throws -> IssuedCertificate {
        let request = try CertificateAuthority.read(request)
        do {
            let names = [GeneralName.uniformResourceIdentifier(identity.uri)] + hosts.map(CertificateAuthority.name)
            let usages: [ExtendedKeyUsage.Usage] = identity == .coordinator ? [.serverAuth, .clientAuth] : [.clientAuth]
            let leaf = try Certificate(
                version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: request.publicKey,
                notValidBefore: now.adding(seconds: -CertificateAuthority.clockTolerance).date,
                notValidAfter: now.adding(seconds: lifetime).date, issuer: certificate.subject,
                subject: try DistinguishedName { CommonName(String(identity.uri.prefix(64))) },
                signatureAlgorithm: .ecdsaWithSHA256,
                extensions: try Certificate.Extensions {
                    Critical(BasicConstraints.notCertificateAuthority)
                    Critical(KeyUsage(digitalSignature: true))
                    try ExtendedKeyUsage(usages)
                    SubjectAlternativeNames(names)
                }, issuerPrivateKey: .init(key))
            var serializer = DER.Serializer()
            try serializer.serialize(leaf)
            return try IssuedCertificate(der: serializer.serializedBytes)
        } catch let error as FarmError {
            throw error
        } catch {
            throw FarmError("identity.issue", .fault, "cannot issue a certificate for \(identity)", cause: error)
        }
    }

    private static func read(_ request: [UInt8]) throws -> CertificateSigningRequest {
        do {
            let parsed = try CertificateSigningRequest(derEncoded: request)
            guard parsed.publicKey.isValidSignature(parsed.signature, for: parsed) else {
                throw FarmError("identity.request", .denied, "the certificate request is not signed by its own key")
            }
            return parsed
        } catch let error as FarmError {
            throw error
        } catch {
            throw FarmError("identity.request", .denied, "the certificate request cannot be read", cause: error)
        }
    }

    private static func name(_ host: String) -> GeneralName {
        let numbers = host.split(separator: ".").compactMap { UInt8($0) }
        if numbers.count == 4, host.split(separator: ".").count == 4 {
            return .ipAddress(ASN1OctetString(contentBytes: numbers[...]))
        }
        if host == "::1" {
            return .ipAddress(ASN1OctetString(contentBytes: ([UInt8](repeating: 0, count: 15) + [1])[...]))
        }
        return .dnsName(host)
    }
}
