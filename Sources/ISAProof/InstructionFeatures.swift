import CZydis
import Microarchitecture

/// Features that instructions need, numbered by the decoder and named as archspec does.
enum InstructionFeatures {
    /// All names by number; index 0 is what every CPU of the family has.
    private static let all: [String] = {
        var names = [""]
        while let name = sciferry_x86_feature(UInt16(names.count)) { names.append(String(cString: name)) }
        return names
    }()

    static func name(_ number: Int) -> String { all.indices.contains(number) ? all[number] : "" }

    static func names(_ features: FeatureSet) -> [String] { features.numbers.map(name).sorted() }

    /// What a target's code may use.
    static func allowed(_ target: Microarchitecture) -> FeatureSet {
        let lineage = [target] + target.ancestors
        var features = lineage.reduce(into: Set<String>()) { $0.formUnion($1.features) }
        for name in lineage.map(\.name) { features.formUnion(extras[name] ?? []) }
        return FeatureSet(all.indices.filter { features.contains(all[$0]) || free.contains(all[$0]) })
    }

    /// What compilers use for a target (`gcc -march=TARGET -dM -E`) and archspec's lists leave out.
    private static let extras: [String: [String]] = [
        "nocona": ["sse3", "cx16"], "core2": ["cx16"], "k10": ["sse3", "sse4a", "popcnt", "abm", "cx16", "3dnow"],
        "zen": ["sha_ni", "adx"], "zen5": ["avx_vnni", "avx512_vp2intersect"], "alderlake": ["avx_vnni"],
        "sapphirerapids": ["avx512_fp16", "avx_vnni"],
    ]

    /// What a program may only use after the kernel has granted it, so that the kernel is the check.
    private static let free: Set<String> = ["pku"]

    /// What no compiler chooses by itself, so that it stands in a program because somebody wrote it there.
    static let deliberate: FeatureSet = {
        let names: Set<String> = [
            "rtm", "rdrand", "rdseed", "rdtscp", "rdpid", "fsgsbase", "xsave", "xsavec", "xsaveopt", "clflushopt", "clwb", "clzero",
            "movdiri", "waitpkg", "serialize", "mwaitx", "rdpru", "enqcmd", "prefetchwt1",
        ]
        return FeatureSet(all.indices.filter { names.contains(all[$0]) })
    }()

    /// The lowest generic target that has features, and those that none has.
    static func level(_ features: FeatureSet) -> String {
        let needed = features.subtracting(FeatureSet(all.indices.filter { free.contains(all[$0]) }))
        var best: (name: String, left: FeatureSet) = ("x86_64", needed)
        for number in 1...4 {
            guard let level = Microarchitecture.level(number) else { continue }
            let left = needed.subtracting(allowed(level))
            if left.numbers.count < best.left.numbers.count { best = (level.name, left) }
        }
        return ([best.name] + names(best.left)).joined(separator: "+")
    }
}
