package import FarmModel
import Glibc
package import Microarchitecture
import SystemIO

/// Looks at the machine that the worker runs on.
package enum HostSurvey {
    /// What is reported in HELLO.
    package static func facts(home: String, engine: String, slots: Int) throws -> HostFacts {
        var system = utsname()
        uname(&system)
        let machine = text(of: system.machine)
        return HostFacts(
            hostName: text(of: system.nodename), architecture: machine, target: processor(machine)?.target?.name ?? machine,
            processors: sysconf(Int32(_SC_NPROCESSORS_ONLN)),
            memoryBytes: Int64(sysconf(Int32(_SC_PHYS_PAGES))) * Int64(sysconf(Int32(_SC_PAGESIZE))),
            diskFreeBytes: try Disk.freeBytes(at: home), engine: engine, kernel: text(of: system.release), slots: slots,
            programVersion: Program.version)
    }

    /// What the kernel says of this machine's processor; `nil` where it does not say it.
    package static func processor() -> ProcessorFacts? {
        var system = utsname()
        uname(&system)
        return processor(text(of: system.machine))
    }

    private static func processor(_ machine: String) -> ProcessorFacts? {
        var text = [UInt8](repeating: 0, count: 64 * 1024)
        guard let file = try? OpenFile("/proc/cpuinfo", flags: O_RDONLY) else { return nil }
        defer { file.close() }
        let count = text.withUnsafeMutableBytes { (try? file.read(at: 0, into: $0)) ?? 0 }
        return ProcessorFacts(cpuInfo: String(decoding: text.prefix(count), as: UTF8.self), machine: machine)
    }

    private static func text<Field>(of field: Field) -> String {
        withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
