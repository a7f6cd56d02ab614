import FarmModel
import Microarchitecture
import ObjectStorage
import SiteDelivery
import SitePolicy
import Testing

@Suite struct SiteDeclarationTests {
    private func read(_ text: String) throws -> SiteDeclaration {
        try SiteDeclarationFile.read(Array(text.utf8), path: "site.yaml") { name in
            guard name == "hooks/site.lua" else { throw FarmError("file.absent", .notFound, "\(name) is not there") }
            return "setenv(\"A\", \"b\")"
        }
    }

    @Test func everyKeyIsRead() throws {
        let declaration = try read(
            """
            tools:
              - fsl
              - afni/24.*
              - {name: "ants*", versions: 2}
              - {category: functional imaging, versions: all}
              - {name: mrtrix3, versions: [3.0.10, "2.*"]}
            except: ["fsl/5.*"]
            targets: [zen4, x86_64_v2]
            modules:
              naming: category
              defaults: {fsl: 6.0.10}
              hidden: [old/*]
              hook: hooks/site.lua
            workflows:
              - {name: fmri, version: 2026.10, description: Both of them., modules: [fsl, afni/24.*]}
            run: {runtime: bwrap, bind: [/scratch], gpu: false, environment: [MY_VARIABLE]}
            licences: {FS_LICENSE: licences/fs.txt, MLM_LICENSE_FILE: 27000@host, OTHER: /opt/licence}
            prefix: /cvmfs/software
            keep: {generations: 5, days: 30}
            outputs: {menu: desktop, shpc: /srv/shpc, neurodesk: others/neurodesk, mirror: "file:/srv/mirror"}
            """)
        #expect(
            declaration.rules == [
                .init(name: "fsl", versions: .newest(1), line: 2), .init(name: "afni", versions: .matching(["24.*"]), line: 3),
                .init(name: "ants*", versions: .newest(2), line: 4),
                .init(name: "*", category: "functional imaging", versions: .all, line: 5),
                .init(name: "mrtrix3", versions: .matching(["3.0.10", "2.*"]), line: 6),
            ])
        let appearance = declaration.appearance
        #expect(declaration.except == ["fsl/5.*"] && declaration.targets == ["zen4", "x86_64_v2"])
        #expect(appearance.naming == .category && appearance.defaults == ["fsl": "6.0.10"] && appearance.hidden == ["old/*"])
        #expect(appearance.luaHook == "setenv(\"A\", \"b\")")
        #expect(appearance.workflows.map(\.version) == ["2026.10"] && appearance.workflows[0].modules == ["fsl", "afni/24.*"])
        #expect(
            appearance.runtime == "bwrap" && appearance.bind == ["/scratch"] && !appearance.usesGPUs
                && appearance.environment == ["MY_VARIABLE"])
        #expect(
            appearance.variables == ["FS_LICENSE": "@SITE@/licences/fs.txt", "MLM_LICENSE_FILE": "27000@host", "OTHER": "/opt/licence"])
        #expect(appearance.prefix == "/cvmfs/software" && appearance.keeps.generations == 5 && appearance.keeps.days == 30)
        let outputs = appearance.outputs
        #expect(outputs.menu == "desktop" && outputs.shpc == "/srv/shpc" && outputs.neurodesk == "others/neurodesk")
        #expect(outputs.mirror == BucketLocation("file:/srv/mirror"))
    }

    @Test(arguments: [
        ("tool: [fsl]", "site.unknown-key", ":1: \"tool\" is not a key of site.yaml"), ("tools: fsl", "site.type", ":1: "),
        ("tools:\n  - {versions: 2}", "site.missing-key", ":2: "),
        ("tools:\n  - {name: a, versions: 0}", "site.value", ":2: versions must be"),
        ("tools: [a]\ntargets: [zen99]", "site.value", ":2: zen99 is no CPU target"),
        ("modules: {naming: odd}", "site.value", "naming is none of"),
        ("modules: {hook: absent.lua}", "site.hook", "absent.lua"), ("modules: {hook: a.py}", "site.value", "neither"),
        ("run: {runtime: runc}", "site.value", "runtime is none of"), ("run: {bind: [scratch]}", "site.value", "no absolute path"),
        ("run: {environment: [\"A B\"]}", "site.value", "no variable's name"),
        ("licences: {\"A-B\": x}", "site.value", "no variable's name"),
        ("keep: {days: -1}", "site.value", "days must be"), ("prefix: software", "site.value", "absolute"), ("tools: [", "site.yaml", ":1"),
        ("outputs:\n  shpc: images/x", "site.value", ":2: images/x is no directory"),
        ("outputs: {menu: ../x}", "site.value", "no directory"), ("outputs: {mirror: nowhere}", "site.value", "mirror: "),
        ("outputs: {cvmfs: x}", "site.unknown-key", "\"cvmfs\" is not a key of outputs"),
        ("workflows:\n  - {name: a/b}", "site.value", ":2: a/b"),
    ]) func whatIsWrongIsTold(_ text: String, _ code: String, _ part: String) throws {
        let error = #expect(throws: FarmError.self) { try read(text) }
        #expect(
            error?.code.rawValue == code && error?.message.contains(part) == true,
            "\(error.map { "\($0.code.rawValue) \($0.message)" } ?? "")")
    }

    private func entry(_ name: String, _ version: String, _ target: String) -> ChannelEntry {
        ChannelEntry(name: name, version: version, target: target, release: Digest(hashing: "\(name) \(version) \(target)"))
    }

    @Test func versionsAndTargetsAreChosen() throws {
        let channel = [
            entry("fsl", "6.0.9", "x86_64_v3"), entry("fsl", "6.0.10", "x86_64_v2"), entry("fsl", "6.0.10", "x86_64_v3"),
            entry("fsl", "6.0.10", "zen4"),
            entry("fsl", "6.0.10", "neoverse_n1"), entry("afni", "24.1", "x86_64"), entry("afni", "25.0", "x86_64"),
            entry("spm", "12", "x86_64"),
        ]
        func chosen(_ declaration: SiteDeclaration, _ hosts: [String]) -> [String] {
            declaration.choose(channel, hosts: hosts.compactMap(Microarchitecture.named)) { $0 == "spm" ? ["Functional Imaging"] : [] }
                .map { "\($0.name) \($0.version) \($0.target)" }
        }
        #expect(chosen(try read("tools: [fsl]"), ["skylake"]) == ["fsl 6.0.10 x86_64_v3"])
        #expect(chosen(try read("tools: [fsl]"), ["zen4", "x86_64_v2"]) == ["fsl 6.0.10 x86_64_v2", "fsl 6.0.10 zen4"])
        #expect(chosen(try read("tools: [fsl/6.0.9]"), ["x86_64_v2"]) == [], "no machine runs it")
        #expect(chosen(try read("tools: [\"a*/24.*\"]"), ["x86_64_v2"]) == ["afni 24.1 x86_64"])
        #expect(chosen(try read("tools: [{category: functional-imaging}]"), ["x86_64_v2"]) == ["spm 12 x86_64"])
        #expect(chosen(try read("tools: [\"*\"]\nexcept: [afni/25.*, fsl]"), ["x86_64_v2"]) == ["afni 24.1 x86_64", "spm 12 x86_64"])
        // Old machines keep what runs on them until there is something newer that does.
        #expect(
            chosen(try read("tools: [afni, {name: fsl, versions: 6.0.9}]"), ["x86_64_v3", "x86_64_v2"]) == [
                "afni 25.0 x86_64", "fsl 6.0.9 x86_64_v3",
            ])
        let early = channel + [entry("fsl", "6.0.11", "zen4")]
        let hosts = ["zen4", "x86_64_v2"].compactMap(Microarchitecture.named)
        #expect(
            try read("tools: [fsl]").choose(early, hosts: hosts) { _ in [] }.map { "\($0.version) \($0.target)" } == [
                "6.0.10 x86_64_v2", "6.0.11 zen4",
            ])
        #expect(chosen(try read("tools: [{name: fsl, versions: all}]"), ["x86_64_v3"]) == ["fsl 6.0.10 x86_64_v3", "fsl 6.0.9 x86_64_v3"])
    }

    @Test func whatIsYankedStaysAndComesWhereItIsNamed() throws {
        var channel = [entry("fsl", "6.0.9", "x86_64"), entry("fsl", "6.0.10", "x86_64")]
        channel[1].yanked = "wrong"
        let hosts = ["x86_64"].compactMap(Microarchitecture.named)
        func chosen(_ text: String, _ carried: Set<String> = []) throws -> [String] {
            try read(text).choose(channel, hosts: hosts, carried: carried) { _ in [] }.map(\.version)
        }
        #expect(try chosen("tools: [fsl]") == ["6.0.9"])
        #expect(try chosen("tools: [\"fsl/6.0.1*\"]") == [])
        #expect(try chosen("tools: [fsl/6.0.10]") == ["6.0.10"])
        #expect(try chosen("tools: [fsl]", ["fsl/6.0.10"]) == ["6.0.10", "6.0.9"])
        #expect(try chosen("tools: [fsl]\nexcept: [fsl/6.0.10]", ["fsl/6.0.10"]) == ["6.0.9"])
        #expect(try chosen("tools: [afni]", ["fsl/6.0.10"]) == [])
    }
}
