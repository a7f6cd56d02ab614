import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Small suites through the documented rules of the collection's runner, written down in `suite-reference.py`, and through ours.
@Suite(.serialized) struct SuiteSemanticsTests {
    private struct Report: Decodable {
        struct Record: Decodable { var outcome: TestOutcome }
        var tests: [Record]
    }

    private static let suites: [String] = {
        let directory = "\(Repository.root)/Tests/EndToEndTests/suites"
        return ((try? Disk.list(directory)) ?? []).sorted().map { "\(directory)/\($0)" }
    }()

    /// An image with this machine's bash, busybox, and nothing else.
    private func image(_ scratch: Scratch) async throws -> String {
        let script = """
            mkdir -p "$1"/{bin,tmp,proc,dev,sys,etc,opt,var/tmp,.singularity.d/env,lib,lib64,usr/bin}
            cd "$1"
            cp /bin/busybox bin/busybox
            for name in $(busybox --list | grep -v '^busybox$'); do ln -s busybox "bin/$name"; done
            rm -f bin/bash bin/sh; cp -L /bin/bash bin/bash; ln -s bash bin/sh; ln -s ../../bin/env usr/bin/env
            for library in $(ldd /bin/bash | grep -o '/[^ ]*'); do mkdir -p ".$(dirname "$library")"; cp -L "$library" ".$library"; done
            echo 'export PATH=/bin:/usr/bin' >.singularity.d/env/10-path.sh; chmod 755 .singularity.d/env/10-path.sh
            : >etc/resolv.conf; : >etc/passwd
            mksquashfs . "$2" -all-root -noappend -quiet -no-progress >/dev/null
            """
        let path = "\(scratch.path)/image.sif"
        try await ProcessRunner.require(Command("bash", ["-ec", script, "bash", "\(scratch.path)/root", path], deadlineSeconds: 60))
        return path
    }

    /// A line of the suite's head that says something.
    private func said(_ word: String, in text: String) -> [String]? {
        text.split(separator: "\n").first { $0.hasPrefix("# \(word): ") }
            .map { $0.dropFirst(word.count + 4).split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) } }
    }

    @Test(.timeLimit(.minutes(10))) func everyKeyMeansWhatItMeansThere() async throws {
        let scratch = try Scratch()
        let image = try await image(scratch)
        #expect(Self.suites.count >= 40)
        var (compared, differing) = (0, 0)
        for path in Self.suites {
            let text = String(decoding: try Disk.read(path), as: UTF8.self)
            let name = Disk.name(of: path)
            let expected = said("expect", in: text)
            let run = try await ProcessRunner.run(
                Command(
                    "\(TestFarm.bin)/sciferry",
                    ["test", image, "--suite", path, "--suite-only", "--json"] + (expected == nil ? ["--compat"] : []), deadlineSeconds: 120
                ))
            #expect([0, 1].contains(run.status), "\(name): \(run.text)")
            guard let start = run.text.firstIndex(of: "{") else {
                Issue.record("\(name): \(run.text)")
                continue
            }
            let report = try JSONDecoder().decode(Report.self, from: Data(run.text[start...].utf8))
            let ours = Dictionary(report.tests.map { ($0.outcome.name, $0.outcome) }) { first, _ in first }
            if let expected {
                // What the format does not have is held against the suite's own word.
                #expect(Set(ours.filter(\.value.passed).keys) == Set(expected), "\(name): \(report.tests.map(\.outcome))")
                continue
            }
            let reference = try await ProcessRunner.require(
                Command(
                    ProcessInfo.processInfo.environment["SCIFERRY_TEST_PYTHON"] ?? "python3",
                    ["\(Repository.root)/Tests/EndToEndTests/suite-reference.py", path, "\(scratch.path)/reference"], deadlineSeconds: 120))
            let theirs = try JSONDecoder().decode([String: Bool].self, from: Data(reference.utf8))
            let declared = Set(said("differs", in: text) ?? [])
            if theirs["SETUP"] == false {
                #expect(
                    ours.count == 1 && ours.first?.key.hasPrefix("setup") == true && ours.first?.value.passed == false, "\(name): \(ours)")
                continue
            }
            for (test, passed) in theirs {
                compared += 1
                let isSame = ours[test]?.passed == passed
                if declared.contains(test) { differing += 1 }
                #expect(isSame != declared.contains(test), "\(name), \(test): there \(passed), here \(String(describing: ours[test]))")
            }
        }
        print("suites: \(Self.suites.count), tests compared: \(compared), declared to differ: \(differing)")
        #expect(compared > 100)
    }
}
