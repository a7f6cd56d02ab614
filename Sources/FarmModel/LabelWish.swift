/// What a job asks of its worker by labels: words that a worker has of its operator (`fast-disk`) or of its machine (`gpu`, `gpu-nvidia`,
/// `runtime-nvidia`, `storage-overlay2`, `cgroup-v2`).
package struct LabelWish: Codable, Sendable, Hashable {
    /// The worker must have all of them.
    package var needs: [String]
    /// The worker must have none of them.
    package var avoids: [String]

    /// Of workers that can keep builds to their proxy.
    package static let networkProxy = "network-proxy"

    package init(needs: [String] = [], avoids: [String] = []) {
        self.needs = Set(needs).sorted()
        self.avoids = Set(avoids).sorted()
    }

    package var isEmpty: Bool { needs.isEmpty && avoids.isEmpty }

    /// Why a worker with these labels will not do, in words; `nil` when it will.
    package func obstacle(_ labels: [String]) -> String? {
        if let missing = needs.first(where: { !labels.contains($0) }) { return "it lacks the label \(missing), which the job needs" }
        return avoids.first { labels.contains($0) }.map { "it has the label \($0), which the job avoids" }
    }

    /// Both wishes at once.
    package func union(_ other: LabelWish) -> LabelWish { LabelWish(needs: needs + other.needs, avoids: avoids + other.avoids) }

    /// Throws `label.name` for words that are no labels, and `label.conflict` for one that is needed and avoided.
    package func check() throws {
        for label in needs + avoids where !LabelWish.isLabel(label) {
            throw FarmError(
                "label.name", .invalid, "\"\(label.prefix(80))\" is no label",
                hint: "lower-case letters, digits, dots and hyphens, at most 63, for example gpu or fast-disk")
        }
        if let both = needs.first(where: avoids.contains) {
            throw FarmError("label.conflict", .invalid, "the label \(both) is needed and avoided; no worker can have it and not have it")
        }
    }

    /// Whether a word may be a label.
    package static func isLabel(_ text: String) -> Bool {
        guard let first = text.utf8.first, first.isAlphanumeric, text.utf8.count <= 63 else { return false }
        return text == text.lowercased() && text.utf8.allSatisfy { $0.isAlphanumeric || "-.".utf8.contains($0) }
    }
}

/// What part of the last minute work on a machine stood still for want of something, in percent (Linux, Documentation/accounting/psi.rst).
package struct Pressure: Codable, Sendable, Hashable {
    /// Some task waited for a processor.
    package var cpu: Double
    /// All tasks waited for memory.
    package var memory: Double
    /// All tasks waited for a disk.
    package var io: Double

    package init(cpu: Double = 0, memory: Double = 0, io: Double = 0) {
        func bounded(_ value: Double) -> Double { value.isFinite ? min(100, max(0, value)) : 0 }
        (self.cpu, self.memory, self.io) = (bounded(cpu), bounded(memory), bounded(io))
    }

    /// The worst of them; for a processor only what goes beyond half, for builds use all that there are.
    package var strain: Double { max(memory, io, max(0, cpu - 50)) }

    /// Reads `avg60` of a line (`some` or `full`) of a file below `/proc/pressure`.
    package static func average(_ line: String, of text: String) -> Double {
        for row in text.split(separator: "\n") where row.hasPrefix("\(line) ") {
            for field in row.split(separator: " ") where field.hasPrefix("avg60=") { return Double(field.dropFirst(6)) ?? 0 }
        }
        return 0
    }
}
