import FarmIdentity
import FarmModel
import FarmWire
import NIOCore
package import NIOSSL
import NIOTLS

/// One side's certificate, key and the authority it trusts.
package struct LinkCredentials: Sendable {
    package var certificatePEM: String
    package var keyPEM: String
    package var authorityPEM: String

    package init(certificatePEM: String, keyPEM: String, authorityPEM: String) {
        self.certificatePEM = certificatePEM
        self.keyPEM = keyPEM
        self.authorityPEM = authorityPEM
    }

    /// TLS 1.3 only, mutual certificates, our ALPN.
    package func serverContext() throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeServerConfigurationWithMTLS(
            certificateChain: try chain(), privateKey: try key(), trustRoots: try roots())
        configuration.certificateVerification = .noHostnameVerification
        return try context(&configuration)
    }

    /// As `serverContext`; the peer's role is checked by its URI name instead of a host name.
    package func clientContext() throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateChain = try chain()
        configuration.privateKey = try key()
        configuration.trustRoots = try roots()
        configuration.certificateVerification = .noHostnameVerification
        return try context(&configuration)
    }

    private func context(_ configuration: inout TLSConfiguration) throws -> NIOSSLContext {
        configuration.minimumTLSVersion = .tlsv13
        configuration.maximumTLSVersion = .tlsv13
        configuration.applicationProtocols = [WireProtocol.alpn]
        return try wrap { try NIOSSLContext(configuration: configuration) }
    }

    private func chain() throws -> [NIOSSLCertificateSource] {
        try wrap { try NIOSSLCertificate.fromPEMBytes(Array(certificatePEM.utf8)).map { .certificate($0) } }
    }

    private func key() throws -> NIOSSLPrivateKeySource {
        try wrap { .privateKey(try NIOSSLPrivateKey(bytes: Array(keyPEM.utf8), format: .pem)) }
    }

    private func roots() throws -> NIOSSLTrustRoots {
        try wrap { .certificates(try NIOSSLCertificate.fromPEMBytes(Array(authorityPEM.utf8))) }
    }

    private func wrap<Value>(_ body: () throws -> Value) throws -> Value {
        do { return try body() } catch {
            throw FarmError("link.credentials", .invalid, "the certificate or key cannot be used", cause: error)
        }
    }
}

/// The certificate of a connection's other side.
enum LinkPeer {
    /// Throws `identity.certificate` when there is none or it names nobody.
    static func certificate(of channel: any Channel) async throws -> IssuedCertificate {
        let der = try await channel.pipeline.handler(type: NIOSSLHandler.self).map { handler in
            try? handler.peerCertificate?.toDERBytes()
        }.get()
        guard let der else { throw FarmError("identity.certificate", .denied, "the peer has no certificate") }
        return try IssuedCertificate(der: der)
    }
}

/// Lets nothing through before the handshake has agreed on our protocol; a failed handshake is reported once.
final class HandshakeGate: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    private let refused: @Sendable (_ code: String, _ reason: String) -> Void
    private var isOpen = false
    private var reported = false

    init(refused: @escaping @Sendable (String, String) -> Void) { self.refused = refused }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? TLSUserEvent, case .handshakeCompleted(let negotiated) = event {
            if negotiated == WireProtocol.alpn {
                isOpen = true
            } else {
                report("protocol.alpn", "the peer offered \(negotiated ?? "no protocol")")
                context.close(promise: nil)
            }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if isOpen { context.fireChannelRead(data) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if isOpen {
            context.fireErrorCaught(error)
        } else {
            report("link.handshake", "\(error)")
            context.close(promise: nil)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if !isOpen { report("link.handshake", "the peer left during the handshake") }
        context.fireChannelInactive()
    }

    private func report(_ code: String, _ reason: String) {
        if !reported { refused(code, reason) }
        reported = true
    }
}

/// Writes frames as bytes.
final class FrameEncoder: MessageToByteEncoder {
    typealias OutboundIn = Frame

    func encode(data: Frame, out: inout ByteBuffer) throws { data.write(into: &out) }
}
