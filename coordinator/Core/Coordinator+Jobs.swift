import Logging
package import FarmModel
import Foundation
import Microarchitecture
import Recipes
import SystemIO

/// A recipe as it is sent to the coordinator.
package struct Submission: Codable, Sendable, Hashable {
    /// The path of `build.yaml` as the maintainer knows it, for messages.
    package var path: String
    /// Base64 of each file, by path relative to the recipe.
    package var files: [String: String]
    /// The CPU target; empty for the lowest level of the recipe's first architecture.
    package var target: String
    /// Resolve the inputs anew instead of using the lock.
    package var updatesLock: Bool

    package init(path: String, files: [String: [UInt8]], target: String, updatesLock: Bool) {
        self.path = path
        self.files = files.mapValues { Data($0).base64EncodedString() }
        self.target = target
        self.updatesLock = updatesLock
    }

    func source() throws -> RecipeSource {
        RecipeSource(
            path: path,
            files: try files.mapValues { text in
                guard let bytes = Data(base64Encoded: text) else {
                    throw FarmError("submission.invalid", .invalid, "a file of the submission is no base64")
                }
                return Array(bytes)
            })
    }
}

extension Coordinator {
    /// Takes a recipe: checks it, resolves what is not locked, plans and queues it. Throws the recipe's own errors.
    package func submit(_ submission: Submission, by who: String) throws -> JobRecord {
        let source = try submission.source()
        let recipe = try Recipe.read(source)
        let target = try Coordinator.target(submission.target, for: recipe)
        let blob = try blobs.put(try CanonicalJSON.encode(submission))
        let wanted = recipe.inputs(architecture: target.family)
        let bootstrap = configuration.bootstrap
        let id = try transition { state in
            var job = state.newJob(
                kind: .build, title: "\(recipe.name) \(recipe.version) for \(target.name)", recipe: recipe.name,
                version: recipe.version, target: target.name, requestedBy: who, now: .now)
            job.submission = blob
            let missing = wanted.filter { input in
                submission.updatesLock
                    || state.inputs[LockedInput.key(kind: input.kind, name: input.name, architecture: target.family)] == nil
            }
            // The build job takes its number before the jobs it waits for.
            state.wait(job, for: [])
            let waits = missing.map { input in
                Coordinator.resolveJob(
                    ResolveOrder(
                        kind: input.kind, name: input.name, architecture: target.family,
                        bootstrap: input.kind == .base ? bootstrap[input.name] : nil), by: who, in: &state)
            }
            state.wait(job, for: waits)
            return job.id
        }
        advance(id)
        return state.jobs[id]
            ?? JobRecord(
                id: id, number: 0, kind: .build, state: .failed, title: "", recipe: "", version: "", target: "", requestedBy: who,
                createdAt: .now)
    }

    private static func resolveJob(_ order: ResolveOrder, by who: String, in state: inout FarmState) -> JobID {
        let key = Digest(hashing: "resolve \(LockedInput.key(kind: order.kind, name: order.name, architecture: order.architecture))")
        if let there = state.leader(of: key) { return there.id }
        var job = state.newJob(
            kind: .resolve, title: "resolve \(order.name)", recipe: "", version: "", target: order.architecture,
            requestedBy: who, now: .now)
        job.resolve = order
        state.enqueue(job, key: key, diskBytes: 2 << 30, now: .now)
        return job.id
    }

    static func target(_ name: String, for recipe: Recipe) throws -> Microarchitecture {
        let wanted = name.isEmpty ? recipe.architectures[0] : name
        guard let target = Microarchitecture.named(wanted) else {
            throw FarmError(
                "target.unknown", .usage, "\"\(wanted)\" is no CPU target",
                hint: "known: \(Microarchitecture.names.joined(separator: ", "))")
        }
        guard recipe.architectures.contains(target.family) else {
            throw FarmError(
                "recipe.target", .invalid, "\(recipe.name) is for \(recipe.architectures.joined(separator: ", ")), not for \(wanted)")
        }
        return target
    }

    /// Plans and queues the jobs whose inputs are all resolved now.
    func advanceResolving() {
        let ready = state.jobs.values.filter { job in
            job.state == .resolving && job.kind == .build
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
            let target = try Coordinator.target(submission.target, for: recipe)
            let rendered = try recipe.render(source, target: target, lock: state.inputs)
            for bytes in rendered.blobs.values { try blobs.put(bytes) }
            let key = try blobs.put(try rendered.plan.canonicalBytes())
            try transition { $0.enqueue(job, key: key, diskBytes: rendered.plan.diskBytes, now: .now) }
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

    package func cancel(_ id: JobID, by who: String) throws {
        let workers = state.openAttempts(of: id).map(\.worker)
        try transition { try $0.cancel(id, by: who, now: .now) }
        for worker in workers { push(worker) }
    }
}
