import ArgumentParser
import CoordinatorCore
import FarmModel
import Recipes
import SystemIO

/// Writes `sciferry.lock`.
struct RecipeLockCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lock", abstract: "Have the farm resolve every input of a recipe, and write sciferry.lock beside it.",
        discussion: """
            Later builds get these very bytes or fail. The first build of a recipe writes the lock too.
            Examples:
              sciferry recipe lock recipes/dcm2niix
              sciferry recipe lock recipes/dcm2niix --update     take what upstream has now
            """)
    @OptionGroup var farm: FarmOptions
    @Argument(help: "The recipe's directory.") var recipe: String
    @Option(name: .customLong("for"), help: "The CPU target.") var target = ""
    @Option(help: "One of the recipe's variants.") var variant = ""
    @Flag(help: "Resolve everything anew.") var update = false
    @Flag(help: "Where no worker has the CPU, let one that emulates it bootstrap base images.") var emulated = false

    func run() async throws {
        try await reporting {
            let source = try await HPCCMRecipe.completed(try RecipeDirectory.read(recipe))
            try await RecipeLocking.write(
                source, target: target, variant: variant, client: try farm.client(), updates: update, emulated: emulated,
                quiet: farm.json)
            if farm.json, let lock = try RecipeLock.read(try RecipeDirectory.read(recipe)) { try Console.json(lock) }
        }
    }
}

/// How a lock comes from the farm to the recipe's directory.
enum RecipeLocking {
    /// - Parameter updates: resolves everything anew; else what the farm knows is taken.
    static func write(
        _ source: RecipeSource, target: String, variant: String, client: FarmClient, updates: Bool, emulated: Bool = false,
        quiet: Bool
    ) async throws {
        var source = source
        // What the lock says now is no argument for what it shall say, when it is made anew.
        if updates { source.files[RecipeLock.fileName] = nil }
        var answer: LockAnswer = try await client.post(
            "/api/v1/locks",
            Submission(source, target: target, variant: variant, updatesLock: updates, allowsEmulation: emulated))
        while !answer.waitsFor.isEmpty {
            for job in answer.waitsFor {
                let view = try await JobFollower(client: client, quiet: quiet).follow(job)
                guard view.job.state == .succeeded else {
                    throw FarmError(
                        .init(rawValue: view.job.failure?.code ?? "lock.failed"), .failed,
                        view.job.failure?.message ?? "an input could not be resolved", hint: "sciferry job \(job) shows more")
                }
            }
            answer = try await client.post("/api/v1/locks", Submission(source, target: target, variant: variant, updatesLock: false))
        }
        let path = source.location(of: RecipeLock.fileName)
        if answer.lock.inputs.isEmpty, answer.lock.shared == nil { return }
        // Other architectures and variants may be locked already; their entries stay.
        let before = (try? Disk.read(path, limit: 16 << 20)).flatMap { try? CanonicalJSON.decode(RecipeLock.self, from: $0, source: path) }
        let kept = (before?.inputs ?? []).filter { answer.lock.entry($0.key) == nil }
        let shared = (before?.shared ?? [:]).merging(answer.lock.shared ?? [:]) { _, new in new }
        let lock = RecipeLock(answer.lock.inputs + kept, shared: shared)
        if let before, before.holdsTheSame(as: lock) { return }
        do {
            try Disk.replace(path, with: try lock.bytes())
            if !quiet { Console.print("locked \(answer.lock.inputs.count) inputs in \(path)") }
        } catch {
            Console.error("\(path) cannot be written, so the recipe stays unlocked: \(error)")
        }
    }
}
