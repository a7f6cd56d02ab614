package import FarmModel
import ProcessRunner
import SiteDelivery
import SystemIO
package import TestSuites

/// What every image must pass, whatever its recipe tests: its commands are there, can be run by anybody, find their libraries and start; the
/// launcher passes what it is given; its module loads; its programs draw windows.
package struct BuiltInChecks: Sendable {
    let image: ImageRunner
    private let plan: Plan
    private let commands: [String]
    /// A command that answers within so many seconds is one that starts.
    private let startSeconds: Double
    /// More of them tell nothing new; all are looked at without being started.
    private static let mostStarts = 200
    private static let memoryBytes: Int64 = 4 << 30

    /// - Parameters:
    ///   - found: commands that were found in the plan's directories, beside those that it names.
    package init(_ plan: Plan, found: [String], in image: ImageRunner, startSeconds: Double = 30) {
        self.startSeconds = startSeconds
        self.plan = plan
        self.image = image
        commands = plan.commands + found.filter { !plan.commands.contains($0) }
    }

    /// Runs all of them.
    package func run(jobs: Int, _ watchers: SuiteRunner.Watchers) async throws -> [TestRecord] {
        var records: [TestRecord] = []
        func add(_ record: TestRecord) async {
            records.append(record)
            await watchers.ended(record)
        }
        let facts = try await look()
        for record in places(facts) { await add(record) }
        for record in try await starts(facts, jobs, watchers) { await add(record) }
        if !plan.commands.isEmpty {
            await add(try await arguments())
            if let record = try await module() { await add(record) }
        }
        return records
    }

    // MARK: without starting

    /// For each line of a file: where a command of that name lies, for which machine, and what it lacks.
    private static let looking = """
        IFS=:
        set -f
        while read -r name; do
            state=absent place= machine= missing=
            for directory in $PATH; do
                file=$directory/$name
                [ -e "$file" ] || [ -L "$file" ] || continue
                [ ! -d "$file" ] || continue
                if [ -f "$file" ] && [ -x "$file" ]; then state=there place=$file; break; fi
                [ -n "$place" ] || { state=denied place=$file; }
            done
            if [ "$state" = there ]; then
                if command -v od >/dev/null 2>&1; then
                    head=$(od -An -v -tu1 -N20 "$place" 2>/dev/null | tr -s ' \\n' '::')
                    set -- $head
                    [ -n "${1:-}" ] || shift
                    if [ "${1:-}:${2:-}:${3:-}:${4:-}" = 127:69:76:70 ]; then machine=$((${19:-0} + 256 * ${20:-0})); fi
                fi
                if command -v ldd >/dev/null 2>&1; then
                    missing=$(ldd "$place" 2>/dev/null </dev/null | sed -n 's/^[[:space:]]*\\([^ ]*\\) => not found.*/\\1/p' | sort -u | tr '\\n' ' ')
                fi
            fi
            printf '%s\\t%s\\t%s\\t%s\\t%s\\n' "$name" "$state" "$place" "$machine" "$missing"
        done <"$1"
        """

    private func look() async throws -> [CommandFacts] {
        if commands.isEmpty { return [] }
        let list = try await Blocking.run { [image, commands] in try image.place.write(".commands", commands.joined(separator: "\n") + "\n")
        }
        var terms = ImageRunner.Terms(timeout: 600, network: false)
        terms.arguments = [list]
        let seen = try await image.run(script: BuiltInChecks.looking, name: "commands", terms)
        let facts = CommandFacts.read(seen.output)
        guard !seen.timedOut, facts.count == commands.count else {
            throw FarmError("image.programs", .invalid, "the commands of the image cannot be looked at: \(seen.output.suffix(500))")
        }
        return facts
    }

    private func places(_ facts: [CommandFacts]) -> [TestRecord] {
        let promised = Set(plan.commands)
        var records: [TestRecord] = []
        var others: [String] = []
        for fact in facts {
            let problems = fact.problems(architecture: plan.architecture)
            if promised.contains(fact.name) {
                records.append(
                    TestRecord(
                        outcome: TestOutcome(
                            name: "command \(fact.name) is there", passed: problems.isEmpty, problems: problems, seconds: 0)))
            } else if let first = problems.first {
                others.append("\(fact.name): \(first)")
            }
        }
        if facts.count > promised.count {
            records.append(
                TestRecord(
                    outcome: TestOutcome(
                        name: "commands of \(plan.commandPaths.joined(separator: ", ")) are sound", passed: others.isEmpty,
                        problems: others,
                        seconds: 0)))
        }
        return records
    }

    // MARK: starting

    private func starts(_ facts: [CommandFacts], _ jobs: Int, _ watchers: SuiteRunner.Watchers) async throws -> [TestRecord] {
        let left = Set(plan.suite.unstarted ?? [])
        let sound = facts.filter {
            plan.commands.contains($0.name) && $0.problems(architecture: plan.architecture).isEmpty && !left.contains($0.name)
        }
        let tried = Array(sound.prefix(BuiltInChecks.mostStarts))
        return try await withThrowingTaskGroup(of: (Int, TestRecord).self) { tasks in
            var records = [TestRecord?](repeating: nil, count: tried.count)
            var next = 0
            func begin() async {
                guard next < tried.count else { return }
                let (index, fact) = (next, tried[next])
                next += 1
                await watchers.began(index, tried.count, "command \(fact.name) starts")
                tasks.addTask { (index, try await start(fact, index)) }
            }
            for _ in 0..<max(1, jobs) { await begin() }
            while let (index, record) = try await tasks.next() {
                records[index] = record
                await begin()
            }
            return records.compactMap { $0 }
        }
    }

    private func start(_ fact: CommandFacts, _ index: Int) async throws -> TestRecord {
        var problems: [String] = []
        var last: TestObservation?
        for word in ["--version", "--help"] {
            let terms = ImageRunner.Terms(timeout: startSeconds, network: false, memoryBytes: BuiltInChecks.memoryBytes)
            let seen = try await image.run(fact.name, [word], name: "start-\(index)", terms)
            guard let problem = StartCheck.problem(seen) else {
                return TestRecord(
                    outcome: TestOutcome(
                        name: "command \(fact.name) starts", passed: true, problems: [], seconds: seen.seconds,
                        memoryBytes: seen.memoryBytes > 0 ? seen.memoryBytes : nil), command: "\(fact.name) \(word)",
                    exitCode: seen.exitCode)
            }
            problems.append("\(fact.name) \(word): \(problem)")
            last = seen
        }
        return TestRecord(
            outcome: TestOutcome(
                name: "command \(fact.name) starts", passed: false,
                problems: problems + ["where that is as it should be, name it under x-sciferry.not_started in fulltest.yaml"],
                seconds: last?.seconds ?? 0, memoryBytes: last?.memoryBytes),
            command: "\(fact.name) --version", tail: SuiteRunner.tail(last?.output ?? ""), exitCode: last?.exitCode ?? 0)
    }

    // MARK: what stands around the image

    /// Words that shells, languages and runtimes have been seen to change.
    private static let words = [
        "", " ", "a b", "*", "$HOME", "$(id)", "`id`", "'", "\"", "\\", "\\n", "a\nb", "--", "-n", "~", "!", ";", "&&", "{a,b}",
        "ünïcode 脳", "\t", "%s",
        "=", "@", "#",
    ]

    /// The launcher, which is what every wrapper is a link to, hands over each word byte for byte.
    private func arguments() async throws -> TestRecord {
        let terms = ImageRunner.Terms(timeout: 60, network: false)
        let seen = try await image.run(
            "/bin/sh", ["-c", "for word; do printf '%s\\0' \"$word\"; done >.sciferry-words", "sh"] + BuiltInChecks.words, name: "words",
            terms)
        let files = PlaceFiles(image.place)
        let came = (try? files.read(".sciferry-words")) ?? []
        let expected: [UInt8] = BuiltInChecks.words.reduce(into: []) { $0 += Array($1.utf8) + [0] }
        let isSame = seen.exitCode == 0 && came == expected
        return TestRecord(
            outcome: TestOutcome(
                name: "arguments arrive as they were given", passed: isSame,
                problems: isSame ? [] : ["\(came.count) bytes came of \(expected.count); status \(seen.exitCode)"], seconds: seen.seconds))
    }

    /// The module, loaded by the machine's own Lmod; `nil` where it has none.
    private func module() async throws -> TestRecord? {
        guard let program = ["/usr/share/lmod/lmod/libexec/lmod", "/opt/lmod/lmod/libexec/lmod"].first(where: Disk.exists) else {
            return nil
        }
        let modules = "\(image.place.root)/modules"
        let (plan, place) = (plan, image.place)
        let name = try await Blocking.run { try TrialModule.write(plan, commands: plan.commands, below: place.root) }
        let words = place.words(program, ["bash", "load", name], processes: 256)
        let result = try await ProcessRunner.run(
            Command(
                words[0], Array(words.dropFirst()),
                environment: ["MODULEPATH": modules, "LMOD_IGNORE_CACHE": "1", "HOME": place.work, "LOADEDMODULES": nil, "_LMFILES_": nil],
                directory: place.work, deadlineSeconds: 60))
        let isLoaded =
            result.succeeded && result.text.contains("\(place.root)/tools/")
            && !result.text.contains("Lmod has detected the following error")
        return TestRecord(
            outcome: TestOutcome(
                name: "module \(name) loads", passed: isLoaded,
                problems: isLoaded
                    ? [] : ["Lmod does not load it: \(result.text.split(separator: "\n").suffix(6).joined(separator: " / "))"], seconds: 0,
                wantsMore: true))
    }
}
