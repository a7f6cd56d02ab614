import FarmModel
import Foundation
import Glibc
import HTTPTransport
@testable import ObjectStorage
import Support
import Synchronization
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
    try await checkStreams(store, prefix + "stream/", large)
    try await store.delete(prefix + "a")
    try await store.delete(prefix + "a")
    #expect(try await store.head(prefix + "a") == nil)
    for wrong in ["", "/x", "a//b", "../x", "a/./b"] {
        #expect(await code(of: { _ = try await store.get(wrong) }) == "storage.key", "\(wrong)")
    }
}

/// The part of the contract that bytes on their way and their tags are about.
private func checkStreams(_ store: any ObjectStore, _ prefix: String, _ large: [UInt8]) async throws {
    func collected(_ key: String, _ range: Range<Int64>?, _ tag: String?) async throws -> [UInt8] {
        let bytes = Mutex([UInt8]())
        try await store.read(key, range: range, tag: tag) { part in bytes.withLock { $0.append(contentsOf: part) } }
        return bytes.withLock { $0 }
    }
    let feed = Mutex(large[...])
    let tag = try await store.write(
        prefix + "fed",
        .feed(size: Int64(large.count)) { buffer in
            feed.withLock { rest in
                let part = rest.prefix(min(buffer.count, 70_000))
                rest = rest.dropFirst(part.count)
                buffer.copyBytes(from: part)
                return part.count
            }
        }, ObjectFacts(md5: MD5.of(large), modified: Timestamp(seconds: 1_000_000_000)))
    let fed = try #require(try await store.head(prefix + "fed"))
    #expect(fed.size == Int64(large.count) && fed.tag != nil && (tag == nil || tag == fed.tag))
    #expect(try await collected(prefix + "fed", nil, fed.tag) == large)
    #expect(try await collected(prefix + "fed", 100..<2_000_000, nil) == Array(large[100..<2_000_000]))
    if let md5 = try await store.md5(of: fed) { #expect(md5 == MD5.of(large)) }
    if !(store is MemoryStore) { #expect(try await store.modified(of: fed) == Timestamp(seconds: 1_000_000_000)) }
    // A feed that ends too early writes nothing.
    #expect(
        await code(of: {
            _ = try await store.write(prefix + "early", .feed(size: 10) { _ in 0 }, ObjectFacts(md5: MD5.of(Array("0123456789".utf8))))
        }) != nil)
    #expect(try await store.head(prefix + "early") == nil)
    // What is replaced has another tag, and is not read for the old one.
    try await store.put(prefix + "fed", Array("other".utf8))
    #expect(try await store.head(prefix + "fed")?.tag != fed.tag)
    #expect(await code(of: { _ = try await collected(prefix + "fed", nil, fed.tag) }) == "storage.changed")
    #expect(await code(of: { _ = try await collected(prefix + "absent", nil, nil) }) == "storage.absent")
    if let copy = try await store.copy(try #require(try await store.head(prefix + "fed")), of: store, to: prefix + "copy", ObjectFacts()) {
        #expect(copy.size == 5)
        #expect(try await store.get(prefix + "copy") == Array("other".utf8))
    }
    if let parted = store as? any MultipartStore { try await checkParts(parted, prefix + "parted", large) }
    var listed: Set<String> = []
    try await store.each(prefix: prefix) { listed.formUnion($0.map(\.key)) }
    #expect(listed.contains(prefix + "fed") && !listed.contains(prefix + "early"))
    #expect(try await store.delete(listed.sorted() + [prefix + "never there"]).isEmpty)
    #expect(try await store.all(prefix: prefix).isEmpty)
}

private func checkParts(_ store: any MultipartStore, _ key: String, _ large: [UInt8]) async throws {
    let part = [UInt8](repeating: 7, count: 5 << 20)
    let upload = try await store.beginUpload(key, ObjectFacts(md5: MD5.of(part + large), modified: Timestamp(seconds: 5)))
    // In any order; nothing is seen before the end.
    let last = try await store.writePart(key, upload: upload, number: 2, .bytes(large), md5: nil)
    let first = try await store.writePart(key, upload: upload, number: 1, .bytes(part), md5: MD5.of(part))
    #expect(try await store.head(key) == nil)
    let there = try #require(try await store.parts(key, upload: upload))
    #expect(
        there == [
            UploadedPart(number: 1, size: Int64(part.count), tag: first), UploadedPart(number: 2, size: Int64(large.count), tag: last),
        ])
    let tag = try await store.completeUpload(key, upload: upload, there)
    let whole = try #require(try await store.head(key))
    #expect(whole.size == Int64(part.count + large.count) && whole.tag == tag)
    #expect(try await store.get(key) == part + large)
    #expect(try await store.md5(of: whole) == MD5.of(part + large))
    // Whoever lost the answer puts it together once more.
    #expect(try await store.completeUpload(key, upload: upload, there) == tag)
    let given = try await store.beginUpload(key + "-given-up", ObjectFacts())
    // Swift's s3api compares another tag than it tells.
    do {
        _ = try await store.copyPart(key + "-given-up", upload: given, number: 1, of: whole, 0..<(5 << 20), in: store)
    } catch let error as FarmError { #expect(error.code == "storage.changed") }
    try await store.abortUpload(key + "-given-up", upload: given)
    try await store.abortUpload(key + "-given-up", upload: given)
    #expect(try await store.head(key + "-given-up") == nil)
}

@Suite struct StorageTests {
    @Test func memoryConforms() async throws { try await checkConformance(MemoryStore()) }

    /// What lies below a prefix is a store of its own, and nothing else of the outer one is in it.
    @Test func whatLiesBelowConforms() async throws {
        let scratch = try Scratch()
        let outer = DirectoryStore("\(scratch.path)/bucket")
        try await outer.put("other", [1])
        try await outer.put("inner2/x", [1])
        let inner = BelowStore(outer, prefix: "inner/")
        try await checkConformance(inner)
        try await inner.put("a/b", [1, 2])
        #expect(try await outer.get("inner/a/b") == [1, 2])
        #expect(try await outer.get("other") == [1])
        #expect(try await outer.get("inner2/x") == [1])
        #expect(try await inner.all().contains { $0.key == "a/b" })
        #expect(try await inner.all(prefix: "x").isEmpty)
    }

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

    /// The pages that web servers make of directories are listings; what lies elsewhere is not followed.
    @Test(.timeLimit(.minutes(1))) func webServersAreListed() async throws {
        let scratch = try Scratch()
        let names = ["a.txt", "d/b c.txt", "d/e/ünï.bin", "plus+&.txt"]
        for name in names {
            try Disk.makeDirectory(Disk.parent(of: "\(scratch.path)/www/\(name)"))
            try Disk.replace("\(scratch.path)/www/\(name)", with: Array(name.utf8))
        }
        let port = try FreePort.find()
        let child = try Child(
            "/usr/bin/python3", ["-m", "http.server", String(port), "--bind", "127.0.0.1", "--directory", "\(scratch.path)/www"],
            log: "\(scratch.path)/log")
        defer { child.kill() }
        let store = WebStore("http://127.0.0.1:\(port)", client: HTTPClient())
        #expect(try await store.all().map(\.key) == names)
        #expect(try await store.all(prefix: "d/").map(\.size) == [9, 13])
        #expect(try await store.get("d/b c.txt") == Array("d/b c.txt".utf8))
        let there = try #require(try await store.head("a.txt"))
        let bytes = Mutex([UInt8]())
        try await store.read("a.txt", range: 2..<5, tag: there.tag) { part in bytes.withLock { $0.append(contentsOf: part) } }
        #expect(bytes.withLock { $0 } == Array("txt".utf8))
        #expect(await code(of: { try await store.put("x", [1]) }) == "storage.read-only")
        #expect(try await store.all(prefix: "nothing/").isEmpty)
        #expect(
            await code(of: { _ = try await WebStore("http://127.0.0.1:\(port)/nothing", client: HTTPClient()).all() }) == "storage.absent")
    }

    @Test func keysAreLookedForInOrder() throws {
        let files = [
            "/k": "file-key\n",
            "/creds":
                "[default]\naws_access_key_id = d\naws_secret_access_key = ds\n# x\n[lab]\naws_access_key_id=l\naws_secret_access_key=ls\naws_session_token=lt\n",
        ]
        func find(_ environment: [String: String], set: String? = nil, profile: String? = nil) throws -> StorageCredentials? {
            try CredentialChain.find(set: set, profile: profile, environment: environment) { files[$0].map { Array($0.utf8) } }
        }
        #expect(try find([:]) == nil)
        let plain = ["AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "es", "AWS_SHARED_CREDENTIALS_FILE": "/creds"]
        #expect(try find(plain) == StorageCredentials(keyID: "e", secret: "es"))
        #expect(
            try find(["AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY_FILE": "/k", "AWS_SESSION_TOKEN": "t"])
                == StorageCredentials(keyID: "e", secret: "file-key", sessionToken: "t"))
        #expect(
            try find(plain.merging(["AWS_ACCESS_KEY_ID_WEST": "w", "AWS_SECRET_ACCESS_KEY_WEST": "ws"]) { $1 }, set: "WEST")
                == StorageCredentials(keyID: "w", secret: "ws"))
        #expect(try find(plain, profile: "lab") == StorageCredentials(keyID: "l", secret: "ls", sessionToken: "lt"))
        #expect(try find(["AWS_SHARED_CREDENTIALS_FILE": "/creds"])?.keyID == "d")
        #expect(try find(["AWS_SHARED_CREDENTIALS_FILE": "/creds", "AWS_PROFILE": "lab"])?.keyID == "l")
        for wrong in [
            (["AWS_SHARED_CREDENTIALS_FILE": "/creds"], "absent"),
            (["AWS_SECRET_ACCESS_KEY_FILE": "/nowhere", "AWS_ACCESS_KEY_ID": "x"], nil),
        ] {
            let error = #expect(throws: FarmError.self) { try find(wrong.0, profile: wrong.1) }
            #expect(error?.code == "storage.keys")
        }
    }

    @Test func answersOfServersAreRead() throws {
        let page = try ObjectPage(
            listing: Array(
                "<ListBucketResult xmlns=\"x\"><Contents><Key>p/a&amp;b&#x20;c</Key><LastModified>2026-11-23T03:12:40.000Z</LastModified><ETag>&quot;0a&quot;</ETag><Size>5</Size></Contents><IsTruncated>true</IsTruncated><NextContinuationToken>t&lt;</NextContinuationToken></ListBucketResult>"
                    .utf8),
            dropping: "p/", source: "s")
        #expect(page.objects == [ObjectInfo(key: "a&b c", size: 5, tag: "0a", modified: Timestamp(seconds: 1_795_403_560))])
        #expect(page.next == "t<")
        for wrong in [
            "", "<html>", "<ListBucketResult>", "<ListBucketResult><Contents><Key>p/x</Key></Contents></ListBucketResult>",
            "<ListBucketResult><Contents><Key>other</Key><Size>1</Size></Contents></ListBucketResult>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        ] {
            let error = #expect(throws: FarmError.self, "\(wrong)") {
                try ObjectPage(listing: Array(wrong.utf8), dropping: "p/", source: "s")
            }
            #expect(error?.code == "storage.listing")
        }
        #expect(ContentTag("d41d8cd98f00b204e9800998ecf8427e").md5?.count == 16)
        #expect(ContentTag("d41d8cd98f00b204e9800998ecf8427e-7") == .parts(MD5.of([]), count: 7))
        #expect(ContentTag("12345.6") == .opaque("12345.6"))
    }

    @Test func addressesAreRead() throws {
        let client = HTTPClient()
        #expect(try BucketLocation("file:/tmp/x-bucket").open(client: client).name == "file:/tmp/x-bucket")
        #expect(try BucketLocation("https://m.example/d/").open(client: client).name == "https://m.example/d")
        for wrong in ["ftp://x", "s3:https://h", "s3:https://h/b?regoin=x", "s3:https://h/b?address=up", "s3:https://h/b?tries=many"] {
            let error = #expect(throws: FarmError.self, "\(wrong)") { try BucketLocation(wrong).open(client: client) }
            #expect(error?.code == "storage.location")
        }
        let service = S3Service(endpoint: "https://h.example:8443", identity: S3Identity(nil), client: client, addressing: .host)
        #expect(S3Store(service, bucket: "b", prefix: "p/").address("k") == ("b.h.example:8443", "/p/k"))
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

    @Test(.timeLimit(.minutes(5)), arguments: S3Server.Service.tested) func aRealServerConforms(service: S3Server.Service) async throws {
        let server = try S3Server(service)
        let store = store(server.endpoint)
        var trial = StoreTrial(store)
        let abilities = try await trial.run()
        let late: Set<StoreAbilities.Ability> = [.refusesBroken]
        // A busy SeaweedFS notices late that an upload has broken off, and may keep what came of it then; the next trial takes that away.
        #expect(try await store.all(prefix: StoreTrial.usualPlace).allSatisfy { $0.key.hasSuffix("/broken") })
        #expect(Set(abilities.found.filter { !$0.value }.keys).union(late) == Self.inabilities[service]?.union(late))
        #expect(abilities.found.count == StoreAbilities.Ability.allCases.count)
        #expect(throws: Never.self) { try abilities.checkFitness("it") }
        #expect(try CanonicalJSON.decode(StoreAbilities.self, from: CanonicalJSON.encode(abilities), source: "it") == abilities)
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
        // One that cannot be a name does not keep the others.
        try await store.put("batch/a", [1])
        #expect(try await store.delete(["", "batch/a"]).map(\.error.code) == ["storage.key"])
        #expect(try await store.head("batch/a") == nil)
        for number in 0..<1100 { try await store.put("many/\(number)", []) }
        #expect(try await store.all(prefix: "many/").count == 1100)
    }

    /// What services do not do.
    private static let inabilities: [S3Server.Service: Set<StoreAbilities.Ability>] = [
        .seaweedfs: [.refusesBroken, .anyNames, .byteOrder, .checksSigned], .openStackSwift: [.createsOnly, .replacesOnly],
        .cephRGW: [.replacesOnly],
    ]

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
    /// AWS's published examples of "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)": an object read in part,
    /// one written, a setting of a bucket, a listing.
    @Test(
        arguments: [
            (
                "GET", "/test.txt", [], [("range", "bytes=0-9")], "", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
            ),
            (
                "PUT", "/test%24file.text", [], [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                "Welcome to Amazon S3.", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
            ),
            ("GET", "/", [("lifecycle", "")], [], "", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            (
                "GET", "/", [("max-keys", "2"), ("prefix", "J")], [], "",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
            ),
        ] as [(String, String, [(String, String)], [(String, String)], String, String)])
    func agreesWithThePublishedHeaderVectors(
        method: String, path: String, query: [(String, String)], headers: [(String, String)], body: String, signature: String
    ) {
        let signer = SignatureV4(
            credentials: StorageCredentials(keyID: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            region: "us-east-1")
        let added = signer.headers(
            method: method, path: path, query: query, headers: [("host", "examplebucket.s3.amazonaws.com")] + headers,
            payload: Digest(hashing: body).hex, at: Timestamp(seconds: 1_369_353_600))
        let authorization = added.first { $0.0 == "Authorization" }?.1 ?? ""
        #expect(authorization.hasSuffix("Signature=\(signature)"))
    }

    /// A session's token is part of what is signed.
    @Test func sessionTokensAreSigned() {
        func signed(_ token: String?) -> [(String, String)] {
            SignatureV4(credentials: StorageCredentials(keyID: "id", secret: "s", sessionToken: token), region: "r").headers(
                method: "GET", path: "/", query: [], headers: [("host", "h")], payload: Digest(hashing: "").hex,
                at: Timestamp(seconds: 1_369_353_600))
        }
        let with = signed("token")
        #expect(with.contains { $0.0.lowercased() == "x-amz-security-token" && $0.1 == "token" })
        #expect(with.contains { $0.0 == "Authorization" && $0.1.contains("x-amz-security-token") })
        #expect(!signed(nil).contains { $0.0.lowercased() == "x-amz-security-token" })
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
        let patient = RetryPolicy(attempts: 3, firstDelay: 1, longestDelay: 5, patience: 300)
        #expect(patient.delay(beforeTry: 3, retryAfter: 100) == 100 && patient.delay(beforeTry: 3, retryAfter: 1e9) == 300)
        #expect(patient.delay(beforeTry: 3, retryAfter: nil) == 2)
        // Seconds, or a date, by the server's clock where it tells it.
        func asked(_ headers: [String: String]) -> Double? { HTTPResponse(status: 503, headers: headers, body: []).retryAfter }
        #expect(
            asked([:]) == nil && asked(["retry-after": "7"]) == 7 && asked(["retry-after": "-1"]) == 0
                && asked(["retry-after": "soon"]) == nil)
        #expect(asked(["retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "Sun, 06 Nov 1994 08:49:27 GMT"]) == 10)
        #expect(asked(["retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"]) == 0)
        let busy = HTTPResponse(status: 503, headers: ["retry-after": "7"], body: [])
        let error = #expect(throws: FarmError.self) { try S3Answer.check(busy, "k", "write", in: "b") }
        #expect(error?.retryAfter == 7 && error?.category == .unavailable)
        #expect(policy.delay(beforeTry: 4, retryAfter: nil) == nil)
    }
}
