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
        var labels: Set<String>
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
private actor AnswerBook {
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
    private let gate = QuestionGate()
    private let answers = AnswerBook()
    private let releases: [String: ReleaseRecord]
    /// Targets that each name was released for, and all names with their versions.
    private let releasedTargets: [String: Set<String>]
    private let releasedVersions: Set<String>
    private let releasedPlans: [Digest: JobID]
    /// Seconds for a recipe that was never built: what the others take.
    private let usualSeconds: Double

    init(
        facts: NightFacts, settings: NightlySettings, bootstrap: [String: BootstrapSource], client: HTTPClient?,
        advisories: AdvisoryList, blobs: BlobStore, journal: any FarmJournal, region: any ObjectStore, memory: [String: [NightEntry]],
        now: Timestamp
    ) {
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

    private func finding(_ recipe: Recipe, _ source: RecipeSource, _ variant: String, _ target: Microarchitecture) async -> NightFinding {
        let name = variant.isEmpty ? recipe.name : "\(recipe.name)_\(variant)"
        var finding = NightFinding(
            subject: NightlySubject(
                recipe: name, version: recipe.version, target: target.name, reasons: [], hours: hours(name, target)))
        do {
            let unpinned = try unpinned(source)
            let draft = try RecipeDraft(recipe, unpinned, target: target, variant: variant)
            finding.subject.version = draft.definition.version
            let key = NightEntry.key(name, finding.subject.version, target.name)
            let suite = try RecipeSuite.read(unpinned)
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
                try? Digest(hashing: draft.render(lock: used, suite: suite, refreshed: $0).plan.canonicalBytes())
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
    private var day: String { String(now.description.prefix(10)) }

    /// Where base images follow their names, a recipe's lock does not hold them.
    private func unpinned(_ source: RecipeSource) throws -> RecipeSource {
        guard settings.pins == .bases, let lock = try RecipeLock.read(source) else { return source }
        var source = source
        source.files[RecipeLock.fileName] = try lock.without(.base).bytes()
        return source
    }

    /// What is known of a recipe's inputs.
    private struct Inputs {
        /// Locked by the recipe or resolved by the farm; complete only when all are.
        var used: [String: LockedInput] = [:]
        /// Names of those that have moved and that the lock does not hold.
        var renews: Set<String> = []
        /// Bases that are made of whatever their archive has: another one each day.
        var living: Set<String> = []
        /// What has moved, and to what.
        var moved: [String] = []
    }

    /// - Parameter original: the recipe with its whole lock, which tells what was known last where the farm knows nothing.
    private func inputs(
        of draft: RecipeDraft, _ source: RecipeSource, original: RecipeSource, _ subject: inout NightlySubject
    ) async throws -> Inputs {
        let lock = try RecipeLock.read(source)
        let hints = try RecipeLock.read(original)
        try lock?.check(draft.definition.shared, source)
        var result = Inputs()
        for input in draft.inputs {
            let key = LockedInput.key(kind: input.kind, name: input.name, architecture: draft.definition.architecture)
            let pinned = lock?.entry(key)
            let hint = hints?.entry(key)
            // A base that an emulator has made is for those builds that allow one.
            let known = facts.inputs[key].flatMap { $0.emulator == nil ? $0 : nil }
            guard let used = pinned ?? known ?? hint else { continue }
            result.used[key] = used
            // Whoever locked it had a newer one than the farm.
            if pinned == nil, let hint, hint.digest != used.digest, hint.lockedAt > used.lockedAt { result.renews.insert(used.name) }
            if used.origin == .bootstrap, pinned == nil, !(bootstrap[used.name]?.mirror.contains("{snapshot}") ?? true) {
                result.living.insert(used.name)
            }
            switch await standing(of: used) {
            case .same: break
            case .unknown(let why), .unreachable(let why): subject.doubts.append("\(used.name): \(why)")
            case .moved(_) where pinned != nil: subject.doubts.append("\(used.name) has moved; \(RecipeLock.fileName) holds it")
            case .moved(let what):
                result.renews.insert(used.name)
                result.moved.append("\(used.name) \(what)")
                subject.reasons.append(used.kind == .base ? .baseMoved(name: used.name) : .inputChanged(name: used.name))
            }
        }
        return result
    }

    private func standing(of input: LockedInput) async -> InputStanding {
        guard let client else { return .same }
        let watch = InputWatch(client: client, bootstrap: bootstrap)
        let gate = gate
        return await answers.standing("\(input.key) \(input.digest.hex)") {
            guard let host = watch.host(of: input) else { return await watch.standing(of: input) }
            let answer = await gate.ask(host, isAnswer: { if case .unreachable = $0 { false } else { true } }) {
                await watch.standing(of: input)
            }
            return answer ?? .unreachable("\(host) does not answer and is not asked any more tonight")
        }
    }

    /// What of the plan is another than that of the release.
    private func compare(
        _ release: ReleaseRecord?, _ earlier: Submission?, _ draft: RecipeDraft, _ source: RecipeSource, _ suite: TestSuite,
        _ used: [String: LockedInput], _ subject: inout NightlySubject
    ) throws {
        guard let release else { return subject.reasons.append(.neverBuilt) }
        // An input that was never resolved is a new one, and so the recipe has changed.
        let isComplete = draft.inputs.allSatisfy {
            used[LockedInput.key(kind: $0.kind, name: $0.name, architecture: draft.definition.architecture)] != nil
        }
        guard isComplete else { return subject.reasons.append(.recipeChanged) }
        let rendered = try draft.render(lock: used, suite: suite, refreshed: earlier?.refreshed ?? "")
        let buildKey = release.release.image.buildKey
        let plan = try Digest(hashing: rendered.plan.canonicalBytes())
        if plan == buildKey { return }
        // It was this once before, and a farm builds nothing twice.
        if let there = releasedPlans[plan] { return subject.doubts.append("as it is now it was released before, by \(there)") }
        guard let earlier, let before = try? Plan.read(try blobs.get(buildKey)) else { return subject.reasons.append(.recipeChanged) }
        var reasons: [NightlyReason] = []
        for base in [rendered.plan.base] + rendered.plan.moreBases {
            if let old = ([before.base] + before.moreBases).first(where: { $0.name == base.name }), old.digest != base.digest {
                reasons.append(.baseMoved(name: base.name))
            }
        }
        let fetched = Dictionary(before.context.map { ($0.path, $0.digest) }) { first, _ in first }
        for file in rendered.plan.context where rendered.blobs[file.digest] == nil {
            guard let old = fetched[file.path], old != file.digest else { continue }
            let name = used.values.first { $0.digest == file.digest }?.name ?? file.path
            reasons.append(.inputChanged(name: name))
        }
        if Submission.isEdited(try earlier.source(), source) { reasons.append(.recipeChanged) }
        let templates = try changedTemplates(earlier, draft)
        if !templates.isEmpty { reasons.append(.templateChanged(templates)) }
        // The same in, another out: Sciferry writes it in another way.
        if reasons.isEmpty { reasons.append(.templateChanged(["how Sciferry \(Program.version) renders it"])) }
        for reason in reasons where !subject.reasons.contains(reason) { subject.reasons.append(reason) }
    }

    private func changedTemplates(_ earlier: Submission, _ draft: RecipeDraft) throws -> [String] {
        let source = try earlier.source()
        // What could be read then and cannot now has changed otherwise.
        guard let recipe = try? Recipe.read(source), let target = try? recipe.target(earlier.target),
            let before = try? RecipeDraft(recipe, source, target: target, variant: earlier.variant)
        else { return [] }
        return draft.definition.shared.filter { before.definition.shared[$0.key] != $0.value }.keys.sorted()
    }

    /// What was sent for the build behind a release; `nil` where that is lost or cannot be read.
    private func earlierSubmission(of release: ReleaseRecord?, _ subject: inout NightlySubject) async throws -> Submission? {
        guard let release else { return nil }
        let (journal, blobs) = (journal, blobs)
        do {
            return try await Blocking.run {
                guard let blob = try journal.job(release.job)?.job.submission, blobs.contains(blob) else { return nil }
                let submission = try CanonicalJSON.decode(
                    Submission.self, from: try blobs.get(blob), source: "submission of \(release.job)")
                _ = try submission.source()
                return submission
            }
        } catch let error as FarmError {
            subject.doubts.append("it cannot be compared with its release: \(error.message)")
            return nil
        }
    }

    /// Reasons that the last night had too, and for which there was nothing to build, are none.
    private func doubt(_ key: String, _ fingerprint: Digest?, _ moved: [String], _ subject: inout NightlySubject) {
        guard let last = memory[key]?.first(where: { $0.outcome?.state != .unfinished }), last.outcome?.state == .unchanged,
            last.fingerprint == fingerprint, (last.moved ?? []) == moved
        else { return }
        let idle = subject.reasons.filter { reason in
            switch reason {
            case .age, .advisories: false
            default: last.plan.reasons.contains(reason)
            }
        }
        subject.reasons.removeAll { idle.contains($0) }
        subject.doubts += idle.map { "\($0.words), and night \(last.night) found nothing to build for it" }
    }

    private func hours(_ name: String, _ target: Microarchitecture) -> Double {
        let expectation = facts.ledger.expectation(recipe: name, target: target.name)
        return (expectation.isKnown ? expectation.seconds : usualSeconds) / 3600
    }

    /// Whether a release shall have the packages of today: it is old, or they mend something.
    private func judgeAge(of release: ReleaseRecord?, _ key: String, _ subject: inout NightlySubject) async throws -> Bool {
        guard let release else { return false }
        let days = Int(now.seconds(since: release.release.publishedAt) / 86400)
        subject.reasons.append(.age(days: days))
        var isStale = settings.days > 0 && days >= settings.days
        guard advisories.count > 0, let digest = release.release.records?[ImageRecord.Kind.packages.rawValue] else { return isStale }
        let installed: InstalledPackages
        do {
            let object = ImageRecord.key(digest)
            installed = try CanonicalJSON.decode(InstalledPackages.self, from: try await region.get(object), source: object)
        } catch {
            subject.doubts.append("what is installed cannot be read: \((error as? FarmError)?.message ?? "\(error)")")
            return isStale
        }
        // What an earlier night's build has not mended is not mended by another one.
        let all = advisories.mended(in: installed)
        let names = all.filter { isWorthTrying($0, key) }
        if names.count < all.count { subject.doubts.append("a rebuild has not mended \(all.count - names.count) advisories") }
        if !names.isEmpty {
            subject.reasons.append(.advisories(names))
            isStale = true
        }
        return isStale
    }

    /// An archive may have the mended package later than its advisory says: tried again after 2, 4, 8, … days.
    private func isWorthTrying(_ advisory: String, _ key: String) -> Bool {
        let tries = (memory[key] ?? []).filter { entry in
            entry.outcome?.state == .released
                && entry.plan.reasons.contains { if case .advisories(let names) = $0 { names.contains(advisory) } else { false } }
        }
        guard let last = tries.first?.outcome?.endedAt else { return true }
        return now.seconds(since: last) > Double(1 << min(tries.count, 8)) * 86400
    }

    private func fingerprint(_ submission: Submission) throws -> Digest {
        var plain = submission
        (plain.renews, plain.refreshed, plain.path) = (nil, nil, "")
        return Digest(hashing: Array("\(Program.version)\n".utf8) + (try CanonicalJSON.encode(plain)))
    }

    /// Nights in a row in which the very same failed for a reason that lies in it.
    ///
    /// - Parameter plan: what would be built with the packages of a day; `nil` while that is not known.
    private func failures(_ key: String, _ fingerprint: Digest?, _ plan: (String) -> Digest?) -> NightlySubject.Failures? {
        let ended = (memory[key] ?? []).filter { [.failed, .released, .candidate].contains($0.outcome?.state) }
        let same = ended.prefix { entry in
            guard let outcome = entry.outcome, outcome.state == .failed, outcome.failureClass == .recipe, entry.fingerprint == fingerprint
            else { return false }
            guard let failed = outcome.plan, let now = plan(entry.refreshed ?? "") else { return true }
            return failed == now
        }
        return same.first.map { .init(count: same.count, message: $0.outcome?.words ?? "") }
    }

    private func obstacle(_ recipe: String, _ version: String, _ target: Microarchitecture, _ labels: LabelWish, isCandidate: Bool)
        -> String?
    {
        let same = facts.pending.first {
            $0.recipe == recipe && $0.target == target.name && $0.isCandidate == isCandidate && (!isCandidate || $0.version == version)
        }
        if let same { return isCandidate ? "\(same.job) is a candidate of it" : "\(same.job) is under way" }
        let pool = facts.capabilities.filter { $0.isTrusted != isCandidate }
        if pool.isEmpty { return isCandidate ? "there is no worker of the untrusted pool to try it" : "the farm has no worker" }
        let able = pool.filter { $0.target.dominates(target) }
        if able.isEmpty { return "no worker has a CPU that runs \(target.name)" }
        return able.lazy.compactMap { labels.obstacle(Array($0.labels)) }.count == able.count
            ? "no worker has its labels: \(labels.obstacle(Array(able[0].labels)) ?? "")" : nil
    }

    // MARK: new versions

    /// A newer version than the recipe's, as a candidate; `nil` when there is none or the recipe names no source.
    private func candidate(_ recipe: Recipe, _ source: RecipeSource) async -> NightFinding? {
        guard let client, let updates = recipe.settings.updates else { return nil }
        let watch = UpstreamWatch(client: client, githubToken: ProcessInfo.processInfo.environment["SCIFERRY_GITHUB_TOKEN"])
        let url = UpstreamAnswer.url(updates)
        let answer = await gate.ask(
            InputWatch.host(url) ?? url,
            isAnswer: { (answer: Result<UpstreamFinding, FarmError>) in
                if case .failure(let error) = answer { error.category != .unavailable } else { true }
            }
        ) {
            do { return .success(try await watch.newest(updates, current: recipe.version)) } catch let error as FarmError {
                return .failure(error)
            } catch { return .failure(FarmError("upstream.fault", .unavailable, "\(error)")) }
        }
        var subject = NightlySubject(recipe: recipe.name, version: recipe.version, target: "-", reasons: [], hours: 0)
        switch answer {
        case nil:
            subject.obstacle = "new versions: \(InputWatch.host(url) ?? url) does not answer and is not asked any more tonight"
            return NightFinding(subject: subject)
        case .failure(let error)?:
            subject.obstacle = "new versions: \(error.message)"
            return NightFinding(subject: subject)
        case .success(let found)?: return found.isNew ? propose(found, recipe, source, url: url) : nil
        }
    }

    private func propose(_ found: UpstreamFinding, _ recipe: Recipe, _ source: RecipeSource, url: String) -> NightFinding {
        var finding = NightFinding(
            subject: NightlySubject(
                recipe: recipe.name, version: found.newest, target: "-", reasons: [.upstream(version: found.newest, label: found.label)],
                hours: 0))
        do {
            let target = try recipe.target("")
            finding.subject.target = target.name
            finding.subject.hours = hours(recipe.name, target)
            let edit = try VersionProposal(
                String(decoding: source.files["build.yaml"] ?? [], as: UTF8.self), path: source.path, from: recipe.version, to: found.newest
            )
            finding.proposal = NightlyProposal(
                from: recipe.version, to: found.newest, source: url, patch: edit.patch, linesToLookAt: edit.leftLines)
            var next = source
            next.files["build.yaml"] = Array(edit.text.utf8)
            // Its inputs are others, and those of a candidate are what trusted workers find.
            next.files[RecipeLock.fileName] = nil
            let draft = try RecipeDraft(try Recipe.read(next), next, target: target)
            let suite = try RecipeSuite.read(next)
            let submission = Submission(next, target: target.name, updatesLock: false, priority: .background, isCandidate: true)
            finding.submission = submission
            finding.fingerprint = try fingerprint(submission)
            finding.subject.failures = failures(NightEntry.key(recipe.name, found.newest, target.name), finding.fingerprint) {
                try? Digest(hashing: draft.render(lock: facts.inputs, suite: suite, refreshed: $0).plan.canonicalBytes())
            }
            let tried = memory[NightEntry.key(recipe.name, found.newest, target.name)]?.first {
                $0.outcome?.state == .candidate && $0.fingerprint == finding.fingerprint
            }
            let isReleased = releasedVersions.contains("\(recipe.name)\n\(found.newest)")
            finding.subject.obstacle =
                isReleased
                ? "\(found.newest) was released already; the collection has \(recipe.version)"
                : obstacle(recipe.name, found.newest, target, recipe.settings.workers, isCandidate: true)
                    ?? tried.map { "\($0.job.map { "\($0)" } ?? "night \($0.night)") was a candidate of it and is not wanted" }
        } catch {
            finding.subject.obstacle = (error as? FarmError)?.message ?? "\(error)"
        }
        return finding
    }
}
