import ArgumentParser
import FarmModel
import FileStore
import Foundation
import HTTPTransport
import ObjectStorage

struct StoreStatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stat", abstract: "Tell what a store holds and what each file has alone.",
        discussion: "Example:\n  sciferry store stat file:/srv/images")

    @OptionGroup var store: StoreOptions

    func run() async throws {
        try await reporting {
            let figures = try await store.openAny().figures()
            if store.json { return try Console.json(figures) }
            Console.table(
                ["NAME", "SIZE", "ALONE IN IT"],
                figures.files.map { [$0.name, Console.bytes($0.size), Console.bytes($0.ownBytes)] })
            if !figures.tools.isEmpty {
                Console.print("")
                Console.table(
                    ["TOOL", "SIZE", "ALONE IN IT"],
                    figures.tools.map { [$0.name, Console.bytes($0.size), Console.bytes($0.ownBytes)] })
            }
            let share = figures.fileBytes > 0 ? Double(figures.liveBytes) / Double(figures.fileBytes) : 1
            Console.print(
                "\(figures.files.count) \(figures.tools.isEmpty ? "files" : "images"), \(Console.bytes(figures.fileBytes)), in \(figures.chunks) chunks of \(Console.bytes(figures.liveBytes)) (\(Console.rounded(share * 100)) %)"
            )
            Console.print("\(figures.packs) packs, \(Console.bytes(figures.packBytes)); \(figures.condemned) objects are condemned")
        }
    }
}

/// What a check prints.
private func report(_ health: FileStore.Health, _ store: StoreOptions, readsAll: Bool) throws {
    if store.json {
        try Console.json(health)
    } else {
        for key in health.repaired { Console.print("repaired  \(key)") }
        for damage in health.damages {
            Console.print("damaged   \(damage.key): \(damage.message)")
            if !damage.files.isEmpty { Console.print("          needed by \(damage.files.joined(separator: ", "))") }
        }
        Console.print(
            "\(health.files) files, \(health.packs) packs, "
                + (readsAll ? "\(Console.bytes(health.bytes)) read" : "structure only: --read compares every byte"))
    }
    guard health.damages.isEmpty else {
        throw FarmError(
            "store.damaged", .corrupt, "\(health.damages.count) objects are damaged or missing",
            hint: "sciferry store repair brings them from a copy; a pack that is missing or too short comes again with its files")
    }
}

struct StoreCheckCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Look whether every file can be restored.",
        discussion: """
            Without --read: pointers, manifests, covers and indexes are read, packs are compared by length. Damage is told with the files that
            it concerns, and the exit status says so.
            Example:
              sciferry store check file:/srv/images --read
            """)

    @OptionGroup var store: StoreOptions
    @Flag(help: "Read every pack and compare its digest.") var read = false

    func run() async throws {
        try await reporting { try report(try await store.openAny().check(read ? .all : .none), store, readsAll: read) }
    }
}

struct StoreRepairCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repair", abstract: "Bring damaged and missing objects from another bucket, verified.",
        discussion: "Example:\n  sciferry store repair file:/srv/images --from s3:https://store.example/images")

    @OptionGroup var store: StoreOptions
    @Option(help: "The bucket with the same objects.") var from: String
    @Flag(inversion: .prefixedNo, help: "Whether every pack is read to find damage.") var read = true

    func run() async throws {
        try await reporting {
            let source = try BucketLocation(from).open(client: HTTPClient())
            try report(try await store.openAny().check(read ? .all : .none, repairingFrom: [source]), store, readsAll: read)
        }
    }
}

struct StoreCollectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collect", abstract: "Take away what no file needs.",
        discussion: """
            Useless objects are condemned first; those that were condemned for the grace time and still are useless go. Runs beside additions,
            readers and other collections, without locks.
            Example:
              sciferry store collect file:/srv/images
            """)

    @OptionGroup var store: StoreOptions
    @Option(help: "Hours for which condemned objects stay. 0 only while nobody adds or reads.") var grace: Double = FileStore.grace
    @Flag(help: "Only say what would be done.") var dryRun = false

    func validate() throws {
        guard grace == 0 || (FileStore.grace...10_000).contains(grace) else { throw ValidationError("--grace is 24 to 10000 hours, or 0") }
    }

    func run() async throws {
        try await reporting {
            let done = try await store.open().collect(grace: grace, dryRun: dryRun)
            if store.json { return try Console.json(done) }
            Console.print("removed    \(done.removed) objects, \(Console.bytes(done.removedBytes))")
            Console.print("condemned  \(done.condemned) objects, \(Console.bytes(done.condemnedBytes))")
            if done.waiting > 0 { Console.print("waiting    \(done.waiting) objects") }
            if done.spared > 0 { Console.print("spared     \(done.spared) objects, which are needed again") }
        }
    }
}
