/// What `/proc/cpuinfo` says of a machine's first processor.
package struct ProcessorFacts: Sendable, Hashable {
    /// The machine architecture as the kernel names it, for example `x86_64`.
    package var machine: String
    /// The maker, `generic` when it is not named.
    package var vendor: String
    package var features: Set<String>
    /// ARM's part number, as the kernel writes it; empty elsewhere.
    package var part: String
    /// POWER's generation; 0 elsewhere.
    package var generation: Int
    /// RISC-V's microarchitecture; empty elsewhere.
    package var name: String
    /// What the maker calls it.
    package var model: String

    /// Reads the text of `/proc/cpuinfo`, by archspec's rules.
    package init(cpuInfo text: String, machine: String) {
        var values: [String: String] = [:]
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            guard let colon = line.firstIndex(of: ":") else {
                // An empty line ends the first processor.
                if values.isEmpty { continue } else { break }
            }
            values[ProcessorFacts.trimmed(line[..<colon])] = ProcessorFacts.trimmed(line[line.index(after: colon)...])
        }
        func words(_ key: String) -> Set<String> { Set((values[key] ?? "").split(whereSeparator: \.isWhitespace).map(String.init)) }
        self.machine = machine
        (vendor, features, part, generation, name) = ("generic", [], "", 0, "")
        model = values["model name"] ?? values["cpu"] ?? ""
        switch machine {
        case "x86_64":
            vendor = values["vendor_id"] ?? "generic"
            features = words("flags")
        case "aarch64":
            let code = values["CPU implementer"]
            vendor = code.map { MicroarchitectureTable.shared.vendors[$0] ?? $0 } ?? "generic"
            features = words("Features")
            part = values["CPU part"] ?? ""
        case "ppc64le", "ppc64":
            let cpu = values["cpu"] ?? ""
            generation = cpu.firstRange(of: "POWER").flatMap { Int(cpu[$0.upperBound...].prefix { $0.isASCII && $0.isNumber }) } ?? 0
        case "riscv64":
            name = values["uarch"] ?? "riscv64"
            if name == "sifive,u74-mc" { name = "u74mc" }
            if name == "spacemit,x60" || values["model name"] == "Spacemit(R) X60" { name = "x60" }
        default: break
        }
        if features.contains("ssse3") { features.insert("sse3") }
    }

    private static func trimmed(_ text: Substring) -> String {
        String(text.drop(while: \.isWhitespace).reversed().drop(while: \.isWhitespace).reversed())
    }

    /// Why a target does not suit this processor; `nil` when it does.
    package func obstacle(_ target: Microarchitecture) -> Obstacle? {
        guard target.family == machine else { return .family(target.family) }
        switch machine {
        case "x86_64", "aarch64":
            // Which level of ARM's architecture a processor has cannot be told from its features.
            if machine == "aarch64", target.vendor == "generic", target.name != machine { return .undetectable }
            guard target.vendor == vendor || target.vendor == "generic" else { return .vendor(target.vendor) }
            let missing = target.features.subtracting(features)
            return missing.isEmpty ? nil : .features(missing.sorted())
        case "ppc64le", "ppc64": return target.generation <= generation ? nil : .generation(target.generation)
        case "riscv64": return target.name == name || target.vendor == "generic" ? nil : .vendor(target.vendor)
        default: return target.name == machine ? nil : .undetectable
        }
    }

    /// Why a target does not suit.
    package enum Obstacle: Sendable, Hashable {
        case family(String)
        case vendor(String)
        case features([String])
        case generation(Int)
        case undetectable

        /// In words.
        package var text: String {
            switch self {
            case .family(let family): "is of the family \(family)"
            case .vendor(let vendor): "is made by \(vendor)"
            case .features(let features): "needs \(features.joined(separator: ", "))"
            case .generation(let generation): "needs POWER\(generation)"
            case .undetectable: "cannot be told from what the kernel says"
            }
        }
    }

    /// The best target that this processor is, by archspec's algorithm; `nil` for a machine of no known family.
    ///
    /// Only descendants of the best generic level count, so that one niche feature that a BIOS or a hypervisor turned off does
    /// not throw a processor back to a much older one.
    package var target: Microarchitecture? {
        guard let root = Microarchitecture.named(machine), root.parents.isEmpty else { return nil }
        var candidates = Microarchitecture.names.compactMap(Microarchitecture.named).filter { obstacle($0) == nil }
        guard let generic = ProcessorFacts.best(candidates.filter { $0.vendor == "generic" }) else { return root }
        if !part.isEmpty, candidates.contains(where: { $0.part == part }) { candidates = candidates.filter { $0.part == part } }
        return ProcessorFacts.best(candidates.filter { $0 > generic }) ?? generic
    }

    /// By ancestors, then features; of equals the first.
    private static func best(_ targets: [Microarchitecture]) -> Microarchitecture? {
        targets.reduce(nil) { best, target -> Microarchitecture? in
            guard let best else { return target }
            return (best.ancestors.count, best.features.count) < (target.ancestors.count, target.features.count) ? target : best
        }
    }

    /// Targets right above the one that was detected, with what each lacks: where to look when a machine seems too low.
    package var nextHigher: [(target: Microarchitecture, obstacle: Obstacle)] {
        guard let target else { return [] }
        let above = Microarchitecture.names.compactMap(Microarchitecture.named).filter { $0 > target }
        return above.filter { candidate in !above.contains { $0 < candidate } }.compactMap { candidate in
            obstacle(candidate).map { (candidate, $0) }
        }
    }
}

extension Microarchitecture {
    /// Whose processors it runs on, as `/proc/cpuinfo` says it; `-` for anybody's.
    package var kernelVendor: String {
        if vendor == "generic" { return "-" }
        return MicroarchitectureTable.shared.vendors.first { $0.value == vendor }?.key ?? vendor
    }

    /// The words that must stand in the first flags or features of `/proc/cpuinfo`, sorted. Where the kernel does not tell, its own
    /// name: it is never there, so that such an image is taken by name only.
    package var kernelFeatures: [String] {
        if let root = Microarchitecture.named(family), root == self { return [] }
        let isKnown = family == "x86_64" || (family == "aarch64" && vendor != "generic")
        return isKnown ? features.subtracting(["sse3"]).sorted() : [name]
    }
}
