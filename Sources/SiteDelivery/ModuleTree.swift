import FarmModel

/// All module files of a generation, by their paths below `modules`.
struct ModuleTree {
    private(set) var files: [String: String] = [:]
    /// Links, by their paths; what they lead to stands beside them.
    private(set) var links: [String: String] = [:]

    /// Defaults and what is hidden, for Environment Modules. It stands apart (`MODULERCFILE`), because Lmod 8.6 reads Tcl beside modules, too,
    /// and fails where the path has a space or a command is none of its own.
    private(set) var modulerc = "#%Module1.0\n"

    /// What is asked for and cannot be, as its tool is not there: by the tool's name, or pattern, and in words.
    private(set) var unmet: [(name: String, why: String)] = []

    private let appearance: SiteAppearance

    /// Throws `site.workflow` for one with the name of a tool.
    init(_ tools: [InstalledTool], _ appearance: SiteAppearance) throws {
        self.appearance = appearance
        for tool in tools { add(tool) }
        addDefaults(tools)
        for workflow in appearance.workflows { try add(workflow, tools) }
    }

    /// The directory of a tool's modules.
    private func directory(_ name: String, _ categories: [String]) -> String {
        switch appearance.naming {
        case .flat: name
        case .category: "\(ModuleTree.slug(categories.first))/\(name)"
        case .easybuild: "all/\(name)"
        }
    }

    private func depth(_ directory: String) -> Int { directory.split(separator: "/").count + 1 }

    /// What users load: EasyBuild's `all` is itself what they use.
    private func module(_ directory: String) -> String {
        appearance.naming == .easybuild ? String(directory.dropFirst("all/".count)) : directory
    }

    private mutating func add(_ tool: InstalledTool) {
        let directory = directory(tool.name, tool.release.categories)
        let file = ModuleFile(
            tool, module: module(directory), depth: depth(directory), luaHook: appearance.luaHook, tclHook: appearance.tclHook)
        files["\(directory)/\(tool.version).lua"] = file.lua
        files["\(directory)/\(tool.version)"] = file.tcl
        guard appearance.naming == .easybuild else { return }
        for category in Set(tool.release.categories.map(ModuleTree.slug)).subtracting(["all"]) {
            for name in ["\(tool.version).lua", tool.version] { links["\(category)/\(tool.name)/\(name)"] = "../../\(directory)/\(name)" }
        }
    }

    /// Which version is meant by a name alone, and which are not shown.
    private mutating func addDefaults(_ tools: [InstalledTool]) {
        for (name, version) in appearance.defaults.sorted(by: { $0.key < $1.key }) {
            let known = tools.filter { $0.name == name }.map(\.version)
            guard !known.contains(version) else { continue }
            let carried = known.isEmpty ? "the site does not carry it" : "the site carries \(known.joined(separator: ", "))"
            unmet.append((name, "site.yaml: the default of \(name) is \(version), but \(carried)"))
        }
        for (name, versions) in Dictionary(grouping: tools, by: \.name) {
            let directory = self.directory(name, versions[0].release.categories)
            let module = self.module(directory)
            func isHidden(_ tool: InstalledTool) -> Bool { appearance.hides(tool) || tool.yanked != nil }
            var newest = versions.filter { !isHidden($0) }
            if newest.isEmpty { newest = versions }
            let chosen = appearance.defaults[name].flatMap { chosen in versions.first { $0.version == chosen } }
            if let chosen { newest = [chosen] }
            guard let version = newest.map(\.version).max(by: VersionOrder.precedes) else { continue }
            var lua = ""
            // Both take the newest by themselves.
            if version != versions.map(\.version).max(by: VersionOrder.precedes) || chosen != nil {
                lua += "module_version(\(ModuleFile.luaString("\(module)/\(version)")), \"default\")\n"
                modulerc += "module-version \(ModuleFile.tclString("\(module)/\(version)")) default\n"
            }
            for tool in versions where isHidden(tool) {
                lua += "hide_version(\(ModuleFile.luaString("\(module)/\(tool.version)")))\n"
                modulerc += "module-hide \(ModuleFile.tclString("\(module)/\(tool.version)"))\n"
            }
            if !lua.isEmpty { files["\(directory)/.modulerc.lua"] = lua }
        }
    }

    private mutating func add(_ workflow: SiteAppearance.Workflow, _ tools: [InstalledTool]) throws {
        var modules: [String] = []
        for wanted in workflow.modules {
            let pattern = ToolPattern(wanted)
            guard let tool = tools.first(where: { pattern.matches(name: $0.name, version: $0.version) }) else {
                unmet.append((pattern.name, "site.yaml: the workflow \(workflow.name) needs \(wanted), which the site does not carry"))
                continue
            }
            modules.append(
                self.module(self.directory(tool.name, tool.release.categories)) + (pattern.version == nil ? "" : "/\(tool.version)"))
        }
        // One that lacks a part would seem to work.
        guard modules.count == workflow.modules.count else { return }
        let directory =
            appearance.naming == .flat ? workflow.name : "\(appearance.naming == .easybuild ? "all" : "workflows")/\(workflow.name)"
        let help = "\(workflow.description)\n\nLoads: \(modules.joined(separator: ", "))\n"
        let about = [
            ("Name", workflow.name), ("Version", workflow.version), ("Description", workflow.description), ("Category", "workflow"),
        ]
        let (lua, tcl) = (ModuleFile.luaString, ModuleFile.tclString)
        guard files["\(directory)/\(workflow.version)"] == nil else {
            throw FarmError("site.workflow", .conflict, "the workflow \(workflow.name)/\(workflow.version) has the name of a tool")
        }
        var luaLines = ["help(\(lua(help)))"]
        var tclLines = ["#%Module1.0", "proc ModulesHelp { } { puts stderr \(tcl(help)) }"]
        for (title, text) in about {
            luaLines.append("whatis(\(lua("\(title): \(text)")))")
            tclLines.append("module-whatis \(tcl("\(title): \(text)"))")
        }
        for module in modules {
            luaLines.append("depends_on(\(lua(module)))")
            tclLines.append("depends-on \(tcl(module))")
        }
        files["\(directory)/\(workflow.version).lua"] = luaLines.joined(separator: "\n") + "\n"
        files["\(directory)/\(workflow.version)"] = tclLines.joined(separator: "\n") + "\n"
    }

    /// A category as the name of a directory.
    static func slug(_ category: String?) -> String {
        let words = (category ?? "").lowercased().split { !($0.isASCII && ($0.isLetter || $0.isNumber)) }
        return words.isEmpty ? "other" : words.joined(separator: "-")
    }
}
