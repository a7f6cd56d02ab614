import ArgumentParser
import BucketSync
import FarmModel
import Foundation
import Glibc
import ObjectStorage
import Synchronization
import SystemIO

struct ListBucketCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List the objects of a bucket.",
        discussion: """
            Example:
              sciferry ls s3:https://store.example/data/sub-01 --long --include "*.nii.gz"
            """)

    @Argument(help: "The bucket, with the prefix if only a part is wanted.") var bucket: String
    @OptionGroup var filters: FilterOptions
    @Flag(name: .shortAndLong, help: "Size, time and tag, too.") var long = false
    @Flag(help: "Print a JSON object a line.") var json = false

    func run() async throws {
        try await reporting {
            let (store, filter) = (try Buckets.source(bucket), try filters.rules())
            try await store.each(prefix: "") { objects in
                var text = ""
                for object in objects where filter.includes(object) { text += line(object) + "\n" }
                Console.write(text)
            }
        }
    }

    private func line(_ object: ObjectInfo) -> String {
        if json {
            struct Line: Encodable {
                var key: String
                var size: Int64
                var tag: String?
                var modified: String?
            }
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            let line = Line(key: object.key, size: object.size, tag: object.tag, modified: object.modified?.description)
            return (try? encoder.encode(line)).map { String(decoding: $0, as: UTF8.self) } ?? ""
        }
        guard long else { return object.key.printable() }
        let size = String(object.size)
        return String(repeating: " ", count: max(0, 12 - size.count))
            + "\(size)  \(Console.date(object.modified))  \(object.tag ?? "-")  \(object.key.printable())"
    }
}

struct CatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cat", abstract: "Write objects to standard output.",
        discussion: """
            Example:
              sciferry cat s3:https://store.example/data notes.txt --head 1000
            """)

    @Argument(help: "The bucket.") var bucket: String
    @Argument(help: "The objects' keys.") var keys: [String]
    @Option(help: "Begin at this byte; below 0 it counts from the end.") var offset: Int64 = 0
    @Option(help: "Write so many bytes.") var count: Int64?
    @Option(help: "Write the first so many bytes.") var head: Int64?
    @Option(help: "Write the last so many bytes.") var tail: Int64?

    func validate() throws {
        guard [head != nil, tail != nil, offset != 0 || count != nil].filter({ $0 }).count <= 1 else {
            throw ValidationError("--head, --tail and --offset with --count exclude each other")
        }
        guard [head, tail, count].allSatisfy({ $0.map { $0 >= 0 } ?? true }) else {
            throw ValidationError("numbers of bytes are not negative")
        }
    }

    func run() async throws {
        try await reporting {
            let store = try Buckets.source(bucket)
            for key in keys {
                guard let object = try await store.head(key) else { throw StorageFailure.absent(key, in: store.name) }
                let first = tail.map { object.size - $0 } ?? (offset < 0 ? object.size + offset : offset)
                let start = min(max(0, first), object.size)
                let end = min(object.size, head ?? count.map { start + $0 } ?? object.size)
                if start >= end { continue }
                try await store.read(key, range: start..<end, tag: object.tag) { bytes in
                    try FileHandle.standardOutput.write(contentsOf: Data(bytes))
                }
            }
        }
    }
}

struct RemoveObjectsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rm", abstract: "Remove objects from a bucket.",
        discussion: """
            Either keys, or filters, or --all: without any of them nothing is removed. A farm's bucket is not touched.
            Examples:
              sciferry rm s3:https://store.example/data old/notes.txt
              sciferry rm s3:https://store.example/data --include "*.tmp" --min-age 7d --dry-run
            """)

    @Argument(help: "The bucket.") var bucket: String
    @Argument(help: "The objects' keys.") var keys: [String] = []
    @OptionGroup var filters: FilterOptions
    @Flag(help: "Everything.") var all = false
    @Flag(name: .shortAndLong, help: "Only say what would be removed.") var dryRun = false
    @Flag(help: "Print JSON.") var json = false

    private struct Answer: Encodable {
        var deleted = 0
        var bytes: Int64 = 0
        var failed: [String] = []
        var dryRun: Bool
    }

    func run() async throws {
        try await reporting {
            let (store, filter) = (try Buckets.source(bucket), try filters.rules())
            guard !keys.isEmpty || !filter.isOpen || all else {
                throw FarmError(
                    "rm.everything", .usage, "this would remove everything in \(store.name)", hint: "name keys or filters, or say --all")
            }
            if try await store.head(SyncOrder.identity) != nil {
                throw FarmError(
                    "rm.farm", .denied, "\(store.name) belongs to a farm or a store",
                    hint: "sciferry collect and sciferry store collect remove what is not needed")
            }
            var doomed = RecordBatches()
            if keys.isEmpty {
                try await store.each(prefix: "") { objects in for object in objects where filter.includes(object) { doomed.add(object) } }
            } else {
                for key in keys {
                    guard let object = try await store.head(key) else { throw StorageFailure.absent(key, in: store.name) }
                    doomed.add(object)
                }
            }
            var answer = Answer(dryRun: dryRun)
            for batch in doomed.batches {
                let errors = dryRun ? [] : try await store.delete(batch.map(\.key))
                let stayed = Set(errors.map(\.key))
                for (key, error) in errors { Console.error("\(key.printable()): \(error)") }
                for object in batch where !stayed.contains(object.key) {
                    answer.deleted += 1
                    answer.bytes += object.size
                    if dryRun, !json { Console.print("- \(object.key.printable())") }
                }
                answer.failed += stayed.sorted()
            }
            if json {
                try Console.json(answer)
            } else {
                Console.print("\(answer.deleted) objects, \(Console.bytes(answer.bytes)) removed\(dryRun ? " (only planned)" : "")")
            }
            if !answer.failed.isEmpty { throw ExitCode(1) }
        }
    }
}

/// Objects to remove, a thousand at a time.
private struct RecordBatches {
    private(set) var batches: [[ObjectInfo]] = []

    mutating func add(_ object: ObjectInfo) {
        if batches.last.map({ $0.count == 1000 }) ?? true { batches.append([]) }
        batches[batches.count - 1].append(object)
    }
}

struct UsageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "du", abstract: "Say how much a bucket holds, and where.",
        discussion: """
            Example:
              sciferry du s3:https://store.example/data --depth 2
            """)

    @Argument(help: "The bucket, with the prefix if only a part is wanted.") var bucket: String
    @OptionGroup var filters: FilterOptions
    @Option(help: "Components of keys to tell apart.") var depth = 1
    @Flag(help: "Print JSON.") var json = false

    private struct Answer: Encodable {
        struct Part: Encodable {
            var prefix: String
            var objects: Int
            var bytes: Int64
        }
        var objects = 0
        var bytes: Int64 = 0
        var parts: [Part] = []
    }

    func run() async throws {
        try await reporting {
            let (store, filter) = (try Buckets.source(bucket), try filters.rules())
            var (answer, parts) = (Answer(), [String: (Int, Int64)]())
            try await store.each(prefix: "") { objects in
                for object in objects where filter.includes(object) {
                    answer.objects += 1
                    answer.bytes += object.size
                    let components = object.key.split(separator: "/", omittingEmptySubsequences: false)
                    let prefix =
                        components.count > depth
                        ? components.prefix(depth).joined(separator: "/") + "/" : components.dropLast().map { $0 + "/" }.joined()
                    let before = parts[prefix] ?? (0, 0)
                    parts[prefix] = (before.0 + 1, before.1 + object.size)
                }
            }
            answer.parts = parts.sorted { $0.key < $1.key }.map { Answer.Part(prefix: $0.key, objects: $0.value.0, bytes: $0.value.1) }
            if json { return try Console.json(answer) }
            Console.table(
                ["BYTES", "OBJECTS", "BELOW"],
                answer.parts.map { [Console.bytes($0.bytes), String($0.objects), $0.prefix.isEmpty ? "." : $0.prefix] })
            Console.print("\(answer.objects) objects, \(Console.bytes(answer.bytes))")
        }
    }
}
