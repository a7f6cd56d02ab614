import CoordinatorCore
import FarmModel
import Foundation
import ProcessRunner
import Support
import SystemIO
import Testing

/// Images that others made.
private final class ForeignImages: Sendable {
    let scratch: Scratch
    let directory: String
    private let server: Child
    let url: String

    init() async throws {
        scratch = try Scratch()
        directory = "\(scratch.path)/images"
        try Disk.makeDirectory(directory)
        let port = "\(scratch.path)/port"
        server = try Child(
            "/usr/bin/python3", ["\(Repository.root)/Tests/EndToEndTests/images.py", directory, port, "\(scratch.path)/requests"],
            log: "\(scratch.path)/server.log")
        while !Disk.exists(port) { try await Task.sleep(for: .milliseconds(50)) }
        url = "http://127.0.0.1:\(String(decoding: try Disk.read(port), as: UTF8.self))"
    }

    deinit { server.kill() }

    /// What the server was asked for.
    var requests: String { (try? String(contentsOfFile: "\(scratch.path)/requests", encoding: .utf8)) ?? "" }

    /// An image of the tiny base with more in it, as a file that is served.
    ///
    /// - Parameter steps: lines of a Dockerfile.
    func make(_ file: String, _ steps: String) async throws {
        let base = try await TestRegistry.base()
        let name = "sciferry-foreign-\(Nonce.hex(bytes: 4))"
        try Disk.replace("\(scratch.path)/Dockerfile", with: Array("FROM \(base)\n\(steps)\n".utf8))
        let script = """
            DOCKER_BUILDKIT=1 /usr/bin/docker build -q -t \(name) - < \(scratch.path)/Dockerfile >/dev/null
            \(TestFarm.bin)/sciferry image assemble docker-daemon:\(name) -o '\(directory)/\(file)' --docker /usr/bin/docker
            /usr/bin/docker rmi -f \(name) >/dev/null
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script], deadlineSeconds: 120))
    }

    func bytes(_ file: String) throws -> [UInt8] { try Disk.read("\(directory)/\(file)", limit: 1 << 30) }
}

extension FarmTests {
    private static let tool = """
        RUN mkdir -p /opt/tool/bin && printf '#!/bin/sh\\necho "tool says $1"\\n' > /usr/bin/say && chmod 755 /usr/bin/say \
          && cp /usr/bin/say /opt/tool/bin/say-too && echo none > /opt/tool/bin/readme
        ENV DEPLOY_BINS=say:not-there DEPLOY_PATH=/opt/tool/bin PATH=/usr/bin:/bin:/opt/tool/bin
        """

    /// A catalogue in one command, nothing fetched; then what somebody wants, whole, as it is, and with what is known of it.
    @Test(.timeLimit(.minutes(5))) func aCatalogueIsImportedAndFetchedWhenSomebodyWantsIt() async throws {
        let images = try await ForeignImages()
        try await images.make("break_1.0_20260101.simg", Self.tool)
        try await images.make("mute_1_20260101.simg", #"RUN ["/bin/busybox", "rm", "/bin/sh"]"#)
        let original = try images.bytes("break_1.0_20260101.simg")
        // The same file system without a SIF around it, as Singularity 2 wrote it.
        let objects = try CanonicalJSON.decode(
            ImageShape.self,
            from: Array(
                try await ProcessRunner.require(
                    Command("\(TestFarm.bin)/sciferry", ["image", "inspect", "\(images.directory)/break_1.0_20260101.simg", "--json"])
                ).utf8), source: "inspect")
        let partition = try #require(objects.objects.first { $0.kind == "partition" })
        let tree = original[partition.offset..<(partition.offset + partition.size)]
        try Disk.replace("\(images.directory)/old_0.9_20180101.simg", with: Array("#!/usr/bin/env run-singularity\n".utf8) + tree)
        for name in ["break-change", "break-untagged", "huge"] {
            try Disk.replace("\(images.directory)/\(name)_1_20260101.simg", with: original)
        }
        try Disk.replace("\(images.directory)/garbage_1_20260101.simg", with: Array(repeating: 7, count: 100_000))
        var arm = original
        arm.replaceSubrange(45..<48, with: Array("04\0".utf8))
        try Disk.replace("\(images.directory)/armed_arm64_1_20260101.simg", with: arm)
        let apps = """
            {"break": {"apps": {"break 1.0": {"version": "20260101", "exec": ""},
                                "sayGUI-break 1.0": {"version": "20260101", "exec": "say window"}}, "categories": ["imaging"]},
             "old": {"apps": {"old 0.9": {"version": "20180101", "exec": ""}}, "categories": []},
             "garbage": {"apps": {"garbage 1": {"version": "20260101", "exec": ""}}},
             "others": {"apps": {"break-change 1": {"version": "20260101", "exec": ""},
                                 "break-untagged 1": {"version": "20260101", "exec": ""},
                                 "huge 1": {"version": "20260101", "exec": ""}}},
             "mute": {"apps": {"mute 1": {"version": "20260101", "exec": ""}}},
             "gone": {"apps": {"gone 1": {"version": "20260101", "exec": ""}}},
             "armed_arm64": {"apps": {"armed_arm64 1": {"version": "20260101", "exec": ""}}},
             "bad name": {"apps": {"bad name 1": {"version": "20260101", "exec": ""}}}}
            """
        try Disk.replace("\(images.scratch.path)/apps.json", with: Array(apps.utf8))
        let sum = Digest(hashing: original).hex
        try Disk.replace("\(images.scratch.path)/sums", with: Array("\(sum)  ./break_1.0_20260101.simg\n".utf8))

        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let catalogue = [
            "import", "neurodesk", "--catalog", "\(images.scratch.path)/apps.json", "--images", images.url, "--checksums",
            "\(images.scratch.path)/sums",
        ]
        let imported = try await farm.sciferry(catalogue)
        #expect(imported.succeeded && imported.text.contains("9 images, 8 without a published checksum"), "\(imported.text)")
        #expect(imported.text.contains("9 new, 0 changed") && imported.text.contains("\"bad name 1\""), "\(imported.text)")
        #expect(try await farm.sciferry(catalogue).text.contains("0 new, 0 changed, 9 known already"))
        #expect(images.requests.isEmpty)
        #expect(try await farm.jobs().isEmpty)

        // Asked for by a site; the first transfer breaks and goes on where it ended.
        let site = "\(farm.scratch.path)/site"
        let pulled = try await farm.sciferry(["pull", "break", "--site", site])
        #expect(pulled.succeeded && pulled.text.contains("has its published checksum (sha256)"), "\(pulled.text)")
        #expect(images.requests.contains("GET break_1.0_20260101.simg bytes=\(original.count / 2)-"), "\(images.requests)")
        let release = try #require(try await farm.releases().first { $0.release.name == "break" }).release
        #expect(release.image.digest.hex == sum && release.imported?.isVerified == true && release.base.origin == .image)
        #expect(release.commands == ["say", "say-too"] && release.programs?.map(\.command) == ["say window"])
        #expect(release.categories == ["imaging"] && release.tests.map(\.passed) == [true])
        #expect(try Disk.read("\(site)/images/\(sum)/image.sif", limit: 1 << 30) == original)
        let said = try await ProcessRunner.run(
            Command("\(site)/wrappers/break/1.0/bin/say-too", ["hello"], directory: farm.scratch.path, deadlineSeconds: 60))
        #expect(said.text == "tool says hello\n", "\(said.text)")

        // Without a checksum it is served too, and says so everywhere.
        let old = try await farm.sciferry(["pull", "old/0.9", "--site", site])
        #expect(old.succeeded && old.text.contains("unverified"), "\(old.text)")
        let spoken = try await ProcessRunner.run(
            Command("\(site)/wrappers/old/0.9/bin/say", ["again"], directory: farm.scratch.path, deadlineSeconds: 60))
        #expect(spoken.text == "tool says again\n", "\(spoken.text)")
        #expect(try String(contentsOfFile: "\(site)/modules/old/0.9.lua", encoding: .utf8).contains("unverified"))
        #expect(try await farm.sciferry(["list"]).text.contains("imported, unverified"))
        #expect(try await farm.sciferry(["show", "old"]).text.contains("taken in from neurodesk, old_0.9_20180101.simg"))

        // Another file since the transfer broke, and one of which the server cannot say whether it is: from the beginning.
        for name in ["break-change", "break-untagged"] {
            let fetched = try await farm.sciferry(["import", "fetch", name])
            #expect(fetched.succeeded, "\(fetched.text)")
            #expect(try await farm.releases().first { $0.release.name == name }?.release.image.digest.hex == sum)
        }
        #expect(!images.requests.contains("GET break-untagged_1_20260101.simg bytes="), "\(images.requests)")

        // Another address is no reason to fetch again what is there.
        let moved = try await farm.sciferry(catalogue.map { $0 == images.url ? "\(images.url)/moved" : $0 })
        #expect(moved.text.contains("0 new, 9 changed"), "\(moved.text)")
        let again = try await farm.sciferry(["import", "fetch", "break", "old/0.9"])
        #expect(again.succeeded && again.text.contains("nothing to build"), "\(again.text)")
        #expect(try await farm.sciferry(catalogue).succeeded)

        // One that does not start here is served, and said to be so.
        let mute = try await farm.sciferry(["pull", "mute", "--site", site])
        #expect(mute.succeeded && mute.text.contains("note    it did not start on w1"), "\(mute.text)")

        // An image for other machines needs none of them to be taken in.
        let armed = try await farm.sciferry(["import", "fetch", "armed"])
        #expect(armed.succeeded, "\(armed.text)")
        #expect(try await farm.releases().first { $0.release.name == "armed" }?.release.image.target == "aarch64")

        // What is none, is not there, or is another file is told, and nothing of it is released.
        for (name, words) in [
            ("garbage", "this is no usable SIF image"), ("gone", "answers with status 404"),
            ("huge", "says that it has 9223372036854775807"),
        ] {
            let refused = try await farm.sciferry(["pull", name, "--site", site])
            #expect(refused.status == 1 && refused.text.contains(words), "\(refused.text)")
        }
        let wrong = try await farm.sciferry([
            "import", "image", "\(images.url)/old_0.9_20180101.simg", "--name", "wrong", "--version", "1", "--checksum",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
        ])
        #expect(wrong.status == 1 && wrong.text.contains("[import.checksum]"), "\(wrong.text)")
        // The second place is asked where the first has something else.
        let second = CatalogueEntry(
            name: "second", version: "1", architecture: "x86_64",
            source: ImportSource(
                catalogue: "test", file: "x.sif",
                locations: ["\(images.url)/garbage_1_20260101.simg", "file:///nowhere/x.sif", "\(images.url)/break_1.0_20260101.simg"]),
            commands: ["say", "misspelt"])
        let answer = try await farm.post("/api/v1/imports", ImportRequest(entries: [second]))
        #expect(answer.contains("\"added\":1"), "\(answer)")
        #expect(try await farm.sciferry(["import", "fetch", "second"]).succeeded)
        #expect(try await farm.releases().first { $0.release.name == "second" }?.release.commands == ["say", "say-too"])
        #expect(
            Set(try await farm.releases().map(\.release.name)) == [
                "break", "break-change", "break-untagged", "old", "mute", "armed", "second",
            ])
        let list = try await farm.sciferry(["import", "list"])
        #expect(list.text.contains(/garbage +1 .* failed/) && list.text.contains(/break +1\.0 .* released +sha256/), "\(list.text)")
        let all = try await farm.sciferry(["import", "fetch", "--all", "neurodesk"])
        #expect(all.succeeded && all.text.isEmpty, "everything was tried: \(all.text)")
        let unknown = try await farm.sciferry(["pull", "nobody", "--site", site])
        #expect(unknown.status == 66 && unknown.text.contains("[channel.absent]"), "\(unknown.text)")
    }

    /// BioContainers by their names, in a directory that the worker sees, and read there.
    @Test(.timeLimit(.minutes(5))) func biocontainersAreFoundByTheirPackages() async throws {
        let images = try await ForeignImages()
        func package(_ name: String, _ version: String) -> String {
            """
            RUN mkdir -p /usr/local/bin /usr/local/conda-meta && printf '#!/bin/sh\\necho \(name) \(version)\\n' > /usr/local/bin/\(name) \
              && chmod 755 /usr/local/bin/\(name) && printf '{"name": "\(name)", "version": "\(version)", "build": "h0", \
            "files": ["bin/\(name)", "lib/x", "bin/gone"]}' > /usr/local/conda-meta/\(name)-\(version)-h0.json
            """
        }
        let path = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
        try await images.make("samtools:1.9--h91753b0_8", "\(package("samtools", "1.9"))\n\(package("ncurses", "6"))\n\(path)")
        let several = "mulled-v2-8186960447c5cb2faa697666dc1e6d919ad23f3e:a6419f25efff953fc505dbd5ee734856180bb619-0"
        try await images.make(several, "\(package("samtools", "1.3.1"))\n\(package("bedtools", "2.26.0"))\n\(path)")
        let listing = "samtools:1.9--h91753b0_8\nsamtools:1.9--0_7\n\(several)\n"
        try Disk.replace("\(images.scratch.path)/names", with: Array(listing.utf8))
        let combinations = "#targets\tbase_image\timage_build\nsamtools=1.3.1,bedtools=2.26.0\tbgruening/busybox-bash:0.1\t0\n"
        try Disk.replace("\(images.scratch.path)/hash.tsv", with: Array(combinations.utf8))

        let farm = try await TestFarm()
        try await farm.up(workers: ["w1"])
        let imported = try await farm.sciferry([
            "import", "depot", "--listing", "\(images.scratch.path)/names", "--images", images.directory, "--combinations",
            "\(images.scratch.path)/hash.tsv",
        ])
        #expect(imported.succeeded && imported.text.contains("2 new"), "\(imported.text)")
        #expect(try await farm.sciferry(["import", "list", "bedtools"]).text.contains("bedtools 2.26.0, samtools 1.3.1"))
        let site = "\(farm.scratch.path)/site"
        for wish in ["samtools:1.9--h91753b0_8", "samtools=1.3.1,bedtools=2.26.0"] {
            let pulled = try await farm.sciferry(["pull", wish, "--site", site])
            #expect(pulled.succeeded, "\(pulled.text)")
        }
        let single = try #require(try await farm.releases().first { $0.release.name == "samtools" }).release
        #expect(single.version == "1.9" && single.commands == ["samtools"])
        #expect(single.image.digest == Digest(hashing: try images.bytes("samtools:1.9--h91753b0_8")))
        let tag = "a6419f25efff953fc505dbd5ee734856180bb619-0"
        let said = try await ProcessRunner.run(
            Command(
                "\(site)/wrappers/mulled-v2-8186960447c5cb2faa697666dc1e6d919ad23f3e/\(tag)/bin/bedtools", [],
                directory: farm.scratch.path, deadlineSeconds: 60))
        #expect(said.text == "bedtools 2.26.0\n", "\(said.text)")
        // What is there by now needs nobody's leave.
        let repeated = try await farm.remote("reader", ["pull", "samtools=1.3.1,bedtools=2.26.0", "--site", "\(site)-2"])
        #expect(repeated.succeeded, "\(repeated.text)")
        #expect(try await farm.jobs().count == 2)
        let refused = try await farm.remote("reader", ["import", "fetch", "samtools"])
        #expect(refused.status == 77, "\(refused.text)")
        // A file that no worker sees is not there for the command either.
        try Disk.remove("\(images.directory)/\(several)")
        let gone = try await farm.sciferry(["import", "image", "\(images.directory)/\(several)", "--name", "gone", "--version", "1"])
        #expect(gone.status == 66 && gone.text.contains("[file.absent]"), "\(gone.text)")
    }
}

/// What `image inspect --json` says, as far as it is wanted here.
private struct ImageShape: Decodable {
    struct Object: Decodable {
        var kind: String
        var offset: Int
        var size: Int
    }
    var objects: [Object]
}
