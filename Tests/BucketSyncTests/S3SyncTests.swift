import BucketSync
import FarmModel
import Foundation
import HTTPTransport
import ObjectStorage
import Support
import Synchronization
import SystemIO
import Testing

/// Between real S3 servers, and through one that misbehaves.
@Suite(.serialized) struct S3SyncTests {
    static let server = Result { try S3Server() }

    func store(_ endpoint: String, _ prefix: String, stall: Int = 2, authority: [UInt8]? = nil) -> S3Store {
        let service = S3Service(
            endpoint: endpoint, identity: S3Identity(StorageCredentials(keyID: S3Server.keyID, secret: S3Server.secret)),
            client: HTTPClient(),
            authority: authority, retry: RetryPolicy(attempts: 4, firstDelay: 0.05, longestDelay: 2), stallSeconds: stall)
        return S3Store(service, bucket: "farm", prefix: prefix + "/", takesAnyKey: true)
    }

    func fill(_ store: any ObjectStore) async throws {
        var generator = SeededGenerator(3)
        try await store.put("small", generator.bytes(10_000))
        try await store.put("medium", generator.bytes(3_000_000))
        try await store.put("empty", [])
    }

    func isSame(_ one: any ObjectStore, _ other: any ObjectStore) async throws -> Bool {
        for object in try await one.all() { guard try await one.get(object.key) == other.get(object.key) else { return false } }
        let (mine, theirs) = (try await one.all(), try await other.all())
        return mine.map(\.key) == theirs.map(\.key)
    }

    /// Faults that pass, on either side, end in the right bytes.
    @Test(
        .timeLimit(.minutes(4)),
        arguments: [
            "500", "503", "429", "reset", "reset-upload", "short", "long", "stall", "stall-body", "etag", "corrupt", "lost", "half-listing",
        ])
    func whatPassesEndsInTheRightBytes(fault: String) async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        try await fill(store(server.endpoint, "from-\(run)"))
        let rules = [
            FaultProxy.Rule("^(GET|PUT) .*/small", fault, times: 2), .init("^(GET|PUT) .*/medium", fault, times: 2),
            // A listing with one wrong letter is a listing.
            .init("^GET .*list-type", fault == "corrupt" ? "500" : fault, times: 1),
        ]
        for side in 0...1 {
            let proxy = try FaultProxy(before: server.endpoint, fault == "half-listing" ? Array(rules.dropFirst(2)) : rules)
            let (from, to) = ("from-\(run)", "to-\(run)-\(side)")
            let bench = SyncBench(
                store(side == 0 ? proxy.endpoint : server.endpoint, from), store(side == 1 ? proxy.endpoint : server.endpoint, to))
            let events = SyncBench.Events()
            let report = try await bench.run(
                { ($0.tries, $0.rounds, $0.deletes, $0.copiesOnServer) = (4, 3, .after, false) }, events: events)
            #expect(report.failed == 0 && report.copied == 3, "\(fault) \(side) \(events.errors)")
            #expect(try await isSame(store(server.endpoint, from), store(server.endpoint, to)), "\(fault) \(side)")
        }
    }

    /// A line that always turns the same bit: what arrives is never what the source tagged, and is not taken for it.
    @Test(.timeLimit(.minutes(2))) func bytesThatAreNotTheSourcesAreNotWritten() async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        try await fill(store(server.endpoint, "from-\(run)"))
        let proxy = try FaultProxy(before: server.endpoint, [.init("^GET .*/(small|medium)", "corrupt", times: 1000)])
        for target: any ObjectStore in [store(server.endpoint, "to-\(run)"), MemoryStore()] {
            let events = SyncBench.Events()
            let report = try await SyncBench(store(proxy.endpoint, "from-\(run)"), target).run({ $0.tries = 2 }, events: events)
            #expect(report.failed == 2 && report.copied == 1)
            #expect(events.errors.allSatisfy { $0.hasSuffix(".digest") }, "\(events.errors)")
            #expect(try await target.all().map(\.key) == ["empty"])
        }
    }

    /// Those that do not pass are told by what they are, and nothing is deleted.
    @Test(
        .timeLimit(.minutes(2)),
        arguments: [
            ("skew", "storage.clock"), ("expired", "storage.expired"), ("403", "storage.denied"), ("500", "storage.failed"),
        ])
    func whatDoesNotPassIsTold(fault: String, code: String) async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        let (from, to) = (store(server.endpoint, "from-\(run)"), store(server.endpoint, "to-\(run)"))
        try await fill(from)
        try await to.put("extra", [1])
        let proxy = try FaultProxy(before: server.endpoint, [.init("^PUT .*/small", fault, times: 1000)])
        let events = SyncBench.Events()
        let report = try await SyncBench(from, store(proxy.endpoint, "to-\(run)")).run(
            { ($0.deletes, $0.copiesOnServer) = (.after, false) }, events: events)
        #expect(report.failed == 1 && report.copied == 2 && report.deleted == 0)
        #expect(events.errors == ["small \(code)"])
        if fault == "skew", case .failed(_, let error) = events.all.first(where: { if case .failed = $0 { true } else { false } }) {
            #expect(error.message.contains("20 min ahead of the store's"), "\(error.message)")
        }
        #expect(try await to.all().map(\.key) == ["empty", "extra", "medium"])
    }

    /// Where nothing more fits the run ends, and nothing is deleted.
    @Test(.timeLimit(.minutes(2))) func aFullBucketEndsARun() async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        let (from, to) = (store(server.endpoint, "from-\(run)"), store(server.endpoint, "to-\(run)"))
        try await fill(from)
        try await to.put("extra", [1])
        let proxy = try FaultProxy(before: server.endpoint, [.init("^PUT .*/small", "507", times: 1000)])
        let bench = SyncBench(from, store(proxy.endpoint, "to-\(run)"))
        let error = await #expect(throws: FarmError.self) { try await bench.run { ($0.deletes, $0.copiesOnServer) = (.after, false) } }
        #expect(error?.code == "storage.full" && error?.message.contains("small") == true)
        #expect(try await to.head("extra") != nil)
        #expect(try await to.head("small") == nil)
    }

    /// Keys that expire while a run goes on are read anew where they come from.
    @Test(.timeLimit(.minutes(2))) func renewedKeysAreTaken() async throws {
        let server = try Self.server.get()
        let scratch = try Scratch()
        func write(_ secret: String) throws {
            try Disk.replace(
                "\(scratch.path)/credentials",
                with: Array("[default]\naws_access_key_id = \(S3Server.keyID)\naws_secret_access_key = \(secret)\n".utf8))
        }
        try write("an-old-one")
        let path = "\(scratch.path)/credentials"
        let identity = try S3Identity(region: "us-east-1") {
            try CredentialChain.find(set: nil, profile: nil, environment: ["AWS_SHARED_CREDENTIALS_FILE": path]) { try Disk.read($0) }
        }
        try write(S3Server.secret)
        let service = S3Service(
            endpoint: server.endpoint, identity: identity, client: HTTPClient(), retry: RetryPolicy(attempts: 4, firstDelay: 0.05))
        let store = S3Store(service, bucket: "farm", prefix: "renewed/")
        try await store.put("a", [1])
        #expect(try await store.get("a") == [1])
    }

    /// They expire in the middle of everything: of many questions at once, of what streams either way, of parts, and of a HEAD, to which nobody
    /// says why.
    @Test(.timeLimit(.minutes(2)), arguments: ["GET .*/", "PUT .*/", "PUT .*partNumber", "POST .*uploads", "HEAD .*/"])
    func keysMayExpireAnywhere(where place: String) async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        var generator = SeededGenerator(14)
        let from = store(server.endpoint, "from-\(run)")
        for number in 0..<12 { try await from.put("o\(number)", generator.bytes(number < 9 ? 1000 : 3_000_000)) }
        try await from.put("large", generator.bytes(21 << 20))
        let loads = Mutex(0)
        // Every reading gives other keys by name, as those that expire are.
        let identity = try S3Identity(region: "us-east-1") {
            let number = loads.withLock { loads in
                loads += 1
                return loads
            }
            return StorageCredentials(keyID: number % 2 == 0 ? S3Server.keyID : S3Server.otherKeyID, secret: S3Server.secret)
        }
        let refusals = place.hasPrefix("HEAD") ? "403" : "expired"
        let proxy = try FaultProxy(before: server.endpoint, [.init("^\(place)", refusals, times: 1)])
        let service = S3Service(
            endpoint: proxy.endpoint, identity: identity, client: HTTPClient(),
            retry: RetryPolicy(attempts: 4, firstDelay: 0.05, longestDelay: 1))
        func through(_ prefix: String) -> S3Store { S3Store(service, bucket: "farm", prefix: "\(prefix)-\(run)/", takesAnyKey: true) }
        let events = SyncBench.Events()
        let report = try await SyncBench(through("from"), through("to")).run(
            { ($0.tries, $0.copiesOnServer, $0.partsAbove) = (3, false, 10 << 20) }, events: events)
        #expect(report.failed == 0 && report.copied == 13, "\(events.errors)")
        #expect(loads.withLock { $0 } > 1)
        #expect(try await isSame(from, store(server.endpoint, "to-\(run)")))
    }

    /// A service with a region of its own name is tried out and used like any other.
    @Test(.timeLimit(.minutes(2))) func theRegionIsLearned() async throws {
        let server = try Self.server.get()
        let proxy = try FaultProxy(before: server.endpoint, [.init(".*", "region", times: 100_000)])
        let there = store(proxy.endpoint, "region-\(Nonce.hex(bytes: 4))")
        var trial = StoreTrial(there)
        let abilities = try await trial.run()
        #expect(throws: Never.self) { try abilities.checkFitness("it") }
        #expect(abilities.found[.checksKeys] == true)
        try await fill(there)
        #expect(try await there.all().count == 3)
    }

    /// An address that leads to nothing is a wrong one.
    @Test(.timeLimit(.minutes(1))) func nothingIsNoSource() async throws {
        let server = try Self.server.get()
        let to = MemoryStore()
        #expect(await code(of: { try await SyncBench(store(server.endpoint, "nothing"), to).run() }) == "storage.absent")
        #expect(await code(of: { try await SyncBench(store(server.endpoint, "nothing"), to).run { $0.deletes = .after } }) == "sync.empty")
    }

    @Test(.timeLimit(.minutes(2))) func aCertificateMustVerify() async throws {
        let server = try Self.server.get()
        let scratch = try Scratch()
        let (certificate, key) = ("\(scratch.path)/c.pem", "\(scratch.path)/k.pem")
        let child = try Child(
            "/usr/bin/openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", certificate,
                "-days", "2", "-subj",
                "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
            ], log: "\(scratch.path)/log")
        #expect(child.wait() == 0)
        let proxy = try FaultProxy(before: server.endpoint, [], certificate: (certificate, key))
        #expect(await code(of: { _ = try await store(proxy.endpoint, "tls").all() }) == "http.untrusted")
        let trusting = store(proxy.endpoint, "tls", authority: try Disk.read(certificate))
        try await trusting.put("a", [1])
        #expect(try await trusting.all().count == 1)
    }

    /// An object in parts goes on with those that are there; parts that arrived when nobody was left to note them are not sent again either.
    @Test(.timeLimit(.minutes(3))) func anUploadInPartsGoesOn() async throws {
        let server = try Self.server.get()
        let scratch = try Scratch()
        let run = Nonce.hex(bytes: 4)
        var generator = SeededGenerator(9)
        let block = generator.bytes(1 << 20)
        let file = try OpenFile("\(scratch.path)/large", flags: O_WRONLY | O_CREAT)
        for number in 0..<100 { try file.write([UInt8(number)] + block.dropFirst(), at: Int64(number) << 20) }
        let source = DirectoryStore(scratch.path)
        func remembering(_ destination: S3Store) throws -> SyncBench {
            var bench = SyncBench(source, destination)
            try bench.remember(in: "\(scratch.path)-memory")
            return bench
        }
        // The third part's answer is lost for good, the fifth never arrives.
        let broken = try FaultProxy(
            before: server.endpoint, [.init("^PUT .*partNumber=3&", "lost", times: 100), .init("^PUT .*partNumber=5&", "500", times: 100)])
        let first = try remembering(store(broken.endpoint, "parts-\(run)"))
        #expect(try await first.run({ ($0.partsAbove, $0.partsAtOnce) = (20 << 20, 1) }).failed == 1)
        first.memory?.release()
        let proxy = try FaultProxy(before: server.endpoint, [])
        let second = try remembering(store(proxy.endpoint, "parts-\(run)"))
        let events = SyncBench.Events()
        let report = try await second.run({ ($0.partsAbove, $0.partsAtOnce) = (20 << 20, 2) }, events: events)
        #expect(report.failed == 0 && report.copied == 1, "\(events.errors)")
        let sent = proxy.log.filter { $0.contains("partNumber=") }.compactMap {
            $0.firstMatch(of: /partNumber=(\d+)&/).flatMap { Int($0.1) }
        }
        // Of seven parts of 16 MiB, three had arrived: the third, too.
        #expect(sent.sorted() == [4, 5, 6, 7] || sent.sorted() == [3, 4, 5, 6, 7], "\(sent)")
        #expect(try await store(server.endpoint, "parts-\(run)").read("large") == Disk.read("\(scratch.path)/large"))
        // The tags differ in kind; the memory knows that the content does not.
        second.memory?.release()
        let third = try remembering(store(proxy.endpoint, "parts-\(run)"))
        #expect(try await third.run().same == 1)
        // Without it the parts' sums are counted anew.
        #expect(try await SyncBench(source, store(server.endpoint, "parts-\(run)")).run().same == 1)
    }

    /// A source that changes while it is copied is copied as it is in the end, or the change is told.
    @Test(.timeLimit(.minutes(2))) func copiesOnOneServiceNeedNoLine() async throws {
        let server = try Self.server.get()
        let run = Nonce.hex(bytes: 4)
        let from = store(server.endpoint, "from-\(run)")
        try await fill(from)
        let proxy = try FaultProxy(before: server.endpoint, [])
        let to = store(proxy.endpoint, "to-\(run)")
        let report = try await SyncBench(store(proxy.endpoint, "from-\(run)"), to).run()
        #expect(report.copiedOnServer == 3)
        #expect(!proxy.log.contains { $0.hasPrefix("GET") && !$0.contains("list-type") })
        #expect(try await isSame(from, to))
    }

    @Test(.timeLimit(.minutes(5)), arguments: S3Server.Service.tested) func everyServiceTakesARun(service: S3Server.Service) async throws {
        let server = service == .seaweedfs ? try Self.server.get() : try S3Server(service)
        let scratch = try Scratch()
        var generator = SeededGenerator(12)
        let source = DirectoryStore("\(scratch.path)/here")
        for (name, size) in [("a", 3), ("b/c", 100_000), ("parts", 23 << 20), ("z", 0)] {
            try await source.put(name, generator.bytes(size))
        }
        let run = Nonce.hex(bytes: 4)
        let there = store(server.endpoint, "run-\(run)", stall: 20)
        let bench = SyncBench(source, there)
        let settings: (inout SyncOptions) -> Void = { ($0.partsAbove, $0.deletes) = (10 << 20, .after) }
        let events = SyncBench.Events()
        #expect(try await bench.run(settings, events: events).copied == 4, "\(events.errors)")
        #expect(try await isSame(source, there))
        #expect(try await bench.run(settings).same == 4)
        // Back, and once more on the service alone.
        let back = SyncBench(there, DirectoryStore("\(scratch.path)/back"))
        #expect(try await back.run().copied == 4)
        #expect(try await isSame(source, back.destination))
        let copy = store(server.endpoint, "copy-\(run)", stall: 20)
        // Swift's s3api does not copy what came in parts: that goes over the line.
        let copied = try await SyncBench(there, copy).run { $0.partsAbove = 10 << 20 }
        #expect(copied.copied == 4 && copied.copiedOnServer == (service == .openStackSwift ? 3 : 4))
        #expect(try await isSame(source, copy))
        try await source.put("a", [9, 9, 9])
        try await source.delete("b/c")
        let last = try await bench.run(settings)
        #expect(last.copied == 1 && last.deleted == 1 && last.same == 2)
        #expect(try await isSame(source, there))
    }

    @Test(.timeLimit(.minutes(5)), arguments: S3Server.Service.tested) func strangeKeysArriveOrAreTold(service: S3Server.Service)
        async throws
    {
        let server = service == .seaweedfs ? try Self.server.get() : try S3Server(service)
        let run = Nonce.hex(bytes: 4)
        let from = store(server.endpoint, "from-\(run)")
        let keys = [
            "with space", "plus+&=?#%25", "ünï/çødé", "quote\"'<>&amp;", "tilde~-._", "deep/" + String(repeating: "x", count: 200), "日本/語",
        ]
        for key in keys { try await from.put(key, Array(key.utf8)) }
        #expect(Set(try await from.all().map(\.key)) == Set(keys))
        let to = store(server.endpoint, "to-\(run)")
        let events = SyncBench.Events()
        let report = try await SyncBench(from, to).run({ $0.copiesOnServer = false }, events: events)
        #expect(report.copied == keys.count, "\(events.errors)")
        #expect(try await isSame(from, to))
        #expect(try await SyncBench(from, to).run().same == keys.count)
        #expect(try await to.delete(keys).isEmpty)
        #expect(try await to.all().isEmpty)
        // As long as may be, and of forms that some services take for others: these are kept or refused, each by its name.
        let place = store(server.endpoint, "odd-\(run)")
        let longest = String(
            Array(repeating: String(repeating: "k", count: 150), count: 7).joined(separator: "/").prefix(1024 - place.prefixLength))
        let odd = ["a/../b", "dir/", "x//y", "x/y", "./c"]
        let strange = OpenStore(Dictionary(uniqueKeysWithValues: (odd + [longest]).map { ($0, $0) }))
        let seen = SyncBench.Events()
        let brought = try await SyncBench(strange, place).run(events: seen)
        if service == .seaweedfs {
            #expect(brought.copied == 2 && brought.failed == 4)
            #expect(seen.errors.sorted() == ["./c storage.key", "a/../b storage.key", "dir/ storage.key", "x//y storage.key"])
            #expect(try await Set(place.all().map(\.key)) == [longest, "x/y"])
        } else {
            #expect(brought.copied == 6 && brought.failed == 0, "\(seen.errors)")
            for key in odd + [longest] { #expect(try await place.get(key) == Array(key.utf8)) }
        }
    }
}

extension S3Store {
    fileprivate var prefixLength: Int { name.utf8.count - (name.range(of: "/farm/").map { name[..<$0.upperBound].utf8.count } ?? 0) }
}

extension ObjectStore {
    fileprivate func read(_ key: String) async throws -> [UInt8] { try await get(key) }
}
