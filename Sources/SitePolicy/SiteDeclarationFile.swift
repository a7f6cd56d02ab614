import FarmModel
import Microarchitecture
import ObjectStorage
import Recipes
package import SiteDelivery

/// Reads `site.yaml` (docs/sites.md). Every complaint names the file, the line and the key.
package enum SiteDeclarationFile {
    /// What a hook's file may hold, in bytes.
    package static let longestHook = 64 << 10

    /// Reads a declaration; throws `site.yaml`, `site.unknown-key`, `site.type`, `site.value` and the like.
    ///
    /// - Parameters:
    ///   - path: for errors.
    ///   - isFile: whether the site has a file of that name.
    ///   - hook: gives the text of a hook's file, by its name in the site; throws when it cannot be read.
    package static func read(
        _ bytes: [UInt8], path: String, isFile: (String) -> Bool = { _ in false }, hook: (String) throws -> String
    ) throws -> SiteDeclaration {
        let document = try RecipeDocument(bytes, path: path, subject: "site")
        let top = try RecipeMapping(
            document.root, in: document, what: "site.yaml",
            keys: ["tools", "except", "targets", "modules", "workflows", "run", "licences", "prefix", "keep", "outputs"])
        var declaration = SiteDeclaration()
        declaration.rules = try top.nodes("tools").map { try rule($0, document) }
        declaration.except = try words(top["except"], "except", document)
        for node in top["targets"]?.sequence ?? top["targets"].map({ [$0] }) ?? [] where !node.isNull {
            guard let name = node.text, let target = Microarchitecture.named(name) else {
                throw document.fail("recipe.value", node, "\(node.printed) is no CPU target", hint: "sciferry cpu list shows all")
            }
            declaration.targets.append(target.name)
        }
        try readModules(top["modules"], document, hook, into: &declaration.appearance)
        declaration.appearance.workflows = try top.nodes("workflows").map { try workflow($0, document) }
        try readRun(top["run"], document, into: &declaration.appearance)
        try readLicences(top["licences"], document, isFile, into: &declaration.appearance)
        declaration.appearance.prefix = try top.text("prefix") ?? ""
        if let node = top["prefix"], !declaration.appearance.prefix.hasPrefix("/") {
            throw document.fail("recipe.value", node, "prefix must be an absolute path")
        }
        try readKeep(top["keep"], document, into: &declaration.appearance.keeps)
        try readOutputs(top["outputs"], document, into: &declaration.appearance.outputs)
        return declaration
    }

    /// As they are written: a version 6.10 is no number.
    private static func words(_ node: RecipeNode?, _ key: String, _ document: RecipeDocument) throws -> [String] {
        guard let node, !node.isNull else { return [] }
        return try (node.sequence ?? [node]).map { item in
            guard let text = item.text, !text.isEmpty else { throw document.fail("recipe.type", item, "an entry of \(key) must be a text") }
            return text
        }
    }

    private static func rule(_ node: RecipeNode, _ document: RecipeDocument) throws -> SiteDeclaration.Rule {
        if let text = node.text {
            let pattern = ToolPattern(text)
            guard !pattern.name.isEmpty else { throw document.fail("recipe.value", node, "an entry of tools is empty") }
            return SiteDeclaration.Rule(
                name: pattern.name, versions: pattern.version.map { .matching([$0]) } ?? .newest(1), line: node.line)
        }
        let entry = try RecipeMapping(node, in: document, what: "an entry of tools", keys: ["name", "category", "versions"])
        let name = try entry.text("name")
        let category = try entry.text("category")
        guard name != nil || category != nil else {
            throw document.fail("recipe.missing-key", node, "an entry of tools needs a name or a category")
        }
        var versions = SiteDeclaration.Versions.newest(1)
        if let wanted = entry["versions"], !wanted.isNull {
            if let count = try? entry.integer("versions") {
                guard count > 0 else { throw document.fail("recipe.value", wanted, "versions must be at least 1") }
                versions = .newest(count)
            } else if wanted.text == "all" {
                versions = .all
            } else {
                versions = .matching(try words(wanted, "versions", document))
            }
        }
        return SiteDeclaration.Rule(name: name ?? "*", category: category, versions: versions, line: node.line)
    }

    private static func readModules(
        _ node: RecipeNode?, _ document: RecipeDocument, _ hook: (String) throws -> String, into appearance: inout SiteAppearance
    ) throws {
        guard let node, !node.isNull else { return }
        let block = try RecipeMapping(node, in: document, what: "modules", keys: ["naming", "defaults", "hidden", "hook"])
        if let text = try block.text("naming"), let at = block["naming"] {
            guard let naming = SiteAppearance.Naming(rawValue: text) else {
                let known = SiteAppearance.Naming.allCases.map(\.rawValue).joined(separator: ", ")
                throw document.fail("recipe.value", at, "naming is none of \(known)")
            }
            appearance.naming = naming
        }
        if let defaults = block["defaults"], !defaults.isNull {
            for entry in try RecipeMapping(defaults, in: document, what: "defaults", keys: nil).entries {
                appearance.defaults[entry.key.text ?? ""] = try words(entry.value, "defaults", document).first
            }
        }
        appearance.hidden = try words(block["hidden"], "hidden", document)
        for name in try words(block["hook"], "hook", document) {
            guard let at = block["hook"] else { continue }
            guard name.hasSuffix(".lua") || name.hasSuffix(".tcl") else {
                throw document.fail("recipe.value", at, "a hook must be a .lua or .tcl file, and \(name) is neither")
            }
            do {
                let text = try hook(name)
                if name.hasSuffix(".lua") { appearance.luaHook += text } else { appearance.tclHook += text }
            } catch let error as FarmError { throw document.fail("recipe.hook", at, "the hook \(name) cannot be read: \(error.message)") }
        }
    }

    private static func workflow(_ node: RecipeNode, _ document: RecipeDocument) throws -> SiteAppearance.Workflow {
        let entry = try RecipeMapping(
            node, in: document, what: "an entry of workflows", keys: ["name", "version", "description", "modules"])
        let name = try entry.requireText("name")
        let version = entry["version"]?.text ?? "1"
        for part in [name, version] where part.hasPrefix(".") || part.contains(where: { "/ \n".contains($0) }) {
            throw document.fail("recipe.value", node, "\(part) can be no module's name")
        }
        return SiteAppearance.Workflow(
            name: name, version: version, description: try entry.text("description") ?? name,
            modules: try words(entry["modules"], "modules", document))
    }

    private static let runtimes = ["apptainer", "singularity", "bwrap", "podman", "docker"]

    private static func readRun(_ node: RecipeNode?, _ document: RecipeDocument, into appearance: inout SiteAppearance) throws {
        guard let node, !node.isNull else { return }
        let block = try RecipeMapping(node, in: document, what: "run", keys: ["runtime", "bind", "gpu", "environment"])
        if let text = try block.text("runtime"), text != "auto", let at = block["runtime"] {
            guard runtimes.contains(text) else {
                throw document.fail("recipe.value", at, "runtime is none of auto, \(runtimes.joined(separator: ", "))")
            }
            appearance.runtime = text
        }
        appearance.bind = try words(block["bind"], "bind", document)
        for path in appearance.bind where !path.hasPrefix("/") || path.contains(":") || path.contains("\n") {
            throw document.fail("recipe.value", block["bind"] ?? node, "\(path) is no absolute path without a colon")
        }
        appearance.usesGPUs = try block.flag("gpu") ?? true
        appearance.environment = try words(block["environment"], "environment", document)
        for name in appearance.environment where !isVariable(name) {
            throw document.fail("recipe.value", block["environment"] ?? node, "\(name) is no variable's name")
        }
    }

    private static func isVariable(_ name: String) -> Bool {
        guard let first = name.first, !first.isNumber else { return false }
        return name.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
    }

    private static func readLicences(
        _ node: RecipeNode?, _ document: RecipeDocument, _ isFile: (String) -> Bool, into appearance: inout SiteAppearance
    ) throws {
        guard let node, !node.isNull else { return }
        for entry in try RecipeMapping(node, in: document, what: "licences", keys: nil).entries {
            let name = entry.key.text ?? ""
            guard isVariable(name) else { throw document.fail("recipe.value", entry.key, "\(name) is no variable's name") }
            guard let value = entry.value.text, !value.isEmpty, !value.contains("\n") else {
                throw document.fail("recipe.type", entry.value, "the value of \(name) must be a text")
            }
            // A path in the site has a slash and does not begin with one, or is that of a file which is there; `27000@host` and
            // `/opt/licence` stay as they are.
            let isRelative = !value.hasPrefix("/") && !value.contains("@") && !value.contains(":") && (value.contains("/") || isFile(value))
            appearance.variables[name] = isRelative ? "@SITE@/\(value)" : value
        }
    }

    private static func readOutputs(
        _ node: RecipeNode?, _ document: RecipeDocument, into outputs: inout SiteAppearance.Outputs
    ) throws {
        guard let node, !node.isNull else { return }
        let block = try RecipeMapping(node, in: document, what: "outputs", keys: ["menu", "shpc", "neurodesk", "mirror"])
        outputs.menu = try block.text("menu")
        for (key, path) in [("shpc", \SiteAppearance.Outputs.shpc), ("neurodesk", \SiteAppearance.Outputs.neurodesk)] {
            outputs[keyPath: path] = try block.text(key)
        }
        // What the site itself is made of must not be written over.
        for (key, place) in [("menu", outputs.menu), ("shpc", outputs.shpc), ("neurodesk", outputs.neurodesk)] {
            guard let place, let first = place.split(separator: "/").first.map(String.init), !place.hasPrefix("/") else { continue }
            guard !place.contains(".."), !Site.parts.contains(first) else {
                throw document.fail("recipe.value", block[key] ?? node, "\(place) is no directory of the site's own that can be written to")
            }
        }
        if let text = try block.text("mirror") {
            guard text.hasPrefix("file:/") || text.hasPrefix("s3:") else {
                throw document.fail(
                    "recipe.value", block["mirror"] ?? node, "mirror: \(text) is no bucket that can be written to",
                    hint: "file:/directory or s3:https://endpoint/bucket/prefix")
            }
            outputs.mirror = BucketLocation(text)
        }
    }

    private static func readKeep(_ node: RecipeNode?, _ document: RecipeDocument, into keeps: inout SiteAppearance.Keeping) throws {
        guard let node, !node.isNull else { return }
        let block = try RecipeMapping(node, in: document, what: "keep", keys: ["generations", "days"])
        for (key, path) in [("generations", \SiteAppearance.Keeping.generations), ("days", \SiteAppearance.Keeping.days)] {
            guard let value = try block.integer(key) else { continue }
            guard (0...100_000).contains(value) else { throw document.fail("recipe.value", block[key] ?? node, "\(key) must be 0 or more") }
            keeps[keyPath: path] = value
        }
    }
}
