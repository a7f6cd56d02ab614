import FarmModel

/// The keys of a recipe, each with what may stand under it: what the reader checks against, and what editors are told
/// (JSON Schema 2020-12).
package enum RecipeSchema {
    /// What may stand under a key.
    indirect enum Shape: Sendable {
        case text
        case flag
        case number(ClosedRange<Int>)
        case choice([String])
        /// Anything that YAML knows: a value that may hold expressions, or is of no consequence here.
        case any
        case list(Shape)
        /// One or several.
        case several(Shape)
        case mapping([Key], required: [String])
        /// Names of the recipe's own choosing.
        case named(Shape)
        case either([Shape])
        /// A shape with a name of its own, so that it may hold itself.
        case reference(String)
    }

    struct Key: Sendable {
        let name: String
        let shape: Shape
        let help: String

        init(_ name: String, _ shape: Shape, _ help: String) {
            self.name = name
            self.shape = shape
            self.help = help
        }
    }

    static let top: [Key] = [
        Key("name", .text, "The recipe's name: letters, digits, hyphens."),
        Key("version", .either([.text, .any]), "The release's version; quote it, since YAML reads 1.10 as 1.1."),
        Key("architectures", .several(.choice(["x86_64", "aarch64", "amd64", "arm64", "AMD64", "ARM64"])), "Machine architectures."),
        Key("categories", .any, "What the catalogue lists it under."),
        Key("description", .text, "What it is, in a sentence."),
        Key("readme", .text, "The README, in Markdown."),
        Key("readme_url", .text, "Where the README stands; never fetched while rendering."),
        Key(
            "structured_readme",
            .mapping(["description", "example", "documentation", "citation"].map { Key($0, .text, "") }, required: []),
            "The README in parts."),
        Key(
            "copyright",
            .list(
                .mapping(
                    [
                        Key("license", .text, "SPDX identifier."), Key("name", .text, "A licence without identifier."),
                        Key("url", .text, "Its text."),
                    ], required: [])), "Licences of the software."),
        Key(
            "build", .either([.mapping(neurodocker, required: ["kind", "base-image"]), .mapping(foreign, required: ["kind"])]),
            "How to build."),
        Key("variables", .named(.any), "Names for expressions, rendered once, in order."),
        Key("files", .list(.reference("file")), "Files to bring into the build."),
        Key(
            "options",
            .named(
                .mapping(
                    [
                        Key("description", .text, ""), Key("default", .flag, "Whether it is on."),
                        Key("version_suffix", .text, "Added to the version when it is on."),
                    ], required: [])), "Switches that expressions see as context.options.NAME."),
        Key(
            "variants",
            .named(
                .mapping(
                    [
                        Key("architecture", .text, ""), Key("architectures", .several(.text), ""), Key("description", .text, ""),
                        Key("options", .named(.flag), "Options that it sets."),
                    ], required: [])), "Named alternatives."),
        Key("deploy", .mapping(deploy, required: []), "What users get."),
        Key("icon", .any, "Base64 of an image."),
        Key(
            "gui_apps",
            .list(
                .mapping(
                    [Key("name", .text, "As menus show it."), Key("exec", .text, "The command line that starts it.")],
                    required: ["name", "exec"])), "Programs with windows."),
        Key("apptainer_args", .several(.text), "Arguments that the runtime gets."),
        Key("auto_update", .any, "Where new versions appear."),
        Key("tests", .any, "Of an older format; does nothing."),
        Key("show_in_menu", .any, ""), Key("show_in_applist", .any, ""), Key("epoch", .any, ""),
        Key("draft", .any, "Whether it is not ready."),
        Key("x-sciferry", .mapping(settings, required: []), "Settings of the farm."),
    ]

    static let neurodocker: [Key] = [
        Key("kind", .choice(["neurodocker"]), "Directives below."),
        Key("base-image", .text, "What the image is made from."),
        Key("pkg-manager", .text, "apt or yum."),
        Key("directives", .list(.reference("directive")), "Steps, in order."),
        Key("add-default-template", .flag, "Locale en_US.UTF-8, ca-certificates, curl, bzip2, unzip; true unless said otherwise."),
        Key("add-tzdata", .flag, "Time zone data; as add-default-template unless said otherwise."),
        Key("fix-locale-def", .flag, "For images with a broken locale."),
    ]

    static let foreign: [Key] = [
        Key("kind", .choice(Recipe.ForeignKind.allCases.map(\.rawValue)), "The language of the file."),
        Key("file", .text, "Dockerfile, Singularity.def or recipe.py unless said otherwise."),
    ]

    static let deploy: [Key] = [
        Key("bins", .any, "Commands that the release offers."),
        Key("path", .any, "Directories, every program in which becomes a command."),
        Key("webapp", .any, "A program with a web page."),
    ]

    static let file: [Key] = [
        Key("name", .text, "What get_file takes."), Key("url", .text, "Where it is downloaded from."),
        Key("filename", .text, "A path beside build.yaml."), Key("contents", .text, "What is in it."),
        Key("executable", .flag, ""), Key("retry", .any, ""), Key("insecure", .any, ""), Key("refresh", .any, ""),
        Key("condition", .any, "Whether it counts."),
    ]

    static let settings: [Key] = [
        Key("targets", .several(.text), "CPU targets that the recipe is meant for, the usual one first."),
        Key("verify_on", .several(.text), "CPU targets on which the tests shall run before a release, beside the builder's."),
        Key(
            "limits",
            .mapping(
                [
                    Key(
                        "disk_gib", .number(1...4096),
                        "Free space that a build needs at least; what earlier builds took up, or 4, unless said otherwise."),
                    Key("memory_gib", .number(1...4096), "Memory that a worker must have."),
                    Key("wall_hours", .number(1...168), "Hours until a build is ended."),
                    Key("silent_minutes", .number(1...10080), "Minutes without output until a build is ended."),
                ], required: []), "What a build may use."),
        Key("needs", .several(.text), "Labels that a worker must have, for example gpu."),
        Key("avoids", .several(.text), "Labels that a worker must not have."),
        Key("network", .choice(NetworkPolicy.allCases.map(\.rawValue)), "What steps may reach: full unless said otherwise."),
        Key(
            "instructions", .choice(InstructionPolicy.allCases.map(\.rawValue)),
            "What follows when the image's machine code goes beyond its target: fail unless said otherwise."),
        Key(
            "upstream",
            .mapping(
                [Key("git", .text, "A repository's https address."), Key("ref", .text, "The tag or branch of this version.")],
                required: ["git", "ref"]), "The software's source; its commit is locked, and context.commit in expressions."),
        Key(
            "updates",
            .mapping(
                [
                    Key("kind", .choice(UpstreamSource.Kind.allCases.map(\.rawValue)), "The service."),
                    Key("name", .text, "What it calls the project; for http a page's address."),
                    Key("pattern", .text, "A regular expression whose first group is the version."),
                    Key("prereleases", .flag, "Whether release candidates count."),
                ], required: ["kind", "name"]), "Where new versions appear."),
        Key(
            "squashfs",
            .mapping(
                [
                    Key(
                        "compression", .choice(ImageFormat.Compression.allCases.map(\.rawValue)),
                        "zstd unless said otherwise; gzip for kernels that read nothing else."),
                    Key("level", .number(1...19), "9 unless said otherwise; gzip has 9."),
                    Key("block_kib", .number(4...1024), "A power of two; 128 unless said otherwise."),
                ], required: []), "How the image is packed."),
        Key("overridable", .several(.text), "Variables of the image of which the user's own value counts for more."),
        Key("labels", .named(.any), "What the image says of itself."),
        Key("arguments", .named(.any), "Variables that steps see and the image does not keep."),
    ]

    /// The names of keys, for the reader.
    static func names(_ keys: [Key]) -> Set<String> { Set(keys.map(\.name)) }

    /// The keys of a mapping that stands under a key.
    static func keys(_ keys: [Key], under name: String) -> Set<String> {
        guard case .mapping(let inner, _)? = keys.first(where: { $0.name == name })?.shape else { return [] }
        return names(inner)
    }

    // MARK: JSON Schema

    private indirect enum Node: Encodable {
        case text(String)
        case number(Int)
        case flag(Bool)
        case list([Node])
        case object([String: Node])

        func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            switch self {
            case .text(let text): try container.encode(text)
            case .number(let number): try container.encode(number)
            case .flag(let flag): try container.encode(flag)
            case .list(let items): try container.encode(items)
            case .object(let members): try container.encode(members)
            }
        }
    }

    private static func node(_ shape: Shape) -> [String: Node] {
        switch shape {
        case .text: ["type": .text("string")]
        case .flag: ["type": .text("boolean")]
        case .number(let range): ["type": .text("integer"), "minimum": .number(range.lowerBound), "maximum": .number(range.upperBound)]
        case .choice(let words): ["enum": .list(words.map { .text($0) })]
        case .any: [:]
        case .list(let shape): ["type": .text("array"), "items": .object(node(shape))]
        case .several(let shape): node(.either([shape, .list(shape)]))
        case .either(let shapes): ["anyOf": .list(shapes.map { .object(node($0)) })]
        case .named(let shape): ["type": .text("object"), "additionalProperties": .object(node(shape))]
        case .reference(let name): ["$ref": .text("#/$defs/\(name)")]
        case .mapping(let keys, let required):
            [
                "type": .text("object"), "additionalProperties": .flag(false), "required": .list(required.map { .text($0) }),
                "properties": .object(Dictionary(uniqueKeysWithValues: keys.map { ($0.name, .object(described($0))) })),
            ]
        }
    }

    private static func described(_ key: Key) -> [String: Node] {
        var result = node(key.shape)
        if !key.help.isEmpty { result["description"] = .text(key.help) }
        return result
    }

    private static var directive: Shape {
        let condition = Key("condition", .any, "Whether the step counts.")
        return .either(
            Recipe.directiveKinds.map { kind in
                let shape: Shape =
                    switch kind {
                    case "group": .list(.reference("directive"))
                    case "file": .reference("file")
                    case "deploy": .mapping(deploy, required: [])
                    case "environment", "variables", "template": .named(.any)
                    default: .any
                    }
                var keys = [Key(kind, shape, ""), condition]
                if kind == "group" { keys += ["with", "custom", "customParams"].map { Key($0, .any, "") } }
                return .mapping(keys, required: [kind])
            })
    }

    /// The JSON Schema document.
    package static func document() throws -> String {
        var root = node(.mapping(top, required: ["name", "version", "build"]))
        root["$schema"] = .text("https://json-schema.org/draft/2020-12/schema")
        root["title"] = .text("Container recipe (build.yaml)")
        root["$defs"] = .object([
            "directive": .object(node(directive)), "file": .object(node(.mapping(file, required: ["name"]))),
        ])
        return try CanonicalJSON.pretty(Node.object(root)) + "\n"
    }
}
