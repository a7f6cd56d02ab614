import FarmModel
import Foundation
import Glibc
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

    /// A link to the newest of `caches`.
    private var link: String { "\(site.root)/cache" }
    private var directory: String { "\(site.root)/caches" }

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
        // Whoever comes last has seen the newest state.
        let lock = try await lock()
        defer { withExtendedLifetime(lock) {} }
        guard let program = SpiderCache.program() else {
            try Disk.remove(link)
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
        let name = Nonce.hex(bytes: 4)
        let staging = "\(directory)/\(name)"
        try Disk.makeDirectory(staging)
        let text = String(decoding: bytes, as: UTF8.self).replacing("\(alias)/", with: SpiderCache.escaped("\(prefix)/"))
        // Lmod believes no cache that is older than this.
        try Disk.write("\(staging)/timestamp", [])
        try Disk.write("\(staging)/spiderT.lua", Array(text.utf8))
        if let compiled = try Disk.list(made).first(where: { $0.hasPrefix("spiderT.luac_") }) {
            await quicken(staging, compiled, version: String(compiled.dropFirst("spiderT.luac_".count)))
        }
        try Disk.write("\(staging)/lmodrc.lua", Array(description.utf8))
        try Disk.syncFileSystem(at: staging)
        let before = try? FileManager.default.destinationOfSymbolicLink(atPath: link)
        // A site of an earlier version has a directory here.
        if Disk.kind(link) == .directory { try Disk.remove(link) }
        try Disk.link(link, to: "caches/\(name)")
        // Who has begun to read the last one may go on.
        for old in try Disk.list(directory) where old != name && before != "caches/\(old)" { try Disk.remove("\(directory)/\(old)") }
        return true
    }

    private func lock() async throws -> FileLock {
        for _ in 0..<1200 {
            do {
                return try FileLock(
                    "\(site.root)/state/cache.lock", holder: "a refresh of the cache, process \(getpid())", hint: "let it finish")
            } catch let error as FarmError where error.code == "home.locked" { try await Task.sleep(for: .milliseconds(250)) }
        }
        throw FarmError("home.locked", .conflict, "another refresh of \(link) has not ended in five minutes", hint: "let it finish")
    }

    /// Writes beside the cache what is read faster, where Lua's own programs are there: all of it compiled, and, in `names`, compiled, too,
    /// only what a list of the modules needs.
    private func quicken(_ directory: String, _ compiled: String, version: String) async {
        func lua(_ program: String, _ words: [String]) async -> Bool {
            let name = Disk.isExecutable("/usr/bin/\(program)\(version)") ? "\(program)\(version)" : program
            let result = try? await ProcessRunner.run(Command(name, words, deadlineSeconds: 300))
            return result?.succeeded ?? false
        }
        _ = await lua("luac", ["-s", "-o", "\(directory)/\(compiled)", "\(directory)/spiderT.lua"])
        let names = "\(directory)/names"
        do {
            try Disk.makeDirectory(names)
            try Disk.write("\(names)/timestamp", [])
            try Disk.write("\(names)/thin.lua", Array(SpiderCache.thinning.utf8))
        } catch { return }
        let isThere = await lua("lua", ["\(names)/thin.lua", "\(directory)/spiderT.lua", "\(names)/spiderT.lua"])
        try? Disk.remove(isThere ? "\(names)/thin.lua" : names)
        if isThere { _ = await lua("luac", ["-s", "-o", "\(names)/\(compiled)", "\(names)/spiderT.lua"]) }
    }

    /// Lmod copies and turns over all that the cache says of each module, also for a list of names, for which this is enough.
    private static let thinning = """
        dofile(arg[1])
        local needless = {}
        for word in ("Category Description Name Version help whatis pathA lpathA provides URL"):gmatch("%S+") do needless[word] = true end
        local out = {}
        local function write(value)
            if type(value) ~= "table" then
                out[#out + 1] = type(value) == "string" and string.format("%q", value) or tostring(value)
                return
            end
            out[#out + 1] = "{"
            for key, inner in pairs(value) do
                if not (value.fn and needless[key]) then
                    out[#out + 1] = "[" .. (type(key) == "string" and string.format("%q", key) or tostring(key)) .. "]="
                    write(inner)
                    out[#out + 1] = ","
                end
            end
            out[#out + 1] = "}"
        end
        for _, name in ipairs{"timestampFn", "mrcT", "mrcMpathT", "spiderT", "mpathMapT"} do
            if _G[name] ~= nil then
                out[#out + 1] = name .. "="
                write(_G[name])
                out[#out + 1] = "\\n"
            end
        end
        local file = assert(io.open(arg[2], "w"))
        file:write(table.concat(out))
        assert(file:close())
        """

    /// As it stands inside a quoted Lua text.
    private static func escaped(_ text: String) -> String { String(ModuleFile.luaString(text).dropFirst().dropLast()) }

    /// What `LMOD_RC` leads to: says where the cache is.
    private var description: String {
        """
        -- Written by sciferry. A list of modules without their commands reads names alone; everything else reads the whole.
        local place = \(ModuleFile.luaString("\(prefix)/cache"))
        local shells = {}
        for word in ("bash sh zsh ksh csh tcsh fish rc perl python lisp cmake r ruby lua json"):gmatch("%S+") do shells[word] = true end
        local words = {}
        for _, word in ipairs(arg or {}) do
            if word:sub(1, 1) ~= "-" then words[#words + 1] = word end
        end
        local command = shells[words[1]] and words[2] or words[1]
        local isPlain = (os.getenv("LMOD_AVAIL_EXTENSIONS") or ""):lower() == "no" and (command == "avail" or command == "av")
        local names = isPlain and io.open(place .. "/names/spiderT.lua")
        if names then
            names:close()
            place = place .. "/names"
        end
        scDescriptT = { { dir = place, timestamp = place .. "/timestamp" } }

        """
    }
}
