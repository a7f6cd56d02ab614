import ArgumentParser
import CoordinatorCore
import CoordinatorWeb
import FarmModel
import Foundation
import Logging
import Observability
import SystemIO

/// The coordinator of a farm.
@main
struct CoordinatorMain: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sciferry-coordinator",
        abstract: "Coordinate a farm: schedule builds, listen for workers, publish releases.",
        discussion: "The home is made by `sciferry init`. SIGTERM and SIGINT stop it; nothing is lost by SIGKILL either.",
        version: Program.version)

    @Option(help: "The farm's home.")
    var home: String

    @Option(help: "json or text.")
    var logFormat: String = "json"

    @Option(help: "debug, info, notice, warning or error.")
    var logLevel: String = "info"

    @Option(help: .hidden)
    var parent: Int32?

    func run() async throws {
        if let parent { ParentWatch.start(parent) }
        do {
            try LogSetup.bootstrap(format: logFormat, level: logLevel)
            let logger = Logger(label: "coordinator")
            let service = try CoordinatorService(home: FarmHome(home), logger: logger)
            try await service.run()
        } catch let error as FarmError {
            FileHandle.standardError.write(Data("sciferry-coordinator: \(error)\n".utf8))
            throw ExitCode(error.category.exitStatus)
        }
    }
}
