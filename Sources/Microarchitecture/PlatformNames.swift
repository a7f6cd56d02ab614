/// What other systems call a target.
extension Microarchitecture {
    /// The x86-64 psABI level (https://gitlab.com/x86-psABIs/x86-64-ABI), 1 to 4; `nil` on other machines.
    package var level: Int? {
        guard family == "x86_64" else { return nil }
        return (2...4).last { Microarchitecture.named("x86_64_v\($0)").map(dominates) ?? false } ?? 1
    }

    /// The target of an x86-64 psABI level.
    package static func level(_ number: Int) -> Microarchitecture? {
        switch number {
        case 1: named("x86_64")
        case 2...4: named("x86_64_v\(number)")
        default: nil
        }
    }

    /// The platform as OCI images name it (https://github.com/opencontainers/image-spec, "image-index.md"), at the level that this
    /// target runs: `linux/amd64/v3`, `linux/arm64/v8`.
    package var ociPlatform: String {
        switch family {
        case "x86_64": "linux/amd64\((level ?? 1) > 1 ? "/v\(level ?? 1)" : "")"
        case "aarch64": Microarchitecture.named("armv9.0a").map(dominates) ?? false ? "linux/arm64/v9" : "linux/arm64/v8"
        default: "linux/\(family)"
        }
    }

    /// The target that an OCI platform stands for; `nil` for one that is not known.
    package static func ociPlatform(_ text: String) -> Microarchitecture? {
        let parts = text.split(separator: "/").map(String.init)
        let words = parts.first == "linux" ? Array(parts.dropFirst()) : parts
        switch (words.first, words.count > 1 ? words[1] : "") {
        case ("amd64", ""), ("amd64", "v1"): return named("x86_64")
        case ("amd64", let variant): return variant.first == "v" ? Int(variant.dropFirst()).flatMap(level) : nil
        case ("arm64", ""), ("arm64", "v8"): return named("aarch64")
        case ("arm64", "v9"): return named("armv9.0a")
        case (let family?, ""): return named(family).flatMap { $0.parents.isEmpty ? $0 : nil }
        default: return nil
        }
    }

    /// The directory of EESSI's software layer (https://www.eessi.io) for this target, for example `x86_64/amd/zen3`: the highest
    /// that EESSI builds for and this target runs.
    package var eessiPath: String? {
        let built: [(path: String, target: String)] = [
            ("x86_64/generic", "x86_64"), ("x86_64/intel/haswell", "haswell"), ("x86_64/intel/skylake_avx512", "skylake_avx512"),
            ("x86_64/intel/cascadelake", "cascadelake"), ("x86_64/intel/icelake", "icelake"),
            ("x86_64/intel/sapphirerapids", "sapphirerapids"), ("x86_64/amd/zen2", "zen2"), ("x86_64/amd/zen3", "zen3"),
            ("x86_64/amd/zen4", "zen4"), ("x86_64/amd/zen5", "zen5"), ("aarch64/generic", "aarch64"),
            ("aarch64/neoverse_n1", "neoverse_n1"), ("aarch64/neoverse_v1", "neoverse_v1"), ("aarch64/a64fx", "a64fx"),
            ("aarch64/nvidia/grace", "neoverse_v2"),
        ]
        return built.filter { Microarchitecture.named($0.target).map(dominates) ?? false }.max { left, right in
            (Microarchitecture.named(left.target)?.ancestors.count ?? 0) < (Microarchitecture.named(right.target)?.ancestors.count ?? 0)
        }?.path
    }

    /// The target of a directory of EESSI's software layer; `nil` for one that is not known.
    package static func eessiPath(_ path: String) -> Microarchitecture? {
        let parts = path.split(separator: "/").map(String.init)
        guard let family = parts.first, let last = parts.last, parts.count > 1 else { return nil }
        let names = ["generic": family, "grace": "neoverse_v2"]
        return named(names[last] ?? last).flatMap { $0.family == family ? $0 : nil }
    }
}
