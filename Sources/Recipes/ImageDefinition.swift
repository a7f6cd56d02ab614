package import FarmModel

/// What a recipe asks for, interpreted for one container but not yet written in any builder's language.
package struct ImageDefinition: Sendable {
    /// One step.
    package struct Instruction: Sendable {
        /// What a step does.
        package enum Kind: Sendable {
            case from(String)
            case environment([Variable])
            case install([String])
            case run(Run)
            /// `sources` are paths in the build's context.
            case copy(sources: [String], to: String)
            case workdir(String)
            case user(String)
            /// A program and its first arguments.
            case entrypoint([String])
        }
        package var kind: Kind
        /// The line of `build.yaml` that it comes from; 0 for what no line asks for.
        package var line: Int
    }

    /// A variable with its value, which may refer to earlier ones with `$`.
    package struct Variable: Sendable, Hashable {
        package var name: String
        package var value: String
    }

    /// Commands and the declared files that they use.
    package struct Run: Sendable {
        package var commands: [String]
        /// The directory name of its files; empty when it uses none.
        package var mount: String = ""
        /// Local contexts of the caller that it uses.
        package var locals: [String] = []
        /// From a template: one text that is written as it comes.
        package var isVerbatim = false
    }

    /// A declared file as it is staged.
    package struct StagedFile: Sendable {
        /// Where its bytes come from.
        package enum Source: Sendable, Hashable {
            case url(String)
            case beside(String)
            case contents(String)
        }
        package var name: String
        package var source: Source
        package var executable: Bool
        /// The name that the build sees.
        package var guest: String
        package var line: Int
    }

    package var name: String
    package var baseName: String
    package var version: String
    package var architecture: String
    package var baseImage: String
    package var packageManager: String
    package var instructions: [Instruction] = []
    /// By name, in order of declaration.
    package var files: [StagedFile] = []
    /// Which files each mount shows: guest name to declared name.
    package var mounts: [String: [String: String]] = [:]
    /// What COPY takes: path in the context to declared name, or `nil` for a path beside the recipe.
    package var copies: [(path: String, file: String?, line: Int)] = []
    /// Files that the interpretation itself wrote, by path in the context.
    package var written: [String: String] = [:]
    /// Templates and includes that it was made with, by path: digests of their bytes.
    package var shared: [String: Digest] = [:]
    /// The upstream source: a git repository's address, a space, a tag or branch.
    package var upstream: String?
    package var deployBins: [String] = []
    package var deployPath: [String] = []
    package var readme = ""
    /// What whoever uses it is asked to cite.
    package var citation = ""
    package var description = ""
    package var categories: [String] = []
}
