import FarmModel

/// What was found of a promised command inside an image, without starting it.
package struct CommandFacts: Sendable, Hashable {
    package var name: String
    /// Where it lies; empty where nothing of that name is on the image's PATH.
    package var path: String
    /// Something of that name is there, and an ordinary user may not run it.
    package var isDenied: Bool
    /// Libraries that are not found for it.
    package var missing: [String]
    /// The machine for which it was made, as ELF numbers it; `nil` for scripts, and where the image has nothing to look with.
    package var machine: Int?

    package init(name: String, path: String, isDenied: Bool = false, missing: [String] = [], machine: Int? = nil) {
        self.name = name
        self.path = path
        self.isDenied = isDenied
        self.missing = missing
        self.machine = machine
    }

    /// A line for each command: its name, what it is (`absent`, `denied`, `there`), its path, its machine's number and the libraries that it
    /// lacks, separated by tabs.
    package static func read(_ text: String) -> [CommandFacts] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            guard fields.count >= 5 else { return nil }
            return CommandFacts(
                name: fields[0], path: fields[1] == "absent" ? "" : fields[2], isDenied: fields[1] == "denied",
                missing: fields[4].split(separator: " ").map(String.init), machine: Int(fields[3]))
        }
    }

    /// ELF's numbers of machines (System V ABI, e_machine) that run on an architecture.
    private static let machines: [String: Set<Int>] = ["x86_64": [62, 3], "aarch64": [183, 40]]
    private static let names = [62: "x86-64", 3: "i386", 183: "AArch64", 40: "ARM", 21: "PowerPC 64", 243: "RISC-V", 22: "S/390"]

    /// What an image for an architecture has against it; empty when it may be started.
    package func problems(architecture: String) -> [String] {
        if path.isEmpty { return ["it is not on the image's PATH"] }
        if isDenied { return ["\(path) is there, and an ordinary user may not run it: chmod a+rx, also on the directories above it"] }
        if let machine, let fitting = CommandFacts.machines[architecture], !fitting.contains(machine) {
            return ["\(path) is a program for \(CommandFacts.names[machine] ?? "machine \(machine)"), the image is for \(architecture)"]
        }
        return missing.isEmpty ? [] : ["\(path) needs libraries that the image does not have: \(missing.joined(separator: ", "))"]
    }
}

/// Whether a command that was started with `--version` or `--help` has crashed. Most statuses say nothing: many programs know neither word.
package enum StartCheck {
    /// What is wrong, or `nil`.
    package static func problem(_ seen: TestObservation) -> String? {
        if seen.outOfMemory { return "it held \(seen.memoryBytes >> 20) MiB of memory and was ended" }
        if seen.timedOut { return "it did not end" }
        let said = seen.output.split(separator: "\n").map(String.init)
        if seen.exitCode != 0, let line = said.first(where: { line in writes.contains { line.contains($0) } }) {
            return "it wants to write where nothing can be written: \(line.prefix(200))"
        }
        if let line = said.first(where: { line in crashes.contains { line.contains($0) } }) { return String(line.prefix(200)) }
        // A shell adds the signal's number to 128.
        let signals: [Int32: String] = [
            4: "an illegal instruction", 6: "an abort", 7: "a bus error", 8: "an arithmetic error", 11: "a segmentation fault",
        ]
        if seen.exitCode > 128, let signal = signals[seen.exitCode - 128] { return "it ended with \(signal)" }
        if seen.exitCode == 126 || seen.exitCode == 127 {
            return "it cannot be run: \(said.last.map { String($0.prefix(200)) } ?? "status \(seen.exitCode)")"
        }
        return nil
    }

    private static let crashes = [
        "error while loading shared libraries", "symbol lookup error", "Exec format error", "cannot execute binary file",
        "Illegal instruction",
        "Segmentation fault", "bad interpreter",
    ]
    private static let writes = ["Read-only file system"]
}
