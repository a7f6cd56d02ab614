import FarmModel
import Synchronization

/// What recipes of one collection share: templates and macros. Each file is parsed once.
package final class RecipeCollection: Sendable {
    /// Contents by path relative to the collection's root.
    package let files: [String: [UInt8]]
    private let documents = Mutex<[String: RecipeDocument]>([:])

    package init(files: [String: [UInt8]]) { self.files = files }

    /// Where collections keep their templates.
    package static let templateDirectories = ["builder/templates", "templates"]

    /// A file of the collection, parsed; `nil` when there is none.
    func document(_ path: String) throws -> RecipeDocument? {
        if let known = documents.withLock({ $0[path] }) { return known }
        guard let bytes = files[path] else { return nil }
        let document = try RecipeDocument(bytes, path: path)
        documents.withLock { $0[path] = document }
        return document
    }

    /// A template by its name.
    func template(_ name: String) throws -> RecipeDocument? {
        for directory in RecipeCollection.templateDirectories {
            if let found = try document("\(directory)/\(name).yaml") { return found }
        }
        return nil
    }

    /// Names of all templates.
    package var templateNames: [String] {
        RecipeCollection.templateDirectories.flatMap { directory in
            files.keys.filter { $0.hasPrefix("\(directory)/") && $0.hasSuffix(".yaml") }.map {
                String($0.dropFirst(directory.count + 1).dropLast(5))
            }
        }.sorted()
    }
}
