package import Attestation
import ChunkStore
package import FarmModel
import Foundation
import Glibc
import Microarchitecture
package import ObjectStorage
import SingularityImage
package import SystemIO

/// What a site follows and whom it trusts: `site.json` in the site's directory.
package struct SiteConfiguration: Codable, Sendable, Hashable {
    package var format = 1
    package var farm: String
    package var channel: String
    /// Buckets in order of preference.
    package var regions: [BucketLocation]
    /// Files on this machine that may share chunks with images, for example an older collection, and directories of such.
    package var seeds: [String]?
    /// Tells it from other sites in menus that show several. Absent in sites of older versions.
    package var id: String?
    /// Whom it trusts to begin with; newer roots that follow from it are taken from the buckets.
    package var root: TrustRoot

    package init(farm: String, channel: String, regions: [BucketLocation], root: TrustRoot) {
        self.farm = farm
        self.channel = channel
        self.regions = regions
        self.root = root
        id = Nonce.hex(bytes: 4)
    }
}

/// A directory that carries images, wrappers and modules:
///
///     site.json  site.yaml  state/
///     bin/sciferry-launch
///     images/DIGEST/{image.sif,manifest,release.json,launch}
///     tools/NAME/VERSION-DIGEST/{bin/COMMAND,launch,tool.json,image}
///     generations/NUMBER/{modules/NAME/VERSION{.lua,},wrappers/NAME/VERSION,launch,appearance.json,generation.json}
///     current -> generations/NUMBER   modules -> current/modules   wrappers -> current/wrappers   launch -> current/launch
///
/// Nothing in it names its own place, so it may be moved, mounted elsewhere and read-only. Modules lead to directories of `tools`, whose
/// content never changes: who has loaded one keeps it through every update.
package struct Site: Sendable {
    package let root: String
    /// What in it is its own, by name: nobody else writes there.
    package static let parts: Set<String> = [
        "site.json", "site.yaml", "launch", "state", "bin", "images", "tools", "generations", "current", "modules", "wrappers", "cache",
        "caches", "init",
    ]

    /// Opens a site; throws `site.absent` when the directory is none.
    package init(_ path: String) throws {
        root = Disk.absolute(path)
        guard Disk.exists("\(root)/site.json") else {
            throw FarmError("site.absent", .notFound, "\(root) is no site", hint: "make one: sciferry pull NAME --site DIR --farm HOME")
        }
    }

    /// Makes a site, or gives one that is there new settings.
    package static func create(_ path: String, _ configuration: SiteConfiguration) throws -> Site {
        let root = Disk.absolute(path)
        try Disk.makeDirectory("\(root)/state")
        try Disk.replace("\(root)/site.json", with: Array(try CanonicalJSON.pretty(configuration).utf8))
        let site = try Site(path)
        if Disk.kind("\(root)/wrappers") == .directory {
            try site.apply("the new form of sites", now: .now) { _ in }
        } else {
            try site.prepare()
        }
        return site
    }

    package func configuration() throws -> SiteConfiguration {
        try CanonicalJSON.decode(from: try Disk.read("\(root)/site.json", limit: 1 << 20), source: "\(root)/site.json")
    }

    /// What it believes, from what it was given and has seen since.
    package func trust() throws -> ChannelTrust {
        let remembered: ChannelTrust? = try? CanonicalJSON.decode(from: try Disk.read(trustPath, limit: 1 << 28), source: trustPath)
        return ChannelTrust(remembered: remembered, pinned: try configuration().root)
    }

    func remember(_ trust: ChannelTrust) throws { try Disk.replace(trustPath, with: try CanonicalJSON.encode(trust)) }

    private var trustPath: String { "\(root)/state/trust.json" }

    /// What `site.yaml` said when what users see was made.
    package func appearance() throws -> SiteAppearance {
        let path = "\(root)/current/appearance.json"
        guard Disk.exists(path) else { return SiteAppearance() }
        return try CanonicalJSON.decodeSettings(try Disk.read(path, limit: 1 << 24), defaults: SiteAppearance(), source: path)
    }

    /// Where an image lies, whether or not it is there.
    package func imageDirectory(_ digest: Digest) -> String { "\(root)/images/\(digest.hex)" }

    /// The file that a running pull keeps locked in its staging directory.
    static let stagingLock = ".pull.lock"

    /// A fresh directory for an image that is on its way, held until the lock goes.
    package func stageImage(_ digest: Digest) throws -> (path: String, lock: FileLock) {
        let path = "\(root)/images/.\(digest.hex.prefix(16)).\(Nonce.hex(bytes: 4))"
        try Disk.makeDirectory(path)
        return (path, try FileLock("\(path)/\(Site.stagingLock)", holder: "a pull, process \(getpid())", hint: "let it finish"))
    }

    /// What killed pulls of an image have left, and nobody holds any more.
    func remains(of digest: Digest) throws -> [String] {
        try Disk.list("\(root)/images").filter { $0.hasPrefix(".\(digest.hex.prefix(16)).") }.map { "\(root)/images/\($0)" }.filter {
            path in
            (try? FileLock("\(path)/\(Site.stagingLock)", holder: "a look", hint: "")) != nil
        }
    }

    /// Gives a staged image its name, unless another pull has been faster: what lies there is in use.
    func settle(_ staging: String, as digest: Digest) throws {
        let held = try lock("a pull")
        defer { withExtendedLifetime(held) {} }
        let directory = imageDirectory(digest)
        if Disk.exists("\(directory)/image.sif") { return try Disk.remove(staging) }
        if Disk.exists(directory) { try putAway(directory) }
        try Disk.rename(staging, to: directory)
        try Disk.syncDirectory(Disk.parent(of: directory))
        // Until now it has told others that this is no remains of a pull.
        try Disk.remove("\(directory)/\(Site.stagingLock)")
    }

    /// Directories of images, those of the release's tool first, the newest of them before the others.
    func imagesByLikeness(to release: Release) throws -> [String] {
        let all = try Disk.list("\(root)/images").filter { !$0.hasPrefix(".") }
        let kin = try installed().filter { $0.release.name == release.name }.sorted {
            VersionOrder.precedes($1.release.version, $0.release.version)
        }
        .map(\.release.image.digest.hex)
        return (kin.filter(all.contains) + all.filter { !kin.contains($0) }).map { "\(root)/images/\($0)" }
    }

    /// Removes what broken pulls left: staging directories that nobody holds, once they are a day old. Until then the next pull of the same
    /// image takes from them what had come.
    ///
    /// - Parameter kept: the image whose remains are of use now.
    package func sweepStaging(except kept: Digest? = nil) throws {
        for name in try Disk.list("\(root)/images") where name.hasPrefix(".") {
            if let kept, name.hasPrefix(".\(kept.hex.prefix(16)).") { continue }
            let path = "\(root)/images/\(name)"
            guard Timestamp.now.seconds(since: Disk.modified(path) ?? .now) > 86400 else { continue }
            guard (try? FileLock("\(path)/\(Site.stagingLock)", holder: "a sweep", hint: "")) != nil else { continue }
            try Disk.remove(path)
        }
    }

    /// Makes an image's commands available, in place of what was there of its tool, version and CPU target. The image must be complete.
    ///
    /// - Parameter yanked: why nobody should begin to use it.
    package func install(_ release: Release, yanked: String? = nil, now: Timestamp) throws {
        try apply("\(release.title)", now: now) { tools in
            tools.add(release, now: now)
            for index in tools.indices where tools[index].name == release.name && tools[index].version == release.version {
                tools[index].yanked = yanked
            }
        }
    }

    /// Takes a release's module and wrappers away, and its images when nothing else uses them.
    ///
    /// - Parameter keepsImage: leaves the images for `reinstall`.
    package func uninstall(name: String, version: String?, keepsImage: Bool = false, now: Timestamp) throws -> [InstalledTool] {
        let lock = try lock("an uninstall")
        defer { withExtendedLifetime(lock) {} }
        let victims = try installed().filter { $0.name == name && (version == nil || $0.version == version) }
        guard !victims.isEmpty else {
            throw FarmError(
                "site.not-installed", .notFound, "\(name)\(version.map { " \($0)" } ?? "") is not installed in \(root)",
                hint: "sciferry list --site \(root) shows what is")
        }
        let left = try apply("without \(victims.map(\.title).joined(separator: ", "))", now: now, lock: lock) { tools in
            tools.removeAll(where: victims.contains)
        }
        if keepsImage { return victims }
        let used = Set(left.tools.flatMap { $0.releases.map(\.image.digest) })
        for image in Set(victims.flatMap { $0.releases.map(\.image.digest) }).subtracting(used) {
            try Disk.remove(imageDirectory(image))
        }
        return victims
    }

    /// Installs again from images that lie in the site; the newest version unless one is named.
    package func reinstall(name: String, version: String?, now: Timestamp) throws -> InstalledTool {
        let there = try Disk.list("\(root)/images").filter { !$0.hasPrefix(".") }.compactMap { directory -> Release? in
            let path = "\(root)/images/\(directory)/release.json"
            guard let bytes = try? Disk.read(path, limit: 1 << 24) else { return nil }
            let release: Release = try CanonicalJSON.decode(from: bytes, source: path)
            return release.name == name && (version == nil || release.version == version) ? release : nil
        }
        guard let newest = there.max(by: { VersionOrder.precedes($0.version, $1.version) })?.version else {
            throw FarmError(
                "site.no-image", .notFound, "\(root) holds no image of \(name)\(version.map { " \($0)" } ?? "")",
                hint: "fetch it: sciferry pull \(name) --site \(root)")
        }
        // Of several for one CPU target, the one that was published last.
        let meant = there.filter { $0.version == newest }.sorted { $0.publishedAt < $1.publishedAt }
        let generation = try apply("\(name)/\(newest)", now: now) { tools in for release in meant { tools.add(release, now: now) } }
        guard let tool = generation.tools.first(where: { $0.name == name && $0.version == newest }) else {
            throw FarmError("site.no-image", .fault, "\(name)/\(newest) was not installed")
        }
        return tool
    }

    /// Writes beside an image what the launcher needs to know of it, where that is not there yet.
    func describe(_ release: Release) throws {
        let directory = imageDirectory(release.image.digest)
        if Disk.exists("\(directory)/launch") { return }
        let text = try ImageLayout("\(directory)/image.sif").launch(release)
        try Disk.replace("\(directory)/launch", with: Array(text.utf8))
    }

    func installLauncher() throws {
        let path = "\(root)/bin/sciferry-launch"
        let script = Array(Launcher.script.utf8)
        if let present = try? Disk.read(path, limit: 1 << 20), present == script { return }
        try Disk.replace(path, with: script, mode: 0o755)
    }
}

extension [InstalledTool] {
    /// Puts a release in the place of the one for the same tool, version and CPU target.
    package mutating func add(_ release: Release, now: Timestamp) {
        let index = firstIndex { $0.name == release.name && $0.version == release.version }
        let others = index.map { self[$0].releases.filter { $0.image.target != release.image.target } } ?? []
        if let index {
            guard !self[index].releases.contains(release) else { return }
            remove(at: index)
        }
        append(InstalledTool(others + [release], installedAt: now))
    }
}
