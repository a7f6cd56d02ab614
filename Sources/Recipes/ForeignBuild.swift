import FarmModel

/// A build that is written in another language than the directives of `build.yaml`, translated to a Dockerfile.
struct ForeignBuild: Sendable {
    /// External base images; the first is the one that a release names.
    let bases: [String]
    /// Files that the Dockerfile copies and that the recipe's directory does not hold, by path in the context.
    let written: [String: (bytes: [UInt8], executable: Bool)]
    /// What the file says to users.
    let help: String
    /// The script that shall succeed in the finished image; empty for none.
    let test: String
    /// Where the file fetches something by itself, which needs the network; `nil` for nowhere.
    let fetch: String?
    private let text: @Sendable ((String) throws -> String) throws -> String

    /// The Dockerfile with each base image replaced by what `pin` gives for it.
    func dockerfile(_ pin: (String) throws -> String) throws -> String { try text(pin) }

    /// Reads the file that a recipe names; throws errors that name file and line.
    init(_ kind: Recipe.ForeignKind, file: String, line: Int, source: RecipeSource) throws {
        let name = kind == .hpccm ? Recipe.generatedDockerfile : file
        guard let bytes = source.files[name] else {
            throw FarmError(
                "recipe.missing-file", .invalid,
                kind == .hpccm
                    ? "\(source.path):\(line): \(file) was not run" : "\(source.path):\(line): \(source.location(of: file)) does not exist",
                hint: kind == .hpccm ? "sciferry runs it where hpccm is installed: pip install hpccm" : "put the file beside build.yaml")
        }
        let text = String(decoding: bytes, as: UTF8.self)
        let path = source.location(of: file) + (kind == .hpccm ? " (the Dockerfile that it makes)" : "")
        switch kind {
        case .dockerfile, .hpccm:
            let file = try PlainDockerfile(text, path: path)
            bases = file.bases
            fetch = file.remoteAdd.map { "\(path):\($0)" }
            (written, help, test) = ([:], "", "")
            self.text = { try file.text($0) }
        case .definition:
            let definition = try ApptainerDefinition(text, path: path)
            bases = definition.bases
            fetch = nil
            written = try definition.dockerfile { $0 }.written
            (help, test) = (definition.help, definition.test)
            self.text = { try definition.dockerfile($0).text }
        }
        guard !bases.isEmpty else {
            throw FarmError(
                "recipe.base", .invalid, "\(path) has no base image that could be pinned", hint: "begin with FROM IMAGE")
        }
    }
}

extension Recipe {
    /// Kinds of builds that another file describes.
    package enum ForeignKind: String, Sendable, Hashable, CaseIterable {
        case dockerfile, definition, hpccm

        /// The file's usual name.
        var usualFile: String {
            switch self {
            case .dockerfile: "Dockerfile"
            case .definition: "Singularity.def"
            case .hpccm: "recipe.py"
            }
        }
    }

    /// Where the Dockerfile stands that HPCCM made of a recipe, among the files of its source.
    package static let generatedDockerfile = ".sciferry-hpccm.Dockerfile"
}
