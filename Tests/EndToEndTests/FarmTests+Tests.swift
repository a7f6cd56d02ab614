import Attestation
import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Functional tests on the farm: what they read, who runs them, what is kept of how they went.
extension FarmTests {
    /// A dataset that is brought, a suite with numbers on it, evidence that others can check, and the same tests on a site without a farm.
    @Test(.timeLimit(.minutes(5))) func testsReadDataAndLeaveEvidence() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let data = "\(farm.scratch.path)/data"
        try Disk.makeDirectory("\(data)/sub-01")
        try Disk.replace("\(data)/sub-01/values.csv", with: Array("a,b\n1,2\n3,4.5\n".utf8))
        let added = try await farm.sciferry(["dataset", "add", "ds-small", data, "--licence", "CC0-1.0", "--source", "made here"])
        #expect(added.succeeded && added.text.contains("1 files, 16 B") || added.text.contains("1 files"), "\(added.text)")
        #expect(try await farm.sciferry(["dataset", "list"]).text.contains("ds-small  1 files, 14 B, CC0-1.0, made here"))
        let refused = try await farm.sciferry(["dataset", "add", "../x", data, "--licence", "CC0-1.0"])
        #expect(refused.status == 64 && refused.text.contains("no name for a dataset"), "\(refused.text)")

        // From where it is published; what the farm has of it stays.
        let port = try FreePort.find()
        let server = try Child(
            "/usr/bin/python3", ["-m", "http.server", "\(port)", "--bind", "127.0.0.1", "--directory", farm.scratch.path],
            log: "\(farm.scratch.path)/www.log")
        defer { server.kill() }
        try await farm.eventually("the server answers") { FreePort.answers("127.0.0.1", port) }
        try Disk.replace("\(data)/more.txt", with: Array("more\n".utf8))
        let from = ["--from", "http://127.0.0.1:\(port)/data", "--licence", "CC0-1.0", "--source", "made here"]
        let fetched = try await farm.sciferry(["dataset", "add", "ds-small", "--file", "more.txt"] + from)
        #expect(fetched.succeeded && fetched.text.contains("2 files, 19 B"), "\(fetched.text)")
        let absent = try await farm.sciferry(["dataset", "add", "ds-small", "--file", "absent.txt"] + from)
        #expect(absent.status == 69 && absent.text.contains("/data/absent.txt answers with status 404"), "\(absent.text)")

        let recipe = try await farm.recipe(tests: "")
        let suite = """
            x-sciferry: {network: false}
            test_data: {values: ds-small/sub-01/values.csv, volume: phantoms/volume.nii, output_dir: out}
            required_files:
              - {dataset: ds-small, files: [sub-01/values.csv]}
              - {dataset: phantoms, files: [volume.nii]}
            tests:
              - {name: has numbers, command: "cp ${values} ${output_dir}/v.csv", validate: [{number: {file: out/v.csv, column: b, row: 2, is: 4.5}}]}
              - {name: has a volume, command: "cp ${volume} ${output_dir}/v.nii", validate: [{nifti: {file: out/v.nii, dimensions: [24, 32, 12], mean: 577}}]}
              - {name: has no network, command: "test $(grep -c : /proc/net/dev) = 1"}
              - {name: is nobody, command: "test $(id -u) != 0"}
            """
        try Disk.replace("\(recipe)/fulltest.yaml", with: Array(suite.utf8))
        let built = try await farm.sciferry(["build", recipe])
        #expect(built.succeeded, "\(built.text)\n\(farm.log("w1").suffix(3000))")
        let release = try #require(try await farm.releases().first?.release)
        #expect(release.tests.allSatisfy(\.passed) && release.tests.count { $0.name.hasPrefix("has ") } == 3, "\(release.tests)")

        // The evidence, as somebody with the farm's key alone would read it, in both regions.
        let digest = try #require(release.records?["tests"])
        let key = try SigningKey(file: "\(farm.home)/identity/release.key").verifier
        try await farm.eventually("both regions have it") {
            ["region-a", "region-b"].allSatisfy { Disk.exists("\(farm.home)/regions/\($0)/\(ImageRecord.attestationKey(digest))") }
        }
        for region in ["region-a", "region-b"] {
            let path = "\(farm.home)/regions/\(region)/\(ImageRecord.attestationKey(digest))"
            let envelope: Envelope = try CanonicalJSON.decode(from: try Disk.read(path), source: path)
            let statement: Statement<TestEvidence> = try envelope.verified(payloadType: PayloadType.statement, by: [key], source: path)
            #expect(statement.predicateType == "https://in-toto.io/attestation/test-result/v0.1")
            #expect(statement.subject.first?.digest["sha256"] == release.image.digest.hex)
            #expect(statement.predicate.result == .passed && statement.predicate.passedTests.contains("has a volume"))
            #expect(statement.predicate.details.worker == "w1" && statement.predicate.details.runtime.contains("."), "with its version")
        }
        let shown = try await farm.sciferry(["show", "tiny"])
        #expect(shown.succeeded && shown.text.contains("evidence   PASSED for x86_64 on w1"), "\(shown.text)")
        // What the farm keeps is collected only when nobody needs it.
        #expect(try await farm.sciferry(["collect"]).succeeded)
        #expect(Disk.exists("\(farm.home)/regions/region-a/\(ImageRecord.key(digest))"))

        // A site, and no farm any more.
        let site = "\(farm.scratch.path)/site"
        #expect(try await farm.sciferry(["pull", "tiny", "--site", site]).succeeded)
        farm.kill("coordinator")
        let reports = ["--junit", "\(farm.scratch.path)/j.xml", "--tap", "\(farm.scratch.path)/t.tap"]
        let without = try await farm.sciferry(["test", "tiny", "--site", site] + reports)
        #expect(without.status == 1 && without.text.contains("ds-small/sub-01/values.csv is not here"), "\(without.text)")
        try Disk.makeDirectory("\(farm.scratch.path)/sets")
        try Disk.rename(data, to: "\(farm.scratch.path)/sets/ds-small")
        let tested = try await farm.sciferry(["test", "tiny", "--site", site, "--data", "\(farm.scratch.path)/sets"] + reports)
        #expect(tested.succeeded && tested.text.contains("ok      has a volume"), "\(tested.text)")
        let parsed = try await ProcessRunner.require(
            Command(
                "python3",
                [
                    "-c",
                    "import sys, xml.etree.ElementTree as t; s = t.parse(sys.argv[1]).getroot()[0]; print(s.get('tests'), s.get('failures'))",
                    "\(farm.scratch.path)/j.xml",
                ]))
        #expect(parsed == "\(release.tests.count) 0\n", "\(parsed)")
        let one = try await farm.sciferry(["test", "tiny", "--site", site, "--data", "\(farm.scratch.path)/sets", "--only", "has numbers"])
        #expect(one.succeeded && one.text.contains("1 of 1 passed"), "\(one.text)")
        let slip = try await farm.sciferry(["test", "tiny", "--site", site, "--only", "has number"])
        #expect(slip.status == 66 && slip.text.contains("did you mean \"has numbers\"?"), "\(slip.text)")
    }

    /// A test that fails tells all that is needed; one that goes both ways is named.
    @Test(.timeLimit(.minutes(5))) func failuresExplainThemselvesAndHistoriesNameFlakyTests() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let port = try FreePort.find()
        let tests = """
              - {name: sound, command: "true"}
              - {name: counts, command: "echo asking; wget -q -O - http://127.0.0.1:\(port)/answer || exit 3", expected_output_contains: it is 42}
              - {name: stands on it, command: "true", depends_on: counts}

            """
        let recipe = try await farm.recipe(tests: tests)
        let failed = try await farm.sciferry(["build", recipe])
        #expect(failed.status == 1 && failed.text.contains("test.failed"), "\(failed.text)")
        let log = try await farm.sciferry(["logs", "j1"]).text
        for line in [
            "test FAILED: counts", "$ echo asking", "| asking", "→ ended with status 3, expected 0",
            "→ the output does not contain \"it is 42\"",
            "again: sciferry test ", "--only 'counts'", "test not run: stands on it", "through bwrap", " as ",
        ] { #expect(log.contains(line), "\(line)\n\(log)") }
        // The one command that repeats it.
        let again = try #require(log.split(separator: "\n").first { $0.contains("again: sciferry test ") && $0.contains("'counts'") })
        let command = again[(again.range(of: "sciferry test ")?.upperBound ?? again.endIndex)...]
        let repeated = try await ProcessRunner.run(
            Command("bash", ["-c", "\(TestFarm.bin)/sciferry test \(command)"], deadlineSeconds: 60))
        #expect(repeated.status == 1 && repeated.text.contains("FAILED  counts"), "\(repeated.text)")
        // The same build again passes, because what it asks outside of the image answers now.
        try Disk.makeDirectory("\(farm.scratch.path)/www")
        try Disk.replace("\(farm.scratch.path)/www/answer", with: Array("it is 42\n".utf8))
        let server = try Child(
            "/usr/bin/python3", ["-m", "http.server", "\(port)", "--bind", "127.0.0.1", "--directory", "\(farm.scratch.path)/www"],
            log: "\(farm.scratch.path)/www.log")
        defer { server.kill() }
        try await farm.eventually("the server answers") { FreePort.answers("127.0.0.1", port) }
        let built = try await farm.sciferry(["build", recipe])
        #expect(built.succeeded, "\(built.text)")
        let history = try await farm.sciferry(["test", "tiny", "--history"])
        let line = history.text.split(separator: "\n").first { $0.contains("goes both ways") } ?? ""
        #expect(history.succeeded && line.hasPrefix("counts") && line.contains("1 of 2") && line.hasSuffix("F."), "\(history.text)")
        #expect(try await farm.sciferry(["show", "tiny"]).text.contains("flaky      counts (1 of 2)"))
    }

    /// A long suite is spread over workers, and the release waits for all of it.
    @Test(.timeLimit(.minutes(5))) func aLongSuiteIsSpreadOverWorkers() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1", "w2"], settings: ["w1": "\"testMinutes\": 0.02", "w2": "\"testMinutes\": 0.02"])
        let recipe = try await farm.recipe(tests: "")
        var suite =
            "x-sciferry: {network: false}\nsetup: {script: \"echo ready >state\"}\ntests:\n  - {name: first, command: echo one >>state}\n"
        for number in 1...8 { suite += "  - {name: t\(number), command: \"grep -q one state && sleep 0.8\", depends_on: first}\n" }
        try Disk.replace("\(recipe)/fulltest.yaml", with: Array(suite.utf8))
        let built = try await farm.sciferry(["build", recipe])
        #expect(built.succeeded, "\(built.text)\n\(farm.log("w1").suffix(2000))")
        let release = try #require(try await farm.releases().first?.release)
        let own = release.tests.filter { $0.name.hasPrefix("t") && $0.name.count == 2 }
        #expect(own.count == 8 && release.tests.allSatisfy { $0.passed && $0.wasLeft == nil }, "\(release.tests)")
        #expect(own.contains { $0.worker != nil }, "some of them ran elsewhere: \(own)")
        let parts = try await farm.jobs().filter { $0.job.title.contains("part ") }
        #expect(parts.count == 2 && parts.allSatisfy { $0.job.state == .succeeded }, "\(parts.map(\.job.title))")
    }
}
