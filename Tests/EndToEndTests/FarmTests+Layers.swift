import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Layers that one worker has made and another gets from the farm.
extension FarmTests {
    /// A recipe of six steps, of which the first two take their time.
    private func recipe(_ farm: TestFarm, _ mark: String, version: String, last: String, middle: String = "true") async throws -> String {
        let path = try await farm.recipe("layered", version: version, run: [last])
        let file = "\(path)/build.yaml"
        let text = String(decoding: try Disk.read(file), as: UTF8.self)
        let steps = """
              directives:
                - run:
                    - sleep 3 && head -c 3000000 /dev/urandom > /opt/\(mark)
                - run:
                    - sleep 2 && \(middle) && wc -c /opt/\(mark) > /opt/count
            """
        try Disk.replace(file, with: Array(text.replacing("  directives:", with: steps).utf8))
        return path
    }

    private func log(_ farm: TestFarm, _ job: JobView) async throws -> String {
        try await farm.sciferry(["logs", job.job.id.rawValue]).text
    }

    private func steps(_ job: JobView) -> [BuildStep.Origin] { job.attempts.last?.steps?.map(\.origin) ?? [] }

    @Test(.enabled(if: TestEngine.isPossible), .timeLimit(.minutes(6))) func aStepIsRunOnceInTheFarm() async throws {
        let engine = try await TestEngine()
        let farm = try await TestFarm { $0.layers.leastSeconds = 1 }
        try await farm.up(workers: ["w1"])
        let mark = Nonce.hex(bytes: 6)
        let first = try await farm.sciferry(["build", try await recipe(farm, mark, version: "1.0", last: "true")])
        #expect(first.succeeded, "\(first.text)")
        try await farm.eventually("the layers are kept") { farm.log("coordinator").contains("layers kept") }
        // Other workers of this engine may have others.
        let mine = "sciferry-deliver:\(Digest(hashing: Disk.absolute(farm.workerHome("w1"))).short)-*"
        try await farm.eventually("what was delivered is let go") {
            let left = ["image", "ls", "--quiet", "--filter", "reference=\(mine)"]
            return try await ProcessRunner.require(Command("/usr/bin/docker", left)).isEmpty
        }

        // A worker that has never seen it: the last step is another one, and what comes before it is brought.
        try await farm.replace("w1", with: "w2", "\"dockerHost\": \"\(engine.address)\"")
        let second = try await farm.sciferry(["build", try await recipe(farm, mark, version: "1.1", last: "true")])
        #expect(second.succeeded, "\(second.text)")
        let other = try #require(try await farm.jobs().last { $0.job.kind == .build })
        let said = try await log(farm, other)
        #expect(other.attempts.last?.worker.rawValue == "w2" && said.contains("this worker 0; bringing 3"), "\(said)")
        #expect(said.contains("s beside what was expected"), "\(said)")
        #expect(steps(other) == [.farm, .farm, .farm, .run, .run, .run], "\(steps(other))")
        let shown = try await farm.sciferry(["job", other.job.id.rawValue])
        #expect(shown.text.contains("3 of 6 steps were there, 3 of them in the farm"), "\(shown.text)")
        // The very bytes: what one has made at random is what the other has.
        func drawn(_ host: [String], _ version: String) async throws -> String {
            let image = "sciferry-cache:layered-x86_64"
            return try await ProcessRunner.require(
                Command("/usr/bin/docker", host + ["run", "--rm", "--network", "none", image, "sha256sum", "/opt/\(mark)"]))
        }
        let (one, two) = (try await drawn([], "1.0"), try await drawn(["-H", engine.address], "1.1"))
        #expect(one == two)

        // From now on it has them itself, and a change in the middle is made upon what is there.
        let third = try await farm.sciferry([
            "build", try await recipe(farm, mark, version: "1.2", last: "true", middle: "echo x > /opt/x"),
        ])
        #expect(third.succeeded, "\(third.text)")
        let again = try #require(try await farm.jobs().last { $0.job.kind == .build })
        #expect(steps(again) == [.worker, .run, .run, .run, .run, .run], "\(steps(again))")
        #expect(try await !log(farm, again).contains("bringing"))

        // What was damaged meanwhile is made anew.
        try await farm.eventually("all is kept") { farm.log("coordinator").components(separatedBy: "layers kept").count > 2 }
        let packs = try await ProcessRunner.require(
            Command("find", [farm.scratch.path, "-path", "*/layers/packs/*", "-type", "f"])
        ).split(separator: "\n").map(String.init)
        #expect(!packs.isEmpty)
        for pack in packs { try Disk.remove(pack) }
        farm.kill("w2")
        let prune = "docker image rm -f $(docker image ls -q | sort -u) >/dev/null; docker builder prune -af"
        _ = try await ProcessRunner.run(
            Command("sh", ["-c", prune], environment: ["PATH": "/usr/bin:/bin", "DOCKER_HOST": engine.address], deadlineSeconds: 60))
        try Disk.remove("\(farm.workerHome("w2"))/layers.json")
        try farm.start("w2")
        let last = try await farm.sciferry(["build", try await recipe(farm, mark, version: "1.3", last: "true")])
        #expect(last.succeeded, "\(last.text)")
        let damaged = try #require(try await farm.jobs().last { $0.job.kind == .build })
        let told = try await log(farm, damaged)
        #expect(told.contains("the farm's layers cannot be used"), "\(told)")
        #expect(steps(damaged).allSatisfy { $0 == .run }, "\(steps(damaged))")
    }
}
