/// What one compiler is told to build for a target, for a range of its versions.
struct CompilerFlags: Hashable, Sendable {
    /// `LOWEST:HIGHEST`, each may be empty.
    var versions: String
    /// What the compiler calls the target.
    var name: String
    /// With `{name}` in them.
    var flags: String
    /// What archspec has to say of it.
    var warning: String?

    var text: String {
        guard let place = flags.firstRange(of: "{name}") else { return flags }
        let rest = CompilerFlags(versions: versions, name: name, flags: String(flags[place.upperBound...]), warning: nil).text
        return flags[..<place.lowerBound] + name + rest
    }

    /// Whether a version lies in the range. Numbers are compared one by one; of two that begin alike the longer is higher.
    func holds(_ version: [Int]) -> Bool {
        let ends = versions.split(separator: ":", omittingEmptySubsequences: false).map(CompilerFlags.numbers)
        if let low = ends.first, !low.isEmpty, version.lexicographicallyPrecedes(low) { return false }
        if ends.count == 2, !ends[1].isEmpty, ends[1].lexicographicallyPrecedes(version) { return false }
        return true
    }

    /// The numbers that a version begins with: `4.2.0-apple` gives 4, 2, 0.
    static func numbers(_ text: some StringProtocol) -> [Int] {
        text.prefix { $0.isASCII && $0.isNumber || $0 == "." }.split(separator: ".").compactMap { Int($0) }
    }
}

extension Microarchitecture {
    /// What came of the question for a compiler's flags.
    package enum FlagsAnswer: Sendable, Hashable {
        /// The flags; empty for a compiler of which nothing is known. `warning` is archspec's, if it has one.
        case flags(String, warning: String?)
        /// The compiler, or its version, is known not to support the target; in words.
        case unsupported(String)
    }

    /// The flags with which a compiler (`gcc`, `clang`, `oneapi`, …) optimises for this target.
    ///
    /// - Parameter version: numbers between dots; anything else is `unsupported`.
    package func flags(compiler: String, version: String) -> FlagsAnswer {
        guard Microarchitecture.named(family)?.compilers[compiler] != nil else { return .flags("", warning: nil) }
        guard let entries = compilers[compiler] else {
            let best = ancestors.first { $0.compilers[compiler] != nil }?.name ?? family
            return .unsupported("\(compiler) is known to optimise up to \(best) only")
        }
        let numbers = CompilerFlags.numbers(version)
        guard !numbers.isEmpty, version.allSatisfy({ $0.isASCII && $0.isNumber || $0 == "." }) else {
            return .unsupported("\"\(version)\" is no version: numbers between dots")
        }
        guard let entry = entries.first(where: { $0.holds(numbers) }) else {
            let known = entries.isEmpty ? "no version does" : "these do: \(entries.map(\.versions).joined(separator: ", "))"
            return .unsupported("\(compiler) \(version) cannot build for \(name); \(known)")
        }
        return .flags(entry.text, warning: entry.warning)
    }

    /// The flags of a present compiler; of a target that it does not know, those of the nearest below.
    package func flags(compiler: String) -> String {
        if let text = compilers[compiler]?.last(where: { $0.versions.hasSuffix(":") })?.text { return text }
        return ancestors.first { $0.compilers[compiler]?.contains { $0.versions.hasSuffix(":") } ?? false }?.flags(compiler: compiler) ?? ""
    }

    /// Variables that tell a build's tools what to build for; empty for a family's root, for which tools need no telling.
    package var buildVariables: [(name: String, value: String)] {
        if parents.isEmpty { return [] }
        let flags = "-O2 \(flags(compiler: "gcc"))"
        var result = ["CFLAGS", "CXXFLAGS", "FFLAGS", "FCFLAGS"].map { (name: $0, value: flags) }
        for flag in self.flags(compiler: "clang").split(separator: " ") {
            for option in ["-march=", "-mcpu="] where flag.hasPrefix(option) && !flag.contains("+") {
                result.append(("RUSTFLAGS", "-C target-cpu=\(flag.dropFirst(option.count))"))
            }
        }
        result.append(("EASYBUILD_OPTARCH", "GCC:\(self.flags(compiler: "gcc").drop { $0 == "-" })"))
        return result
    }

    /// The value for `-march` (`-mcpu` on POWER) of a present GCC; of a target that GCC does not know, that of the nearest below.
    package var march: String {
        for flag in flags(compiler: "gcc").split(separator: " ") {
            for option in ["-march=", "-mcpu="] where flag.hasPrefix(option) { return String(flag.dropFirst(option.count)) }
        }
        return ""
    }
}
