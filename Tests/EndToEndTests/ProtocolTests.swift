import CoordinatorCore
import FarmIdentity
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// The protocol document is enough: a client in another language takes part, and each violation meets what the document
/// says, with a line in the coordinator's log.
@Suite(.serialized) struct ProtocolTests {
    private struct Client: Sendable {
        let farm: TestFarm
        let python: String
        let messages: String
        let link: String

        init(_ farm: TestFarm) async throws {
            self.farm = farm
            let root = "\(farm.scratch.path)/python"
            try Disk.makeDirectory(root)
            // scripts/test makes the virtual environment with the protobuf package.
            python = S3Server.python
            try await ProcessRunner.require(
                Command("protoc", ["--python_out=\(root)", "-I", "\(Repository.root)/protocol/schema/sciferry/v1", "farm.proto"]))
            messages = root
            let endpoints: FarmEndpoints = try CanonicalJSON.decode(from: try Disk.read("\(farm.home)/endpoints.json"), source: "endpoints")
            link = endpoints.link
        }

        func run(_ mode: String, _ arguments: [String]) async throws -> [String: String] {
            let result = try await ProcessRunner.run(
                Command(
                    python, ["\(Repository.root)/Tests/EndToEndTests/client.py", mode, "--pb", messages, "--link", link] + arguments,
                    environment: ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"], deadlineSeconds: 60))
            let line = result.text.split(separator: "\n").last.map(String.init) ?? ""
            guard let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] else {
                throw FarmError("test.client", .failed, result.text)
            }
            return object.mapValues { "\($0)" }
        }

        func token(_ name: String) async throws -> String {
            try await farm.sciferry(["worker", "token", name]).text.trimmingCharacters(in: .whitespacesAndNewlines)
        }
    }

    @Test(.timeLimit(.minutes(4))) func anotherLanguageTakesPartAndViolationsAreRefused() async throws {
        let farm = try await TestFarm()
        try farm.start("coordinator")
        try await farm.eventually("the coordinator answers") { try await farm.sciferry(["workers"]).succeeded }
        let client = try await Client(farm)
        let home = "\(farm.scratch.path)/py"
        let token = try await client.token("py")

        // Enrolment: the same token and key give the same certificate; another key, another secret are refused.
        let first = try await client.run("enrol", ["--home", home, "--token", token])
        #expect(first["worker"] == "py" && first["link"] == client.link, "\(first)")
        #expect(try await client.run("enrol", ["--home", home, "--token", token])["certificate"] == first["certificate"])
        let replayed = try await client.run("enrol", ["--home", "\(farm.scratch.path)/thief", "--token", token])
        #expect(replayed["error"] == "identity.refused" && replayed["status"] == "403", "\(replayed)")
        #expect(try await client.run("enrol", ["--home", home, "--token", token + "0"])["error"] == "identity.refused")
        let pinned = token.replacingOccurrences(of: "#ca=", with: "#ca=0").replacingOccurrences(of: "&token", with: "&token")
        #expect(try await client.run("enrol", ["--home", home, "--token", pinned])["error"] == "identity.pin")
        #expect(farm.log("coordinator").contains("it was used already, with another key"))

        // Hello, one exchange, a claim on an attempt that it does not hold.
        let exchange = try await client.run("exchange", ["--home", home, "--name", "py", "--claim", "j9.1"])
        #expect(
            exchange["farm"] == "test" && exchange["version"] == "1" && exchange["sequence"] == "1" && exchange["assignments"] == "0",
            "\(exchange)")
        #expect(exchange["ask"] == "attempt.not-held" && exchange["fetch"] == "blob.absent", "\(exchange)")
        #expect(farm.log("coordinator").contains("\"message\":\"attempt not held\""))
        #expect(Int(try await client.run("vectors", ["--vectors", "\(Repository.root)/protocol/vectors"])["vectors"] ?? "") ?? 0 >= 12)

        // Violations after the opening.
        for (vector, code) in [
            ("bad-four-gigabytes", "protocol.frame-size"), ("bad-one-byte-too-long", "protocol.frame-size"),
            ("bad-version", "protocol.version"),
            ("bad-type", "protocol.frame"), ("bad-flags", "protocol.frame"), ("bad-body", "protocol.message"),
            ("bad-sender", "protocol.order"),
            ("bad-stream-never-was", "protocol.stream"), ("bad-digest", "protocol.message"), ("hello", "protocol.order"),
        ] {
            let ended = try await client.run(
                "violate", ["--home", home, "--name", "py", "--vector", "\(Repository.root)/protocol/vectors/\(vector).hex"])
            #expect(ended["ended"] == code, "\(vector): \(ended)")
            #expect(farm.log("coordinator").contains("\"error.code\":\"\(code)\""), "\(vector)")
        }

        try await checkHandshakes(farm, client, home)

        // Revocation ends a session at once.
        async let session = client.run("stay", ["--home", home, "--name", "py"])
        try await farm.eventually("it is connected") { try await farm.sciferry(["workers"]).text.contains("py    idle") }
        #expect(try await farm.sciferry(["worker", "revoke", "py"]).succeeded)
        #expect(try await session["ended"] == "identity.revoked")
        #expect(try await client.run("refused", ["--home", home, "--name", "py"])["ended"] == "identity.revoked")
    }

    private func checkHandshakes(_ farm: TestFarm, _ client: Client, _ home: String) async throws {
        @Sendable func refusals() -> Int { farm.log("coordinator").components(separatedBy: "link handshake refused").count }
        for (what, arguments) in [("TLS 1.2", ["--tls12"]), ("no certificate", ["--anonymous"])] {
            let before = refusals()
            let ended = try await client.run("refused", ["--home", home, "--name", "py"] + arguments)
            #expect(ended["ended"] != "closed" && ended["ended"]?.hasPrefix("protocol") == false, "\(what): \(ended)")
            try await farm.eventually("\(what) is logged") { refusals() > before }
        }
        let before = refusals()
        #expect(try await client.run("plain", [])["ended"] == "closed")
        try await farm.eventually("plain text is logged") { refusals() > before }
        #expect(try await client.run("refused", ["--home", home, "--name", "py", "--no-alpn"])["ended"] != "never")
        #expect(farm.log("coordinator").contains("protocol.alpn"))
        let impostor = try await client.run("refused", ["--home", home, "--name", "someone-else"])
        #expect(impostor["ended"] == "protocol.name", "\(impostor)")

        // Certificates of a stranger's authority, and one of ours that has expired.
        for (name, directory, lifetime) in [
            ("stranger", "\(farm.scratch.path)/other-ca", 3600.0), ("expired", "\(farm.home)/identity", -1.0),
        ] {
            if name == "stranger" {
                try Disk.makeDirectory(directory)
                try CertificateAuthority.create(directory: directory, farm: "other", now: .now)
            }
            let pair = try KeyAndRequest.generate(commonName: "py")
            let leaf = try CertificateAuthority(directory: directory).issue(
                request: pair.request, identity: .worker(WorkerName("py")), now: .now, lifetime: lifetime)
            try Disk.replace("\(home)/\(name).pem", with: Array(leaf.pem.utf8))
            try Disk.replace("\(home)/\(name).key", with: Array(pair.keyPEM.utf8))
            let before = refusals()
            let ended = try await client.run(
                "refused", ["--home", home, "--name", "py", "--certificate", "\(home)/\(name).pem", "--key", "\(home)/\(name).key"])
            #expect(ended["ended"] != "identity.revoked" && ended["ended"] != "never", "\(name): \(ended)")
            try await farm.eventually("\(name) is logged") { refusals() > before }
        }
    }
}
