import ChunkStore
import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// Roles, trust, and what happens when a part of the farm is killed, full, away or out of date.
extension FarmTests {
    @Test(.timeLimit(.minutes(2))) func tokensAllowWhatTheirRolesDo() async throws {
        let farm = try await TestFarm()
        try farm.start("coordinator")
        try await farm.eventually("the coordinator answers") { try await farm.sciferry(["workers"]).succeeded }
        let recipe = try await farm.recipe()
        #expect(try await farm.remote("reader", ["jobs"]).succeeded)
        let refused = try await farm.remote("reader", ["build", recipe, "--no-wait"])
        #expect(refused.status == 77 && refused.text.contains("needs the role contributor; guest-reader is reader"), "\(refused.text)")
        #expect(try await farm.remote("maintainer", ["build", recipe, "--no-wait"]).succeeded)
        #expect(try await farm.remote("maintainer", ["worker", "token", "x"]).status == 77)
        #expect(try await farm.remote("operator", ["worker", "token", "x"]).succeeded)
        #expect(try await farm.remote("operator", ["access", "friend"]).status == 77)
        // Another farm's authority does not vouch for this one.
        let other = try await TestFarm()
        let stranger = try await farm.remote("reader", ["jobs"], authority: "\(other.home)/identity/ca.pem")
        #expect([69, 77].contains(stranger.status) && !stranger.text.contains("JOB"), "\(stranger.text)")
    }

    @Test(.timeLimit(.minutes(2))) func aServerThatOnlyTheSystemTrustsIsNotBelieved() async throws {
        let farm = try await TestFarm()
        let port = try FreePort.find()
        // An authority of this test's own becomes one of the system's, in a mount namespace that only these commands see.
        let script = """
            set -e
            cd "$1"
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=other \
                -addext subjectAltName=IP:127.0.0.1 2>/dev/null
            mkdir trusted
            cp cert.pem "trusted/$(openssl x509 -hash -noout -in cert.pem).0"
            mount --bind trusted /etc/ssl/certs
            openssl s_server -quiet -accept "127.0.0.1:$2" -cert cert.pem -key key.pem -www >/dev/null 2>&1 &
            server=$!
            trap 'kill $server' EXIT
            for i in $(seq 50); do
                if openssl s_client -connect "127.0.0.1:$2" </dev/null >/dev/null 2>&1; then break; fi
                sleep 0.1
            done
            status=0
            SCIFERRY_URL="https://127.0.0.1:$2" SCIFERRY_TOKEN=secret SCIFERRY_AUTHORITY="$3" "$4" jobs || status=$?
            echo "pinned: $status"
            status=0
            SCIFERRY_URL="https://127.0.0.1:$2" SCIFERRY_TOKEN=secret SCIFERRY_AUTHORITY=cert.pem "$4" jobs || status=$?
            echo "its own: $status"
            """
        let result = try await ProcessRunner.run(
            Command(
                "unshare",
                [
                    "--mount", "bash", "-c", script, "-", farm.scratch.path, String(port), "\(farm.home)/identity/ca.pem",
                    "\(TestFarm.bin)/sciferry",
                ], environment: ["SCIFERRY_HOME": nil], deadlineSeconds: 90))
        #expect(result.text.contains("pinned: 77") && result.text.contains("http.untrusted"), "\(result.text)")
        // With its own authority the same server is reached, and answers nonsense.
        #expect(result.text.contains("its own: 65"), "\(result.text)")
    }

    @Test(.timeLimit(.minutes(2))) func aFarmWhoseSupervisorWasKilledComesUpAgain() async throws {
        let farm = try await TestFarm()
        #expect(try await farm.sciferry(["up", "--detach", "--workers", "1"]).succeeded)
        let pid = try String(contentsOfFile: "\(farm.home)/run/up.pid", encoding: .utf8).trimmingCharacters(in: .whitespacesAndNewlines)
        kill(try #require(pid_t(pid)), SIGKILL)
        let again = try await farm.sciferry(["up", "--detach", "--workers", "1"])
        #expect(again.succeeded && again.text.contains("with 1 workers"), "\(again.text)")
        #expect(try await farm.sciferry(["build", try await farm.recipe()]).succeeded)
        #expect(try await farm.sciferry(["down"]).succeeded)
        try await farm.eventually("nothing is left") {
            try await !ProcessRunner.run(Command("pgrep", ["-f", farm.home])).succeeded
        }
    }

    @Test(.timeLimit(.minutes(4))) func bucketsOnS3ServeAsRegions() async throws {
        let server = try S3Server()
        let farm = try await TestFarm(
            regions: ["west=\(server.location("west"))", "east=\(server.location("east"))"], environment: S3Server.environment)
        try await farm.up(workers: ["w1"])
        let build = try await farm.sciferry(["build", try await farm.recipe(run: ["head -c 3000000 /dev/urandom > /opt/noise"])])
        #expect(build.succeeded, "\(build.text)")
        try await farm.eventually("the mirror is done") { try await farm.jobs().first?.publication?.step == .done }
        let pull = try await farm.sciferry(["pull", "tiny", "--site", "\(farm.scratch.path)/site"])
        #expect(pull.succeeded && !pull.text.contains("damage"), "\(pull.text)")
        // The worker never saw a key: what it sent went by presigned URL.
        #expect(!farm.log("w1").contains(S3Server.secret) && !farm.log("coordinator").contains(S3Server.secret))
        let plan = try await farm.sciferry(["sync", server.location("east"), "file:\(farm.scratch.path)/copy", "--dry-run"])
        #expect(plan.succeeded && plan.text.contains("only planned") && !Disk.exists("\(farm.scratch.path)/copy"), "\(plan.text)")
        let copy = try await farm.sciferry(["sync", server.location("east"), "file:\(farm.scratch.path)/copy"])
        #expect(copy.succeeded && Disk.exists("\(farm.scratch.path)/copy/channels/main.json"), "\(copy.text)")
        try Disk.replace("\(farm.scratch.path)/copy/stray", with: [1])
        let clean = try await farm.sciferry(["sync", server.location("east"), "file:\(farm.scratch.path)/copy", "--grace", "0s", "--json"])
        #expect(
            clean.succeeded && clean.text.contains("\"deleted\":1") && !Disk.exists("\(farm.scratch.path)/copy/stray"), "\(clean.text)")
    }

    @Test(.timeLimit(.minutes(4))) func aRegionThatIsAwayDelaysOnlyItsMirror() async throws {
        let port = try FreePort.find()
        let scratch = try Scratch()
        let farm = try await TestFarm(
            regions: ["near=file:\(scratch.path)/near", "far=s3:http://127.0.0.1:\(port)/farm/?tries=1&stall=2"],
            environment: S3Server.environment)
        try await farm.up(workers: ["w1"])
        for version in ["1.0", "1.1"] {
            let build = try await farm.sciferry(["build", try await farm.recipe(version: version)])
            #expect(build.succeeded, "\(build.text)")
        }
        try await farm.eventually("the delay is shown") {
            try await farm.sciferry(["job", "j1"]).text.contains("last error: ")
        }
        #expect(try await farm.sciferry(["pull", "tiny", "--site", "\(farm.scratch.path)/site"]).succeeded)
        // The region comes back as a bucket at the same address: both releases arrive, then the pointer.
        let server = try S3Server(port: port)
        try await farm.eventually("the mirror has caught up", seconds: 90) {
            try await farm.jobs().allSatisfy { $0.publication.map { $0.step == .done } ?? true }
        }
        let copy = try await farm.sciferry(["sync", "s3:\(server.endpoint)/farm/", "file:\(scratch.path)/copy"])
        #expect(copy.succeeded, "\(copy.text)")
        #expect(try Disk.list("\(scratch.path)/copy/releases/tiny") == ["1.0", "1.1"])
    }

    @Test(.timeLimit(.minutes(2))) func certificatesRenewThemselves() async throws {
        let farm = try await TestFarm(leafSeconds: 6)
        try await farm.up(workers: ["w1"])
        let first = try Disk.read("\(farm.workerHome("w1"))/worker.pem")
        try await farm.eventually("it is renewed twice", seconds: 30) {
            farm.log("w1").components(separatedBy: "certificate renewed").count > 2
        }
        #expect(try Disk.read("\(farm.workerHome("w1"))/worker.pem") != first)
        // The first certificate has expired by now; a new connection needs the renewed one.
        farm.kill("coordinator")
        try farm.start("coordinator")
        try await farm.connected(1)
        #expect(!farm.log("w1").contains("identity.expired"))
    }

    @Test(.timeLimit(.minutes(2))) func aFullBucketIsNamedAndNothingIsHalfPublished() async throws {
        let scratch = try Scratch()
        try Disk.makeDirectory("\(scratch.path)/small")
        try await ProcessRunner.require(Command("mount", ["-t", "tmpfs", "-o", "size=500k", "tmpfs", "\(scratch.path)/small"]))
        let farm = try await TestFarm(regions: ["small=file:\(scratch.path)/small"])
        try await farm.up(workers: ["w1"])
        let build = try await farm.sciferry(["build", try await farm.recipe(run: ["head -c 3000000 /dev/urandom > /opt/noise"])])
        #expect(build.status == 1 && build.text.contains("No space left on device") && build.text.contains("disk.full"), "\(build.text)")
        #expect(build.text.contains("\(scratch.path)/small"), "the place is named: \(build.text)")
        #expect(try await farm.releases().isEmpty && !Disk.exists("\(scratch.path)/small/packs"))
        // Once there is room, the same request goes through.
        try await ProcessRunner.require(Command("mount", ["-o", "remount,size=50m", "\(scratch.path)/small"]))
        #expect(try await farm.sciferry(["build", try await farm.recipe(run: ["head -c 3000000 /dev/urandom > /opt/noise"])]).succeeded)
        farm.kill("coordinator")
        try await ProcessRunner.require(Command("umount", ["-l", "\(scratch.path)/small"]))
    }

    @Test(.timeLimit(.minutes(2))) func aWorkersDiskThatFillsDuringABuildIsNamed() async throws {
        let farm = try await TestFarm()
        let disk = farm.workerHome("w1")
        try Disk.makeDirectory(disk)
        try await ProcessRunner.require(Command("mount", ["-t", "tmpfs", "-o", "size=6g", "tmpfs", disk]))
        try farm.start("coordinator")
        try await farm.eventually("the coordinator answers") { try await farm.sciferry(["workers"]).succeeded }
        try await farm.enrol("w1")
        try farm.set("w1", "\"minimumFreeGiB\": 0")
        try farm.start("w1")
        try await farm.connected(1)
        let recipe = try await farm.recipe(run: ["sleep 2; head -c 30000000 /dev/urandom > /opt/noise"])
        // There is room when the job comes, and none any more when the image is written.
        async let running = farm.sciferry(["build", recipe])
        try await farm.eventually("it builds") { try await farm.jobs().first?.attempts.first?.phase == .build }
        try await ProcessRunner.require(Command("mount", ["-o", "remount,size=12m", disk]))
        // The attempt says why it failed, the job why it waits; nothing is published.
        try await farm.eventually("the reasons are shown") {
            let shown = try await farm.sciferry(["job", "j1"]).text
            return shown.contains("No space left on device") && shown.contains("[disk.full]")
                && shown.contains("not on w1: has 0 GiB free")
        }
        #expect(try await farm.releases().isEmpty)
        try await farm.eventually("the attempt cleaned up") { try Disk.list("\(disk)/attempts").isEmpty }
        // With room it goes on by itself.
        try await ProcessRunner.require(Command("mount", ["-o", "remount,size=6g", disk]))
        let build = try await running
        #expect(build.succeeded && build.text.contains("No space left on device"), "\(build.text)")
        farm.kill("w1")
        try await ProcessRunner.require(Command("umount", ["-l", disk]))
    }
}
