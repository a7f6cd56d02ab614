import FarmModel
import Foundation
import HTTPTransport
import Registry
import Support
import SystemIO
import Testing

/// A server on loopback that behaves like the worst registries.
@Suite(.serialized) struct RegistryTests {
    private static let server = """
        import hashlib, http.server, sys, urllib.parse
        port = sys.argv[1]
        big = bytes(range(256)) * 4000
        digest = 'sha256:' + hashlib.sha256(big).hexdigest()
        tries, stored, puts = {}, {}, []
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            def answer(self, status, headers={}, body=b'', length=None):
                self.send_response(status)
                for name, value in headers.items(): self.send_header(name, value)
                self.send_header('Content-Length', str(len(body) if length is None else length))
                self.send_header('Connection', 'close')
                self.end_headers()
                if self.command != 'HEAD': self.wfile.write(body)
                self.close_connection = True
            def count(self, name):
                tries[name] = tries.get(name, 0) + 1
                return tries[name]
            def do_HEAD(self): self.answer(200 if self.path.split('/')[-1] in stored else 404)
            def do_GET(self):
                path, wanted = urllib.parse.unquote(self.path), self.headers.get('Range')
                if path == '/v2/a/busy/manifests/1':
                    self.answer(429, {'Retry-After': '1'}) if self.count(path) < 3 else self.answer(200, {}, b'{"x": 1}')
                elif path == '/v2/a/breaks/blobs/' + digest:
                    # Half of what is asked for, then the line is cut.
                    start = int(wanted[6:-1]) if wanted else 0
                    part = big[start:]
                    if self.count(path) < 3: self.answer(206 if wanted else 200, {}, part[:len(part) // 2], length=len(part))
                    else: self.answer(206, {}, part)
                elif path == '/v2/a/whole/blobs/' + digest:
                    if self.count(path) < 2: self.answer(200, {}, big[:300000], length=len(big))
                    else: self.answer(200, {}, big)
                elif path == '/v2/a/lies/blobs/' + digest: self.answer(200, {}, b'other')
                elif path == '/v2/a/lies/manifests/1': self.answer(200, {'Docker-Content-Digest': digest}, b'{}')
                elif path == '/v2/a/shared/blobs/' + digest:
                    # As a mirror it has something else, under its other name it is the registry itself.
                    self.answer(200, {}, big[:5000] if self.headers['Host'].startswith('localhost') else big)
                elif path == '/v2/a/mirrored/manifests/1': self.answer(200, {}, b'{"from": "mirror"}')
                elif path == '/token?scope=repository:a/push:pull,push&service=x':
                    self.answer(200, {}, b'{"token": "t"}') if self.headers.get('Authorization') == 'Basic dTpw' else self.answer(401)
                elif path == '/tries': self.answer(200, {}, repr((tries, puts)).encode())
                else: self.answer(404)
            def challenge(self):
                if self.headers.get('Authorization') == 'Bearer t': return False
                self.answer(401, {'WWW-Authenticate': 'Bearer realm="http://127.0.0.1:%s/token",service="x",scope="repository:a/push:pull,push"' % port})
                return True
            def do_POST(self):
                if self.challenge(): return
                if self.count('post') == 1: return self.answer(429, {'Retry-After': '1'})
                self.answer(202, {'Location': '/upload/%d?state=1' % tries['post']})
            def do_PUT(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                if self.challenge(): return
                puts.append((self.path, len(body)))
                if 'digest=' in self.path:
                    if self.count('put') == 1: return self.answer(503)
                    stored[self.path.split('digest=')[1]] = body
                self.answer(201)
            def log_message(self, *words): pass
        http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Handler).serve_forever()
        """

    @Test(.timeLimit(.minutes(2))) func registriesAreWaitedForAndNotBelieved() async throws {
        let scratch = try Scratch()
        let port = try FreePort.find()
        let child = try Child("/usr/bin/python3", ["-c", Self.server, "\(port)"], log: "\(scratch.path)/log")
        defer { child.kill() }
        try Disk.replace(
            "\(scratch.path)/config.json", with: Array(#"{"auths": {"127.0.0.1:\#(port)": {"auth": "dTpw"}}}"#.utf8))
        let credentials = try RegistryCredentials(environment: ["DOCKER_CONFIG": scratch.path])
        #expect("\(credentials)".contains("redacted") && !"\(credentials)".contains("dTpw"))
        let client = HTTPClient()
        let policy = RetryPolicy(attempts: 5, firstDelay: 0.05, longestDelay: 3)
        let registry = Registry(client: client, credentials: credentials, policy: policy)
        func reference(_ name: String) throws -> ImageReference { try #require(ImageReference("127.0.0.1:\(port)/a/\(name):1")) }
        for _ in 0..<100 {
            if (try? await client.perform(HTTPRequest("GET", "http://127.0.0.1:\(port)/tries")))?.isSuccess ?? false { break }
            try await Task.sleep(for: .milliseconds(50))
        }
        let big = (0..<4000).flatMap { _ in (0...255).map { UInt8($0) } }
        let digest = Digest(hashing: big)
        // "Later" is waited for; broken lines go on where they were, also where the server does not know how.
        #expect(try await registry.manifest(reference("busy")).bytes == Array(#"{"x": 1}"#.utf8))
        for name in ["breaks", "whole"] {
            #expect(try await registry.blob(reference(name), digest, limit: 1 << 20) == big, "\(name)")
        }
        await #expect(throws: FarmError.self) { try await registry.blob(reference("lies"), digest, limit: 1 << 20) }
        await #expect(throws: FarmError.self) { try await registry.manifest(reference("lies")) }
        await #expect(throws: FarmError.self) { try await registry.manifest(reference("none")) }
        // A mirror is asked first, and one that is gone is passed over.
        let elsewhere = try #require(ImageReference("localhost:1/a/mirrored:1"))
        let mirrored = Registry(
            client: client, mirrors: ["localhost:1": ["localhost:2", "127.0.0.1:\(port)"]], policy: RetryPolicy(attempts: 1))
        #expect(try await mirrored.manifest(elsewhere).bytes == Array(#"{"from": "mirror"}"#.utf8))
        // One that gives other bytes is passed over too.
        let lying = Registry(client: client, mirrors: ["127.0.0.1:\(port)": ["localhost:\(port)"]], policy: policy)
        #expect(try await lying.blob(reference("shared"), digest, limit: 1 << 20) == big)
        // Writing: the token for it, a busy registry, and an upload that failed and is begun anew.
        let place = try reference("push")
        #expect(try await !registry.upload(place, digest, .bytes(big)))
        #expect(try await registry.upload(place, digest, .bytes(big)))
        _ = try await registry.put(Array("{}".utf8), type: "application/json", place)
        let seen = String(decoding: try await client.perform(HTTPRequest("GET", "http://127.0.0.1:\(port)/tries")).body, as: UTF8.self)
        #expect(seen.contains("/upload/3?state=1&digest=sha256:\(digest.hex)") && seen.contains("/v2/a/push/manifests/1"), "\(seen)")
    }
}
