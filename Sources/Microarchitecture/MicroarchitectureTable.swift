/// The targets of `microarchitectures.txt`, which `scripts/update-microarchitectures` makes from archspec's data.
struct MicroarchitectureTable: Sendable {
    /// What else a feature's name stands for.
    struct Alias: Sendable {
        var anyOf: [String] = []
        var families: [String] = []

        func holds(_ features: Set<String>, _ family: String) -> Bool {
            anyOf.contains(where: features.contains) || families.contains(family)
        }
    }

    private(set) var targets: [String: Microarchitecture] = [:]
    /// The names of all targets that each one runs, its own among them.
    private(set) var below: [String: Set<String>] = [:]
    /// As in the data; every target stands after those below it.
    private(set) var order: [String] = []
    private(set) var aliases: [String: Alias] = [:]
    /// Makers of ARM processors by the kernel's number.
    private(set) var vendors: [String: String] = [:]

    static let shared = MicroarchitectureTable(String(decoding: PackageResources.microarchitectures_txt, as: UTF8.self))

    private struct Draft {
        var name: String
        var vendor: String
        var parents: [String]
        var generation: Int
        var part: String
        var features: Set<String>
        var compilers: [String: [CompilerFlags]] = [:]

        var target: Microarchitecture {
            // Linux leaves sse3 out of its list and calls it pni; ssse3 holds it.
            let all = features.contains("ssse3") ? features.union(["sse3"]) : features
            return Microarchitecture(
                name: name, vendor: vendor, parents: parents, features: all, generation: generation, part: part, compilers: compilers)
        }
    }

    /// Reads lines of fields between tabs; the first field says what a line is.
    private init(_ text: String) {
        var warnings: [String] = []
        var draft: Draft?
        var raw: [String: Set<String>] = [:]
        func finished(_ table: inout MicroarchitectureTable) {
            guard let draft else { return }
            table.targets[draft.name] = draft.target
            table.order.append(draft.name)
        }
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            func field(_ index: Int) -> String { index < fields.count ? fields[index] : "" }
            switch field(0) {
            case "warning": warnings.append(field(1))
            case "vendor": vendors[field(1)] = field(2)
            case "alias":
                let words = field(3).split(separator: " ").map(String.init)
                if field(2) == "families" {
                    aliases[field(1), default: Alias()].families = words
                } else {
                    aliases[field(1), default: Alias()].anyOf = words
                }
            case "target":
                finished(&self)
                let parents = field(3).split(separator: ",").map(String.init)
                var features = parents.reduce(into: Set<String>()) { $0.formUnion(raw[$1] ?? []) }
                for word in field(6).split(separator: " ").map(String.init) {
                    if word.hasPrefix("-") { features.remove(String(word.dropFirst())) } else { features.insert(word) }
                }
                raw[field(1)] = features
                draft = Draft(
                    name: field(1), vendor: field(2), parents: parents, generation: Int(field(4)) ?? 0, part: field(5), features: features)
            case "none": draft?.compilers[field(1)] = []
            case "flags":
                let entry = CompilerFlags(
                    versions: field(2), name: field(3).isEmpty ? draft?.name ?? "" : field(3), flags: field(4),
                    warning: Int(field(5)).flatMap { warnings.indices.contains($0) ? warnings[$0] : nil })
                draft?.compilers[field(1), default: []].append(entry)
            default: break
            }
        }
        finished(&self)
        // Those below a target stand before it.
        for name in order { below[name] = (targets[name]?.parents ?? []).reduce(into: [name]) { $0.formUnion(below[$1] ?? []) } }
    }
}
