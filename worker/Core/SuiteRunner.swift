package import FarmModel
import Glibc
import ProcessRunner
import SiteDelivery
import SystemIO
import TestSuites

/// Runs a recipe's functional tests inside the finished SIF, through the very launcher that sites use.
package struct SuiteRunner: Sendable {
    private let imageDirectory: String
    private let launcher: String
    private let mounts: String
    private let work: String
    private let environment: [String: String?]
    private let patience: Double

    /// - Parameters:
    ///   - imageDirectory: holds `image.sif` and `launch`.
    ///   - scratch: for the launcher and the mounts; the tests' own working directory lies in the temporary directory,
    ///     where every runtime shows it.
    ///   - patience: what the tests' time limits are multiplied with, for a host on which they run slower.
    package init(imageDirectory: String, scratch: String, work: String, marks: [String: String], patience: Double = 1) async throws {
        self.imageDirectory = imageDirectory
        self.patience = patience
        launcher = "\(scratch)/sciferry-launch"
        mounts = "\(scratch)/mounts"
        self.work = work
        var environment: [String: String?] = ["SCIFERRY_MOUNTS": mounts, "PWD": nil, "TMPDIR": nil, "SCIFERRY_CONTAIN": "1"]
        for (name, value) in marks { environment[name] = value }
        self.environment = environment
        try await Blocking.run { [mounts, launcher] in
            try Disk.makeDirectory(mounts, mode: 0o700)
            try Disk.replace(launcher, with: Array(Launcher.script.utf8), mode: 0o755)
            try Disk.remove(work)
            try Disk.makeNewDirectory(work, mode: 0o700)
        }
    }

    /// Where an attempt's tests work: in /tmp, where every runtime can show it; found again after a SIGKILL.
    package static func workDirectory(home: String, attempt: String) -> String {
        "/tmp/sciferry-tests-\(Digest(hashing: home).short)-\(attempt)"
    }

    /// The runtime that the launcher takes here; throws `runtime.missing`.
    package func runtime() async throws -> String {
        let result = try await ProcessRunner.run(
            Command(launcher, ["--runtime"], environment: environment, directory: work, deadlineSeconds: 20))
        guard result.succeeded else {
            throw FarmError(
                "runtime.missing", .unavailable, "there is nothing to run an image with",
                hint: "install apptainer, or squashfuse and bubblewrap, on the worker")
        }
        return result.text.split(separator: "\n").first.map(String.init) ?? ""
    }

    /// Runs everything in order. Setup that fails is a problem of its own, and no test runs then.
    package func run(_ suite: TestSuite, say: @Sendable (String) async -> Void, progress: @Sendable (Int, Int) async -> Void) async throws
        -> [TestOutcome]
    {
        // The first call mounts, so that the tests' own processes can be told from the mount's.
        _ = try await shell("true", name: "start", timeout: 60)
        var outcomes: [TestOutcome] = []
        if !suite.setup.isEmpty {
            await say("test setup")
            let seen = try await shell(suite.setup, name: "setup", timeout: 600)
            let outcome = FunctionalTest(name: "setup", command: suite.setup, timeoutSeconds: 600).judge(seen)
            if !outcome.passed { return [outcome] }
        }
        for (index, test) in suite.tests.enumerated() {
            await progress(index, suite.tests.count)
            var seen = try await shell(test.command, name: "test-\(index)", timeout: test.timeoutSeconds)
            for file in test.outputFiles { seen.files[file] = Disk.size("\(work)/\(file)") }
            let outcome = test.judge(seen)
            await say("test \(outcome.passed ? "passed" : "FAILED"): \(test.name)")
            for problem in outcome.problems { await say("    \(problem)") }
            outcomes.append(outcome)
        }
        return outcomes
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
        let seen = try await shell(script, name: "programs", timeout: 120)
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
        let list = "\(work)/.commands"
        try await Blocking.run { try Disk.replace(list, with: Array((commands.joined(separator: "\n") + "\n").utf8)) }
        let seen = try await shell(
            "while read -r name; do command -v -- \"$name\" >/dev/null 2>&1 && echo \"+$name\"; done <\(ShellWord.quoted(list)); true",
            name: "commands", timeout: 300)
        guard seen.exitCode == 0, !seen.timedOut else {
            throw FarmError("image.programs", .invalid, "the commands of the image cannot be tried: \(seen.output.suffix(500))")
        }
        let there = Set(seen.output.split(separator: "\n").filter { $0.hasPrefix("+") }.map { String($0.dropFirst()) })
        return commands.filter(there.contains)
    }

    /// What the image's own `rpm` lists; its database is nobody else's to read.
    package func rpmPackages() async throws -> [InstalledPackages.Package] {
        let seen = try await shell("rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE}\\n'", name: "packages", timeout: 120)
        guard seen.exitCode == 0, !seen.timedOut else { return [] }
        return seen.output.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ").map(String.init)
            return words.count == 2 ? .init(manager: "rpm", name: words[0], version: words[1]) : nil
        }
    }

    /// Removes the working directory and unmounts.
    package func cleanUp() async {
        await Mounts.release(below: mounts)
        try? await Blocking.run { [work] in try Disk.remove(work) }
    }

    private func shell(_ script: String, name: String, timeout: Int) async throws -> TestObservation {
        let file = "\(work)/.\(name).sh"
        try await Blocking.run { try Disk.replace(file, with: Array(script.utf8)) }
        let started = Timestamp.now
        var marked = environment
        marked["SCIFERRY_TEST"] = "\(work)/\(name)"
        let result = try await ProcessRunner.run(
            Command(
                launcher,
                [imageDirectory, "/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash \"$0\"; else exec sh \"$0\"; fi", file],
                environment: name == "start" ? environment : marked, directory: work, deadlineSeconds: Double(timeout) * patience))
        if name != "start" { _ = ProcessRunner.killMarked("SCIFERRY_TEST", "\(work)/\(name)") }
        return TestObservation(
            exitCode: result.status, output: result.text, timedOut: result.timedOut, files: [:],
            seconds: Timestamp.now.seconds(since: started))
    }
}

/// Mounts that the launcher made.
package enum Mounts {
    /// Unmounts everything below a directory, lazily where it is busy.
    package static func release(below directory: String) async {
        guard let real = Disk.realPath(directory), let mounts = Disk.kernelText("/proc/self/mounts") else { return }
        for line in mounts.split(separator: "\n").reversed() {
            let fields = line.split(separator: " ")
            guard fields.count > 2, fields[1].hasPrefix("\(real)/") else { continue }
            if umount2(String(fields[1]), Int32(MNT_DETACH)) != 0 {
                _ = try? await ProcessRunner.run(Command("fusermount", ["-u", "-z", String(fields[1])], deadlineSeconds: 20))
            }
        }
    }
}
