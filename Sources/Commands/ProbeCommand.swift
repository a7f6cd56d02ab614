import ArgumentParser
import FarmModel
import Foundation
import HTTPTransport
import ObjectStorage

struct ProbeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "probe", abstract: "Try out what a bucket's service can do.",
        discussion: """
            Some small objects are written below sciferry-trial/ and removed again. A coordinator does the same with its regions when it starts:
            sciferry regions status --stores.
            Example:
              sciferry probe "s3:https://store.example/bucket?region=west"
            """)

    @Argument(help: "The bucket.") var bucket: String
    @Flag(help: "Print JSON.") var json = false

    func run() async throws {
        try await reporting {
            var trial = StoreTrial(try BucketLocation(bucket).open(client: HTTPClient()))
            let abilities = try await trial.run()
            if json { try Console.json(abilities) } else { AbilitiesDisplay.show(abilities) }
            try abilities.checkFitness(bucket)
        }
    }
}

enum AbilitiesDisplay {
    static func show(_ abilities: StoreAbilities) {
        if abilities.isReadOnly { return Console.print("it can only be read") }
        for ability in StoreAbilities.Ability.allCases {
            guard let isSo = abilities.found[ability] else { continue }
            let (what, without) = ability.meaning
            Console.print("\(isSo ? "yes" : "no ")  \(what)\(isSo ? "" : "; \(without ?? "nothing relies on it")")")
        }
    }
}
