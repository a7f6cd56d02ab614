import CLinux
package import FarmModel
import Foundation
import Glibc
package import Microarchitecture
import ProcessRunner
import SystemIO

/// Looks at the machine that the worker runs on.
package enum HostSurvey {
    /// What is reported in HELLO.
    package static func facts(home: String, engine: String, slots: Int) async throws -> HostFacts {
        var system = utsname()
        uname(&system)
        let machine = text(of: system.machine)
        let facts = processor(machine)
        let tried = facts.flatMap { ProbedTarget($0) }
        let gpus = await gpus()
        let virtualization = virtualization(facts)
        let hardware = HardwareFacts(
            vendor: facts?.vendor ?? "", model: facts?.model ?? "", features: (facts?.features ?? []).sorted(),
            refusedTargets: tried?.refused ?? [], numaNodes: numaNodes(), gpus: gpus.flatMap(\.names), virtualization: virtualization,
            emulated: await EmulationSurvey.platforms(own: machine, scratch: home))
        return HostFacts(
            hostName: text(of: system.nodename), architecture: machine, target: tried?.target.name ?? machine,
            processors: sysconf(Int32(_SC_NPROCESSORS_ONLN)),
            memoryBytes: Int64(sysconf(Int32(_SC_PHYS_PAGES))) * Int64(sysconf(Int32(_SC_PAGESIZE))),
            diskFreeBytes: try Disk.freeBytes(at: home), engine: engine, kernel: text(of: system.release), slots: slots,
            programVersion: Program.version, hardware: hardware,
            labels: (gpus.isEmpty ? [] : ["gpu"]) + gpus.map { "gpu-\($0.vendor)" }
                + (virtualization.isEmpty ? [] : ["virtual-\(virtualization)"]))
    }

    /// The facts of a machine of another CPU target, for tests; throws `worker.target` for one that is not known.
    package static func pretending(_ target: String, _ facts: HostFacts) throws -> HostFacts {
        guard let pretended = Microarchitecture.named(target) else {
            throw FarmError(
                "worker.target", .invalid, "\"\(target)\" is no CPU target", hint: "take pretendedTargetForTests out of worker.json")
        }
        var result = facts
        result.target = pretended.name
        result.architecture = pretended.family
        result.hardware?.features = pretended.features.sorted()
        result.hardware?.vendor = pretended.vendor
        result.hardware?.emulated = facts.hardware?.emulated?.filter { $0.architecture != pretended.family }
        return result
    }

    /// Nodes of memory that the kernel tells apart, at least one.
    private static func numaNodes() -> Int {
        let names = (try? Disk.list("/sys/devices/system/node")) ?? []
        return max(1, names.filter { $0.hasPrefix("node") && Int($0.dropFirst(4)) != nil }.count)
    }

    /// How strained the machine is; `nil` where the kernel does not tell.
    package static func pressure() -> Pressure? {
        func average(_ name: String, _ line: String) -> Double? {
            Disk.kernelText("/proc/pressure/\(name)").map { Pressure.average(line, of: $0) }
        }
        guard let cpu = average("cpu", "some"), let memory = average("memory", "full"), let io = average("io", "full") else { return nil }
        return Pressure(cpu: cpu, memory: memory, io: io)
    }

    /// What NVIDIA's and AMD's tools list; nothing where they are not installed or find none.
    private static func gpus() async -> [(vendor: String, names: [String])] {
        var found: [(vendor: String, names: [String])] = []
        for (name, arguments) in [
            ("nvidia-smi", ["--query-gpu=name", "--format=csv,noheader"]), ("rocm-smi", ["--showproductname", "--csv"]),
        ] {
            guard let program = ProcessRunner.find(name) else { continue }
            guard let result = try? await ProcessRunner.run(Command(program, arguments, deadlineSeconds: 10)), result.succeeded else {
                continue
            }
            let lines = result.text.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
            let cards = Array((name == "rocm-smi" ? Array(lines.dropFirst()) : lines).prefix(16))
            if !cards.isEmpty { found.append((name == "rocm-smi" ? "amd" : "nvidia", cards)) }
        }
        return found
    }

    /// What the machine runs in, as far as its firmware and CPU say it.
    private static func virtualization(_ facts: ProcessorFacts?) -> String {
        func line(_ path: String) -> String { Disk.kernelText(path)?.trimmingCharacters(in: .whitespacesAndNewlines) ?? "" }
        let xen = line("/sys/hypervisor/type")
        if !xen.isEmpty { return xen }
        let firmware = "\(line("/sys/class/dmi/id/sys_vendor")) \(line("/sys/class/dmi/id/product_name"))".lowercased()
        for (word, name) in [
            ("qemu", "kvm"), ("openstack", "kvm"), ("kvm", "kvm"), ("vmware", "vmware"), ("virtualbox", "virtualbox"),
            ("microsoft", "hyper-v"),
        ]
        where firmware.contains(word) { return name }
        return facts?.features.contains("hypervisor") ?? false ? "virtual" : ""
    }

    /// The machine's name as the kernel gives it.
    package static var machine: String {
        var system = utsname()
        uname(&system)
        return text(of: system.machine)
    }

    /// What the kernel says of this machine's processor; `nil` where it does not say it.
    package static func processor() -> ProcessorFacts? { processor(machine) }

    private static func processor(_ machine: String) -> ProcessorFacts? {
        Disk.kernelText("/proc/cpuinfo").map { ProcessorFacts(cpuInfo: $0, machine: machine) }
    }

    private static func text<Field>(of field: Field) -> String {
        withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}

/// The target whose instructions really run on this machine: the detected one, unless a hypervisor promises what its CPU refuses.
package struct ProbedTarget: Sendable, Hashable {
    package let target: Microarchitecture
    /// Generic targets that the features promise and whose instructions were refused.
    package let refused: [String]

    /// - Parameter runs: tries the instructions of a step; `nil` when that cannot be tried.
    package init?(_ facts: ProcessorFacts, runs: (Int) -> Bool? = ProbedTarget.runsHere) {
        guard let detected = facts.target else { return nil }
        var refused: [String] = []
        let steps: [(step: Int, target: String)]
        switch facts.machine {
        case "x86_64": steps = (2...4).map { ($0, "x86_64_v\($0)") }
        case "aarch64": steps = [(1, "armv8.1a")]
        default: steps = []
        }
        for (step, name) in steps {
            guard let level = Microarchitecture.named(name), detected.dominates(level), runs(step) == false else { continue }
            refused.append(name)
        }
        self.refused = refused
        let isUsable: (Microarchitecture) -> Bool = { candidate in
            !refused.contains { Microarchitecture.named($0).map(candidate.dominates) ?? false }
        }
        if isUsable(detected) {
            target = detected
        } else {
            target =
                detected.ancestors.filter { isUsable($0) && $0.vendor == "generic" }.max { $0.ancestors.count < $1.ancestors.count }
                ?? detected
        }
    }

    /// Tries on this machine, in a child process.
    package static func runsHere(_ step: Int) -> Bool? {
        switch sciferry_probe_instructions(Int32(step)) {
        case 1: true
        case 0: false
        default: nil
        }
    }
}
