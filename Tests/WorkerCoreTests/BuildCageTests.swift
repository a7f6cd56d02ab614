import FarmModel
import Support
import SystemIO
import Testing
import WorkerCore

@Suite struct BuildCageTests {
    /// Directories as the kernel shows them, for either version of control groups.
    private func tree(_ files: [String: String]) throws -> Scratch {
        let scratch = try Scratch()
        for (path, text) in files {
            try Disk.makeDirectory(Disk.parent(of: "\(scratch.path)/\(path)"))
            try Disk.write("\(scratch.path)/\(path)", Array(text.utf8))
        }
        return scratch
    }

    private func text(_ scratch: Scratch, _ path: String) -> String? { Disk.kernelText("\(scratch.path)/\(path)") }

    @Test func theFirstVersionIsLimited() throws {
        let group = "docker/buildkit"
        let scratch = try tree([
            "memory/\(group)/memory.limit_in_bytes": "", "memory/\(group)/memory.memsw.limit_in_bytes": "",
            "memory/\(group)/memory.failcnt": "7\n", "memory/\(group)/memory.max_usage_in_bytes": "5\n", "pids/\(group)/pids.max": "",
            "pids/\(group)/pids.events": "max 3\n",
            "cpu/\(group)/cpu.cfs_quota_us": "",
        ])
        let cage = try #require(BuildCage(root: scratch.path))
        #expect(cage.set(CageLimits(memory: 1 << 30, processes: 200, processors: 1.5)).isEmpty)
        #expect(text(scratch, "memory/\(group)/memory.limit_in_bytes") == "1073741824")
        #expect(text(scratch, "memory/\(group)/memory.memsw.limit_in_bytes")?.hasPrefix("1073741824") == true)
        #expect(text(scratch, "pids/\(group)/pids.max") == "200" && text(scratch, "cpu/\(group)/cpu.cfs_quota_us") == "150000")
        #expect(cage.met == BuildCage.Met(memory: 7, processes: 3))
    }

    @Test func theSecondVersionIsLimited() throws {
        let group = "docker/buildkit"
        let scratch = try tree([
            "cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "", "docker/cgroup.subtree_control": "",
            "\(group)/memory.max": "", "\(group)/memory.swap.max": "", "\(group)/pids.max": "", "\(group)/cpu.max": "",
            "\(group)/memory.events": "low 0\noom 2\noom_kill 1\n", "\(group)/pids.events": "max 5\n",
        ])
        let cage = try #require(BuildCage(root: scratch.path))
        #expect(cage.set(CageLimits(memory: 2 << 30, processes: 100)).isEmpty)
        #expect(text(scratch, "\(group)/memory.max") == "2147483648" && text(scratch, "\(group)/memory.swap.max") == "0")
        #expect(text(scratch, "\(group)/pids.max") == "100" && text(scratch, "\(group)/cpu.max") == "max 100000")
        #expect(text(scratch, "docker/cgroup.subtree_control") != "", "controllers are handed on")
        #expect(cage.met == BuildCage.Met(memory: 1, processes: 5))
    }

    @Test func whereThereIsNoneNothingIsPromised() throws {
        let scratch = try Scratch()
        #expect(BuildCage(root: scratch.path) == nil)
        let half = try tree(["memory/docker/buildkit/memory.limit_in_bytes": ""])
        let cage = try #require(BuildCage(root: half.path))
        #expect(cage.set(CageLimits(memory: 1, processes: 1)) == ["processes", "processors"])
        #expect(cage.met == BuildCage.Met())
    }

    @Test func limitsAreTheRecipesWhereItDeclaresThem() {
        let watch = BuildLimitsWatch(declaredMemory: 1 << 30, declaredDisk: 1 << 30, before: .init(memory: 1, processes: 1))
        let limits = CageLimits(memory: 1 << 30, processes: 100)
        func failure(_ watch: BuildLimitsWatch, memory: Int = 1, processes: Int = 1, killed: Bool = true) -> Failure? {
            watch.failure(
                after: .init(memory: memory, processes: processes), limits: limits, place: "step 2/3: RUN x", wasKilled: killed, tail: [])
        }
        #expect(failure(watch) == nil)
        #expect(failure(watch, memory: 9, killed: false) == nil, "what was reclaimed did no harm")
        let hungry = failure(watch, memory: 9)
        #expect(hungry?.failureClass == .recipe && hungry?.code == "build.memory" && hungry?.message.contains("1.0 GiB") == true)
        let bomb = failure(watch, memory: 9, processes: 2)
        #expect(bomb?.failureClass == .recipe && bomb?.code == "build.processes")
        let told = watch.failure(
            after: watch.before, limits: limits, place: "step", wasKilled: false, tail: ["sh: can't fork: Resource temporarily unavailable"]
        )
        #expect(told?.code == "build.processes")
        let undeclared = failure(BuildLimitsWatch(declaredMemory: 0, declaredDisk: 0, before: .init()), memory: 1, processes: 0)
        #expect(undeclared?.failureClass == .infrastructure && undeclared?.retry == .elsewhere && undeclared?.code == "memory.out")

        func disk(_ watch: BuildLimitsWatch, _ before: Int64, _ now: Int64) -> String? {
            watch.disk(free: (before << 20, now << 20), place: "step")?.code
        }
        #expect(disk(watch, 10_000, 8_000) == nil && disk(watch, 10_000, 7_900) == "build.disk")
        #expect(disk(watch, 1_000, 200) == "disk.full" && disk(watch, 1_000, 400) == nil)
        #expect(disk(BuildLimitsWatch(declaredMemory: 0, declaredDisk: 0, before: .init()), 100_000, 300) == nil)
    }

    /// Builds side by side share limits: which of them ran into one cannot be told, so the recipe is not to blame.
    @Test func sharedLimitsBlameNobody() {
        let limits = CageLimits(memory: 4 << 30, processes: 100)
        func failure(alone: Bool, _ after: BuildCage.Met) -> Failure? {
            BuildLimitsWatch(declaredMemory: 4 << 30, declaredDisk: 0, isAlone: alone, before: BuildCage.Met())
                .failure(after: after, limits: limits, place: "step 2/3", wasKilled: true, tail: [])
        }
        #expect(failure(alone: true, .init(memory: 1))?.code == "build.memory")
        #expect(failure(alone: false, .init(memory: 1))?.code == "memory.out")
        #expect(failure(alone: true, .init(processes: 1))?.code == "build.processes")
        #expect(failure(alone: false, .init(processes: 1))?.code == "processes.out")
    }

    /// What the worker itself writes beside a build is not the build's.
    @Test func aWorkersOwnWritingIsNotCounted() {
        let watch = BuildLimitsWatch(declaredMemory: 0, declaredDisk: 1 << 30, before: BuildCage.Met())
        #expect(watch.disk(free: (100 << 30, 97 << 30), place: "p")?.code == "build.disk")
        #expect(watch.disk(free: (100 << 30, 97 << 30), others: 2 << 30, place: "p") == nil)
        #expect(watch.disk(free: (100 << 30, 100 << 20), others: 99 << 30, place: "p")?.code == "disk.full")
    }
}
