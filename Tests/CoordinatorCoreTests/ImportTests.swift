import FarmModel
import FarmMessages
import CoordinatorCore
import Testing

@Suite struct ImportTests {
    private let entry = CatalogueEntry(
        name: "fsl", version: "6", architecture: "aarch64",
        source: ImportSource(catalogue: "neurodesk", file: "fsl_6_20260101.simg", locations: ["https://x/fsl"]))

    /// Whoever has room takes an image in: nothing of it has to run.
    @Test func anyCPUWillDo() throws {
        var bench = Bench(rules: FarmState.Rules(silenceSeconds: 1e6))
        try bench.enrol("w")
        let build = try bench.submit("a build", target: "aarch64")
        let image = try bench.submit("an image", target: "aarch64", takesIn: true)
        let given = try bench.report("w", slots: 2).assignments.map(\.attempt.job)
        #expect(try given == [image] && bench.job(build).state == .queued)
    }

    /// Nothing that the other coordinator had released is lost, and what is released later goes before it.
    @Test func whatIsTakenOverStaysInTheChannel() throws {
        var plan = Plan(taking: entry, diskBytes: 1)
        plan.source = nil
        func release(_ second: Int64) -> ReleaseRecord {
            let release = Release(
                plan: plan, buildKey: Digest(hashing: "\(second)"), result: Bench.result, builtOn: "w",
                publishedAt: Timestamp(seconds: second))
            return ReleaseRecord(release: release, digest: Digest(hashing: "own \(second)"), job: JobID("j\(second)"))
        }
        func entries(_ seconds: [Int64]) -> [Digest] {
            var snapshot = JournalSnapshot()
            snapshot.releases = seconds.map(release)
            var state = FarmState(snapshot, rules: FarmState.Rules(), now: Timestamp(seconds: 0))
            let theirs = ["fsl", "ants"].map {
                ChannelEntry(name: $0, version: "6", target: plan.target, release: Digest(hashing: "their \($0)"))
            }
            let channel = ReleaseChannel(
                farm: "f", name: "main", epoch: 3, version: 40, issuedAt: Timestamp(seconds: 50), expiresAt: Timestamp(seconds: 99),
                entries: theirs)
            #expect(state.isBehind(channel))
            state.takeOver(channel, now: Timestamp(seconds: 60))
            #expect(!state.isBehind(channel))
            let next = state.nextChannel("main", farm: "f", days: 1, now: Timestamp(seconds: 70))
            #expect(next.epoch == 4 && next.version == 41)
            return next.entries.map(\.release)
        }
        let (ants, fsl) = (Digest(hashing: "their ants"), Digest(hashing: "their fsl"))
        #expect(entries([]) == [ants, fsl])
        #expect(entries([10]) == [ants, fsl])
        #expect(entries([65]) == [ants, Digest(hashing: "own 65")])
    }

    /// What the farm has built goes before what it took in, whichever came first.
    @Test func ownBuildsGoFirstIntoTheChannel() throws {
        for order in [[true, false], [false, true]] {
            var snapshot = JournalSnapshot()
            for (index, isImport) in order.enumerated() {
                var plan = Plan(taking: entry, diskBytes: 1)
                if !isImport { plan.source = nil }
                let key = Digest(hashing: "plan \(index)")
                let release = Release(
                    plan: plan, buildKey: key, result: Bench.result, builtOn: "w", publishedAt: Timestamp(seconds: Int64(index)))
                #expect((release.imported != nil) == isImport)
                let job = JobID("j\(index + 1)")
                snapshot.releases.append(ReleaseRecord(release: release, digest: Digest(hashing: "release \(isImport)"), job: job))
            }
            var state = FarmState(snapshot, rules: FarmState.Rules(), now: Timestamp(seconds: 0))
            let channel = state.nextChannel("main", farm: "f", days: 1, now: Timestamp(seconds: 9))
            #expect(channel.entries.map(\.release) == [Digest(hashing: "release false")])
        }
    }

    /// A worker that knows nothing of imports refuses the plan instead of building from nothing; the image's own digest is what a release
    /// names as its base.
    @Test func aPlanSaysThatItIsAnImport() throws {
        var known = entry
        known.source.checksum = FileChecksum("sha256:\(Bench.result.image.hex)")
        let plan = Plan(taking: known, diskBytes: 5)
        #expect(plan.format == Plan.importFormat && plan.format > Plan.currentFormat && plan.base.digest == Bench.result.image)
        #expect(try Plan.read(plan.canonicalBytes()) == plan)
        let release = Release(
            plan: Plan(taking: entry, diskBytes: 5), buildKey: Digest(hashing: "k"), result: Bench.result, builtOn: "w",
            publishedAt: Timestamp(seconds: 1))
        #expect(release.base.digest == Bench.result.image && release.base.origin == .image && release.imported?.isVerified == false)
    }
}
