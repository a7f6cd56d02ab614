package import FarmModel
import Foundation
package import SystemIO

/// One state of a site: which tools it carries and how they look. The site shows one of them, `current`; changing that is one rename.
package struct SiteGeneration: Codable, Sendable, Hashable {
    package var number: Int
    package var madeAt: Timestamp
    /// What made it, for people.
    package var title: String
    /// By name and version.
    package var tools: [InstalledTool]
    /// Of all that can be seen of it: the same again is no new generation.
    package var fingerprint: Digest

    static let currentFormat = 1
    package var format = SiteGeneration.currentFormat
}

extension Site {
    private var generations: String { "\(root)/generations" }

    private func directory(_ number: Int) -> String { "\(generations)/\(number)" }

    /// The one that users see; `nil` before the first.
    package func current() throws -> SiteGeneration? {
        guard let link = try? FileManager.default.destinationOfSymbolicLink(atPath: "\(root)/current") else { return nil }
        return try generation(at: "\(root)/\(link)")
    }

    private func generation(at directory: String) throws -> SiteGeneration {
        let path = "\(directory)/generation.json"
        return try CanonicalJSON.decode(from: try Disk.read(path, limit: 1 << 28), source: path)
    }

    /// All that are kept, oldest first. Throws for one that cannot be read: nobody knows what it needs.
    package func history() throws -> [SiteGeneration] { try numbers().map { try generation(at: directory($0)) } }

    private func numbers() throws -> [Int] {
        guard Disk.isDirectory(generations) else { return [] }
        return try Disk.list(generations).compactMap(Int.init).sorted()
    }

    /// Everything that users see, by name and version.
    package func installed() throws -> [InstalledTool] { try current()?.tools ?? [] }

    /// Holds the site against other changes, which are short: waits for half a minute, then throws `home.locked`.
    package func lock(_ title: String) throws -> FileLock {
        for _ in 0..<600 {
            do { return try takeLock(title) } catch let error as FarmError where error.code == "home.locked" { usleep(50_000) }
        }
        return try takeLock(title)
    }

    private func takeLock(_ title: String) throws -> FileLock {
        try FileLock("\(root)/state/site.lock", holder: "\(title), process \(getpid())", hint: "let it finish")
    }

    /// Changes what the site carries, in one step: whoever runs something meanwhile keeps what it has. The images must be there. Nothing is
    /// made when nothing would differ.
    ///
    /// - Parameters:
    ///   - title: what does it, for people.
    ///   - lock: from `lock`, when the caller holds it already.
    ///   - look: how tools look and run from now on; as before where nothing is said.
    ///   - change: gets what is carried now, in any order, and leaves what shall be.
    /// - Returns: the generation that users see now.
    @discardableResult
    package func apply(
        _ title: String, now: Timestamp, lock held: FileLock? = nil, look: SiteAppearance? = nil,
        _ change: (inout [InstalledTool]) throws -> Void
    ) throws -> SiteGeneration {
        let lock = try held ?? self.lock(title)
        defer { withExtendedLifetime(lock) {} }
        var tools = try installed() + formerlyInstalled(now: now)
        try prepare()
        try change(&tools)
        // What this version says of CPUs may be other than what was written down.
        tools = tools.map { tool in
            var fresh = InstalledTool(tool.releases, installedAt: tool.installedAt)
            fresh.yanked = tool.yanked
            return fresh
        }
        tools.sort { ($0.name, $0.version) < ($1.name, $1.version) }
        let appearance = try look ?? appearance()
        let modules = try ModuleTree(tools, appearance)
        let before = try current()
        let fingerprint = try fingerprint(tools, modules, appearance)
        try write(tools)
        if let before, before.fingerprint == fingerprint { return before }
        let next = SiteGeneration(
            number: (try numbers().last ?? 0) + 1, madeAt: now, title: title, tools: tools, fingerprint: fingerprint)
        try write(next, modules, appearance)
        try show(next.number, now: now)
        return next
    }

    /// Goes back to a generation that is kept; throws `site.generation` when there is none, or what it needs has been collected.
    ///
    /// - Parameter number: `nil` for the one before the current.
    package func rollBack(to number: Int?, now: Timestamp) throws -> SiteGeneration {
        let lock = try lock("a rollback")
        defer { withExtendedLifetime(lock) {} }
        let current = try current()?.number ?? 0
        let known = try numbers()
        guard let target = number ?? known.last(where: { $0 < current }), known.contains(target) else {
            throw FarmError(
                "site.generation", .notFound, "\(root) has no generation \(number.map(String.init) ?? "before this one")",
                hint: "sciferry site history shows those that it has")
        }
        let generation = try generation(at: directory(target))
        for tool in generation.tools {
            for release in tool.releases where !Disk.exists("\(imageDirectory(release.image.digest))/image.sif") {
                throw FarmError(
                    "site.generation", .conflict, "generation \(target) needs the image of \(release.title), which is gone",
                    hint: "sciferry pull \(release.name)/\(release.version) --site \(root) brings it back")
            }
        }
        try write(generation.tools)
        try show(target, now: now)
        return generation
    }

    /// What a site of version 0.1 carried, whose `wrappers` was no link.
    private func formerlyInstalled(now: Timestamp) throws -> [InstalledTool] {
        struct Former: Decodable { var release: Release }
        guard Disk.kind("\(root)/wrappers") == .directory else { return [] }
        var tools: [InstalledTool] = []
        for name in try Disk.list("\(root)/wrappers") {
            for version in try Disk.list("\(root)/wrappers/\(name)") where !version.hasPrefix(".") {
                let path = "\(root)/wrappers/\(name)/\(version)/installed.json"
                guard let bytes = try? Disk.read(path, limit: 1 << 24) else { continue }
                let release = try CanonicalJSON.decode(Former.self, from: bytes, source: path).release
                guard Disk.exists("\(imageDirectory(release.image.digest))/image.sif") else { continue }
                try describe(release)
                tools.add(release, now: now)
            }
        }
        return tools
    }

    // MARK: files

    /// Directories and links that every site has.
    func prepare() throws {
        for directory in ["state", "bin", "init", "images", "tools", "generations"] { try Disk.makeDirectory("\(root)/\(directory)") }
        try installLauncher()
        for (name, text) in ShellSetup.files {
            let path = "\(root)/init/\(name)"
            if (try? Disk.read(path, limit: 1 << 20)) != Array(text.utf8) { try Disk.replace(path, with: Array(text.utf8)) }
        }
        if Disk.kind("\(root)/launch") != .link { try Disk.link("\(root)/launch", to: "current/launch") }
        for name in ["modules", "wrappers"] {
            // A site of version 0.1 has directories here.
            if Disk.kind("\(root)/\(name)") == .directory {
                try Disk.rename("\(root)/\(name)", to: "\(root)/.former-\(name)")
                try Disk.link("\(root)/\(name)", to: "current/\(name)")
                try Disk.remove("\(root)/.former-\(name)")
            }
            if Disk.kind("\(root)/\(name)") == nil { try Disk.link("\(root)/\(name)", to: "current/\(name)") }
        }
    }

    private func fingerprint(_ tools: [InstalledTool], _ modules: ModuleTree, _ appearance: SiteAppearance) throws -> Digest {
        struct Seen: Encodable {
            var tools: [String]
            var files: [String: String]
            var links: [String: String]
            var modulerc: String
            var appearance: SiteAppearance
        }
        return Digest(
            hashing: try CanonicalJSON.encode(
                Seen(
                    tools: tools.map { "\($0.name)/\($0.directory)" }, files: modules.files, links: modules.links,
                    modulerc: modules.modulerc, appearance: appearance)))
    }

    /// Tools' wrappers, each in a directory whose name says what is in it. One that is there in part, after a loss of power or a collection
    /// that was killed, is made whole.
    private func write(_ tools: [InstalledTool]) throws {
        var fresh: [(staging: String, path: String)] = []
        for tool in tools {
            let path = "\(root)/tools/\(tool.name)/\(tool.directory)"
            if isWhole(tool, at: path) { continue }
            let staging = "\(root)/tools/\(tool.name)/.\(tool.directory).\(Nonce.hex(bytes: 4))"
            try Disk.makeDirectory("\(staging)/bin")
            for command in tool.commands { try Disk.link("\(staging)/bin/\(command)", to: "../../../../bin/sciferry-launch") }
            try Disk.link("\(staging)/image", to: "../../../images/\(tool.release.image.digest.hex)")
            try Disk.write("\(staging)/launch", Array(tool.launch.utf8))
            try Disk.write("\(staging)/tool.json", try CanonicalJSON.encode(tool))
            fresh.append((staging, path))
        }
        guard !fresh.isEmpty else { return }
        try Disk.syncFileSystem(at: root)
        for (staging, path) in fresh {
            // Calls that look at it meanwhile find the one or the other.
            if Disk.exists(path) {
                try Disk.exchange(staging, path)
                try putAway(staging)
            } else {
                try Disk.rename(staging, to: path)
            }
        }
    }

    private func isWhole(_ tool: InstalledTool, at path: String) -> Bool {
        guard let launch = try? Disk.read("\(path)/launch", limit: 1 << 24), tool.isWritten(as: String(decoding: launch, as: UTF8.self)),
            let names = try? Disk.list("\(path)/bin"), Disk.exists("\(path)/tool.json")
        else { return false }
        return Set(names) == Set(tool.commands)
    }

    /// Removes a directory that has a name which means something: from the first moment on it has that name no more.
    func putAway(_ path: String) throws {
        let aside = "\(Disk.parent(of: path))/.gone.\(Nonce.hex(bytes: 4))"
        try Disk.rename(path, to: aside)
        try Disk.remove(aside)
    }

    private func write(_ generation: SiteGeneration, _ modules: ModuleTree, _ appearance: SiteAppearance) throws {
        let staging = "\(generations)/.\(generation.number).\(Nonce.hex(bytes: 4))"
        for name in ["modules", "wrappers"] { try Disk.makeDirectory("\(staging)/\(name)") }
        for tool in generation.tools {
            try Disk.makeDirectory("\(staging)/wrappers/\(tool.name)")
            try Disk.link("\(staging)/wrappers/\(tool.name)/\(tool.version)", to: "../../../../tools/\(tool.name)/\(tool.directory)")
        }
        for (path, text) in modules.files {
            try Disk.makeDirectory(Disk.parent(of: "\(staging)/modules/\(path)"))
            try Disk.write("\(staging)/modules/\(path)", Array(text.utf8))
        }
        for (path, target) in modules.links {
            try Disk.makeDirectory(Disk.parent(of: "\(staging)/modules/\(path)"))
            try Disk.link("\(staging)/modules/\(path)", to: target)
        }
        try Disk.write("\(staging)/modulerc", Array(modules.modulerc.utf8))
        try Disk.write("\(staging)/launch", Array(appearance.launch.utf8))
        try Disk.write("\(staging)/appearance.json", try CanonicalJSON.encode(appearance))
        // What shells read tells by this where the modules begin.
        if appearance.naming == .easybuild { try Disk.write("\(staging)/\(ShellSetup.belowAll)", []) }
        // A module file finds the site above `modules`, by whatever path it was reached.
        for name in ["tools", "images"] { try Disk.link("\(staging)/\(name)", to: "../../\(name)") }
        try Disk.write("\(staging)/generation.json", try CanonicalJSON.encode(generation))
        try Disk.rename(staging, to: directory(generation.number))
        try Disk.syncFileSystem(at: root)
    }

    /// When a generation was last taken from view; `nil` for one that never was.
    func hiddenAt(_ number: Int) -> Timestamp? {
        guard let bytes = try? Disk.read("\(directory(number))/hidden", limit: 64) else { return nil }
        return Int64(String(decoding: bytes, as: UTF8.self)).map { Timestamp(milliseconds: $0) }
    }

    private func show(_ number: Int, now: Timestamp) throws {
        // Before it happens: whoever loads something in between is covered by the days for which it is kept.
        if let before = try current()?.number, before != number {
            try Disk.replace("\(directory(before))/hidden", with: Array("\(now.milliseconds)".utf8))
        }
        try Disk.link("\(root)/current", to: "generations/\(number)")
        try Disk.syncDirectory(root)
    }
}
