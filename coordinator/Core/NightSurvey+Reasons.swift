import FarmModel
import Microarchitecture
import ObjectStorage
import Recipes
import SystemIO
import Upstream

/// What has changed of one recipe for one CPU target, and what keeps it from being built.
extension NightSurvey {
    /// Where base images follow their names, a recipe's lock does not hold them.
    func unpinned(_ source: RecipeSource) throws -> RecipeSource {
        guard settings.pins == .bases, let lock = try RecipeLock.read(source) else { return source }
        var source = source
        source.files[RecipeLock.fileName] = try lock.without(.base).bytes()
        return source
    }

    /// What is known of a recipe's inputs.
    struct Inputs {
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
    func inputs(
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

    func standing(of input: LockedInput) async -> InputStanding {
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
    func compare(
        _ release: ReleaseRecord?, _ earlier: Submission?, _ draft: RecipeDraft, _ source: RecipeSource, _ suite: TestSuite,
        _ used: [String: LockedInput], _ subject: inout NightlySubject
    ) throws {
        guard let release else { return subject.reasons.append(.neverBuilt) }
        // An input that was never resolved is a new one, and so the recipe has changed.
        let isComplete = draft.inputs.allSatisfy {
            used[LockedInput.key(kind: $0.kind, name: $0.name, architecture: draft.definition.architecture)] != nil
        }
        guard isComplete else { return subject.reasons.append(.recipeChanged) }
        let rendered = try draft.render(lock: used, suite: suite, refreshed: earlier?.refreshed ?? "", image: image)
        let buildKey = release.release.image.buildKey
        let plan = try Digest(hashing: rendered.plan.canonicalBytes())
        if plan == buildKey { return }
        // A candidate that was released as it is, is packed as candidates are.
        let packed = try draft.render(lock: used, suite: suite, refreshed: earlier?.refreshed ?? "", image: candidateImage)
        if try Digest(hashing: packed.plan.canonicalBytes()) == buildKey { return }
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

    func changedTemplates(_ earlier: Submission, _ draft: RecipeDraft) throws -> [String] {
        let source = try earlier.source()
        // What could be read then and cannot now has changed otherwise.
        guard let recipe = try? Recipe.read(source), let target = try? recipe.target(earlier.target),
            let before = try? RecipeDraft(recipe, source, target: target, variant: earlier.variant)
        else { return [] }
        return draft.definition.shared.filter { before.definition.shared[$0.key] != $0.value }.keys.sorted()
    }

    /// What was sent for the build behind a release; `nil` where that is lost or cannot be read.
    func earlierSubmission(of release: ReleaseRecord?, _ subject: inout NightlySubject) async throws -> Submission? {
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
    func doubt(_ key: String, _ fingerprint: Digest?, _ moved: [String], _ subject: inout NightlySubject) {
        guard let last = memory[key]?.first(where: { ![.unfinished, .cancelled].contains($0.outcome?.state) }),
            last.outcome?.state == .unchanged,
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

    func hours(_ name: String, _ target: Microarchitecture) -> Double {
        let expectation = facts.ledger.expectation(recipe: name, target: target.name)
        return (expectation.isKnown ? expectation.seconds : usualSeconds) / 3600
    }

    /// Whether a release shall have the packages of today: it is old, or they mend something.
    func judgeAge(of release: ReleaseRecord?, _ key: String, _ subject: inout NightlySubject) async throws -> Bool {
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
    func isWorthTrying(_ advisory: String, _ key: String) -> Bool {
        let tries = (memory[key] ?? []).filter { entry in
            entry.outcome?.state == .released
                && entry.plan.reasons.contains { if case .advisories(let names) = $0 { names.contains(advisory) } else { false } }
        }
        guard let last = tries.first?.outcome?.endedAt else { return true }
        return now.seconds(since: last) > Double(1 << min(tries.count, 8)) * 86400
    }

    func fingerprint(_ submission: Submission) throws -> Digest {
        var plain = submission
        (plain.renews, plain.refreshed, plain.path) = (nil, nil, "")
        return Digest(hashing: try CanonicalJSON.encode(plain))
    }

    /// Nights in a row in which the very same failed for a reason that lies in it.
    ///
    /// - Parameter plan: what would be built now, of no certain day; `nil` while that is not known.
    func failures(_ key: String, _ fingerprint: Digest?, _ plan: () -> Digest?) -> NightlySubject.Failures? {
        let ended = (memory[key] ?? []).filter { [.failed, .released, .candidate].contains($0.outcome?.state) }
        let same = ended.prefix { entry in
            guard let outcome = entry.outcome, outcome.state == .failed, outcome.failureClass == .recipe, entry.fingerprint == fingerprint
            else { return false }
            // What was built with the packages of its day has another base each day.
            if entry.refreshed != nil { return true }
            guard let failed = outcome.plan, let now = plan() else { return true }
            return failed == now
        }
        return same.first.map { .init(count: same.count, message: $0.outcome?.words ?? "") }
    }

    func obstacle(_ recipe: String, _ version: String, _ target: Microarchitecture, _ labels: LabelWish, isCandidate: Bool)
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
        let refusals = able.compactMap { labels.obstacle($0.labels) }
        return refusals.count == able.count ? "no worker has its labels: \(refusals[0])" : nil
    }
}
