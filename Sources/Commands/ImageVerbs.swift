import ArgumentParser
import FarmModel
import Foundation
import Glibc
import ImageAssembly
import SingularityImage
import SystemIO

/// Looks into images.
struct ImageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "image",
        abstract: "Make Singularity images, look into them, sign and verify them, without a runtime and without root.",
        subcommands: [
            ImageAssembleCommand.self, ImageInspectCommand.self, ImageListCommand.self, ImageCatCommand.self, ImageDiffCommand.self,
            ImageExtractCommand.self, ImageAppendCommand.self, ImageRemoveCommand.self, ImageSignCommand.self, ImageVerifyCommand.self,
            ImageKeyCommand.self, ImagePushCommand.self,
        ])
}

/// An image file that is open for reading.
private struct OpenImage {
    private let path: String
    /// `nil` for a file system without a SIF around it.
    let head: SingularityImage.Head?
    private let reader: SquashfsReader

    /// Throws `file.absent`, `sif.invalid`, `image.squashfs`.
    init(_ path: String) throws {
        let image = try ImageFileSystem(path)
        self.path = path
        head = image.head
        reader = try SingularityFile.naming(path) { try SquashfsReader(image.file, image.partition) }
    }

    /// Errors name the file.
    func read<Value>(_ body: (SquashfsReader) throws -> Value) throws -> Value { try SingularityFile.naming(path) { try body(reader) } }
}

/// Shows what an image consists of.
struct ImageInspectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Show what an image consists of: its objects, its file system, its labels.",
        discussion: "Example:\n  sciferry image inspect fsl.sif --json")

    @Argument(help: "A .sif file.") var image: String
    @Flag(help: "Print JSON.") var json = false

    private struct Object: Encodable {
        var id: UInt32
        var kind: String
        var name: String
        var offset: Int64
        var size: Int64
    }

    private struct Report: Encodable {
        /// Absent, as what follows, for a file system without a SIF around it.
        var architecture: String?
        var identifier: String?
        var created: String?
        var objects: [Object]
        var compression: String
        var blockSize: Int
        var inodes: Int
        var fileSystemBytes: Int64
        var labels: [String: String]
    }

    func run() async throws {
        try await reporting {
            let path = image
            let report = try await Blocking.run { try ImageInspectCommand.report(path) }
            if json { return Console.print(try CanonicalJSON.pretty(report)) }
            if let architecture = report.architecture, let identifier = report.identifier, let created = report.created {
                Console.print("architecture  \(architecture.printable())")
                Console.print("identifier    \(identifier)")
                Console.print("created       \(created)")
            } else {
                Console.print("format        a file system without a SIF around it, as of Singularity 2")
            }
            Console.print(
                "file system   squashfs, \(report.compression), blocks of \(report.blockSize >> 10) KiB, \(report.inodes) inodes, \(Console.bytes(report.fileSystemBytes))"
            )
            if !report.objects.isEmpty {
                Console.table(
                    ["ID", "OBJECT", "NAME", "OFFSET", "SIZE"],
                    report.objects.map { ["\($0.id)", $0.kind, $0.name, "\($0.offset)", "\($0.size)"] })
            }
            for (name, value) in report.labels.sorted(by: { $0.key < $1.key }) {
                Console.print("label         \(name.printable()): \(value.printable())")
            }
        }
    }

    private static let longestLabels = 1 << 20

    private static func report(_ path: String) throws -> Report {
        let image = try OpenImage(path)
        let (summary, labels) = try image.read { reader in
            let bytes = try reader.bytes(of: "/.singularity.d/labels.json", limit: longestLabels) ?? []
            return (reader.summary, try? CanonicalJSON.decode([String: String].self, from: bytes, source: "labels.json"))
        }
        let head = image.head
        return Report(
            architecture: head.map { head in
                SingularityImage.Architecture(rawValue: head.architecture).map { "\($0)" } ?? head.architecture
            },
            identifier: head?.identifier.hex,
            created: head.map { "\(Timestamp(seconds: max(0, min($0.created, 1 << 40))))" },
            objects: (head?.descriptors ?? []).map {
                Object(id: $0.id, kind: kind($0), name: $0.name, offset: $0.offset, size: $0.size)
            }, compression: summary.compression, blockSize: summary.blockSize, inodes: summary.inodes, fileSystemBytes: summary.bytes,
            labels: labels ?? [:])
    }

    private static func kind(_ descriptor: SingularityImage.Descriptor) -> String {
        switch SingularityImage.DataType(rawValue: descriptor.type) {
        case .definitionFile: "definition file"
        case .environment: "environment"
        case .labels: "labels"
        case .partition: "partition"
        case .signature: "signature"
        case .genericJSON: "JSON"
        case .generic: "data"
        case .cryptographicMessage: "message"
        case .billOfMaterials: "bill of materials"
        case .ociRootIndex: "OCI index"
        case .ociBlob: "OCI blob"
        case nil: "unknown (\(descriptor.type))"
        }
    }
}

/// Lists the files of an image.
struct ImageListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the files of an image: kind and mode, owner, group, size, path.",
        discussion: """
            With --digests every file's SHA-256 (of links the target), and one of all its extended attributes, in a form for comparing.
            Example:
              sciferry image list fsl.sif /opt
            """)

    @Argument(help: "A .sif file.") var image: String
    @Argument(help: "Only what is at or below this path.") var below = "/"
    @Flag(help: "Read every file and print digests.") var digests = false

    func run() async throws {
        try await reporting {
            let (path, wanted) = (image, below.hasSuffix("/") ? String(below.dropLast()) : below)
            let digests = digests
            let lines = try await Blocking.run {
                var lines: [String] = []
                if digests {
                    let listing = try OpenImage(path).read { try ImageListing($0) }
                    return listing.facts.sorted { $0.key < $1.key }.filter { $0.key == wanted || $0.key.hasPrefix("\(wanted)/") }.map {
                        "\($0.value) \($0.key)"
                    }
                }
                try OpenImage(path).read { reader in
                    try reader.walk { entry, _ in
                        let name = ImageListing.escaped(entry.path)
                        guard wanted.isEmpty || name == wanted || name.hasPrefix("\(wanted)/") else { return }
                        let size = "bc".contains(entry.kind) ? "\(entry.device.major):\(entry.device.minor)" : "\(entry.size)"
                        let target = entry.kind == "l" ? " -> \(ImageListing.escaped(entry.target))" : ""
                        lines.append("\(entry.kind) \(String(entry.mode, radix: 8)) \(entry.owner) \(entry.group) \(size) \(name)\(target)")
                    }
                }
                return lines
            }
            guard !lines.isEmpty else { throw FarmError("image.path", .notFound, "\(path) has no \(wanted)") }
            for line in lines { Console.print(line) }
        }
    }
}

/// Prints a file of an image.
struct ImageCatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cat", abstract: "Print a file of an image.", discussion: "Example:\n  sciferry image cat fsl.sif /README.md")

    @Argument(help: "A .sif file.") var image: String
    @Argument(help: "The file's path in the image.") var path: String

    func run() async throws {
        try await reporting {
            let (image, path) = (image, path)
            let kind = try await Blocking.run {
                try OpenImage(image).read { reader in
                    try reader.find(path) { entry, content in
                        try content { try FileHandle.standardOutput.write(contentsOf: Data($0)) }
                        return entry.kind
                    }
                }
            }
            guard kind == "f" else {
                throw FarmError("image.path", .notFound, "\(image) has no file \(path)", hint: "sciferry image list shows what it has")
            }
        }
    }
}

/// Compares two images.
struct ImageDiffCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Say what differs between two images, file by file; status 1 when something does.",
        discussion: """
            Compares kind, mode, owner, group, size, content, link targets and extended attributes; not times.
            Example:
              sciferry image diff old.sif new.sif
            """)

    @Argument(help: "A .sif file.") var one: String
    @Argument(help: "Another.") var other: String
    @Flag(help: "Print JSON.") var json = false

    private struct Difference: Encodable {
        var path: String
        var what: String
    }

    func run() async throws {
        try await reporting {
            let (first, second) = (one, other)
            let found = try await Blocking.run {
                try OpenImage(first).read { try ImageListing($0) }.differences(
                    from: try OpenImage(second).read { try ImageListing($0) }, names: (first, second)
                ).map { Difference(path: $0.path, what: $0.words) }
            }
            if json {
                Console.print(try CanonicalJSON.pretty(found))
            } else {
                for difference in found { Console.print("\(difference.path): \(difference.what)") }
                Console.print(found.isEmpty ? "the same files" : "\(found.count) files differ")
            }
            if !found.isEmpty { throw ExitCode(1) }
        }
    }
}
