import ArgumentParser
import FarmModel
import Foundation
import Recipes
import SystemIO

/// Writes a first recipe that builds.
struct RecipeNewCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "new", abstract: "Write a recipe to begin with; asks for what no flag says.",
        discussion: """
            Examples:
              sciferry recipe new
              sciferry recipe new samtools --apt samtools --command samtools --version 1.16 --licence MIT
              sciferry recipe new nilearn --pip nilearn==0.10.4 --command python3 --version 0.10.4
            """)
    @Argument(help: "The recipe's name.") var name: String?
    @Option(help: "The software's version.") var version: String?
    @Option(help: "What it is, in a sentence.") var description: String?
    @Option(help: "A Debian package to install; may be repeated.") var apt: [String] = []
    @Option(help: "A requirement for pip; may be repeated.") var pip: [String] = []
    @Option(help: "A command that the release offers; may be repeated.") var command: [String] = []
    @Option(help: "SPDX identifier of the licence.") var licence: String?
    @Option(help: "The base image.") var base = "debian:bookworm"
    @Option(help: "Where recipes lie.") var directory = "recipes"

    func run() async throws {
        try await reporting {
            let name = try answer(name, "Name of the recipe")
            guard PlainName.isValid(name), !name.contains("_") else {
                throw FarmError("recipe.name", .usage, "\"\(name)\" is no recipe name", hint: "use letters, digits and hyphens")
            }
            let place = "\(directory)/\(name)"
            guard !Disk.exists("\(place)/build.yaml") else {
                throw FarmError(
                    "recipe.exists", .conflict, "\(place)/build.yaml is there already", hint: "choose another name or directory")
            }
            let packages = apt.isEmpty && pip.isEmpty ? [try answer(nil, "Debian package to install", otherwise: name)] : apt
            let commands = command.isEmpty ? [try answer(nil, "Command that it offers", otherwise: name)] : command
            let text = try recipe(
                name, version: answer(version, "Version", otherwise: "1.0"),
                description: answer(description, "What it is", otherwise: name),
                licence: answer(licence, "Licence (SPDX identifier)", otherwise: "MIT"), packages, commands)
            let suite = RecipeNewCommand.suite(commands)
            // What comes out must be sound before anything is written.
            let source = RecipeSource(
                path: "\(place)/build.yaml", files: ["build.yaml": Array(text.utf8), "fulltest.yaml": Array(suite.utf8)])
            for command in commands where !CommandName.isValid(command) {
                throw FarmError("recipe.command", .usage, "\"\(command)\" is no command name", hint: "name the program alone")
            }
            let read = try Recipe.read(source)
            let draft = try RecipeDraft(read, source, target: try read.target(""))
            _ = try (draft.dockerfile(), RecipeSuite.read(source))
            try Disk.makeDirectory(place)
            try Disk.replace("\(place)/build.yaml", with: Array(text.utf8))
            try Disk.replace("\(place)/fulltest.yaml", with: Array(suite.utf8))
            Console.print(
                "\(place)/build.yaml and fulltest.yaml are there; next: sciferry recipe check \(place) && sciferry build \(place)")
        }
    }

    /// A flag's value, else what somebody at a terminal answers, else what is usual.
    private func answer(_ given: String?, _ question: String, otherwise usual: String? = nil) throws -> String {
        if let given { return given }
        guard isatty(0) == 1 else {
            if let usual { return usual }
            throw FarmError("recipe.question", .usage, "\(question) is not given", hint: "sciferry help recipe new shows the flags")
        }
        FileHandle.standardOutput.write(Data("\(question)\(usual.map { " [\($0)]" } ?? ""): ".utf8))
        let line = readLine()?.trimmingCharacters(in: .whitespaces) ?? ""
        if line.isEmpty, let usual { return usual }
        guard !line.isEmpty else { throw FarmError("recipe.question", .usage, "\(question) was not answered") }
        return line
    }

    private func recipe(
        _ name: String, version: String, description: String, licence: String, _ packages: [String], _ commands: [String]
    ) throws -> String {
        func quoted(_ text: String) throws -> String { String(decoding: try CanonicalJSON.encode(text), as: UTF8.self) }
        var steps: [String] = []
        let system = packages + (pip.isEmpty ? [] : ["python3-pip", "python3-venv"])
        if !system.isEmpty { steps.append("    - install: [\(try system.map(quoted).joined(separator: ", "))]") }
        if !pip.isEmpty {
            let requirements = pip.map(ShellWord.quoted).joined(separator: " ")
            steps.append(
                """
                    - run:
                        - \(try quoted("python3 -m venv /opt/\(name) && /opt/\(name)/bin/pip install --no-cache-dir \(requirements)"))
                    - environment:
                        PATH: /opt/\(name)/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
                """)
        }
        return """
            name: \(name)
            version: \(try quoted(version))
            architectures: [x86_64, aarch64]
            description: \(try quoted(description))
            categories: [data organisation]
            copyright:
              - license: \(try quoted(licence))
            build:
              kind: neurodocker
              base-image: \(try quoted(base))
              pkg-manager: apt
              add-default-template: false
              directives:
            \(steps.joined(separator: "\n"))
            deploy:
              bins: [\(try commands.map(quoted).joined(separator: ", "))]

            """
    }

    private static func suite(_ commands: [String]) -> String {
        let tests = commands.map { command in
            "  - name: \(command) starts\n    command: \(command) --version || \(command) --help || \(command) -h\n"
        }
        return "# Replace these by tests that look at results.\ntests:\n\(tests.joined())"
    }
}
