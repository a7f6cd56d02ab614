import ChunkStore
import ArgumentParser
import FarmModel
import Foundation
import Glibc
import SiteDelivery
import SystemIO

/// Makes an image's commands available again.
struct InstallCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "install", abstract: "Make a release's module and commands available, from the image that is here or from the farm.",
        discussion: """
            Needs no network where the image is here: after `uninstall --keep-image`, for example. With --link its commands can be called
            without modules.
            Examples:
              sciferry install dcm2niix --site /software
              sciferry install dcm2niix --link ~/.local/bin
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME or NAME/VERSION.", completion: .custom(SiteAccess.complete)) var release: String
    @Option(help: "A directory of PATH in which each command gets a file of its own.", completion: .directory) var link: String?

    func run() async throws {
        try await reporting {
            let (name, version) = SiteAccess.split(release)
            var installed: InstalledTool
            do {
                installed = try site.open().reinstall(name: name, version: version, now: .now)
            } catch let error as FarmError where ["site.absent", "site.no-image"].contains(error.code) {
                let site = try await SiteAccess.open(site, farm: farm)
                let brought: Delivered
                // What is missing here is what somebody without a farm wants to hear of.
                do { brought = try await Delivery(farm: farm).bring(release, to: site) } catch let other as FarmError {
                    throw error.code == "site.no-image" && other.category == .usage ? error : other
                }
                guard let tool = try site.installed().first(where: { $0.releases.contains(brought.report.release) }) else { throw error }
                installed = tool
            }
            try await SiteAccess.followChange(of: try site.open())
            let linked = try link.map { try links(of: installed, in: $0) } ?? []
            if farm.json { return try Console.json(installed) }
            Console.print("\(installed.title) is installed; commands: \(installed.commands.joined(separator: ", "))")
            if let link { Console.print("\(linked.count) commands are in \(Disk.absolute(link))") }
        }
    }

    /// A small program for each command: a link would not tell the launcher which image is meant.
    private func links(of tool: InstalledTool, in directory: String) throws -> [String] {
        let mark = "# sciferry \(tool.name)"
        try Disk.makeDirectory(Disk.absolute(directory))
        let root = try site.open().root
        for command in tool.commands {
            let path = "\(Disk.absolute(directory))/\(command)"
            if Disk.exists(path) {
                let present = (try? Disk.read(path, limit: 4096)).map { String(decoding: $0, as: UTF8.self) } ?? ""
                guard present.contains("# sciferry ") else {
                    throw FarmError(
                        "install.taken", .conflict, "\(path) is there already and not from here",
                        hint: "use another directory, or move it away")
                }
            }
            let target = "\(root)/wrappers/\(tool.name)/\(tool.version)/bin/\(command)"
            try Disk.replace(path, with: Array("#!/bin/sh\n\(mark)\nexec \(ShellWord.quoted(target)) \"$@\"\n".utf8), mode: 0o755)
        }
        return tool.commands
    }
}

extension SiteAccess {
    /// Names that can be completed: what the site has heard of the channel, without a network.
    @Sendable static func complete(_ words: [String], _ index: Int, _ prefix: String) -> [String] {
        let option = words.firstIndex(of: "--site")
        let options = option.flatMap { $0 + 1 < words.count ? words[$0 + 1] : nil }
        guard let path = try? SiteOptions.parse(options.map { ["--site", $0] } ?? []).path, let site = try? Site(path) else { return [] }
        let offered = ((try? site.trust())?.channel?.entries ?? []).flatMap { [$0.name, "\($0.name)/\($0.version)"] }
        let there = ((try? site.installed()) ?? []).flatMap { [$0.name, $0.title] }
        return Set(offered + there).sorted()
    }

    /// A tool of the site, brought from the farm where it is missing.
    static func tool(_ text: String, _ options: SiteOptions, farm: FarmOptions) async throws -> (site: Site, tool: InstalledTool) {
        let (name, version) = split(text)
        func found(_ site: Site) throws -> InstalledTool? {
            let named = try site.installed().filter { $0.name == name && (version == nil || $0.version == version) }
            // What a name alone means is the site's to say, as for modules.
            let usual = version == nil ? try site.appearance().defaults[name] : nil
            return named.first { $0.version == usual } ?? named.max { VersionOrder.precedes($0.version, $1.version) }
        }
        let site = try await open(options, farm: farm)
        if let tool = try found(site) { return (site, tool) }
        let brought = try await Delivery(farm: farm).bring(text, to: site).report
        Console.error(
            "\(brought.release.title) was brought: \(Console.bytes(brought.quote.fetchBytes)) in \(Console.seconds(brought.seconds))")
        guard let tool = try site.installed().first(where: { $0.releases.contains(brought.release) }) else {
            throw FarmError("site.not-installed", .fault, "\(text) was brought and is not there")
        }
        try await followChange(of: site)
        return (site, tool)
    }

    /// Becomes the launcher; returns only when that cannot be.
    static func become(_ site: Site, _ tool: InstalledTool, _ words: [String]) throws {
        let launcher = "\(site.root)/bin/sciferry-launch"
        let all = [launcher, "\(site.root)/tools/\(tool.name)/\(tool.directory)"] + words
        let pointers = all.map { strdup($0) } + [nil]
        // What this program does for itself is not the command's: threads of its own hold signals off, and what is fetched is for all to read.
        umask(SiteOptions.ownMask)
        var none = sigset_t()
        sigemptyset(&none)
        pthread_sigmask(SIG_SETMASK, &none, nil)
        execv(launcher, pointers)
        throw Disk.failure("run", launcher)
    }
}

/// Runs a command of a tool.
struct ExecCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec", abstract: "Run a command of a tool, which is fetched first where it is missing.",
        discussion: """
            It becomes the command: signals, streams and the exit code are the command's own.
            Examples:
              sciferry exec fsl bet brain.nii out.nii
              sciferry exec fsl/6.0.7 -- fslmaths --help
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME or NAME/VERSION.", completion: .custom(SiteAccess.complete)) var release: String
    @Argument(parsing: .captureForPassthrough, help: "The command and its arguments.") var command: [String]

    func run() async throws {
        try await reporting {
            var words = command
            if words.first == "--" { words.removeFirst() }
            guard !words.isEmpty else {
                throw FarmError("exec.command", .usage, "no command is named", hint: "sciferry exec \(release) COMMAND")
            }
            let (site, tool) = try await SiteAccess.tool(release, site, farm: farm)
            try SiteAccess.become(site, tool, words)
        }
    }
}

/// Runs what an image does by itself.
struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run a tool as its image means to be run, fetched first where it is missing.",
        discussion: """
            Starts the image's own start-up script with the arguments; `exec` starts a command by name.
            Example:
              sciferry run fmriprep /data /out participant
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME or NAME/VERSION.", completion: .custom(SiteAccess.complete)) var release: String
    @Argument(parsing: .captureForPassthrough, help: "Its arguments.") var arguments: [String] = []

    func run() async throws {
        try await reporting {
            let (site, tool) = try await SiteAccess.tool(release, site, farm: farm)
            try SiteAccess.become(
                site, tool, ["/.singularity.d/runscript"] + (arguments.first == "--" ? Array(arguments.dropFirst()) : arguments))
        }
    }
}

/// A shell inside.
struct ShellCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "shell", abstract: "Open a shell in a tool's image, fetched first where it is missing.",
        discussion: "Example:\n  sciferry shell fsl/6.0.7")

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Argument(help: "NAME or NAME/VERSION.", completion: .custom(SiteAccess.complete)) var release: String

    func run() async throws {
        try await reporting {
            let (site, tool) = try await SiteAccess.tool(release, site, farm: farm)
            let script = "if command -v bash >/dev/null 2>&1; then exec bash --norc; else exec sh; fi"
            setenv("PS1", "\(tool.title):\\w$ ", 1)
            try SiteAccess.become(site, tool, ["/bin/sh", "-c", script])
        }
    }
}
