import ArgumentParser
import FarmModel
import Foundation
import Recipes

/// Shows what a change of a recipe does to its Dockerfile.
struct RecipeDiffCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Show what a change does to the rendered file, and which layers are built anew.",
        discussion: """
            Files that steps copy count as changed when their bytes are.
            Example:
              git worktree add /tmp/before HEAD && sciferry recipe diff /tmp/before/recipes/dcm2niix recipes/dcm2niix
            """)
    @Argument(help: "The recipe before.") var before: String
    @Argument(help: "The recipe after.") var after: String
    @Option(name: .customLong("for"), help: "The CPU target.") var target = ""
    @Flag(help: "Run recipes that are programs (kind hpccm); they do what they like on this machine.") var runHpccm = false
    @Flag(help: "Print JSON.") var json = false

    private struct Report: Encodable {
        var steps: Int
        var kept: Int
        var gone: [String]
        var new: [String]
    }

    func run() async throws {
        try await reporting {
            let (old, new) = (try await steps(before), try await steps(after))
            let changes = old.changes(to: new)
            let kept = old.kept(by: new)
            if json {
                return try Console.json(
                    Report(
                        steps: new.steps.count, kept: kept,
                        gone: changes.compactMap { if case .gone(let step) = $0 { step } else { nil } },
                        new: changes.compactMap { if case .new(let step) = $0 { step } else { nil } }))
            }
            for change in changes {
                switch change {
                case .same(let step): Console.print("  \(step.split(separator: "\n").first ?? "")")
                case .gone(let step): for line in step.split(separator: "\n") { Console.print("- \(line)") }
                case .new(let step): for line in step.split(separator: "\n") { Console.print("+ \(line)") }
                }
            }
            Console.print("\(kept) of \(new.steps.count) layers stay, \(new.steps.count - kept) are built anew")
        }
    }

    /// The steps, with the digests of what they copy, so that another file makes another step.
    private func steps(_ path: String) async throws -> DockerfileSteps {
        let source = try await HPCCMRecipe.completed(try RecipeDirectory.read(path), if: runHpccm)
        let recipe = try Recipe.read(source)
        let draft = try RecipeDraft(recipe, source, target: try recipe.target(target))
        var text = try draft.dockerfile()
        for file in try draft.ownFiles() {
            let directory = file.path.split(separator: "/").dropLast().joined(separator: "/")
            let mark = "# \(file.path) sha256:\(Digest(hashing: file.bytes).hex.prefix(12))"
            for name in [file.path, directory] {
                text = text.replacingOccurrences(of: "COPY \(name) ", with: "COPY \(name) \\\n    \(mark) \\\n    ")
                text = text.replacingOccurrences(of: "COPY [\"\(name)\"", with: "COPY \\\n    \(mark) \\\n    [\"\(name)\"")
            }
        }
        return DockerfileSteps(text)
    }
}
