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
        func pinned(_ name: String, _ tagged: String) -> String { "\(name)@sha256:\(Digest(hashing: tagged).hex)" }
        #expect(
            rendered.plan.dockerfile == """
                ARG VERSION=12
                FROM \(pinned("debian", "debian:12")) AS build
                RUN make \\
                  install
                FROM \(pinned("alpine", "alpine:latest"))
                COPY --from=build /a /a
                COPY --from=\(pinned("busybox", "busybox:1.36")) /bin/busybox /b
                COPY run.sh /usr/bin/tool
                ENV DEPLOY_BINS="tool"

                """)
        #expect(rendered.plan.base.name == "debian:12" && rendered.plan.moreBases.count == 2)
        #expect(rendered.plan.context.map(\.path) == ["Dockerfile", "run.sh"])
        #expect(rendered.plan.context.last?.executable == true)
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
