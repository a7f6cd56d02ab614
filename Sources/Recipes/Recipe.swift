package import FarmModel
import TemplateEngine

/// A container recipe (`build.yaml` of Neurodesk's collection), read and checked but not yet interpreted.
///
/// Values that may hold expressions, or whose type matters to the templates, stay nodes.
package struct Recipe: Sendable {
    package var name: String
    package var version: String
    /// `x86_64`, `aarch64`; the default one first.
    package var architectures: [String]
    package var categories: RecipeNode?
    package var description: String
    package var readme: String?
    package var readmeURL: String?
    package var structuredReadme: RecipeNode?
    package var licences: [String]
    package var build: Build
    package var variables: [(name: String, value: RecipeNode)]
    package var options: [Option]
    package var variants: [Variant]
    package var files: [FileDeclaration]
    package var deploy: RecipeNode?
    package var programs: [GraphicalProgram]
    package var runtimeArguments: [String]
    package var settings: RecipeSettings

    /// The `build` block.
    package struct Build: Sendable {
        package var baseImage: RecipeNode
        package var packageManager: RecipeNode?
        /// Whether the collection's own beginning is wanted: locale, helpers, entry point.
        package var addsDefaults: Bool
        /// `nil`: as `addsDefaults` says.
        package var addsTimeZone: Bool?
        package var fixesLocale: Bool
        package var directives: [Directive]
        /// Another file that describes the build, instead of base image and directives.
        package var foreign: (kind: ForeignKind, file: String, line: Int)?
    }

    /// A switch of the recipe.
    package struct Option: Sendable, Hashable {
        package var name: String
        package var isOn: Bool
        /// Added to the version when the option is on.
        package var versionSuffix: String
    }

    /// A named alternative of the recipe.
    package struct Variant: Sendable, Hashable {
        package var name: String
        /// Empty for the default one.
        package var architectures: [String]
        package var options: [String: Bool]
    }

    /// A file that the recipe brings, by URL, from beside it, or written out; the texts may hold expressions.
    package struct FileDeclaration: Sendable, Hashable {
        package enum Source: Sendable, Hashable {
            case url(RecipeNode)
            case beside(RecipeNode)
            case contents(RecipeNode)
        }
        package var name: String
        package var source: Source
        package var executable: Bool
        package var condition: String?
        package var line: Int
    }

    /// One build step.
    package struct Directive: Sendable {
        package indirect enum Kind: Sendable {
            case run(RecipeNode)
            case install(RecipeNode)
            case environment(RecipeNode)
            case workdir(RecipeNode)
            case user(RecipeNode)
            case entrypoint(RecipeNode)
            case copy(RecipeNode)
            case variables(RecipeNode)
            case group([Directive], with: [(name: String, value: RecipeNode)])
            case include(RecipeNode)
            case file(FileDeclaration)
            case deploy(RecipeNode)
            case template(RecipeNode)
            case boutique(RecipeNode)
            /// Of an older format; tests stand in `fulltest.yaml`.
            case test
        }
        package var kind: Kind
        package var condition: String?
        package var node: RecipeNode
    }
}

/// Where a recipe's files come from: a directory or an upload.
package struct RecipeSource: Sendable {
    /// For messages: the path of `build.yaml` as the maintainer knows it.
    package var path: String
    /// Contents by path relative to the recipe's directory.
    package var files: [String: [UInt8]]
    /// The collection that the recipe belongs to.
    package var collection: RecipeCollection
    /// Files that somebody may execute.
    package var executables: Set<String>

    package init(
        path: String, files: [String: [UInt8]], executables: Set<String> = [],
        collection: RecipeCollection = RecipeCollection(files: [:])
    ) {
        self.path = path
        self.files = files
        self.executables = executables
        self.collection = collection
    }

    /// The path of a file beside `build.yaml`, for messages.
    package func location(of file: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return file }
        return String(path[...slash]) + file
    }

    /// Without a lock, which a build writes and which must not change what the next one sees.
    package var buildFiles: [String: [UInt8]] {
        files.filter { $0.key != RecipeLock.fileName && $0.key != Recipe.generatedDockerfile }
    }

    /// Files at or below a path, as a copy of that path would bring them.
    func below(_ path: String) -> [(path: String, bytes: [UInt8])] {
        var path = path.hasPrefix("./") ? String(path.dropFirst(2)) : path
        while path.hasSuffix("/") { path.removeLast() }
        if let bytes = files[path] { return [(path, bytes)] }
        let prefix = path == "." || path.isEmpty ? "" : "\(path)/"
        return buildFiles.filter { $0.key.hasPrefix(prefix) }.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 }
    }
}
