package import FarmModel
import Foundation
package import SingularityImage
package import SystemIO

/// What a finished image that others made tells of itself.
package final class ForeignImage {
    package let listing: ImageListing
    package let survey: PackageSurvey
    /// Programs and libraries; read as long as this is there.
    package let programs: [ImageAssembler.ImageFile]
    /// Commands that it offers, as far as its file system tells; sorted.
    package let commands: [String]

    private let reader: SquashfsReader
    private static let mostCommands = 4096

    /// Reads every file; throws `image.squashfs`.
    ///
    /// - Parameters:
    ///   - packages: names of conda packages whose programs are its commands; where there are none, the image's variables `DEPLOY_BINS`
    ///     and `DEPLOY_PATH` say which they are.
    ///   - progress: called now and then with the share of names seen, 0 to 1; may end the work by throwing.
    package init(
        _ file: OpenFile, _ partition: SingularityImage.Partition, packages: Set<String>, progress: @escaping (Double) throws -> Void
    ) throws {
        let reader = try SquashfsReader(file, partition)
        self.reader = reader
        var paths: [(path: String, size: Int64)] = []
        var programs: [ImageAssembler.ImageFile] = []
        var executables: Set<String> = []
        var seen = 0
        let total = Double(max(1, reader.summary.inodes))
        listing = try ImageListing(reader, check: { try progress(min(1, Double(seen) / total)) }) { entry, first in
            seen += 1
            // Other names are nobody's packages, programs or commands.
            guard let path = String(validating: entry.path, as: UTF8.self) else { return }
            if entry.kind == "d" || entry.kind == "f" { paths.append((path, entry.kind == "d" ? -1 : entry.size)) }
            if entry.kind == "l" || entry.kind == "f" && entry.mode & 0o111 != 0 { executables.insert(path) }
            guard first.starts(with: [0x7F, 0x45, 0x4C, 0x46]), entry.size >= 64 else { return }
            programs.append(
                .init(path: path, size: entry.size) { count in try reader.bytes(of: path, limit: count) ?? [] })
        }
        self.programs = programs
        var survey = PackageSurvey()
        try survey.look(at: paths, in: reader)
        self.survey = survey
        let found =
            packages.isEmpty
            ? try ForeignImage.deployed(reader, paths.lazy.map(\.path), executables)
            : try ForeignImage.installed(packages, reader, paths.lazy.map(\.path), executables)
        commands = Array(Set(found.filter(CommandName.isValid)).sorted().prefix(ForeignImage.mostCommands))
    }

    /// What conda writes of a package.
    private struct Record: Decodable {
        var name: String
        var files: [String]?
    }

    /// The programs of conda packages, as conda has recorded them.
    private static func installed(
        _ packages: Set<String>, _ reader: SquashfsReader, _ paths: some Sequence<String>, _ executables: Set<String>
    ) throws -> [String] {
        var result: [String] = []
        for path in paths where path.hasSuffix(".json") {
            let parts = path.split(separator: "/")
            guard parts.count >= 2, parts[parts.count - 2] == "conda-meta", let bytes = try reader.bytes(of: path, limit: 64 << 20),
                let record = try? JSONDecoder().decode(Record.self, from: Data(bytes)), packages.contains(record.name)
            else { continue }
            let prefix = "/" + parts.dropLast(2).joined(separator: "/")
            for file in record.files ?? [] where file.hasPrefix("bin/") && executables.contains("\(prefix)/\(file)") {
                result.append(String(file.dropFirst(4)))
            }
        }
        return result
    }

    /// What Neurodesk's images say in `DEPLOY_BINS`, and the programs in the directories of `DEPLOY_PATH`.
    private static func deployed(
        _ reader: SquashfsReader, _ paths: some Sequence<String>, _ executables: Set<String>
    ) throws -> [String] {
        let scripts = ["/environment"] + paths.filter { $0.hasPrefix("/.singularity.d/env/") && $0.hasSuffix(".sh") }.sorted()
        var result: [String] = []
        var directories: Set<String> = []
        for script in scripts {
            let text = String(decoding: try reader.bytes(of: script, limit: 1 << 20) ?? [], as: UTF8.self)
            result += values(of: "DEPLOY_BINS", in: text)
            directories.formUnion(values(of: "DEPLOY_PATH", in: text).map { $0.hasSuffix("/") ? String($0.dropLast()) : $0 })
        }
        for path in executables {
            guard let slash = path.lastIndex(of: "/"), directories.contains(String(path[..<slash])) else { continue }
            result.append(String(path[path.index(after: slash)...]))
        }
        return result
    }

    /// The parts of a list in an assignment of a shell script, in the forms that images have: `export NAME="a:b"`, as a default,
    /// `"${NAME:-"a:b"}"`, or behind a condition, as ours.
    package static func values(of name: String, in script: String) -> [String] {
        var result: [String] = []
        for line in script.split(whereSeparator: \.isNewline) {
            guard let start = line.range(of: "\(name)="),
                start.lowerBound == line.startIndex || " \t;".contains(line[line.index(before: start.lowerBound)])
            else { continue }
            var value = line[start.upperBound...].replacing("\"", with: "").replacing("'", with: "")
            for end in ["; fi", ";"] where value.hasSuffix(end) { value = value.dropLast(end.count) }
            for form in ["${\(name):-", "${\(name)-"] where value.hasPrefix(form) && value.hasSuffix("}") {
                value = value.dropFirst(form.count).dropLast()
            }
            result = value.split(separator: ":").map(String.init)
        }
        return result
    }
}
