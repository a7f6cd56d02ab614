import ArgumentParser
import ChunkStore
import FarmModel
import FileStore
import Foundation
import HTTPTransport
import ObjectStorage
import SystemIO

/// Any files in a bucket, without a farm.
struct StoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store", abstract: "Keep any files in a bucket, each chunk of them once.",
        discussion: """
            Examples:
              sciferry store add file:/srv/images fsl-6.0.7.sif fsl-6.0.8.sif
              sciferry store restore file:/srv/images fsl-6.0.8.sif -o /tmp/fsl.sif --seed fsl-6.0.7.sif
              sciferry store check s3:https://store.example/images --read
            """,
        subcommands: [
            StoreAddCommand.self, StoreRestoreCommand.self, StoreListCommand.self, StoreRemoveCommand.self, StoreStatCommand.self,
            StoreCheckCommand.self, StoreRepairCommand.self, StoreCollectCommand.self, StoreExportCommand.self, StoreImportCommand.self,
        ])
}

/// The bucket that a verb works on.
struct StoreOptions: ParsableArguments {
    @Argument(help: "The bucket: file:/directory, s3:https://endpoint/bucket, https://mirror (to read).") var bucket: String
    @Flag(help: "Print JSON.") var json = false

    func location() throws -> any ObjectStore { try BucketLocation(bucket).open(client: HTTPClient()) }

    func open() async throws -> FileStore { try await FileStore(try location()) }

    /// Opens a farm's bucket, too.
    func openAny() async throws -> FileStore { try await FileStore(try location(), takesFarms: true) }
}

struct StoreAddCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Take files in; only chunks that the bucket lacks are sent.",
        discussion: """
            A bucket without a store becomes one. The same file again costs reading it. What was killed goes on where it was.
            Example:
              sciferry store add file:/srv/images fsl-6.0.7.sif
            """)

    @OptionGroup var store: StoreOptions
    @Argument(help: "The files.", completion: .file()) var files: [String]
    @Option(name: .customLong("as"), help: "The name in the store, for one file (default: its own).") var name: String?
    @Option(help: "Parts that are hashed and compressed at once (default: the processors).") var jobs: Int?
    @Option(help: "zstd's level for chunks that shrink.") var level: Int32 = 3
    @Option(help: "The mean size of chunks in KiB, for a new store: 64, or 16 to store less and do more.") var average: Int?

    func validate() throws {
        guard name == nil || files.count == 1 else { throw ValidationError("--as names one file") }
        let names = files.map(StoreAddCommand.name)
        if let twice = names.first(where: { name in names.filter { $0 == name }.count > 1 }) {
            throw ValidationError("two files are called \(twice); add them one by one with --as")
        }
        guard (1...19).contains(level) else { throw ValidationError("--level is 1 to 19") }
        guard jobs.map({ (1...256).contains($0) }) ?? true else { throw ValidationError("--jobs is 1 to 256") }
        guard average.map({ (1...1024).contains($0) && $0.nonzeroBitCount == 1 }) ?? true else {
            throw ValidationError("--average is a power of two, 1 to 1024")
        }
    }

    private static func name(_ path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }

    func run() async throws {
        try await reporting {
            let mean = (average ?? 64) << 10
            let opened = try await FileStore.open(
                try store.location(), making: ChunkerParameters(minimum: mean / 4, average: mean, maximum: mean * 4))
            if average != nil, opened.chunker.average != mean {
                throw FarmError(
                    "store.chunker", .conflict, "this store's chunks have \(opened.chunker.average >> 10) KiB in the mean, for good",
                    hint: "leave --average away, or make another store")
            }
            var additions: [FileStore.Addition] = []
            for path in files {
                let line = ProgressLine()
                defer { line.clear() }
                let size = max(1, Disk.size(path) ?? 1)
                let added = try await opened.add(
                    path, as: name ?? StoreAddCommand.name(path),
                    jobs: jobs ?? ProcessInfo.processInfo.activeProcessorCount,
                    level: level
                ) { done in if Console.isTerminal { line.show(path, share: Double(done) / Double(size)) } }
                line.clear()
                additions.append(added)
                if !store.json {
                    Console.print(
                        "\(added.file.name.printable())  \(Console.bytes(added.file.size)), \(added.newChunks) of \(added.chunks) chunks were new, \(Console.bytes(added.sentBytes)) stored"
                            + (added.packsFound > 0 ? " (\(added.packsFound) packs were there already)" : "")
                            + (added.replaces ? "; it replaces another file of that name" : ""))
                }
            }
            if store.json { try Console.json(additions) }
        }
    }
}

struct StoreRestoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Write a stored file, every byte of it verified.",
        discussion: """
            Chunks that files on this machine have are taken from them (--seed). Where the bucket fails, others are asked (--also).
            Example:
              sciferry store restore s3:https://store.example/images fsl-6.0.8.sif --seed fsl-6.0.7.sif
            """)

    @OptionGroup var store: StoreOptions
    @Argument(help: "The file's name in the store.") var name: String
    @Option(name: .shortAndLong, help: "Where to (default: its name, here).", completion: .file()) var output: String?
    @Option(help: "A file that may share chunks; may be repeated.", completion: .file()) var seed: [String] = []
    @Option(help: "Another bucket with the same objects; may be repeated.") var also: [String] = []
    @Flag(help: "Replace what is there.") var force = false
    @Flag(help: "Only say what would be fetched.") var dryRun = false

    private struct Answer: Encodable {
        var file: StoredFile
        var quote: ImageRebuild.Quote
        var incidents: [ReadIncident]
    }

    func run() async throws {
        try await reporting {
            let opened = try await store.open()
            let file = try await opened.file(name)
            let target = output ?? file.name.split(separator: "/").last.map(String.init) ?? file.name
            let client = HTTPClient()
            let plan = try await opened.restoration(
                of: file, others: try also.map { try BucketLocation($0).open(client: client) }, seeds: seed)
            let quote = plan.rebuild.quote
            if !store.json {
                Console.print(
                    "\(file.name.printable())  \(Console.bytes(quote.fetchBytes)) of \(Console.bytes(file.size)) to fetch, \(Console.bytes(quote.seedBytes)) from \(seed.count) local file\(seed.count == 1 ? "" : "s")\(Console.about(plan.reader.seconds(for: quote.fetchBytes)))"
                )
            }
            defer {
                for incident in plan.reader.incidents {
                    Console.error("sciferry: \(incident.region): \(incident.object): \(incident.message)")
                }
            }
            if !dryRun {
                let line = ProgressLine()
                defer { line.clear() }
                try await FileStore.restore(file, plan, to: target, replaces: force) { done in
                    if Console.isTerminal { line.show(target, share: Double(done) / Double(max(1, file.size))) }
                }
            }
            if store.json { try Console.json(Answer(file: file, quote: quote, incidents: plan.reader.incidents)) }
        }
    }
}

struct StoreListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List a store's files.", discussion: "Example:\n  sciferry store list file:/srv/images")

    @OptionGroup var store: StoreOptions

    func run() async throws {
        try await reporting {
            let files = try await store.open().files()
            if store.json { return try Console.json(files) }
            Console.table(
                ["NAME", "SIZE", "ADDED", "SHA-256"],
                files.map { [$0.name, Console.bytes($0.size), Console.date($0.added), $0.digest.hex] })
        }
    }
}

struct StoreRemoveCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Forget files; what only they had goes with later collections.",
        discussion: "Example:\n  sciferry store remove file:/srv/images fsl-6.0.7.sif && sciferry store collect file:/srv/images")

    @OptionGroup var store: StoreOptions
    @Argument(help: "The files' names.") var names: [String]

    func run() async throws {
        try await reporting {
            let opened = try await store.open()
            for name in names {
                try await opened.remove(name)
                if !store.json { Console.print("\(name.printable()) is forgotten") }
            }
        }
    }
}
