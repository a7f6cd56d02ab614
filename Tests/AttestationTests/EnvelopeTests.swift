import Attestation
import FarmModel
import Foundation
import Support
import Testing

@Suite struct EnvelopeTests {
    private struct Document: Codable, Equatable { var text: String }

    @Test func signedDocumentsVerifyAndOthersAreRefused() throws {
        let key = try SigningKey.generate()
        let stranger = try SigningKey.generate()
        let envelope = try Envelope.sign(Document(text: "hello"), type: "a/b", with: key)
        let read: Document = try envelope.verified(payloadType: "a/b", by: [key.verifier], source: "it")
        #expect(read == Document(text: "hello"))
        func refused(_ envelope: Envelope, _ type: String, _ keys: [VerifyingKey]) -> Bool {
            (try? envelope.verified(Document.self, payloadType: type, by: keys, source: "it")) == nil
        }
        #expect(refused(envelope, "a/b", [stranger.verifier]))
        #expect(refused(envelope, "c/d", [key.verifier]))
        #expect(refused(envelope, "a/b", []))
        var changed = envelope
        changed.payload = Data(#"{"text":"evil"}"#.utf8).base64EncodedString()
        #expect(refused(changed, "a/b", [key.verifier]))
        var renamed = envelope
        renamed.payloadType = "c/d"
        #expect(refused(renamed, "c/d", [key.verifier]))
    }

    @Test func theEncodingIsThatOfTheSpecification() {
        // The example of the DSSE protocol text.
        let encoded = Envelope.encoding(type: "http://example.com/HelloWorld", payload: Array("hello world".utf8))
        #expect(String(decoding: encoded, as: UTF8.self) == "DSSEv1 29 http://example.com/HelloWorld 11 hello world")
    }

    @Test func keysNeverPrint() throws {
        let scratch = try Scratch()
        let key = try SigningKey.generate()
        try key.write("\(scratch.path)/key")
        let secret = try String(contentsOfFile: "\(scratch.path)/key", encoding: .utf8).trimmingCharacters(in: .newlines)
        #expect(!"\(key)".contains(secret))
        #expect(try SigningKey(file: "\(scratch.path)/key").verifier == key.verifier)
    }
}
