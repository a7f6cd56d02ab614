package import FarmModel
package import Microarchitecture
import TemplateEngine

/// A recipe rendered for one CPU target with its inputs locked.
package struct RenderedRecipe: Sendable {
    package var plan: Plan
    /// The bytes of the context's files that the recipe itself brings, by digest; downloads are not among them.
    package var blobs: [Digest: [UInt8]]
}

extension Recipe {
    /// Inputs whose digests must be known before the recipe can be rendered.
    package func inputs(architecture: String) -> [(kind: LockedInput.Kind, name: String)] {
        var result: [(LockedInput.Kind, String)] = [(.base, baseImage)]
        for file in allFiles {
            if case .url(let url) = file.source { result.append((.download, url)) }
        }
        return result
    }

    private var allFiles: [RecipeFile] {
        files
            + directives.compactMap { directive in
                if case .file(let file) = directive.kind { return file }
                return nil
            }
    }

    /// Renders the plan: a pure function of the recipe, its files, the target and the lock.
    ///
    /// - Throws: template errors with file and line; `recipe.target` when the recipe does not offer the target's
    ///   architecture.
    package func render(
        _ source: RecipeSource, target: Microarchitecture, lock: [String: LockedInput]
    ) throws -> RenderedRecipe {
        guard architectures.contains(target.family) else {
            throw FarmError(
                "recipe.target", .invalid,
                "\(source.path): the recipe is for \(architectures.joined(separator: ", ")), not for \(target.name)")
        }
        var renderer = RecipeRenderer(recipe: self, source: source, target: target, lock: lock)
        return try renderer.render()
    }
}

/// One rendering in progress.
private struct RecipeRenderer {
    let recipe: Recipe
    let source: RecipeSource
    let target: Microarchitecture
    let lock: [String: LockedInput]
    private var scope = Template.Scope()
    private var lines: [String] = []
    private var context: [String: ContextFile] = [:]
    private var blobs: [Digest: [UInt8]] = [:]
    private var knownFiles: [String: Recipe.RecipeFile] = [:]
    private var bins: [String] = []
    private var paths: [String] = []

    /// Where a recipe's files lie while it builds; removed by the last step.
    private static let staging = "/.sciferry-files"

    init(recipe: Recipe, source: RecipeSource, target: Microarchitecture, lock: [String: LockedInput]) {
        self.recipe = recipe
        self.source = source
        self.target = target
        self.lock = lock
        bins = recipe.deployBins
        paths = recipe.deployPath
    }

    mutating func render() throws -> RenderedRecipe {
        let baseKey = LockedInput.key(kind: .base, name: recipe.baseImage, architecture: target.family)
        guard let locked = lock[baseKey] else {
            throw FarmError("recipe.unlocked", .fault, "the base image \(recipe.baseImage) is not resolved")
        }
        for bin in recipe.deployBins where !CommandName.isValid(bin) {
            throw FarmError("recipe.command", .invalid, "\(source.path): \"\(bin)\" is no command name")
        }
        let base = BaseImage(
            name: recipe.baseImage, digest: locked.digest, origin: locked.origin, size: locked.size,
            bootstrap: locked.bootstrap)
        try prepareScope()
        preamble(base)
        for file in recipe.files { knownFiles[file.name] = file }
        for directive in recipe.directives { try render(directive) }
        trailer()
        let suite = recipe.suite
        let plan = Plan(
            name: recipe.name, version: recipe.version, architecture: target.family, target: target.name, base: base,
            dockerfile: lines.joined(separator: "\n") + "\n", context: context.values.sorted { $0.path < $1.path },
            commands: bins, commandPaths: paths, description: recipe.description, categories: recipe.categories,
            licences: recipe.licences, suite: suite, diskBytes: Int64(recipe.limits.diskGiB) << 30)
        return RenderedRecipe(plan: plan, blobs: blobs)
    }

    private mutating func prepareScope() throws {
        let name = recipe.name
        let version = recipe.version
        scope.values["context"] = .mapping([
            "name": .text(name), "version": .text(version), "original_version": .text(version), "arch": .text(target.family),
        ])
        scope.values["arch"] = .text(target.family)
        // Fixed, so that a plan does not depend on the machine that renders it.
        scope.values["parallel_jobs"] = .integer(4)
        scope.values["cpu_target"] = .text(target.name)
        scope.values["cpu_march"] = .text(target.march)
        for (name, value) in recipe.variables { scope.values[name] = try rendered(value, line: 1) }
        // The subset of values that templates reach as context.NAME too.
        if case .mapping(var entries)? = scope.values["context"] {
            for (name, _) in recipe.variables { entries[name] = scope.values[name] }
            scope.values["context"] = .mapping(entries)
        }
    }

    private func rendered(_ value: TemplateValue, line: Int) throws -> TemplateValue {
        switch value {
        case .text(let text): try at(line) { try Template(text).value(scope) }
        case .list(let items): .list(try items.map { try rendered($0, line: line) })
        case .mapping(let entries): .mapping(try entries.mapValues { try rendered($0, line: line) })
        default: value
        }
    }

    /// Adds the recipe's file and the directive's line to an error of the template room.
    private func at<Value>(_ line: Int, _ body: () throws -> Value) throws -> Value {
        do { return try body() } catch let error as FarmError where error.code.rawValue.hasPrefix("template.") {
            throw FarmError(error.code, .invalid, "\(source.path):\(line): \(error.message)", hint: error.hint)
        }
    }

    private mutating func preamble(_ base: BaseImage) {
        lines.append("FROM \(base.reference)")
        lines.append("USER root")
        lines.append("ENV DEBIAN_FRONTEND=noninteractive")
        lines.append("ARG SCIFERRY_CPU_TARGET=\(target.name)")
        lines.append("ARG SCIFERRY_MARCH=\(target.march)")
        if recipe.addsTimeZone {
            lines.append("ENV TZ=UTC")
            lines.append(RecipeRenderer.install(["tzdata"]))
        }
    }

    private mutating func trailer() {
        if !bins.isEmpty { lines.append("ENV DEPLOY_BINS=\(RecipeRenderer.quoted(bins.joined(separator: ":")))") }
        if !paths.isEmpty { lines.append("ENV DEPLOY_PATH=\(RecipeRenderer.quoted(paths.joined(separator: ":")))") }
        if !context.isEmpty { lines.append("RUN rm -rf \(RecipeRenderer.staging)") }
    }

    private mutating func render(_ directive: Recipe.Directive) throws {
        if let condition = directive.condition {
            let text = condition.contains("{{") ? condition : "{{ \(condition) }}"
            guard try at(directive.line, { try Template(text).render(scope) }) == "True" else { return }
        }
        switch directive.kind {
        case .run(let commands):
            let texts = try commands.map { try self.text($0, directive.line) }
            lines.append("RUN " + texts.map(RecipeRenderer.command).joined(separator: " \\\n && "))
        case .install(let packages):
            let names = try packages.flatMap {
                try self.text($0, directive.line).split(whereSeparator: \.isWhitespace).map(String.init)
            }
            lines.append(RecipeRenderer.install(names))
        case .environment(let variables):
            for variable in variables {
                guard variable.name.utf8.allSatisfy({ $0.isAlphanumeric || $0 == UInt8(ascii: "_") }), !variable.name.isEmpty else {
                    throw FarmError(
                        "recipe.variable", .invalid, "\(source.path):\(directive.line): \"\(variable.name)\" is no variable's name")
                }
                let value = try line(variable.value, directive.line)
                lines.append("ENV \(variable.name)=\(RecipeRenderer.quoted(value, expanding: true))")
            }
        case .workdir(let path): lines.append("WORKDIR \(try line(path, directive.line))")
        case .user(let name): lines.append("USER \(try line(name, directive.line))")
        case .entrypoint(let words):
            let quoted = try words.map { RecipeRenderer.quoted(try line($0, directive.line), expanding: true) }
            lines.append("ENTRYPOINT [\(quoted.joined(separator: ", "))]")
        case .copy(let from, let to):
            for path in from { try addContext("copy/\(path)", source.files[path] ?? [], executable: false) }
            let sources = from.map { "copy/\($0)" }.joined(separator: " ")
            lines.append("COPY \(sources) \(try line(to, directive.line))")
        case .file(let file): knownFiles[file.name] = file
        case .deploy(let newBins, let newPaths):
            bins += try newBins.map { try line($0, directive.line) }
            paths += try newPaths.map { try line($0, directive.line) }
        }
    }

    /// Renders a text for one line of the Dockerfile: another line would be an instruction that nobody sees in the recipe.
    private mutating func line(_ template: String, _ number: Int) throws -> String {
        let result = try text(template, number)
        guard !result.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) else {
            throw FarmError("recipe.control", .invalid, "\(source.path):\(number): a line end or control character stands in \"\(result)\"")
        }
        return result
    }

    /// Renders a text; a `get_file` in it first copies the file into the build.
    private mutating func text(_ template: String, _ line: Int) throws -> String {
        let wanted = FileRequests()
        var scope = scope
        let known = Set(knownFiles.keys)
        scope.functions["get_file"] = { arguments in
            guard arguments.count == 1, case .text(let name) = arguments[0] else {
                throw FarmError("template.type", .invalid, "get_file wants one name")
            }
            guard known.contains(name) else {
                throw FarmError("template.undefined", .invalid, "there is no file \"\(name)\"", hint: "declare it under files")
            }
            wanted.add(name)
            return .text("\(RecipeRenderer.staging)/\(name)")
        }
        let result = try at(line) { try Template(template).render(scope) }
        for name in wanted.names {
            guard let file = knownFiles[name] else { continue }
            try stage(file)
        }
        return result
    }

    private mutating func stage(_ file: Recipe.RecipeFile) throws {
        let path = "files/\(file.name)"
        guard context[path] == nil else { return }
        switch file.source {
        case .beside(let name): try addContext(path, source.files[name] ?? [], executable: file.executable)
        case .contents(let text):
            let line = file.line
            let contents = try at(line) { try Template(text).render(scope) } + (text.hasSuffix("\n") ? "\n" : "")
            try addContext(path, Array(contents.utf8), executable: file.executable)
        case .url(let url):
            let key = LockedInput.key(kind: .download, name: url, architecture: target.family)
            guard let locked = lock[key] else {
                throw FarmError("recipe.unlocked", .fault, "\(source.path):\(file.line): \(url) is not resolved")
            }
            context[path] = ContextFile(path: path, digest: locked.digest, size: locked.size, executable: file.executable)
        }
        lines.append("COPY \(path) \(RecipeRenderer.staging)/\(file.name)")
    }

    private mutating func addContext(_ path: String, _ bytes: [UInt8], executable: Bool) throws {
        let digest = Digest(hashing: bytes)
        blobs[digest] = bytes
        context[path] = ContextFile(path: path, digest: digest, size: Int64(bytes.count), executable: executable)
    }

    /// One Dockerfile command from a block of lines: each line must succeed, as in a script under `set -e`; comment
    /// lines go, since they would end the command.
    private static func command(_ text: String) -> String {
        let lines = text.split(separator: "\n").filter { line in
            let start = line.drop(while: \.isWhitespace)
            return !start.isEmpty && !start.hasPrefix("#")
        }
        return lines.enumerated().map { index, line in
            index == lines.count - 1 ? String(line) : line + joint(line, lines[index + 1])
        }.joined(separator: "\n")
    }

    /// What goes between two lines of a command, before the line end.
    private static func joint(_ line: Substring, _ next: Substring) -> String {
        if line.hasSuffix("\\") { return "" }
        let last = line.split(whereSeparator: \.isWhitespace).last.map(String.init) ?? ""
        let first = next.split(whereSeparator: \.isWhitespace).first.map(String.init) ?? ""
        // Whole words only: "sudo" opens nothing, "find" closes nothing.
        if ["then", "do", "else", "{", "(", "in"].contains(last) { return " \\" }
        if [";", "&&", "||", "|"].contains(where: { last.hasSuffix($0) }) { return " \\" }
        if ["&&", "||", "|"].contains(where: { first.hasPrefix($0) }) { return " \\" }
        let closer = first.prefix { !";)|&".contains($0) }
        let closers = ["fi", "done", "else", "elif", "esac", "}"]
        return closers.contains(String(closer)) || first.hasPrefix(")") || last == ";;" ? "; \\" : " && \\"
    }

    private static func install(_ packages: [String]) -> String {
        let names = Set(packages).sorted().joined(separator: " \\\n      ")
        return """
            RUN apt-get update -qq \\
             && apt-get install -y -q --no-install-recommends \\
                  \(names) \\
             && rm -rf /var/lib/apt/lists/*
            """
    }

    /// A double-quoted Dockerfile word; `expanding` leaves `$` to refer to variables set before.
    private static func quoted(_ text: String, expanding: Bool = false) -> String {
        var result = "\""
        for character in text {
            if character == "\"" || character == "\\" || (character == "$" && !expanding) { result.append("\\") }
            result.append(character)
        }
        return result + "\""
    }
}

/// Collects the names that one rendering asks for, in order.
private final class FileRequests: @unchecked Sendable {
    // Rendering is synchronous on one thread; the closure that holds this does not outlive it.
    private(set) var names: [String] = []
    func add(_ name: String) { if !names.contains(name) { names.append(name) } }
}
