package import FarmModel
import Glibc
import SystemIO

/// What all steps that run in an engine at a time may use.
package struct CageLimits: Sendable, Hashable {
    /// Bytes, what the kernel keeps of files in memory aside.
    package var memory: Int64
    package var processes: Int
    /// Processors' time; 0 for all of it.
    package var processors: Double

    package init(memory: Int64, processes: Int, processors: Double = 0) {
        self.memory = memory
        self.processes = processes
        self.processors = processors
    }
}

/// The control group below which Docker's builder runs steps (cgroups(7), both versions), with limits for all of them together.
///
/// The builder of engine 20.10 takes neither limits nor a parent group; but it makes each step's group below the same one, which stays.
package struct BuildCage: Sendable {
    /// How often limits have kept steps from something since the group was made.
    package struct Met: Sendable, Hashable {
        package var memory = 0
        package var processes = 0

        package init(memory: Int = 0, processes: Int = 0) {
            self.memory = memory
            self.processes = processes
        }
    }

    private let root: String
    private let group: String
    private let isUnified: Bool

    /// The group of an engine with its usual settings.
    package static let usualGroup = "/docker/buildkit"

    /// - Parameters:
    ///   - group: below the hierarchies' roots.
    ///   - root: where these are mounted.
    ///   - Returns: `nil` where there is no such group and none can be made.
    package init?(group: String = usualGroup, root: String = "/sys/fs/cgroup") {
        (self.root, self.group) = (root, group)
        isUnified = Disk.exists("\(root)/cgroup.controllers")
        if isUnified {
            // A controller reaches as far down as it was handed on.
            var place = root
            for part in group.split(separator: "/") {
                for controller in ["memory", "pids", "cpu"] {
                    try? Disk.writeKernelText("\(place)/cgroup.subtree_control", "+\(controller)")
                }
                place += "/\(part)"
                try? Disk.makeDirectory(place)
            }
            guard Disk.exists("\(place)/memory.max") else { return nil }
        } else {
            for controller in ["memory", "pids", "cpu"] where Disk.isDirectory("\(root)/\(controller)") {
                try? Disk.makeDirectory("\(root)/\(controller)\(group)")
            }
            guard Disk.exists(file("memory", "memory.limit_in_bytes")) else { return nil }
        }
    }

    private func file(_ controller: String, _ name: String) -> String {
        isUnified ? "\(root)\(group)/\(name)" : "\(root)/\(controller)\(group)/\(name)"
    }

    /// Sets limits for what runs there from now on.
    ///
    /// - Returns: what cannot be limited here, in words.
    package func set(_ limits: CageLimits) -> [String] {
        var missing: [String] = []
        func put(_ what: String, _ writes: [(path: String, text: String)]) {
            do { for write in writes { try Disk.writeKernelText(write.path, write.text) } } catch { missing.append(what) }
        }
        let quota = limits.processors > 0 ? Int(limits.processors * 100_000) : -1
        if isUnified {
            put("memory", [(file("", "memory.max"), "\(limits.memory)")])
            // Without it what is too much would go to the disk.
            try? Disk.writeKernelText(file("", "memory.swap.max"), "0")
            put("processes", [(file("", "pids.max"), "\(limits.processes)")])
            put("processors", [(file("", "cpu.max"), quota < 0 ? "max 100000" : "\(quota) 100000")])
        } else {
            // The sum of memory and swap may never be below memory, whichever way both move.
            try? Disk.writeKernelText(file("memory", "memory.memsw.limit_in_bytes"), "-1")
            put("memory", [(file("memory", "memory.limit_in_bytes"), "\(limits.memory)")])
            try? Disk.writeKernelText(file("memory", "memory.memsw.limit_in_bytes"), "\(limits.memory)")
            // What earlier steps have left in memory of files would be taken for what this one used. From now on it tells the most that was.
            try? Disk.writeKernelText(file("memory", "memory.force_empty"), "0")
            try? Disk.writeKernelText(file("memory", "memory.max_usage_in_bytes"), "0")
            put("processes", [(file("pids", "pids.max"), "\(limits.processes)")])
            put("processors", [(file("cpu", "cpu.cfs_quota_us"), "\(quota)")])
        }
        return missing
    }

    /// Kills what runs in a group and below it.
    package static func killAll(in group: String, root: String = "/sys/fs/cgroup") {
        let isUnified = Disk.exists("\(root)/cgroup.controllers")
        func kill(_ directory: String) {
            for line in (Disk.kernelText("\(directory)/cgroup.procs") ?? "").split(separator: "\n") {
                if let process = pid_t(line), process > 1 { Glibc.kill(process, SIGKILL) }
            }
            for name in (try? Disk.list(directory)) ?? [] where Disk.isDirectory("\(directory)/\(name)") { kill("\(directory)/\(name)") }
        }
        kill(isUnified ? "\(root)\(group)" : "\(root)/memory\(group)")
    }

    /// What has been met so far.
    package var met: Met {
        func number(_ path: String, _ name: String) -> Int {
            let lines = (Disk.kernelText(path) ?? "").split(separator: "\n").map { $0.split(separator: " ") }
            return lines.first { $0.first.map(String.init) == name }.flatMap { Int($0.last ?? "") } ?? 0
        }
        if isUnified {
            return Met(memory: number(file("", "memory.events"), "oom_kill"), processes: number(file("", "pids.events"), "max"))
        }
        func value(_ name: String) -> Int { Disk.kernelText(file("memory", name))?.split(separator: "\n").first.flatMap { Int($0) } ?? 0 }
        // Where swap is counted in, kernels count no failures; then the most that was used tells.
        let most = value("memory.max_usage_in_bytes")
        let isFull = most > 0 && most >= value("memory.limit_in_bytes") / 100 * 99
        return Met(memory: value("memory.failcnt") + (isFull ? 1 : 0), processes: number(file("pids", "pids.events"), "max"))
    }
}

/// What a build may use at most, and what it has run into.
package struct BuildLimitsWatch: Sendable {
    /// What the recipe declares, where it does.
    package var declaredMemory: Int64
    package var declaredDisk: Int64
    /// No other build shares the limits; where some do, one of them may have run into what this one feels.
    package var isAlone: Bool
    package var before: BuildCage.Met

    package init(declaredMemory: Int64, declaredDisk: Int64, isAlone: Bool = true, before: BuildCage.Met) {
        self.isAlone = isAlone
        self.declaredMemory = declaredMemory
        self.declaredDisk = declaredDisk
        self.before = before
    }

    /// The failure of a build that ended badly, if a limit explains it.
    ///
    /// - Parameters:
    ///   - place: the step, for people.
    ///   - wasKilled: its program was ended by a signal (status 137), as the kernel does for want of memory.
    package func failure(after: BuildCage.Met, limits: CageLimits, place: String, wasKilled: Bool, tail: [String]) -> Failure? {
        // Kernels count what a step's own group could not have, and that is gone with the step; but then it says so.
        let cannotFork = tail.contains { line in
            let text = line.lowercased()
            return text.contains("fork") && (text.contains("resource temporarily unavailable") || text.contains("cannot"))
        }
        if after.processes > before.processes || cannotFork {
            if !isAlone {
                return Failure(
                    .infrastructure, code: "processes.out",
                    message:
                        "\(place) could not begin a process: the builds of this worker together had \(limits.processes), which it allows",
                    tail: tail, reason: "processes.out", retry: .elsewhere)
            }
            return Failure(
                .recipe, code: "build.processes",
                message: "\(place) wanted more than \(limits.processes) processes at a time, which is what a worker allows", tail: tail)
        }
        guard after.memory > before.memory, wasKilled else { return nil }
        let gibibytes = Double(limits.memory >> 20) / 1024
        if isAlone, declaredMemory > 0, declaredMemory <= limits.memory {
            return Failure(
                .recipe, code: "build.memory",
                message:
                    "\(place) wanted more than the \(gibibytes.tenths) GiB of memory that the recipe declares; raise x-sciferry.limits.memory_gib, or run fewer jobs at a time",
                tail: tail)
        }
        return Failure(
            .infrastructure, code: "memory.out",
            message:
                "\(place) wanted more than the \(gibibytes.tenths) GiB of memory that this worker has for builds; declare what it needs: x-sciferry.limits.memory_gib",
            tail: tail, reason: "memory.out", retry: .elsewhere)
    }

    /// Bytes that stay free whatever a build does, for the engine and for what watches over it.
    package static let reserve: Int64 = 256 << 20

    /// The failure of a build that goes on, if it must not.
    ///
    /// - Parameters:
    ///   - free: bytes on the engine's disk when the build began, and now.
    ///   - others: bytes that the worker itself has written there meanwhile.
    package func disk(free: (before: Int64, now: Int64), others: Int64 = 0, place: String) -> Failure? {
        let used = free.before - free.now - max(0, others)
        // Others may write to that disk, too; what counts is what nobody could have meant.
        if declaredDisk > 0, used > 2 * declaredDisk {
            return Failure(
                .recipe, code: "build.disk",
                message:
                    "\(place) has written \(used >> 20) MiB, and the recipe declares \(declaredDisk >> 30) GiB; raise x-sciferry.limits.disk_gib"
            )
        }
        guard free.now < BuildLimitsWatch.reserve else { return nil }
        return Failure(
            .infrastructure, code: "disk.full",
            message: "\(place) has filled the worker's disk: \(free.now >> 20) MiB are left, \(used >> 20) MiB went since the build began",
            reason: "disk.full", retry: .elsewhere)
    }
}
