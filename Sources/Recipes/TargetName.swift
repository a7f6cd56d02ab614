import FarmModel
package import Microarchitecture

/// CPU targets as people write them.
package enum TargetName {
    /// The target of a name; throws `target.unknown` with what was probably meant.
    package static func read(_ name: String) throws -> Microarchitecture {
        guard let target = Microarchitecture.named(name) else {
            let near = NearestWord.find(name, among: Microarchitecture.names).map { "did you mean \"\($0)\"?" }
            throw FarmError(
                "target.unknown", .usage, "\"\(name)\" is no CPU target",
                hint: near ?? "known: \(Microarchitecture.names.joined(separator: ", "))")
        }
        return target
    }
}
