import FarmModel
import Foundation
import HTTPTransport
import Microarchitecture
import ObjectStorage
import Recipes
import SystemIO
import Upstream

/// What a survey has to know of the farm.
struct NightFacts: Sendable {
    /// What a trusted or an untrusted worker can build.
    struct Capability: Sendable {
        var target: Microarchitecture
        var labels: [String]
        var isTrusted: Bool
    }

    /// A job that is open, or a candidate that waits.
    struct Pending: Sendable {
        var job: JobID
        var recipe: String
        var version: String
        var target: String
        var isCandidate: Bool
    }

    var inputs: [String: LockedInput]
    var releases: [ReleaseRecord]
    var ledger: RunLedger
    var capabilities: [Capability]
    var pending: [Pending]
}

/// What a night could do with one recipe for one CPU target, and what it would submit.
struct NightFinding: Sendable {
    var subject: NightlySubject
    var submission: Submission?
    var fingerprint: Digest?
    var proposal: NightlyProposal?
    /// What has moved, and to what.
    var moved: [String] = []
}

/// Answers that several recipes need, each asked for once.
actor AnswerBook {
    private var standings: [String: Task<InputStanding, Never>] = [:]

    func standing(_ key: String, _ ask: @escaping @Sendable () async -> InputStanding) async -> InputStanding {
        if let there = standings[key] { return await there.value }
        let task = Task { await ask() }
        standings[key] = task
        return await task.value
    }
}

/// Finds out, for every recipe of a collection, why a night should build it. Asks other people's servers a few questions at a time, and
/// takes what it cannot find out for unchanged, with a remark.
struct NightSurvey: Sendable {
    let facts: NightFacts
    let settings: NightlySettings
    let bootstrap: [String: BootstrapSource]
    /// `nil` asks nobody.
    let client: HTTPClient?
    let advisories: AdvisoryList
    let blobs: BlobStore
    let journal: any FarmJournal
    let region: any ObjectStore
    /// Entries of the last nights by their key, the newest first.
    let memory: [String: [NightEntry]]
    let now: Timestamp
    let gate = QuestionGate()
    let answers = AnswerBook()
    let releases: [String: ReleaseRecord]
    /// Targets that each name was released for, and all names with their versions.
    let releasedTargets: [String: Set<String>]
    let releasedVersions: Set<String>
    let releasedPlans: [Digest: JobID]
    /// Seconds for a recipe that was never built: what the others take.
    let usualSeconds: Double
    /// How images are packed where their recipes do not say it.
    let image: ImageFormat
    let candidateImage: ImageFormat
    /// What tests may read.
    let datasets: [String: TestDataset]

    init(
        facts: NightFacts, settings: NightlySettings, bootstrap: [String: BootstrapSource], client: HTTPClient?,
        advisories: AdvisoryList, blobs: BlobStore, journal: any FarmJournal, region: any ObjectStore, memory: [String: [NightEntry]],
        images: ImageRules, datasets: [String: TestDataset], now: Timestamp
    ) {
        self.datasets = datasets
        image = images.format(isCandidate: false)
        candidateImage = images.format(isCandidate: true)
        self.facts = facts
        self.settings = settings
        self.bootstrap = bootstrap
        self.client = client
        self.advisories = advisories
        self.blobs = blobs
        self.journal = journal
        self.region = region
        self.memory = memory
        self.now = now
        releases = Dictionary(
            facts.releases.map { (NightEntry.key($0.release.name, $0.release.version, $0.release.image.target), $0) }
        ) { $0.release.publishedAt > $1.release.publishedAt ? $0 : $1 }
        releasedTargets = facts.releases.reduce(into: [:]) { $0[$1.release.name, default: []].insert($1.release.image.target) }
        releasedPlans = Dictionary(facts.releases.map { ($0.release.image.buildKey, $0.job) }) { first, _ in first }
        let known = facts.ledger.histories.values.map(\.logSeconds).sorted()
        usualSeconds = known.isEmpty ? JobQueue.unknownLength : exp(known[known.count / 2])
        releasedVersions = Set(facts.releases.map { "\($0.release.name)\n\($0.release.version)" })
    }

    private static let recipesAtOnce = 8

    /// Looks at all recipes of a collection; throws what reading the collection does. A recipe that cannot be read is a finding too.
    func run(_ root: String) async throws -> [NightFinding] {
        let collection = try RecipeDirectory.collection(root)
        var names = try RecipeDirectory.recipes(root)
        // Services answer so many questions: it is not always the same recipes that come too late.
        let days = Int(now.milliseconds / 86_400_000)
        if !names.isEmpty { names = Array(names[(days * 37 % names.count)...] + names[..<(days * 37 % names.count)]) }
        return try await withThrowingTaskGroup(of: [NightFinding].self) { tasks in
            var rest = names[...]
            var findings: [NightFinding] = []
            func start() {
                guard let name = rest.popFirst() else { return }
                tasks.addTask { await self.findings(of: name, in: root, collection) }
            }
            for _ in 0..<NightSurvey.recipesAtOnce { start() }
            while let found = try await tasks.next() {
                try Task.checkCancellation()
                findings += found
                start()
            }
            return NightSurvey.distinct(findings).sorted {
                ($0.subject.recipe, $0.subject.target, $0.subject.version) < ($1.subject.recipe, $1.subject.target, $1.subject.version)
            }
        }
    }

    /// A version is proposed once, and not where the collection has it in another directory.
    private static func distinct(_ findings: [NightFinding]) -> [NightFinding] {
        func name(_ finding: NightFinding) -> String { "\(finding.subject.recipe)\n\(finding.subject.version)" }
        var seen = Set(findings.filter { $0.proposal == nil }.map(name))
        return findings.filter { $0.proposal == nil || seen.insert(name($0)).inserted }
    }

    private func findings(of name: String, in root: String, _ collection: RecipeCollection) async -> [NightFinding] {
        do {
            let directory = "\(root)/recipes/\(name)"
            var source = try await Blocking.run { try RecipeDirectory.read(directory, collection: collection) }
            // As the collection's people know it.
            source.path = "recipes/\(name)/build.yaml"
            let recipe = try Recipe.read(source)
            var found: [NightFinding] = []
            for (variant, target) in try containers(of: recipe) {
                found.append(await finding(recipe, source, variant, target))
            }
            if found.isEmpty {
                let words =
                    "it is for \(recipe.architectures.joined(separator: ", ")), nights are for \(settings.targets.joined(separator: ", "))"
                found.append(
                    NightFinding(
                        subject: NightlySubject(
                            recipe: recipe.name, version: recipe.version, target: "-", reasons: [], hours: 0, obstacle: words)))
            }
            if let candidate = await candidate(recipe, source) { found.append(candidate) }
            return found
        } catch {
            let words = (error as? FarmError)?.message ?? "\(error)"
            return [
                NightFinding(
                    subject: NightlySubject(recipe: name, version: "-", target: "-", reasons: [], hours: 0, obstacle: words))
            ]
        }
    }

    /// The recipe's containers and their targets: those that the settings name, those that were released, or else its first.
    private func containers(of recipe: Recipe) throws -> [(variant: String, target: Microarchitecture)] {
        var result: [(variant: String, target: Microarchitecture)] = []
        let wanted = try settings.targets.map(TargetName.read)
        for container in recipe.concreteVariants {
            let name = container.variant.isEmpty ? recipe.name : "\(recipe.name)_\(container.variant)"
            let released = (releasedTargets[name] ?? []).compactMap(Microarchitecture.named)
            var targets = (wanted + released).filter { $0.family == container.architecture && (try? recipe.target($0.name)) == $0 }
            if targets.isEmpty, wanted.isEmpty, container.architecture == recipe.architectures.first {
                let first = try recipe.target("")
                if first.family == container.architecture { targets = [first] }
            }
            for target in Set(targets.map(\.name)).sorted().compactMap(Microarchitecture.named) {
                result.append((container.variant, target))
            }
        }
        return result
    }

    // MARK: one container

    func finding(_ recipe: Recipe, _ source: RecipeSource, _ variant: String, _ target: Microarchitecture) async -> NightFinding {
        let name = variant.isEmpty ? recipe.name : "\(recipe.name)_\(variant)"
        var finding = NightFinding(
            subject: NightlySubject(
                recipe: name, version: recipe.version, target: target.name, reasons: [], hours: hours(name, target)))
        do {
            let unpinned = try unpinned(source)
            let draft = try RecipeDraft(recipe, unpinned, target: target, variant: variant)
            finding.subject.version = draft.definition.version
            let key = NightEntry.key(name, finding.subject.version, target.name)
            let suite = TestDataset.pinned(try RecipeSuite.read(unpinned), to: datasets)
            var change = try await inputs(of: draft, unpinned, original: source, &finding.subject)
            finding.moved = change.moved.sorted()
            let release = releases[key]
            let earlier = try await earlierSubmission(of: release, &finding.subject)
            try compare(release, earlier, draft, unpinned, suite, change.used, &finding.subject)
            let isStale = try await judgeAge(of: release, key, &finding.subject)
            if isStale { change.renews.formUnion(change.living) }
            let order = Submission(
                unpinned, target: target.name, variant: variant, updatesLock: false, priority: .nightly, renews: change.renews,
                refreshed: isStale ? day : earlier?.refreshed)
            finding.submission = order
            finding.fingerprint = try fingerprint(order)
            finding.subject.failures = failures(key, finding.fingerprint) { [used = change.used] in
                try? Digest(hashing: draft.render(lock: used, suite: suite, image: image).plan.canonicalBytes())
            }
            doubt(key, finding.fingerprint, finding.moved, &finding.subject)
            finding.subject.obstacle = obstacle(
                name, draft.definition.version, target, recipe.settings.workers, isCandidate: false)
        } catch {
            finding.subject.obstacle = (error as? FarmError)?.message ?? "\(error)"
        }
        return finding
    }

    /// The day that what is refreshed now is named by.
    var day: String { String(now.description.prefix(10)) }
}
