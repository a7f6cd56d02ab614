/// The steps of a Dockerfile, each of which makes a layer, for telling what a change costs.
package struct DockerfileSteps: Sendable, Hashable {
    /// Each with its continuation lines.
    package let steps: [String]

    package init(_ text: String) {
        var steps: [String] = []
        var continues = false
        for line in text.split(separator: "\n") {
            if continues {
                steps[steps.count - 1] += "\n\(line)"
            } else {
                steps.append(String(line))
            }
            continues = line.hasSuffix("\\")
        }
        self.steps = steps
    }

    /// One line of a comparison.
    package enum Change: Sendable, Hashable {
        case same(String)
        case gone(String)
        case new(String)
    }

    /// The changes to `other`, as few as there can be (longest common subsequence).
    package func changes(to other: DockerfileSteps) -> [Change] {
        let (a, b) = (steps, other.steps)
        var lengths = Array(repeating: Array(repeating: 0, count: b.count + 1), count: a.count + 1)
        for i in a.indices.reversed() {
            for j in b.indices.reversed() {
                lengths[i][j] = a[i] == b[j] ? lengths[i + 1][j + 1] + 1 : max(lengths[i + 1][j], lengths[i][j + 1])
            }
        }
        var changes: [Change] = []
        var (i, j) = (0, 0)
        while i < a.count || j < b.count {
            if i < a.count, j < b.count, a[i] == b[j] {
                changes.append(.same(a[i]))
                (i, j) = (i + 1, j + 1)
            } else if j == b.count || i < a.count && lengths[i + 1][j] >= lengths[i][j + 1] {
                changes.append(.gone(a[i]))
                i += 1
            } else {
                changes.append(.new(b[j]))
                j += 1
            }
        }
        return changes
    }

    /// How many steps of `other` an engine can take from the layers of this one: those before the first that differs.
    package func kept(by other: DockerfileSteps) -> Int { zip(steps, other.steps).prefix { $0 == $1 }.count }
}
