import FarmModel
import SiteDelivery
import SystemIO

/// A module file as a site would have it, of an image that no site has yet.
enum TrialModule {
    /// Writes it below `directory/modules`. Returns what is loaded.
    static func write(_ plan: Plan, commands: [String], below directory: String) throws -> String {
        let nothing = IncomingObject(digest: Digest(hashing: ""), size: 0)
        let result = BuildResult(
            image: nothing.digest, imageSize: 0, manifest: nothing, packs: [], records: [], chunkCount: 0, newChunkCount: 0, newBytes: 0,
            tests: [], testRuntime: "", commands: commands, hostTarget: plan.target, phaseSeconds: [:])
        let release = Release(plan: plan, buildKey: nothing.digest, result: result, builtOn: "", publishedAt: .now)
        let file = ModuleFile(InstalledTool([release], installedAt: .now))
        let place = "\(directory)/modules/\(plan.name)"
        try Disk.makeDirectory(place)
        try Disk.replace("\(place)/\(plan.version).lua", with: Array(file.lua.utf8))
        return "\(plan.name)/\(plan.version)"
    }
}
