import ArgumentParser
import CoordinatorCore
import FarmModel

/// Takes a version out of sight.
struct YankCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "yank", abstract: "Hide a version that should not be used, and warn whoever has it.",
        discussion: """
            Nothing is removed: sites that carry the version keep it, out of sight and with a warning, and whoever names it gets it. New builds
            of it are yanked, too, until --undo.
            Examples:
              sciferry yank fsl/6.0.7 --because "eddy_cuda gives wrong results, use 6.0.8"
              sciferry yank fsl/6.0.7 --undo
            """)

    @OptionGroup var farm: FarmOptions
    @Argument(help: "NAME/VERSION.") var release: String
    @Option(help: "What is wrong, for those who have it.") var because: String?
    @Flag(help: "Nothing is wrong with it after all.") var undo = false

    func run() async throws {
        try await reporting {
            let (name, version) = SiteAccess.split(release)
            guard let version else { throw FarmError("yank.version", .usage, "\(release) names no version", hint: "write NAME/VERSION") }
            guard (because == nil) == undo else {
                throw FarmError("yank.reason", .usage, "say what is wrong with --because, or --undo")
            }
            let request = YankRequest(name: name, version: version, reason: because)
            let records: [ReleaseRecord] = try await farm.client().post("/api/v1/yank", request)
            if farm.json { return try Console.json(records) }
            let targets = records.map(\.release.image.target).joined(separator: ", ")
            let outcome = undo ? "is as others again" : "is yanked: it stays, out of sight and with a warning"
            Console.print("\(name)/\(version) (\(targets)) \(outcome)")
        }
    }
}
