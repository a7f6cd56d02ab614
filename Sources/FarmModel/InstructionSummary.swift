/// A report on machine code in lines for people.
package enum InstructionSummary {
    /// - Parameter all: files that keep to the target too.
    package static func lines(_ report: InstructionReport, all: Bool = false) -> [String] {
        var lines: [String] = []
        for file in report.files.sorted(by: { $0.verdict > $1.verdict }) where all || !file.uses.isEmpty {
            lines.append("\(file.path): \(word(file.verdict)); highest \(file.highest), without checked code \(file.unchecked)")
            for use in file.uses {
                lines.append(
                    "  \(word(use.verdict)): \(use.functions) functions with \(use.features.joined(separator: ", ")): \(use.reason)")
                for example in use.examples.prefix(use.verdict == .met ? 2 : 8) {
                    // The beginning and the end of a long way say most.
                    let steps = example.way.dropLast()
                    let shown = steps.count <= 6 ? Array(steps) : steps.prefix(2) + ["…"] + steps.suffix(3)
                    let way = steps.isEmpty ? "" : ", by \(shown.joined(separator: " > "))"
                    lines.append("    \(example.function) (\(example.feature) at \(example.address))\(way)")
                }
            }
        }
        for file in report.skipped { lines.append("\(file.path): not read: \(file.reason)") }
        for note in report.notes { lines.append("note: \(note)") }
        let beyond = report.files.filter { !$0.uses.isEmpty }.count
        lines.append(
            "\(report.target): \(word(report.verdict)); \(report.files.count) files with \(report.codeBytes) bytes of code, \(beyond) of them hold more than the target has"
        )
        return lines
    }

    private static func word(_ verdict: InstructionReport.Verdict) -> String {
        switch verdict {
        case .met: "met"
        case .unproven: "unproven"
        case .exceeded: "EXCEEDED"
        }
    }
}
