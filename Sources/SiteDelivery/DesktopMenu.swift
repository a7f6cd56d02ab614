import FarmModel
import Foundation
import ImageAssembly
import ProcessRunner
import SingularityImage
import SystemIO

/// A site's programs with windows in the menus of desktops (freedesktop.org: Desktop Entry 1.0, Desktop Menu 1.1, Shared MIME-info 0.21,
/// Icon Theme 0.13).
package struct DesktopMenu: Sendable {
    /// Whose menu it is.
    package struct Place: Sendable {
        /// What `XDG_DATA_HOME` names, or one of `XDG_DATA_DIRS`.
        package var data: String
        /// What `XDG_CONFIG_HOME` names, or one of `XDG_CONFIG_DIRS`.
        package var settings: String
        /// What the entries call: where the site is, as those see it who have the menu.
        package var site: String

        package init(data: String, settings: String, site: String) { (self.data, self.settings, self.site) = (data, settings, site) }

        /// - Parameter name: `user`, `system` (this machine's), or a directory for machines that name it in their environment; a relative one is
        ///   in the site.
        package init(_ name: String, site: Site, environment: [String: String]) throws {
            func value(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
            let here = Disk.realPath(site.root) ?? site.root
            switch name {
            case "system": self.init(data: "/usr/local/share", settings: "/etc/xdg", site: here)
            case "user":
                let home = value("HOME") ?? "/root"
                self.init(
                    data: value("XDG_DATA_HOME") ?? "\(home)/.local/share", settings: value("XDG_CONFIG_HOME") ?? "\(home)/.config",
                    site: here)
            default:
                let seen = try site.appearance().prefix
                let directory = site.path(name)
                self.init(data: "\(directory)/share", settings: "\(directory)/xdg", site: seen.isEmpty ? here : seen)
            }
        }
    }

    private let site: Site
    private let root: String
    private let data: String
    private let settings: String
    /// Begins the names of all files of this site, so that two sites can be shown.
    private let prefix: String

    package init(_ site: Site, _ place: Place) throws {
        self.site = site
        (root, data, settings) = (place.site, place.data, place.settings)
        let configuration = try site.configuration()
        prefix = "sciferry-\(configuration.id ?? ModuleTree.slug(configuration.farm))"
    }

    /// Has desktops' own programs read the entries anew, where they are installed.
    package func refreshCaches() async {
        for words in [["update-desktop-database", "-q", "\(data)/applications"], ["update-mime-database", "\(data)/mime"]] {
            _ = try? await ProcessRunner.run(Command(words[0], Array(words.dropFirst()), deadlineSeconds: 60))
        }
    }

    private struct Program {
        var tool: InstalledTool
        var program: GraphicalProgram
        var id: String
        var title: String
        var icon: Icon?
    }

    private struct Icon {
        var bytes: [UInt8]
        var suffix: String
    }

    /// Writes entries for what the site carries now in place of those that were there.
    ///
    /// - Returns: the titles of the programs.
    package func write(isRemoval: Bool = false) throws -> [String] {
        let programs = isRemoval ? [] : try programs()
        var written: Set<String> = []
        func put(_ path: String, _ bytes: [UInt8]) throws {
            try Disk.makeDirectory(Disk.parent(of: path))
            try Disk.replace(path, with: bytes)
            written.insert(path)
        }
        func put(_ path: String, _ text: String) throws { try put(path, Array(text.utf8)) }
        var categories: [String: String] = [:]
        for program in programs {
            for category in program.tool.release.categories.isEmpty ? ["Other"] : program.tool.release.categories {
                categories[ModuleTree.slug(category)] = category
            }
            try put("\(data)/applications/\(program.id).desktop", entry(program))
            if let icon = program.icon {
                let place = icon.suffix == "svg" ? "scalable" : "128x128"
                try put("\(data)/icons/hicolor/\(place)/apps/\(program.id).\(icon.suffix)", icon.bytes)
            }
        }
        guard !programs.isEmpty else {
            try removeAll(except: written)
            return []
        }
        try put("\(data)/desktop-directories/\(prefix).directory", directory("Science (\(try site.configuration().farm))"))
        for (slug, title) in categories { try put("\(data)/desktop-directories/\(prefix)-\(slug).directory", directory(title.capitalized)) }
        try put("\(settings)/menus/applications-merged/\(prefix).menu", menu(categories))
        try put("\(data)/mime/packages/\(prefix).xml", DesktopMenu.types)
        try removeAll(except: written)
        return programs.map(\.title)
    }

    private func removeAll(except written: Set<String>) throws {
        let icons = ["scalable", "128x128"].map { "\(data)/icons/hicolor/\($0)/apps" }
        for directory in [
            "\(data)/applications", "\(data)/desktop-directories", "\(data)/mime/packages", "\(settings)/menus/applications-merged",
        ] + icons {
            for name in (try? Disk.list(directory)) ?? [] where name.hasPrefix("\(prefix)-") || name.hasPrefix("\(prefix).") {
                if !written.contains("\(directory)/\(name)") { try Disk.remove("\(directory)/\(name)") }
            }
        }
    }

    private func programs() throws -> [Program] {
        let tools = try site.installed()
        return tools.flatMap { tool -> [Program] in
            let several = tools.filter { $0.name == tool.name }.count > 1
            return (tool.release.programs ?? []).map { program in
                let id = "\(prefix)-\(ModuleTree.slug(tool.name))-\(ModuleTree.slug(tool.version))-\(ModuleTree.slug(program.name))"
                var name = program.name
                if name.hasSuffix("GUI"), name.count > 3 { name.removeLast(3) }
                let title = several ? "\(name) \(tool.version)" : name
                return Program(tool: tool, program: program, id: id, title: title, icon: icon(of: program, in: tool))
            }
        }
    }

    /// Looked for in the image, under the names of the program and of the tool.
    private func icon(of program: GraphicalProgram, in tool: InstalledTool) -> Icon? {
        guard let image = try? ImageFileSystem("\(site.imageDirectory(tool.release.image.digest))/image.sif"),
            let reader = try? SquashfsReader(image.file, image.partition)
        else { return nil }
        let command = Disk.name(of: program.command.split(separator: " ").first.map(String.init) ?? program.name)
        for name in [command, program.name, tool.name] where !name.isEmpty {
            for place in [
                "icons/hicolor/128x128/apps", "icons/hicolor/scalable/apps", "icons/hicolor/256x256/apps", "icons/hicolor/48x48/apps",
                "pixmaps",
            ] {
                for suffix in ["png", "svg"] {
                    if let bytes = try? reader.bytes(of: "/usr/share/\(place)/\(name).\(suffix)", limit: 4 << 20), !bytes.isEmpty {
                        return Icon(bytes: bytes, suffix: suffix)
                    }
                }
            }
        }
        return nil
    }

    /// Images of brains and the like, which viewers open.
    private static let viewable = [
        "application/x-nifti", "application/dicom", "application/x-mgh", "application/x-minc", "application/x-gifti",
    ]

    private func entry(_ program: Program) -> String {
        let release = program.tool.release
        let slugs = release.categories.map(ModuleTree.slug)
        let views = slugs.contains { $0.contains("visuali") || $0.contains("viewer") }
        let words = program.program.command.split(separator: " ").map(String.init)
        let call = ["\(root)/bin/sciferry-launch", "\(root)/wrappers/\(program.tool.name)/\(program.tool.version)"] + words
        var lines = [
            "[Desktop Entry]", "Type=Application", "Version=1.0", "Name=\(DesktopMenu.text(program.title))",
            "Comment=\(DesktopMenu.text(release.description.split(separator: "\n").first.map(String.init) ?? program.tool.title))",
            "Exec=\(call.map(DesktopMenu.word).joined(separator: " "))\(views ? " %F" : "")", "Terminal=false",
            "Categories=Science;\((slugs.isEmpty ? ["other"] : slugs).map { "X-\(prefix)-\($0);" }.joined())",
            "Keywords=\(([program.tool.name, program.tool.version] + release.categories).map { DesktopMenu.text($0) + ";" }.joined())",
        ]
        if program.icon != nil { lines.append("Icon=\(program.id)") } else { lines.append("Icon=applications-science") }
        if views { lines.append("MimeType=\(DesktopMenu.viewable.map { "\($0);" }.joined())") }
        return lines.joined(separator: "\n") + "\n"
    }

    private func directory(_ title: String) -> String {
        "[Desktop Entry]\nType=Directory\nVersion=1.0\nName=\(DesktopMenu.text(title))\nIcon=applications-science\n"
    }

    private func menu(_ categories: [String: String]) -> String {
        var lines = [
            "<!DOCTYPE Menu PUBLIC \"-//freedesktop//DTD Menu 1.0//EN\" \"http://www.freedesktop.org/standards/menu-spec/1.0/menu.dtd\">",
            "<Menu>", "  <Name>Applications</Name>", "  <Menu>", "    <Name>\(prefix)</Name>",
            "    <Directory>\(prefix).directory</Directory>",
        ]
        for slug in categories.keys.sorted() {
            lines += [
                "    <Menu>", "      <Name>\(prefix)-\(slug)</Name>", "      <Directory>\(prefix)-\(slug).directory</Directory>",
                "      <Include><Category>X-\(prefix)-\(slug)</Category></Include>", "    </Menu>",
            ]
        }
        return (lines + ["  </Menu>", "</Menu>"]).joined(separator: "\n") + "\n"
    }

    /// A value: one line, with its escapes.
    private static func text(_ text: String) -> String {
        String(text.map { $0.isNewline || $0 == "\t" ? " " : $0 }).replacing("\\", with: "\\\\").replacing(";", with: ",")
    }

    /// A word of `Exec`, quoted as the specification says: first for the command line, then for the value.
    private static func word(_ word: String) -> String {
        var quoted = ""
        for character in word {
            if "\"`$\\".contains(character) { quoted.append("\\") }
            quoted.append(character)
            if character == "%" { quoted.append("%") }
        }
        return "\"\(quoted)\"".replacing("\\", with: "\\\\")
    }

    private static let types = """
        <?xml version="1.0" encoding="UTF-8"?>
        <mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
          <mime-type type="application/x-nifti">
            <comment>NIfTI image</comment>
            <glob pattern="*.nii"/><glob pattern="*.nii.gz" weight="80"/>
          </mime-type>
          <mime-type type="application/x-mgh">
            <comment>FreeSurfer image</comment>
            <glob pattern="*.mgh"/><glob pattern="*.mgz"/>
          </mime-type>
          <mime-type type="application/x-minc">
            <comment>MINC image</comment>
            <glob pattern="*.mnc"/><glob pattern="*.mnc.gz" weight="80"/>
          </mime-type>
          <mime-type type="application/x-gifti">
            <comment>GIFTI surface</comment>
            <glob pattern="*.gii"/><glob pattern="*.gii.gz" weight="80"/>
          </mime-type>
        </mime-info>

        """
}
