import ArgumentParser
import FarmModel
import Foundation
import Microarchitecture
import ProcessRunner
import Recipes
import SystemIO

/// Reads recipes and says what is wrong and what is doubtful.
struct RecipeCheckCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Read recipes and say what is wrong or doubtful.",
        discussion: """
            Errors end with status 65; warnings do so with --strict.
            Examples:
              sciferry recipe check recipes/*
              sciferry recipe check recipes/dcm2niix --fix
              sciferry recipe check recipes/* --sarif findings.sarif
            """)
    @Argument(help: "Recipe directories.") var recipes: [String]
    @Option(help: "The collection's root (default: found from the recipe's place).") var collection: String?
    @Flag(help: "Follow the advice where that needs no judgement.") var fix = false
    @Flag(help: "Count warnings as errors.") var strict = false
    @Flag(help: "Run recipes that are programs (kind hpccm); they do what they like on this machine.") var runHpccm = false
    @Flag(help: "Show notes too.") var notes = false
    @Flag(help: "Print JSON.") var json = false
    @Option(help: "Write the findings as SARIF 2.1.0.") var sarif: String?

    private struct Verdict: Encodable {
        var recipe: String
        var ok: Bool
        var code: String?
        var message: String?
        var findings: [RecipeFinding] = []
    }

    func run() async throws {
        try await reporting {
            let collection = try self.collection.map(RecipeDirectory.collection)
            var verdicts: [Verdict] = []
            for path in recipes { verdicts.append(try await check(path, collection)) }
            if json { try Console.json(verdicts) }
            if let sarif { try Disk.replace(sarif, with: try SarifDocument(verdicts.flatMap(\.findings)).bytes()) }
            if verdicts.contains(where: { !$0.ok && $0.code != "recipe.absent" }) {
                throw ExitCode(FarmError.Category.invalid.exitStatus)
            }
            guard verdicts.allSatisfy(\.ok) else { throw ExitCode(FarmError.Category.notFound.exitStatus) }
        }
    }

    private func check(_ path: String, _ collection: RecipeCollection?) async throws -> Verdict {
        do {
            var source = try await HPCCMRecipe.completed(try RecipeDirectory.read(path, collection: collection), if: runHpccm)
            var findings = try RecipeLint.findings(source)
            if fix, findings.contains(where: { $0.edit != nil }) {
                let mended = RecipeFinding.apply(
                    findings.filter { $0.file == source.path }, to: String(decoding: source.files["build.yaml"] ?? [], as: UTF8.self))
                try Disk.replace(source.path, with: Array(mended.utf8))
                source = try await HPCCMRecipe.completed(try RecipeDirectory.read(path, collection: collection), if: runHpccm)
                findings = try RecipeLint.findings(source)
            }
            let recipe = try Recipe.read(source)
            let suite = try RecipeSuite.read(source)
            for variant in recipe.concreteVariants {
                let target = try recipe.target(variant.architecture)
                let draft = try RecipeDraft(recipe, source, target: target, variant: variant.variant)
                _ = try draft.render(lock: RecipeCommand.sampleLock(draft, target.family), suite: suite)
                if variant == recipe.concreteVariants.first { findings += try await shellFindings(draft, source) }
            }
            let least: RecipeFinding.Severity = notes ? .note : .warning
            let shown = findings.filter { $0.severity >= least }
            let isSound = !strict || shown.allSatisfy { $0.severity < .warning }
            if !json {
                for finding in shown { Console.print(Diagnostic.text(finding, source)) }
                Console.print(
                    "\(path): \(recipe.name) \(recipe.version), \(suite.tests.count) tests, \(shown.isEmpty ? "sound" : "\(shown.count) findings")"
                )
            }
            return Verdict(recipe: path, ok: isSound, findings: findings)
        } catch let error as FarmError {
            if !json { Console.error(Diagnostic.text(error)) }
            return Verdict(recipe: path, ok: false, code: error.code.rawValue, message: error.message)
        }
    }

    /// What shellcheck says of the commands, where it is installed.
    private func shellFindings(_ draft: RecipeDraft, _ source: RecipeSource) async throws -> [RecipeFinding] {
        guard let program = ProcessRunner.find("shellcheck") else { return [] }
        struct Report: Decodable {
            struct Comment: Decodable {
                var line: Int
                var level: String
                var code: Int
                var message: String
            }
            var comments: [Comment]
        }
        var findings: [RecipeFinding] = []
        for instruction in draft.definition.instructions {
            guard case .run(let run) = instruction.kind, !run.isVerbatim else { continue }
            let script = "#!/bin/sh\n" + run.commands.joined(separator: "\n") + "\n"
            let result = try await ProcessRunner.run(
                Command(program, ["--format", "json1", "--severity", "error", "-"], input: Array(script.utf8), deadlineSeconds: 30))
            guard let report = try? JSONDecoder().decode(Report.self, from: Data(result.output)) else { continue }
            let node = RecipeNode(.sequence([]), line: instruction.line, column: 1)
            findings += report.comments.map { comment in
                RecipeFinding(
                    "shell.SC\(comment.code)", .warning, file: source.path, node, comment.message,
                    advice: "see https://www.shellcheck.net/wiki/SC\(comment.code)")
            }
        }
        return findings
    }
}

/// Messages as compilers write them: the place, the line, a mark under it, what to write.
enum Diagnostic {
    static func text(_ finding: RecipeFinding, _ source: RecipeSource) -> String {
        let name = finding.file.split(separator: "/").last.map(String.init) ?? finding.file
        var text = "\(finding.file):\(finding.line):\(finding.column): \(finding.severity.rawValue): \(finding.message) [\(finding.code)]"
        if let bytes = source.files[name] { text += excerpt(String(decoding: bytes, as: UTF8.self), finding.line, finding.column) }
        return text + "\n    \(finding.advice)"
    }

    /// An error of ours; where its message begins with a file and a line, that line is shown.
    static func text(_ error: FarmError) -> String {
        let parts = error.message.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        var text = "\(error.message) [\(error.code.rawValue)]"
        if parts.count == 3, let line = Int(parts[1]), let bytes = try? Disk.read(String(parts[0]), limit: 16 << 20) {
            text += excerpt(String(decoding: bytes, as: UTF8.self), line, nil)
        }
        return error.hint.map { "\(text)\n    \($0)" } ?? text
    }

    private static func excerpt(_ text: String, _ number: Int, _ column: Int?) -> String {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.indices.contains(number - 1) else { return "" }
        // A tab stays one, so that the mark stands where the eye looks for it.
        let line = lines[number - 1].prefix(160)
        let start = column.map { $0 - 1 } ?? line.prefix(while: \.isWhitespace).count
        let lead = String(line.prefix(start).map { $0 == "\t" ? "\t" : " " })
        return "\n    \(line)\n    \(lead)^"
    }
}

/// Findings for editors and code hosts (SARIF 2.1.0, OASIS).
private struct SarifDocument: Encodable {
    private struct Message: Encodable { var text: String }
    private struct Location: Encodable {
        struct Physical: Encodable {
            struct Artifact: Encodable { var uri: String }
            struct Region: Encodable {
                var startLine: Int
                var startColumn: Int
            }
            var artifactLocation: Artifact
            var region: Region
        }
        var physicalLocation: Physical
    }
    private struct Result: Encodable {
        var ruleId: String
        var level: String
        var message: Message
        var locations: [Location]
    }
    private struct Run: Encodable {
        struct Tool: Encodable {
            struct Driver: Encodable {
                struct Rule: Encodable { var id: String }
                var name = "sciferry"
                var version = Program.version
                var rules: [Rule]
            }
            var driver: Driver
        }
        var tool: Tool
        var results: [Result]
    }
    private var version = "2.1.0"
    private var schema = "https://json.schemastore.org/sarif-2.1.0.json"
    private var runs: [Run]

    private enum CodingKeys: String, CodingKey {
        case version, runs
        case schema = "$schema"
    }

    init(_ findings: [RecipeFinding]) {
        let rules = Set(findings.map(\.code)).sorted().map { Run.Tool.Driver.Rule(id: $0) }
        let results = findings.map { finding in
            Result(
                ruleId: finding.code, level: finding.severity.rawValue, message: Message(text: "\(finding.message); \(finding.advice)"),
                locations: [
                    Location(
                        physicalLocation: .init(
                            artifactLocation: .init(uri: finding.file),
                            region: .init(startLine: finding.line, startColumn: finding.column)))
                ])
        }
        runs = [Run(tool: .init(driver: .init(rules: rules)), results: results)]
    }

    func bytes() throws -> [UInt8] { Array(try CanonicalJSON.pretty(self).utf8) }
}
