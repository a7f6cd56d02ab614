import ArgumentParser
import FarmModel
import Foundation
import Microarchitecture
import Recipes
import SystemIO

/// What a neurodocker user's request becomes.
private enum GeneratedForm: String, CaseIterable {
    case recipe, docker, singularity

    /// Text for a request: a `build.yaml`, a Dockerfile, a definition file.
    func text(_ request: NeurodockerRequest, name: String? = nil, version: String? = nil) throws -> String {
        let text = try request.recipe(name: name, version: version)
        let source = RecipeSource(path: "build.yaml", files: ["build.yaml": Array(text.utf8)])
        let recipe = try Recipe.read(source)
        let draft = try RecipeDraft(recipe, source, target: try recipe.target(""))
        let base = draft.definition.baseImage
        // A recipe that cannot be rendered is none.
        let dockerfile = try draft.dockerfile(standalone: true)
        return switch self {
        case .recipe: text
        case .docker: dockerfile
        case .singularity: try draft.definitionFile(base: base, standalone: true)
        }
    }
}

/// Takes neurodocker's command line.
struct RecipeGenerateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "generate", abstract: "Make a recipe, Dockerfile or definition file from neurodocker's command line.",
        usage: "sciferry recipe generate [recipe|docker|singularity] --pkg-manager apt --base-image IMAGE [OPTION …]",
        discussion: """
            Options, in their order: --install PACKAGE… [opts=OPTIONS], --run COMMAND, --run-bash COMMAND, --env KEY=VALUE…,
            --arg KEY=VALUE, --copy SOURCE… DESTINATION, --add ARCHIVE DESTINATION, --user NAME, --workdir DIRECTORY,
            --entrypoint WORD…, --label KEY=VALUE…, --yes, and --TEMPLATE KEY=VALUE… for each template. --json prints the
            request for genfromjson. With "recipe" (the usual), also -o DIRECTORY, --name NAME and --recipe-version VERSION.
            Examples:
              sciferry recipe generate docker -p apt -b debian:bookworm --dcm2niix version=v1.0.20241211 --user nonroot
              sciferry recipe generate recipe -p apt -b debian:bookworm --jq version=1.6 method=source -o recipes/jq
            Templates: \(BundledTemplates.names.joined(separator: " "))
            """)
    @Argument(parsing: .captureForPassthrough, help: .hidden) var words: [String] = []

    func run() async throws {
        try await reporting {
            var rest = words
            if rest.isEmpty || rest.contains(where: { ["--help", "-h"].contains($0) }) { throw CleanExit.helpRequest(self) }
            let form = rest.first.flatMap(GeneratedForm.init)
            if form != nil { rest.removeFirst() }
            func take(_ names: String...) throws -> String? {
                guard let index = rest.firstIndex(where: names.contains) else { return nil }
                guard index + 1 < rest.count else { throw FarmError("generate.arguments", .usage, "\(rest[index]) wants a value") }
                defer { rest.removeSubrange(index...index + 1) }
                return rest[index + 1]
            }
            let isRecipe = form ?? .recipe == .recipe
            let output = try take("-o", "--output")
            let name = isRecipe ? try take("--name") : nil
            let version = isRecipe ? try take("--recipe-version") : nil
            let wantsJSON = rest.contains("--json")
            rest.removeAll { $0 == "--json" }
            let request = try NeurodockerRequest(arguments: rest)
            let text = try (form ?? .recipe).text(request, name: name, version: version)
            if wantsJSON { return Console.write(try request.json()) }
            guard let output else { return Console.write(text) }
            let path = isRecipe ? "\(output)/build.yaml" : output
            guard !Disk.exists(path) else {
                throw FarmError("recipe.exists", .conflict, "\(path) is there already", hint: "choose another place")
            }
            try Disk.makeDirectory(Disk.parent(of: Disk.absolute(path)))
            try Disk.replace(path, with: Array(text.utf8))
            Console.print("\(path) is there\(isRecipe ? "; next: sciferry recipe check \(output)" : "")")
        }
    }
}

/// Takes the JSON files that neurodocker writes.
struct RecipeGenerateFromJSONCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "genfromjson", abstract: "Make a recipe, Dockerfile or definition file from neurodocker's JSON.",
        discussion: "Example:\n  sciferry recipe genfromjson docker reproenv.json > Dockerfile")
    @Argument(help: "recipe, docker or singularity.") var form: String
    @Argument(help: "The JSON file.") var file: String

    func run() async throws {
        try await reporting {
            guard let form = GeneratedForm(rawValue: form) else {
                throw FarmError(
                    "generate.arguments", .usage, "\"\(form)\" is no form",
                    hint: GeneratedForm.allCases.map(\.rawValue).joined(separator: ", "))
            }
            Console.write(try form.text(try NeurodockerRequest(json: try Disk.read(file, limit: 16 << 20), path: file)))
        }
    }
}
