import ArgumentParser
import FarmModel
import Recipes

/// Prints the schema for editors.
struct RecipeSchemaCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "schema", abstract: "Print the JSON Schema of build.yaml, for editors.",
        discussion: """
            Example, for editors with the YAML language server:
              sciferry recipe schema > recipe.schema.json
              # yaml-language-server: $schema=recipe.schema.json      as build.yaml's first line
            """)
    func run() async throws { try await reporting { Console.write(try RecipeSchema.document()) } }
}

/// Shows what recipes are made from.
struct RecipeGraphCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "graph", abstract: "Show what recipes are made from: base images, templates, macros, downloads, sources.",
        discussion: """
            Examples:
              sciferry recipe graph recipes/dcm2niix
              sciferry recipe graph --collection neurocontainers --uses fsl.yaml      what a change of that template touches
              sciferry recipe graph --collection neurocontainers --dot | dot -Tsvg > graph.svg
            """)
    @Argument(help: "Recipe directories.") var recipes: [String] = []
    @Option(help: "The collection's root; without recipes, all of its recipes.") var collection: String?
    @Option(help: "Only recipes that use something whose name holds this.") var uses: String?
    @Flag(help: "Run recipes that are programs (kind hpccm); they do what they like on this machine.") var runHpccm = false
    @Flag(help: "Print Graphviz.") var dot = false
    @Flag(help: "Print JSON.") var json = false

    private struct Node: Encodable, Hashable {
        var kind: String
        var name: String
    }

    private struct Entry: Encodable {
        var recipe: String
        var version: String
        var uses: [Node]
    }

    func run() async throws {
        try await reporting {
            let shared = try collection.map(RecipeDirectory.collection)
            let paths =
                try recipes.isEmpty ? collection.map { root in try RecipeDirectory.recipes(root).map { "\(root)/recipes/\($0)" } } : recipes
            guard let paths, !paths.isEmpty else {
                throw FarmError("graph.recipes", .usage, "no recipe is named", hint: "name recipes, or --collection DIRECTORY")
            }
            var entries: [Entry] = []
            for path in paths { entries.append(try await entry(path, shared)) }
            if let uses { entries = entries.filter { $0.uses.contains { $0.name.contains(uses) } } }
            if json { return try Console.json(entries) }
            if dot { return Console.write(graphviz(entries)) }
            for entry in entries {
                Console.print("\(entry.recipe) \(entry.version)")
                for node in entry.uses where uses.map(node.name.contains) ?? true { Console.print("  \(node.kind)  \(node.name)") }
            }
        }
    }

    private func entry(_ path: String, _ shared: RecipeCollection?) async throws -> Entry {
        let source = try await HPCCMRecipe.completed(try RecipeDirectory.read(path, collection: shared), if: runHpccm)
        let recipe = try Recipe.read(source)
        var nodes: Set<Node> = []
        for variant in recipe.concreteVariants {
            let draft = try RecipeDraft(recipe, source, target: try recipe.target(variant.architecture), variant: variant.variant)
            for input in draft.inputs { nodes.insert(Node(kind: input.kind.rawValue, name: input.name)) }
            for file in draft.definition.shared.keys {
                nodes.insert(Node(kind: file.contains("templates/") ? "template" : "include", name: file))
            }
            for file in draft.definition.files { if case .beside(let name) = file.source { nodes.insert(Node(kind: "file", name: name)) } }
        }
        return Entry(recipe: recipe.name, version: recipe.version, uses: nodes.sorted { ($0.kind, $0.name) < ($1.kind, $1.name) })
    }

    private func graphviz(_ entries: [Entry]) -> String {
        func quoted(_ text: String) -> String { "\"\(text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\""))\"" }
        var lines = ["digraph recipes {", "  rankdir=LR;", "  node [shape=box];"]
        for entry in entries {
            lines.append("  \(quoted(entry.recipe)) [style=bold];")
            lines += entry.uses.map { "  \(quoted(entry.recipe)) -> \(quoted($0.name)) [label=\($0.kind)];" }
        }
        return (lines + ["}"]).joined(separator: "\n") + "\n"
    }
}
