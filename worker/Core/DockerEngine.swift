package import FarmModel
package import ProcessRunner
import Foundation
import SystemIO

/// The Docker engine, through its own client with the classic builder.
package struct DockerEngine: Sendable {
    private let program: String
    private let host: String
    private let marks: [String: String]

    /// - Parameters:
    ///   - host: the engine's address, empty for the default.
    ///   - marks: put into the environment of everything that is started, so that it can be found again.
    package init(program: String, host: String, marks: [String: String]) {
        self.program = program
        self.host = host
        self.marks = marks
    }

    /// A client command.
    package func command(_ arguments: [String], deadlineSeconds: Double? = nil) -> Command {
        var environment: [String: String?] = ["DOCKER_BUILDKIT": "0", "DOCKER_CLI_HINTS": "false"]
        for (name, value) in marks { environment[name] = value }
        if !host.isEmpty { environment["DOCKER_HOST"] = host }
        return Command(program, arguments, environment: environment, deadlineSeconds: deadlineSeconds)
    }

    /// The engine's version; throws `engine.unreachable`.
    package func version() async throws -> String {
        do {
            let text = try await ProcessRunner.require(
                command(["version", "--format", "{{.Server.Version}}"], deadlineSeconds: 20))
            return "docker \(text.split(separator: "\n").last.map(String.init) ?? "")"
        } catch let error as FarmError {
            throw FarmError(
                "engine.unreachable", .unavailable, "no Docker engine answers", hint: "start dockerd, or set dockerHost in worker.json",
                cause: error)
        }
    }

    /// Whether the engine has an image of that name.
    package func has(_ reference: String) async throws -> Bool {
        try await ProcessRunner.run(command(["image", "inspect", "--format", "{{.Id}}", reference], deadlineSeconds: 60)).succeeded
    }

    /// What a registry says of an image.
    package enum PullAnswer: Sendable {
        case digest(Digest)
        /// The registry was asked and has no such image.
        case absent(String)
        /// Nobody answered, or not for us now.
        case unreachable(String)
    }

    /// Pulls an image for its registry digest.
    package func pullDigest(_ name: String, onOutput: @escaping @Sendable ([UInt8]) async -> Void) async throws -> PullAnswer {
        let pulled = try await ProcessRunner.run(command(["pull", name], deadlineSeconds: 1800), onOutput: onOutput)
        guard pulled.succeeded else {
            let says = DockerEngine.lastLine(pulled.text)
            let isAbsent = ["manifest unknown", "not found", "does not exist", "invalid reference"].contains { says.contains($0) }
            return isAbsent && !says.contains("lookup") ? .absent(says) : .unreachable(says)
        }
        let text = try await ProcessRunner.require(
            command(["image", "inspect", "--format", "{{join .RepoDigests \" \"}}", name], deadlineSeconds: 60))
        for word in text.split(whereSeparator: \.isWhitespace) {
            if let at = word.firstIndex(of: "@"), let digest = Digest(word[word.index(after: at)...]) { return .digest(digest) }
        }
        return .absent("the registry gave no digest")
    }

    package func pull(_ reference: String, onOutput: @escaping @Sendable ([UInt8]) async -> Void) async throws {
        let result = try await ProcessRunner.run(command(["pull", reference], deadlineSeconds: 3600), onOutput: onOutput)
        guard result.succeeded else {
            throw FarmError(
                "base.unavailable", .unavailable, "the base image \(reference) cannot be pulled: \(DockerEngine.lastLine(result.text))")
        }
    }

    /// Makes an image of a root file system.
    package func importBase(_ tar: String, as reference: String) async throws {
        try await ProcessRunner.require(command(["import", tar, reference], deadlineSeconds: 3600))
    }

    package func tag(_ reference: String, as other: String) async throws {
        try await ProcessRunner.require(command(["tag", reference, other], deadlineSeconds: 60))
    }

    /// Removes a name; layers that nothing else names go with it.
    package func untag(_ reference: String) async {
        _ = try? await ProcessRunner.run(command(["rmi", "--no-prune", reference], deadlineSeconds: 120))
    }

    /// Writes an image archive.
    package func save(_ reference: String, to path: String) async throws {
        let result = try await ProcessRunner.run(command(["save", "-o", path, reference], deadlineSeconds: 3600))
        guard !result.succeeded else { return }
        if result.text.lowercased().contains("no space left on device") {
            throw FarmError("disk.full", .full, "the worker's disk is full: \(path) cannot be written", hint: "free space on the worker")
        }
        throw FarmError("engine.failed", .unavailable, "the engine cannot save the image: \(DockerEngine.lastLine(result.text))")
    }

    private static func lastLine(_ text: String) -> String { text.split(separator: "\n").last.map(String.init) ?? "" }
}

/// Follows the classic builder's output: which step runs, and what it said last.
package struct BuildOutput: Sendable {
    package private(set) var step = 0
    package private(set) var steps = 0
    package private(set) var instruction = ""
    private var partial: [UInt8] = []
    private var lines: [String] = []

    package init() {}

    /// Takes bytes as they come; true when a new step began.
    package mutating func take(_ bytes: [UInt8]) -> Bool {
        var began = false
        partial += bytes
        while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: partial[..<end], as: UTF8.self)
            partial.removeFirst(end + 1)
            lines.append(line)
            if lines.count > 400 { lines.removeFirst(200) }
            began = note(line) || began
        }
        if partial.count > 64 * 1024 { partial = [] }
        return began
    }

    /// The last lines, at most 30, without empty ones.
    package var tail: [String] {
        Array((lines + [String(decoding: partial, as: UTF8.self)]).filter { !$0.isEmpty }.suffix(30))
    }

    private mutating func note(_ line: String) -> Bool {
        guard line.hasPrefix("Step "), let colon = line.range(of: " : ") else { return false }
        let numbers = line[line.index(line.startIndex, offsetBy: 5)..<colon.lowerBound].split(separator: "/")
        guard numbers.count == 2, let now = Int(numbers[0]), let all = Int(numbers[1]) else { return false }
        step = now
        steps = all
        instruction = String(line[colon.upperBound...])
        return true
    }

    /// Why a build failed. The recipe is to blame when a step of it returned an error, or when an engine that still
    /// answers refused the Dockerfile or gave up in a step.
    package func failure(status: Int32, engineAnswers: Bool) -> Failure {
        let stepError = lines.last { $0.contains("returned a non-zero code:") }
        let refusals = ["parse error", "COPY failed", "ADD failed", "Error parsing", "unknown instruction", "unable to find user"]
        let text = lines.suffix(60).joined(separator: "\n")
        let isEnginesOwn = ["rpc error", "context canceled", "Cannot connect", "i/o timeout", "connection re", "toomanyrequests"].contains {
            text.contains($0)
        }
        let isRefused = refusals.contains { text.contains($0) } || engineAnswers && step > 0 && !isEnginesOwn
        // Programs, the C library and the engine spell it differently.
        if lines.suffix(60).contains(where: { $0.lowercased().contains("no space left on device") }) {
            return Failure(
                .infrastructure, code: "disk.full", message: "the worker's disk is full (step \(step)/\(steps): \(instruction))", tail: tail
            )
        }
        guard stepError != nil || isRefused else {
            return Failure(
                .infrastructure, code: "engine.failed",
                message: "the engine gave up with status \(status) in step \(step)/\(steps): \(instruction)", tail: tail)
        }
        let code = stepError.flatMap { $0.split(separator: " ").last.map(String.init) }
        let reason = code.map { "ended with status \($0)" } ?? "failed (\(tail.last ?? ""))"
        return Failure(
            .recipe, code: "build.step-failed", message: "step \(step)/\(steps) \(reason): \(instruction)", tail: tail)
    }
}
