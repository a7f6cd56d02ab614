import ArgumentParser
import FarmModel
import Foundation
import Glibc
import ISAProof
import Microarchitecture
import Recipes
import SystemIO

/// Looks into programs and libraries for instructions beyond a CPU target.
struct ProveCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prove", abstract: "Prove that programs and libraries keep to a CPU target.",
        discussion: """
            Reads the machine code of every ELF file below the paths. What goes beyond the target is told apart: behind a check
            of the CPU, unproven, or run whatever the CPU is. Exit code 1 when something of the last kind was found.

            Examples:
              sciferry prove /usr/local/bin/tool --for x86_64_v2
              sciferry prove /opt/software --for zen3 --json
            """)
    @Argument(help: "Files and directories.") var paths: [String]
    @Option(name: .customLong("for"), help: "The CPU target.") var target: String
    @Flag(help: "Print JSON.") var json = false
    @Flag(help: "List files that keep to the target too.") var all = false

    func run() async throws {
        try await reporting {
            let target = try TargetName.read(target)

            let report = try await Blocking.run { [paths] in
                var files: [ImageProof.File] = []
                for path in paths { try ProveCommand.collect(path, &files) }
                return try ImageProof(target: target).prove(files)
            }
            if json {
                Console.print(try CanonicalJSON.pretty(report))
            } else {
                for line in InstructionSummary.lines(report, all: all) { Console.print(line) }
            }
            if report.verdict == .exceeded { throw ExitCode(1) }
        }
    }

    private static func collect(_ path: String, _ files: inout [ImageProof.File]) throws {
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) else {
            throw FarmError("file.missing", .notFound, "there is no \(path)")
        }
        if !isDirectory.boolValue { return files.append(ProveCommand.file(path)) }
        let walk = FileManager.default.enumerator(atPath: path)
        while let name = walk?.nextObject() as? String {
            guard walk?.fileAttributes?[.type] as? FileAttributeType == .typeRegular else { continue }
            files.append(ProveCommand.file("\(path)/\(name)"))
        }
    }

    private static func file(_ path: String) -> ImageProof.File {
        ImageProof.File(path: path) {
            // Most files are no programs; their first bytes say so.
            let file = try OpenFile(path, flags: O_RDONLY)
            defer { file.close() }
            let size = try file.size()
            guard size >= 64, ElfFile.isElf(try file.read(at: 0, count: 4)) else { return [] }
            return try file.read(at: 0, count: Int(size))
        }
    }
}
