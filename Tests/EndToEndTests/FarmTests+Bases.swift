import CoordinatorCore
import FarmModel
import ProcessRunner
import Support
import SystemIO
import Testing

/// Base images of registries: fetched once for the farm, and had from there.
extension FarmTests {
    /// A registry behind nginx that says "later" to most of what it is asked (RFC 6585, section 4).
    private func busyRegistry(in scratch: String, port: Int, before registry: Int) throws -> Child {
        let configuration = """
            daemon off; pid \(scratch)/nginx.pid; error_log \(scratch)/nginx.error; worker_processes 1;
            events { worker_connections 64; }
            http {
                access_log \(scratch)/nginx.access;
                client_body_temp_path \(scratch)/b; proxy_temp_path \(scratch)/p; fastcgi_temp_path \(scratch)/f;
                uwsgi_temp_path \(scratch)/u; scgi_temp_path \(scratch)/s;
                limit_req_zone $binary_remote_addr zone=pulls:1m rate=2r/s;
                server {
                    listen 127.0.0.1:\(port);
                    location / {
                        limit_req zone=pulls burst=2 nodelay;
                        limit_req_status 429;
                        error_page 429 = @busy;
                        proxy_set_header Host $http_host;
                        proxy_pass http://127.0.0.1:\(registry);
                    }
                    location @busy {
                        add_header Retry-After 2 always;
                        default_type application/json;
                        return 429 '{"errors":[{"code":"TOOMANYREQUESTS"}]}';
                    }
                }
            }
            """
        try Disk.replace("\(scratch)/nginx.conf", with: Array(configuration.utf8))
        return try Child("/usr/sbin/nginx", ["-p", scratch, "-c", "\(scratch)/nginx.conf"], log: "\(scratch)/nginx.log")
    }

    @Test(.timeLimit(.minutes(6))) func aBusyRegistryIsWaitedForAndAskedOnce() async throws {
        let scratch = try Scratch()
        let (registry, busy, gone) = (try await TestRegistry.port(), try FreePort.find(), try FreePort.find())
        let nginx = try busyRegistry(in: scratch.path, port: busy, before: registry)
        defer { nginx.kill() }
        let farm = try await TestFarm { $0.mirrors = ["localhost:\(gone)": ["localhost:\(registry)"]] }
        try await farm.up(workers: ["w1", "w2"])

        // Ten jobs, each on a base of its own: none fails, and whoever reads the log sees what they wait for.
        var bases: [String] = []
        for number in 0..<10 {
            let pushed = try await TestRegistry.push("busy\(number)", Nonce.hex(bytes: 4))
            bases.append(pushed.replacing("localhost:\(registry)", with: "localhost:\(busy)"))
            let recipe = try await farm.recipe("busy\(number)", base: bases[number])
            #expect(try await farm.sciferry(["build", recipe, "--no-wait"]).succeeded)
        }
        try await farm.eventually("all ten are released", seconds: 240) { try await farm.releases().count == 10 }
        try await farm.eventually("all jobs have ended") { try await farm.jobs().allSatisfy { $0.job.state.isFinal } }
        let jobs = try await farm.jobs()
        #expect(jobs.count == 20 && jobs.allSatisfy { $0.job.state == .succeeded })
        #expect(
            jobs.allSatisfy { $0.attempts.map(\.state) == [.succeeded] }, "\(jobs.flatMap(\.attempts).filter { $0.state != .succeeded })")
        let asked = String(decoding: try Disk.read("\(scratch.path)/nginx.access"), as: UTF8.self)
        #expect(asked.contains("\" 429 "), "the registry was never busy")
        var logs = ""
        for view in jobs where view.job.kind == .resolve { logs += try await farm.sciferry(["logs", view.job.id.rawValue]).text }
        #expect(logs.contains("localhost:\(busy) asks to be left alone; waiting 2 s"), "\(logs.suffix(3000))")

        // The registry and what the engine had are gone: the farm has it.
        nginx.kill()
        let engine = try await ProcessRunner.require(
            Command("/usr/bin/docker", ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "sciferry-base"]))
        let digests = try await farm.releases().compactMap { $0.release.base.digest.hex.prefix(24) }
        let held = engine.split(separator: "\n").filter { line in digests.contains { line.contains($0) } }.map(String.init)
        #expect(held.count == 10)
        try await ProcessRunner.require(Command("/usr/bin/docker", ["rmi", "-f"] + held))
        let again = try await farm.sciferry(["build", try await farm.recipe("busy3", version: "2.0", base: bases[3])])
        #expect(again.succeeded, "\(again.text)")
        let last = try #require(try await farm.jobs().last { $0.job.kind == .build })
        #expect(
            try await farm.sciferry(["logs", last.job.id.rawValue]).text.contains("fetching the base image localhost:\(busy)/busy3@sha256:")
        )

        // What a registry that is away has, its mirror has.
        let mirrored = try await farm.sciferry(["build", try await farm.recipe("mirrored", base: "localhost:\(gone)/busy4:1")])
        #expect(mirrored.succeeded, "\(mirrored.text)")
        // What nobody has fails at once, and says so.
        let absent = try await farm.sciferry(["build", try await farm.recipe("absent", base: "localhost:\(registry)/nosuch:1")])
        #expect(
            !absent.succeeded && absent.text.contains("no registry offers the base image localhost:\(registry)/nosuch:1"), "\(absent.text)")
    }
}
