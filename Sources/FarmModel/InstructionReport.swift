/// What the machine code of an image needs of the CPU, against what its target has.
package struct InstructionReport: Codable, Sendable, Hashable {
    /// The answer as a whole, and for each group of functions.
    package enum Verdict: String, Codable, Sendable, Hashable, Comparable {
        /// Nothing goes beyond the target except behind a check of the CPU.
        case met
        /// Something goes beyond it, and whether a check stands before it was not seen.
        case unproven
        /// Something goes beyond it whatever CPU it runs on.
        case exceeded

        package static func < (left: Verdict, right: Verdict) -> Bool { left.rank < right.rank }

        private var rank: Int {
            switch self {
            case .met: 0
            case .unproven: 1
            case .exceeded: 2
            }
        }
    }

    /// Functions of one file beyond the target that come to run in the same manner.
    package struct Use: Codable, Sendable, Hashable {
        package var verdict: Verdict
        /// In words, why.
        package var reason: String
        /// Sorted.
        package var features: [String]
        package var functions: Int
        /// Some of them.
        package var examples: [Example]

        package init(verdict: Verdict, reason: String, features: [String], functions: Int, examples: [Example]) {
            self.verdict = verdict
            self.reason = reason
            self.features = features
            self.functions = functions
            self.examples = examples
        }
    }

    /// One function beyond the target.
    package struct Example: Codable, Sendable, Hashable {
        package var function: String
        /// Of the first such instruction, in hexadecimal.
        package var address: String
        package var feature: String
        /// The functions over which it is reached, the first one first.
        package var way: [String]

        package init(function: String, address: String, feature: String, way: [String]) {
            self.function = function
            self.address = address
            self.feature = feature
            self.way = way
        }
    }

    /// One program or library.
    package struct File: Codable, Sendable, Hashable {
        package var path: String
        package var machine: String
        /// The lowest generic target that has all that any of its code needs, and what goes beyond even that.
        package var highest: String
        /// The same without code that runs only behind a check.
        package var unchecked: String
        /// What its own note demands (`.note.gnu.property`); absent without a note.
        package var demands: String?
        package var verdict: Verdict
        /// Worst first; empty when nothing goes beyond the target.
        package var uses: [Use]

        package init(
            path: String, machine: String, highest: String, unchecked: String, demands: String?, verdict: Verdict, uses: [Use]
        ) {
            self.path = path
            self.machine = machine
            self.highest = highest
            self.unchecked = unchecked
            self.demands = demands
            self.verdict = verdict
            self.uses = uses
        }
    }

    /// A file that was not looked into.
    package struct Skipped: Codable, Sendable, Hashable {
        package var path: String
        package var reason: String

        package init(path: String, reason: String) {
            self.path = path
            self.reason = reason
        }
    }

    package var format = 1
    package var target: String
    package var verdict: Verdict
    /// In the order of paths; every ELF file of the image that was read.
    package var files: [File]
    package var skipped: [Skipped]
    package var notes: [String]
    /// Bytes of machine code that were read.
    package var codeBytes: Int

    package init(
        target: String, verdict: Verdict, files: [File], skipped: [Skipped], notes: [String], codeBytes: Int
    ) {
        self.target = target
        self.verdict = verdict
        self.files = files
        self.skipped = skipped
        self.notes = notes
        self.codeBytes = codeBytes
    }
}
