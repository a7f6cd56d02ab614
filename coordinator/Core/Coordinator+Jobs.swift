import Logging
package import FarmModel
import Foundation
import Microarchitecture
package import Recipes
import SystemIO

/// A recipe as it is sent to the coordinator.
package struct Submission: Codable, Sendable, Hashable {
    /// The path of `build.yaml` as the maintainer knows it, for messages.
    package var path: String
    /// Base64 of each file, by path relative to the recipe.
    package var files: [String: String]
    /// Files that somebody may execute; absent in submissions of older versions.
    package var executables: [String]?
    /// The CPU target; empty for the lowest level of the recipe's first architecture.
    package var target: String
    /// Base64 of the templates and macros of the recipe's collection, by path relative to its root; only what it uses.
    package var collection: [String: String]
    /// One of the recipe's variants; empty for none.
    package var variant: String
    /// Resolve the inputs anew instead of using the lock.
    package var updatesLock: Bool
    /// Names of inputs that are resolved anew, where not all are. Absent in submissions of older versions, as is what follows.
    package var renews: [String]?
    /// The day whose packages it shall have, `2026-11-22`; see `RecipeDraft.render`.
    package var refreshed: String?
    /// Where no worker has the CPU, one that emulates it may build. Absent in submissions of older versions.
    package var allowsEmulation: Bool?
    /// How urgent it is; interactive unless said otherwise.
    package var priority: JobPriority?
    /// Labels of the workers that may have it, beside the recipe's own.
    package var workers: LabelWish?
    /// Nobody has reviewed it: for the untrusted pool, and not to be released as it is.
    package var isCandidate: Bool?

    package init(
        _ source: RecipeSource, target: String, variant: String = "", updatesLock: Bool, allowsEmulation: Bool = false,
        priority: JobPriority? = nil, workers: LabelWish? = nil, isCandidate: Bool = false, renews: Set<String> = [],
        refreshed: String? = nil
    ) {
        self.renews = renews.isEmpty ? nil : renews.sorted()
        self.refreshed = refreshed
        self.isCandidate = isCandidate
        self.workers = workers
        self.allowsEmulation = allowsEmulation
        self.priority = priority
        path = source.path
        files = source.files.mapValues { Data($0).base64EncodedString() }
        collection = source.collection.files.mapValues { Data($0).base64EncodedString() }
        executables = source.executables.sorted()
        self.variant = variant
        self.target = target
        self.updatesLock = updatesLock
    }

    /// Whether it asks for what only maintainers may: to have inputs resolved anew, which others build with too, or for other packages
    /// than the recipe shows.
    package var isPrivileged: Bool { updatesLock || !(renews ?? []).isEmpty || refreshed != nil }

    /// Whether a recipe's own files are others than they were, whatever its lock says.
    static func isEdited(_ before: RecipeSource, _ after: RecipeSource) -> Bool {
        before.buildFiles != after.buildFiles || before.executables != after.executables
    }

    package func source() throws -> RecipeSource {
        func bytes(_ texts: [String: String]) throws -> [String: [UInt8]] {
            try texts.mapValues { text in
                guard let bytes = Data(base64Encoded: text) else {
                    throw FarmError("submission.invalid", .invalid, "a file of the submission is no base64")
                }
                return Array(bytes)
            }
        }
        return RecipeSource(
            path: path, files: try bytes(files), executables: Set(executables ?? []),
            collection: RecipeCollection(files: try bytes(collection)))
    }
}

/// A recipe's lock, complete when nothing is waited for.
package struct LockAnswer: Codable, Sendable, Hashable {
    package var lock: RecipeLock
    package var waitsFor: [JobID]
}

extension Coordinator {
    /// Takes a recipe: checks it, resolves what is not locked, plans and queues it. Throws the recipe's own errors.
    ///
    /// - Parameter also: what is journalled together with the job.
    package func submit(
        _ submission: Submission, by who: String, also: (inout FarmState, JobID) throws -> Void = { _, _ in }
    ) throws -> JobRecord {
        let source = try submission.source()
        let recipe = try Recipe.read(source)
        let target = try recipe.target(submission.target)
        let draft = try RecipeDraft(recipe, source, target: target, variant: submission.variant)
        try recipe.settings.workers.union(submission.workers ?? LabelWish()).check()
        if let day = submission.refreshed { try RecipeDraft.checkDay(day) }
        // What is wrong with files, steps or tests is said now, not by a job that fails later.
        _ = try (draft.ownFiles(), draft.dockerfile(), RecipeSuite.read(source))
        let blob = try blobs.put(try CanonicalJSON.encode(submission))
        let orders = orders(
            try inputs(
                of: draft, source, updates: submission.updatesLock, renews: Set(submission.renews ?? []),
                allowsEmulation: submission.allowsEmulation, isCandidate: submission.isCandidate ?? false
            ).missing, target.family)
        let id = try transition { state in
            var job = state.newJob(
                kind: .build, title: "\(draft.releaseName) \(draft.definition.version) for \(target.name)", recipe: draft.releaseName,
                version: draft.definition.version, target: target.name, requestedBy: who, now: .now)
            job.submission = blob
            job.allowsEmulation = submission.allowsEmulation
            job.priority = submission.priority
            job.isCandidate = submission.isCandidate
            // The build job takes its number before the jobs it waits for.
            state.wait(job, for: [])
            let waits = orders.map {
                Coordinator.resolveJob(
                    $0, by: who, allowsEmulation: submission.allowsEmulation ?? false, isCandidate: submission.isCandidate ?? false,
                    in: &state)
            }
            state.wait(job, for: waits)
            try also(&state, job.id)
            return job.id
        }
        advance(id)
        return state.jobs[id]
            ?? JobRecord(
                id: id, number: 0, kind: .build, state: .failed, title: "", recipe: "", version: "", target: "", requestedBy: who,
                createdAt: .now)
    }

    private struct Missing {
        var kind: LockedInput.Kind
        var name: String
        /// Of a base image in a registry: the one that the farm lacks.
        var pinned: Digest?

        init(_ input: (kind: LockedInput.Kind, name: String), pinned: Digest? = nil) {
            (kind, name, self.pinned) = (input.kind, input.name, pinned)
        }
    }

    /// A draft's inputs: those that are known, and those that must be resolved first.
    private struct Inputs {
        var known: [String: LockedInput] = [:]
        var missing: [Missing] = []
        /// Locked by the recipe, not to be had any more, and resolved to other bytes.
        var changed: [(locked: LockedInput, now: LockedInput)] = []
    }

    /// - Parameter updates: everything is resolved anew, whatever is known or locked.
    /// - Parameter renews: names of inputs of which the same holds.
    /// - Parameter allowsEmulation: what an emulator bootstrapped will do.
    /// - Parameter isCandidate: the lock is that of somebody whom nobody has reviewed: it is held to what trusted workers have resolved,
    ///   and does not have anything resolved anew.
    private func inputs(
        of draft: RecipeDraft, _ source: RecipeSource, updates: Bool, renews: Set<String> = [], allowsEmulation: Bool?,
        isCandidate: Bool = false
    ) throws -> Inputs {
        let lock = try RecipeLock.read(source)
        if !updates { try lock?.check(draft.definition.shared, source) }
        var inputs = Inputs()
        for input in draft.inputs {
            let key = LockedInput.key(kind: input.kind, name: input.name, architecture: draft.definition.architecture)
            let resolved = state.inputs[key].flatMap { $0.emulator == nil || allowsEmulation ?? false ? $0 : nil }
            if updates || renews.contains(input.name) {
                inputs.missing.append(Missing(input))
            } else if isCandidate {
                if let resolved { inputs.known[key] = resolved } else { inputs.missing.append(Missing(input)) }
                if let pinned = lock?.entry(key), let resolved, pinned.digest != resolved.digest {
                    inputs.changed.append((pinned, resolved))
                }
            } else if let pinned = lock?.entry(key) {
                if isAtHand(pinned) || resolved?.digest == pinned.digest {
                    inputs.known[key] = pinned
                } else {
                    inputs.missing.append(Missing(input))
                    if let resolved { inputs.changed.append((pinned, resolved)) }
                }
            } else if let resolved {
                inputs.known[key] = resolved
            } else {
                inputs.missing.append(Missing(input))
            }
        }
        // Builds get images from the farm, which fetches each once, and ask no registry.
        for (key, input) in inputs.known.sorted(by: { $0.key < $1.key })
        where input.kind == .base && input.origin == .registry
            && state.inputs[LockedInput.heldKey(input.digest, input.architecture)]?.archive == nil
        {
            inputs.known[key] = nil
            inputs.missing.append(Missing((input.kind, input.name), pinned: input.digest))
        }
        return inputs
    }

    /// Whether the very bytes can be had without asking upstream what it has now.
    private func isAtHand(_ input: LockedInput) -> Bool {
        input.kind == .base && input.origin == .registry || input.kind == .git || blobs.contains(input.digest)
            || archived[input.digest] != nil
    }

    /// A recipe's lock as far as it is known; what is not is being resolved by the jobs that come back.
    package func lock(_ submission: Submission, by who: String) throws -> LockAnswer {
        let source = try submission.source()
        let recipe = try Recipe.read(source)
        let target = try recipe.target(submission.target)
        let draft = try RecipeDraft(recipe, source, target: target, variant: submission.variant)
        let found = try inputs(of: draft, source, updates: submission.updatesLock, allowsEmulation: submission.allowsEmulation)
        let bootstrap = configuration.bootstrap
        let orders = orders(found.missing, target.family)
        let waits = try transition { state in
            orders.map { Coordinator.resolveJob($0, by: who, allowsEmulation: submission.allowsEmulation ?? false, in: &state) }
        }
        // A base that is bootstrapped from whatever a worker's apt sources have today can be had nowhere else: it is this
        // farm's own, and no lock that travels with the recipe could be kept.
        let lasting = found.known.values.filter { input in
            input.origin == .registry || bootstrap[input.name]?.mirror.contains("{snapshot}") ?? false
        }
        return LockAnswer(lock: RecipeLock(lasting, shared: draft.definition.shared), waitsFor: waits)
    }

    private func orders(_ inputs: [Missing], _ architecture: String) -> [ResolveOrder] {
        inputs.map { input in
            guard input.kind == .base else {
                return ResolveOrder(kind: input.kind, name: input.name, architecture: architecture, bootstrap: nil)
            }
            return ResolveOrder(
                kind: .base, name: input.name, architecture: architecture,
                bootstrap: input.pinned == nil ? configuration.bootstrap[input.name] : nil, pinned: input.pinned,
                mirrors: configuration.registryMirrors)
        }
    }

    /// - Parameter isCandidate: only a candidate waits for it, so that it waits for all that is trusted.
    private static func resolveJob(
        _ order: ResolveOrder, by who: String, allowsEmulation: Bool, isCandidate: Bool = false, in state: inout FarmState
    ) -> JobID {
        let pinned = order.pinned.map { " sha256:\($0.hex)" } ?? ""
        let key = Digest(
            hashing: "resolve \(LockedInput.key(kind: order.kind, name: order.name, architecture: order.architecture))\(pinned)")
        if let there = state.leader(of: JobRecord.lead(key, allowsEmulation: allowsEmulation)) {
            if !isCandidate { state.hasten(there.id) }
            return there.id
        }
        var job = state.newJob(
            kind: .resolve, title: "resolve \(order.name)\(order.pinned.map { ", \($0.short)" } ?? "")", recipe: "", version: "",
            target: order.architecture,
            requestedBy: who, now: .now)
        job.resolve = order
        job.allowsEmulation = allowsEmulation
        if isCandidate { job.priority = .background }
        state.enqueue(job, key: key, needs: JobNeeds(diskBytes: 2 << 30), now: .now)
        return job.id
    }

    /// Plans and queues the jobs whose inputs are all resolved now.
    func advanceResolving() {
        let ready = state.resolvingJobs.filter { job in
            job.kind == .build
                && job.waitsFor.allSatisfy { state.jobs[$0]?.state == .succeeded } && planAgainAt[job.id] ?? .now <= .now
        }
        for job in ready.sorted(by: { $0.number < $1.number }) { advance(job.id) }
    }

    /// Renders a job's plan and queues it; a recipe that does not render fails its job.
    private func advance(_ id: JobID) {
        guard let job = state.jobs[id], job.state == .resolving, let blob = job.submission,
            job.waitsFor.allSatisfy({ state.jobs[$0]?.state == .succeeded })
        else { return }
        do {
            let submission = try CanonicalJSON.decode(Submission.self, from: try blobs.get(blob), source: "submission of \(id)")
            let source = try submission.source()
            let recipe = try Recipe.read(source)
            let target = try recipe.target(submission.target)
            let draft = try RecipeDraft(recipe, source, target: target, variant: submission.variant)
            // What was to be updated has just been resolved.
            var unlocked = source
            if submission.updatesLock { unlocked.files[RecipeLock.fileName] = nil }
            let inputs = try inputs(
                of: draft, unlocked, updates: false, allowsEmulation: submission.allowsEmulation,
                isCandidate: submission.isCandidate ?? false)
            if let change = inputs.changed.first { throw RecipeLock.changed(change.locked, now: change.now, in: source) }
            let suite = TestDataset.pinned(try RecipeSuite.read(source), to: datasets)
            func render(isCandidate: Bool) throws -> RenderedRecipe {
                try draft.render(
                    lock: inputs.known, suite: suite, refreshed: submission.refreshed ?? "",
                    image: configuration.images.format(isCandidate: isCandidate))
            }
            let isCandidate = submission.isCandidate ?? false
            let rendered = try render(isCandidate: isCandidate)
            for bytes in rendered.blobs.values { try blobs.put(bytes) }
            let plan = rendered.plan
            let key = try blobs.put(try plan.canonicalBytes())
            let releaseKey = isCandidate ? try blobs.put(try render(isCandidate: false).plan.canonicalBytes()) : key
            try transition {
                var job = job
                job.verifyOn = plan.verifyOn
                job.releaseKey = releaseKey == key ? nil : releaseKey
                $0.enqueue(
                    job, key: key,
                    needs: JobNeeds(
                        diskBytes: plan.diskBytes, declaresDisk: rendered.declaresDisk, memoryBytes: Int64(plan.limits.memoryGiB) << 30,
                        labels: rendered.workers.union(submission.workers ?? LabelWish()), layers: rendered.layers), now: .now)
            }
            planAgainAt[id] = nil
        } catch {
            logger.warning("job cannot be planned", metadata: ["job.id": "\(id)", "reason": "\(error)"])
            // A full disk or a journal that fails is not the recipe's fault: the job waits and is planned again.
            guard let known = error as? FarmError, [.invalid, .usage, .notFound].contains(known.category) else {
                return planAgainAt[id] = Timestamp.now.adding(seconds: 10)
            }
            try? transition { $0.fail(id, Failure(.recipe, error), now: .now) }
        }
    }

    /// Brings a candidate to a release; throws what `FarmState.promote` does.
    package func promote(_ id: JobID, _ request: PromotionRequest, by who: String) throws -> JobRecord {
        let next = try transition { try $0.promote(id, request, by: who, now: .now) }
        logger.notice("promotion", metadata: ["job.id": "\(id)", "by": "\(who)", "as": "\(next)"])
        guard let job = state.jobs[next] else { throw FarmState.unknown(next) }
        return job
    }

    /// Whether a job is somebody's own candidate; throws `job.unknown`.
    package func isCandidate(_ id: JobID, of who: String) throws -> Bool {
        guard let job = state.jobs[id] else { throw FarmState.unknown(id) }
        return job.requestedBy == who && job.isCandidate ?? false
    }

    /// What was sent with a build; throws `job.unknown` and `job.submission` for a job that was never submitted.
    package func submission(of id: JobID) throws -> Submission {
        guard let job = try state.jobs[id] ?? journal.job(id)?.job else { throw FarmState.unknown(id) }
        guard let blob = job.submission else {
            throw FarmError("job.submission", .notFound, "\(id) was not submitted: \(job.title)", hint: "name a build")
        }
        return try CanonicalJSON.decode(Submission.self, from: try blobs.get(blob), source: "submission of \(id)")
    }

    /// Candidates that wait for a decision.
    package func candidateViews() throws -> [JobView] { try state.candidates.map { try view($0, explains: false) } }

    /// Ends a job, and tells the workers that have it; throws `job.unknown`.
    package func cancel(_ id: JobID, by who: String) throws {
        let workers = state.busyWorkers(with: id)
        try transition { try $0.cancel(id, by: who, now: .now) }
        for worker in workers { push(worker) }
    }
}
