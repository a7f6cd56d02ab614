import ArgumentParser
import BucketSync
import ChunkStore
import FarmModel
import Foundation
import HTTPTransport
import ObjectStorage
import SystemIO

struct StoreExportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Put all that a farm's channel needs into one file, for sites without internet.",
        discussion: """
            The file is a tar archive, and a bucket: `--region tar:FILE` reads it where it lies, `store import` pours it into another bucket,
            and any tar unpacks it into a directory that is one. Every object is verified on its way. Sites trust it no more than the farm's
            own buckets: its channel expires like theirs.
            Examples:
              sciferry store export s3:https://store.example/farm -o /media/disk/farm.tar
              sciferry store export https://mirror.example/farm fsl ants/2.5.0 -o some.tar --except last.tar
            """)

    @OptionGroup var store: StoreOptions
    @Argument(help: "NAME or NAME/VERSION of what goes into it (default: everything).") var names: [String] = []
    @Option(name: .shortAndLong, help: "The file.", completion: .file()) var output: String
    @Option(help: "The channel.") var channel = "main"
    @Option(help: "An earlier export: what it holds is left out; may be repeated.", completion: .file()) var except: [String] = []
    @Flag(help: "Replace what is there.") var force = false

    func run() async throws {
        try await reporting {
            guard force || !Disk.exists(output) else {
                throw FarmError("file.exists", .conflict, "\(output) exists", hint: "choose another place with -o, or --force")
            }
            let bucket = try store.location()
            var known: Set<String> = []
            for path in except {
                known.formUnion(try await TarStore(path).all().map(\.key).filter { SyncOrder.contentName(of: $0) != nil })
            }
            let wanted = names
            let contents = try await ChannelContents.read(channel, from: bucket) { entry in
                wanted.isEmpty || wanted.contains(entry.name) || wanted.contains("\(entry.name)/\(entry.version)")
            }
            let found = Set(contents.releases.flatMap { [$0.release.name, "\($0.release.name)/\($0.release.version)"] })
            if let missing = names.first(where: { !found.contains($0) }), contents.findings.isEmpty {
                throw FarmError("channel.absent", .notFound, "the channel \(channel) has no \(missing)")
            }
            let line = ProgressLine()
            defer { line.clear() }
            let report = try await ChannelExport(contents, from: bucket).write(to: output, except: known) { done in
                if Console.isTerminal { line.show("\(output) \(Console.bytes(done))", share: 0) }
            }
            line.clear()
            if store.json { return try Console.json(report) }
            Console.print(
                "\(output): \(report.releases) releases, \(report.objects) objects, \(Console.bytes(report.bytes))"
                    + (report.omitted > 0 ? "; \(report.omitted) objects are in the earlier exports" : ""))
        }
    }
}

struct StoreImportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Pour an export of a channel into a bucket, verified, pointers last.",
        discussion: """
            What the bucket has is not written again, so that a broken import goes on where it was.
            Example:
              sciferry store import /media/disk/farm.tar file:/srv/mirror
            """)

    @Argument(help: "The export.", completion: .file()) var file: String
    @Argument(help: "The bucket: file:/directory, s3:https://endpoint/bucket.") var bucket: String
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let archive = try TarStore(file)
            let target = try BucketLocation(bucket).open(client: HTTPClient())
            try await ChannelImport(from: archive, to: target).check()
            var options = SyncOptions()
            options.order = .farm
            let failure = FirstFailure()
            let report = try await BucketSync(from: archive, to: target, options: options) { failure.look($0) }.run()
            if json { try Console.json(report) }
            if let error = failure.error { throw error }
            guard report.damaged.isEmpty else {
                throw FarmError(
                    "tar.damaged", .corrupt,
                    "\(report.damaged.count) objects of \(file) are damaged, so its channel was not written: \(report.damaged[0])",
                    hint: "copy or export it again, then import it: what came is kept")
            }
            if !json { Console.print("\(report.copied) objects, \(Console.bytes(report.copiedBytes)) new; \(report.same) were there") }
        }
    }
}
