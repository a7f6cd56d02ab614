package import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import SiteDelivery
import SystemIO

/// `sciferry`: everything that people do with a farm and a site.
package struct SciferryCommand: AsyncParsableCommand {
    package static let configuration = CommandConfiguration(
        commandName: "sciferry",
        abstract: "Build scientific software containers on a farm and bring them to sites.",
        discussion: """
            Examples:
              sciferry init && sciferry up --detach     make a farm on this machine and start it
              sciferry build recipes/dcm2niix           build a recipe, test it, release it
              sciferry pull dcm2niix --site ~/software  bring it to a site, with module and commands
              sciferry job j1                           see why a build waits or failed

            The farm is found through --home, SCIFERRY_HOME or ~/.sciferry; a remote one through SCIFERRY_URL,
            SCIFERRY_TOKEN and SCIFERRY_AUTHORITY. Exit codes stand in docs/exit-codes.md.
            `sciferry --generate-completion-script bash` prints completions (zsh and fish too).
            """,
        version: Program.version,
        subcommands: [
            InitCommand.self, UpCommand.self, DownCommand.self, BuildCommand.self, JobsCommand.self, JobCommand.self, WhyCommand.self,
            CandidatesCommand.self, PromoteCommand.self, YankCommand.self, NightlyCommand.self,
            LogsCommand.self, CancelCommand.self, WorkersCommand.self, WorkerCommand.self, RecipeCommand.self,
            SiteCommand.self, PullCommand.self, InstallCommand.self, UninstallCommand.self, RunCommand.self, ExecCommand.self,
            ShellCommand.self, TestCommand.self, DatasetCommand.self, ListCommand.self, ShowCommand.self,
            SyncCommand.self, CopyCommand.self, CheckCommand.self, ListBucketCommand.self, CatCommand.self, RemoveObjectsCommand.self,
            UsageCommand.self, ServeCommand.self, AccessCommand.self, CPUCommand.self, ProveCommand.self, ImageCommand.self,
            ImportCommand.self, StoreCommand.self, TrustCommand.self, CollectCommand.self, RegionsCommand.self, ProbeCommand.self,
        ])

    package init() {}
}

/// Where the farm's home is.
struct HomeOptions: ParsableArguments {
    @Option(help: "The farm's home (default: SCIFERRY_HOME or ~/.sciferry).")
    var home: String?

    var farmHome: FarmHome { FarmHome(home ?? HomeOptions.standard) }

    static var standard: String {
        let environment = ProcessInfo.processInfo.environment
        return environment["SCIFERRY_HOME"] ?? "\(environment["HOME"] ?? ".")/.sciferry"
    }
}

/// The farm that is spoken to, and the form of the output.
struct FarmOptions: ParsableArguments {
    @OptionGroup var homeOptions: HomeOptions

    @Flag(help: "Print JSON.")
    var json = false

    func client() throws -> FarmClient { try FarmClient.connect(homeOptions.farmHome, chosen: homeOptions.home != nil) }
}

/// Where the site is.
struct SiteOptions: ParsableArguments {
    @Option(help: "The site's directory (default: SCIFERRY_SITE or ~/sciferry-site).")
    var site: String?

    var path: String {
        let environment = ProcessInfo.processInfo.environment
        return site ?? environment["SCIFERRY_SITE"] ?? "\(environment["HOME"] ?? ".")/sciferry-site"
    }

    /// Opens the site; throws `site.absent`.
    func open() throws -> Site {
        SiteOptions.showToAll()
        return try Site(path)
    }

    /// What a site holds is for all its users to read, whatever mask whoever fills it works with; the mode of the site's own directory
    /// keeps out who shall not.
    static func showToAll() { umask(ownMask & ~0o055) }

    /// The mask that this process was started with.
    static let ownMask: mode_t = {
        let mask = umask(0)
        umask(mask)
        return mask
    }()
}

/// Runs a verb's body and turns our errors into messages and exit statuses.
func reporting(_ body: () async throws -> Void) async throws {
    do { try await body() } catch let error as FarmError {
        Console.error("sciferry: \(error)")
        throw ExitCode(error.category.exitStatus)
    } catch is CancellationError {
        throw ExitCode(FarmError.Category.cancelled.exitStatus)
    }
}
