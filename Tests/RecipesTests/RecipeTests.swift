import FarmModel
import Foundation
import Microarchitecture
import Recipes
import Support
import SystemIO
import Testing

@Suite struct RecipeTests {
    private static let sound = """
        name: tool
        version: "1.0"
        architectures: [x86_64]
        build:
          kind: neurodocker
          base-image: debian:bookworm
          add-default-template: false
          directives:
            - install: zlib1g  bash
            - run:
                - echo one
                - |
                  # a remark
                  if true; then
                    echo two
                  fi
        deploy:
          bins: [tool]
        """

    private func source(_ text: String, _ more: [String: String] = [:]) -> RecipeSource {
        var files = more.mapValues { Array($0.utf8) }
        files["build.yaml"] = Array(text.utf8)
        return RecipeSource(path: "recipes/tool/build.yaml", files: files)
    }

    private func lock(_ name: String = "debian:bookworm") -> [String: LockedInput] {
        let input = LockedInput(
            kind: .base, name: name, architecture: "x86_64", digest: Digest(hashing: name), size: 7, origin: .bootstrap,
            bootstrap: "bookworm 20261101T000000Z", lockedAt: Timestamp(milliseconds: 0))
        return [input.key: input]
    }

    private func render(
        _ source: RecipeSource, _ target: String = "x86_64", _ lock: [String: LockedInput]? = nil
    ) throws -> RenderedRecipe {
        let draft = try RecipeDraft(try Recipe.read(source), source, target: self.target(target))
        return try draft.render(lock: lock ?? self.lock(), suite: try RecipeSuite.read(source))
    }

    private func target(_ name: String = "x86_64") throws -> Microarchitecture { try #require(Microarchitecture.named(name)) }

    @Test func rendersCommandsThatStopAtTheFirstFailure() throws {
        let source = source(Self.sound)
        let plan = try render(source).plan
        #expect(plan.dockerfile.hasPrefix("FROM sciferry-base:\(Digest(hashing: "debian:bookworm").hex.prefix(24))\n"))
        #expect(plan.dockerfile.contains("      bash \\\n      zlib1g \\\n"))
        let script = #"RUN ["/bin/sh", "-c", "set -e\necho one\nif true; then\n  echo two\nfi\n"]"#
        #expect(plan.dockerfile.contains(script), "\(plan.dockerfile)")
        #expect(plan.commands == ["tool"])
    }

    @Test func theBuildKeyIsAFunctionOfWhatDecidesTheImage() throws {
        let source = source(Self.sound)
        func key(_ target: String, _ lock: [String: LockedInput]) throws -> Digest {
            Digest(hashing: try render(source, target, lock).plan.canonicalBytes())
        }
        #expect(try key("x86_64", lock()) == key("x86_64", lock()))
        #expect(try key("x86_64", lock()) != key("x86_64_v3", lock()))
        var other = lock()
        for name in other.keys { other[name]?.digest = Digest(hashing: "moved") }
        #expect(try key("x86_64", lock()) != key("x86_64", other))
    }

    /// Equal beginnings have equal identities, up to the first step that differs or takes in a file that does.
    @Test func layersAreKnownByWhatTheyAreMadeOf() throws {
        func layers(_ steps: String, _ file: String = "one", base: [String: LockedInput]? = nil) throws -> [UInt64] {
            let text =
                "name: tool\nversion: 1\nbuild:\n  kind: neurodocker\n  base-image: debian:bookworm\n  pkg-manager: apt\n  directives:\n\(steps)"
            return try render(source(text, ["a.txt": file]), "x86_64", base).layers
        }
        let steps = ["    - run: [echo one]", "    - copy: a.txt /opt/a.txt", "    - run: [echo two]"]
        let whole = try layers(steps.joined(separator: "\n"))
        func shared(_ other: [UInt64]) -> Int { zip(whole, other).prefix { $0 == $1 }.count }
        #expect(Set(whole).count == whole.count)
        #expect(try layers(steps.joined(separator: "\n")) == whole)
        let shorter = try layers(steps[0])
        let common = shared(shorter)
        #expect(common > 2 && common < whole.count)
        // The same file again is the same layer; another one ends what is shared at the step that takes it.
        #expect(shared(try layers(steps.joined(separator: "\n"), "two")) == common)
        #expect(shared(try layers(([steps[0]] + [steps[1], "    - run: [echo three]"]).joined(separator: "\n"))) == common + 1)
        var moved = lock()
        for name in moved.keys { moved[name]?.digest = Digest(hashing: "moved") }
        #expect(shared(try layers(steps.joined(separator: "\n"), base: moved)) == 0)
    }

    @Test func whereAPlanLeavesAnEarlierOneIsSaid() throws {
        func plan(_ lines: [String], _ file: String = "one", base: String = "a") -> Plan {
            Plan(
                name: "tool", version: "1", architecture: "x86_64", target: "x86_64",
                base: BaseImage(name: "debian:bookworm", digest: Digest(hashing: base), origin: .registry, size: 0, bootstrap: nil),
                dockerfile: (["FROM x"] + lines).joined(separator: "\n") + "\n",
                context: [ContextFile(path: "a.txt", digest: Digest(hashing: file), size: 3, executable: false)], commands: [],
                commandPaths: [], description: "", categories: [], licences: [], suite: TestSuite(), diskBytes: 0)
        }
        let lines = ["ENV A=b", "RUN one", "WORKDIR /", "COPY a.txt /a", "RUN two \\\n  more"]
        func difference(_ new: Plan) throws -> BuildLayers.Difference? { try BuildLayers.difference(of: new, from: plan(lines)) }
        #expect(try difference(plan(lines)) == nil)
        let base = try difference(plan(lines, base: "b"))
        #expect(base?.sameSteps == 0 && base?.why.hasPrefix("the base image debian:bookworm is another one, ") == true)
        #expect(try difference(plan(lines, "two")) == .init(sameSteps: 1, why: "COPY a.txt /a takes in a.txt, which has changed"))
        #expect(try difference(plan(lines + ["RUN three"])) == .init(sameSteps: 3, why: "RUN three is new"))
        #expect(
            try difference(plan(Array(lines.dropLast()) + ["RUN two \\\n  less"]))
                == .init(sameSteps: 2, why: "RUN two \\ goes on otherwise than before"))
        #expect(
            try difference(plan(["ENV A=c"] + lines.dropFirst())) == .init(sameSteps: 0, why: "ENV A=c stands where ENV A=b stood"))
        #expect(
            try difference(plan([lines[0]] + lines.dropFirst(2))) == .init(sameSteps: 0, why: "WORKDIR / stands elsewhere than before"))
    }

    @Test(arguments: [
        ("name: tool\n  version: [", "recipe.yaml", "build.yaml:2:"),
        ("nmae: tool", "recipe.unknown-key", "recipes/tool/build.yaml:1: \"nmae\" is not a key of the recipe"),
        (
            "name: tool\nversion: 1\nbuild:\n  kind: neurodocker\n  base-image: x\n  directives:\n    - rum: echo", "recipe.unknown-key",
            ":7: \"rum\""
        ),
        ("name: tool\nversion: 1", "recipe.missing-key", "\"build\""),
        ("name: a_b\nversion: 1", "recipe.name", ":1:"),
        (
            "name: tool\nversion: 1\nbuild:\n  kind: neurodocker\n  base-image: x\n  directives:\n    - copy: nothing.txt /x",
            "recipe.missing-file",
            ":7: recipes/tool/nothing.txt does not exist"
        ),
        ("name: tool\nversion: 1\nname: again", "recipe.yaml", "twice"),
        ("name: tool\nversion: 1\nbuild: [1]", "recipe.type", ":3: build must be a mapping"),
        (
            "name: tool\nversion: 1\nbuild:\n  kind: neurodocker\n  base-image: x\n  pkg-manager: brew\n  directives: []",
            "recipe.package-manager",
            ":6:"
        ),
        ("", "recipe.yaml", "empty"),
    ]) func badRecipesNameFileLineAndKey(_ text: String, _ code: String, _ part: String) {
        let error = #expect(throws: FarmError.self) { try render(source(text), "x86_64", lock("x:latest")) }
        #expect(error?.code.rawValue == code)
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
    }

    @Test func aTypingMistakeIsAnswered() {
        let error = #expect(throws: FarmError.self) { try Recipe.read(source("nmae: tool")) }
        #expect(error?.hint == "did you mean \"name\"?")
    }

    @Test func templatesFailWithFileAndLine() throws {
        let source = source(Self.sound.replacingOccurrences(of: "echo one", with: "echo {{ nothing }}"))
        let error = #expect(throws: FarmError.self) { try render(source) }
        #expect(error?.code == "template.undefined")
        #expect(error?.message.hasPrefix("recipes/tool/build.yaml:11:") == true, "\(error?.message ?? "")")
    }

    @Test func filesAreStagedAndTakenAwayAgain() throws {
        let text =
            Self.sound.replacingOccurrences(of: "echo one", with: "sh {{ get_file(\"setup\") }}")
            + "\nfiles:\n  - name: setup\n    filename: setup.sh\n"
        let source = source(text, ["setup.sh": "echo hi\n"])
        let rendered = try render(source)
        let path = try #require(rendered.plan.context.first { $0.path.hasPrefix("files/") }).path
        let mount = try #require(path.split(separator: "/").dropFirst().first)
        #expect(path == "files/\(mount)/setup")
        #expect(rendered.plan.context.map(\.path) == ["about/README.md", "about/build.yaml", path])
        #expect(rendered.blobs[Digest(hashing: "echo hi\n")] == Array("echo hi\n".utf8))
        #expect(
            rendered.plan.dockerfile.contains(
                "RUN --mount=type=bind,source=files/\(mount),target=/.neurocontainer-cache/\(mount) \\\n [\"/bin/sh\", \"-c\", \"set -e\\nsh /.neurocontainer-cache/\(mount)/setup"
            ))
        let end = "RUN rm -rf /.neurocontainer-cache /var/cache/sciferry\n"
        #expect(rendered.plan.dockerfile.contains(end), "\(rendered.plan.dockerfile)")
    }

    private func refusal(_ change: (inout String) -> Void) -> FarmError? {
        var text = "name: tool\nversion: 1\nbuild:\n  kind: neurodocker\n  base-image: debian:12\n  directives:\n    - run: [true]\n"
        change(&text)
        let source = RecipeSource(path: "recipes/tool/build.yaml", files: ["build.yaml": Array(text.utf8)])
        do {
            let lock = LockedInput(
                kind: .base, name: "debian:12", architecture: "x86_64", digest: Digest(hashing: "b"), size: 0, origin: .registry,
                bootstrap: nil, lockedAt: Timestamp(milliseconds: 0))
            _ = try render(source, "x86_64", [lock.key: lock])
            return nil
        } catch { return error as? FarmError }
    }

    @Test func noTextOfARecipeBecomesAnInstructionOfItsOwn() {
        for directive in [
            "- workdir: \"/x\\nUSER root\"", "- entrypoint: \"x\\ny\"",
            "- environment:\n        A: \"x\\nFROM y\"", "- deploy:\n        path: [\"/x\\nFROM y\"]",
        ] {
            #expect(refusal { $0 += "    \(directive)\n" }?.code == "recipe.control", "\(directive)")
        }
        #expect(refusal { $0 += "    - user: \"root\\nFROM alpine\"\n" }?.code == "recipe.control")
        #expect(refusal { $0 += "    - user: \"a b\"\n" }?.code == "recipe.user")
        #expect(refusal { $0 += "    - environment:\n        \"A B\": x\n" }?.code == "recipe.variable")
        #expect(refusal { $0 += "deploy:\n  bins: [\"a b\"]\n" }?.code == "recipe.command")
        #expect(refusal { $0 += "deploy:\n  bins: [g++, \"@auto_tlrc\", 3dcalc]\n" } == nil)
        #expect(refusal { $0 = $0.replacingOccurrences(of: "debian:12", with: "\"debian:12 AS x\"") }?.code == "recipe.base")
        #expect(refusal { $0 = $0.replacingOccurrences(of: "debian:12", with: "\"debian:{{ context.version }}2\"") } == nil)
    }

    @Test func hostileDocumentsAreRefusedSoon() {
        var bomb = "variables:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        for level in 1...9 {
            bomb += "  a\(level): &a\(level) [\(Array(repeating: "*a\(level - 1)", count: 10).joined(separator: ", "))]\n"
        }
        #expect(refusal { $0 += bomb }?.code == "recipe.yaml")
        #expect(
            refusal { $0 += "variables: \(String(repeating: "[", count: 90))\(String(repeating: "]", count: 90))\n" }?.code == "recipe.yaml"
        )
        #expect(refusal { $0 += "variables: {m: {1: a, \"1\": b}}\n" } == nil)
    }

    @Test func aBaseThatIsPinnedAlreadyIsNamedOnce() {
        let digest = Digest(hashing: "x")
        for name in ["debian:12", "debian:12@sha256:\(digest.hex)", "debian@sha256:\(digest.hex)"] {
            let base = BaseImage(name: name, digest: digest, origin: .registry, size: 0, bootstrap: nil)
            #expect(base.reference == "debian@sha256:\(digest.hex)")
        }
    }

    @Test(arguments: ["dcm2niix", "nibabel", "nifti-header"]) func ourOwnRecipesAreSound(_ name: String) throws {
        let directory = "\(Repository.root)/recipes/\(name)"
        var files: [String: [UInt8]] = [:]
        for file in try Disk.list(directory) { files[file] = try Disk.read("\(directory)/\(file)") }
        let source = RecipeSource(path: "recipes/\(name)/build.yaml", files: files)
        let plan = try render(source).plan
        #expect(plan.name == name)
        #expect(plan.suite.tests.count >= 3)
        #expect(!plan.commands.isEmpty)
    }

    /// What a suite has against it, as `line code` or the error's own text.
    private func findings(_ suite: String, _ mode: RecipeSuite.Mode) -> [String] {
        do {
            return try RecipeSuite(Array(suite.utf8), path: "fulltest.yaml", mode: mode).findings.map {
                "\($0.line) \($0.severity.rawValue) \($0.code)"
            }
        } catch { return ["\((error as? FarmError)?.code.rawValue ?? "?")"] }
    }

    @Test func whatASuiteMeansIsHeldStrictlyOrFound() {
        let idle =
            "tests:\n  - {name: a, command: x, tags: [t]}\n  - {name: a, command: x, depends_on: c}\n  - {name: c, script: y, validate: [{is_3d: f}]}\n"
        #expect(
            findings(idle, .compatible) == [
                "2 warning suite.idle-key", "3 warning suite.name", "3 warning suite.dependency", "4 warning suite.idle-key",
            ])
        #expect(findings(idle, .strict).allSatisfy { $0.contains("error") } && findings(idle, .own) == findings(idle, .compatible))
        #expect(findings("x-sciferry: {}\n" + idle, .own) == findings("x-sciferry: {}\n" + idle, .strict))
        // A slip of the pen is none that anybody means.
        let slip = "tests:\n  - {name: a, comand: x, command: y}\n"
        #expect(findings(slip, .compatible) == ["2 error recipe.unknown-key"])
        let prefix = "out: o\ntests:\n  - {name: a, command: \"echo $output $out\"}\n"
        #expect(findings(prefix, .compatible) == ["3 warning suite.prefix"])
        for (bad, code) in [
            ("tests: []\n", "suite.empty"), ("tests:\n  - {name: a}\n", "recipe.missing-key"),
            ("tests:\n  - {command: a}\n", "recipe.missing-key"),
            ("tests:\n  - {name: a, command: x, timeout: 0}\n", "suite.timeout"), ("tests: 3\n", "suite.empty"), ("a: [\n", "recipe.yaml"),
            ("tests:\n  - {name: a, command: x, validate: [{nifti: {file: f, type: int17}}]}\n", "suite.check"),
            ("tests:\n  - {name: a, command: x, validate: [{number: {at: a}}]}\n", "suite.check"),
            ("tests:\n  - {name: a, command: x, validate: [{number: {at: a, column: b, is: 1}}]}\n", "suite.check"),
            ("tests:\n  - {name: a, command: x, validate: [{sha256: {file: f, is: abc}}]}\n", "suite.check"),
            ("tests:\n  - {name: a, command: x, validate: [{output_matches: \"(\"}]}\n", "suite.check"),
            ("tests:\n  - {name: a, command: x, validate: [{json_schema: {file: f, schema: {typ: object}}}]}\n", "suite.check"),
            ("tests:\n  - {name: a, command: x, validate: [{file_count: {files: x}}]}\n", "suite.check"),
            ("required_files: [{dataset: ../x, files: [a]}]\ntests:\n  - {name: a, command: x}\n", "suite.dataset"),
            ("required_files: [{dataset: d, files: [/etc/passwd]}]\ntests:\n  - {name: a, command: x}\n", "suite.path"),
            ("test_data: {a: ../../x}\ntests:\n  - {name: a, command: x}\n", "suite.path"),
            ("test_data: {a b: x}\ntests:\n  - {name: a, command: x}\n", "suite.variable"),
            ("x-sciferry: {memory_mib: 1}\ntests:\n  - {name: a, command: x}\n", "suite.memory"),
        ] { #expect(findings(bad, .compatible) == [code], "\(bad)") }
    }

    @Test func suitesMayNotReachOutside() {
        let suite = "tests:\n  - name: t\n    command: x\n    validate:\n      - output_exists: ../../etc/passwd\n"
        let error = #expect(throws: FarmError.self) { try RecipeSuite.read(source(Self.sound, ["fulltest.yaml": suite])) }
        #expect(error?.code == "suite.path")
    }
}
