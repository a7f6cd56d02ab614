import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

@testable import Microarchitecture

@Suite struct MicroarchitectureTests {
    private static let directory = "\(Repository.root)/Tests/MicroarchitectureTests/cpuinfo"

    private func target(_ name: String) throws -> Microarchitecture { try #require(Microarchitecture.named(name)) }

    private func facts(_ name: String) throws -> ProcessorFacts {
        let text = String(decoding: try Disk.read("\(Self.directory)/\(name)", limit: 1 << 20), as: UTF8.self)
        return ProcessorFacts(cpuInfo: text, machine: String(name.prefix { $0 != "-" }))
    }

    /// Each file's name ends with what it is.
    @Test func everyTextGivesTheExpectedTarget() throws {
        let names = try Disk.list(Self.directory)
        #expect(names.count >= 6)
        for name in names {
            #expect(try facts(name).target?.name == name.split(separator: "-").last.map(String.init), "\(name)")
        }
        #expect(ProcessorFacts(cpuInfo: "", machine: "z80").target == nil)
    }

    @Test func whyNotIsSaidInWords() throws {
        let facts = try facts("x86_64-epyc-guest-x86_64_v3")
        let zen3 = try #require(Microarchitecture.named("zen3"))
        // Only the first processor counts.
        #expect(facts.obstacle(zen3)?.text == "needs clwb, clzero, fsgsbase, pku, vaes, vpclmulqdq")
        #expect(facts.obstacle(try target("haswell"))?.text == "is made by GenuineIntel")
        #expect(facts.obstacle(try target("a64fx"))?.text == "is of the family aarch64")
        #expect(facts.nextHigher.map(\.target.name).contains("x86_64_v4"))
    }

    @Test func theTableIsWhole() {
        #expect(Microarchitecture.names.count >= 78)
        for name in Microarchitecture.names {
            guard let target = Microarchitecture.named(name) else { Issue.record("\(name) is not there"); continue }
            #expect(
                target.parents.allSatisfy { Microarchitecture.named($0) != nil } && Microarchitecture.named(target.family)?.parents == [])
            #expect(target.ancestors.allSatisfy { $0.family == target.family })
        }
    }

    /// The order against its definition: one runs the other's code when the other is among its ancestors.
    @Test func dominanceIsAPartialOrder() throws {
        let all = Microarchitecture.names.compactMap(Microarchitecture.named)
        for left in all {
            let below = Set(left.ancestors.map(\.name) + [left.name])
            for right in all {
                #expect(left.dominates(right) == below.contains(right.name))
                #expect(!(left < right && right < left) && (left == right) == (left <= right && right <= left))
                for shared in left.common(with: right) { #expect(left >= shared && right >= shared) }
            }
        }
        #expect(try target("zen3").common(with: target("icelake")).map(\.name) == ["x86_64_v3"])
        #expect(try target("zen3").common(with: target("neoverse_n1")).isEmpty)
        #expect(try target("icelake").generic.name == "x86_64_v4" && target("x86_64_v2").generic.name == "x86_64_v2")
        #expect(try target("icelake").has("avx512") && !target("zen3").has("avx512") && target("aarch64").has("neon"))
    }

    @Test func flagsDependOnCompilerAndVersion() throws {
        #expect(try target("zen3").flags(compiler: "gcc", version: "12.2") == .flags("-march=znver3 -mtune=znver3", warning: nil))
        #expect(
            try target("sandybridge").flags(compiler: "gcc", version: "4.8.5")
                == .flags("-march=corei7-avx -mtune=corei7-avx", warning: nil))
        #expect(try target("zen3").flags(compiler: "unheard-of", version: "1") == .flags("", warning: nil))
        for (compiler, version) in [("gcc", "4.1"), ("gcc", "twelve"), ("nvhpc", "1.0")] {
            guard case .unsupported(let why) = try target("zen3").flags(compiler: compiler, version: version) else {
                Issue.record("\(compiler) \(version) was not refused")
                continue
            }
            #expect(!why.isEmpty)
        }
        guard case .flags(_, let warning?) = try target("zen3").flags(compiler: "oneapi", version: "2024.1") else {
            Issue.record("archspec's warning is lost")
            return
        }
        #expect(warning.contains("Intel"))
        #expect(try target("x86_64").buildVariables.isEmpty && target("x86_64_v3").march == "x86-64-v3")
        let variables = Dictionary(uniqueKeysWithValues: try target("zen3").buildVariables.map { ($0.name, $0.value) })
        #expect(variables["CFLAGS"] == "-O2 -march=znver3 -mtune=znver3" && variables["RUSTFLAGS"] == "-C target-cpu=znver3")
    }

    @Test func otherSystemsNamesLeadBackAndForth() throws {
        for (name, level) in [("x86_64", 1), ("nehalem", 2), ("zen3", 3), ("icelake", 4), ("x86_64_v4", 4)] {
            #expect(try target(name).level == level)
            #expect(try target(name) >= #require(Microarchitecture.level(level)))
        }
        for (platform, name) in [
            ("linux/amd64", "x86_64"), ("amd64/v3", "x86_64_v3"), ("arm64/v8", "aarch64"), ("linux/arm64/v9", "armv9.0a"),
            ("linux/ppc64le", "ppc64le"),
        ] { #expect(Microarchitecture.ociPlatform(platform)?.name == name) }
        for platform in ["linux/amd64/v9", "windows/amd64/x", "linux/mips"] { #expect(Microarchitecture.ociPlatform(platform) == nil) }
        #expect(try target("zen3").ociPlatform == "linux/amd64/v3" && target("neoverse_v2").ociPlatform == "linux/arm64/v9")
        #expect(try target("zen3").eessiPath == "x86_64/amd/zen3" && target("x86_64_v4").eessiPath == "x86_64/generic")
        #expect(try target("neoverse_v2").eessiPath == "aarch64/nvidia/grace")
        for path in ["x86_64/amd/zen3", "x86_64/generic", "aarch64/nvidia/grace"] {
            #expect(Microarchitecture.eessiPath(path)?.eessiPath == path)
        }
        #expect(Microarchitecture.eessiPath("aarch64/amd/zen3") == nil)
    }

    /// archspec itself, from PyPI, on this machine; and the table against the data that it brings.
    @Test(.timeLimit(.minutes(1))) func archspecSaysTheSame() async throws {
        let python = ProcessInfo.processInfo.environment["SCIFERRY_TEST_PYTHON"] ?? "\(Repository.root)/.build/test-python/bin/python"
        let check = try await ProcessRunner.run(Command(python, ["\(Repository.root)/scripts/update-microarchitectures", "--check"]))
        #expect(check.succeeded, "\(check.text)")
        let said = try await ProcessRunner.require(Command(python, ["-m", "archspec", "cpu"]))
        let machine = try await ProcessRunner.require(Command("uname", ["-m"])).trimmingCharacters(in: .whitespacesAndNewlines)
        let text = try String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)
        #expect(ProcessorFacts(cpuInfo: text, machine: machine).target?.name == said.trimmingCharacters(in: .whitespacesAndNewlines))
    }
}
