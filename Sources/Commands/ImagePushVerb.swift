import Foundation
import ArgumentParser
import FarmModel
import ImageAssembly
import Registry
import SystemIO

/// Sends an image to a registry.
struct ImagePushCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "push", abstract: "Send an image to a registry, as a Docker image or as a SIF.",
        discussion: """
            docker:// makes a Docker image of one layer that runs as the image's own configuration says; oras:// sends the very SIF, for
            apptainer pull. A registry that is busy is waited for as long as it asks. Passwords are those that docker login keeps.
            Example:
              sciferry image push fsl.sif docker://ghcr.io/lab/fsl:6.0.7
              sciferry image push fsl.sif oras://ghcr.io/lab/fsl-sif:6.0.7
            """)

    @Argument(help: "A .sif file.") var image: String
    @Argument(help: "docker://HOST/NAME:TAG or oras://HOST/NAME:TAG.") var destination: String
    @Option(help: "Where the layer is packed; beside the image when not given.") var scratch: String?
    @OptionGroup var registry: RegistryOptions

    func run() async throws {
        try await reporting {
            guard let colon = destination.range(of: "://"), ["docker", "oras"].contains(destination[..<colon.lowerBound]),
                let reference = ImageReference(String(destination[colon.upperBound...])), reference.digest == nil
            else {
                throw FarmError(
                    "image.destination", .invalid, "\"\(destination)\" is no place in a registry",
                    hint: "docker://HOST/NAME:TAG or oras://HOST/NAME:TAG")
            }
            let (path, registry) = (image, try registry.registry)
            let digest: Digest
            if destination.hasPrefix("oras") {
                let content = try await Blocking.run { try ImageAssembleCommand.digest(path) }
                digest = try await ImagePush.artifact(path, content, to: reference, registry)
            } else {
                digest = try await ImagePush.image(path, to: reference, registry, scratch: scratch ?? Disk.parent(of: Disk.absolute(path)))
            }
            Console.print("\(destination)@sha256:\(digest.hex)")
        }
    }
}
