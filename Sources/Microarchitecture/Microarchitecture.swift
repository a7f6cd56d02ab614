/// CPU targets by archspec's names and the order in which one runs the code of another.
package struct Microarchitecture: Hashable, Sendable {
    package let name: String
    /// The machine architecture that it belongs to, as the kernel names it.
    package let family: String
    /// Targets directly below it.
    package let parents: [String]
    /// CPU flags, as `/proc/cpuinfo` spells them, that it needs beyond its parents'.
    package let features: [String]
    /// The value for a compiler's `-march`.
    package let march: String

    /// The target of that name, or `nil`.
    package static func named(_ name: String) -> Microarchitecture? { table[name] }

    /// All names, lowest first within a family.
    package static var names: [String] { order.map(\.name) }

    /// Whether a host of this kind runs code that was built for `other`.
    package func dominates(_ other: Microarchitecture) -> Bool {
        self == other || parents.contains { Microarchitecture.table[$0]?.dominates(other) ?? false }
    }

    /// The best target that a machine with these CPU flags can run; `nil` for an unknown architecture.
    ///
    /// - Parameter flags: the words of the `flags` or `Features` line of `/proc/cpuinfo`.
    package static func detect(machine: String, flags: Set<String>) -> Microarchitecture? {
        order.last { $0.family == machine && $0.allFeatures.isSubset(of: flags) }
    }

    /// The flags of the first processor in the text of `/proc/cpuinfo`.
    package static func flags(inCPUInfo text: String) -> Set<String> {
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { continue }
            let key = parts[0].filter { $0 != " " && $0 != "\t" }
            if key == "flags" || key == "Features" {
                return Set(parts[1].split(separator: " ").map(String.init))
            }
        }
        return []
    }

    private var allFeatures: Set<String> {
        parents.reduce(into: Set(features)) { all, parent in
            all.formUnion(Microarchitecture.table[parent]?.allFeatures ?? [])
        }
    }

    // The x86-64 levels are those of the System V psABI as archspec names their flags (PyPI archspec, Apache-2.0 or
    // MIT).
    private static let order: [Microarchitecture] = [
        Microarchitecture(name: "x86_64", family: "x86_64", parents: [], features: [], march: "x86-64"),
        Microarchitecture(
            name: "x86_64_v2", family: "x86_64", parents: ["x86_64"],
            features: ["cx16", "lahf_lm", "mmx", "sse", "sse2", "ssse3", "sse4_1", "sse4_2", "popcnt"],
            march: "x86-64-v2"),
        Microarchitecture(
            name: "x86_64_v3", family: "x86_64", parents: ["x86_64_v2"],
            features: ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"], march: "x86-64-v3"),
        Microarchitecture(
            name: "x86_64_v4", family: "x86_64", parents: ["x86_64_v3"],
            features: ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"], march: "x86-64-v4"),
        Microarchitecture(name: "aarch64", family: "aarch64", parents: [], features: [], march: "armv8-a"),
        Microarchitecture(name: "ppc64le", family: "ppc64le", parents: [], features: [], march: "power8"),
        Microarchitecture(name: "riscv64", family: "riscv64", parents: [], features: [], march: "rv64gc"),
    ]

    private static let table = Dictionary(uniqueKeysWithValues: order.map { ($0.name, $0) })
}
