import ArgumentParser
import FarmModel
import Foundation
import HTTPTransport
import Recipes
import SystemIO
import Upstream

/// Asks where new versions appear.
struct RecipeUpstreamCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upstream", abstract: "Ask the services that recipes name for newer versions.",
        discussion: """
            A recipe names its service under x-sciferry.updates, or under auto_update as the collection does.
            Examples:
              sciferry recipe upstream recipes/niimath
              sciferry recipe upstream recipes/* --patch | git apply
            SCIFERRY_GITHUB_TOKEN raises GitHub's limit. With --write the recipes are changed in place; a build makes the rest sure.
            """)
    @Argument(help: "Recipes' directories.") var recipes: [String]
    @Flag(help: "Print the proposed edits as patches, and nothing else.") var patch = false
    @Flag(help: "Make the edits.") var write = false
    @Flag(help: "Print JSON.") var json = false

    private struct Row: Encodable {
        var recipe: String
        var current: String
        var newest: String?
        var source: String?
        var problem: String?
        var linesToLookAt: [Int]?
    }

    func run() async throws {
        try await reporting {
            let token = ProcessInfo.processInfo.environment["SCIFERRY_GITHUB_TOKEN"]
            let watch = UpstreamWatch(client: HTTPClient(), githubToken: token)
            var rows: [Row] = []
            for path in recipes { rows.append(try await row(path, watch)) }
            if json { return try Console.json(rows) }
            if !patch {
                Console.table(
                    ["RECIPE", "VERSION", "NEWEST", "SOURCE", "NOTE"],
                    rows.map { row in
                        let lines = row.linesToLookAt.map {
                            "look at the old version in line \($0.map(String.init).joined(separator: ", "))"
                        }
                        return [row.recipe, row.current, row.newest ?? "-", row.source ?? "-", row.problem ?? lines ?? ""]
                    })
            }
        }
    }

    private func row(_ path: String, _ watch: UpstreamWatch) async throws -> Row {
        let source = try RecipeDirectory.read(path)
        let recipe = try Recipe.read(source)
        var row = Row(recipe: recipe.name, current: recipe.version)
        guard let upstream = recipe.settings.updates else {
            row.problem = "names no service; x-sciferry.updates does"
            return row
        }
        row.source = "\(upstream.kind.rawValue) \(upstream.name)"
        do {
            let found = try await watch.newest(upstream, current: recipe.version)
            row.newest = found.newest
            guard found.isNew else { return row }
            let text = String(decoding: source.files["build.yaml"] ?? [], as: UTF8.self)
            let proposal = try VersionProposal(text, path: source.path, from: recipe.version, to: found.newest)
            if !proposal.leftLines.isEmpty { row.linesToLookAt = proposal.leftLines }
            if patch { Console.print(String(proposal.patch.dropLast())) }
            if write { try Disk.replace(source.path, with: Array(proposal.text.utf8)) }
        } catch let error as FarmError {
            row.problem = error.message
            if patch { FileHandle.standardError.write(Data("\(recipe.name): \(error)\n".utf8)) }
        }
        return row
    }
}
