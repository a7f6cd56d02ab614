/// Every entry of an image's file system, sorted by path: what two builds of one plan are compared by. Times are left out, for no build
/// step keeps them.
///
/// A line each, seven fields parted by spaces and the path: kind (`f` file, `d` directory, `l` symbolic link, `c` and `b` devices, `p`
/// pipe), mode in octal, owner, group, size (of a device `MAJOR:MINOR`), content (SHA-256 of a file, target of a link), extended attributes
/// (SHA-256 of what they are; `-` without), path. Bytes that are no printable ASCII, spaces and backslashes are written `\xNN`.
package struct ImageListing: Sendable, Hashable {
    /// What stands before each path.
    package private(set) var facts: [String: String] = [:]

    package init() {}

    /// Reads a document; throws `listing.invalid`.
    package init(_ bytes: [UInt8]) throws {
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            guard line.count < 16_384, line.allSatisfy({ (0x20...0x7E).contains($0) }), facts.count < 2_000_000,
                let space = line.lastIndex(of: UInt8(ascii: " ")), line[..<space].count(where: { $0 == UInt8(ascii: " ") }) == 6
            else {
                throw FarmError("listing.invalid", .corrupt, "a line of the list of an image's files has another form than it should have")
            }
            facts[String(decoding: line[line.index(after: space)...], as: UTF8.self)] = String(decoding: line[..<space], as: UTF8.self)
        }
    }

    package mutating func add(
        _ path: [UInt8], kind: Character, mode: UInt16, owner: UInt32, group: UInt32, size: String = "-", content: String = "-",
        attributes: String = "-"
    ) {
        facts[ImageListing.escaped(path)] = "\(kind) \(String(mode, radix: 8)) \(owner) \(group) \(size) \(content) \(attributes)"
    }

    /// The document.
    package var bytes: [UInt8] {
        facts.keys.sorted().reduce(into: []) { $0 += Array("\(facts[$1] ?? "") \($1)\n".utf8) }
    }

    /// A text of printable ASCII without spaces.
    package static func escaped(_ bytes: [UInt8]) -> String {
        var text = ""
        for byte in bytes {
            if byte > 0x20, byte < 0x7F, byte != UInt8(ascii: "\\") {
                text.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
            }
        }
        return text
    }
}

/// How two builds of one plan differ.
package struct ImageComparison: Codable, Sendable, Hashable {
    /// What an untrusted worker built, and what was built again: digests of the images but for their signatures.
    package var candidate: Digest
    package var rebuilt: Digest
    /// Differences by path, each in words, at most `mostShown`.
    package var differences: [String]
    package var count: Int

    private static let mostShown = 500

    package init(candidate: Digest, rebuilt: Digest, _ one: ImageListing, _ other: ImageListing) {
        self.candidate = candidate
        self.rebuilt = rebuilt
        let found = one.differences(from: other, names: ("the candidate", "the rebuilt image"))
        differences = found.prefix(ImageComparison.mostShown).map { "\($0.path.prefix(400)): \($0.words)" }
        count = found.count
    }

    /// Bit for bit the same image.
    package var isSameImage: Bool { candidate == rebuilt }
    package var hasSameFiles: Bool { count == 0 }

    /// For people.
    package var title: String {
        if isSameImage { return "bit for bit the candidate's image" }
        return hasSameFiles ? "the same files as the candidate's" : "\(count) files differ from the candidate's"
    }
}

extension ImageListing {
    /// What is another in another image, by path.
    ///
    /// - Parameter names: what this image and the other one are called.
    package func differences(from other: ImageListing, names: (own: String, other: String)) -> [(path: String, words: String)] {
        Set(facts.keys).union(other.facts.keys).sorted().filter { facts[$0] != other.facts[$0] }.map { path in
            (path, ImageListing.words(facts[path], other.facts[path], names))
        }
    }

    private static func words(_ one: String?, _ other: String?, _ names: (own: String, other: String)) -> String {
        guard let one else { return "only in \(names.other)" }
        guard let other else { return "only in \(names.own)" }
        let (before, after) = (one.split(separator: " "), other.split(separator: " "))
        let parts = ["kind", "mode", "owner", "group", "size", "content", "extended attributes"]
        guard before.count == parts.count, after.count == parts.count else { return "differs" }
        return zip(parts, zip(before, after)).compactMap { name, values in
            if values.0 == values.1 { return nil }
            return name == "content" ? "content" : "\(name) \(values.0) became \(values.1)"
        }.joined(separator: ", ")
    }
}

/// What is known of a candidate behind a release.
package struct CandidateOrigin: Codable, Sendable, Hashable {
    /// Who asked for the candidate, the worker of the untrusted pool that built it, and who promoted it.
    package var requestedBy: String
    package var builtOn: String
    package var promotedBy: String
    /// How the release relates to it: `bytes` (it is the candidate's image, tested again on a trusted worker), `image` (built again, bit
    /// for bit the same), `files` (built again, the same files), `differs` (built again, and a releaser has accepted the differences),
    /// `uncompared` (built again, and a releaser has accepted that it could not be compared).
    package var equality: String
    package var differenceCount: Int

    package init(requestedBy: String, builtOn: String, promotedBy: String, equality: String, differenceCount: Int) {
        self.requestedBy = requestedBy
        self.builtOn = builtOn
        self.promotedBy = promotedBy
        self.equality = equality
        self.differenceCount = differenceCount
    }

    /// For people.
    package var title: String {
        let words =
            switch equality {
            case "bytes": "its very image, tested again"
            case "image": "built again, bit for bit the same"
            case "files": "built again, the same files"
            case "uncompared": "built again, not compared"
            default: "built again, \(differenceCount) files differ"
            }
        return "promoted by \(promotedBy) from a candidate of \(requestedBy), built on \(builtOn): \(words)"
    }
}
