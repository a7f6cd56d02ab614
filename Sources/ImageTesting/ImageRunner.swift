package import FarmModel
import Glibc
import ProcessRunner
import SiteDelivery
import Synchronization
import SystemIO
import TestSuites

/// Runs programs of a finished image through the very launcher that sites use: as an ordinary user, contained, within limits.
package struct ImageRunner: Sendable {
    let place: TestPlace
    let environment: [String: String?]
    /// What time limits are multiplied with, for a host on which programs run slower.
    let patience: Double
    /// Why it runs as root, where an ordinary user would do.
    private var reason: String?

    /// How something is run.
    struct Terms: Sendable {
        var timeout: Double
        var network = true
        /// Nothing but the working directory and /tmp can be written.
        var isStrict = true
        /// The most memory that its processes may hold together; `nil` for what the machine leaves.
        var memoryBytes: Int64?
        /// Of a script.
        var arguments: [String] = []
    }

    /// Of one test at a time; ordinary programs come nowhere near it.
    private static let mostProcesses = 8192

    /// - Parameters:
    ///   - path: the image.
    ///   - launch: what the launcher is to know of it.
    ///   - place: a directory in /tmp that is made anew.
    ///   - marks: variables by which everything that is started is found again.
    ///   - patience: what time limits are multiplied with.
    package init(_ path: String, launch: String, place root: String, marks: [String: String] = [:], patience: Double = 1) async throws {
        let user = TestUser.ordinary
        let refusal = user == nil ? nil : try await ImageRunner.refusal(of: user)
        self = try await ImageRunner(path, launch, root, marks, patience, user: refusal == nil ? user : nil)
        reason = refusal
    }

    /// Why ordinary users cannot start any image on this machine; `nil` where they can. An image that does not start for them is another matter.
    private static func refusal(of user: TestUser?) async throws -> String? {
        guard let user else { return nil }
        if ["apptainer", "singularity"].contains(where: { ProcessRunner.find($0) != nil }) {
            var info = stat()
            return stat("/dev/fuse", &info) == 0 && info.st_mode & 0o006 == 0o006 ? nil : "they may not open /dev/fuse here"
        }
        let words = [
            "--reuid=\(user.id)", "--regid=\(user.group)", "--clear-groups", "--", "bwrap", "--ro-bind", "/", "/", "--unshare-pid", "true",
        ]
        let probe = try await ProcessRunner.run(Command("setpriv", words, directory: "/", deadlineSeconds: 20))
        return probe.succeeded ? nil : String(probe.text.split(separator: "\n").last ?? "they may not make name spaces here")
    }

    private init(_ path: String, _ launch: String, _ root: String, _ marks: [String: String], _ patience: Double, user: TestUser?)
        async throws
    {
        self.patience = patience
        place = try await Blocking.run { try TestPlace(root: root, image: path, launch: launch, user: user) }
        var environment: [String: String?] = [
            "SCIFERRY_MOUNTS": place.mounts, "PWD": nil, "TMPDIR": nil, "HOME": place.work, "XDG_RUNTIME_DIR": nil,
            "SCIFERRY_TEMPORARY": place.temporary,
        ]
        for (name, value) in marks { environment[name] = value }
        if place.user != nil, try await ImageRunner.runtimeName(place, environment) == "bwrap" {
            try await ImageRunner.mount(place, launch: launch, environment)
            environment["SCIFERRY_RUNTIME"] = "bwrap"
        }
        self.environment = environment
    }

    /// Mounts the image where the launcher will look for it: an ordinary user may not be allowed to, and need not.
    private static func mount(_ place: TestPlace, launch: String, _ environment: [String: String?]) async throws {
        let offset = launch.split(separator: "\n").first { $0.hasPrefix("offset ") }.map { String($0.dropFirst(7)) } ?? "0"
        let target = "\(place.mounts)/image"
        try await Blocking.run { try Disk.makeDirectory(target) }
        let image = "\(place.imageDirectory)/image.sif"
        for program in ["squashfuse_ll", "squashfuse"] where ProcessRunner.find(program) != nil {
            // Without the kernel's look at modes anybody could read and run everything, which users cannot.
            let options = "offset=\(offset),ro,allow_other,default_permissions"
            let result = try await ProcessRunner.run(
                Command(program, ["-o", options, image, target], environment: environment, deadlineSeconds: 60))
            if result.succeeded { return }
        }
        try await ProcessRunner.require(
            Command("mount", ["-t", "squashfs", "-o", "ro,loop,offset=\(offset)", image, target], deadlineSeconds: 60))
    }

    private static func runtimeName(_ place: TestPlace, _ environment: [String: String?]) async throws -> String? {
        let result = try await ProcessRunner.run(
            Command(place.launcher, ["--runtime"], environment: environment, directory: place.work, deadlineSeconds: 20))
        return result.succeeded ? result.text.split(separator: "\n").first.map(String.init) : nil
    }

    /// Where tests work: in /tmp, where every runtime can show it; found again after a SIGKILL.
    ///
    /// - Parameter home: of whoever runs them.
    package static func place(home: String, name: String) -> String { "/tmp/sciferry-tests-\(Digest(hashing: home).short)-\(name)" }

    /// Removes places of processes that were killed: those whose names begin with the number of a process that is gone.
    package static func sweep() async {
        for name in (try? Disk.list("/tmp")) ?? [] {
            guard let match = name.wholeMatch(of: /sciferry-tests-p([0-9]{1,9})-[0-9a-f]{8}/), let process = pid_t(match.output.1),
                kill(process, 0) != 0, errno == ESRCH, Disk.isOwnDirectory("/tmp/\(name)")
            else { continue }
            await Mounts.release(below: "/tmp/\(name)")
            try? Disk.remove("/tmp/\(name)")
        }
    }

    /// A place that `sweep` finds when this process is gone.
    package static var passingPlace: String { "/tmp/sciferry-tests-p\(getpid())-\(Nonce.hex(bytes: 4))" }

    /// Its place, for what else belongs there.
    package var root: String { place.root }

    /// Whom the image's programs run as.
    package var userName: String {
        if let user = place.user { return user.name }
        guard geteuid() == 0 else { return "uid \(geteuid())" }
        return reason.map { "root, because ordinary users cannot start images here (\($0))" } ?? "root"
    }

    /// The runtime that the launcher takes here, with its version; throws `runtime.missing`.
    package func runtime() async throws -> String {
        guard let name = try await ImageRunner.runtimeName(place, environment) else {
            throw FarmError(
                "runtime.missing", .unavailable, "there is nothing to run an image with",
                hint: "install apptainer, or squashfuse and bubblewrap")
        }
        let version = try await ProcessRunner.run(Command(name, ["--version"], deadlineSeconds: 20))
        return ImageRunner.title(name, version.text)
    }

    /// `bwrap 0.8.0` of `bwrap` and what it says of itself.
    static func title(_ name: String, _ text: String) -> String {
        let number = text.split(whereSeparator: \.isWhitespace).first { $0.first?.isNumber ?? false }
        return number.map { "\(name) \($0.prefix(40))" } ?? name
    }

    /// Mounts the image, so that what tests start can be told from the mount's own processes.
    package func start() async throws -> TestOutcome {
        let started = Timestamp.now
        let seen = try await ProcessRunner.run(command("/bin/sh", ["-c", "true"], Terms(timeout: 60), mark: nil))
        return TestOutcome(
            name: "the image starts", passed: seen.succeeded,
            problems: seen.succeeded ? [] : ["\(seen.text.split(separator: "\n").last ?? "status \(seen.status)")"],
            seconds: Timestamp.now.seconds(since: started))
    }

    private func command(_ program: String, _ arguments: [String], _ terms: Terms, mark: String?) -> Command {
        var environment = environment
        environment["SCIFERRY_TEST"] = mark
        environment["SCIFERRY_CONTAIN"] = terms.isStrict ? "strict" : "1"
        environment["SCIFERRY_NETWORK"] = terms.network ? nil : .some("none")
        let words = place.words(place.launcher, [place.imageDirectory, program] + arguments, processes: ImageRunner.mostProcesses)
        return Command(
            words[0], Array(words.dropFirst()), environment: environment, directory: place.work, deadlineSeconds: terms.timeout * patience)
    }

    /// Runs a script by the image's bash, or its sh where it has none.
    ///
    /// - Parameter name: tells it from everything else that runs here at the same time.
    func run(script: String, name: String, _ terms: Terms) async throws -> TestObservation {
        let file = try await Blocking.run { [place] in try place.write(".sciferry-\(name).sh", script) }
        defer { place.discard(file) }
        return try await run(
            "/bin/sh",
            ["-c", "if command -v bash >/dev/null; then exec bash \"$0\" \"$@\"; else exec sh \"$0\" \"$@\"; fi", file] + terms.arguments,
            name: name, terms)
    }

    /// Runs a program of the image, watches its memory, and leaves none of its processes behind.
    func run(_ program: String, _ arguments: [String], name: String, _ terms: Terms) async throws -> TestObservation {
        let mark = "\(place.work)/\(name)"
        let watch = MemoryWatch(mark: mark, most: terms.memoryBytes ?? MemoryWatch.usualMost)
        let watcher = Task { await watch.follow() }
        let started = Timestamp.now
        defer {
            watcher.cancel()
            _ = ProcessRunner.killMarked("SCIFERRY_TEST", mark)
        }
        let result = try await ProcessRunner.run(command(program, arguments, terms, mark: mark))
        return TestObservation(
            exitCode: result.status, output: result.text, timedOut: result.timedOut && !watch.isOver, outOfMemory: watch.isOver,
            seconds: Timestamp.now.seconds(since: started), memoryBytes: watch.peak)
    }

    /// The programs in directories of the image, sorted. Those that the image's PATH does not reach are `hidden`: a
    /// wrapper could not start them by name.
    package func programs(in directories: [String]) async throws -> (found: [String], hidden: [String]) {
        if directories.isEmpty { return ([], []) }
        let script = """
            for directory in \(directories.map(ShellWord.quoted).joined(separator: " ")); do
                for file in "$directory"/*; do
                    [ -f "$file" ] && [ -x "$file" ] || continue
                    if command -v -- "${file##*/}" >/dev/null 2>&1; then printf '+%s\\n' "${file##*/}"
                    else printf -- '-%s\\n' "${file##*/}"; fi
                done
            done
            """
        let seen = try await run(script: script, name: "programs", Terms(timeout: 120))
        guard seen.exitCode == 0, !seen.timedOut else {
            throw FarmError("image.programs", .invalid, "the programs of the image cannot be listed: \(seen.output.suffix(500))")
        }
        let lines = Set(seen.output.split(separator: "\n").map(String.init))
        func names(_ mark: Character) -> [String] {
            lines.filter { $0.first == mark }.map { String($0.dropFirst()) }.filter(CommandName.isValid).sorted().prefix(4096).map { $0 }
        }
        return (names("+"), names("-"))
    }

    /// Those of the commands that a wrapper could start by name, in their order.
    package func callable(_ commands: [String]) async throws -> [String] {
        if commands.isEmpty { return [] }
        let list = try await Blocking.run { [place] in try place.write(".commands", commands.joined(separator: "\n") + "\n") }
        let seen = try await run(
            script:
                "while read -r name; do command -v -- \"$name\" >/dev/null 2>&1 && echo \"+$name\"; done <\(ShellWord.quoted(list)); true",
            name: "commands", Terms(timeout: 300))
        guard seen.exitCode == 0, !seen.timedOut else {
            throw FarmError("image.programs", .invalid, "the commands of the image cannot be tried: \(seen.output.suffix(500))")
        }
        let there = Set(seen.output.split(separator: "\n").filter { $0.hasPrefix("+") }.map { String($0.dropFirst()) })
        return commands.filter(there.contains)
    }

    /// What the image's own `rpm` lists; its database is nobody else's to read.
    package func rpmPackages() async throws -> [InstalledPackages.Package] {
        let seen = try await run(script: "rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE}\\n'", name: "packages", Terms(timeout: 120))
        guard seen.exitCode == 0, !seen.timedOut else { return [] }
        return seen.output.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ").map(String.init)
            return words.count == 2 ? .init(manager: "rpm", name: words[0], version: words[1]) : nil
        }
    }

    /// A file of the image; `nil` where it has none.
    package func file(_ path: String) async throws -> [UInt8]? {
        let copy = "\(place.work)/.sciferry-copy"
        defer { place.discard(copy) }
        let seen = try await run("/bin/sh", ["-c", "cat -- \"$0\" >.sciferry-copy", path], name: "copy", Terms(timeout: 60))
        return seen.exitCode == 0 ? try PlaceFiles(place).read(".sciferry-copy") : nil
    }

    /// Removes the place and unmounts.
    package func cleanUp() async { await place.remove() }
}

/// Looks at the memory of marked processes, and ends them when they hold too much.
final class MemoryWatch: Sendable {
    private let mark: String
    private let most: Int64
    private let state = Mutex<(peak: Int64, isOver: Bool)>((0, false))

    init(mark: String, most: Int64) { (self.mark, self.most) = (mark, most) }

    /// Nine tenths of the machine's.
    static var usualMost: Int64 { Int64(sysconf(Int32(_SC_PHYS_PAGES))) * Int64(sysconf(Int32(_SC_PAGESIZE))) / 10 * 9 }

    var peak: Int64 { state.withLock { $0.peak } }
    var isOver: Bool { state.withLock { $0.isOver } }

    func follow() async {
        // The first looks come soon, for tests that are over soon.
        var pause = 20
        while !Task.isCancelled {
            try? await Task.sleep(for: .milliseconds(pause))
            pause = min(200, pause * 2)
            let held = ProcessRunner.memory(of: ProcessRunner.marked("SCIFERRY_TEST", mark))
            let isOver = state.withLock { state in
                state.peak = max(state.peak, held)
                if held > most { state.isOver = true }
                return state.isOver
            }
            if isOver { _ = ProcessRunner.killMarked("SCIFERRY_TEST", mark) }
        }
    }
}
