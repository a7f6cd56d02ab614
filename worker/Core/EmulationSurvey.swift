package import FarmModel
import Foundation
import Microarchitecture
import ProcessRunner
import SystemIO

/// One format of foreign programs as the kernel lists it below `/proc/sys/fs/binfmt_misc`
/// (https://docs.kernel.org/admin-guide/binfmt-misc.html).
package struct ForeignFormat: Sendable, Hashable {
    /// The program that the kernel starts for it.
    package var interpreter: String
    /// The machine, where the format is that of 64-bit ELF programs of one that the farm knows.
    package var architecture: String
    /// Whether the kernel holds the interpreter open, so that it works inside containers that do not have it.
    package var worksInContainers: Bool

    /// Reads an entry; `nil` for one that is switched off or not a program of a machine that the farm knows.
    package init?(_ text: String) {
        var values: [Substring: Substring] = [:]
        let lines = text.split(separator: "\n")
        for line in lines {
            let words = line.split(separator: " ", maxSplits: 1)
            if words.count == 2 { values[words[0].drop { $0 == ":" }] = words[1] }
        }
        guard lines.first == "enabled", let path = values["interpreter"], values["offset"] == "0", let magic = values["magic"] else {
            return nil
        }
        // The class, the byte order and the machine of an ELF header.
        guard magic.count >= 40, magic.hasPrefix("7f454c460201") else { return nil }
        let machine = magic.dropFirst(36).prefix(4)
        guard let architecture = ProbeProgram.machines.first(where: { $0.value.elf == machine })?.key else { return nil }
        interpreter = String(path)
        self.architecture = architecture
        worksInContainers = values["flags:"]?.contains("F") ?? false
    }
}

/// A program of a few instructions for some machine, made here, so that it can be tried whether that machine's programs run
/// and how fast: it counts down from twenty million with a load, an addition and a store in each round, and exits with 42.
package enum ProbeProgram {
    struct Machine: Sendable {
        /// `e_machine` as it lies in the file, in hexadecimal digits.
        var elf: String
        var flags: UInt32
        var code: String
    }

    static let exitCode: Int32 = 42

    static let machines: [String: Machine] = [
        "x86_64": Machine(
            elf: "3e00", flags: 0, code: "b9002d31014883ec10488b04244801c848890424ffc975f1bf2a000000b83c0000000f05"),
        "aarch64": Machine(
            elf: "b700", flags: 0, code: "01a085522126a072ff4300d1e00340f90000018be00300f92104007181ffff54400580d2a80b80d2010000d4"),
        "ppc64le": Machine(
            elf: "1500", flags: 2, code: "3101803c002d8460f0ff2138000061e81422637c000061f8ffff8434f0ff82402a0060380100003802000044"),
        "riscv64": Machine(
            elf: "f300", flags: 0,
            code: "b7353101938505d0130101ff033501003305b5002330a1009385f5ffe39805fe1305a0029308d00573000000"),
    ]

    /// The file's bytes; `nil` for a machine that is not known.
    static func bytes(_ architecture: String) -> [UInt8]? {
        guard let machine = machines[architecture] else { return nil }
        let code = bytes(hexadecimal: machine.code)
        let base: UInt64 = 0x40_0000
        let head: UInt64 = 64 + 56
        var file = bytes(hexadecimal: "7f454c46020101000000000000000000" + "0200" + machine.elf)
        func add<Number: FixedWidthInteger>(_ number: Number) { withUnsafeBytes(of: number.littleEndian) { file += $0 } }
        add(UInt32(1))
        add(base + head)
        add(UInt64(64))
        add(UInt64(0))
        add(machine.flags)
        for number in [64, 56, 1, 64, 0, 0] as [UInt16] { add(number) }
        // One segment, readable and executable.
        add(UInt32(1))
        add(UInt32(5))
        for number in [0, base, base, head + UInt64(code.count), head + UInt64(code.count), 0x1_0000] as [UInt64] { add(number) }
        return file + code
    }

    private static func bytes(hexadecimal text: String) -> [UInt8] {
        let digits = text.compactMap(\.hexDigitValue)
        return stride(from: 0, to: digits.count - 1, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
    }

    /// Seconds that the program takes, the best of three; `nil` when it does not run here.
    package static func seconds(_ architecture: String, scratch: String) async -> Double? {
        guard let bytes = bytes(architecture) else { return nil }
        let path = "\(scratch)/probe-\(architecture)-\(Nonce.hex(bytes: 4))"
        defer { try? Disk.remove(path) }
        var best: Double?
        do {
            try Disk.replace(path, with: bytes, mode: 0o700)
            for _ in 0..<3 {
                let started = ContinuousClock.now
                let result = try await ProcessRunner.run(Command(path, [], deadlineSeconds: 30))
                guard result.status == exitCode else { return nil }
                let taken = (ContinuousClock.now - started) / .seconds(1)
                best = min(best ?? taken, taken)
            }
        } catch { return nil }
        return best
    }
}

/// Finds out which other machines' programs this one runs.
package enum EmulationSurvey {
    /// Platforms for which the kernel has an emulator that works in containers and whose programs really run, with their cost.
    ///
    /// - Parameters:
    ///   - own: this machine's architecture.
    ///   - scratch: a directory that programs may be started from.
    package static func platforms(
        own: String, scratch: String, formats: String = kernelsList
    ) async -> [EmulatedPlatform] {
        let usable = listed(formats).filter { $0.worksInContainers && $0.architecture != own }
        guard !usable.isEmpty, let native = await ProbeProgram.seconds(own, scratch: scratch) else { return [] }
        var platforms: [EmulatedPlatform] = []
        for format in usable where !platforms.contains(where: { $0.architecture == format.architecture }) {
            guard let emulated = await ProbeProgram.seconds(format.architecture, scratch: scratch) else { continue }
            let cost = (max(1, emulated / native) * 10).rounded() / 10
            platforms.append(
                EmulatedPlatform(architecture: format.architecture, emulator: await version(of: format.interpreter), cost: cost))
        }
        return platforms
    }

    package static let kernelsList = "/proc/sys/fs/binfmt_misc"

    /// What the kernel lists; cheap to ask, so that it is tried again only when this has changed.
    static func listed(_ formats: String = kernelsList) -> [ForeignFormat] {
        ((try? Disk.list(formats)) ?? []).sorted().filter { $0 != "status" && $0 != "register" }
            .compactMap { Disk.kernelText("\(formats)/\($0)").flatMap(ForeignFormat.init) }
    }

    /// `qemu-aarch64 7.2.22` from what QEMU says of itself; of another emulator its file's name.
    private static func version(of interpreter: String) async -> String {
        let path = Disk.realPath(interpreter) ?? interpreter
        let name = String(path.split(separator: "/").last ?? "")
        guard let result = try? await ProcessRunner.run(Command(path, ["--version"], deadlineSeconds: 10)), result.succeeded else {
            return name
        }
        let words = result.text.split(whereSeparator: \.isWhitespace)
        guard words.count > 2, words[1] == "version" else { return name }
        return "\(words[0]) \(words[2])"
    }
}
