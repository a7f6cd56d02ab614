import Attestation
import CoordinatorCore
import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// What recipes of other kinds, and inputs of other kinds, become on a farm.
extension FarmTests {
    private func write(_ files: [String: String], _ directory: String) throws {
        try Disk.makeDirectory(directory)
        for (name, text) in files { try Disk.replace("\(directory)/\(name)", with: Array(text.utf8)) }
    }

    private func metadata(_ name: String, _ kind: String) -> String {
        "name: \(name)\nversion: \"1.0\"\nbuild:\n  kind: \(kind)\ndeploy:\n  bins: [\(name)]\n"
    }

    @Test(.timeLimit(.minutes(3))) func dockerfilesDefinitionsAndHPCCMAreRecipesToo() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let base = try await TestRegistry.base()
        let scratch = farm.scratch.path
        try write(
            [
                "build.yaml": metadata("docked", "dockerfile"),
                "Dockerfile":
                    "ARG BASE=\(base)\nFROM $BASE AS made\nRUN echo made > /opt/made\nFROM \(base)\nCOPY --from=made /opt/made /opt/\nCOPY tool.sh /usr/bin/docked\n",
                "tool.sh": "#!/bin/sh\ncat /opt/made\n",
                "fulltest.yaml": "tests:\n  - {name: speaks, command: docked, expected_output_contains: made}\n",
            ], "\(scratch)/docked")
        try await ProcessRunner.require(Command("chmod", ["755", "\(scratch)/docked/tool.sh"]))
        try write(
            [
                "build.yaml": metadata("defined", "definition"),
                "Singularity.def": """
                Bootstrap: docker
                From: \(base)
                %files
                    words.txt /opt/words.txt
                %post
                    printf '#!/bin/sh\\necho $DEFINED $MORE; cat /opt/words.txt\\n' > /usr/bin/defined
                    chmod 755 /usr/bin/defined
                    echo 'export MORE="and more"' >> $APPTAINER_ENVIRONMENT
                %environment
                    export DEFINED="set by the definition"
                %runscript
                    echo ran "$@"
                %test
                    defined | grep 'set by the definition and more'
                """.replacing(
                    "grep 'set by the definition and more'",
                    with: "while read -r line; do test \"$line\" = \"set by the definition and more\" && break; done"),
                "words.txt": "words\n",
            ], "\(scratch)/defined")
        try write(
            [
                "build.yaml": metadata("hpc", "hpccm"),
                "recipe.py": """
                Stage0 += baseimage(image='\(base)', _distro='debian')
                Stage0 += shell(commands=["echo 'echo from hpccm' > /usr/bin/hpc", 'chmod 755 /usr/bin/hpc'])
                """,
                "fulltest.yaml": "tests:\n  - {name: speaks, command: hpc, expected_output_contains: from hpccm}\n",
            ], "\(scratch)/hpc")
        for name in ["docked", "defined", "hpc"] {
            let build = try await farm.sciferry(["build", "\(scratch)/\(name)"])
            #expect(build.succeeded && build.text.contains("tests passed"), "\(build.text)")
        }
        let commands = try await farm.releases().map(\.release.commands)
        #expect(Set(commands.joined()) == ["docked", "defined", "hpc"])
        // The environment and the run script of the definition are the image's.
        let site = "\(scratch)/site"
        let pull = try await farm.sciferry(["pull", "defined", "--site", site])
        #expect(pull.succeeded, "\(pull.text)")
        let said = try await ProcessRunner.require(Command("\(site)/wrappers/defined/1.0/bin/defined", []))
        #expect(said == "set by the definition and more\nwords\n")
        let script = try await farm.sciferry(["exec", "--site", site, "defined", "cat", "/.singularity.d/runscript"]).text
        #expect(script.contains("echo ran \"$@\""), "\(script)")
    }

    @Test(.timeLimit(.minutes(3))) func whatWasFetchedOnceOutlivesUpstreamAndTheHome() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let port = try FreePort.find()
        let web = "\(farm.scratch.path)/web"
        let commit = String(repeating: "5e", count: 20)
        let reference = "\(commit) refs/tags/v1.0\n"
        let length = String(reference.utf8.count + 4 + 0x10000, radix: 16).suffix(4)
        try write(["data.txt": "from afar\n"], web)
        // What git's own server sends, as a file; the query behind it is passed over.
        try write(["refs": "001e# service=git-upload-pack\n0000\(length)\(reference)0000"], "\(web)/tool/info")
        let server = try Child(
            "/usr/bin/python3", ["-m", "http.server", "--bind", "127.0.0.1", "--directory", web, String(port)],
            log: "\(farm.scratch.path)/web.log")
        func recipe(_ version: String) async throws -> String {
            let directory = try await farm.recipe(
                version: version, run: ["cat {{ get_file(\"data\") }} > /opt/data", "echo {{ context.commit }} >> /opt/data"],
                tests: "  - name: holds both\n    command: tiny-tool\n    expected_output_contains: [from afar, \(commit)]\n")
            var text = try String(contentsOfFile: "\(directory)/build.yaml", encoding: .utf8)
            text +=
                "\n  upstream: {git: 'http://127.0.0.1:\(port)/tool', ref: v1.0}\nfiles:\n  - {name: data, url: 'http://127.0.0.1:\(port)/data.txt'}\n"
            try Disk.replace("\(directory)/build.yaml", with: Array(text.utf8))
            return directory
        }
        let first = try await recipe("1.0")
        let build = try await farm.sciferry(["build", first])
        #expect(build.succeeded, "\(build.text)")
        let lock = try String(contentsOfFile: "\(first)/sciferry.lock", encoding: .utf8)
        #expect(lock.contains(commit) && lock.contains(Digest(hashing: "from afar\n").hex), "\(lock)")
        let archived = "\(farm.home)/regions/region-a/inputs/\(Digest(hashing: "from afar\n").hex)"
        try await farm.eventually("the input is archived") { Disk.exists(archived) }

        // Upstream is gone, and so are the blobs of a coordinator that was set up anew over its journal.
        server.kill()
        farm.kill("coordinator")
        let digest = Digest(hashing: "from afar\n").hex
        try Disk.remove("\(farm.home)/blobs/\(digest.prefix(2))/\(digest)")
        try farm.start("coordinator")
        try await farm.connected(1)
        let second = try await recipe("1.1")
        try Disk.replace("\(second)/sciferry.lock", with: Array(lock.utf8))
        let again = try await farm.sciferry(["build", second])
        #expect(again.succeeded, "\(again.text)")
    }

    @Test(.timeLimit(.minutes(2))) func whatWasInstalledIsRecordedBesideTheImage() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let metadata = "/opt/lib/tiny-1.0.dist-info"
        let build = try await farm.sciferry([
            "build",
            try await farm.recipe(run: ["mkdir -p \(metadata)", "printf \"Name: tiny\\nVersion: 1.0\\n\" > \(metadata)/METADATA"]),
        ])
        #expect(build.succeeded, "\(build.text)")
        let listed = try await farm.sciferry(["job", "j1", "--packages"])
        #expect(listed.succeeded && listed.text.contains("python") && listed.text.contains("tiny"), "\(listed.text)")
        let record = try #require(try await farm.releases().first?.release.records?["packages"])
        for region in ["region-a", "region-b"] {
            let path = "\(farm.home)/regions/\(region)/\(ImageRecord.key(record))"
            try await farm.eventually("\(region) has the record") { Disk.exists(path) }
            #expect(Digest(hashing: try Disk.read(path, limit: 1 << 20)) == record)
        }
    }

    @Test(.timeLimit(.minutes(2))) func aBuildWithoutNetworkHasNone() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let directory = try await farm.recipe(run: ["cat /proc/net/dev > /opt/data", "test \"$(cat /proc/net/dev | wc -l)\" = 3"])
        let text = try String(contentsOfFile: "\(directory)/build.yaml", encoding: .utf8) + "\n  network: none\n"
        try Disk.replace("\(directory)/build.yaml", with: Array(text.utf8))
        let tests = "tests:\n  - {name: only itself, command: tiny-tool, expected_output_contains: 'lo:'}\n"
        try Disk.replace("\(directory)/fulltest.yaml", with: Array(tests.utf8))
        let build = try await farm.sciferry(["build", directory])
        #expect(build.succeeded, "\(build.text)")
    }
}

/// The recipes that this repository holds.
extension FarmTests {
    @Test(.timeLimit(.minutes(10))) func theRecipesOfThisRepositoryBuildUnderTheirLocks() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let tiny = try await TestRegistry.base()
        let base = "\(tiny.prefix { $0 != "/" })/debian:bookworm"
        let tar = "\(farm.scratch.path)/base.tar"
        try await ProcessRunner.require(
            Command("mmdebstrap", ["--quiet", "--variant=minbase", "bookworm", tar], deadlineSeconds: 300))
        for arguments in [["import", tar, base], ["push", base]] {
            try await ProcessRunner.require(Command("/usr/bin/docker", arguments, deadlineSeconds: 300))
        }
        let names = ["dcm2niix", "nibabel", "nifti-header"]
        for name in names {
            let directory = "\(farm.scratch.path)/\(name)"
            try await ProcessRunner.require(Command("cp", ["-r", "\(Repository.root)/recipes/\(name)", directory]))
            let text = try String(contentsOfFile: "\(directory)/build.yaml", encoding: .utf8)
            try Disk.replace("\(directory)/build.yaml", with: Array(text.replacing("debian:bookworm", with: base).utf8))
            // The lock comes first, so that the build is held to it.
            let lock = try await farm.sciferry(["recipe", "lock", directory])
            #expect(lock.succeeded, "\(lock.text)")
        }
        // Upstream moves on: the name stands for another image now.
        for arguments in [["tag", tiny, base], ["push", base]] {
            try await ProcessRunner.require(Command("/usr/bin/docker", arguments, deadlineSeconds: 300))
        }
        for name in names {
            let directory = "\(farm.scratch.path)/\(name)"
            let build = try await farm.sciferry(["build", directory], deadline: 400)
            #expect(build.succeeded, "\(build.text)")
            let digest = try #require(try await farm.releases().first { $0.release.name == name }?.release.base.digest)
            #expect(try String(contentsOfFile: "\(directory)/sciferry.lock", encoding: .utf8).contains(digest.hex))
        }
        // A gigabyte that no later test wants.
        let tags = try await ProcessRunner.require(
            Command("/usr/bin/docker", ["images", "--format", "{{.Repository}}:{{.Tag}}", "sciferry-cache"], deadlineSeconds: 60))
        let own = tags.split(separator: "\n").map(String.init).filter { tag in names.contains { tag.hasPrefix("sciferry-cache:\($0)-") } }
        _ = try await ProcessRunner.run(Command("/usr/bin/docker", ["rmi", base] + own, deadlineSeconds: 120))
    }
}

/// CPU targets.
extension FarmTests {
    @Test(.timeLimit(.minutes(3))) func severalTargetsMakeSeveralImagesAndASiteTakesTheHighest() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let directory = try await farm.recipe(
            run: ["echo {{ context.target }} {{ context.cflags }} env $CFLAGS, {{ context.flags(\"gcc\", \"12.2\") }} > /opt/data"],
            tests: "  - {name: speaks, command: tiny-tool, expected_output_contains: env}\n")
        let build = try await farm.sciferry(["build", directory, "--for", "portable", "--for", "x86_64_v2", "--for", "native:w1"])
        #expect(build.succeeded, "\(build.text)")
        let workers = try await farm.sciferry(["workers", "--json"])
        let native = try #require(
            try CanonicalJSON.decode([WorkerView].self, from: workers.output, source: "workers")[0].worker.facts?.target)
        let releases = try await farm.releases().map(\.release.image.target)
        #expect(Set(releases) == ["x86_64", "x86_64_v2", native])
        let site = "\(farm.scratch.path)/site"
        let pull = try await farm.sciferry(["pull", "tiny", "--site", site])
        #expect(pull.succeeded && pull.text.contains("target  \(native), the highest of "), "\(pull.text)")
        let lower = try await farm.sciferry(["pull", "tiny", "--site", "\(site)2", "--for", "x86_64_v2"])
        #expect(lower.succeeded, "\(lower.text)")
        let said = try await ProcessRunner.require(Command("\(site)2/wrappers/tiny/1.0/bin/tiny-tool", []))
        #expect(
            said == "x86_64_v2 -march=x86-64-v2 -mtune=generic env -O2 -march=x86-64-v2 -mtune=generic, -march=x86-64-v2 -mtune=generic\n")
        let unknown = try await farm.sciferry(["build", directory, "--for", "native:w9"])
        #expect(unknown.status == 66 && unknown.text.contains("no worker \"w9\""), "\(unknown.text)")
        let wrong = try await farm.sciferry(["build", directory, "--for", "x86_64_v5"])
        #expect(wrong.status != 0 && wrong.text.contains("did you mean \"x86_64_v"), "\(wrong.text)")
    }

    /// Workers of four kinds: every build goes where its code runs, and what nobody can take says why of each.
    @Test(.timeLimit(.minutes(3))) func buildsGoWhereTheirTargetRuns() async throws {
        let farm = try await TestFarm()
        let kinds = ["w1": "x86_64_v2", "w2": "zen3", "w3": "icelake", "w4": "neoverse_n1"]
        try await farm.up(workers: kinds.keys.sorted(), pretended: kinds)
        let directory = try await farm.recipe(tests: "  - {name: runs, command: tiny-tool}\n")
        let build = try await farm.sciferry(["build", directory, "--for", "portable", "--for", "zen2", "--for", "x86_64_v4"])
        #expect(build.succeeded, "\(build.text)")
        for job in try await farm.jobs() {
            guard let target = job.publication?.result.hostTarget, let worker = job.attempts.last?.worker.rawValue else { continue }
            #expect(kinds[worker] == target, "\(job.job.title)")
        }
        let places = Dictionary(
            try await farm.jobs().compactMap { job in job.attempts.last.map { (job.job.target, $0.worker.rawValue) } }
        ) { first, _ in first }
        #expect(places["zen2"] == "w2" && places["x86_64_v4"] == "w3" && places["x86_64"] != "w4")

        let waiting = try await farm.sciferry(["build", directory, "--for", "zen5", "--no-wait"])
        #expect(waiting.succeeded, "\(waiting.text)")
        let job = try #require(try await farm.jobs().first { $0.job.target == "zen5" })
        let told = try await farm.sciferry(["job", job.job.id.rawValue])
        for (worker, kind) in kinds { #expect(told.text.contains("not on \(worker): ") && told.text.contains(kind), "\(told.text)") }
    }

    /// A program for AVX-512 in an image for a CPU without it.
    @Test(.timeLimit(.minutes(3))) func codeBeyondTheTargetFailsTheBuildAndEveryImageHasAReport() async throws {
        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let source = "\(farm.scratch.path)/wide.c"
        let text = "double a[512]; int main(int c, char **v) { for (int i = 0; i < 512; i++) a[i] = a[i] * c + i; return a[c] > 9; }"
        try Disk.replace(source, with: Array(text.utf8))
        func recipe(_ version: String, flags: [String], settings: String = "") async throws -> String {
            let directory = try await farm.recipe(
                version: version, run: ["cat {{ get_file(\"wide\") }} > /usr/bin/wide && chmod 755 /usr/bin/wide"],
                tests: "  - {name: is there, command: command -v wide}\n")
            try await ProcessRunner.require(Command("gcc", ["-O3", "-static", source, "-o", "\(directory)/wide"] + flags))
            let path = "\(directory)/build.yaml"
            let text = try String(contentsOfFile: path, encoding: .utf8)
            let file = "    - file:\n        name: wide\n        filename: wide\n    - file:\n        name: tool"
            try Disk.replace(path, with: Array((text.replacing("    - file:\n        name: tool", with: file) + "\n" + settings).utf8))
            return directory
        }
        let wide = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
        let failed = try await farm.sciferry(["build", try await recipe("1.0", flags: wide), "--for", "x86_64_v2"])
        #expect(failed.status != 0 && failed.text.contains("code in /usr/bin/wide needs more than x86_64_v2"), "\(failed.text)")
        #expect(failed.text.contains("main (avx"), "\(failed.text)")
        #expect(try await farm.releases().isEmpty)

        let warned = try await farm.sciferry([
            "build", try await recipe("1.1", flags: wide, settings: "  instructions: warn\n"), "--for", "x86_64_v2",
        ])
        #expect(warned.succeeded, "\(warned.text)")
        let allowed = try await farm.sciferry(["build", try await recipe("1.2", flags: ["-march=x86-64-v2"]), "--for", "x86_64_v2"])
        #expect(allowed.succeeded, "\(allowed.text)")
        let releases = try await farm.releases()
        for (version, verdict) in [("1.1", "EXCEEDED"), ("1.2", "x86_64_v2: unproven")] {
            let release = try #require(releases.first { $0.release.version == version }?.release)
            let digest = try #require(release.records?["instructions"])
            for region in ["region-a", "region-b"] {
                let path = "\(farm.home)/regions/\(region)/\(ImageRecord.attestationKey(digest))"
                try await farm.eventually("\(region) has the attestation") { Disk.exists(path) }
                let envelope = try CanonicalJSON.decode(Envelope.self, from: try Disk.read(path), source: path)
                let key = try SigningKey(file: "\(farm.home)/identity/release.key").verifier
                let statement: Statement<InstructionReport> = try envelope.verified(
                    payloadType: PayloadType.statement, by: [key], source: path)
                #expect(statement.subject.first?.digest["sha256"] == release.image.digest.hex)
            }
            let job = try #require(try await farm.jobs().first { $0.publication?.result.image == release.image.digest })
            let told = try await farm.sciferry(["job", job.job.id.rawValue, "--instructions"])
            #expect(told.text.contains(verdict) && told.text.contains("/usr/bin/wide"), "\(told.text)")
        }
    }
}
