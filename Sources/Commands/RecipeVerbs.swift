import ArgumentParser
import FarmModel
import Foundation
import Glibc
import Microarchitecture
import Recipes
import SystemIO

/// Looks at recipes without a farm.
struct RecipeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recipe", abstract: "Check, render and lock recipes.",
        subcommands: [
            RecipeCheckCommand.self, RenderCommand.self, RenderAllCommand.self, RecipeLockCommand.self, RecipeNewCommand.self,
            RecipeDiffCommand.self, RecipeGenerateCommand.self, RecipeGenerateFromJSONCommand.self, RecipeGraphCommand.self,
            RecipeSchemaCommand.self, RecipeUpstreamCommand.self,
        ])

    /// What a rendering may be asked for.
    struct RenderOptions: ParsableArguments {
        @Option(help: "The collection's root, for templates and macros (default: found from the recipe's place).")
        var collection: String?
        @Flag(help: "Write what the collection's own builder would write.") var compat = false
        @Flag(help: "Write an Apptainer definition file.") var definition = false
        @Option(help: "What the recipe sees as parallel_jobs.") var jobs = 4
        @Option(name: .shortAndLong, help: "A directory for Dockerfile, README.md, release.json and the context.") var output: String?
    }

    struct RenderCommand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "render", abstract: "Print the Dockerfile, or with --json the whole plan.",
            discussion: """
                Without a farm the inputs' digests are not known; the base stands under its name.
                Examples:
                  sciferry recipe render recipes/dcm2niix --for x86_64_v3
                  sciferry recipe render recipes/ants --collection neurocontainers --arch aarch64 --compat -o out
                """)
        @Argument(help: "The recipe's directory, or its name in the collection.") var recipe: String
        @OptionGroup var options: RenderOptions
        @Option(help: "x86_64 or aarch64.") var arch: String?
        @Option(help: "One of the recipe's variants.") var variant = ""
        @Option(name: [.customLong("target"), .customLong("for")], help: "The CPU target.") var target = ""
        @Option(help: "Set an option of the recipe: NAME=true or NAME=false.") var option: [String] = []
        @Option(help: "A local context that the recipe may ask for: its key.") var local: [String] = []
        @Flag(help: "Print the plan as JSON.") var json = false

        func run() async throws {
            try await reporting {
                let path = try recipePath()
                let source = try await HPCCMRecipe.completed(
                    try RecipeDirectory.read(path, collection: try options.collection.map(RecipeDirectory.collection)))
                let recipe = try Recipe.read(source)
                let microarchitecture = try recipe.target(target.isEmpty ? arch ?? "" : target)
                let draft = try RecipeDraft(
                    recipe, source, target: microarchitecture, variant: variant, parallelJobs: options.jobs,
                    options: try RecipeCommand.switches(option), locals: Set(local.map { String($0.prefix { $0 != "=" }) }))
                if json {
                    let lock = RecipeCommand.sampleLock(draft, microarchitecture.family)
                    return try Console.json(try draft.render(lock: lock, suite: try RecipeSuite.read(source)).plan)
                }
                let text = try RecipeCommand.text(draft, options)
                guard let output = options.output else { return FileHandle.standardOutput.write(Data(text.utf8)) }
                try RecipeCommand.write(draft, text, options, to: output)
            }
        }

        private func recipePath() throws -> String {
            guard let root = options.collection, !Disk.exists("\(recipe)/build.yaml"), !Disk.exists(recipe) else { return recipe }
            return "\(root)/recipes/\(recipe)"
        }
    }

    struct RenderAllCommand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "render-all", abstract: "Render every recipe of a collection, with all architectures and variants.",
            discussion: """
                Writes RECIPE/Dockerfile, and RECIPE/variants/NAME/Dockerfile for what is not the recipe's default.
                Example:
                  sciferry recipe render-all --collection neurocontainers --compat -o out
                """)
        @OptionGroup var options: RenderOptions

        func run() async throws {
            try await reporting {
                guard let root = options.collection, let output = options.output else {
                    throw FarmError("render.options", .usage, "render-all needs --collection and --output")
                }
                let collection = try RecipeDirectory.collection(root)
                let names = try RecipeDirectory.recipes(root)
                let options = options
                let results = await withTaskGroup(of: [(String, FarmError?)].self) { tasks in
                    for name in names { tasks.addTask { await renderAll(name, root, collection, options, output) } }
                    return await tasks.reduce(into: []) { $0 += $1 }
                }
                for (name, error) in results.sorted(by: { $0.0 < $1.0 }) { if let error { Console.error("\(name): \(error)") } }
                let failed = results.filter { $0.1 != nil }.count
                Console.print("\(results.count - failed) of \(results.count) rendered")
                if failed > 0 { throw ExitCode(FarmError.Category.invalid.exitStatus) }
            }
        }
    }

    /// All containers of one recipe; the name of each and why it failed.
    private static func renderAll(
        _ name: String, _ root: String, _ collection: RecipeCollection, _ options: RenderOptions, _ output: String
    ) async -> [(String, FarmError?)] {
        func attempt(_ what: String, _ body: () throws -> Void) -> (String, FarmError?) {
            do {
                try body()
                return (what, nil)
            } catch {
                return (what, error as? FarmError ?? FarmError("render.fault", .fault, "rendering failed", cause: error))
            }
        }
        var known: (Recipe, RecipeSource)?
        do {
            let source = try await HPCCMRecipe.completed(try RecipeDirectory.read("\(root)/recipes/\(name)", collection: collection))
            known = (try Recipe.read(source), source)
        } catch { return [(name, error as? FarmError ?? FarmError("render.fault", .fault, "reading failed", cause: error))] }
        guard let (recipe, source) = known else { return [] }
        return recipe.concreteVariants.enumerated().map { index, variant in
            attempt(variant.name) {
                let draft = try RecipeDraft(
                    recipe, source, target: try recipe.target(variant.architecture), variant: variant.variant, parallelJobs: options.jobs)
                let place = index == 0 ? "\(output)/\(name)" : "\(output)/\(name)/variants/\(variant.name)"
                try write(draft, try text(draft, options), options, to: place)
            }
        }
    }

    private static func text(_ draft: RecipeDraft, _ options: RenderOptions) throws -> String {
        if options.compat {
            guard draft.recipe.build.foreign == nil else {
                throw FarmError("render.kind", .usage, "\(draft.recipe.name) is of a kind that the collection's builder does not know")
            }
            return draft.referenceDockerfile
        }
        let base = draft.definition.baseImage
        return options.definition ? try draft.definitionFile(base: base) : try draft.dockerfile()
    }

    /// What a rendering leaves beside the file for the builder.
    private struct ReleaseData: Encodable {
        struct Input: Encodable {
            var kind: String
            var name: String
        }
        var name: String
        var version: String
        var architecture: String
        var commands: [String]
        var commandPaths: [String]
        var programs: [GraphicalProgram]
        var runtimeArguments: [String]
        var categories: [String]
        var inputs: [Input]
    }

    private static func write(_ draft: RecipeDraft, _ text: String, _ options: RenderOptions, to directory: String) throws {
        try Disk.makeDirectory(directory)
        let definition = draft.definition
        let release = ReleaseData(
            name: draft.releaseName, version: definition.version, architecture: definition.architecture, commands: definition.deployBins,
            commandPaths: definition.deployPath, programs: draft.recipe.programs, runtimeArguments: draft.recipe.runtimeArguments,
            categories: definition.categories, inputs: draft.inputs.map { .init(kind: $0.kind.rawValue, name: $0.name) })
        try put(Array(text.utf8), "\(directory)/\(options.definition ? "apptainer.def" : "Dockerfile")")
        try put(Array("\(definition.readme)\n".utf8), "\(directory)/README.md")
        try put(Array((try CanonicalJSON.pretty(release) + "\n").utf8), "\(directory)/release.json")
        // The reference keeps its files elsewhere.
        if options.compat { return }
        for file in try draft.ownFiles() {
            let path = "\(directory)/context/\(file.path)"
            try Disk.makeDirectory(Disk.parent(of: path))
            try put(file.bytes, path)
            if file.executable { chmod(path, 0o755) }
        }
    }

    /// Without the care that a file of a farm's home needs: what is lost is rendered again.
    private static func put(_ bytes: [UInt8], _ path: String) throws {
        let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
        defer { file.close() }
        try file.write(bytes)
    }

    private static func switches(_ words: [String]) throws -> [String: Bool] {
        var result: [String: Bool] = [:]
        for word in words {
            let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2, let isOn = ["true": true, "1": true, "yes": true, "false": false, "0": false, "no": false][parts[1]]
            else {
                throw FarmError("render.option", .usage, "\"\(word)\" is no option", hint: "write NAME=true or NAME=false")
            }
            result[parts[0]] = isOn
        }
        return result
    }

    /// Stands in for a lock where only the shape of the rendering matters.
    static func sampleLock(_ draft: RecipeDraft, _ architecture: String) -> [String: LockedInput] {
        let inputs = draft.inputs.map { input in
            LockedInput(
                kind: input.kind, name: input.name, architecture: architecture, digest: Digest(hashing: input.name), size: 0,
                origin: .registry, bootstrap: nil, commit: input.kind == .git ? String(repeating: "0", count: 40) : nil,
                lockedAt: Timestamp(milliseconds: 0))
        }
        return Dictionary(inputs.map { ($0.key, $0) }) { first, _ in first }
    }
}
