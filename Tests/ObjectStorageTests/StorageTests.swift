import FarmModel
import Foundation
import Glibc
import HTTPTransport
import ObjectStorage
import Support
import SystemIO
import Testing

/// The contract of `ObjectStore`, run against every implementation.
func checkConformance(_ store: any ObjectStore) async throws {
    let prefix = "suite-\(Nonce.hex(bytes: 4))/"
    #expect(try await store.head(prefix + "a") == nil)
    #expect(await code(of: { _ = try await store.get(prefix + "a") }) == "storage.absent")
    try await store.put(prefix + "a", Array("hello".utf8))
    #expect(try await store.get(prefix + "a") == Array("hello".utf8))
    #expect(try await store.head(prefix + "a")?.size == 5)
    #expect(try await store.get(prefix + "a", range: 1..<4) == Array("ell".utf8))
    #expect(try await store.get(prefix + "a", range: 2..<2) == [])
    #expect(await code(of: { _ = try await store.get(prefix + "a", range: 3..<9) }) == "storage.short")
    try await store.put(prefix + "a", Array("replaced".utf8))
    #expect(try await store.get(prefix + "a") == Array("replaced".utf8))
    try await store.put(prefix + "empty", [])
    #expect(try await store.get(prefix + "empty") == [])
    let scratch = try Scratch()
    var generator = SeededGenerator(1)
    let large = generator.bytes(3_000_000)
    try Disk.replace("\(scratch.path)/f", with: large)
    try await store.put(prefix + "deep/er/file", .file(path: "\(scratch.path)/f", size: 3_000_000))
    #expect(try await store.get(prefix + "deep/er/file") == large)
    #expect(try await store.get(prefix + "deep/er/file", range: 1_000_000..<1_000_100) == Array(large[1_000_000..<1_000_100]))
    for name in ["odd name+&=", "tilde~-._", "ünï"] { try await store.put(prefix + name, Array(name.utf8)) }
    #expect(try await store.get(prefix + "odd name+&=") == Array("odd name+&=".utf8))
    let keys = try await store.all(prefix: prefix).map(\.key)
    #expect(keys == ["a", "deep/er/file", "empty", "odd name+&=", "tilde~-._", "ünï"].map { prefix + $0 })
    #expect(try await store.all(prefix: prefix + "deep/").map(\.size) == [3_000_000])
    try await store.delete(prefix + "a")
    try await store.delete(prefix + "a")
    #expect(try await store.head(prefix + "a") == nil)
    for wrong in ["", "/x", "a//b", "../x", "a/./b"] {
        #expect(await code(of: { _ = try await store.get(wrong) }) == "storage.key", "\(wrong)")
    }
}

@Suite struct StorageTests {
    @Test func memoryConforms() async throws { try await checkConformance(MemoryStore()) }

    @Test func directoriesConform() async throws {
        let scratch = try Scratch()
        try await checkConformance(DirectoryStore("\(scratch.path)/bucket"))
    }

    @Test func moreThanAPageIsListed() async throws {
        let scratch = try Scratch()
        let store = DirectoryStore(scratch.path)
        for number in 0..<1203 { try Disk.replace("\(scratch.path)/k\(number)", with: []) }
        #expect(try await store.all().count == 1203)
    }

    @Test func aFullDiskIsSaidAndNothingHalfStays() async throws {
        // /dev/full answers every write with ENOSPC, as a full disk does.
        let file = try OpenFile("/dev/full", flags: O_WRONLY)
        let error = #expect(throws: FarmError.self) { try file.write([1]) }
        #expect(error?.code == "disk.full" && error?.category == .full)
    }

    @Test func addressesAreRead() throws {
        let client = HTTPClient()
        #expect(try BucketLocation("file:/tmp/x-bucket").open(client: client).name == "file:/tmp/x-bucket")
        #expect(try BucketLocation("https://m.example/d/").open(client: client).name == "https://m.example/d")
        #expect(throws: FarmError.self) { try BucketLocation("ftp://x").open(client: client) }
    }
}

/// Against a real server, and against one that misbehaves.
@Suite(.serialized) struct S3Tests {
    private func store(_ endpoint: String, secret: String = S3Server.secret, attempts: Int = 3, stall: Int = 60) -> S3Store {
        let service = S3Service(
            endpoint: endpoint, identity: S3Identity(StorageCredentials(keyID: S3Server.keyID, secret: secret)), client: HTTPClient(),
            retry: RetryPolicy(attempts: attempts, firstDelay: 0.05, longestDelay: 2), stallSeconds: stall)
        return S3Store(service, bucket: "farm")
    }

    @Test(.timeLimit(.minutes(3))) func aRealServerConforms() async throws {
        let server = try S3Server()
        let store = store(server.endpoint)
        try await checkConformance(store)
        #expect(await code(of: { _ = try await self.store(server.endpoint, secret: "wrong").get("x") }) == "storage.denied")
        // A presigned upload by somebody without keys.
        let bytes = Array("by grant".utf8)
        let grant = try #require(try await store.grantUpload("incoming/j1.1/a b", size: 8, seconds: 60))
        let response = try await HTTPClient().perform(HTTPRequest("PUT", grant.url, body: .bytes(bytes)))
        #expect(response.isSuccess, "\(response.status)")
        #expect(try await store.get("incoming/j1.1/a b") == bytes)
        let other = grant.url.replacingOccurrences(of: "a%20b", with: "other")
        #expect(try await HTTPClient().perform(HTTPRequest("PUT", other, body: .bytes(bytes))).status == 403)
        for number in 0..<1100 { try await store.put("many/\(number)", []) }
        #expect(try await store.all(prefix: "many/").count == 1100)
    }

    private static let faults = """
        import http.server, sys, time
        seen = {}
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def do_GET(self):
                count = seen[self.path] = seen.get(self.path, 0) + 1
                kind = self.path.split("/")[-1]
                status = {"e500": 500, "e503": 503, "always500": 500}.get(kind, 200)
                if kind == "hang": time.sleep(30)
                if kind == "drip":
                    self.send_response(200); self.send_header("Content-Length", "100"); self.end_headers()
                    self.wfile.write(b"x"); self.wfile.flush(); time.sleep(30); return
                if count > 2 and kind != "always500": status = 200
                body = b"fine" if status == 200 else b"<Error><Code>SlowDown</Code></Error>"
                self.send_response(status)
                if status == 503: self.send_header("Retry-After", "1")
                self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
            def log_message(self, *args): pass
        http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
        """

    @Test(.timeLimit(.minutes(2))) func faultsAreWaitedOutOrNamed() async throws {
        let scratch = try Scratch()
        let port = try FreePort.find()
        let child = try Child("/usr/bin/python3", ["-c", Self.faults, String(port)], log: "\(scratch.path)/log")
        defer { child.kill() }
        let endpoint = "http://127.0.0.1:\(port)"
        let patient = store(endpoint, attempts: 12, stall: 2)
        #expect(try await patient.get("warm") == Array("fine".utf8))
        #expect(try await patient.get("e500") == Array("fine".utf8))
        let before = Timestamp.now
        #expect(try await patient.get("e503") == Array("fine".utf8))
        #expect(Timestamp.now.seconds(since: before) >= 1.9, "Retry-After was waited for, twice")
        #expect(await code(of: { _ = try await store(endpoint).get("always500") }) == "storage.failed")
        for object in ["hang", "drip"] {
            let error = await #expect(throws: FarmError.self) { _ = try await store(endpoint, attempts: 1, stall: 2).get(object) }
            #expect(error?.code == "http.unreachable" && error?.message.contains("/farm/\(object)") == true, "\(error?.message ?? "")")
        }
    }
}

@Suite struct SignatureTests {
    /// AWS's published example, "GET Object" of "Authenticating Requests (AWS Signature Version 4)".
    @Test func agreesWithThePublishedHeaderVector() {
        let signer = SignatureV4(
            credentials: StorageCredentials(keyID: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            region: "us-east-1")
        let added = signer.headers(
            method: "GET", path: "/test.txt", query: [],
            headers: [("host", "examplebucket.s3.amazonaws.com"), ("range", "bytes=0-9")],
            payload: Digest(hashing: "").hex, at: Timestamp(seconds: 1_369_353_600))
        let authorization = added.first { $0.0 == "Authorization" }?.1 ?? ""
        #expect(authorization.hasSuffix("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"))
    }

    /// The presigned example of the same text.
    @Test func agreesWithThePublishedQueryVector() {
        let signer = SignatureV4(
            credentials: StorageCredentials(keyID: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            region: "us-east-1")
        let query = signer.presignedQuery(
            method: "GET", path: "/test.txt", headers: [("host", "examplebucket.s3.amazonaws.com")], seconds: 86400,
            at: Timestamp(seconds: 1_369_353_600))
        #expect(query.hasSuffix("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"))
    }

    @Test func secretsNeverPrint() {
        #expect(!"\(StorageCredentials(keyID: "id", secret: "hush"))".contains("hush"))
    }

    @Test func retriesWaitAsAskedButNotForever() {
        let policy = RetryPolicy(attempts: 3, firstDelay: 1, longestDelay: 5)
        #expect(policy.delay(beforeTry: 2, retryAfter: nil) == 1)
        #expect(policy.delay(beforeTry: 3, retryAfter: 4) == 4)
        #expect(policy.delay(beforeTry: 3, retryAfter: 400) == 5)
        #expect(policy.delay(beforeTry: 4, retryAfter: nil) == nil)
    }
}
