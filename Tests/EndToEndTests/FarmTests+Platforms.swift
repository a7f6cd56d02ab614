import CoordinatorCore
import FarmModel
import ProcessRunner
import Support
import SystemIO
import Testing

/// Other CPUs than the builder's.
extension FarmTests {
    /// Whether this kernel runs programs of ARM machines, also in containers.
    private static let runsARM: Bool = Disk.kernelText("/proc/sys/fs/binfmt_misc/qemu-aarch64")?.contains("flags: PF") ?? false

    @Test(
        .enabled(if: runsARM, "the kernel has no emulator for aarch64: scripts/install-dependencies --tests"), .timeLimit(.minutes(3)))
    func aForeignPlatformIsEmulatedOnlyWhereThatIsAllowed() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        #expect(try await farm.sciferry(["workers"]).text.contains("w1 emulates aarch64 with qemu-aarch64 "))
        let directory = try await farm.recipe(
            run: ["busybox uname -m > /opt/machine"],
            tests:
                "  - {name: is an ARM program, command: 'cat /opt/machine; busybox uname -m', expected_output_contains: \"aarch64\\naarch64\"}\n",
            architecture: "aarch64")
        let strict = try await farm.sciferry(["build", directory, "--no-wait"])
        #expect(strict.succeeded, "\(strict.text)")
        // Its base image may be asked for by anybody; its steps may not run here.
        try await farm.eventually("the base is known") {
            try await farm.jobs().contains { $0.job.kind == .build && $0.job.state == .queued }
        }
        let told = try await farm.sciferry(["job", "j1"]).text
        #expect(told.contains("not on w1: its CPU (") && told.contains("only emulate it") && told.contains("(--emulated)"), "\(told)")
        try await farm.sciferry(["cancel", "j1"])

        let build = try await farm.sciferry(["build", directory, "--emulated"])
        #expect(build.succeeded && build.text.contains("built and tested by an emulator, qemu-aarch64 "), "\(build.text)")
        let release = try #require(try await farm.releases().first?.release)
        #expect(release.image.architecture == "aarch64" && release.image.target == "aarch64")
        #expect(release.emulator?.hasPrefix("qemu-aarch64 ") ?? false)
        #expect(try await farm.sciferry(["show", "tiny"]).text.contains("emulated by qemu-aarch64 "))
        let pull = try await farm.sciferry(["pull", "tiny", "--for", "aarch64", "--site", "\(farm.scratch.path)/site"])
        #expect(pull.succeeded && pull.text.contains("never on a CPU of aarch64"), "\(pull.text)")
        // Who does not allow it does not get it either, now that it is there.
        let again = try await farm.sciferry(["build", directory, "--no-wait", "--json"])
        #expect(again.text.contains("\"state\" : \"queued\""), "\(again.text)")
    }

    @Test(.timeLimit(.minutes(3))) func aReleaseWaitsForItsTestsOnOtherCPUs() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1", "w2"], pretended: ["w1": "x86_64_v2", "w2": "zen3"])
        let settings = "  verify_on: [x86_64_v2, zen2]\n"
        let good = try await farm.recipe(tests: "  - {name: runs, command: tiny-tool}\n", settings: settings)
        let build = try await farm.sciferry(["build", good])
        #expect(build.succeeded, "\(build.text)")
        #expect(build.text.contains("x86_64_v2: 5 of 5 passed on w1 (x86_64_v2)"), "\(build.text)")
        #expect(build.text.contains("zen2: 5 of 5 passed on w2 (zen3)"), "\(build.text)")
        let release = try #require(try await farm.releases().first?.release)
        #expect(release.verified?.map(\.asked) == ["x86_64_v2", "zen2"])
        #expect(release.verified?.map(\.hostTarget) == ["x86_64_v2", "zen3"])
        #expect(try await farm.sciferry(["show", "tiny"]).text.contains("zen2: 5 of 5 passed on w2 (zen3)"))

        // Passes where it was built, and nowhere else.
        let number = (try await farm.jobs().map(\.job.number).max() ?? 0) + 1
        let bad = try await farm.recipe(
            version: "2.0", tests: "  - {name: at home, command: 'case $PWD in *-j\(number).*) exit 0;; esac; exit 3'}\n",
            settings: settings)
        let failed = try await farm.sciferry(["build", bad])
        #expect(failed.status == 1, "\(failed.text)")
        #expect(failed.text.contains("tested by j\(number + 1)") && failed.text.contains("at home: "), "\(failed.text)")
        let log = try await farm.sciferry(["logs", "j\(number + 1)"]).text
        #expect(log.contains("test FAILED: at home"), "\(log)")
        #expect(try await farm.releases().map(\.release.version) == ["1.0"])
        try await farm.eventually("nothing of it is left among the uploads") {
            let incoming = "\(farm.home)/regions/region-a/incoming"
            return try !Disk.exists(incoming) || Disk.list(incoming).allSatisfy { try Disk.list("\(incoming)/\($0)").isEmpty }
        }
    }
}
