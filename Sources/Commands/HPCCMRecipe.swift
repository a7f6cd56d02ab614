import FarmModel
import ProcessRunner
import Recipes

/// Recipes of HPC Container Maker (https://github.com/NVIDIA/hpc-container-maker) are Python programs. They are run here, by the
/// maintainer whose they are, never by the farm, which gets the Dockerfile that comes out.
enum HPCCMRecipe {
    /// The source with the Dockerfile that HPCCM makes, when the recipe is of that kind; throws `hpccm.*`.
    static func completed(_ source: RecipeSource) async throws -> RecipeSource {
        // A recipe that cannot be read is somebody else's to complain of.
        guard let recipe = try? Recipe.read(source), let foreign = recipe.build.foreign, foreign.kind == .hpccm else { return source }
        guard source.files[foreign.file] != nil else { return source }
        guard let program = ProcessRunner.find("hpccm") else {
            throw FarmError("hpccm.absent", .unavailable, "\(source.path) needs hpccm, which is not installed", hint: "pip install hpccm")
        }
        let place = source.location(of: foreign.file)
        func hpccm(_ streams: String) async throws -> CommandResult {
            try await ProcessRunner.run(
                Command("/bin/sh", ["-c", "exec \"$0\" --recipe \"$1\" --format docker \(streams)", program, place], deadlineSeconds: 120))
        }
        // Its warnings must not become part of the Dockerfile.
        let result = try await hpccm("2>/dev/null")
        guard result.succeeded else {
            let said = try await hpccm("2>&1 >/dev/null").text
            let last = said.split(separator: "\n").last.map(String.init) ?? "status \(result.status)"
            throw FarmError("hpccm.failed", .invalid, "\(place): hpccm refuses the recipe: \(last)", hint: "run: hpccm --recipe \(place)")
        }
        var source = source
        source.files[Recipe.generatedDockerfile] = result.output
        return source
    }
}
