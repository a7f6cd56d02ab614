package import FarmModel
package import Microarchitecture

/// A recipe rendered for one CPU target with its inputs locked.
package struct RenderedRecipe: Sendable {
    package var plan: Plan
    /// The bytes of the context's files that the recipe itself brings, by digest; downloads are not among them.
    package var blobs: [Digest: [UInt8]]
    /// Labels of the workers that may have it.
    package var workers: LabelWish
    /// Whether the recipe itself says how much free space it needs.
    package var declaresDisk: Bool
    /// What the image is after its base and after each instruction, as numbers that are equal for builds with equal beginnings, and
    /// so with equal layers.
    package var layers: [UInt64]
}

/// A recipe interpreted for one CPU target; its inputs may not be locked yet.
package struct RecipeDraft: Sendable {
    package let recipe: Recipe
    package let definition: ImageDefinition
    let source: RecipeSource
    let target: Microarchitecture
    let variant: RecipeVariant
    private let settings: RecipeInterpreter.Settings
    let foreign: ForeignBuild?

    /// Interprets a recipe for a target. Throws errors that name file and line; `recipe.target` when the recipe does not
    /// offer the target's architecture.
    ///
    /// - Parameter parallelJobs: what the recipe sees as `parallel_jobs`; fixed, so that a plan does not depend on the
    ///   machine that renders it.
    package init(
        _ recipe: Recipe, _ source: RecipeSource, target: Microarchitecture, variant: String = "", parallelJobs: Int = 4,
        options: [String: Bool] = [:], locals: Set<String> = []
    ) throws {
        let chosen: RecipeVariant
        do { chosen = try recipe.concreteVariant(architecture: target.family, variant: variant) } catch let error as FarmError {
            throw FarmError(error.code, error.category, "\(source.path): \(error.message)", hint: error.hint)
        }
        var settings = RecipeInterpreter.Settings(variant: chosen)
        settings.parallelJobs = parallelJobs
        settings.options = options
        settings.locals = locals
        settings.target = target
        try self.init(recipe, source, target, chosen, settings)
    }

    private init(
        _ recipe: Recipe, _ source: RecipeSource, _ target: Microarchitecture, _ variant: RecipeVariant,
        _ settings: RecipeInterpreter.Settings
    ) throws {
        self.recipe = recipe
        self.source = source
        self.target = target
        self.variant = variant
        self.settings = settings
        if let foreign = recipe.build.foreign, !recipe.files.isEmpty || !recipe.settings.arguments.isEmpty {
            throw FarmError(
                "recipe.kind", .invalid,
                "\(source.path):\(foreign.line): \(recipe.files.isEmpty ? "x-sciferry.arguments" : "files") does nothing in a build of kind \(foreign.kind.rawValue)",
                hint: "write it into \(foreign.file)")
        }
        foreign = try recipe.build.foreign.map { try ForeignBuild($0.kind, file: $0.file, line: $0.line, source: source) }
        if let place = foreign?.fetch, recipe.settings.network != .full {
            throw FarmError(
                "recipe.network", .invalid,
                "\(place): ADD fetches something, and x-sciferry.network is \(recipe.settings.network.rawValue)",
                hint: "put the file beside the Dockerfile")
        }
        var definition = try RecipeInterpreter.definition(recipe, source, settings)
        if let foreign {
            definition.baseImage = foreign.bases[0]
            if definition.readme.isEmpty { definition.readme = foreign.help }
        }
        try definition.check(recipe.settings) { FarmError($0, .invalid, "\(source.path):\($1): \($2)") }
        self.definition = definition
    }

    /// The same with the commit that the lock holds for the upstream source, which expressions may name.
    private func pinned(_ lock: [String: LockedInput]) throws -> RecipeDraft {
        guard let upstream = definition.upstream else { return self }
        let key = LockedInput.key(kind: .git, name: upstream, architecture: target.family)
        guard let commit = lock[key]?.commit else { throw FarmError("recipe.unlocked", .fault, "\(upstream) is not resolved") }
        var settings = settings
        settings.commit = commit
        return try RecipeDraft(recipe, source, target, variant, settings)
    }

    /// Inputs whose digests must be known before the recipe can be rendered.
    package var inputs: [(kind: LockedInput.Kind, name: String)] {
        var result: [(LockedInput.Kind, String)] = (foreign?.bases ?? [definition.baseImage]).map { (.base, $0) }
        for file in definition.files where usedFiles.contains(file.name) {
            if case .url(let url) = file.source, !result.contains(where: { $0.0 == .download && $0.1 == url }) {
                result.append((.download, url))
            }
        }
        if let upstream = definition.upstream { result.append((.git, upstream)) }
        return result
    }

    /// Declared files that something really uses; the others are not fetched.
    private var usedFiles: Set<String> {
        Set(definition.mounts.values.flatMap(\.values)).union(definition.copies.compactMap(\.file))
    }

    /// CPU targets that the tests shall run on and that run this container's target.
    private var verifyOn: [String] {
        Set(recipe.settings.verifyOn.filter { Microarchitecture.named($0)?.dominates(target) ?? false }).sorted()
    }

    /// The release's name: the recipe's, with its variant. The architecture is no part of it.
    package var releaseName: String { variant.variant.isEmpty ? recipe.name : "\(recipe.name)_\(variant.variant)" }

    /// Renders the plan: a pure function of the recipe, its files, the target, the lock and the test suite.
    ///
    /// - Parameter refreshed: a day, `2026-11-22`, or nothing. Builds of different days share no steps, so that each installs what package
    ///   archives have on its day; builds of the same day share them as usual.
    /// - Parameter image: how the image is packed where the recipe does not say it.
    package func render(
        lock: [String: LockedInput], suite: TestSuite, refreshed: String = "", image: ImageFormat = ImageFormat()
    ) throws -> RenderedRecipe {
        try pinned(lock).rendered(lock: lock, suite: suite, refreshed: refreshed, image)
    }

    private func rendered(
        lock: [String: LockedInput], suite: TestSuite, refreshed: String, _ image: ImageFormat
    ) throws -> RenderedRecipe {
        let bases = try inputs.filter { $0.kind == .base }.map { input in
            guard let locked = lock[LockedInput.key(kind: .base, name: input.name, architecture: target.family)] else {
                throw FarmError("recipe.unlocked", .fault, "the base image \(input.name) is not resolved")
            }
            return BaseImage(
                name: input.name, digest: locked.digest, origin: locked.origin, size: locked.size, bootstrap: locked.bootstrap)
        }
        // Some recipes name a command by its path; it is offered by its name.
        let commands = definition.deployBins.map { $0.hasPrefix("/") ? $0.split(separator: "/").last.map(String.init) ?? $0 : $0 }
        for command in commands where !CommandName.isValid(command) {
            throw FarmError(
                "recipe.command", .invalid, "\(source.path): \"\(command)\" is no command name",
                hint: "name the program alone; directories go under \"path\"")
        }
        var context = BuildContext(draft: self, lock: lock)
        try context.stage()
        var dockerfile = try dockerfile { name in
            guard let base = bases.first(where: { $0.name == name }) else {
                throw FarmError("recipe.unlocked", .fault, "\(name) is not among the base images that were resolved")
            }
            return base.engineName(target.family)
        }
        if !refreshed.isEmpty {
            try RecipeDraft.checkDay(refreshed)
            dockerfile = try RecipeDraft.refreshing(dockerfile, on: refreshed)
        }
        var suite = suite
        if let script = foreign?.test, !script.isEmpty { suite.tests.insert(FunctionalTest(name: "%test", command: script), at: 0) }
        let plan = Plan(
            name: releaseName, version: definition.version, architecture: target.family, target: target.name, base: bases[0],
            moreBases: Array(bases.dropFirst()), dockerfile: dockerfile, context: context.files.values.sorted { $0.path < $1.path },
            commands: commands,
            commandPaths: definition.deployPath, programs: recipe.programs,
            runtimeArguments: recipe.runtimeArguments, description: definition.description, categories: definition.categories,
            licences: recipe.licences, suite: suite, image: recipe.settings.image.format(over: image),
            diskBytes: recipe.settings.diskGiB.map { Int64($0) << 30 } ?? Plan.usualDiskBytes, limits: recipe.settings.limits,
            network: recipe.settings.network,
            instructions: recipe.settings.instructions, verifyOn: verifyOn, citation: definition.citation,
            overridable: recipe.settings.overridable)
        let network = LabelWish(needs: recipe.settings.network == .proxy ? [LabelWish.networkProxy] : [])
        return RenderedRecipe(
            plan: plan, blobs: context.blobs, workers: recipe.settings.workers.union(network), declaresDisk: recipe.settings.diskGiB != nil,
            layers: try BuildLayers.identities(of: plan))
    }

    /// Throws `recipe.day` for a text that is no day: nothing else may become a line of a Dockerfile.
    package static func checkDay(_ text: String) throws {
        guard text.wholeMatch(of: /[0-9]{4}-[0-9]{2}-[0-9]{2}/) != nil else {
            throw FarmError("recipe.day", .invalid, "\"\(text.prefix(40))\" is no day", hint: "for example 2026-11-22")
        }
    }

    /// The day as a variable that every step sees and the image does not keep. A label would not do: BuildKit's steps do not depend on it.
    private static func refreshing(_ dockerfile: String, on day: String) throws -> String {
        var lines = dockerfile.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        let instructions = try DockerfileInstruction.split(dockerfile, path: "Dockerfile")
        for (index, instruction) in instructions.enumerated().reversed() where instruction.word == "FROM" {
            let next = index + 1 < instructions.count ? instructions[index + 1].line - 1 : lines.count - 1
            lines.insert("ARG SCIFERRY_REFRESHED=\(day)", at: next)
        }
        return lines.joined(separator: "\n")
    }

    /// The Dockerfile. Without `pin`, for looking at it where no lock is at hand, base images stand under their names.
    ///
    /// - Parameter standalone: for a builder without the farm's context: paths of copies stay as they are, and nothing is
    ///   copied that the recipe does not name.
    package func dockerfile(standalone: Bool = false, pin: (String) throws -> String = { $0 }) throws -> String {
        guard let foreign else { return try NativeDockerfile(self, base: try pin(definition.baseImage), standalone: standalone).render() }
        let about = NativeDockerfile.deployment(definition) + NativeDockerfile.labels(recipe.settings)
        return try foreign.dockerfile(pin) + (about.isEmpty ? "" : about.joined(separator: "\n") + "\n")
    }

    /// The same steps as an Apptainer definition file, with `base` behind From.
    package func definitionFile(base: String, standalone: Bool = false) throws -> String {
        if recipe.build.foreign != nil {
            throw FarmError(
                "render.kind", .usage, "\(recipe.name) is written in a file of its own, which is not translated to a definition file")
        }
        return try DefinitionFile(self, base: base, standalone: standalone).render()
    }

    /// The files that a build sees and the recipe itself brings, by path in the context; downloads are not among them.
    package func ownFiles() throws -> [(path: String, bytes: [UInt8], executable: Bool)] {
        var context = BuildContext(draft: self, lock: nil)
        try context.stage()
        return context.files.values.sorted { $0.path < $1.path }.compactMap { file in
            context.blobs[file.digest].map { (file.path, $0, file.executable) }
        }
    }

    /// What stands at the image's root for whoever looks into it.
    var descriptions: [(name: String, bytes: [UInt8])] {
        [("README.md", Array("\(definition.readme)\n".utf8)), ("build.yaml", source.files["build.yaml"] ?? [])]
    }

    /// The Dockerfile that the collection's own builder would write.
    package var referenceDockerfile: String { ReferenceDockerfile.render(definition, build: recipe.build) }

}

/// Directories of a build's context.
enum BuildContextNames {
    /// Declared files, by the step that uses them.
    static let files = "files"
    /// What COPY takes.
    static let copy = "copy"
    /// What describes the image.
    static let about = "about"
}

/// The files that a build sees.
private struct BuildContext {
    let draft: RecipeDraft
    /// `nil` leaves downloads out.
    let lock: [String: LockedInput]?
    private(set) var files: [String: ContextFile] = [:]
    private(set) var blobs: [Digest: [UInt8]] = [:]

    init(draft: RecipeDraft, lock: [String: LockedInput]?) {
        self.draft = draft
        self.lock = lock
    }

    mutating func stage() throws {
        if let foreign = draft.foreign {
            for (path, bytes) in draft.source.buildFiles where !["build.yaml", "fulltest.yaml"].contains(path) {
                add(path, bytes, executable: draft.source.executables.contains(path))
            }
            for (name, file) in foreign.written { add("\(BuildContextNames.about)/\(name)", file.bytes, executable: file.executable) }
            return
        }
        for (name, bytes) in draft.descriptions { add("\(BuildContextNames.about)/\(name)", bytes, executable: false) }
        // Also one that nothing uses yet: whoever declares it means it.
        for file in draft.definition.files {
            if case .beside(let name) = file.source, draft.source.files[name] == nil { throw missing(name, line: file.line) }
        }
        let declared = Dictionary(draft.definition.files.map { ($0.name, $0) }) { first, _ in first }
        for (mount, names) in draft.definition.mounts {
            for (guest, name) in names {
                if let file = declared[name] { try stage(file, as: "\(BuildContextNames.files)/\(mount)/\(guest)") }
            }
        }
        for copy in draft.definition.copies {
            if let name = copy.file, let file = declared[name] {
                try stage(file, as: "\(BuildContextNames.copy)/\(copy.path)")
            } else if let text = draft.definition.written[copy.path] {
                add("\(BuildContextNames.copy)/\(copy.path)", Array(text.utf8), executable: false)
            } else {
                let found = draft.source.below(copy.path)
                guard !found.isEmpty else { throw missing(copy.path, line: copy.line) }
                for file in found {
                    add("\(BuildContextNames.copy)/\(file.path)", file.bytes, executable: draft.source.executables.contains(file.path))
                }
            }
        }
    }

    private func missing(_ path: String, line: Int) -> FarmError {
        FarmError(
            "recipe.missing-file", .invalid, "\(draft.source.path):\(line): \(draft.source.location(of: path)) does not exist",
            hint: "put the file beside build.yaml")
    }

    private mutating func stage(_ file: ImageDefinition.StagedFile, as path: String) throws {
        switch file.source {
        case .beside(let name): add(path, draft.source.files[name] ?? [], executable: file.executable)
        case .contents(let text): add(path, Array(text.utf8), executable: file.executable)
        case .url(let url):
            guard let lock else { return }
            let key = LockedInput.key(kind: .download, name: url, architecture: draft.target.family)
            guard let locked = lock[key] else {
                throw FarmError("recipe.unlocked", .fault, "\(draft.source.path):\(file.line): \(url) is not resolved")
            }
            files[path] = ContextFile(path: path, digest: locked.digest, size: locked.size, executable: file.executable)
        }
    }

    private mutating func add(_ path: String, _ bytes: [UInt8], executable: Bool) {
        let digest = Digest(hashing: bytes)
        blobs[digest] = bytes
        files[path] = ContextFile(path: path, digest: digest, size: Int64(bytes.count), executable: executable)
    }
}
