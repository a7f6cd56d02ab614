import FarmModel
import Testing

@testable import ImageAssembly

@Suite struct PackageSurveyTests {
    private func survey(_ files: [String: String]) throws -> PackageSurvey {
        var tree = EntryTree()
        for (path, text) in files { try tree.add(path, Array(text.utf8), mode: 0o644) }
        var survey = PackageSurvey()
        try survey.look(at: tree) { if case .bytes(let bytes) = $0 { bytes } else { [] } }
        return survey
    }

    @Test func everyManagersWordIsFound() throws {
        let commit = String(repeating: "c0", count: 20)
        let found = try survey([
            "var/lib/dpkg/status":
                "Package: jq\nStatus: install ok installed\nSource: jq-src (1.6)\nVersion: 1.6-2.1\nDescription: x\n Package: not\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
            "usr/lib/os-release": "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n",
            "var/lib/dpkg/status.d/base": "Package: tzdata\nVersion: 2024a\n",
            "lib/apk/db/installed": "C:Q1\nP:musl\nV:1.2.4-r2\n\n",
            "opt/venv/lib/python3.11/site-packages/nibabel-5.2.1.dist-info/METADATA":
                "Metadata-Version: 2.1\nName: nibabel\nVersion: 5.2.1\n\nbody\n",
            "opt/conda/conda-meta/bwa-0.7.json": "{\"name\": \"bwa\", \"version\": \"0.7.17\", \"build\": \"h0\"}",
            "usr/lib/R/site-library/oro.nifti/DESCRIPTION": "Package: oro.nifti\r\nVersion: 0.11.4\r\n",
            "opt/tool/.git/HEAD": "ref: refs/heads/main\n", "opt/tool/.git/packed-refs": "# pack-refs\n\(commit) refs/heads/main\n",
            "opt/tool/.git/config": "[remote \"origin\"]\n\turl = https://git.example/tool\n", "usr/lib/sysimage/rpm/rpmdb.sqlite": "x",
            "opt/bad/conda-meta/x.json": "{", "opt/bad/.git/HEAD": "ref: refs/heads/none\n",
        ])
        let names = InstalledPackages(found.packages).packages.map { "\($0.manager) \($0.name) \($0.version)" }
        #expect(
            names == [
                "apk musl 1.2.4-r2", "conda bwa 0.7.17=h0", "dpkg jq 1.6-2.1", "dpkg tzdata 2024a",
                "git https://git.example/tool \(commit)",
                "python nibabel 5.2.1", "r oro.nifti 0.11.4",
            ])
        #expect(found.hasRPM && found.distribution == .init(id: "debian", version: "12", codename: "bookworm"))
        let jq = found.packages.first { $0.name == "jq" }
        #expect(jq?.source == "jq-src" && jq?.sourceVersion == "1.6")
    }
}
