import FarmModel

/// The module files of one tool in one version: a Lua one for Lmod and a Tcl one for Environment Modules, which stand beside each other.
/// Both find the site from their own place, so a moved tree still works.
package struct ModuleFile: Sendable, Hashable {
    let name: String
    let version: String
    let description: String
    let categories: [String]
    let licences: [String]
    let commands: [String]
    let images: [String]
    let imageDigest: Digest
    /// Where the image comes from, if the farm did not build it.
    let origin: String?
    /// Why nobody should begin to use it.
    let yanked: String?
    let citation: String
    /// The DOIs in it.
    let cited: [String]
    let directory: String
    /// What users load, without the version.
    let module: String
    /// How many directories stand between the modules' and this file.
    let depth: Int
    let luaHook: String
    let tclHook: String

    /// - Parameters:
    ///   - module: what users load, without the version.
    ///   - depth: how many names lead from the directory of all modules to the file.
    package init(_ tool: InstalledTool, module: String? = nil, depth: Int = 2, luaHook: String = "", tclHook: String = "") {
        self.module = module ?? tool.name
        let release = tool.release
        name = tool.name
        version = tool.version
        description = release.description
        categories = release.categories
        licences = release.licences
        commands = tool.commands
        images = tool.releases.map { "sha256:\($0.image.digest.hex) for \($0.image.target)" }
        imageDigest = release.image.digest
        origin = release.imported?.title
        yanked = tool.yanked
        citation = release.citation ?? ""
        cited = release.cited
        directory = tool.directory
        self.depth = depth
        self.luaHook = luaHook
        self.tclHook = tclHook
    }

    /// What both say about the tool, in pairs of a title and a text.
    private var facts: [(title: String, text: String)] {
        [
            ("Yanked", yanked ?? ""), ("Name", name), ("Version", version), ("Category", categories.joined(separator: ", ")),
            ("Description", firstLine),
            ("Licence", licences.joined(separator: ", ")), ("Image", images.joined(separator: "; ")), ("Origin", origin ?? ""),
            ("Citation", citation.split(separator: "\n").joined(separator: " ")), ("DOI", cited.joined(separator: ", ")),
        ]
        .filter { !$0.1.isEmpty }
    }

    /// An Lmod module (https://lmod.readthedocs.io, "Lua Modulefile Functions").
    package var lua: String {
        let text = ModuleFile.luaString
        var lines = [
            "-- Written by sciferry; changes are lost with the next one.",
            "local site = myFileName():match(\"^(.*)/modules\(String(repeating: "/[^/]+", count: depth))$\")",
            "local tool = pathJoin(site, \"tools\", \(text(name)), \(text(directory)))",
            // An update may have come in between; what was loaded is what goes.
            "if mode() == \"unload\" then tool = os.getenv(\(text(toolVariable))) or tool end",
            "help(\(text(helpText)))",
        ]
        lines += facts.map { "whatis(\(text("\($0.title): \($0.text)")))" }
        // So that `module spider COMMAND` finds the tool.
        if !commands.isEmpty { lines.append("extensions(\(text(commands.map { "\($0)/\(version)" }.joined(separator: ", "))))") }
        lines += [
            "family(\(text("sciferry_\(variable.lowercased())")))",
            "prepend_path(\"PATH\", pathJoin(tool, \"bin\"))", "setenv(\(text(toolVariable)), tool)",
            "setenv(\(text(imageVariable)), pathJoin(site, \"images\", \(text(imageDigest.hex)), \"image.sif\"))",
            "setenv(\(text("SCIFERRY_\(variable)_VERSION")), \(text(version)))",
        ]
        if let warning { lines.append("if mode() == \"load\" then LmodMessage(\(text(warning))) end") }
        if !luaHook.isEmpty { lines.append(luaHook) }
        return lines.joined(separator: "\n") + "\n"
    }

    /// The same for Environment Modules (https://modules.readthedocs.io, modulefile(4)).
    package var tcl: String {
        let text = ModuleFile.tclString
        var lines = [
            "#%Module1.0", "# Written by sciferry; changes are lost with the next one.",
            "set site [file dirname $ModulesCurrentModulefile]",
            "for {set up 0} {$up < \(depth)} {incr up} { set site [file dirname $site] }",
            "set tool [file join $site tools \(text(name)) \(text(directory))]",
            "if {[module-info mode unload] && [info exists ::env(\(toolVariable))]} { set tool $::env(\(toolVariable)) }",
            "proc ModulesHelp { } { puts stderr \(text(helpText)) }",
        ]
        lines += facts.map { "module-whatis \(text("\($0.title): \($0.text)"))" }
        if !commands.isEmpty { lines.append("module-whatis \(text("Commands: \(commands.joined(separator: ", "))"))") }
        lines += [
            "conflict \(text(module))", "prepend-path PATH [file join $tool bin]", "setenv \(toolVariable) $tool",
            "setenv \(imageVariable) [file join $site images \(imageDigest.hex) image.sif]",
            "setenv SCIFERRY_\(variable)_VERSION \(text(version))",
        ]
        if let warning { lines.append("if {[module-info mode load]} { puts stderr \(text(warning)) }") }
        if !tclHook.isEmpty { lines.append(tclHook) }
        return lines.joined(separator: "\n") + "\n"
    }

    private var warning: String? { yanked.map { "\(name)/\(version) is yanked: \($0)" } }

    private var helpText: String {
        "\(description.isEmpty ? name : description)\n\nCommands: \(commands.joined(separator: ", "))\n"
            + (origin.map { "Image: \($0)\n" } ?? "") + (citation.isEmpty ? "" : "\nPlease cite: \(citation)\n")
    }

    private var firstLine: String { description.split(separator: "\n").first.map(String.init) ?? name }

    private var toolVariable: String { "SCIFERRY_\(variable)_TOOL" }

    private var imageVariable: String { "SCIFERRY_\(variable)_IMAGE" }

    private var variable: String { ModuleFile.variable(name) }

    private static func variable(_ name: String) -> String {
        String(name.uppercased().map { $0.isASCII && ($0.isLetter || $0.isNumber) ? $0 : "_" })
    }

    /// A quoted Lua string; never long brackets, which a text can close.
    static func luaString(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\0": result += "\\0"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    /// A quoted Tcl word in which nothing is replaced.
    static func tclString(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\", "$", "[", "]", "{", "}": result += "\\\(scalar)"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\0": continue
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
