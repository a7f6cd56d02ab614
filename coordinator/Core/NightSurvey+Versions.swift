import Microarchitecture
import FarmModel
import Foundation
import Recipes
import Upstream

/// New versions, proposed as candidates.
extension NightSurvey {
    /// A newer version than the recipe's, as a candidate; `nil` when there is none or the recipe names no source.
    func candidate(_ recipe: Recipe, _ source: RecipeSource) async -> NightFinding? {
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

    func propose(_ found: UpstreamFinding, _ recipe: Recipe, _ source: RecipeSource, url: String) -> NightFinding {
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
            let suite = TestDataset.pinned(try RecipeSuite.read(next), to: datasets)
            let submission = Submission(next, target: target.name, updatesLock: false, priority: .background, isCandidate: true)
            finding.submission = submission
            finding.fingerprint = try fingerprint(submission)
            finding.subject.failures = failures(NightEntry.key(recipe.name, found.newest, target.name), finding.fingerprint) {
                try? Digest(hashing: draft.render(lock: facts.inputs, suite: suite, image: candidateImage).plan.canonicalBytes())
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
