import ArgumentParser
import FarmModel
import Microarchitecture
import Recipes
import SystemIO
import WorkerCore

/// Says what a machine's CPU is, and how CPU targets relate.
struct CPUCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cpu", abstract: "Show this machine's CPU target, and why it is no higher one.",
        discussion: """
            Examples:
              sciferry cpu
              sciferry cpu --cpuinfo saved-cpuinfo.txt --machine x86_64 --json     of another machine
              sciferry cpu --target zen3 --compiler gcc@12.2                        what the compiler is told
              sciferry cpu --target zen3 --runs x86_64_v3                           status 0: yes, 1: no
            """)
    @Option(help: "The text of another machine's /proc/cpuinfo.") var cpuinfo: String?
    @Option(help: "That machine's architecture, as uname -m prints it.") var machine: String?
    @Option(help: "A CPU target instead of a machine.") var target: String?
    @Option(help: "A compiler and its version, as NAME@VERSION.") var compiler: String?
    @Option(help: "A CPU target: whether its code runs here.") var runs: String?
    @Flag(help: "List the features.") var features = false
    @Flag(help: "Print JSON.") var json = false

    private struct Above: Encodable {
        var target: String
        var lacks: String
    }

    private struct Report: Encodable {
        var target: String
        var family: String
        var generic: String
        var level: Int?
        var ociPlatform: String
        var eessiPath: String?
        var march: String
        var vendor: String
        var model: String?
        var features: [String]
        var nextHigher: [Above]
        /// Levels that the features promise and whose instructions this machine's CPU refuses.
        var refused: [String]
    }

    func run() async throws {
        try await reporting {
            let facts = target == nil ? try processor() : nil
            // What another machine's CPU really does cannot be tried here.
            let tried = cpuinfo == nil ? facts.flatMap { ProbedTarget($0) } : nil
            let here = try target.map(TargetName.read) ?? tried?.target ?? detected(facts)
            if let runs {
                let wanted = try TargetName.read(runs)
                let does = here.dominates(wanted)
                Console.print("\(here.name) \(does ? "runs" : "does not run") code for \(wanted.name)")
                if !does { throw ExitCode(1) }
                return
            }
            if let compiler { return try printFlags(here, compiler) }
            let report = Report(
                target: here.name, family: here.family, generic: here.generic.name, level: here.level, ociPlatform: here.ociPlatform,
                eessiPath: here.eessiPath, march: here.march, vendor: facts?.vendor ?? here.vendor, model: facts?.model,
                features: (facts?.features ?? here.features).sorted(),
                nextHigher: facts?.nextHigher.map { Above(target: $0.target.name, lacks: $0.obstacle.text) } ?? [],
                refused: tried?.refused ?? [])
            json ? try Console.json(report) : show(report)
        }
    }

    private func processor() throws -> ProcessorFacts {
        guard let cpuinfo else {
            guard let facts = HostSurvey.processor() else {
                throw FarmError("host.unknown", .unavailable, "this machine's kernel says nothing of its CPU")
            }
            return facts
        }
        guard let machine else {
            throw FarmError(
                "cpu.machine", .usage, "the machine's architecture is not given", hint: "--machine x86_64, aarch64, ppc64le or riscv64")
        }
        return ProcessorFacts(cpuInfo: String(decoding: try Disk.read(cpuinfo, limit: 16 << 20), as: UTF8.self), machine: machine)
    }

    private func detected(_ facts: ProcessorFacts?) throws -> Microarchitecture {
        guard let target = facts?.target else {
            throw FarmError(
                "target.unknown", .unavailable, "\(facts?.machine ?? "") is no architecture that the farm knows",
                hint: "x86_64, aarch64, ppc64le and riscv64 are known")
        }
        return target
    }

    private func printFlags(_ target: Microarchitecture, _ compiler: String) throws {
        let parts = compiler.split(separator: "@", maxSplits: 1).map(String.init)
        guard parts.count == 2 else {
            throw FarmError("cpu.compiler", .usage, "\"\(compiler)\" names no version", hint: "write NAME@VERSION, for example gcc@12.2")
        }
        switch target.flags(compiler: parts[0], version: parts[1]) {
        case .flags(let text, let warning):
            if let warning { Console.error("note: \(warning)") }
            Console.print(text)
        case .unsupported(let why): throw FarmError("cpu.unsupported", .invalid, why, hint: "choose a lower target or a newer compiler")
        }
    }

    private func show(_ report: Report) {
        Console.print("\(report.target)  (\(report.family)\(report.model.map { ", \($0)" } ?? ""))")
        Console.print("  runs code for      \(report.generic)\(report.level.map { ", x86-64 level \($0)" } ?? "") and everything below")
        Console.print("  images             \(report.ociPlatform)")
        if let path = report.eessiPath { Console.print("  EESSI              \(path)") }
        if !report.march.isEmpty { Console.print("  GCC                -march=\(report.march)") }
        for name in report.refused { Console.print("  not \(name): the kernel promises it, and the CPU refuses its instructions") }
        for above in report.nextHigher { Console.print("  not \(above.target): it \(above.lacks)") }
        if features { Console.print("  features           \(report.features.joined(separator: " "))") }
    }
}
