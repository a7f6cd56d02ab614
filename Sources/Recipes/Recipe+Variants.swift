import FarmModel
package import Microarchitecture

/// One container that a recipe describes: a variant for an architecture.
package struct RecipeVariant: Sendable, Hashable {
    /// What chooses it: empty for the default, `gpu`, `arm64`, `gpu_arm64`.
    package var selector: String
    /// The recipe's own variant; empty for none.
    package var variant: String
    package var architecture: String
    /// The container's name: the recipe's, with the selector.
    package var name: String
    package var options: [String: Bool]
}

extension Recipe {
    /// All containers of the recipe; the default one first.
    package var concreteVariants: [RecipeVariant] {
        var result = architectures.map { concrete("", $0, [:]) }
        for variant in variants {
            let wanted = variant.architectures.isEmpty ? Array(architectures.prefix(1)) : variant.architectures
            result += wanted.map { concrete(variant.name, $0, variant.options) }
        }
        return result
    }

    private func concrete(_ variant: String, _ architecture: String, _ options: [String: Bool]) -> RecipeVariant {
        let selector = [variant, architecture == "aarch64" ? "arm64" : ""].filter { !$0.isEmpty }.joined(separator: "_")
        return RecipeVariant(
            selector: selector, variant: variant, architecture: architecture, name: selector.isEmpty ? name : "\(name)_\(selector)",
            options: options)
    }

    /// The CPU target of a name; for an empty one the recipe's first, or else the lowest of its first architecture; throws `target.unknown`,
    /// and `recipe.target` for one that the recipe is not meant for.
    package func target(_ name: String) throws -> Microarchitecture {
        let wanted = name.isEmpty ? settings.targets.first ?? architectures[0] : name
        let target = try TargetName.read(wanted)
        let meant = settings.targets.compactMap(Microarchitecture.named)
        if meant.isEmpty || meant.contains(target) { return target }
        // An architecture's name stands for what the recipe wants of it.
        if target.name == target.family, let first = meant.first(where: { $0.family == target.family }) { return first }
        throw FarmError(
            "recipe.target", .invalid, "\(self.name) is not meant for \(target.name)",
            hint: "its targets are: \(settings.targets.joined(separator: ", "))")
    }

    /// The container for an architecture and one of the recipe's variants (empty for none); throws `recipe.variant`.
    package func concreteVariant(architecture: String, variant: String = "") throws -> RecipeVariant {
        guard variant.isEmpty || variants.contains(where: { $0.name == variant }) else {
            let known = variants.map(\.name).joined(separator: ", ")
            throw FarmError(
                "recipe.variant", .invalid, "\(name) has no variant \"\(variant)\"",
                hint: known.isEmpty ? "it has no variants" : "it has: \(known)")
        }
        guard let found = concreteVariants.first(where: { $0.architecture == architecture && $0.variant == variant }) else {
            let offered = concreteVariants.filter { $0.variant == variant }.map(\.architecture).joined(separator: ", ")
            throw FarmError(
                "recipe.target", .invalid,
                "\(variant.isEmpty ? name : "variant \(variant) of \(name)") is for \(offered), not for \(architecture)")
        }
        return found
    }
}
