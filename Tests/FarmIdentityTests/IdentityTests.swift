import FarmIdentity
import FarmModel
import Support
import Testing

@Suite struct JoinTokenTests {
    private let now = Timestamp(seconds: 1_000_000)
    private func record() -> TokenRecord {
        TokenRecord(id: "t", secret: "s3cret", worker: WorkerName("w"), trusted: true, expiresAt: now.adding(seconds: 60))
    }

    @Test func theTextRoundTrips() throws {
        let token = JoinToken(url: "https://h:1", authority: Digest(hashing: "ca"), id: "abc", secret: "def")
        #expect(try JoinToken(text: token.text) == token)
        for wrong in ["", "https://h:1", "http://h#ca=0&token=a.b", "https://h#token=a.b", "https://h#ca=zz&token=a.b"] {
            #expect(throws: FarmError.self) { try JoinToken(text: wrong) }
        }
    }

    @Test func aTokenWorksOnceForOneKey() throws {
        let scratch = try Scratch()
        try CertificateAuthority.create(directory: scratch.path, farm: "f", now: now)
        let authority = try CertificateAuthority(directory: scratch.path)
        let mine = try KeyAndRequest.generate(commonName: "w")
        let other = try KeyAndRequest.generate(commonName: "w")
        let myKey = try CertificateAuthority.keyDigest(ofRequest: mine.request)
        let otherKey = try CertificateAuthority.keyDigest(ofRequest: other.request)
        var record = record()
        #expect(try record.redeem(secret: "s3cret", keyDigest: myKey, now: now) == .issue)
        #expect(throws: FarmError.self) { try record.redeem(secret: "wrong", keyDigest: myKey, now: now) }
        #expect(throws: FarmError.self) { try record.redeem(secret: "s3cret", keyDigest: myKey, now: now.adding(seconds: 61)) }
        let issued = try authority.issue(request: mine.request, identity: .worker(WorkerName("w")), now: now)
        record.accept(issued)
        // A crash between being signed and keeping it: the same key gets the same certificate, even after the token's
        // own end, until the certificate expires.
        #expect(try record.redeem(secret: "s3cret", keyDigest: myKey, now: now.adding(seconds: 3600)) == .again(issued.pem))
        #expect(throws: FarmError.self) { try record.redeem(secret: "s3cret", keyDigest: otherKey, now: now) }
        #expect(throws: FarmError.self) {
            try record.redeem(secret: "s3cret", keyDigest: myKey, now: now.adding(seconds: CertificateAuthority.leafLifetime + 1))
        }
    }

    @Test func aLeafNamesItsHolderAndNothingElse() throws {
        let scratch = try Scratch()
        try CertificateAuthority.create(directory: scratch.path, farm: "f", now: .now)
        let authority = try CertificateAuthority(directory: scratch.path)
        // The request calls itself coordinator; the farm says who it is.
        let pair = try KeyAndRequest.generate(commonName: "sciferry:coordinator")
        let leaf = try authority.issue(request: pair.request, identity: .worker(WorkerName("w7")), now: .now)
        #expect(leaf.identity == .worker(WorkerName("w7")))
        #expect(try IssuedCertificate(pem: leaf.pem) == leaf)
        let lifetime = leaf.expiresAt.seconds(since: .now)
        #expect(lifetime > 86_000 && lifetime <= 86_401)
        #expect(throws: FarmError.self) { try CertificateAuthority.create(directory: scratch.path, farm: "f", now: .now) }
        var forged = pair.request
        forged[forged.count - 1] ^= 1
        #expect(throws: FarmError.self) { try CertificateAuthority.keyDigest(ofRequest: forged) }
    }

    @Test(arguments: ["sciferry:worker/", "sciferry:worker/../x", "sciferry:admin", "https://x"])
    func strangeIdentitiesAreRefused(_ uri: String) { #expect(PeerIdentity(uri: uri) == nil) }
}
