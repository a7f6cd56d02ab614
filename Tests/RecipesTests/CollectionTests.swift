import FarmModel
import Foundation
import Microarchitecture
import Recipes
import Support
import SystemIO
import Testing

/// A collection with every construct of the format, and what the collection's own builder made of it.
@Suite struct CollectionTests {
    private static let root = "\(Repository.root)/Tests/RecipesTests/collection"

    private func files(_ directory: String, _ prefix: String = "") throws -> [String: [UInt8]] {
        var files: [String: [UInt8]] = [:]
        for name in try Disk.list(directory) {
            let path = "\(directory)/\(name)"
            if Disk.isDirectory(path) {
                files.merge(try self.files(path, "\(prefix)\(name)/")) { first, _ in first }
            } else {
                files["\(prefix)\(name)"] = try Disk.read(path)
            }
        }
        return files
    }

    private func source(_ change: (inout String) -> Void = { _ in }) throws -> RecipeSource {
        var recipe = try files("\(Self.root)/recipes/every")
        var text = String(decoding: try #require(recipe["build.yaml"]), as: UTF8.self)
        change(&text)
        recipe["build.yaml"] = Array(text.utf8)
        var shared = try files("\(Self.root)/builder", "builder/")
        shared.merge(try files("\(Self.root)/macros", "macros/")) { first, _ in first }
        return RecipeSource(path: "recipes/every/build.yaml", files: recipe, collection: RecipeCollection(files: shared))
    }

    private func draft(_ name: String, _ source: RecipeSource) throws -> RecipeDraft {
        let recipe = try Recipe.read(source)
        let variant = try #require(recipe.concreteVariants.first { $0.name == name })
        let target = try #require(Microarchitecture.named(variant.architecture))
        return try RecipeDraft(recipe, source, target: target, variant: variant.variant)
    }

    /// Identifiers of mounts and of name clashes, which the reference takes from its host, numbered as they come.
    private func normalised(_ text: String) -> String {
        var result = text
        var seen: [String] = []
        for match in text.matches(of: /(?:neurocontainer-cache\/|source=\/)(h[0-9a-f]{8})/) {
            let id = String(match.1)
            if !seen.contains(id) {
                seen.append(id)
                result = result.replacingOccurrences(of: id, with: "MOUNT\(seen.count)")
            }
        }
        return result.replacing(/_[0-9a-f]{12}(?=\.)/, with: "_CLASH").trimmingCharacters(in: .whitespacesAndNewlines)
    }

    @Test(arguments: ["every", "every_arm64", "every_gpu"]) func compatibleOutputIsTheReferences(_ name: String) throws {
        let draft = try draft(name, try source())
        let expected = String(decoding: try Disk.read("\(Self.root)/expected/\(name).Dockerfile"), as: UTF8.self)
        #expect(normalised(draft.referenceDockerfile) == normalised(expected))
        let readme = String(decoding: try Disk.read("\(Self.root)/expected/\(name).README.md"), as: UTF8.self)
        #expect(draft.definition.readme + "\n" == readme)
    }

    @Test func inputsAreWhatTheBuildUses() throws {
        let draft = try draft("every", try source())
        #expect(
            draft.inputs.map(\.name) == [
                "ubuntu:24.04", "https://example.org/files/1.2/archive%20one.tar.gz?download=1",
                "https://example.org/elsewhere/archive%20one.tar.gz",
            ])
        #expect(draft.releaseName == "every" && draft.definition.deployBins == ["every", "every-4"])
        #expect(try self.draft("every_gpu", try source()).releaseName == "every_gpu")
        #expect(try self.draft("every_arm64", try source()).releaseName == "every")
    }

    @Test func whatIsRenderedDependsOnNothingElse() throws {
        let one = try draft("every", try source())
        let lock = Dictionary(
            one.inputs.map { input in
                LockedInput(
                    kind: input.kind, name: input.name, architecture: "x86_64", digest: Digest(hashing: input.name), size: 1,
                    origin: .registry, bootstrap: nil, lockedAt: Timestamp(milliseconds: 0))
            }.map { ($0.key, $0) }
        ) { first, _ in first }
        let first = try one.render(lock: lock, suite: TestSuite()).plan
        for _ in 0..<5 {
            let plan = try draft("every", try source()).render(lock: lock, suite: TestSuite()).plan
            #expect(try plan.canonicalBytes() == first.canonicalBytes())
        }
        #expect(first.context.contains { $0.path == "copy/beside.txt" } && first.context.contains { $0.path == "copy/plain.txt" })
        #expect(first.context.contains { $0.path == "copy/every-tool.json" })
        #expect(first.description == "Nothing real." && first.categories == ["structural imaging", "every"])
        let script = try #require(first.context.first { $0.path.hasSuffix("/script") })
        #expect(script.executable)
    }

    @Test(arguments: [
        ("includes that include themselves", "macros/steps.yaml", "directives:\n  - include: macros/steps.yaml\n", "recipe.depth"),
        (
            "an argument that names itself", "builder/templates/demo.yaml",
            "binaries:\n  env: {A: \"{{ self.a }}\"}\n  arguments: {optional: {a: \"{{ self.a }}\"}}\n", "template.limit"
        ),
        (
            "an endless loop", "builder/templates/demo.yaml",
            "binaries:\n  instructions: \"{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}\"\n",
            "template.limit"
        ),
        (
            "a template that refuses", "builder/templates/demo.yaml", "binaries:\n  instructions: \"{{ raise('not so') }}\"\n",
            "template.raised"
        ),
        ("a template that is no mapping", "builder/templates/demo.yaml", "[1]", "recipe.template"),
    ]) func whatNeverEndsIsEnded(_ what: String, _ path: String, _ text: String, _ code: String) throws {
        var shared = try source().collection.files
        shared[path] = Array(text.utf8)
        let sound = try source()
        let changed = RecipeSource(path: sound.path, files: sound.files, collection: RecipeCollection(files: shared))
        let error = #expect(throws: FarmError.self, "\(what)") { try draft("every", changed) }
        #expect(error?.code.rawValue == code && error?.message.contains("build.yaml:") == true, "\(what): \(error?.description ?? "")")
    }

    @Test(arguments: [
        ("include: macros/{{ \"steps\" }}.yaml", "include: ../../etc/passwd", "recipe.include"),
        ("name: demo\n        version", "name: ../demo\n        version", "recipe.template"),
        ("filename: data.txt", "filename: ../../../etc/passwd", "recipe.missing-file"),
        ("name: late\n", "name: ../late\n", "recipe.path"),
        ("copy: [plain.txt", "copy: [../plain.txt", "recipe.missing-file"),
        ("get_file(\"other\")", "get_file(\"othr\")", "template.undefined"),
        ("value: /opt/{{ context.name }}", "valu: /opt", "recipe.none"),
        ("condition: context.version.split('.')[0] == \"1\"", "condition: context.version == \"9\"", "recipe.try"),
        ("copy: late beside.txt /opt/late/", "copy: late \"x", "recipe.words"),
        ("name: every-tool", "name: ../tool", "recipe.boutique"),
    ]) func whatLeavesTheRecipeOrIsNotThereIsNamed(_ old: String, _ new: String, _ code: String) throws {
        let changed = try source { text in
            #expect(text.contains(old))
            text = text.replacingOccurrences(of: old, with: new)
        }
        do {
            let draft = try draft("every", changed)
            let lock = draft.inputs.map { input in
                LockedInput(
                    kind: input.kind, name: input.name, architecture: "x86_64", digest: Digest(hashing: input.name), size: 1,
                    origin: .registry, bootstrap: nil, lockedAt: Timestamp(milliseconds: 0))
            }
            _ = try draft.render(lock: Dictionary(lock.map { ($0.key, $0) }) { first, _ in first }, suite: TestSuite())
            #expect(code == "recipe.none", "\(new) was accepted")
        } catch let error as FarmError {
            #expect(error.code.rawValue == code && error.message.hasPrefix("recipes/every/build.yaml:"), "\(error)")
        }
    }

    @Test func theDefinitionFileTakesTheSameSteps() throws {
        let draft = try draft("every", try source())
        let text = try draft.definitionFile(base: "ubuntu:24.04")
        let sections = text.split(separator: "\n").filter { $0.hasPrefix("%") }
        #expect(text.hasPrefix("Bootstrap: docker\nFrom: ubuntu:24.04\n"))
        #expect(sections == ["%files", "%environment", "%post", "%runscript", "%labels"])
        // In the order of the recipe, under the user that was switched to.
        let order = [
            "export PATH=\"/opt/every-1/bin:${PATH}\"", "apt-get install -y -q --no-install-recommends a3 b",
            "cp -a /.sciferry-context/files/",
            "mkdir -p '/opt/every-1' && cd '/opt/every-1'", "echo x86_64", "echo included in every",
            "if [ -d '/.sciferry-context/copy/late' ]",
            "useradd --no-user-group --create-home --shell /bin/bash tester", "runuser -u tester -- /bin/sh -c 'id'",
            "rm -rf /.sciferry-context",
        ]
        var rest = text[...]
        for step in order {
            let found = rest.range(of: step)
            #expect(found != nil, "\(step) is missing or out of order")
            if let found { rest = rest[found.upperBound...] }
        }
        #expect(text.contains("%runscript\n    exec 'bash /opt/start' \"$@\"\n"))
        let own = try draft.ownFiles()
        #expect(own.map(\.path).contains("copy/every-tool.json") && !own.contains { $0.path.contains("archive") })
    }

    @Test func variantsAndOptionsAreChecked() throws {
        let recipe = try Recipe.read(try source())
        #expect(recipe.concreteVariants.map(\.name) == ["every", "every_arm64", "every_gpu"])
        #expect(throws: FarmError.self) { try recipe.concreteVariant(architecture: "x86_64", variant: "cpu") }
        #expect(throws: FarmError.self) { try recipe.concreteVariant(architecture: "aarch64", variant: "gpu") }
        #expect(throws: FarmError.self) { try recipe.concreteVariant(architecture: "riscv64") }
    }
}

@Suite struct DockerfileStepsTests {
    @Test func aChangeCostsTheLayersFromItOn() {
        let old = DockerfileSteps("FROM a\nRUN one \\\n && two\nENV A=1\nRUN three\n")
        let new = DockerfileSteps("FROM a\nRUN one \\\n && two\nENV A=2\nRUN three\n")
        #expect(old.steps.count == 4 && old.kept(by: new) == 2 && old.kept(by: old) == 4)
        #expect(
            old.changes(to: new) == [.same("FROM a"), .same("RUN one \\\n && two"), .gone("ENV A=1"), .new("ENV A=2"), .same("RUN three")])
        #expect(DockerfileSteps("").changes(to: new).count == 4)
    }
}

@Suite struct LintTests {
    private func findings(_ text: String, suite: String? = nil) throws -> [RecipeFinding] {
        var files = ["build.yaml": Array(text.utf8)]
        if let suite { files["fulltest.yaml"] = Array(suite.utf8) }
        let template =
            "binaries:\n  arguments: {optional: {mamba: \"false\"}}\n  instructions: \"{% if self.mamba == 'true' %}x{% endif %}\"\n"
        let collection = RecipeCollection(files: ["templates/conda.yaml": Array(template.utf8)])
        return try RecipeLint.findings(RecipeSource(path: "r/build.yaml", files: files, collection: collection))
    }

    private static let doubtful = """
        name: tool
        version: 1.10
        build:
          kind: neurodocker
          base-image: ubuntu
          directives:
            - environment:
                ON: yes
            - run:
                - apt-get update && apt-get install -y x
                - wget http://example.org/file.tar
            - template:
                name: conda
                mamba: true
                mambo: x
            - test: {name: t, script: x}
        """

    @Test func silentTrapsAreFound() throws {
        let found = try findings(Self.doubtful, suite: "tests:\n  - name: t\n    command: x\n    validat: []\ntags: [a]\n")
        let places = found.map { "\($0.file):\($0.line):\($0.column) \($0.code)" }
        for place in [
            "r/build.yaml:2:10 yaml.reads-as", "r/build.yaml:5:15 base.latest", "r/build.yaml:8:13 yaml.reads-as",
            "r/build.yaml:10:11 packages.left-behind", "r/build.yaml:11:11 download.plain-http", "r/build.yaml:11:11 download.unchecked",
            "r/build.yaml:14:16 template.truth-value", "r/build.yaml:15:9 template.unknown-argument", "r/build.yaml:16:13 tests.dead",
            "r/fulltest.yaml:4:5 recipe.unknown-key", "r/fulltest.yaml:5:1 suite.idle-key",
        ] { #expect(places.contains(place), "\(place) in \(places)") }
        #expect(found.first { $0.code == "template.unknown-argument" }?.advice == "did you mean \"mamba\"?")
    }

    @Test func fixesAreMadeWhereTheyNeedNoJudgement() throws {
        let mended = RecipeFinding.apply(try findings(Self.doubtful), to: Self.doubtful)
        #expect(mended.contains("version: \"1.10\"") && mended.contains("ON: \"yes\"") && mended.contains("mamba: \"true\""))
        #expect(try findings(mended).allSatisfy { $0.edit == nil })
        #expect(mended.split(separator: "\n").count == Self.doubtful.split(separator: "\n").count)
    }

    @Test func aSoundRecipeHasNoWarnings() throws {
        for name in ["dcm2niix", "nibabel", "nifti-header"] {
            let text = String(decoding: try Repository.file("recipes/\(name)/build.yaml"), as: UTF8.self)
            let suite = String(decoding: try Repository.file("recipes/\(name)/fulltest.yaml"), as: UTF8.self)
            #expect(try findings(text, suite: suite).filter { $0.severity >= .warning }.isEmpty)
        }
    }
}
