package import FarmModel
package import TemplateEngine

/// A container recipe (`build.yaml` of Neurodesk's collection), read and checked but not yet rendered.
package struct Recipe: Sendable {
    package var name: String
    package var version: String
    package var architectures: [String]
    package var categories: [String]
    package var description: String
    package var licences: [String]
    package var baseImage: String
    package var addsTimeZone: Bool
    package var variables: [(name: String, value: TemplateValue)]
    package var files: [RecipeFile]
    package var directives: [Directive]
    package var deployBins: [String]
    package var deployPath: [String]
    package var suite: TestSuite
    package var limits: Limits

    /// The farm's own settings of a recipe, in its `x-sciferry` block.
    package struct Limits: Sendable, Hashable {
        package var diskGiB: Int = 4
    }

    /// A file that the recipe brings, by URL, from beside it, or written out.
    package struct RecipeFile: Sendable, Hashable {
        package enum Source: Sendable, Hashable {
            case url(String)
            case beside(String)
            case contents(String)
        }
        package var name: String
        package var source: Source
        package var executable: Bool
        package var line: Int
    }

    /// One build step with the line it begins at.
    package struct Directive: Sendable, Hashable {
        package enum Kind: Sendable, Hashable {
            case run([String])
            case install([String])
            case environment([Variable])
            case workdir(String)
            case user(String)
            case entrypoint([String])
            case copy(from: [String], to: String)
            case file(RecipeFile)
            case deploy(bins: [String], path: [String])
        }
        package var kind: Kind
        package var condition: String?
        package var line: Int
    }

    /// A variable of the image's environment.
    package struct Variable: Sendable, Hashable {
        package var name: String
        package var value: String
    }
}

/// Where a recipe's files come from: a directory or an upload.
package struct RecipeSource: Sendable {
    /// For messages: the path of `build.yaml` as the maintainer knows it.
    package var path: String
    /// Contents by path relative to the recipe's directory.
    package var files: [String: [UInt8]]

    package init(path: String, files: [String: [UInt8]]) {
        self.path = path
        self.files = files
    }

    /// The path of a file beside `build.yaml`, for messages.
    func location(of file: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return file }
        return String(path[...slash]) + file
    }
}
