import CoordinatorCore
import FarmModel
import Support
import Testing

@Suite struct NightlyPlanTests {
    private func subject(
        _ recipe: String, _ reasons: [NightlyReason], hours: Double = 1, obstacle: String? = nil,
        failures: NightlySubject.Failures? = nil
    ) -> NightlySubject {
        NightlySubject(
            recipe: recipe, version: "1", target: "x86_64", reasons: reasons, hours: hours, obstacle: obstacle, failures: failures)
    }

    @Test func whatIsWorthMoreGoesFirstAndEverythingHasItsReason() throws {
        let plan = NightlyPlan(
            [
                subject("old", [.age(days: 120)]), subject("fresh", [.age(days: 12)]),
                subject("moved", [.baseMoved(name: "debian:12"), .age(days: 5)]),
                subject("mended", [.advisories(["CVE-1", "CVE-2"])]), subject("new", [.upstream(version: "2", label: "v2")]),
                subject("edited", [.recipeChanged, .baseMoved(name: "debian:12")]),
                subject("far", [.neverBuilt], obstacle: "no worker has its CPU"),
                subject("broken", [.age(days: 99)], failures: .init(count: 3, message: "step 4 failed")),
                subject("mendable", [.recipeChanged], failures: .init(count: 2, message: "step 4 failed")),
            ], rules: .init())
        #expect(plan.entries.map(\.recipe) == ["mended", "edited", "mendable", "new", "moved", "old", "broken", "far", "fresh"])
        #expect(plan.entries.map(\.decision) == [.build, .build, .build, .candidate, .build, .build, .skip, .skip, .skip])
        #expect(
            plan.entries.map(\.words) == [
                "a rebuild mends 2 advisories, CVE-1, CVE-2", "the recipe has changed; debian:12 has moved",
                "the recipe has changed", "version 2 is out (v2)", "debian:12 has moved", "120 days old",
                "failed 3 times, and nothing has changed since: step 4 failed", "no worker has its CPU; this version was never released",
                "nothing has changed, 12 days old",
            ])
        #expect(plan.plannedHours == 6)
    }

    @Test func theBudgetIsKeptAndUsed() {
        let plan = NightlyPlan(
            [
                subject("a", [.recipeChanged], hours: 6), subject("b", [.baseMoved(name: "x")], hours: 5),
                subject("c", [.baseMoved(name: "x")], hours: 3.75),
                subject("d", [.age(days: 400)], hours: 0.25),
            ], rules: .init(nodeHours: 10))
        #expect(plan.entries.filter { $0.decision == .build }.map(\.recipe) == ["a", "c", "d"])
        #expect(plan.entries.last?.words == "would take 5.0 h, 0.3 h of the night's 10.0 h are left; x has moved")
    }

    /// Whatever there is: nothing is forgotten, the budget holds, and what is left out for want of hours would not fit.
    @Test(arguments: 0..<50) func noNightIsWastedNorOverspent(_ seed: Int) {
        var generator = SeededGenerator(UInt64(seed))
        func pick(_ count: Int) -> Int { Int(generator.next() % UInt64(count)) }
        let all: [NightlyReason] = [
            .recipeChanged, .baseMoved(name: "b"), .age(days: 10), .age(days: 100), .inputChanged(name: "i"), .neverBuilt,
        ]
        let subjects = (0..<60).map { number in
            subject("r\(number)", (0..<pick(3)).map { _ in all[pick(all.count)] }, hours: Double(1 + pick(40)) / 4)
        }
        let rules = NightlyPlan.Rules(nodeHours: Double(pick(80)))
        let plan = NightlyPlan(subjects, rules: rules)
        #expect(Set(plan.entries.map(\.recipe)).count == 60 && plan.plannedHours <= rules.nodeHours + 1e-9)
        for entry in plan.entries {
            #expect(!entry.words.isEmpty)
            if entry.decision == .skip, entry.words.hasPrefix("would take") { #expect(entry.hours > rules.nodeHours - plan.plannedHours) }
        }
        let values = plan.entries.filter { $0.decision != .skip }.map(\.value)
        #expect(values == values.sorted(by: >))
    }
}
