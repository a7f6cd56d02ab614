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
    /// Whom it trusts to begin with; newer roots that follow from it are taken from the buckets.
    package var root: TrustRoot

    package init(farm: String, channel: String, regions: [BucketLocation], root: TrustRoot) {
        self.farm = farm
        self.channel = channel
        self.regions = regions
        self.root = root
    }
}

/// What is installed of one release; `images/DIGEST/release.json` holds the rest.
package struct InstalledRelease: Codable, Sendable, Hashable {
    package var release: Release
    package var commands: [String]
    package var installedAt: Timestamp

    package init(release: Release, commands: [String], installedAt: Timestamp) {
        self.release = release
        self.commands = commands
        self.installedAt = installedAt
    }
}

/// A directory that carries images, wrappers and modules:
///
///     site.json  state/trust.json
///     bin/sciferry-launch
///     images/DIGEST/{image.sif,manifest,release.json,offset}
///     wrappers/NAME/VERSION -> ../../wrappers/.versions/…   {bin/COMMAND, image}
///     modules/NAME/VERSION.lua
///
/// Nothing in it names its own place, so it may be moved, mounted elsewhere and read-only.
package struct Site: Sendable {
    package let root: String

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
        for directory in ["state", "bin", "images", "wrappers", "modules"] { try Disk.makeDirectory("\(root)/\(directory)") }
        try Disk.replace("\(root)/site.json", with: Array(try CanonicalJSON.pretty(configuration).utf8))
        return try Site(path)
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

    /// Everything that is installed, by name and version.
    package func installed() throws -> [InstalledRelease] {
        var result: [InstalledRelease] = []
        for name in try Disk.list("\(root)/wrappers") {
            for version in try Disk.list("\(root)/wrappers/\(name)") where !version.hasPrefix(".") {
                let path = "\(root)/wrappers/\(name)/\(version)/installed.json"
                guard let bytes = try? Disk.read(path, limit: 1 << 24) else { continue }
                result.append(try CanonicalJSON.decode(from: bytes, source: path))
            }
        }
        return result
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

    /// Makes an image's commands available: launcher, wrappers, module. The image must be complete. Each step replaces
    /// in one rename, so a job that runs meanwhile keeps what it has.
    package func install(_ release: Release, commands: [String], now: Timestamp) throws {
        try installLauncher()
        let name = release.name
        let version = release.version
        let unique = "\(version).\(release.image.digest.hex.prefix(12)).\(Nonce.hex(bytes: 3))"
        let staging = "\(root)/wrappers/\(name)/.\(unique)"
        try Disk.makeDirectory("\(staging)/bin")
        for command in commands { try Disk.link("\(staging)/bin/\(command)", to: "../../../../bin/sciferry-launch") }
        try Disk.link("\(staging)/image", to: "../../../images/\(release.image.digest.hex)")
        let record = InstalledRelease(release: release, commands: commands, installedAt: now)
        try Disk.replace("\(staging)/installed.json", with: try CanonicalJSON.encode(record))
        let current = "\(root)/wrappers/\(name)/\(version)"
        let previous = try? FileManager.default.destinationOfSymbolicLink(atPath: current)
        try Disk.link(current, to: ".\(unique)")
        try Disk.makeDirectory("\(root)/modules/\(name)")
        try Disk.replace(
            "\(root)/modules/\(name)/\(version).lua", with: Array(ModuleFile(release, commands: commands).lua.utf8))
        if let previous, previous != ".\(unique)" { try Disk.remove("\(root)/wrappers/\(name)/\(previous)") }
        try sweepWrappers(of: name)
    }

    /// Removes trees of wrappers that no version leads to: those of killed installs, once they are an hour old.
    private func sweepWrappers(of name: String) throws {
        let directory = "\(root)/wrappers/\(name)"
        let entries = try Disk.list(directory)
        let used = Set(entries.compactMap { try? FileManager.default.destinationOfSymbolicLink(atPath: "\(directory)/\($0)") })
        for entry in entries where entry.hasPrefix(".") && !used.contains(entry) {
            let age = Timestamp.now.seconds(since: Disk.modified("\(directory)/\(entry)") ?? .now)
            if age > 3600 { try Disk.remove("\(directory)/\(entry)") }
        }
    }

    /// Takes a release's module and wrappers away, and its image when nothing else uses it.
    ///
    /// - Parameter keepsImage: leaves the image for `reinstall`.
    package func uninstall(name: String, version: String?, keepsImage: Bool = false) throws -> [InstalledRelease] {
        let victims = try installed().filter { $0.release.name == name && (version == nil || $0.release.version == version) }
        guard !victims.isEmpty else {
            throw FarmError(
                "site.not-installed", .notFound, "\(name)\(version.map { " \($0)" } ?? "") is not installed in \(root)",
                hint: "sciferry list --site \(root) shows what is")
        }
        for victim in victims {
            let release = victim.release
            try Disk.remove("\(root)/modules/\(name)/\(release.version).lua")
            let current = "\(root)/wrappers/\(name)/\(release.version)"
            let target = try? FileManager.default.destinationOfSymbolicLink(atPath: current)
            try Disk.remove(current)
            if let target { try Disk.remove("\(root)/wrappers/\(name)/\(target)") }
        }
        rmdir("\(root)/modules/\(name)")
        rmdir("\(root)/wrappers/\(name)")
        let used = Set(try installed().map(\.release.image.digest))
        for victim in victims where !keepsImage && !used.contains(victim.release.image.digest) {
            try Disk.remove(imageDirectory(victim.release.image.digest))
        }
        return victims
    }

    /// Installs again from an image that lies in the site; the newest version unless one is named.
    package func reinstall(name: String, version: String?, now: Timestamp) throws -> Release {
        let there = try Disk.list("\(root)/images").filter { !$0.hasPrefix(".") }.compactMap { directory -> Release? in
            let path = "\(root)/images/\(directory)/release.json"
            guard let bytes = try? Disk.read(path, limit: 1 << 24) else { return nil }
            let release: Release = try CanonicalJSON.decode(from: bytes, source: path)
            return release.name == name && (version == nil || release.version == version) ? release : nil
        }
        guard let release = there.max(by: { VersionOrder.precedes($0.version, $1.version) }) else {
            throw FarmError(
                "site.no-image", .notFound, "\(root) holds no image of \(name)\(version.map { " \($0)" } ?? "")",
                hint: "fetch it: sciferry pull \(name) --site \(root)")
        }
        try install(release, commands: release.commands, now: now)
        return release
    }

    private func installLauncher() throws {
        let path = "\(root)/bin/sciferry-launch"
        let script = Array(Launcher.script.utf8)
        if let present = try? Disk.read(path, limit: 1 << 20), present == script { return }
        try Disk.replace(path, with: script, mode: 0o755)
    }
}
