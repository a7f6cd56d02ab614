import FarmModel
import Foundation
import HTTPTransport
import Microarchitecture
import ProcessRunner
import Recipes
import SystemIO
import Upstream

/// A night that was surveyed.
struct SurveyedNight: Sendable {
    /// When it was begun.
    var surveyedAt: Timestamp
    var collection: String
    var commit: String?
    var plan: NightlyPlan
    var findings: [NightFinding]
    var problems: [String]
}

/// Finding out what a night could do.
extension Coordinator {
    /// Nights whose entries tell what has failed before.
    private static let rememberedNights = 200
    private static let rememberedDays: Double = 200
    private static let longestAdvisories: Int64 = 512 << 20

    /// One survey at a time, for it brings the collection up to date; whoever asks the same meanwhile gets its answer.
    func survey(asksOutside: Bool) async throws -> SurveyedNight {
        while let running = surveying {
            if running.asksOutside == asksOutside { return try await running.task.value }
            _ = try? await running.task.value
        }
        let task = Task {
            defer { self.surveying = nil }
            return try await self.look(asksOutside: asksOutside)
        }
        surveying = (asksOutside, task)
        return try await task.value
    }

    private func look(asksOutside: Bool) async throws -> SurveyedNight {
        let settings = configuration.nightly
        let start = Timestamp.now
        guard !settings.collection.isEmpty || !settings.repository.isEmpty else {
            throw FarmError(
                "night.collection", .usage, "the farm knows no recipes of its own",
                hint: "name a collection in farm.json: \"nightly\": {\"collection\": \"/srv/recipes\"}, or its \"repository\"")
        }
        let root = settings.collection.isEmpty ? home.collection : settings.collection
        var problems: [String] = []
        if !settings.repository.isEmpty, asksOutside { problems += await fetchCollection(settings, into: root) }
        let commit = try? await ProcessRunner.require(
            Command("git", ["-C", root, "-c", "safe.directory=*", "rev-parse", "HEAD"], deadlineSeconds: 20)
        ).trimmingCharacters(in: .whitespacesAndNewlines)
        let client = asksOutside ? HTTPClient() : nil
        let (advisories, trouble) = await Coordinator.advisories(settings.advisories, client)
        problems += trouble
        let survey = NightSurvey(
            facts: try nightFacts(), settings: settings, bootstrap: configuration.bootstrap, client: client, advisories: advisories,
            blobs: blobs, journal: journal, region: firstRegion, memory: try await nightMemory(), images: configuration.images,
            datasets: datasets, now: .now)
        let findings = try await survey.run(root)
        let plan = NightlyPlan(findings.map(\.subject), rules: settings.rules)
        return SurveyedNight(surveyedAt: start, collection: root, commit: commit, plan: plan, findings: findings, problems: problems)
    }

    private func nightFacts() throws -> NightFacts {
        let open = state.openJobs.map(\.job).filter { $0.kind == .build } + state.candidates.map(\.job)
        return NightFacts(
            inputs: state.inputs, releases: state.releases.values.filter { $0.release.imported == nil }, ledger: state.ledger,
            capabilities: state.workers.values.filter { !$0.revoked }.compactMap { worker in
                guard let facts = worker.facts, let target = Microarchitecture.named(facts.target) else { return nil }
                return .init(target: target, labels: facts.labels ?? [], isTrusted: worker.trusted)
            },
            pending: open.map {
                .init(job: $0.id, recipe: $0.recipe, version: $0.version, target: $0.target, isCandidate: $0.isCandidate ?? false)
            })
    }

    /// What the last nights have tried, read one by one so that nobody waits for all of them.
    private func nightMemory() async throws -> [String: [NightEntry]] {
        var memory: [String: [NightEntry]] = [:]
        let (journal, oldest) = (journal, Timestamp.now.adding(seconds: -Coordinator.rememberedDays * 86400))
        for night in try journal.nights(before: .max, limit: Coordinator.rememberedNights) where night.startedAt > oldest {
            let entries = try await Blocking.run { try journal.night(night.number)?.entries.filter { $0.outcome != nil } ?? [] }
            for var entry in entries {
                if entry.outcome?.state == .unfinished, let id = entry.job {
                    let file = try await Blocking.run { try journal.job(id) }
                    if let file, file.job.state != .cancelled { entry.outcome = state.outcome(of: file) ?? entry.outcome }
                }
                memory[entry.key, default: []].append(entry)
            }
        }
        return memory
    }

    /// Brings the collection to its branch; what it was stays where that cannot be done.
    private func fetchCollection(_ settings: NightlySettings, into root: String) async -> [String] {
        do {
            if !Disk.isDirectory("\(root)/.git") {
                try await ProcessRunner.require(
                    Command(
                        "git", ["clone", "--quiet", "--depth", "1", "--branch", settings.branch, "--", settings.repository, root],
                        environment: ["GIT_TERMINAL_PROMPT": "0"], deadlineSeconds: 1200))
            } else {
                for arguments in [
                    ["fetch", "--quiet", "--depth", "1", "--", settings.repository, settings.branch],
                    ["checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"], ["clean", "-fdxq"],
                ] {
                    try await ProcessRunner.require(
                        Command(
                            "git", ["-C", root, "-c", "safe.directory=*"] + arguments, environment: ["GIT_TERMINAL_PROMPT": "0"],
                            deadlineSeconds: 1200))
                }
            }
            return []
        } catch {
            let words = (error as? FarmError)?.message ?? "\(error)"
            return ["the collection could not be fetched, what was there is used: \(words.prefix(300))"]
        }
    }

    /// All lists of advisories, and what could not be read.
    private static func advisories(_ sources: [String], _ client: HTTPClient?) async -> (AdvisoryList, [String]) {
        var list = AdvisoryList()
        var problems: [String] = []
        for source in sources {
            // What stands behind the question mark may be a key.
            let name = source.split(separator: "?").first.map(String.init) ?? source
            func take(_ what: String, _ read: () async throws -> [UInt8]) async {
                do { try list.add(try await read(), source: what) } catch {
                    problems.append("advisories: \((error as? FarmError)?.message ?? "\(error)")")
                }
            }
            if source.contains("://") {
                guard let client else {
                    problems.append("advisories: \(name) was not asked")
                    continue
                }
                await take(name) {
                    let response = try await client.performRetrying(
                        HTTPRequest("GET", source, responseLimit: longestAdvisories, followsRedirects: true),
                        policy: RetryPolicy(attempts: 3))
                    if response.isSuccess { return response.body }
                    throw FarmError("advisory.absent", .unavailable, "\(name) answers with status \(response.status)")
                }
            } else {
                let files =
                    Disk.isDirectory(source)
                    ? ((try? Disk.list(source)) ?? []).filter { $0.hasSuffix(".json") }.map { "\(source)/\($0)" } : [source]
                for path in files { await take(path) { try await Blocking.run { try Disk.read(path, limit: longestAdvisories) } } }
            }
        }
        return (list, problems)
    }
}
