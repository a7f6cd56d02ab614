import FarmModel
import Foundation
import ImageAssembly
import SingularityImage
import SystemIO

/// What a site carries, in the forms that other people's programs read.
package struct SiteExport: Sendable {
    package enum Format: String, Codable, Sendable, CaseIterable {
        /// A registry for singularity-hpc 0.1: `FARM/NAME/container.yaml` with the image beside it
        /// (https://singularity-hpc.readthedocs.io, "Developer Guide").
        case shpc
        /// What neurocommand and Neurodesktop read: `neurodesk/apps.json`, `releases/NAME/VERSION.json`, `cvmfs/applist.json`, `cvmfs/log.txt`,
        /// and `containers/` as transparent-singularity lays it out.
        case neurodesk
    }

    private let site: Site
    private let farm: String
    /// Where users see the site.
    private let seen: String

    package init(_ site: Site) throws {
        self.site = site
        farm = try site.configuration().farm
        let prefix = try site.appearance().prefix
        seen = prefix.isEmpty ? Disk.realPath(site.root) ?? site.root : prefix
    }

    /// Writes all tools in place of what an earlier export wrote. Images are links into the site.
    ///
    /// - Returns: how many tools were written.
    package func write(_ format: Format, into directory: String) throws -> Int {
        let tools = try site.installed()
        let target = Disk.absolute(directory)
        let files = try (format == .shpc ? shpc(tools) : neurodesk(tools)).map { placed($0, in: target) }
        let list = "\(target)/.sciferry-\(format.rawValue)"
        // What the last one wrote and this one does not.
        let before =
            (try? Disk.read(list, limit: 1 << 26)).map { String(decoding: $0, as: UTF8.self).split(separator: "\n").map(String.init) } ?? []
        for path in Set(before).subtracting(files.map(\.path)) where !path.contains("..") {
            try Disk.remove("\(target)/\(path)")
            var above = Disk.parent(of: path)
            while above != ".", !above.isEmpty, rmdir("\(target)/\(above)") == 0 { above = Disk.parent(of: above) }
        }
        for file in files {
            let path = "\(target)/\(file.path)"
            try Disk.makeDirectory(Disk.parent(of: path))
            switch file.content {
            case .text(let text, let mode):
                if (try? Disk.read(path)) != Array(text.utf8) { try Disk.replace(path, with: Array(text.utf8), mode: mode) }
            case .siteLink, .call: preconditionFailure("placed before")
            case .link(let to): if (try? FileManager.default.destinationOfSymbolicLink(atPath: path)) != to { try Disk.link(path, to: to) }
            }
        }
        try Disk.replace(list, with: Array(files.map { $0.path + "\n" }.joined().utf8))
        return tools.count
    }

    private struct File {
        enum Content {
            case text(String, mode_t)
            case link(String)
            /// To a path in the site.
            case siteLink(String)
            /// A script that becomes a program of the site.
            case call(String)
        }
        var path: String
        var content: Content

        init(_ path: String, _ text: String, mode: mode_t = 0o644) {
            self.path = path
            content = .text(text, mode)
        }

        init(_ path: String, _ content: Content) {
            self.path = path
            self.content = content
        }
    }

    /// What leads into the site does so from its own place where it is in the site itself, which may be moved; else to where users see it.
    private func placed(_ file: File, in target: String) -> File {
        let isInside = target.hasPrefix("\(site.root)/")
        let above = isInside ? "\(target.dropFirst(site.root.count + 1))/\(file.path)".split(separator: "/").count - 1 : 0
        let way = isInside ? (0..<above).map { _ in ".." }.joined(separator: "/") : seen
        switch file.content {
        case .text, .link: return file
        case .siteLink(let path): return File(file.path, .link("\(way)/\(path)"))
        case .call(let path):
            let program = isInside ? "\"${0%/*}/\(way)/\"\(Launcher.quoted(path))" : Launcher.quoted("\(way)/\(path)")
            return File(file.path, "#!/bin/sh\nexec \(program) \"$@\"\n", mode: 0o755)
        }
    }

    private func image(_ release: Release) -> String { "images/\(release.image.digest.hex)/image.sif" }

    // MARK: singularity-hpc

    private func shpc(_ tools: [InstalledTool]) throws -> [File] {
        var files: [File] = []
        for (name, versions) in Dictionary(grouping: tools, by: \.name) {
            let newestFirst = versions.sorted { VersionOrder.precedes($1.version, $0.version) }
            // An entry has one image; older versions have entries of their own.
            for (index, tool) in newestFirst.enumerated() {
                let directory = "\(farm)/\(index == 0 ? name : "\(name)-\(tool.version)")"
                let file = "sha256:\(tool.release.image.digest.hex).sif"
                files.append(File("\(directory)/\(file)", .siteLink(image(tool.release))))
                files.append(File("\(directory)/container.yaml", shpcEntry(tool, file)))
            }
        }
        return files.sorted { $0.path < $1.path }
    }

    private func shpcEntry(_ tool: InstalledTool, _ file: String) -> String {
        // JSON is YAML, and its quoting has no surprises.
        func quoted(_ text: String) -> String { (try? String(decoding: CanonicalJSON.encode(text), as: UTF8.self)) ?? "\"\"" }
        let release = tool.release
        let digest = quoted("sha256:\(release.image.digest.hex)")
        let description = release.description.split(separator: "\n").first.map(String.init) ?? tool.name
        var lines = [
            "path: \(quoted(file))", "url: \(quoted("https://sciferry.invalid/\(farm)/\(tool.name)"))", "maintainer: \(quoted("@\(farm)"))",
            "description: \(quoted(description))", "latest:", "  \(quoted(tool.version)): \(digest)", "tags:",
            "  \(quoted(tool.version)): \(digest)",
        ]
        if !tool.commands.isEmpty { lines.append("aliases:") }
        // What comes first is called by name: the image's own PATH finds it.
        for command in tool.commands { lines.append("  \(quoted(command)): \(quoted(command))") }
        if release.runtimeArguments?.contains("--nv") == true { lines += ["features:", "  gpu: nvidia"] }
        return lines.joined(separator: "\n") + "\n"
    }

    // MARK: Neurodesk

    private struct App: Encodable {
        var version: String
        var exec: String
        var apptainer_args: [String]?
    }

    private struct Menu: Encodable {
        var apps: [String: App]
        var categories: [String]
    }

    private struct Application: Encodable {
        var application: String
        var categories: [String]
    }

    private func neurodesk(_ tools: [InstalledTool]) throws -> [File] {
        var files: [File] = []
        var menus: [String: Menu] = [:]
        var list: [Application] = []
        for tool in tools {
            let release = tool.release
            let day = SiteExport.day(of: release)
            let arguments = release.runtimeArguments.flatMap { $0.isEmpty ? nil : $0 }
            let key = "\(tool.name) \(tool.version)"
            var apps = [key: App(version: day, exec: "", apptainer_args: arguments)]
            for program in release.programs ?? [] {
                // Their menu splits the name at the first dash.
                apps["\(program.name.replacing("-", with: "_"))-\(key)"] = App(version: day, exec: program.command, apptainer_args: nil)
            }
            files.append(
                File(
                    "releases/\(tool.name)/\(tool.version).json",
                    try CanonicalJSON.pretty(Menu(apps: apps, categories: release.categories)) + "\n"))
            menus[tool.name, default: Menu(apps: [:], categories: [])].apps.merge(apps) { $1 }
            for category in release.categories where !(menus[tool.name]?.categories.contains(category) ?? true) {
                menus[tool.name]?.categories.append(category)
            }
            let image = "\(tool.name)_\(tool.version)_\(day)"
            list.append(Application(application: image, categories: release.categories))
            files += try container(tool, image)
        }
        list.sort { $0.application < $1.application }
        files.append(File("neurodesk/apps.json", try CanonicalJSON.pretty(menus) + "\n"))
        files.append(File("cvmfs/applist.json", try CanonicalJSON.pretty(["list": list]) + "\n"))
        files.append(
            File("cvmfs/log.txt", list.map { "\($0.application) categories:\($0.categories.map { "\($0)," }.joined())\n" }.joined()))
        return files.sorted { $0.path < $1.path }
    }

    /// A directory of `containers/`: the image, its commands, its variables for the outside, a wrapper for each command, and a module.
    private func container(_ tool: InstalledTool, _ image: String) throws -> [File] {
        let directory = "containers/\(image)"
        let release = tool.release
        var files = [
            File("\(directory)/\(image).simg", .siteLink(self.image(release))),
            File("\(directory)/commands.txt", tool.commands.map { $0 + "\n" }.joined()),
            File("\(directory)/env.txt", try SiteExport.deployed("\(site.root)/\(self.image(release))").map { $0 + "\n" }.joined()),
            File("\(directory)/README.md", release.description + "\n"),
        ]
        for command in tool.commands {
            files.append(File("\(directory)/\(command)", .call("tools/\(tool.name)/\(tool.directory)/bin/\(command)")))
        }
        let module = ModuleFile.luaString
        let lines = [
            "help(\(module(release.description)))", "whatis(\(module("\(image).simg")))",
            "local base = myFileName():match(\"^(.*)/modules/[^/]+/[^/]+$\")", "prepend_path(\"PATH\", pathJoin(base, \(module(image))))",
        ]
        files.append(File("containers/modules/\(tool.name)/\(tool.version).lua", lines.joined(separator: "\n") + "\n"))
        return files
    }

    /// The day in the name of an image from Neurodesk itself, else the one on which it was published; `YYYYMMDD`.
    private static func day(of release: Release) -> String {
        if let file = release.imported?.file, let last = file.split(separator: ".").first?.split(separator: "_").last, last.utf8.count == 8,
            last.allSatisfy(\.isNumber)
        {
            return String(last)
        }
        return String(release.publishedAt.description.prefix(10)).replacing("-", with: "")
    }

    /// `DEPLOY_ENV_…` of an image, as `NAME=VALUE`.
    private static func deployed(_ path: String) throws -> [String] {
        guard let image = try? ImageFileSystem(path), let reader = try? SquashfsReader(image.file, image.partition) else { return [] }
        var found: [String] = []
        for entry in try reader.entries(in: "/.singularity.d/env") ?? [] where entry.kind == "f" {
            let text = String(
                decoding: try reader.bytes(of: String(decoding: entry.path, as: UTF8.self), limit: 1 << 20) ?? [], as: UTF8.self)
            for line in text.split(separator: "\n") {
                let words = line.drop { $0 == " " }
                guard words.hasPrefix("export DEPLOY_ENV_"), let equals = words.firstIndex(of: "=") else { continue }
                let name = words[words.index(words.startIndex, offsetBy: 7)..<equals]
                let value = words[words.index(after: equals)...].trimmingCharacters(in: CharacterSet(charactersIn: "'\""))
                found.append("\(name)=\(value)")
            }
        }
        return found
    }
}
