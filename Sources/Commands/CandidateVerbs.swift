import ArgumentParser
import CoordinatorCore
import FarmModel

/// Lists what waits for a releaser.
struct CandidatesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "candidates", abstract: "List candidates: built by the untrusted pool, tested, not released.",
        discussion: "Example:\n  sciferry candidates --json")

    @OptionGroup var farm: FarmOptions

    func run() async throws {
        try await reporting {
            let views: [JobView] = try await farm.client().get("/api/v1/candidates")
            if farm.json { return try Console.json(views) }
            Console.table(
                ["JOB", "WHAT", "ASKED BY", "BUILT ON", "TESTS", "IMAGE"],
                views.map { view in
                    let result = view.publication?.result
                    return [
                        view.job.id.rawValue, view.job.title, view.job.requestedBy, view.publication?.builtOn ?? "-",
                        result.map { "\($0.tests.filter(\.passed).count) of \($0.tests.count)" } ?? "-",
                        result.map { "sha256:\($0.image.short)" } ?? "-",
                    ]
                })
        }
    }
}

/// Brings a candidate to a release.
struct PromoteCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "promote", abstract: "Release a candidate: a trusted worker builds it again, and what differs is listed.",
        discussion: """
            Examples:
              sciferry promote j12
              sciferry promote j12 --bytes
            Where the files differ, the job waits for a word: the same command, with the new job's name, releases it, and
            `sciferry cancel` does not. The exit status is then 3.
            """)

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The candidate's job, or the one that has built it again and waits.") var id: String
    @Flag(help: "Release the very image, tested once more by a trusted worker, where the farm allows that.") var bytes = false
    @Flag(help: "Whatever differs in what is built again.") var acceptDifferences = false
    @Flag(inversion: .prefixedNo, help: "Wait for the end.") var wait = true

    func run() async throws {
        try await reporting {
            let client = try farm.client()
            let request = PromotionRequest(bytes: bytes, acceptsDifferences: acceptDifferences)
            let job: JobRecord = try await client.post("/api/v1/jobs/\(id)/promote", request)
            guard wait else { return farm.json ? try Console.json(job) : Console.print("\(job.id)  \(job.title)") }
            let view = try await JobFollower(client: client, quiet: farm.json).follow(job.id)
            if farm.json { try Console.json(view) }
            switch view.job.state {
            case .succeeded: return
            case .review: throw ExitCode(3)
            case .cancelled: throw ExitCode(130)
            default: throw ExitCode(1)
            }
        }
    }
}
