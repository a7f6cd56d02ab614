package import FarmModel
import Microarchitecture

/// The farm's own settings of a recipe: its `x-sciferry` block, which other builders pass over.
package struct RecipeSettings: Sendable {
    /// CPU targets that the recipe may be built for, the usual one first; empty for any.
    package var targets: [String] = []
    /// CPU targets on which a release's tests shall run.
    package var verifyOn: [String] = []
    package var limits = BuildLimits()
    /// Free space that the recipe asks for; `nil` where it leaves that to what its builds have taken up.
    package var diskGiB: Int?
    /// Labels of the workers that may build and test it.
    package var workers = LabelWish()
    package var network = NetworkPolicy.full
    package var instructions = InstructionPolicy.fail
    package var upstream: Upstream?
    /// What the recipe says of how its image is packed.
    package var image = ImageWish()
    /// Where new versions appear.
    package var updates: UpstreamSource?
    /// Variables of which the user's value counts for more than the image's.
    package var overridable: [String] = []
    /// What the image says of itself, in the order of the recipe.
    package var labels: [(name: String, value: String)] = []
    /// Variables that the build's steps see and the image does not keep.
    package var arguments: [(name: String, value: String)] = []

    /// Where the software's source lies.
    package struct Upstream: Sendable {
        /// A git repository's HTTP address; may hold expressions.
        package var git: RecipeNode
        /// The tag or branch of the recipe's version; may hold expressions.
        package var reference: RecipeNode
    }

    static func read(_ node: RecipeNode?, in document: RecipeDocument) throws -> RecipeSettings {
        var settings = RecipeSettings()
        guard let node, !node.isNull else { return settings }
        let block = try RecipeMapping(node, in: document, what: "x-sciferry", keys: RecipeSchema.names(RecipeSchema.settings))
        settings.targets = try targets("targets", block)
        settings.verifyOn = try targets("verify_on", block)
        try settings.checkVerifyOn(block)
        settings.network = try choice("network", block) ?? settings.network
        settings.instructions = try choice("instructions", block) ?? settings.instructions
        if let node = block["limits"], !node.isNull {
            let limits = try RecipeMapping(
                node, in: document, what: "limits", keys: RecipeSchema.keys(RecipeSchema.settings, under: "limits"))
            settings.diskGiB = try number("disk_gib", limits, 1...4096)
            settings.limits.memoryGiB = try number("memory_gib", limits, 1...4096) ?? 0
            settings.limits.wallHours = try number("wall_hours", limits, 1...168) ?? 0
            settings.limits.silentMinutes = try number("silent_minutes", limits, 1...10080)
        }
        settings.workers = LabelWish(needs: try block.texts("needs"), avoids: try block.texts("avoids"))
        do { try settings.workers.check() } catch let error as FarmError {
            throw document.fail(error.code, block["needs"] ?? block["avoids"] ?? node, error.message, hint: error.hint)
        }
        if let node = block["upstream"], !node.isNull {
            let upstream = try RecipeMapping(
                node, in: document, what: "upstream", keys: RecipeSchema.keys(RecipeSchema.settings, under: "upstream"))
            _ = try (upstream.requireText("git"), upstream.requireText("ref"))
            settings.upstream = Upstream(git: try upstream.require("git"), reference: try upstream.require("ref"))
        }
        if let node = block["updates"], !node.isNull {
            let updates = try RecipeMapping(
                node, in: document, what: "updates", keys: RecipeSchema.keys(RecipeSchema.settings, under: "updates"))
            guard let kind: UpstreamSource.Kind = try choice("kind", updates) else {
                throw document.fail("recipe.missing-key", node, "updates needs the key \"kind\"")
            }
            settings.updates = UpstreamSource(
                kind: kind, name: try updates.requireText("name"), pattern: try updates.text("pattern"),
                prereleases: try updates.flag("prereleases") ?? false)
        }
        settings.overridable = try block.texts("overridable")
        for name in settings.overridable where !VariableName.isValid(name) {
            throw document.fail("recipe.variable", try block.require("overridable"), "\"\(name)\" is no variable's name")
        }
        settings.labels = try pairs("labels", block)
        settings.arguments = try pairs("arguments", block)
        for (name, _) in settings.arguments where !VariableName.isValid(name) || name.hasPrefix("SCIFERRY_") {
            throw document.fail("recipe.variable", try block.require("arguments"), "\"\(name)\" is no variable's name")
        }
        if let node = block["squashfs"], !node.isNull {
            let squashfs = try RecipeMapping(
                node, in: document, what: "squashfs", keys: RecipeSchema.keys(RecipeSchema.settings, under: "squashfs"))
            settings.image.compression = try choice("compression", squashfs)
            settings.image.level = try number("level", squashfs, settings.image.compression == .gzip ? 1...9 : 1...19)
            if let kib = try number("block_kib", squashfs, 4...1024) {
                guard kib.nonzeroBitCount == 1 else {
                    throw document.fail(
                        "recipe.squashfs", try squashfs.require("block_kib"), "\(kib) is no block size", hint: "a power of two, 4 to 1024")
                }
                settings.image.blockSize = kib << 10
            }
        }
        return settings
    }

    /// A CPU that runs none of the recipe's targets could never run its tests.
    private func checkVerifyOn(_ block: RecipeMapping) throws {
        let meant = targets.compactMap(Microarchitecture.named)
        guard !meant.isEmpty, let node = block["verify_on"] else { return }
        for name in verifyOn where !meant.contains(where: { Microarchitecture.named(name)?.dominates($0) ?? false }) {
            throw block.document.fail(
                "recipe.verify", node, "a CPU of \(name) runs none of the recipe's targets, \(targets.joined(separator: ", "))",
                hint: "name one that does, or add the target")
        }
    }

    /// What the collection's own key says of where new versions appear; `nil` for a method that is not known.
    static func autoUpdate(_ node: RecipeNode?) -> UpstreamSource? {
        func text(_ key: String) -> String? { node?.mapping?.first { $0.key.text == key }?.value.text }
        guard let kind = text("method").flatMap(UpstreamSource.Kind.init),
            let name = ["repo", "project", "package", "name", "url"].lazy.compactMap(text).first, !name.isEmpty
        else { return nil }
        return UpstreamSource(kind: kind, name: name, pattern: text("pattern"))
    }

    private static func targets(_ key: String, _ block: RecipeMapping) throws -> [String] {
        let names = try block.texts(key)
        for name in names {
            do { _ = try TargetName.read(name) } catch let error as FarmError {
                throw block.document.fail("recipe.target", try block.require(key), error.message, hint: error.hint)
            }
        }
        return names
    }

    private static func choice<Choice: RawRepresentable<String> & CaseIterable>(_ key: String, _ block: RecipeMapping) throws -> Choice? {
        guard let text = try block.text(key) else { return nil }
        guard let choice = Choice(rawValue: text) else {
            throw block.document.fail(
                "recipe.choice", try block.require(key), "\"\(text)\" is no value of \(key)",
                hint: Choice.allCases.map(\.rawValue).joined(separator: " or "))
        }
        return choice
    }

    private static func pairs(_ key: String, _ block: RecipeMapping) throws -> [(name: String, value: String)] {
        guard let node = block[key], !node.isNull else { return [] }
        let mapping = try RecipeMapping(node, in: block.document, what: key, keys: nil)
        return try mapping.entries.map { entry in
            guard entry.value.text != nil else {
                throw block.document.fail("recipe.type", entry.value, "an entry of \(key) must be a text")
            }
            return (entry.key.printed, entry.value.printed)
        }
    }

    private static func number(_ key: String, _ mapping: RecipeMapping, _ range: ClosedRange<Int>) throws -> Int? {
        guard let value = try mapping.integer(key) else { return nil }
        guard range.contains(value) else {
            throw mapping.document.fail(
                "recipe.limit", try mapping.require(key), "\"\(key)\" is \(value)",
                hint: "a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }
}

/// What a recipe says of how its image is packed.
package struct ImageWish: Sendable, Hashable {
    package var compression: ImageFormat.Compression?
    package var level: Int?
    package var blockSize: Int?

    /// The format that the farm would take, with what the recipe wishes.
    func format(over usual: ImageFormat) -> ImageFormat {
        var format = usual
        if let compression, compression != usual.compression {
            format.compression = compression
            // The other one's level says nothing.
            format.level = 9
        }
        if let level { format.level = format.compression == .gzip ? min(9, level) : level }
        if let blockSize { format.blockSize = blockSize }
        return format
    }
}
