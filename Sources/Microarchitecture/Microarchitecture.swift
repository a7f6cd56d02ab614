/// A CPU target by archspec's name (https://archspec.readthedocs.io), in the order in which one runs the code of another.
package struct Microarchitecture: Hashable, Sendable, CustomStringConvertible {
    package let name: String
    /// `generic`, or the maker as `/proc/cpuinfo` names it.
    package let vendor: String
    /// Targets directly below it.
    package let parents: [String]
    /// CPU flags that it needs, as `/proc/cpuinfo` spells them; on ARM those beyond the base model.
    package let features: Set<String>
    /// Of POWER processors; 0 for others.
    package let generation: Int
    /// Of ARM processors, as `/proc/cpuinfo` writes it; else empty.
    package let part: String
    /// What compilers are told, by compiler; a compiler that is known not to support the target has an empty list.
    let compilers: [String: [CompilerFlags]]

    package var description: String { name }

    package static func == (left: Microarchitecture, right: Microarchitecture) -> Bool { left.name == right.name }

    package func hash(into hasher: inout Hasher) { hasher.combine(name) }

    /// The target of that name, or `nil`.
    package static func named(_ name: String) -> Microarchitecture? { MicroarchitectureTable.shared.targets[name] }

    /// All names; every target stands after those below it.
    package static var names: [String] { MicroarchitectureTable.shared.order }

    // MARK: order

    /// All targets below this one, nearest first, each once.
    package var ancestors: [Microarchitecture] {
        var result: [Microarchitecture] = parents.compactMap(Microarchitecture.named)
        for parent in result { for further in parent.ancestors where !result.contains(further) { result.append(further) } }
        return result
    }

    /// Whether this target lies strictly below another, so that the other runs its code. A partial order: of two targets often
    /// neither is below the other.
    package static func < (left: Microarchitecture, right: Microarchitecture) -> Bool { left != right && right.dominates(left) }
    package static func > (left: Microarchitecture, right: Microarchitecture) -> Bool { right < left }
    package static func <= (left: Microarchitecture, right: Microarchitecture) -> Bool { right.dominates(left) }
    package static func >= (left: Microarchitecture, right: Microarchitecture) -> Bool { left.dominates(right) }

    /// Whether a host of this kind runs code that was built for `other`.
    package func dominates(_ other: Microarchitecture) -> Bool {
        Microarchitecture.runs(name, other.name)
    }

    /// Whether a host of one target runs code for another, by their names, without a walk over the order.
    package static func runs(_ host: String, _ target: String) -> Bool {
        MicroarchitectureTable.shared.below[host]?.contains(target) ?? false
    }

    /// The target at the bottom, whose name is the machine architecture as the kernel names it.
    package var family: String { parents.first.flatMap(Microarchitecture.named)?.family ?? name }

    /// The highest target of no particular maker that this one runs.
    package var generic: Microarchitecture {
        ([self] + ancestors).filter { $0.vendor == "generic" }.reduce(nil) { best, target -> Microarchitecture? in
            (best.map { target.ancestors.count > $0.ancestors.count } ?? true) ? target : best
        } ?? self
    }

    /// The highest targets that both run: code built for one of them serves both. Empty for different families.
    package func common(with other: Microarchitecture) -> [Microarchitecture] {
        let shared = ([self] + ancestors).filter { other.dominates($0) }
        return shared.filter { candidate in !shared.contains { candidate < $0 } }
    }

    /// Whether a target's code may count on a feature, by its name or by one of archspec's aliases, for example `avx512`.
    package func has(_ feature: String) -> Bool {
        features.contains(feature) || (MicroarchitectureTable.shared.aliases[feature]?.holds(features, family) ?? false)
    }
}
