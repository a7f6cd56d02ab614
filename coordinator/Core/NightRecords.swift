package import FarmModel

/// A night as the journal keeps it, without its entries.
package struct NightRecord: Codable, Sendable, Hashable {
    /// How far its report has come.
    package struct Notice: Codable, Sendable, Hashable {
        package var tries = 0
        package var deliveredAt: Timestamp?
        package var triedAt: Timestamp?
        /// Why the last try failed.
        package var problem: String?

        package init() {}
    }

    package var number: Int
    /// When the schedule had it begin; `nil` for one that somebody asked for.
    package var dueAt: Timestamp?
    package var startedBy: String
    package var startedAt: Timestamp
    package var endedAt: Timestamp?
    /// The collection's directory, and the commit that it had.
    package var collection: String
    package var commit: String?
    package var rules: NightlyPlan.Rules
    /// What could not be found out or read.
    package var problems: [String]
    package var stoppedBy: String?
    package var notice = Notice()

    package init(
        number: Int, dueAt: Timestamp?, startedBy: String, startedAt: Timestamp, collection: String, commit: String?,
        rules: NightlyPlan.Rules, problems: [String]
    ) {
        self.number = number
        self.dueAt = dueAt
        self.startedBy = startedBy
        self.startedAt = startedAt
        self.collection = collection
        self.commit = commit
        self.rules = rules
        self.problems = problems
    }
}

/// The edit that brings a recipe to a version that was found.
package struct NightlyProposal: Codable, Sendable, Hashable {
    package var from: String
    package var to: String
    /// Where the version was found.
    package var source: String
    /// For `patch -p1` in the collection.
    package var patch: String
    /// Lines in which the old version stands too.
    package var linesToLookAt: [Int]
}

/// What a night does with one recipe for one CPU target.
package struct NightEntry: Codable, Sendable, Hashable {
    /// What came of a job.
    package enum State: String, Codable, Sendable, Hashable {
        case released
        /// Nothing had to be built after all.
        case unchanged
        /// A candidate waits for a releaser.
        case candidate
        case failed
        case cancelled
        /// The night was over before it was.
        case unfinished
    }

    /// How it ended.
    package struct Outcome: Codable, Sendable, Hashable {
        package var state: State
        package var words: String
        package var failureClass: FailureClass?
        /// Seconds of a worker of speed 1 that its attempts took.
        package var seconds: Double = 0
        package var release: Digest?
        /// The plan that was built; `nil` where it never came to one.
        package var plan: Digest?
        package var endedAt: Timestamp?

        package init(_ state: State, _ words: String, failureClass: FailureClass? = nil, seconds: Double = 0, release: Digest? = nil) {
            self.state = state
            self.words = words
            self.failureClass = failureClass
            self.seconds = seconds
            self.release = release
        }
    }

    package var night: Int
    /// Its place in the plan, from 0.
    package var position: Int
    package var plan: NightlyPlan.Entry
    /// What is submitted, in the blob store; `nil` for what is skipped.
    package var submission: Digest?
    /// Stands for the recipe and what belongs to it, without its inputs: what failed is tried again when it is another one.
    package var fingerprint: Digest?
    /// The day whose packages it has, if any.
    package var refreshed: String?
    /// Inputs that had moved, each with what it had moved to.
    package var moved: [String]?
    package var proposal: NightlyProposal?
    package var job: JobID?
    package var outcome: Outcome?

    package init(
        night: Int, position: Int, plan: NightlyPlan.Entry, submission: Digest? = nil, fingerprint: Digest? = nil,
        refreshed: String? = nil, moved: [String] = [], proposal: NightlyProposal? = nil
    ) {
        self.refreshed = refreshed
        self.moved = moved.isEmpty ? nil : moved
        self.night = night
        self.position = position
        self.plan = plan
        self.submission = submission
        self.fingerprint = fingerprint
        self.proposal = proposal
    }

    /// Whether something is still to be done for it.
    package var isOpen: Bool { plan.decision != .skip && outcome == nil }

    /// What nights remember it by.
    package var key: String { NightEntry.key(plan.recipe, plan.version, plan.target) }

    static func key(_ recipe: String, _ version: String, _ target: String) -> String { "\(recipe)\n\(version)\n\(target)" }
}

/// A night with all its entries, in the order of the plan.
package struct NightFile: Codable, Sendable, Hashable {
    package var night: NightRecord
    package var entries: [NightEntry]

    package init(night: NightRecord, entries: [NightEntry]) {
        self.night = night
        self.entries = entries
    }

    package func count(_ state: NightEntry.State) -> Int { entries.count { $0.outcome?.state == state } }
}
