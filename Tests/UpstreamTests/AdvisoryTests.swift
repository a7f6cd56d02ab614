import FarmModel
import Foundation
import Testing
import Upstream

@Suite struct PackageVersionTests {
    /// Each is older than the one after it (deb-version(7), and cases of dpkg's own test suite).
    @Test(arguments: [
        [
            "1.0~beta1~svn1245", "1.0~beta1", "1.0", "1.0-0.1", "1.0-1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2", "1.0-10", "1.0a", "1.0+x",
            "1:0.1",
        ],
        ["2.36-9", "2.36-9+deb12u4", "2.36-9+deb12u10"], ["7.88.1-10+deb12u5", "7.88.1-10+deb12u6~bpo11+1", "7.88.1-10+deb12u6"],
        ["0:1.2-a", "1.2-b"], ["1-2-3", "1-2-10"], ["09", "10"], ["1.a", "1.+"],
    ]) func versionsHaveDpkgsOrder(_ texts: [String]) {
        let versions = texts.map { PackageVersion($0) }
        for (index, one) in versions.enumerated() {
            for (other, later) in versions.enumerated() {
                #expect((one < later) == (index < other), "\(one.text) \(later.text)")
                #expect((one == later) == (index == other), "\(one.text) \(later.text)")
            }
        }
    }

    @Test func theSameIsWrittenInDifferentWays() {
        for (one, other) in [("0:1.0", "1.0"), ("1.0-0", "1.0"), ("1.00", "1.0"), ("1.0-01", "1.0-1")] {
            #expect(PackageVersion(one) == PackageVersion(other))
        }
    }
}

@Suite struct AdvisoryListTests {
    private static let tracker = """
        [12 Nov 2026] DSA-6101-1 glibc - security update
        \t{CVE-2026-1 CVE-2026-2}
        \t[bookworm] - glibc 2.36-9+deb12u9
        \t[trixie] - glibc 2.41-12+deb13u1
        [10 Nov 2026] DSA-6100-1 tool - security update
        \tNOTE: nothing to see
        \t[bookworm] - tool <not-affected> (Vulnerable code not present)

        """
    private static let osv = """
        [{"id": "USN-7-1", "affected": [
            {"package": {"ecosystem": "Ubuntu:24.04:LTS", "name": "curl"},
             "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "8.5.0-2ubuntu10.6"}]}]},
            {"package": {"ecosystem": "Ubuntu:Pro:24.04:LTS", "name": "zlib"},
             "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9"}]}]}]},
         {"id": "UBUNTU-CVE-1", "affected": [{"package": {"ecosystem": "Ubuntu:24.04:LTS", "name": "curl"},
             "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "8.6"}, {"fixed": "8.7"}]}]}]},
         {"id": "UBUNTU-CVE-2", "affected": [{"package": {"ecosystem": "Ubuntu:24.04:LTS", "name": "curl"},
             "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]},
         {"id": "USN-8-1", "withdrawn": "2026-01-01T00:00:00Z", "affected": [{"package": {"ecosystem": "Ubuntu:24.04:LTS", "name": "curl"},
             "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}]}]},
         {"id": "PYSEC-1", "affected": [{"package": {"ecosystem": "PyPI", "name": "curl"}}]}]
        """

    private func image(_ id: String, _ version: String, _ codename: String, _ packages: [InstalledPackages.Package]) -> InstalledPackages {
        InstalledPackages(packages, distribution: .init(id: id, version: version, codename: codename))
    }

    @Test func whatANewerPackageMendsIsFound() throws {
        var list = AdvisoryList()
        try list.add(Array(Self.tracker.utf8), source: "DSA/list")
        try list.add(Array(Self.osv.utf8), source: "osv.json")
        try list.add(Array(#"{"id": "X-1", "affected": []}"#.utf8), source: "one.json")
        #expect(list.count == 7)
        let old = InstalledPackages.Package(manager: "dpkg", name: "libc6", version: "2.36-9+deb12u4", source: "glibc")
        #expect(list.mended(in: image("debian", "12", "bookworm", [old])) == ["DSA-6101-1"])
        #expect(list.mended(in: image("debian", "11", "bullseye", [old])).isEmpty)
        let new = InstalledPackages.Package(manager: "dpkg", name: "libc6", version: "2.36-9+deb12u9", source: "glibc")
        #expect(list.mended(in: image("debian", "12", "bookworm", [new])).isEmpty)
        // A binary package may count its versions for itself; the source's count.
        let own = InstalledPackages.Package(manager: "dpkg", name: "libc6", version: "9", source: "glibc", sourceVersion: "2.36-9")
        #expect(list.mended(in: image("debian", "12", "bookworm", [own])) == ["DSA-6101-1"])
        let curl = InstalledPackages.Package(manager: "dpkg", name: "curl", version: "8.5.0-2ubuntu10.5")
        #expect(
            list.mended(in: image("ubuntu", "24.04", "noble", [curl, .init(manager: "dpkg", name: "zlib", version: "1")])) == ["USN-7-1"])
        let newer = InstalledPackages.Package(manager: "dpkg", name: "curl", version: "8.6.1")
        #expect(list.mended(in: image("ubuntu", "24.04", "noble", [newer])) == ["UBUNTU-CVE-1"])
        #expect(list.mended(in: image("ubuntu", "24.04", "noble", [.init(manager: "python", name: "curl", version: "0")])).isEmpty)
        #expect(list.mended(in: InstalledPackages([curl])).isEmpty, "of an image that does not say what it is nothing is known")
    }

    @Test(arguments: ["", "<html></html>", "[1]", "{\"a\": 1}", "[12 Nov 2026] nothing\n"]) func whatIsNoListIsRefused(_ text: String) {
        var list = AdvisoryList()
        let error = #expect(throws: FarmError.self) { try list.add(Array(text.utf8), source: "the list") }
        #expect(error?.code == "advisory.form" && error?.message.hasPrefix("the list is no list") == true)
    }

    @Test func whatAnImageSaysItIs() {
        let text = "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nID=ubuntu\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\n"
        #expect(InstalledPackages.Distribution(osRelease: text) == .init(id: "ubuntu", version: "24.04", codename: "noble"))
        #expect(InstalledPackages.Distribution(osRelease: "ID='arch'\n") == .init(id: "arch", version: "", codename: ""))
        #expect(InstalledPackages.Distribution(osRelease: "NAME=x") == nil)
    }
}
