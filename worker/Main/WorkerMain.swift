import UnixSignals
import ArgumentParser
import FarmIdentity
import FarmModel
import Foundation
import HTTPTransport
import Logging
import NIOPosix
import Observability
import ServiceLifecycle
import SystemIO
import WorkerCore

/// A worker of a farm.
@main
struct WorkerMain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sciferry-worker", abstract: "Build, test and upload images for a farm.", version: Program.version,
        subcommands: [Join.self, Run.self, Facts.self], defaultSubcommand: Run.self)

    /// Prints an error of ours and gives its exit status.
    static func report(_ body: () async throws -> Void) async throws {
        do { try await body() } catch let error as FarmError {
            FileHandle.standardError.write(Data("sciferry-worker: \(error)\n".utf8))
            throw ExitCode(error.category.exitStatus)
        }
    }
}

/// Enrols this machine.
struct Join: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Enrol this machine with a join token.",
        discussion: "Example:\n  sciferry-worker join 'https://farm.example:7443#ca=…&token=…' --home /var/lib/sciferry-worker")

    @Argument(help: "The join token; `-` reads it from standard input, so that it shows in no process list.")
    var token: String

    @Option(help: "The worker's home.")
    var home: String

    @Option(help: "Builds at a time.")
    var slots: Int?

    func run() async throws {
        try await WorkerMain.report {
            let text = token == "-" ? readLine() ?? "" : token
            let configuration = try await Enrolment(client: HTTPClient()).join(
                try JoinToken(text: text), home: WorkerHome(home), slots: slots)
            print("enrolled as \(configuration.name) in farm \(configuration.farm)")
        }
    }
}

/// Works until it is stopped.
struct Run: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Work until stopped by SIGTERM or SIGINT.")

    @Option(help: "The worker's home.")
    var home: String

    @Option(help: "json or text.")
    var logFormat: String = "json"

    @Option(help: "debug, info, notice, warning or error.")
    var logLevel: String = "info"

    @Option(help: .hidden)
    var parent: Int32?

    func run() async throws {
        if let parent { ParentWatch.start(parent) }
        try await WorkerMain.report {
            try LogSetup.bootstrap(format: logFormat, level: logLevel)
            let logger = Logger(label: "worker")
            let agent = try await WorkerAgent(home: WorkerHome(home), group: MultiThreadedEventLoopGroup.singleton, logger: logger)
            let group = ServiceGroup(
                configuration: .init(services: [Working(agent: agent)], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
            try await group.run()
        }
    }
}

private struct Working: Service {
    let agent: WorkerAgent

    func run() async throws {
        try await cancelWhenGracefulShutdown {
            do { try await agent.run() } catch is CancellationError {}
        }
        await agent.stop()
    }
}

/// Says what the worker would report of this machine.
struct Facts: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show what this machine would report.")

    func run() async throws {
        try await WorkerMain.report {
            print(try CanonicalJSON.pretty(try await HostSurvey.facts(home: ".", engine: "not asked", slots: 1)))
        }
    }
}
