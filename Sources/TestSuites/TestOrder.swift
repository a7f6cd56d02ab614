package import FarmModel

/// In which order tests run: a value that is told what ended and says what may begin.
package struct TestOrder: Sendable {
    package enum Step: Sendable, Hashable {
        case run(Int)
        /// One that it depends on has failed, or was left out itself.
        case skip(Int, because: [String])
    }

    private let needs: [[Int]]
    private let names: [String]
    private let most: Int
    private var waiting: [Int]
    private var running: Set<Int> = []
    /// Whether each test that ended has passed.
    private var ended: [Int: Bool] = [:]

    /// - Parameters:
    ///   - tests: in the order of the suite; what a test depends on stands before it, else it is no dependency.
    ///   - most: how many may run at the same time.
    package init(_ tests: [FunctionalTest], most: Int) {
        names = tests.map(\.name)
        var places: [String: Int] = [:]
        var needs: [[Int]] = []
        for (index, test) in tests.enumerated() {
            needs.append(Set((test.dependsOn ?? []).compactMap { places[$0] }).sorted())
            places[test.name] = index
        }
        self.needs = needs
        self.most = max(1, most)
        waiting = Array(tests.indices)
    }

    package var isOver: Bool { waiting.isEmpty && running.isEmpty }

    /// What begins now.
    package mutating func next() -> [Step] {
        var steps: [Step] = []
        var again = true
        while again {
            again = false
            for index in waiting {
                let open = needs[index].filter { ended[$0] == nil }
                guard open.isEmpty else { continue }
                let failed = needs[index].filter { ended[$0] == false }
                if !failed.isEmpty {
                    steps.append(.skip(index, because: failed.map { names[$0] }))
                    ended[index] = false
                    waiting.removeAll { $0 == index }
                    again = true
                    break
                }
                guard running.count < most else { continue }
                running.insert(index)
                waiting.removeAll { $0 == index }
                steps.append(.run(index))
                again = true
                break
            }
        }
        return steps
    }

    /// What has not begun shall not begin any more. Returns it.
    package mutating func leave() -> [Int] {
        defer { waiting = [] }
        return waiting
    }

    package mutating func end(_ index: Int, passed: Bool) {
        running.remove(index)
        ended[index] = passed
    }

    /// Some tests of a suite and those that they depend on, in the order of the suite; `nil` for a name that no test has.
    package static func only(_ names: [String], of tests: [FunctionalTest]) -> [FunctionalTest]? {
        guard names.allSatisfy({ name in tests.contains { $0.name == name } }) else { return nil }
        var wanted = Set(names)
        for test in tests.reversed() where wanted.contains(test.name) { wanted.formUnion(test.dependsOn ?? []) }
        return tests.filter { wanted.contains($0.name) }
    }
}
