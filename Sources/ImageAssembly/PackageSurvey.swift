package import FarmModel
import Foundation

/// Finds what was installed in an image from the files that package managers leave.
package struct PackageSurvey {
    /// Found so far.
    package private(set) var packages: [InstalledPackages.Package] = []
    /// What the image says it is.
    package private(set) var distribution: InstalledPackages.Distribution?
    /// Whether the image has a database of RPM, which only its own program reads.
    package private(set) var hasRPM = false

    /// No image has so many; they bound what a hostile one can cost.
    private static let most = 200_000

    /// A larger file is none of those that are looked for.
    private static let largest: Int64 = 64 << 20

    package init() {}

    /// Looks at every file of a tree.
    ///
    /// - Parameter read: gives a file's bytes.
    package mutating func look(at tree: EntryTree, read: (EntryTree.Content) throws -> [UInt8]) throws {
        var stack: [(path: [String], node: EntryTree.Node)] = [([], tree.root)]
        while let (path, node) = stack.popLast() {
            if node.isDirectory {
                look(atDirectory: path)
                for (name, child) in node.sorted { stack.append((path + [String(decoding: name, as: UTF8.self)], child)) }
            } else {
                try look(at: path, size: node.content.size) { wanted in
                    // Found by its name it would not be where that is no UTF-8.
                    guard let there = wanted == path ? node : tree.find(Array(wanted.joined(separator: "/").utf8)),
                        there.content.size <= PackageSurvey.largest
                    else { return nil }
                    return try read(there.content)
                }
            }
        }
    }

    /// Looks at the files of an image's file system.
    ///
    /// - Parameter paths: of files with their sizes, and of directories with -1; from the root, with a leading slash.
    mutating func look(at paths: [(path: String, size: Int64)], in reader: SquashfsReader) throws {
        for (path, size) in paths {
            let parts = path.split(separator: "/").map(String.init)
            if size < 0 { look(atDirectory: parts) }
            try look(at: parts, size: size) { wanted in
                try reader.bytes(of: wanted.joined(separator: "/"), limit: Int(PackageSurvey.largest))
            }
        }
    }

    private mutating func look(atDirectory path: [String]) {
        if path.last == "rpm", path.dropLast().last == "lib" || path.dropLast().last == "sysimage" { hasRPM = true }
    }

    /// - Parameter read: gives the bytes of a file of the image; `nil` where there is none.
    private mutating func look(at path: [String], size: Int64, read: ([String]) throws -> [UInt8]?) throws {
        guard PackageSurvey.isWanted(path), size > 0, size <= PackageSurvey.largest, let bytes = try read(path) else { return }
        let text = String(decoding: bytes, as: UTF8.self)
        guard path.last == "HEAD" else { return take(path, text) }
        let directory = Array(path.dropLast())
        try checkout(directory, head: text) { name in
            try read(directory + name.split(separator: "/").map(String.init)).map { String(decoding: $0, as: UTF8.self) }
        }
    }

    static func isWanted(_ path: [String]) -> Bool {
        if path == ["etc", "os-release"] { return true }
        guard path.count >= 3, let name = path.last else { return false }
        let directory = path[path.count - 2]
        return switch name {
        case "status": path == ["var", "lib", "dpkg", "status"]
        case "os-release": path == ["usr", "lib", "os-release"]
        case "installed": path == ["lib", "apk", "db", "installed"]
        case "METADATA": directory.hasSuffix(".dist-info")
        case "PKG-INFO": directory.hasSuffix(".egg-info")
        case _ where name.hasSuffix(".egg-info"): true
        case "DESCRIPTION": ["library", "site-library"].contains(path[path.count - 3])
        case "HEAD": directory == ".git"
        default:
            directory == "status.d" && path.starts(with: ["var", "lib", "dpkg"]) || directory == "conda-meta" && name.hasSuffix(".json")
        }
    }

    /// Takes one file; what does not have the expected form is passed over, since it is the image's, not ours.
    mutating func take(_ path: [String], _ text: String) {
        let name = path.last ?? ""
        if path.dropLast().last == "conda-meta" {
            struct Record: Decodable {
                var name: String
                var version: String
                var build: String?
            }
            guard let record = try? JSONDecoder().decode(Record.self, from: Data(text.utf8)) else { return }
            add("conda", record.name, record.build.map { "\(record.version)=\($0)" } ?? record.version)
        } else if name == "os-release" {
            distribution = InstalledPackages.Distribution(osRelease: text) ?? distribution
        } else if name == "installed" {
            for stanza in PackageSurvey.stanzas(text) { add("apk", stanza["P"], stanza["V"]) }
        } else if name == "METADATA" || name == "PKG-INFO" || name.hasSuffix(".egg-info") {
            let stanza = PackageSurvey.stanzas(text).first ?? [:]
            add("python", stanza["Name"], stanza["Version"])
        } else if name == "DESCRIPTION" {
            let stanza = PackageSurvey.stanzas(text).first ?? [:]
            add("r", stanza["Package"], stanza["Version"])
        } else {
            for stanza in PackageSurvey.stanzas(text) where stanza["Status"]?.hasSuffix(" installed") ?? true {
                // "Source: glibc (2.36-9)", the version where it is another than the package's.
                let source = stanza["Source"]?.split(separator: " ", maxSplits: 1)
                let version = source.flatMap { $0.count > 1 ? $0[1].trimmingCharacters(in: .init(charactersIn: "() ")) : nil }
                add("dpkg", stanza["Package"], stanza["Version"], source: source?.first.map(String.init), sourceVersion: version)
            }
        }
    }

    /// A git checkout: its commit, named by where it was cloned from.
    private mutating func checkout(_ directory: [String], head: String, read: (String) throws -> String?) rethrows {
        let line = head.trimmingCharacters(in: .whitespacesAndNewlines)
        var commit = line
        if line.hasPrefix("ref: ") {
            let name = String(line.dropFirst(5))
            let packed = try read("packed-refs")?.split(separator: "\n").first { $0.hasSuffix(" \(name)") }?.split(separator: " ").first
            commit = try read(name)?.trimmingCharacters(in: .whitespacesAndNewlines) ?? packed.map(String.init) ?? ""
        }
        guard commit.count >= 40, commit.allSatisfy(\.isHexDigit) else { return }
        let configuration = try read("config") ?? ""
        let origin = configuration.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }.first { $0.hasPrefix("url = ") }
        add("git", origin.map { String($0.dropFirst(6)) } ?? "/\(directory.dropLast().joined(separator: "/"))", commit)
    }

    private mutating func add(
        _ manager: String, _ name: String?, _ version: String?, source: String? = nil, sourceVersion: String? = nil
    ) {
        guard packages.count < PackageSurvey.most, let name, let version, !name.isEmpty, !version.isEmpty,
            [name, version, source ?? "", sourceVersion ?? ""].allSatisfy({ $0.utf8.count < 1024 })
        else { return }
        packages.append(.init(manager: manager, name: name, version: version, source: source, sourceVersion: sourceVersion))
    }

    /// `Key: value` lines in blocks that an empty line ends; lines that go on with a space belong to the one before and are
    /// not needed here (deb822(5)).
    private static func stanzas(_ text: String) -> [[String: String]] {
        var result: [[String: String]] = []
        var stanza: [String: String] = [:]
        for line in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
            if line.isEmpty {
                if !stanza.isEmpty { result.append(stanza) }
                stanza = [:]
            } else if let colon = line.firstIndex(of: ":"), !(line.first?.isWhitespace ?? true) {
                let key = String(line[..<colon])
                if stanza[key] == nil { stanza[key] = line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces) }
            }
        }
        return stanza.isEmpty ? result : result + [stanza]
    }
}
