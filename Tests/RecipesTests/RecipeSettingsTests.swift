import FarmModel
import Foundation
import Microarchitecture
import Support
import SystemIO
import Testing

@testable import Recipes

/// The `x-sciferry` block, the lock of shared files, and the schema.
@Suite struct RecipeSettingsTests {
    private func source(_ settings: String, run: String = "true", collection: [String: String] = [:]) -> RecipeSource {
        let text = """
            name: tool
            version: "1.2"
            build:
              kind: neurodocker
              base-image: debian:12
              add-default-template: false
              directives:
                - run: ["\(run)"]
            \(settings)
            """
        return RecipeSource(
            path: "recipes/tool/build.yaml", files: ["build.yaml": Array(text.utf8)],
            collection: RecipeCollection(files: collection.mapValues { Array($0.utf8) }))
    }

    private func lock(_ draft: RecipeDraft, commit: String) -> [String: LockedInput] {
        let inputs = draft.inputs.map {
            LockedInput(
                kind: $0.kind, name: $0.name, architecture: "x86_64", digest: Digest(hashing: $0.name), size: 0, origin: .registry,
                bootstrap: nil, commit: $0.kind == .git ? commit : nil, lockedAt: Timestamp(milliseconds: 0))
        }
        return Dictionary(uniqueKeysWithValues: inputs.map { ($0.key, $0) })
    }

    @Test func everySettingReachesThePlan() throws {
        let source = source(
            """
            structured_readme: {citation: "Doe, {{ context.name }} {{ context.version }}. https://doi.org/10.1000/182."}
            x-sciferry:
              overridable: [FSLOUTPUTTYPE]
              targets: [x86_64_v2, x86_64_v3]
              verify_on: x86_64_v3
              limits: {disk_gib: 20, memory_gib: 8, wall_hours: 3, silent_minutes: 90}
              needs: [gpu, fast-disk]
              avoids: spot
              network: none
              upstream: {git: "https://git.example/tool", ref: "v{{ context.version }}"}
              squashfs: {level: 3, block_kib: 256}
              labels: {org.example.a: b c}
              arguments: {JOBS: 2}
            """, run: "git checkout {{ context.commit }}")
        let recipe = try Recipe.read(source)
        let target = try recipe.target("")
        #expect(target.name == "x86_64_v2" && recipe.settings.verifyOn == ["x86_64_v3"])
        let draft = try RecipeDraft(recipe, source, target: target)
        #expect(draft.inputs.map(\.name) == ["debian:12", "https://git.example/tool v1.2"])
        let commit = String(repeating: "ab", count: 20)
        let rendered = try draft.render(lock: lock(draft, commit: commit), suite: TestSuite())
        let plan = rendered.plan
        let limits = BuildLimits(memoryGiB: 8, wallHours: 3, silentMinutes: 90)
        #expect(plan.diskBytes == 20 << 30 && plan.limits == limits && plan.network == .none)
        #expect(rendered.workers == LabelWish(needs: ["fast-disk", "gpu"], avoids: ["spot"]) && rendered.declaresDisk)
        #expect(plan.image.level == 3 && plan.image.blockSize == 256 << 10)
        #expect(plan.dockerfile.contains("RUN git checkout \(commit)") && plan.dockerfile.contains("ARG JOBS=\"2\""))
        #expect(plan.dockerfile.contains("LABEL \"org.example.a\"=\"b c\""))
        #expect(plan.citation == "Doe, tool 1.2. https://doi.org/10.1000/182." && plan.overridable == ["FSLOUTPUTTYPE"])
        let error = #expect(throws: FarmError.self) { try recipe.target("x86_64_v4") }
        #expect(error?.code == "recipe.target" && error?.hint?.contains("x86_64_v2, x86_64_v3") == true)
        #expect(try recipe.target("x86_64").name == "x86_64_v2")
    }

    @Test(arguments: [
        ("x-sciferry: {limit: {}}", "recipe.unknown-key"), ("x-sciferry: {targets: [x86_64_v9]}", "recipe.target"),
        ("x-sciferry: {network: some}", "recipe.choice"), ("x-sciferry: {limits: {disk_gib: 0}}", "recipe.limit"),
        ("x-sciferry: {squashfs: {block_kib: 100}}", "recipe.squashfs"),
        ("x-sciferry: {upstream: {git: 'https://x'}}", "recipe.missing-key"),
        ("x-sciferry: {needs: [GPU]}", "label.name"), ("x-sciferry: {needs: gpu, avoids: gpu}", "label.conflict"),
        ("x-sciferry: {limits: {wall_hours: long}}", "recipe.type"), ("x-sciferry: {arguments: {'A B': 1}}", "recipe.variable"),
        ("x-sciferry: {overridable: A-B}", "recipe.variable"),
    ]) func badSettingsNameTheirLine(_ settings: String, _ code: String) {
        let error = #expect(throws: FarmError.self) { try Recipe.read(source(settings)) }
        #expect(error?.code.rawValue == code && error?.message.hasPrefix("recipes/tool/build.yaml:9:") == true, "\(error?.message ?? "")")
    }

    @Test func aChangedTemplateBreaksTheLock() throws {
        let text = "name: t\nversion: 1\nbuild: {kind: neurodocker, base-image: 'd:1', directives: [{template: {name: t}}]}\n"
        func draft(_ template: String) throws -> (RecipeDraft, RecipeSource) {
            let source = RecipeSource(
                path: "build.yaml", files: ["build.yaml": Array(text.utf8)],
                collection: RecipeCollection(files: ["templates/t.yaml": Array(template.utf8)]))
            let recipe = try Recipe.read(source)
            return (try RecipeDraft(recipe, source, target: try recipe.target("")), source)
        }
        let (before, source) = try draft("name: t\nbinaries:\n  instructions: echo one\n")
        let lock = RecipeLock([], shared: before.definition.shared)
        try lock.check(before.definition.shared, source)
        let (after, _) = try draft("name: t\nbinaries:\n  instructions: echo two\n")
        let error = #expect(throws: FarmError.self) { try lock.check(after.definition.shared, source) }
        #expect(error?.code == "lock.changed" && error?.message.contains("templates/t.yaml is locked") == true, "\(error?.message ?? "")")
    }

    @Test func targetsShareTheLayersBeforeTheFirstStepThatKnowsThem() throws {
        let source = source("", run: "echo {{ cpu_march }}")
        let recipe = try Recipe.read(source)
        let files = try ["x86_64", "x86_64_v3"].map { try RecipeDraft(recipe, source, target: try recipe.target($0)).dockerfile() }
        let steps = files.map(DockerfileSteps.init)
        #expect(steps[0].kept(by: steps[1]) == 3, "\(files[0])")
    }

    @Test func theSchemaIsTheCommittedOne() throws {
        let committed = try Disk.read("\(Repository.root)/docs/formats/recipe.schema.json", limit: 1 << 20)
        let isSame = try RecipeSchema.document() == String(decoding: committed, as: UTF8.self)
        #expect(isSame, "write it anew: sciferry recipe schema > docs/formats/recipe.schema.json")
    }
}
