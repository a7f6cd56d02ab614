/// What a git repository's server says of its tags and branches
/// (gitprotocol-http(5), "smart" discovery; gitprotocol-common(5) for the lines).
package struct GitReferences: Sendable, Hashable {
    /// The commit that each full name leads to.
    package private(set) var commits: [String: String] = [:]

    /// Reads the answer to `info/refs?service=git-upload-pack`; throws `git.answer`.
    package init(_ bytes: [UInt8]) throws {
        var rest = bytes[...]
        func bad(_ what: String) -> FarmError {
            FarmError("git.answer", .invalid, "the server's list of references is none: \(what)", hint: "give a repository's address")
        }
        while !rest.isEmpty {
            guard rest.count >= 4, let length = Int(String(decoding: rest.prefix(4), as: UTF8.self), radix: 16) else {
                throw bad("a line's length is missing")
            }
            rest = rest.dropFirst(4)
            if length == 0 { continue }
            guard length >= 4, rest.count >= length - 4 else { throw bad("a line is cut off") }
            let line = String(decoding: rest.prefix(length - 4).prefix { $0 != 0 && $0 != 0x0A }, as: UTF8.self)
            rest = rest.dropFirst(length - 4)
            if line.hasPrefix("#") { continue }
            let parts = line.split(separator: " ", maxSplits: 1)
            guard parts.count == 2, parts[0].count >= 40, parts[0].allSatisfy(\.isHexDigit) else { throw bad("\"\(line.prefix(80))\"") }
            commits[String(parts[1])] = String(parts[0])
        }
    }

    /// The names of all tags, sorted.
    package var tags: [String] {
        let prefix = "refs/tags/"
        return commits.keys.filter { $0.hasPrefix(prefix) && !$0.hasSuffix("^{}") }.map { String($0.dropFirst(prefix.count)) }.sorted()
    }

    /// The commit of a tag, else of a branch.
    package func commit(of reference: String) -> String? {
        // An annotated tag has a line more for what it points to.
        commits["refs/tags/\(reference)^{}"] ?? commits["refs/tags/\(reference)"] ?? commits["refs/heads/\(reference)"]
    }
}
