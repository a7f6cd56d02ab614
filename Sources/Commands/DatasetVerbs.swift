import ArgumentParser
import FarmModel
import Foundation
import HTTPTransport
import SystemIO

/// Data that tests read.
struct DatasetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dataset", abstract: "Data that tests read: the farm keeps it once, by content, with its source and licence.",
        subcommands: [DatasetListCommand.self, DatasetAddCommand.self])
}

struct DatasetListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show the farm's datasets.", discussion: "Example:\n  sciferry dataset list")

    @OptionGroup var farm: FarmOptions
    @Flag(help: "Show the files of each.") var files = false

    func run() async throws {
        try await reporting {
            let all: [TestDataset] = try await farm.client().get("/api/v1/datasets")
            if farm.json { return try Console.json(all) }
            for dataset in all {
                let size = dataset.files.reduce(0) { $0 + $1.size }
                Console.print(
                    "\(dataset.name)  \(dataset.files.count) files, \(Console.bytes(size)), \(dataset.licence), \(dataset.source)"
                        .printable())
                guard files else { continue }
                for file in dataset.files { Console.print("  \(file.digest.hex)  \(Console.bytes(file.size))  \(file.path)".printable()) }
            }
        }
    }
}

struct DatasetAddCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Give the farm a dataset, from a directory or from where it is published.",
        discussion: """
            Files that the farm has already are not sent again. Of a dataset that is there files are added and replaced.
            With --from and a list of files these are fetched first; a name like ds000001 means OpenNeuro.
            Examples:
              sciferry dataset add phantoms-7t scans/ --source "our 7T, 2026-11" --licence CC0-1.0
              sciferry dataset add ds000001 --file sub-01/anat/sub-01_T1w.nii.gz
            """)

    private static let openNeuro = "https://s3.amazonaws.com/openneuro.org"

    @OptionGroup var farm: FarmOptions
    @Argument(help: "The dataset's name, as suites give it.") var name: String
    @Argument(help: "A directory with its files.", completion: .directory) var directory: String?
    @Option(help: "Where its files are published: the address before their paths.") var from: String?
    @Option(help: "A file to fetch from there; may be repeated.") var file: [String] = []
    @Option(help: "Where it comes from, for people.") var source: String?
    @Option(help: "An SPDX expression; OpenNeuro's data is CC0-1.0.") var licence: String?

    func run() async throws {
        try await reporting {
            guard TestDataset.isName(name) else { throw FarmError("dataset.name", .usage, "\"\(name)\" is no name for a dataset") }
            let isOpenNeuro = name.wholeMatch(of: /ds[0-9]{6}/) != nil
            let address = from ?? (isOpenNeuro ? "\(Self.openNeuro)/\(name)" : nil)
            guard let licence = licence ?? (isOpenNeuro ? "CC0-1.0" : nil) else {
                throw FarmError("dataset.origin", .usage, "under which licence is \(name)?", hint: "--licence CC0-1.0, for example")
            }
            var files: [(path: String, place: String)] = []
            let scratch = "\(NSTemporaryDirectory())/sciferry-dataset-\(Nonce.hex(bytes: 4))"
            defer { try? Disk.remove(scratch) }
            if let directory {
                guard file.isEmpty else { throw FarmError("dataset.files", .usage, "a directory or files to fetch, not both") }
                files = try DatasetAddCommand.files(in: Disk.absolute(directory))
            } else {
                guard let address, !file.isEmpty else {
                    throw FarmError("dataset.files", .usage, "which files?", hint: "a directory, or --from ADDRESS --file PATH")
                }
                for path in file {
                    let place = "\(scratch)/\(path)"
                    try Disk.makeDirectory(Disk.parent(of: place))
                    try await DatasetAddCommand.fetch("\(address)/\(path)", to: place)
                    files.append((path, place))
                }
            }
            let dataset = try await complete(
                TestDataset(
                    name: name, source: source ?? directory.map { Disk.name(of: Disk.absolute($0)) } ?? address ?? "", licence: licence,
                    files: try await Blocking.run { [files] in try files.map { try DatasetAddCommand.entry($0.path, $0.place) } }))
            try await send(dataset, Dictionary(files) { first, _ in first })
            if farm.json { return try Console.json(dataset) }
            Console.print("\(name): \(dataset.files.count) files, \(Console.bytes(dataset.files.reduce(0) { $0 + $1.size }))")
        }
    }

    /// With the files that the farm has of it and that did not come now.
    private func complete(_ dataset: TestDataset) async throws -> TestDataset {
        let all: [TestDataset] = try await farm.client().get("/api/v1/datasets")
        guard let there = all.first(where: { $0.name == dataset.name }) else { return dataset }
        let fresh = Set(dataset.files.map(\.path))
        return TestDataset(
            name: dataset.name, source: dataset.source, licence: dataset.licence,
            files: dataset.files + there.files.filter { !fresh.contains($0.path) })
    }

    private func send(_ dataset: TestDataset, _ places: [String: String]) async throws {
        let client = try farm.client()
        let missing: [Digest] = try await client.post("/api/v1/datasets", dataset)
        for digest in missing {
            guard let entry = dataset.files.first(where: { $0.digest == digest }), let place = places[entry.path] else {
                throw FarmError("dataset.incomplete", .corrupt, "the farm has lost a file of \(dataset.name): \(digest.short)")
            }
            try await client.put("/api/v1/datasets/files/\(digest.hex)/\(entry.size)", file: place)
        }
        if missing.isEmpty { return }
        let left: [Digest] = try await client.post("/api/v1/datasets", dataset)
        guard left.isEmpty else { throw FarmError("dataset.incomplete", .unavailable, "\(left.count) files have not come") }
    }

    private static func fetch(_ address: String, to path: String) async throws {
        let response = try await HTTPClient().perform(HTTPRequest("GET", address, stallSeconds: 60, responseLimit: 4 << 30))
        guard response.isSuccess else {
            throw FarmError("dataset.fetch", .unavailable, "\(address) answers with status \(response.status)")
        }
        try Disk.replace(path, with: response.body)
    }

    private static func entry(_ path: String, _ place: String) throws -> TestDataset.File {
        let bytes = try Disk.read(place, limit: 8 << 30)
        return TestDataset.File(path: path, digest: Digest(hashing: bytes), size: Int64(bytes.count))
    }

    private static func files(in directory: String, _ prefix: String = "") throws -> [(path: String, place: String)] {
        try Disk.list(directory).sorted().filter { !$0.hasPrefix(".") }.flatMap { name -> [(path: String, place: String)] in
            let (path, place) = (prefix + name, "\(directory)/\(name)")
            return Disk.isDirectory(place) ? try files(in: place, "\(path)/") : [(path, place)]
        }
    }
}
