import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import Synchronization
import SystemIO

/// A real registry with tiny base images, shared by all tests of the process.
enum TestRegistry {
    private static let started = Mutex<(port: Int, child: Child, bases: Set<String>)?>(nil)
    private static let root = "/tmp/sciferry-registry-\(getpid())"

    /// `localhost:PORT/tiny:1`; for a foreign architecture one with Debian's programs of it.
    static func base(_ architecture: String = "x86_64") async throws -> String {
        let port = try start()
        let base = "localhost:\(port)/tiny\(architecture == "x86_64" ? "" : "-\(architecture)"):1"
        if started.withLock({ $0?.bases.contains(base) }) ?? false { return base }
        let platform = architecture == "aarch64" ? "arm64" : "amd64"
        try await ProcessRunner.require(
            Command(
                "sh",
                [
                    "-ec",
                    """
                    mkdir -p \(root)/\(architecture); cd \(root)/\(architecture)
                    mkdir -p tree/bin tree/etc tree/tmp tree/root tree/usr/bin tree/opt
                    busybox=/bin/busybox
                    if [ \(architecture) != x86_64 ]; then
                        mmdebstrap --quiet --variant=extract --architectures=\(platform) --skip=check/qemu --include=busybox-static bookworm debian
                        busybox=debian/bin/busybox
                    fi
                    cp $busybox tree/bin/; for name in sh cat head mkdir chmod printf sleep true false ls echo test wc rm sha256sum dd; do ln -sf busybox tree/bin/$name; done
                    echo root:x:0:0:root:/root:/bin/sh > tree/etc/passwd
                    tar --sort=name --mtime=@1700000000 --owner=0 --group=0 -C tree -cf tiny.tar .
                    mkdir -p context; mv tiny.tar context; printf 'FROM scratch\\nADD tiny.tar /\\n' > context/Dockerfile
                    DOCKER_BUILDKIT=1 /usr/bin/docker build -q --platform linux/\(platform) -t \(base) context >/dev/null
                    for i in $(seq 50); do /usr/bin/docker push \(base) >/dev/null 2>&1 && exit 0; sleep 0.2; done; exit 1
                    """,
                ], deadlineSeconds: 120))
        started.withLock { _ = $0?.bases.insert(base) }
        return base
    }

    /// An image on the tiny base under a name of its own, which then leads to this one.
    static func push(_ name: String, _ content: String) async throws -> String {
        let base = try await base()
        let image = base.replacing("tiny:1", with: "\(name):1")
        try await ProcessRunner.require(
            Command(
                "sh",
                [
                    "-ec",
                    "printf 'FROM \(base)\\nENV CONTENT=\(content)\\n' | DOCKER_BUILDKIT=1 /usr/bin/docker build -q -t \(image) - >/dev/null; /usr/bin/docker push -q \(image)",
                ], deadlineSeconds: 60))
        return image
    }

    /// Where it listens, once it has something.
    static func port() async throws -> Int {
        _ = try await base()
        return try start()
    }

    private static func start() throws -> Int {
        if let there = started.withLock({ $0?.port }) { return there }
        try Disk.makeDirectory("\(root)/data")
        let port = try FreePort.find()
        let configuration = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: \(root)/data\nhttp:\n  addr: 127.0.0.1:\(port)\n"
        try Disk.replace("\(root)/config.yml", with: Array(configuration.utf8))
        let child = try Child("/usr/bin/docker-registry", ["serve", "\(root)/config.yml"], log: "\(root)/log")
        started.withLock { $0 = (port, child, []) }
        return port
    }
}

/// A farm of real processes in a directory of its own.
final class TestFarm: Sendable {
    let scratch: Scratch
    let home: String
    private let children = Mutex<[String: Child]>([:])
    static let bin = ProcessInfo.processInfo.environment["SCIFERRY_BIN"] ?? "\(Repository.root)/.build/debug"

    /// With the Python programs that tests bring.
    private static let path: String = {
        let environment = ProcessInfo.processInfo.environment
        let python = environment["SCIFERRY_TEST_PYTHON"].map { Disk.parent(of: $0) } ?? "/usr/bin"
        return "\(python):\(environment["PATH"] ?? "/usr/bin:/bin")"
    }()

    /// Settings of every process, for example keys of S3 buckets.
    private let environment: [String: String]
    /// Where worker w1 runs, if not beside the coordinator.
    private let network: TestNetwork?

    init(
        regions: [String]? = nil, environment: [String: String] = [:], leafSeconds: Double = 86400, network: TestNetwork? = nil,
        configure: (inout FarmConfiguration) -> Void = { _ in }
    ) async throws {
        scratch = try Scratch()
        self.environment = environment
        self.network = network
        home = "\(scratch.path)/home"
        var arguments = ["init", "--home", home, "--name", "test", "--silence", "3"]
        for region in regions ?? [] { arguments += ["--region", region] }
        try await ProcessRunner.require(Command("\(Self.bin)/sciferry", arguments))
        var configuration = try FarmConfiguration.read("\(home)/farm.json")
        configuration.contactSeconds = 0.3
        configuration.leafSeconds = leafSeconds
        configuration.retrySeconds = 0.2
        if let network {
            (configuration.linkHost, configuration.apiHost, configuration.advertise) = ("0.0.0.0", "0.0.0.0", network.here)
        }
        configure(&configuration)
        try Disk.replace("\(home)/farm.json", with: Array(try CanonicalJSON.pretty(configuration).utf8))
    }

    deinit {
        for child in children.withLock({ $0 }).values { child.kill() }
        for name in ["w1", "w2"] { _ = ProcessRunner.killMarked("SCIFERRY_WORKER", workerHome(name)) }
    }

    func start(_ name: String) throws {
        let log = "\(scratch.path)/\(name).log"
        var (program, arguments) = ("\(Self.bin)/sciferry-coordinator", ["--home", home])
        if name != "coordinator" { (program, arguments) = ("\(Self.bin)/sciferry-worker", ["run", "--home", workerHome(name)]) }
        if let network, name == "w1" { (program, arguments) = network.inside([program] + arguments) }
        let child = try Child(program, arguments, log: log, environment: environment)
        children.withLock { $0[name] = child }
    }

    func kill(_ name: String) { children.withLock { $0.removeValue(forKey: name) }?.kill() }

    func process(_ name: String) -> Child? { children.withLock { $0[name] } }

    func workerHome(_ name: String) -> String { "\(scratch.path)/\(name)" }

    /// Names of the attempts a worker's disk still holds files of; none where it never had any.
    func attempts(_ name: String) throws -> [String] {
        let place = "\(workerHome(name))/attempts"
        return Disk.exists(place) ? try Disk.list(place) : []
    }

    func log(_ name: String) -> String { (try? String(contentsOfFile: "\(scratch.path)/\(name).log", encoding: .utf8)) ?? "" }

    /// Coordinator and workers, enrolled by token and connected.
    ///
    /// - Parameters:
    ///   - pretended: CPU targets that workers say they have, by name.
    ///   - settings: members of their `worker.json`, by name.
    ///   - untrusted: those of the untrusted pool.
    func up(
        workers: [String] = ["w1", "w2"], pretended: [String: String] = [:], settings: [String: String] = [:], untrusted: [String] = []
    ) async throws {
        try start("coordinator")
        try await eventually("the coordinator answers") { try await self.sciferry(["workers"]).succeeded }
        for worker in workers {
            try await enrol(worker, untrusted: untrusted.contains(worker))
            if let target = pretended[worker] { try set(worker, "\"pretendedTargetForTests\": \"\(target)\"") }
            if let members = settings[worker] { try set(worker, members) }
        }
        for worker in workers { try start(worker) }
        try await connected(workers.count)
    }

    /// Adds members to a worker's settings, or replaces them.
    func set(_ worker: String, _ members: String) throws {
        let path = "\(workerHome(worker))/worker.json"
        var settings = try JSONSerialization.jsonObject(with: Data(try Disk.read(path))) as? [String: Any] ?? [:]
        let added = try JSONSerialization.jsonObject(with: Data("{\(members)}".utf8)) as? [String: Any] ?? [:]
        settings.merge(added) { $1 }
        try Disk.replace(path, with: Array(try JSONSerialization.data(withJSONObject: settings)))
    }

    func enrol(_ worker: String, untrusted: Bool = false) async throws {
        let token = try await sciferry(["worker", "token", worker] + (untrusted ? ["--untrusted"] : [])).text.trimmingCharacters(
            in: .whitespacesAndNewlines)
        try await ProcessRunner.require(Command("\(Self.bin)/sciferry-worker", ["join", token, "--home", workerHome(worker)]))
        // A proxy for each of so many workers would take its time.
        try set(worker, "\"inputCacheGigabytes\": 0")
    }

    /// Kills a worker, and has another one take its place that knows nothing of what the first has built.
    ///
    /// - Parameter settings: members of the other one's `worker.json`.
    func replace(_ worker: String, with other: String, _ settings: String) async throws {
        kill(worker)
        try await enrol(other)
        try set(other, settings)
        try start(other)
    }

    func connected(_ count: Int) async throws {
        try await eventually("\(count) workers are connected") {
            let views = try CanonicalJSON.decode(
                [WorkerView].self, from: try await self.sciferry(["workers", "--json"]).output, source: "workers")
            return views.filter(\.connected).count >= count
        }
    }

    @discardableResult
    func sciferry(_ arguments: [String], mask: String = "022", deadline: Double = 120) async throws -> CommandResult {
        try await ProcessRunner.run(
            Command(
                "sh", ["-c", "umask \(mask); exec \"$0\" \"$@\"", "\(Self.bin)/sciferry"] + arguments,
                environment: environment.merging(["SCIFERRY_HOME": home, "PATH": Self.path, "XDG_CACHE_HOME": "\(scratch.path)/cache"]) {
                    $1
                },
                deadlineSeconds: deadline))
    }

    /// The command line as somebody elsewhere with a token of that role uses it.
    ///
    /// - Parameter authority: of another farm, to see that it counts for nothing.
    func remote(_ role: String, _ arguments: [String], authority: String? = nil) async throws -> CommandResult {
        let token = try await sciferry(["access", "guest-\(role)", "--role", role]).text.trimmingCharacters(in: .whitespacesAndNewlines)
        return try await ProcessRunner.run(
            Command(
                "\(Self.bin)/sciferry", arguments,
                environment: [
                    "SCIFERRY_URL": try endpoints.api, "SCIFERRY_TOKEN": token, "SCIFERRY_HOME": nil,
                    "SCIFERRY_AUTHORITY": authority ?? "\(home)/identity/ca.pem",
                ], deadlineSeconds: 120))
    }

    private var endpoints: FarmEndpoints {
        get throws { try CanonicalJSON.decode(from: try Disk.read("\(home)/endpoints.json"), source: "endpoints") }
    }

    /// What the API answers its administrator.
    func post(_ path: String, _ body: some Encodable) async throws -> String {
        let file = "\(scratch.path)/request.json"
        try Disk.replace(file, with: try CanonicalJSON.encode(body))
        let script =
            #"curl -sS --cacert "$1/identity/ca.pem" -H "Authorization: Bearer $(cat "$1/identity/admin.token")" --data-binary @"$2" "$3""#
        return try await ProcessRunner.require(
            Command("sh", ["-ec", script, "sh", home, file, "\(try endpoints.api)\(path)"], deadlineSeconds: 60))
    }

    func jobs() async throws -> [JobView] { try await decoded(["jobs", "--json"]) }

    func releases() async throws -> [ReleaseRecord] { try await decoded(["list", "--json"]) }

    /// What a command prints as JSON, however long it is.
    private func decoded<Value: Decodable>(_ arguments: [String]) async throws -> Value {
        let whole = OutputCollector()
        _ = try await ProcessRunner.run(
            Command(
                "\(Self.bin)/sciferry", arguments, environment: environment.merging(["SCIFERRY_HOME": home]) { $1 },
                deadlineSeconds: 60)
        ) { whole.add($0) }
        return try CanonicalJSON.decode(from: whole.bytes, source: arguments.joined(separator: " "))
    }

    /// Waits, at most a minute, until `condition` holds; errors count as not yet.
    func eventually(_ what: String, seconds: Double = 60, _ condition: @Sendable () async throws -> Bool) async throws {
        let end = Timestamp.now.adding(seconds: seconds)
        while Timestamp.now < end {
            if (try? await condition()) == true { return }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw FarmError(
            "test.waiting", .failed,
            "waited in vain until \(what)\n\(log("coordinator").suffix(3000))\n\(log("w1").suffix(2000))\n\(log("w2").suffix(2000))\n\((try? await sciferry(["jobs"]).text) ?? "")"
        )
    }

    /// A recipe on the tiny base; `run` are further build steps.
    func recipe(
        _ name: String = "tiny", version: String = "1.0", run: [String] = [], tests: String? = nil, architecture: String = "x86_64",
        settings: String = "", base: String? = nil
    ) async throws -> String {
        let directory = "\(scratch.path)/recipes/\(name)-\(version)"
        try Disk.makeDirectory(directory)
        let tiny = try await TestRegistry.base(architecture)
        let base = base ?? tiny
        let steps = (["echo \(version) > /opt/data"] + run).map { "        - \(ShellWord.quoted($0))" }.joined(separator: "\n")
        let text = """
            name: \(name)
            version: "\(version)"
            architectures: [\(architecture)]
            description: A tiny tool.
            build:
              kind: neurodocker
              base-image: \(base)
              add-default-template: false
              directives:
                - file:
                    name: tool
                    contents: |
                      #!/bin/sh
                      if [ "$1" = args ]; then shift; for word in "$@"; do printf "<%s>" "$word"; done; exit 0; fi
                      if [ "$1" = exit ]; then exit "$2"; fi
                      cat /opt/data
                    executable: true
                - run:
                    - cat {{ get_file("tool") }} > /usr/bin/\(name)-tool
                    - chmod 755 /usr/bin/\(name)-tool
                - run:
            \(steps)
            deploy:
              bins: [\(name)-tool]
            x-sciferry:
              limits: {disk_gib: 1}
            \(settings)
            """
        try Disk.replace("\(directory)/build.yaml", with: Array(text.utf8))
        let suite =
            tests ?? "  - name: says its version\n    command: \(name)-tool\n    expected_output_contains: \"\(version)\"\n"
            + "  - name: sees nothing of the host\n    command: test \"$HOME\" = \"$PWD\" && test \"$(ls /tmp | wc -l)\" = 1 && test \"$(cat /proc/*/comm | wc -l)\" -lt 9\n"
            + "  - name: has no powers\n    command: cat /proc/self/status && cat /proc/1/environ\n"
            + "    expected_output_contains: \"CapEff:\\t0000000000000000\"\n"
        try Disk.replace("\(directory)/fulltest.yaml", with: Array("tests:\n\(suite)".utf8))
        return directory
    }
}
