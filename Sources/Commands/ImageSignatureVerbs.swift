import ArgumentParser
import Attestation
import CoordinatorCore
import FarmModel
import Foundation
import SingularityImage
import SystemIO

/// Signs an image.
struct ImageSignCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sign", abstract: "Add a signature to an image, which singularity verify --key takes too.",
        discussion: """
            The key is an Ed25519 key: PEM without a passphrase, as openssl genpkey -algorithm ed25519 writes it, or a farm's release
            key. Signatures by other keys stay; one by the same key is replaced.
            Example:
              sciferry image sign fsl.sif --key release.pem
            """)

    @Argument(help: "A .sif file.") var image: String
    @Option(help: "The private key's file.") var key: String

    func run() async throws {
        try await reporting {
            let (image, key) = (image, try KeyFile.signing(key))
            try await Blocking.run {
                var file = try SingularityFile(image, isWritable: true)
                let signature = try ImageSignature.sign(try SignatureMetadata(of: file), with: key)
                for old in try ImageSignature.verify(file, by: [key.verifier]).findings where old.key == key.verifier.shellKeyID {
                    try file.remove(old.object, modified: file.head.modified)
                }
                try ImageSignature.append(signature, to: &file)
            }
            Console.print("signed by \(key.verifier.shellKeyID)")
        }
    }
}

/// Checks the signatures of an image.
struct ImageVerifyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Check the signatures of an image; status 1 unless all of it is as a given key signed it.",
        discussion: """
            Keys are public ones: Ed25519, ECDSA over P-256 or P-384, or RSA in PEM, or what sciferry image key prints. Signatures of
            PGP are told of and not checked.
            Example:
              sciferry image verify fsl.sif --key release.pub.pem
            """)

    @Argument(help: "A .sif file.") var image: String
    @Option(name: .customLong("key"), help: "A public key's file; more than once.") var keys: [String] = []
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            let keys = try keys.map { try KeyFile.verifying($0) }
            let image = image
            let report = try await Blocking.run { try ImageSignature.verify(try SingularityFile(image), by: keys) }
            let findings = report.findings
            if json {
                Console.print(try CanonicalJSON.pretty(report))
            } else {
                if findings.isEmpty { Console.print("\(image) has no signature") }
                for finding in findings {
                    let covers = finding.covers.map { "\($0)" }.joined(separator: ", ")
                    Console.print(
                        "signature \(finding.object): \(finding.verdict.rawValue)\(finding.key.isEmpty ? "" : ", by \(finding.key)")\(covers.isEmpty ? "" : ", of objects \(covers)")"
                    )
                    for reason in finding.reasons { Console.print("  \(reason)") }
                }
                let unsigned = report.unsigned.map { "\($0)" }.joined(separator: ", ")
                if !unsigned.isEmpty { Console.print("no valid signature covers: \(unsigned)") }
            }
            if !report.isSound { throw ExitCode(1) }
        }
    }
}

/// Prints a public key.
struct ImageKeyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Print the public part of a key in PEM, for image verify and singularity verify --key.",
        discussion: """
            Without --key that of the farm's releases.
            Example:
              sciferry image key > release.pub.pem
            """)

    @Option(help: "The private key's file.") var key: String?
    @OptionGroup var home: HomeOptions

    func run() async throws {
        try await reporting {
            Console.write(try KeyFile.signing(key ?? home.farmHome.releaseKey).verifier.pem)
        }
    }
}

/// Takes an object out of an image.
struct ImageRemoveCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Take an object, such as a signature, out of an image.",
        discussion: "Example:\n  sciferry image remove fsl.sif 4")

    @Argument(help: "A .sif file.") var image: String
    @Argument(help: "The object's number, as sciferry image inspect shows it.") var object: UInt32

    func run() async throws {
        try await reporting {
            let (image, object) = (image, object)
            try await Blocking.run {
                var file = try SingularityFile(image, isWritable: true)
                let gone = try file.object(object)
                guard gone.kind != .partition else {
                    throw FarmError("sif.object", .invalid, "\(image): object \(object) is the file system; without it there is no image")
                }
                try file.remove(object, modified: file.head.modified)
            }
        }
    }
}

/// Adds an object to an image.
struct ImageAppendCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "append", abstract: "Add a document to an image, outside its file system.",
        discussion: "Example:\n  sciferry image append fsl.sif sbom.spdx.json --kind sbom")

    enum Kind: String, ExpressibleByArgument, CaseIterable { case sbom, json, data }

    @Argument(help: "A .sif file.") var image: String
    @Argument(help: "The file to add.") var file: String
    @Option(help: "What it is: sbom (SPDX in JSON), json or data.") var kind = Kind.data
    @Option(help: "The object's name; the file's when not given.") var name: String?

    func run() async throws {
        try await reporting {
            let (image, path, kind, name) = (image, file, kind, name)
            let id = try await Blocking.run {
                var file = try SingularityFile(image, isWritable: true)
                let (type, extra): (SingularityImage.DataType, [UInt8]) =
                    switch kind {
                    case .sbom: (.billOfMaterials, SingularityImage.materialsExtra)
                    case .json: (.genericJSON, [])
                    case .data: (.generic, [])
                    }
                let time = file.head.modified
                let descriptor = SingularityImage.Descriptor(
                    type: type, size: 0, created: time, name: name ?? Disk.name(of: path), extra: extra)
                return try file.append(descriptor, try Disk.read(path), modified: time).id
            }
            Console.print("object \(id)")
        }
    }
}
