import FarmModel
import Recipes

/// What a farm does at night: `nightly` in `farm.json`. Every key has a default; without a schedule nights are begun by people.
package struct NightlySettings: Codable, Sendable, Hashable {
    /// What becomes of inputs that a recipe's own lock pins and that have moved.
    package enum Pins: String, Codable, Sendable, Hashable {
        /// They stay what the lock says; the report names them.
        case keep
        /// Base images follow their names, downloads and sources stay what the lock says.
        case bases
    }

    /// The directory of the collection, which has its recipes in `recipes/NAME`; somebody else keeps it up to date.
    package var collection = ""
    /// A git repository that is fetched into the farm's home before each night, in place of a directory.
    package var repository = ""
    package var branch = "main"
    /// Five fields as in crontab(5), or `@daily`; empty for never.
    package var schedule = ""
    /// A name of the time zone database.
    package var timezone = "UTC"
    /// CPU targets that each recipe is built for beside those that it was released for; empty for its own first one.
    package var targets: [String] = []
    /// Hours of a worker of speed 1 that a night may take.
    package var nodeHours: Double = 100
    /// What is older is built again for that alone; 0 for never.
    package var days = 90
    /// After so many failures of the same recipe and inputs it is left alone.
    package var mostFailures = 3
    package var pins = Pins.bases
    /// Files, directories and addresses of advisories (`AdvisoryList`).
    package var advisories: [String] = []
    /// Address that reports are posted to; empty for none.
    package var webhook = ""

    package init() {}

    package var rules: NightlyPlan.Rules { .init(nodeHours: nodeHours, days: days, mostFailures: mostFailures) }

    /// When nights begin; `nil` for a farm without a schedule. Throws what `CronExpression` does.
    package func cron() throws -> CronExpression? { schedule.isEmpty ? nil : try CronExpression(schedule, zone: timezone) }

    private enum CodingKeys: String, CodingKey, CaseIterable {
        case collection, repository, branch, schedule, timezone, targets, nodeHours, days, mostFailures, pins, advisories, webhook
    }

    /// Throws `settings.key` for a key that is none, and `settings.value` for a value without sense.
    package init(from decoder: any Decoder) throws {
        try SettingsKeys.check(decoder, CodingKeys.self, under: "nightly")
        let container = try decoder.container(keyedBy: CodingKeys.self)
        func read<Value: Decodable>(_ key: CodingKeys, _ value: inout Value) throws {
            value = try container.decodeIfPresent(Value.self, forKey: key) ?? value
        }
        try read(.collection, &collection)
        try read(.repository, &repository)
        try read(.branch, &branch)
        try read(.schedule, &schedule)
        try read(.timezone, &timezone)
        try read(.targets, &targets)
        try read(.nodeHours, &nodeHours)
        try read(.days, &days)
        try read(.mostFailures, &mostFailures)
        try read(.pins, &pins)
        try read(.advisories, &advisories)
        try read(.webhook, &webhook)
        try check()
    }

    private func check() throws {
        func fail(_ what: String, _ hint: String) -> FarmError {
            FarmError("settings.value", .invalid, "\(what) under \"nightly\" makes no sense", hint: hint)
        }
        guard nodeHours > 0, nodeHours <= 1_000_000, days >= 0, mostFailures > 0 else {
            throw fail("a number", "nodeHours (a million at the most) and mostFailures are greater than 0, days is not negative")
        }
        if try cron() != nil, collection.isEmpty, repository.isEmpty {
            throw fail("a schedule without recipes", "name the directory of a collection under \"collection\"")
        }
        guard collection.isEmpty || repository.isEmpty else {
            throw fail("both a collection and a repository", "a repository is fetched into the farm's home; leave \"collection\" away")
        }
        guard webhook.isEmpty || webhook.hasPrefix("https://") || webhook.hasPrefix("http://") else {
            throw fail("the webhook", "an address that begins with https://")
        }
        guard !repository.hasPrefix("-"), !branch.hasPrefix("-"), !branch.isEmpty else {
            throw fail("the repository or its branch", "for example \"repository\": \"https://git.example/collection\"")
        }
        for target in targets { _ = try TargetName.read(target) }
    }
}

/// Keys of a group of settings.
enum SettingsKeys {
    private struct AnyKey: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    /// Throws `settings.key` for a key that nobody reads.
    static func check<Key: CodingKey & CaseIterable>(_ decoder: any Decoder, _ known: Key.Type, under group: String) throws {
        let names = Set(Key.allCases.map(\.stringValue))
        for key in try decoder.container(keyedBy: AnyKey.self).allKeys where !names.contains(key.stringValue) {
            throw FarmError(
                "settings.key", .invalid, "\"\(key.stringValue)\" is no setting under \"\(group)\"",
                hint: "known: \(names.sorted().joined(separator: ", "))")
        }
    }
}
