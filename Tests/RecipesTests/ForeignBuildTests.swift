import FarmModel
import Foundation
import Testing

@testable import Recipes

/// Recipes that are Dockerfiles, definition files, or what HPCCM made.
@Suite struct ForeignBuildTests {
    private func draft(_ kind: String, _ files: [String: String], settings: String = "") throws -> RecipeDraft {
        let text = "name: tool\nversion: \"1\"\nbuild:\n  kind: \(kind)\ndeploy:\n  bins: [tool]\n\(settings)"
        let all = files.merging(["build.yaml": text]) { $1 }.mapValues { Array($0.utf8) }
        let source = RecipeSource(path: "recipes/tool/build.yaml", files: all, executables: ["run.sh"])
        let recipe = try Recipe.read(source)
        return try RecipeDraft(recipe, source, target: try recipe.target(""))
    }

    private func lock(_ draft: RecipeDraft) -> [String: LockedInput] {
        let inputs = draft.inputs.map {
            LockedInput(
                kind: $0.kind, name: $0.name, architecture: "x86_64", digest: Digest(hashing: $0.name), size: 0, origin: .registry,
                bootstrap: nil, lockedAt: Timestamp(milliseconds: 0))
        }
        return Dictionary(uniqueKeysWithValues: inputs.map { ($0.key, $0) })
    }

    @Test func aDockerfileIsBuiltWithItsBasesPinned() throws {
        let dockerfile = """
            # syntax=docker/dockerfile:1
            ARG VERSION=12
            FROM --platform=linux/amd64 debian:${VERSION} AS build
            RUN make \\
              # a remark
              install
            FROM alpine
            COPY --from=build /a /a
            COPY --from=busybox:1.36 /bin/busybox /b
            COPY run.sh /usr/bin/tool
            """
        let draft = try draft(
            "dockerfile", ["Dockerfile": dockerfile, "run.sh": "#!/bin/sh\n", "fulltest.yaml": "tests:\n  - {name: a, command: b}\n"])
        #expect(draft.inputs.map(\.name) == ["debian:12", "alpine:latest", "busybox:1.36"])
        let rendered = try draft.render(lock: lock(draft), suite: TestSuite())
        func pinned(_ tagged: String) -> String { BaseImage.engineName(Digest(hashing: tagged), "x86_64") }
        #expect(
            rendered.plan.dockerfile == """
                ARG VERSION=12
                FROM \(pinned("debian:12")) AS build
                RUN make \\
                  install
                FROM \(pinned("alpine:latest"))
                COPY --from=build /a /a
                COPY --from=\(pinned("busybox:1.36")) /bin/busybox /b
                COPY run.sh /usr/bin/tool
                ENV DEPLOY_BINS="tool"

                """)
        #expect(rendered.plan.base.name == "debian:12" && rendered.plan.moreBases.count == 2)
        #expect(rendered.plan.context.map(\.path) == ["Dockerfile", "run.sh"])
        #expect(rendered.plan.context.last?.executable == true)

        // With the packages of a day every stage is another build, and builds of one day are the same.
        let today = try draft.render(lock: lock(draft), suite: TestSuite(), refreshed: "2026-11-22")
        let lines = today.plan.dockerfile.split(separator: "\n")
        for (index, line) in lines.enumerated() where line.hasPrefix("FROM ") {
            #expect(lines[index + 1] == "ARG SCIFERRY_REFRESHED=2026-11-22")
        }
        #expect(lines.count { $0.hasPrefix("ARG SCIFERRY_REFRESHED") } == 2)
        #expect(today.plan.dockerfile.replacing("ARG SCIFERRY_REFRESHED=2026-11-22\n", with: "") == rendered.plan.dockerfile)
        #expect(Set(today.layers.dropFirst(2)).isDisjoint(with: rendered.layers) && today.layers.prefix(2) == rendered.layers.prefix(2))
        #expect(try draft.render(lock: lock(draft), suite: TestSuite(), refreshed: "2026-11-22").layers == today.layers)
        for day in ["x\nRUN curl evil", "2026-11-22\n", "2026-11-2"] {
            #expect(throws: FarmError.self) { try draft.render(lock: lock(draft), suite: TestSuite(), refreshed: day) }
        }
    }

    @Test func aDefinitionFileIsTranslated() throws {
        let definition = """
            Bootstrap: docker
            From: golang:{{ GO }}
            Stage: build

            %arguments
                GO=1.21

            %post
                go build -o /tool

            Bootstrap: docker
            From: debian:bookworm

            %files from build
                /tool /usr/bin/tool
            %files
                data.txt /opt/data.txt
            %post -c /bin/bash
                echo "export TOOL_HOME=/opt" >> $APPTAINER_ENVIRONMENT
            %environment
                export TOOL_MODE="fast one"
            %runscript
                exec tool "$@"
            %labels
                org.example.licence MIT $x
            %help
                A tool.
            %test
                tool --version
            """
        let draft = try draft("definition", ["Singularity.def": definition, "data.txt": "x"])
        #expect(draft.inputs.map(\.name) == ["golang:1.21", "debian:bookworm"])
        let rendered = try draft.render(lock: lock(draft), suite: TestSuite())
        let text = rendered.plan.dockerfile
        for part in [
            " AS build\nUSER 0:0\nRUN [\"/bin/sh\", \"-ex\", \"-c\", \"mkdir -p", "COPY --from=build [\"/tool\", \"/usr/bin/tool\"]",
            "COPY [\"data.txt\", \"/opt/data.txt\"]", "RUN [\"/bin/bash\", \"-ex\", \"-c\"", "LABEL \"org.example.licence\"=\"MIT \\$x\"",
            "COPY about/environment.sh /.singularity.d/env/90-environment.sh", "COPY about/runscript /.singularity.d/runscript",
        ] { #expect(text.contains(part), "\(part) is missing in\n\(text)") }
        #expect(rendered.plan.suite.tests.map(\.name) == ["%test"] && rendered.plan.suite.tests[0].command.contains("tool --version"))
        #expect(draft.definition.readme.contains("A tool."))
        #expect(rendered.blobs.values.contains { String(decoding: $0, as: UTF8.self).contains("TOOL_MODE=\"fast one\"") })
    }

    /// Spellings behind which an image could hide from the lock.
    @Test(arguments: [
        ("FROM debian AS debian\nRUN true\nFROM debian\n", ["debian:latest"], "FROM debian:latest! AS debian\nRUN true\nFROM debian\n"),
        ("FROM a:1\nRUN echo a \\\\\nFROM b:2\n", ["a:1", "b:2"], "FROM a:1!\nRUN echo a \\\\\nFROM b:2!\n"),
        ("from \"a:1\" as x\nFROM x\n", ["a:1"], "FROM a:1! AS x\nFROM x\n"),
        ("ARG A=1 B=bookworm\nARG T=${B}-slim\nFROM debian:$T\n", ["debian:bookworm-slim"], "FROM debian:bookworm-slim!\n"),
        (
            "FROM a:1\nRUN --mount=type=bind,from=alpine,target=/x --mount=from=alpine:3.19,target=/y ls --from=alpine\n",
            ["a:1", "alpine:latest", "alpine:3.19"],
            "--mount=type=bind,from=alpine:latest!,target=/x --mount=from=alpine:3.19!,target=/y ls --from=alpine\n"
        ),
        ("FROM a:1\nRUN --mount=type=bind,FROM=b:2,target=/x true\n", ["a:1", "b:2"], "--mount=type=bind,from=b:2!,target=/x true\n"),
        ("FROM a:1\nFROM b:1\nCOPY --chown=1 --from=0 /a /b\n", ["a:1", "b:1"], "COPY --chown=1 --from=0 /a /b\n"),
    ]) func everyImageIsFound(_ text: String, _ bases: [String], _ part: String) throws {
        let file = try PlainDockerfile(text, path: "Dockerfile")
        #expect(file.bases == bases)
        let pinned = file.text { "\($0)!" }
        #expect(pinned.contains(part), "\(pinned)")
    }

    @Test(arguments: [
        "FROM a:1\nRUN <<EOT bash\nFROM evil\nEOT\n", "# escape=`\nFROM a:1\n", "FROM a:1\nCOPY --from=$X /a /b\n",
        "FROM a:1\nONBUILD COPY --from=b:1 /a /b\n", "FROM --privileged:x\n", "FROM a:1\nRUN echo \\\n", "FROM ${V:?none}\n",
        "FROM a:1\nRUN --mount=type=cache,id=apt-fsl-x86_64,target=/x true\n", "FROM a:1 AS a$b\n",
        "FROM a:1\n" + (0..<70).map { "COPY --from=img\($0):1 /a /b\n" }.joined(),
        "FROM a:1\n" + String(repeating: "RUN true\n", count: 6000),
    ]) func whatCannotBePinnedIsRefused(_ text: String) {
        let error = #expect(throws: FarmError.self) { try PlainDockerfile(text, path: "Dockerfile") }
        #expect(error?.code == "recipe.dockerfile" && error?.category == .invalid)
    }

    @Test func withoutNetworkNothingIsAdded() throws {
        let file = ["Dockerfile": "FROM a:1\nADD --chown=1 https://x.example/y /y\n"]
        _ = try draft("dockerfile", file)
        let error = #expect(throws: FarmError.self) { try draft("dockerfile", file, settings: "x-sciferry: {network: none}\n") }
        #expect(error?.code == "recipe.network" && error?.message.contains("Dockerfile:2: ADD") == true, "\(error?.message ?? "")")
    }

    @Test func sectionsOfOneNameAreOne() throws {
        let head = "Bootstrap: docker\nRegistry: ghcr.io\nNamespace: tools\nFrom: fsl:1 # stable\n"
        let definition = try ApptainerDefinition(
            head + "%post\n echo one\n%environment\n A=1\n%post\n docker inspect '{{.Id}}'\n%environment\n B=2\n", path: "x.def")
        #expect(definition.bases == ["ghcr.io/tools/fsl:1"])
        let (text, written) = try definition.dockerfile { $0 }
        #expect(text.contains("echo one\\n docker inspect '{{.Id}}'"), "\(text)")
        #expect(written["environment.sh"].map { String(decoding: $0.bytes, as: UTF8.self) } == "#!/bin/sh\n A=1\n B=2\n")
        for bad in [
            "Bootstrap: docker\nFrom: a:1\n%files from alpine:latest\n /a /b\n",
            "Bootstrap: docker\nFrom: a:1\nMirrorURL: x\n%post\n true\n",
            "Bootstrap: docker\nFrom: a:1\nStage: a b\n%post\n true\n", "Bootstrap: docker\nFrom: a:1\n%files\n ../x /y\n",
        ] { #expect(throws: FarmError.self) { try ApptainerDefinition(bad, path: "x.def").dockerfile { $0 } } }
    }

    @Test(arguments: [
        ("- environment: {'A;touch /x': b}", "recipe.variable"), ("- install: [\"git;reboot\"]", "recipe.package"),
        ("- user: 'me;id'", "recipe.user"),
        ("- workdir: \"/a\\nRUN evil\"", "recipe.control"), ("- copy: [\"a\", \"/b\\nFROM evil\"]", "recipe.control"),
        ("- deploy: {path: [\"/a\\nFROM evil:1\"]}", "recipe.control"),
        ("- run: [\"--mount=type=bind,from=evil:latest,target=/x cp /x/a /b\"]", "recipe.command"),
    ]) func noBackEndWritesWhatIsNoName(_ directive: String, _ code: String) throws {
        let text = "name: tool\nversion: \"1\"\nbuild:\n  kind: neurodocker\n  base-image: d:1\n  directives:\n    \(directive)\n"
        let source = RecipeSource(path: "build.yaml", files: ["build.yaml": Array(text.utf8), "a": [1]])
        let recipe = try Recipe.read(source)
        let error = #expect(throws: FarmError.self) {
            let draft = try RecipeDraft(recipe, source, target: try recipe.target(""))
            _ = try draft.dockerfile()
        }
        #expect(error?.code.rawValue == code, "\(error?.message ?? "")")
        if code != "recipe.command" {
            #expect(throws: FarmError.self) {
                try RecipeDraft(recipe, source, target: try recipe.target("")).definitionFile(base: "d:1")
            }
        }
    }

    @Test(arguments: [
        ("dockerfile", ["Dockerfile": "RUN true\n"], "Dockerfile:1: a Dockerfile begins with FROM"),
        ("dockerfile", ["Dockerfile": "# only this\n"], "has no FROM"),
        ("dockerfile", ["Dockerfile": "FROM $BASE\n"], "stands for no image"),
        ("dockerfile", ["Dockerfile": "FROM scratch\nCOPY a b\n"], "no base image that could be pinned"),
        ("dockerfile", [:], "recipes/tool/Dockerfile does not exist"), ("hpccm", ["recipe.py": ""], "was not run"),
        ("definition", ["Singularity.def": "Bootstrap: library\nFrom: x\n%post\n true\n"], "Singularity.def:1: \"Bootstrap: library\""),
        ("definition", ["Singularity.def": "Bootstrap: docker\nFrom: x:1\n%setup\n true\n"], "Singularity.def:3: a section %setup"),
        ("definition", ["Singularity.def": "Bootstrap: docker\nFrom: x:1\n%files\n /etc/passwd /x\n"], "lies on the builder's own disk"),
        ("definition", ["Singularity.def": "Bootstrap: docker\nFrom: x:1\n%post\n echo {{ NOTHING }}\n"], "\"{{ NOTHING }}\" has no value"),
        ("definition", ["Singularity.def": "echo\n"], "does not begin with a header"), ("podman", [:], "is no kind of build"),
    ]) func badFilesNameFileAndLine(_ kind: String, _ files: [String: String], _ part: String) {
        let error = #expect(throws: FarmError.self) { try draft(kind, files) }
        #expect(error?.message.contains(part) == true && error?.category == .invalid, "\(error?.message ?? "")")
    }
}
