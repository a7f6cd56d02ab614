import FarmModel

/// Why a night builds something.
package enum NightlyReason: Codable, Sendable, Hashable {
    /// Its version was never released for the target.
    case neverBuilt
    /// A rebuild mends these advisories: their names.
    case advisories([String])
    /// There is a newer version upstream, as what the source calls it.
    case upstream(version: String, label: String)
    /// The recipe or a file beside it has changed.
    case recipeChanged
    /// Templates or macros that it uses have changed: their paths.
    case templateChanged([String])
    /// A file or a source that it declares has other bytes than are locked.
    case inputChanged(name: String)
    /// The name of its base image leads to another image than is locked.
    case baseMoved(name: String)
    /// It is so many days old.
    case age(days: Int)

    /// What it is worth to have it built, in points; age counts the more the older.
    package var value: Double {
        switch self {
        case .advisories(let names): 100 + 10 * Double(min(20, names.count - 1))
        case .recipeChanged: 60
        case .upstream: 50
        case .neverBuilt: 45
        case .templateChanged: 42
        case .inputChanged: 40
        case .baseMoved: 30
        case .age(let days): min(25, Double(days) / 20)
        }
    }

    /// For people.
    package var words: String {
        switch self {
        case .neverBuilt: "this version was never released"
        case .advisories(let names):
            "a rebuild mends \(names.count == 1 ? names[0] : "\(names.count) advisories, \(names.prefix(3).joined(separator: ", "))")"
        case .upstream(let version, let label): "version \(version) is out\(label == version ? "" : " (\(label))")"
        case .recipeChanged: "the recipe has changed"
        case .templateChanged(let paths):
            paths.count == 1 ? "\(paths[0]) has changed" : "templates have changed, \(paths.prefix(3).joined(separator: ", "))"
        case .inputChanged(let name): "\(name) has changed"
        case .baseMoved(let name): "\(name) has moved"
        case .age(let days): "\(days) days old"
        }
    }
}

/// A recipe for one CPU target, as a night finds it.
package struct NightlySubject: Sendable, Hashable {
    /// Builds of the same recipe and inputs that failed in a row.
    package struct Failures: Sendable, Hashable {
        package var count: Int
        package var message: String

        package init(count: Int, message: String) {
            self.count = count
            self.message = message
        }
    }

    package var recipe: String
    package var version: String
    package var target: String
    package var reasons: [NightlyReason]
    /// Hours of one worker of speed 1 that a build is expected to take.
    package var hours: Double
    /// Why it cannot be built at all, if it cannot.
    package var obstacle: String?
    package var failures: Failures?
    /// What could not be found out.
    package var doubts: [String]

    package init(
        recipe: String, version: String, target: String, reasons: [NightlyReason], hours: Double, obstacle: String? = nil,
        failures: Failures? = nil, doubts: [String] = []
    ) {
        self.recipe = recipe
        self.version = version
        self.target = target
        self.reasons = reasons
        self.hours = hours
        self.obstacle = obstacle
        self.failures = failures
        self.doubts = doubts
    }
}

/// What a night does, and what it leaves, each with its reason.
package struct NightlyPlan: Codable, Sendable, Hashable {
    /// What becomes of a recipe.
    package enum Decision: String, Codable, Sendable, Hashable {
        case build
        /// A new version: built as a candidate, with the edit of the recipe proposed.
        case candidate
        case skip
    }

    /// One recipe for one CPU target.
    package struct Entry: Codable, Sendable, Hashable {
        /// Its place in the list of subjects.
        package var subject: Int
        package var recipe: String
        package var version: String
        package var target: String
        package var decision: Decision
        package var reasons: [NightlyReason]
        package var hours: Double
        package var value: Double
        /// The decision in words.
        package var words: String
        package var doubts: [String]
    }

    /// What the operator sets.
    package struct Rules: Codable, Sendable, Hashable {
        /// Hours of a worker of speed 1 that a night may take.
        package var nodeHours: Double
        /// What is older is built again for that alone; 0 for never.
        package var days: Int
        /// After so many failures of the same recipe and inputs it is left alone.
        package var mostFailures: Int

        package init(nodeHours: Double = 100, days: Int = 90, mostFailures: Int = 3) {
            self.nodeHours = nodeHours
            self.days = days
            self.mostFailures = mostFailures
        }
    }

    package var rules: Rules
    /// What is built in the order of its value, then what is skipped, by name.
    package var entries: [Entry]

    /// Decides by value until the hours are spent; what is too long for the rest of them leaves room for what is not.
    package init(_ subjects: [NightlySubject], rules: Rules) {
        self.rules = rules
        var wanted: [Entry] = []
        var skipped: [Entry] = []
        for (place, subject) in subjects.enumerated() {
            var entry = NightlyPlan.judge(subject, place, rules)
            if entry.decision == .skip {
                entry.value = 0
                skipped.append(entry)
            } else {
                wanted.append(entry)
            }
        }
        wanted.sort { (-$0.value, $0.hours, $0.recipe, $0.target) < (-$1.value, $1.hours, $1.recipe, $1.target) }
        var left = rules.nodeHours
        entries = []
        for var entry in wanted {
            if entry.hours > left {
                entry.decision = .skip
                entry.words =
                    "would take \(NightlyPlan.hours(entry.hours)), \(NightlyPlan.hours(left)) of the night's \(NightlyPlan.hours(rules.nodeHours)) are left; \(entry.words)"
                skipped.append(entry)
            } else {
                left -= entry.hours
                entries.append(entry)
            }
        }
        entries += skipped.sorted { ($0.recipe, $0.target) < ($1.recipe, $1.target) }
    }

    /// Hours that the builds of the plan are expected to take.
    package var plannedHours: Double { entries.reduce(0) { $1.decision == .skip ? $0 : $0 + $1.hours } }

    private static func judge(_ subject: NightlySubject, _ place: Int, _ rules: Rules) -> Entry {
        let reasons = subject.reasons.filter { if case .age(let days) = $0 { rules.days > 0 && days >= rules.days } else { true } }
        var entry = Entry(
            subject: place, recipe: subject.recipe, version: subject.version, target: subject.target, decision: .build, reasons: reasons,
            hours: subject.hours,
            value: reasons.reduce(0) { $0 + $1.value }, words: reasons.map(\.words).joined(separator: "; "), doubts: subject.doubts)
        if let obstacle = subject.obstacle {
            entry.decision = .skip
            entry.words = ([obstacle] + reasons.map(\.words)).joined(separator: "; ")
        } else if reasons.isEmpty {
            entry.decision = .skip
            let age = subject.reasons.compactMap { if case .age(let days) = $0 { days } else { nil } }.first
            entry.words = "nothing has changed\(age.map { ", \($0) days old" } ?? "")"
        } else if let failures = subject.failures, failures.count >= rules.mostFailures {
            entry.decision = .skip
            entry.words = "failed \(failures.count) times, and nothing has changed since: \(failures.message.prefix(200))"
        } else if reasons.contains(where: { if case .upstream = $0 { true } else { false } }) {
            entry.decision = .candidate
        }
        return entry
    }

    /// For people: `1.5 h`, `4 min`.
    package static func hours(_ value: Double) -> String {
        if value < 0.1 { return "\(Int((value * 60).rounded())) min" }
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10) h"
    }
}
