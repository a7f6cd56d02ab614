import CoordinatorCore
import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// Builders beside BuildKit.
extension FarmTests {
    /// A recipe that is a Dockerfile without anything of BuildKit's; `last` is its last step.
    private func dockerfile(_ farm: TestFarm, _ mark: String, version: String, last: String) async throws -> String {
        let place = "\(farm.scratch.path)/recipes/plain-\(version)"
        try Disk.makeDirectory(place)
        let recipe = """
            name: plain
            version: "\(version)"
            architectures: [x86_64]
            description: A tiny tool.
            build: {kind: dockerfile}
            deploy: {bins: [cat]}
            x-sciferry:
              limits: {disk_gib: 1}
            """
        try Disk.replace("\(place)/build.yaml", with: Array(recipe.utf8))
        let text = """
            FROM \(try await TestRegistry.base())
            RUN sleep 3 && head -c 3000000 /dev/urandom > /opt/\(mark)
            ENV MARK=\(mark)
            RUN true
            WORKDIR /opt/work
            RUN sleep 2 && wc -c /opt/\(mark) > /opt/count
            COPY extra /opt/extra
            RUN \(last)
            """
        try Disk.replace("\(place)/Dockerfile", with: Array("\(text)\n".utf8))
        try Disk.replace("\(place)/extra", with: Array("extra".utf8))
        let suite = "tests:\n  - name: counts\n    command: cat /opt/count\n    expected_output_contains: \"3000000\"\n"
        try Disk.replace("\(place)/fulltest.yaml", with: Array(suite.utf8))
        return place
    }

    private func steps(_ farm: TestFarm) async throws -> [BuildStep.Origin] {
        try await farm.jobs().last { $0.job.kind == .build }?.attempts.last?.steps?.map(\.origin) ?? []
    }

    /// The steps of a classic build that failed are worth keeping: another worker goes on where this one had to stop.
    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(6))) func theClassicBuilderServesTheFarm() async throws {
        let engine = try await TestEngine()
        let farm = try await TestFarm { $0.layers.leastSeconds = 1 }
        try await farm.up(workers: ["w1"], settings: ["w1": "\"builder\": \"classic\""])
        let mark = Nonce.hex(bytes: 6)
        let first = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.0", last: "cat /opt/missing")])
        #expect(!first.succeeded && first.text.contains("ended with status 1: RUN cat /opt/missing"), "\(first.text)")
        let went1 = try await steps(farm)
        #expect(went1 == [.run, .run, .run, .run, .run, .failed], "\(went1)")
        try await farm.eventually("the layers are kept") { farm.log("coordinator").contains("layers kept") }

        try await farm.replace("w1", with: "w2", "\"builder\": \"classic\", \"dockerHost\": \"\(engine.address)\"")
        let second = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.1", last: "echo done")])
        #expect(second.succeeded, "\(second.text)")
        let job = try #require(try await farm.jobs().last { $0.job.kind == .build })
        let said = try await farm.sciferry(["logs", job.job.id.rawValue]).text
        #expect(said.contains("bringing 5"), "\(said)")
        let went2 = try await steps(farm)
        #expect(went2 == [.farm, .farm, .farm, .farm, .farm, .run], "\(went2)")
        // From now on the worker has them itself.
        let third = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.2", last: "echo more")])
        #expect(third.succeeded, "\(third.text)")
        let went3 = try await steps(farm)
        #expect(went3 == [.worker, .worker, .worker, .worker, .worker, .run], "\(went3)")

        // What only BuildKit understands it builds.
        let mounted = try await farm.sciferry(["build", try await farm.recipe("mounted")])
        #expect(mounted.succeeded, "\(mounted.text)")
        // Limits hold as they do with BuildKit.
        try farm.set("w2", "\"buildProcesses\": 200")
        farm.kill("w2")
        try farm.start("w2")
        let bomb = try await farm.sciferry([
            "build", try await dockerfile(farm, mark, version: "1.3", last: "for i in $(seq 400); do sleep 20 & done; wait"),
        ])
        #expect(!bomb.succeeded && bomb.text.contains("build.processes"), "\(bomb.text)")
    }

    @Test(.enabled(if: geteuid() == 0 && ProcessRunner.find("buildah") != nil), .timeLimit(.minutes(6)))
    func aWorkerNeedsNoDaemon() async throws {
        let farm = try await TestFarm()
        // There is no engine at that address.
        try await farm.up(
            workers: ["w1"],
            settings: [
                "w1": "\"builder\": \"buildah\", \"dockerHost\": \"unix:///nowhere\", \"buildProcesses\": 200, \"buildMemoryGiB\": 0.5"
            ])
        let mark = Nonce.hex(bytes: 6)
        let first = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.0", last: "echo first")])
        #expect(first.succeeded, "\(first.text)")
        let went4 = try await steps(farm)
        #expect(went4 == [.run, .run, .run, .run, .run, .run], "\(went4)")
        let second = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.1", last: "echo second")])
        #expect(second.succeeded, "\(second.text)")
        let went5 = try await steps(farm)
        #expect(went5 == [.worker, .worker, .worker, .worker, .worker, .run], "\(went5)")
        // Mounts of the context, as our own Dockerfiles have them.
        let mounted = try await farm.sciferry(["build", try await farm.recipe("mounted")])
        #expect(mounted.succeeded, "\(mounted.text)")
        let failed = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.2", last: "exit 7")])
        #expect(!failed.succeeded && failed.text.contains("ended with status 7: RUN exit 7"), "\(failed.text)")
        let bomb = try await farm.sciferry([
            "build", try await dockerfile(farm, mark, version: "1.3", last: "for i in $(seq 400); do sleep 20 & done; wait"),
        ])
        #expect(!bomb.succeeded && bomb.text.contains("build.processes"), "\(bomb.text)")

        // A worker that is killed leaves nothing that runs.
        let token = "8\(Int.random(in: 10_000...99_999))"
        let long = try await dockerfile(farm, mark, version: "1.4", last: "sleep \(token)")
        #expect(try await farm.sciferry(["build", long, "--no-wait"]).succeeded)
        @Sendable func isRunning() async throws -> Bool {
            try await ProcessRunner.run(Command("pgrep", ["-x", "-f", "sleep \(token)"])).succeeded
        }
        try await farm.eventually("it runs") { try await isRunning() }
        farm.kill("w1")
        let job = try #require(try await farm.jobs().last)
        #expect(try await farm.sciferry(["cancel", job.job.id.rawValue]).succeeded)
        try farm.start("w1")
        try await farm.eventually("nothing of it runs any more") { try await !isRunning() }
        let after = try await farm.sciferry(["build", try await dockerfile(farm, mark, version: "1.5", last: "echo after")])
        #expect(after.succeeded, "\(after.text)")
    }
}
