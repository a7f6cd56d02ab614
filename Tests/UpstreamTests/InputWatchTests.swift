import FarmModel
import Foundation
import HTTPTransport
import Registry
import Support
import Synchronization
import SystemIO
import Testing
import Upstream

private final class Counts: Sendable {
    private let state = Mutex((running: 0, most: 0, all: 0))
    var most: Int { state.withLock { $0.most } }
    var all: Int { state.withLock { $0.all } }
    func began() {
        state.withLock {
            $0.running += 1
            $0.all += 1
            $0.most = max($0.most, $0.running)
        }
    }
    func ended() { state.withLock { $0.running -= 1 } }
}

@Suite struct ImageReferenceTests {
    @Test(arguments: [
        ("debian", "https://registry-1.docker.io/v2/library/debian", "latest"),
        ("ubuntu:24.04", "https://registry-1.docker.io/v2/library/ubuntu", "24.04"),
        ("docker.io/library/ubuntu:24.04", "https://registry-1.docker.io/v2/library/ubuntu", "24.04"),
        ("vnmd/fsl_6.0.3:20200905", "https://registry-1.docker.io/v2/vnmd/fsl_6.0.3", "20200905"),
        ("ghcr.io/a/b/c:1", "https://ghcr.io/v2/a/b/c", "1"), ("localhost:5000/tiny:1", "http://localhost:5000/v2/tiny", "1"),
        ("localhost.evil/x", "https://localhost.evil/v2/x", "latest"), ("127.0.0.evil/x", "https://127.0.0.evil/v2/x", "latest"),
        ("127.0.0.1:5000/tiny", "http://127.0.0.1:5000/v2/tiny", "latest"), ("host:443/x:y", "https://host:443/v2/x", "y"),
    ]) func namesAreTakenApart(_ name: String, _ address: String, _ tag: String) throws {
        let reference = try #require(ImageReference(name))
        #expect(reference.address == address && reference.tag == tag && reference.digest == nil)
    }

    @Test func aDigestPinsAndWhatIsNoNameIsNone() {
        let digest = Digest(hashing: "x")
        #expect(ImageReference("debian:12@sha256:\(digest.hex)")?.digest == digest)
        for text in ["", "a b", "a@b", "a//b", "a:", "../a", "a/../b"] { #expect(ImageReference(text) == nil, "\(text)") }
    }
}

/// Real servers on loopback: a registry that wants a token, and files.
@Suite(.serialized) struct InputWatchTests {
    private static let server = """
        import http.server, sys
        port = sys.argv[1]
        digest = 'sha256:' + 'ab' * 32
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, status, headers, body=b''):
                self.send_response(status)
                for name, value in headers.items(): self.send_header(name, value)
                if 'Content-Length' not in headers: self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                if self.command == 'GET': self.wfile.write(body)
            def do_GET(self): self.do_HEAD()
            def do_HEAD(self):
                path, token = self.path, self.headers.get('Authorization')
                challenge = {'WWW-Authenticate': 'Bearer realm="http://localhost:%s/token",service="here",scope="repository:a/private:pull"' % port}
                if path == '/token?scope=repository:a/private:pull&service=here': self.answer(200, {}, b'{"token": "secret"}')
                elif path == '/v2/a/private/manifests/1':
                    if token == 'Bearer secret': self.answer(200, {'Docker-Content-Digest': digest})
                    else: self.answer(401, challenge)
                elif path == '/v2/a/open/manifests/1':
                    if 'image.index' in self.headers['Accept']: self.answer(200, {'Docker-Content-Digest': digest})
                    else: self.answer(406, {})
                elif path == '/v2/a/closed/manifests/1': self.answer(401, {'WWW-Authenticate': 'Basic realm="x"'})
                elif path == '/v2/a/evil/manifests/1': self.answer(401, {'WWW-Authenticate': 'Bearer realm="http://10.0.0.1/token"'})
                elif path == '/v2/a/sly/manifests/1': self.answer(401, {'WWW-Authenticate': 'Bearer realm="http://localhost.evil.example/token"'})
                elif path == '/v2/a/silent/manifests/1': self.answer(200, {})
                elif path == '/v2/a/busy/manifests/1': self.answer(429, {})
                elif path == '/file': self.answer(200, {'Content-Length': '7', 'Last-Modified': 'Sun, 01 Nov 2026 10:00:00 GMT'})
                elif path == '/plain': self.answer(200, {})
                else: self.answer(404, {})
            def log_message(self, *words): pass
        http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Handler).serve_forever()
        """

    private func input(_ kind: LockedInput.Kind, _ name: String, _ digest: Digest, size: Int64 = 0, at: Int64 = 1_793_700_000)
        -> LockedInput
    {
        LockedInput(
            kind: kind, name: name, architecture: "x86_64", digest: digest, size: size, origin: .registry, bootstrap: nil,
            lockedAt: Timestamp(seconds: at))
    }

    private func isUnreachable(_ standing: InputStanding) -> Bool { if case .unreachable = standing { true } else { false } }

    @Test func upstreamIsAskedAndNothingIsFetched() async throws {
        let scratch = try Scratch()
        let port = try FreePort.find()
        let child = try Child("/usr/bin/python3", ["-c", Self.server, "\(port)"], log: "\(scratch.path)/log")
        defer { child.kill() }
        let watch = InputWatch(client: HTTPClient(), bootstrap: ["debian:bookworm": .init(suite: "bookworm", snapshot: "2", mirror: "")])
        let there = try #require(Digest(String(repeating: "ab", count: 32)))
        let open = "localhost:\(port)/a/open:1"
        for _ in 0..<100 {
            if await watch.standing(of: input(.base, open, there)) == .same { break }
            try await Task.sleep(for: .milliseconds(50))
        }
        #expect(await watch.standing(of: input(.base, open, there)) == .same)
        #expect(await watch.standing(of: input(.base, open, Digest(hashing: "old"))) == .moved(there.hex))
        #expect(await watch.standing(of: input(.base, "localhost:\(port)/a/private:1", there)) == .same)
        for (name, words) in [
            ("closed", "to those only who log in"), ("evil", "to those only who log in"), ("sly", "to those only who log in"),
            ("silent", "gives no digest"), ("nothing", "has no a/nothing:1"),
        ] {
            let standing = await watch.standing(of: input(.base, "localhost:\(port)/a/\(name):1", there))
            guard case .unknown(let why) = standing, why.contains(words) else {
                Issue.record("\(name): \(standing)")
                continue
            }
        }
        for name in ["busy"] {
            let standing = await watch.standing(of: input(.base, "localhost:\(port)/a/\(name):1", there))
            #expect(isUnreachable(standing), "\(standing)")
        }
        let file = "http://127.0.0.1:\(port)/file"
        #expect(await watch.standing(of: input(.download, file, there, size: 7)) == .same)
        #expect(await watch.standing(of: input(.download, file, there, size: 8)) == .moved("7 bytes"))
        #expect(
            await watch.standing(of: input(.download, file, there, size: 7, at: 1_793_000_000)) == .moved("changed 2026-11-01T10:00:00Z"))
        #expect(await watch.standing(of: input(.download, "http://127.0.0.1:\(port)/plain", there, size: 3)) == .same)
        #expect(
            await watch.standing(of: input(.download, "http://127.0.0.1:\(port)/gone", there))
                == .unknown("the server answers with status 404"))
        child.kill()
        let silent = await watch.standing(of: input(.download, file, there, size: 7))
        #expect(isUnreachable(silent), "\(silent)")
        // A base that the farm makes itself is another one when the farm is told to make it otherwise.
        var made = input(.base, "debian:bookworm", there)
        made.origin = .bootstrap
        made.bootstrap = "bookworm from the worker's own apt sources, file times 2, emulated by qemu"
        #expect(await watch.standing(of: made) == .same && watch.host(of: made) == nil)
        made.bootstrap = "bookworm from the worker's own apt sources, file times 1"
        #expect(await watch.standing(of: made) == .moved("bookworm from the worker's own apt sources, file times 2"))
    }

    @Test func datesOfHTTPAreRead() {
        #expect(InputWatch.date("Sun, 06 Nov 1994 08:49:37 GMT") == Timestamp(seconds: 784_111_777))
        for text in ["", "Sunday, 06-Nov-94 08:49:37 GMT", "06 Nov 1994", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            #expect(InputWatch.date(text) == nil)
        }
    }

    /// A few questions at a time, and none any more to a host that is silent.
    @Test func hostsAreAskedGentlyAndLeftAlone() async {
        let gate = QuestionGate(mostPerHost: 2, mostFailures: 3)
        let counts = Counts()
        await withTaskGroup(of: Void.self) { tasks in
            for _ in 0..<20 {
                tasks.addTask {
                    _ = await gate.ask("busy", isAnswer: { (_: Bool) in true }) {
                        counts.began()
                        try? await Task.sleep(for: .milliseconds(5))
                        counts.ended()
                        return true
                    }
                }
            }
        }
        #expect(counts.most == 2 && counts.all == 20)
        for _ in 0..<10 {
            _ = await gate.ask("silent", isAnswer: { $0 }) {
                counts.began()
                return false
            }
        }
        #expect(counts.all == 23)
        #expect(await gate.ask("busy", isAnswer: { $0 }) { true } == true)
    }
}
