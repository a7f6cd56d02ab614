import FarmModel

/// All module files of a generation, by their paths below `modules`.
struct ModuleTree {
    private(set) var files: [String: String] = [:]
    /// Links, by their paths; what they lead to stands beside them.
    private(set) var links: [String: String] = [:]

    /// Defaults and what is hidden, for Environment Modules. It stands apart (`MODULERCFILE`), because Lmod 8.6 reads Tcl beside modules, too,
    /// and fails where the path has a space or a command is none of its own.
    private(set) var modulerc = "#%Module1.0\n"

    private let appearance: SiteAppearance

    init(_ tools: [InstalledTool], _ appearance: SiteAppearance) throws {
        self.appearance = appearance
        for tool in tools { add(tool) }
        try addDefaults(tools)
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
    private mutating func addDefaults(_ tools: [InstalledTool]) throws {
        for (name, versions) in Dictionary(grouping: tools, by: \.name) {
            let directory = self.directory(name, versions[0].release.categories)
            let module = self.module(directory)
            var newest = versions.filter { !appearance.hides($0) }
            if newest.isEmpty { newest = versions }
            if let chosen = appearance.defaults[name] {
                guard versions.contains(where: { $0.version == chosen }) else {
                    let known = versions.map(\.version).joined(separator: ", ")
                    throw FarmError(
                        "site.default", .invalid, "the default of \(name) is \(chosen), which the site does not carry",
                        hint: "it carries: \(known)")
                }
                newest = versions.filter { $0.version == chosen }
            }
            guard let version = newest.map(\.version).max(by: VersionOrder.precedes) else { continue }
            var lua = ""
            // Both take the newest by themselves.
            if version != versions.map(\.version).max(by: VersionOrder.precedes) || appearance.defaults[name] != nil {
                lua += "module_version(\(ModuleFile.luaString("\(module)/\(version)")), \"default\")\n"
                modulerc += "module-version \(ModuleFile.tclString("\(module)/\(version)")) default\n"
            }
            for tool in versions where appearance.hides(tool) {
                lua += "hide_version(\(ModuleFile.luaString("\(module)/\(tool.version)")))\n"
                modulerc += "module-hide \(ModuleFile.tclString("\(module)/\(tool.version)"))\n"
            }
            if !lua.isEmpty { files["\(directory)/.modulerc.lua"] = lua }
        }
    }

    private mutating func add(_ workflow: SiteAppearance.Workflow, _ tools: [InstalledTool]) throws {
        let modules = try workflow.modules.map { wanted -> String in
            let pattern = ToolPattern(wanted)
            guard let tool = tools.first(where: { pattern.matches(name: $0.name, version: $0.version) }) else {
                throw FarmError("site.workflow", .invalid, "the workflow \(workflow.name) needs \(wanted), which the site does not carry")
            }
            return self.module(self.directory(tool.name, tool.release.categories)) + (pattern.version == nil ? "" : "/\(tool.version)")
        }
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
