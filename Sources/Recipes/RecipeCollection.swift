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
        guard let bytes = bytes(path) else { return nil }
        let document = try RecipeDocument(bytes, path: path)
        documents.withLock { $0[path] = document }
        return document
    }

    /// A template by its name: the collection's own, else one that comes with Sciferry.
    func template(_ name: String) throws -> (document: RecipeDocument, isBundled: Bool)? {
        for directory in RecipeCollection.templateDirectories {
            if let found = try document("\(directory)/\(name).yaml") { return (found, false) }
        }
        return try document("\(RecipeCollection.bundled)\(name).yaml").map { ($0, true) }
    }

    /// Where messages and locks say that the templates of Sciferry lie.
    private static let bundled = "sciferry:templates/"

    private func bytes(_ path: String) -> [UInt8]? {
        if let own = files[path] { return own }
        guard path.hasPrefix(RecipeCollection.bundled), path.hasSuffix(".yaml") else { return nil }
        return BundledTemplates.bytes(String(path.dropFirst(RecipeCollection.bundled.count).dropLast(5)))
    }

    /// The digest of a shared file's bytes, by its document's path.
    func digest(of path: String) -> Digest? { bytes(path).map { Digest(hashing: $0) } }

    /// Names of all templates.
    package var templateNames: [String] {
        let own = RecipeCollection.templateDirectories.flatMap { directory in
            files.keys.filter { $0.hasPrefix("\(directory)/") && $0.hasSuffix(".yaml") }.map {
                String($0.dropFirst(directory.count + 1).dropLast(5))
            }
        }
        return Set(own + BundledTemplates.names).sorted()
    }
}
