import FarmModel
import Foundation
import ProcessRunner
import SystemIO

/// Lmod's system spider cache of a site (https://lmod.readthedocs.io, "System Spider Cache"): `ml avail` and `ml spider` read one file
/// instead of all modules.
package struct SpiderCache: Sendable {
    private let site: Site
    /// Where users see the site.
    private let prefix: String

    package init(_ site: Site) throws {
        self.site = site
        let seen = try site.appearance().prefix
        prefix = seen.isEmpty ? Disk.realPath(site.root) ?? site.root : seen
    }

    private var directory: String { "\(site.root)/cache" }

    /// Where Lmod keeps the program that makes one; `nil` where Lmod is not installed.
    package static func program() -> String? {
        let named = ["LMOD_DIR", "LMOD_PKG"].compactMap { ProcessInfo.processInfo.environment[$0] }
        return
            (named.flatMap { ["\($0)/update_lmod_system_cache_files", "\($0)/libexec/update_lmod_system_cache_files"] }
            + ["/usr/share/lmod/lmod/libexec/update_lmod_system_cache_files", "/opt/lmod/lmod/libexec/update_lmod_system_cache_files"])
            .first(where: Disk.isExecutable)
    }

    /// What users' `MODULEPATH` names.
    package static func modulePath(_ root: String, _ naming: SiteAppearance.Naming) -> String {
        naming == .easybuild ? "\(root)/modules/all" : "\(root)/modules"
    }

    /// Makes it anew, or says why not. Readers see the old one or the new one.
    ///
    /// - Returns: whether there is one now; without Lmod on this machine there is none.
    package func refresh() async throws -> Bool {
        guard let program = SpiderCache.program() else {
            try Disk.remove(directory)
            return false
        }
        let naming = try site.appearance().naming
        let real = Disk.realPath(site.root) ?? site.root
        // The program takes paths apart at spaces, so it sees the site through a link; and what it writes must name what users see.
        let work = "/tmp/sciferry-spider-\(Nonce.hex(bytes: 8))"
        let (alias, made) = ("\(work)/site", "\(work)/cache")
        try Disk.makeNewDirectory(work, mode: 0o700)
        defer { try? Disk.remove(work) }
        try Disk.makeDirectory(made)
        try Disk.link(alias, to: real)
        let result = try await ProcessRunner.run(
            Command(
                program, ["-d", made, "-t", "\(made)/timestamp", SpiderCache.modulePath(alias, naming)],
                environment: ["MODULEPATH": nil, "LMOD_RC": nil, "LMOD_SYSTEM_DEFAULT_MODULES": nil], deadlineSeconds: 900))
        guard result.succeeded, let bytes = try? Disk.read("\(made)/spiderT.lua") else {
            throw FarmError("site.cache", .failed, "Lmod's cache cannot be made: \(result.text.suffix(500))")
        }
        let staging = "\(site.root)/.cache.\(Nonce.hex(bytes: 4))"
        defer { try? Disk.remove(staging) }
        try Disk.makeDirectory(staging)
        let text = String(decoding: bytes, as: UTF8.self).replacing("\(alias)/", with: SpiderCache.escaped("\(prefix)/"))
        try Disk.write("\(staging)/spiderT.lua", Array(text.utf8))
        try Disk.write("\(staging)/timestamp", [])
        // Read in a third of the time, where Lua's own compiler is there.
        if let compiled = try Disk.list(made).first(where: { $0.hasPrefix("spiderT.luac_") }) {
            _ = try? await ProcessRunner.run(
                Command(
                    Disk.isExecutable("/usr/bin/luac\(compiled.dropFirst("spiderT.luac_".count))")
                        ? "luac\(compiled.dropFirst("spiderT.luac_".count))" : "luac",
                    ["-s", "-o", "\(staging)/\(compiled)", "\(staging)/spiderT.lua"], deadlineSeconds: 300))
        }
        try Disk.write("\(staging)/lmodrc.lua", Array(description.utf8))
        try Disk.syncFileSystem(at: staging)
        // A directory cannot take another one's place in one step; without a cache Lmod reads the modules for a moment.
        try Disk.remove(directory)
        try Disk.rename(staging, to: directory)
        return true
    }

    /// As it stands inside a quoted Lua text.
    private static func escaped(_ text: String) -> String { String(ModuleFile.luaString(text).dropFirst().dropLast()) }

    /// What `LMOD_RC` leads to: says where the cache is.
    private var description: String {
        let place = ModuleFile.luaString("\(prefix)/cache")
        return "scDescriptT = { { dir = \(place), timestamp = \(place) .. \"/timestamp\" } }\n"
    }
}
