import ArgumentParser
import FarmModel
import Foundation
import Glibc
import ImageAssembly
import HTTPTransport
import Registry
import SingularityImage
import SystemIO
import WorkerCore

/// Makes an image of layers.
struct ImageAssembleCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "assemble", abstract: "Make a reproducible SIF of an image's layers.",
        discussion: """
            SOURCE is one of
              docker-daemon:NAME         an image of this machine's Docker engine, read where the engine keeps it when that is possible
              docker-archive:FILE        what docker save writes, packed or not
              oci-archive:FILE[:TAG]     an OCI layout in a tar archive
              oci:DIRECTORY[:TAG]        an OCI layout
              docker://NAME              an image in a registry
            or the plain path of an archive or of a layout. The same layers and configuration give the same bytes, whatever the
            source, the machine, the number of cores and the user.
            Example:
              sciferry image assemble docker-daemon:fsl:6.0.7 -o fsl.sif
            """)

    @Argument(help: "Where the layers are.") var source: String
    @Option(name: .shortAndLong, help: "The image to write.") var output: String
    @Option(help: "The machine that it is for, as uname -m says; this one when not given.") var machine: String?
    @Option(help: "zstd or gzip; gzip for kernels that read nothing else.") var compression = "zstd"
    @Option(help: "1 to 19 for zstd, 1 to 9 for gzip.") var level = 9
    @Option(name: .customLong("block-kib"), help: "Size of the blocks that are packed alone, a power of two from 4 to 1024.") var blockKiB =
        128
    @Option(help: "Threads; all cores when not given.") var jobs: Int?
    @Option(name: .customLong("label"), help: "NAME=VALUE, more than once.") var labels: [String] = []
    @Option(help: "A file that tells what the image was made from, for inspect --deffile.") var definition: String?
    @Option(name: .customLong("file"), help: "A file to lie in /.singularity.d/sciferry: the recipe, its lock, a README.") var files:
        [String] = []
    @Option(help: "A bill of materials in SPDX JSON, as an object of the SIF.") var sbom: String?
    @Option(help: "Where packed layers are unpacked; beside the output when not given.") var scratch: String?
    @Option(help: "The Docker client.") var docker = "docker"
    @OptionGroup var registry: RegistryOptions
    @Flag(help: "Print JSON.") var json = false

    private static let writebackStep: Int64 = 16 << 20

    private struct Report: Encodable {
        var output: String
        var bytes: Int64
        var contentBytes: Int64
        var sha256: String
        var writer: String
        var seconds: Double
    }

    func run() async throws {
        try await reporting {
            guard let compression = ImageFormat.Compression(rawValue: compression) else {
                throw FarmError("image.format", .invalid, "\"\(compression)\" is no compression", hint: "zstd or gzip")
            }
            let papers = try papers()
            let directory = Disk.parent(of: Disk.absolute(output))
            let room = LayeredImage.Room(scratch: scratch ?? directory)
            let start = ContinuousClock.now
            let image = try await ImageSource(source).open(
                machine: machine ?? HostSurvey.machine, room: room, docker: docker, registry: try registry.registry)
            let meant = LayeredImage.machine(of: image.configuration.architecture)
            if let machine, let meant, machine != meant {
                throw FarmError("image.platform", .invalid, "\(source) is an image for \(meant), not for \(machine)")
            }
            let assembler = try ImageAssembler(
                machine: meant ?? machine ?? HostSurvey.machine,
                format: ImageFormat(blockSize: blockKiB << 10, compression: compression, level: level),
                jobs: jobs ?? ProcessInfo.processInfo.activeProcessorCount)
            // Under another name until it is whole.
            let part = "\(output).part-\(Nonce.hex(bytes: 4))"
            defer { try? Disk.remove(part) }
            let line = ProgressLine()
            let report = try await Blocking.run {
                let file = try OpenFile(part, flags: O_RDWR | O_CREAT | O_TRUNC)
                // The disk writes while the processors pack, so that there is little to wait for at the end.
                var begun: Int64 = 0
                let watch = ImageAssembler.Watch(
                    progress: { if Console.isTerminal { line.show("packing", share: $0) } },
                    settled: { settled in
                        guard settled - begun >= ImageAssembleCommand.writebackStep else { return }
                        file.beginWriteback(at: begun, count: settled - begun)
                        begun = settled
                    })
                let report = try assembler.assemble(image, to: part, papers: papers, watch: watch, lists: false)
                try file.sync()
                return report
            }
            line.clear()
            try Disk.rename(part, to: output)
            try Disk.syncDirectory(directory)
            let seconds = (ContinuousClock.now - start) / .seconds(1)
            let (path, digest) = (output, try await Blocking.run { [output] in try ImageAssembleCommand.digest(output) })
            if json {
                Console.print(
                    try CanonicalJSON.pretty(
                        Report(
                            output: path, bytes: report.size, contentBytes: report.contentBytes, sha256: digest.hex,
                            writer: ImageAssembler.writer,
                            seconds: seconds)))
            } else {
                Console.print("\(path)  \(Console.bytes(report.size)) of \(Console.bytes(report.contentBytes)) of files")
                Console.print("sha256:\(digest.hex)")
            }
        }
    }

    static func digest(_ path: String) throws -> Digest {
        let file = try OpenFile(path, flags: O_RDONLY)
        return try file.digest(size: try file.size())
    }

    private func papers() throws -> ImagePapers {
        var papers = ImagePapers()
        for label in labels {
            guard let equals = label.firstIndex(of: "="), equals != label.startIndex else {
                throw FarmError("image.label", .invalid, "\"\(label)\" is no NAME=VALUE")
            }
            papers.labels[String(label[..<equals])] = String(label[label.index(after: equals)...])
        }
        if let definition { papers.definition = String(decoding: try Disk.read(definition, limit: 16 << 20), as: UTF8.self) }
        papers.files = try files.map { .init(name: Disk.name(of: $0), bytes: try Disk.read($0, limit: 16 << 20)) }
        guard Set(papers.files.map(\.name)).count == papers.files.count else {
            throw FarmError("image.file", .invalid, "two of the files have one name")
        }
        if let sbom { papers.materials = try Disk.read(sbom, limit: 1 << 30) }
        return papers
    }
}

/// How registries are reached.
struct RegistryOptions: ParsableArguments {
    @Option(name: .customLong("mirror"), help: "HOST=OTHER: ask OTHER first for images of HOST; more than once.") var mirrors: [String] = []

    /// With the passwords that docker login keeps.
    var registry: Registry {
        get throws {
            var table: [String: [String]] = [:]
            for mirror in mirrors {
                let parts = mirror.split(separator: "=", maxSplits: 1).map(String.init)
                guard parts.count == 2 else { throw FarmError("registry.mirror", .invalid, "\"\(mirror)\" is no HOST=OTHER") }
                table[parts[0] == "docker.io" ? "registry-1.docker.io" : parts[0], default: []].append(parts[1])
            }
            return Registry(
                client: HTTPClient(), credentials: try RegistryCredentials(environment: ProcessInfo.processInfo.environment), mirrors: table
            )
        }
    }
}

/// Where an image's layers are, as the command line says it.
struct ImageSource {
    private enum Kind: Equatable { case engine, archive, layout, registry }
    private let kind: Kind
    private let place: String
    private let name: String

    /// Throws `image.source`.
    init(_ text: String) throws {
        func rest(_ prefix: String) -> String? { text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : nil }
        if let value = rest("docker://") {
            (kind, place, name) = (.registry, value, "")
        } else if let value = rest("docker-daemon:") {
            (kind, place, name) = (.engine, value, "")
        } else if let value = rest("docker-archive:") ?? rest("oci-archive:") {
            (place, name) = ImageSource.split(value)
            kind = .archive
        } else if let value = rest("oci:") {
            (place, name) = ImageSource.split(value)
            kind = .layout
        } else if Disk.isDirectory(text) {
            (kind, place, name) = (.layout, text, "")
        } else if Disk.exists(text) {
            (kind, place, name) = (.archive, text, "")
        } else {
            throw FarmError(
                "image.source", .notFound, "there is no file \(text)", hint: "for an image of the engine write docker-daemon:\(text)")
        }
        guard !place.isEmpty else { throw FarmError("image.source", .invalid, "\"\(text)\" names nothing") }
    }

    /// A path and, behind a colon, a name; a path that is there is meant whole.
    private static func split(_ text: String) -> (place: String, name: String) {
        guard !Disk.exists(text), let colon = text.firstIndex(of: ":") else { return (text, "") }
        return (String(text[..<colon]), String(text[text.index(after: colon)...]))
    }

    /// - Parameter docker: the engine's client.
    func open(machine: String, room: LayeredImage.Room, docker: String, registry: Registry) async throws -> LayeredImage {
        let (place, name) = (place, name)
        switch kind {
        case .archive: return try await Blocking.run { try LayeredImage.archive(place, machine: machine, name: name, room: room) }
        case .layout: return try await Blocking.run { try LayeredImage.layout(place, machine: machine, name: name, room: room) }
        case .engine:
            return try await DockerEngine(program: docker, host: "", marks: [:]).layers(of: place, machine: machine, room: room) { _ in }
        case .registry:
            guard let reference = ImageReference(place) else {
                throw FarmError("image.source", .invalid, "\"\(place)\" is no image's name")
            }
            return try await LayeredImage.pull(reference, from: registry, machine: machine, room: room)
        }
    }
}

/// Writes an object of an image into a file.
struct ImageExtractCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "extract", abstract: "Write one object of an image to a file or to the standard output.",
        discussion: "Example:\n  sciferry image extract fsl.sif 2 -o oci-config.json")

    @Argument(help: "A .sif file.") var image: String
    @Argument(help: "The object's number, as sciferry image inspect shows it.") var object: UInt32
    @Option(name: .shortAndLong, help: "The file to write; - for the standard output.") var output = "-"

    func run() async throws {
        try await reporting {
            let (image, object, output) = (image, object, output)
            try await Blocking.run {
                let source = try SingularityFile(image)
                let found = try source.object(object)
                guard output != "-" else {
                    return try source.read(found) { try FileHandle.standardOutput.write(contentsOf: Data($0)) }
                }
                let part = "\(output).part-\(Nonce.hex(bytes: 4))"
                defer { try? Disk.remove(part) }
                let file = try OpenFile(part, flags: O_WRONLY | O_CREAT | O_EXCL)
                var position: Int64 = 0
                try source.read(found) {
                    try file.write($0, at: position)
                    position += Int64($0.count)
                }
                try file.sync()
                try Disk.rename(part, to: output)
            }
        }
    }
}
