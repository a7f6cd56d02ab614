import FarmModel
import ProcessRunner
import Recipes
import Synchronization

/// Recipes of HPC Container Maker (https://github.com/NVIDIA/hpc-container-maker) are Python programs. They are run here, by the
/// maintainer whose they are, never by the farm, which gets the Dockerfile that comes out.
enum HPCCMRecipe {
    /// The source with the Dockerfile that HPCCM makes, when the recipe is of that kind; throws `hpccm.*`.
    ///
    /// - Parameter allowed: whether the maintainer wants the program to be run; who only looks at a recipe may not.
    static func completed(_ source: RecipeSource, if allowed: Bool = true) async throws -> RecipeSource {
        // A recipe that cannot be read is somebody else's to complain of.
        guard let recipe = try? Recipe.read(source), let foreign = recipe.build.foreign, foreign.kind == .hpccm else { return source }
        guard source.files[foreign.file] != nil else { return source }
        guard allowed else {
            throw FarmError(
                "hpccm.not-run", .invalid, "\(source.path):\(foreign.line): \(foreign.file) is a program, and was not run",
                hint: "read it first; then --run-hpccm")
        }
        guard let program = ProcessRunner.find("hpccm") else {
            throw FarmError("hpccm.absent", .unavailable, "\(source.path) needs hpccm, which is not installed", hint: "pip install hpccm")
        }
        let place = source.location(of: foreign.file)
        func hpccm(_ streams: String, _ collector: OutputBuffer?) async throws -> CommandResult {
            try await ProcessRunner.run(
                Command("/bin/sh", ["-c", "exec \"$0\" --recipe \"$1\" --format docker \(streams)", program, place], deadlineSeconds: 120)
            ) { collector?.add($0) }
        }
        // Its warnings must not become part of the Dockerfile.
        let whole = OutputBuffer()
        let result = try await hpccm("2>/dev/null", whole)
        guard result.succeeded else {
            let said = try await hpccm("2>&1 >/dev/null", nil).text
            let last = said.split(separator: "\n").last.map(String.init) ?? "status \(result.status)"
            throw FarmError("hpccm.failed", .invalid, "\(place): hpccm refuses the recipe: \(last)", hint: "run: hpccm --recipe \(place)")
        }
        var source = source
        source.files[Recipe.generatedDockerfile] = whole.bytes
        return source
    }
}

/// All that a program prints, at most 2 MiB.
private final class OutputBuffer: Sendable {
    private let kept = Mutex<[UInt8]>([])

    func add(_ bytes: [UInt8]) { kept.withLock { if $0.count < 2 << 20 { $0 += bytes } } }

    var bytes: [UInt8] { kept.withLock { $0 } }
}
