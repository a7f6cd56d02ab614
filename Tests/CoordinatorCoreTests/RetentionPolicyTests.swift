import CoordinatorCore
import FarmModel
import Testing

@Suite struct RetentionPolicyTests {
    private func record(_ name: String, _ version: String, day: Int, target: String = "x86_64") -> ReleaseRecord {
        let base = BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil)
        let plan = Plan(
            name: name, version: version, architecture: "x86_64", target: target, base: base, dockerfile: "", context: [], commands: [],
            commandPaths: [], description: "", categories: [], licences: [], suite: TestSuite(), diskBytes: 0)
        let title = "\(name) \(version) \(target) \(day)"
        let release = Release(
            plan: plan, buildKey: Digest(hashing: title), result: Bench.result, builtOn: "w", publishedAt: at(day))
        return ReleaseRecord(release: release, digest: Digest(hashing: title), job: JobID(title))
    }

    private func at(_ day: Int) -> Timestamp { Timestamp(seconds: Int64(day) * 86400) }

    private func leavers(_ policy: RetentionPolicy, _ all: [ReleaseRecord], current: [ReleaseRecord], day: Int) -> Set<Digest> {
        Set(policy.leavers(of: all, current: Set(current.map(\.digest)), now: at(day)).map(\.digest))
    }

    /// What was replaced goes some days later, not what another CPU target has.
    @Test func whatWasReplacedGoesInTime() {
        var policy = RetentionPolicy()
        policy.supersededDays = 10
        let (old, new, other) = (record("fsl", "6", day: 1), record("fsl", "6", day: 50), record("fsl", "6", day: 1, target: "zen3"))
        let all = [old, new, other]
        #expect(leavers(policy, all, current: [new, other], day: 59).isEmpty)
        #expect(leavers(policy, all, current: [new, other], day: 60) == [old.digest])
        // An import that came after the farm's own build, which goes before it.
        #expect(leavers(policy, all, current: [old, other], day: 59).isEmpty)
        #expect(leavers(policy, all, current: [old, other], day: 60) == [new.digest])
        policy.keep = ["fsl/6"]
        #expect(leavers(policy, all, current: [new, other], day: 90).isEmpty)
    }

    /// Versions are in the order of their numbers, whenever they were built; one that was just built stays for a while.
    @Test func someVersionsStay() {
        var policy = RetentionPolicy()
        (policy.versions, policy.supersededDays) = (2, 10)
        let all = [
            record("fsl", "6.0.10", day: 1), record("fsl", "6.0.9", day: 2), record("fsl", "6.0.2", day: 3), record("ants", "1", day: 1),
        ]
        #expect(leavers(policy, all, current: all, day: 20) == [all[2].digest])
        #expect(leavers(policy, all, current: all, day: 12).isEmpty)
        policy.keep = ["fsl"]
        #expect(leavers(policy, all, current: all, day: 20).isEmpty)
        policy.versions = 0
        #expect(leavers(policy, all, current: all, day: 2000).isEmpty)
    }
}
