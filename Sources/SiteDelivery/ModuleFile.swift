package import FarmModel

/// What a module file says of one release on one site.
package struct ModuleFile: Sendable, Hashable {
    package var name: String
    package var version: String
    package var description: String
    package var categories: [String]
    package var licences: [String]
    package var commands: [String]
    package var image: Digest
    package var target: String
    /// Where the image comes from, if the farm did not build it.
    package var origin: String?

    package init(_ release: Release, commands: [String]) {
        name = release.name
        version = release.version
        description = release.description
        categories = release.categories
        licences = release.licences
        self.commands = commands
        image = release.image.digest
        target = release.image.target
        origin = release.imported?.title
    }

    /// An Lmod module. The site's root is found from the module file's own place, so a moved tree still works.
    package var lua: String {
        """
        -- Written by sciferry; changes are lost with the next pull.
        local root = pathJoin(myFileName():match("^(.*)/modules/[^/]+/[^/]+$"), "wrappers")
        help(\(ModuleFile.luaString(helpText)))
        whatis(\(ModuleFile.luaString("Name: \(name)")))
        whatis(\(ModuleFile.luaString("Version: \(version)")))
        whatis(\(ModuleFile.luaString("Category: \(categories.joined(separator: ", "))")))
        whatis(\(ModuleFile.luaString("Description: \(firstLine)")))
        whatis(\(ModuleFile.luaString("Licence: \(licences.joined(separator: ", "))")))
        whatis(\(ModuleFile.luaString("Image: sha256:\(image.hex) for \(target)")))
        family(\(ModuleFile.luaString("sciferry_\(ModuleFile.variable(name).lowercased())")))
        prepend_path("PATH", pathJoin(root, \(ModuleFile.luaString(name)), \(ModuleFile.luaString(version)), "bin"))
        setenv(\(ModuleFile.luaString("SCIFERRY_\(ModuleFile.variable(name))_IMAGE")), pathJoin(root, \(ModuleFile.luaString(name)), \(ModuleFile.luaString(version)), "image", "image.sif"))

        """
    }

    private var helpText: String {
        "\(description.isEmpty ? name : description)\n\nCommands: \(commands.joined(separator: ", "))\n"
            + (origin.map { "Image: \($0)\n" } ?? "")
    }

    private var firstLine: String { description.split(separator: "\n").first.map(String.init) ?? name }

    private static func variable(_ name: String) -> String {
        String(name.uppercased().map { $0.isLetter || $0.isNumber ? $0 : "_" })
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
}
