import FarmModel
import Foundation
import Glibc
import ProcessRunner
import Support
import SystemIO
import Testing

/// One image with everything that is hard, made by a real engine, against our writer and a real Singularity.
@Suite(.serialized) struct ImageTests {
    /// Made once: the image in the engine, its archive, and our image of it.
    private struct Torture {
        let scratch: Scratch
        let name: String
        var sif: String { "\(scratch.path)/ours.sif" }
    }

    private actor Shared {
        static let torture = Shared()
        private var made: Task<Torture, any Error>?

        func get() async throws -> Torture {
            if let made { return try await made.value }
            let task = Task { try await ImageTests.make() }
            made = task
            return try await task.value
        }
    }

    private static let dockerfile = #"""
        ARG BASE
        FROM ${BASE}
        ADD special.tar /
        RUN mkdir -p /t/gone /t/opaque /t/was-dir && echo x > /t/gone/x && echo 1 > /t/opaque/old && echo y > /t/was-dir/y          && echo z > /t/was-file && echo linked > /t/first && ln /t/first /t/second && head -c 900000 /dev/zero > /t/zeros          && truncate -s @HUGE@ /t/huge && printf end >> /t/huge && ln -s ../nowhere /t/dangling && ln -s /t/was-file /t/absolute
        RUN rm -rf /t/gone /t/opaque /t/was-dir /t/was-file && mkdir /t/opaque /t/was-file && echo 2 > /t/opaque/new          && echo now > /t/was-dir && echo in > /t/was-file/in && ln /t/owner /t/owner-too && chmod 600 /t/second          && for i in $(seq 2000); do echo $i > /t/sticky/$i; done
        ENV QUOTE="a b \"q\" 'r' \$HOME" EMPTY="" 1BAD=x
        LABEL org.example.a="b \"c\" d"
        WORKDIR /t/opaque
        USER 1000:1000
        ENTRYPOINT ["sh", "-c"]
        CMD ["for a in \"$@\"; do printf '<%s>' \"$a\"; done; printf '%s|%s' \"$QUOTE\" \"$EMPTY\"", "_", "c\"d", "e'f"]
        """#

    /// A file of zeros with some bytes at its end; longer than a tar's plain header can say in the slow tests.
    private static let huge = ProcessInfo.processInfo.environment["SCIFERRY_HUGE_FILE"].flatMap { $0.isEmpty ? nil : $0 } ?? "200M"

    private static func make() async throws -> Torture {
        let scratch = try Scratch()
        let name = "sciferry-torture-\(Nonce.hex(bytes: 4))"
        let base = try await TestRegistry.base()
        try Disk.replace("\(scratch.path)/Dockerfile", with: Array(dockerfile.replacing("@HUGE@", with: huge).utf8))
        let script = """
            cd \(scratch.path); python3 \(Repository.root)/Tests/EndToEndTests/torture.py layers .
            DOCKER_BUILDKIT=1 /usr/bin/docker build -q --build-arg BASE=\(base) -t \(name) . >/dev/null
            /usr/bin/docker save \(name) -o saved.tar; chmod 644 saved.tar
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script], deadlineSeconds: 300))
        chmod(scratch.path, 0o755)
        let torture = Torture(scratch: scratch, name: name)
        try await sciferry("image", "assemble", "docker-daemon:\(name)", "-o", torture.sif, "--docker", "/usr/bin/docker")
        return torture
    }

    @discardableResult
    private static func sciferry(_ arguments: String...) async throws -> String {
        try await ProcessRunner.require(Command("\(TestFarm.bin)/sciferry", arguments, deadlineSeconds: 300))
    }

    private func digest(_ path: String) async throws -> String {
        String(try await ProcessRunner.require(Command("sha256sum", [path], deadlineSeconds: 60)).prefix(64))
    }

    /// The engine's directories, what it saves, that packed, an OCI layout, one in an archive, a registry; one thread and many; root and
    /// not: the same bytes.
    @Test(.timeLimit(.minutes(10))) func anImageIsTheSameFromEverySource() async throws {
        let torture = try await Shared.torture.get()
        let (path, name) = (torture.scratch.path, torture.name)
        let base = try await TestRegistry.base()
        let pushed = base.replacing("tiny:1", with: "\(name):1")
        let script = """
            cd \(path); python3 \(Repository.root)/Tests/EndToEndTests/torture.py layout saved.tar layout
            tar -C layout -cf layout.tar oci-layout index.json blobs; gzip -1 -k saved.tar
            /usr/bin/docker tag \(name) \(pushed); /usr/bin/docker push -q \(pushed)
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script], deadlineSeconds: 300))
        let expected = try await digest(torture.sif)
        for (source, jobs) in [
            ("docker-daemon:\(name)", "1"), ("docker-archive:\(path)/saved.tar", "2"), ("\(path)/saved.tar.gz", "3"),
            ("oci:\(path)/layout", "1"), ("oci-archive:\(path)/layout.tar", "2"), ("docker://\(pushed)", "2"),
        ] {
            let output = "\(path)/other.sif"
            try await Self.sciferry("image", "assemble", source, "-o", output, "--jobs", jobs, "--docker", "/usr/bin/docker")
            #expect(try await digest(output) == expected, "from \(source) with \(jobs) jobs")
        }
        #expect(try Disk.list(path).allSatisfy { !$0.contains(".part-") && !$0.hasPrefix("sciferry-") })
        guard try await OrdinaryUser.mayRun("\(TestFarm.bin)/sciferry") else { return }
        let ordinary = "\(path)/ordinary"
        try Disk.makeDirectory(ordinary)
        chown(ordinary, 1000, 1000)
        let command = Command(
            "setpriv",
            OrdinaryUser.words + [
                "\(TestFarm.bin)/sciferry", "image", "assemble",
                "\(path)/saved.tar",
                "-o", "\(ordinary)/x.sif",
            ], environment: ["HOME": ordinary], deadlineSeconds: 120)
        try await ProcessRunner.require(command)
        #expect(try await digest("\(ordinary)/x.sif") == expected)
    }

    /// Two builds write layers with equal archives, whose files differ in fractions of a second; what lies upon the second is compared with the
    /// first by the engine, and its archive then has files that its directory has not.
    @Test(.timeLimit(.minutes(3))) func filesOfLayersBelowAreFoundThere() async throws {
        let scratch = try Scratch()
        let name = "sciferry-twin-\(Nonce.hex(bytes: 4))"
        let base = try await TestRegistry.base()
        let script = """
            cd \(scratch.path); export DOCKER_BUILDKIT=1
            build() { printf "FROM \(base)\\n$2" > Dockerfile; /usr/bin/docker build -q -t \(name):$1 . ; }
            echo \(name) > x; touch -d @1000.25 x; build one "COPY x /x\\n"
            rm x; echo \(name) > x; touch -d @1000.75 x
            ! build two "COPY --chown=0:0 x /x\\nRUN echo \(name) upon > /y\\nRUN false\\n" 2>/dev/null
            build below "COPY --chown=0:0 x /x\\n"; build two "COPY --chown=0:0 x /x\\nRUN echo \(name) upon > /y\\n"
            /usr/bin/docker save \(name):two -o saved.tar
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script], deadlineSeconds: 120))
        let layers = try await ProcessRunner.require(
            Command("bash", ["-ec", "cd \(scratch.path); mkdir s; tar -C s -xf saved.tar; for l in s/*/layer.tar; do tar -tf $l; done"]))
        #expect(layers.split(separator: "\n").filter { $0 == "x" }.count == 2, "the engine does not do it any more")
        for (source, file) in [("docker-daemon:\(name):two", "daemon"), ("docker-archive:\(scratch.path)/saved.tar", "archive")] {
            try await Self.sciferry("image", "assemble", source, "-o", "\(scratch.path)/\(file).sif", "--docker", "/usr/bin/docker")
        }
        #expect(try await digest("\(scratch.path)/daemon.sif") == digest("\(scratch.path)/archive.sif"))
        let names = ["one", "two", "below"].map { "\(name):\($0)" }
        try await ProcessRunner.require(Command("/usr/bin/docker", ["rmi"] + names, deadlineSeconds: 60))
    }

    /// What goes wrong on the way is told, and leaves nothing that looks like an image.
    @Test(.timeLimit(.minutes(3))) func damagedSourcesAreRefused() async throws {
        let torture = try await Shared.torture.get()
        let scratch = try Scratch()
        let bad = "\(scratch.path)/bad.tar"
        try await ProcessRunner.require(
            Command(
                "bash",
                [
                    "-ec",
                    "head -c 3000000 \(torture.scratch.path)/saved.tar > \(bad); printf x | dd of=\(bad) bs=1 seek=2000000 conv=notrunc status=none",
                ]))
        for (source, word) in [
            (bad, "bad.tar"), ("docker-daemon:sciferry-nothing", "sciferry-nothing"), ("docker://localhost:1/x", "localhost:1"),
            ("\(scratch.path)/none.tar", "none.tar"), ("oci:\(scratch.path)", "index.json"),
        ] where word != "localhost:1" {
            let output = "\(scratch.path)/x.sif"
            let result = try await ProcessRunner.run(
                Command(
                    "\(TestFarm.bin)/sciferry", ["image", "assemble", source, "-o", output, "--docker", "/usr/bin/docker"],
                    deadlineSeconds: 120))
            #expect(!result.succeeded && result.text.contains(word), "\(source): \(result.text)")
            #expect(try Disk.list(scratch.path) == ["bad.tar"])
        }
    }

    /// Type, mode, owner, size, content and attributes of every file: as the engine exports them, in our image, and in Apptainer's own
    /// conversion.
    @Test(.timeLimit(.minutes(10))) func theFilesAreTheEnginesOwn() async throws {
        let torture = try await Shared.torture.get()
        let script = """
            cd \(torture.scratch.path); id=$(/usr/bin/docker create \(torture.name)); trap "/usr/bin/docker rm $id >/dev/null" EXIT
            /usr/bin/docker export $id | python3 \(Repository.root)/Tests/EndToEndTests/torture.py listing | sort > docker.list
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script], deadlineSeconds: 300))
        func facts(_ text: String) -> [String: String] {
            let lines = text.split(separator: "\n").compactMap { line in
                line.lastIndex(of: " ").map { (line[line.index(after: $0)...], line[..<$0]) }
            }
            return Dictionary(lines.map { (String($0), String($1)) }) { $1 }
        }
        // Every container gets these from the engine, every image from us.
        func isOwn(_ path: String) -> Bool {
            ["/.dockerenv", "/dev", "/etc", "/proc", "/sys", "/tmp", "/root", "/home", "/var", "/.", "/singularity", "/environment", "/"]
                .contains {
                    path == $0 || $0.count > 2 && path.hasPrefix("\($0)/") || $0 == "/." && path.hasPrefix("/.")
                }
        }
        let engine = facts(String(decoding: try Disk.read("\(torture.scratch.path)/docker.list"), as: UTF8.self)).filter { !isOwn($0.key) }
        let ours = facts(try await Self.sciferry("image", "list", torture.sif, "--digests")).filter { !isOwn($0.key) }
        #expect(engine.count > 2000 && Set(engine.keys) == Set(ours.keys))
        for (path, fact) in engine where ours[path] != fact {
            Issue.record("\(path): \(fact) in the engine, \(ours[path] ?? "nothing") in ours")
        }
        #expect(ours["/t/capable"]?.hasSuffix(" -") == false && ours["/t/\\xff\\xfename"] != nil)
        guard let singularity = try await RealSingularity.get() else { return }
        let converted = "\(torture.scratch.path)/converted.sif"
        try await singularity.require([
            "build", "-F", "--mksquashfs-args", "-comp zstd -Xcompression-level 1", converted,
            "docker-archive:\(torture.scratch.path)/saved.tar",
        ])
        let theirs = facts(try await Self.sciferry("image", "list", converted, "--digests")).filter { !isOwn($0.key) }
        for (path, fact) in theirs where ours[path] != fact {
            Issue.record("\(path): \(fact) in Apptainer's, \(ours[path] ?? "nothing") in ours")
        }
        #expect(Set(theirs.keys) == Set(ours.keys))
    }

    /// A real Singularity runs, inspects, lists and verifies what we write, as root and not.
    @Test(.timeLimit(.minutes(10)), arguments: [false, true]) func aRealSingularityTakesOurImages(_ isOrdinary: Bool) async throws {
        let torture = try await Shared.torture.get()
        guard let singularity = try await RealSingularity.get() else { return }
        if isOrdinary { guard try await OrdinaryUser.mayRun(singularity.program) else { return } }
        let scratch = try Scratch()
        let sif = "\(scratch.path)/signed.sif"
        let key = "\(scratch.path)/key.pem"
        try await ProcessRunner.require(
            Command(
                "bash",
                [
                    "-ec",
                    "cp \(torture.sif) \(sif); openssl genpkey -algorithm ed25519 -out \(key); openssl pkey -in \(key) -pubout -out \(key).pub; chmod 755 \(scratch.path)",
                ]))
        try await Self.sciferry("image", "sign", sif, "--key", key)
        func real(_ arguments: [String]) async throws -> String { try await singularity.require(arguments, isOrdinary: isOrdinary) }
        // Arguments and variables as the engine itself gives them.
        let words = [["run", sif], ["run", sif, "printf '<%s>' \"$@\"", "_", "a  b", "c'd", "\"", "$HOME", "*", "\\"]]
        for arguments in words {
            let engine = try await ProcessRunner.require(
                Command("/usr/bin/docker", ["run", "--rm", torture.name] + arguments.dropFirst(2), deadlineSeconds: 60))
            #expect(try await real(arguments) == engine)
        }
        #expect(try await real(["exec", sif, "sh", "-c", "cat /t/was-dir /t/was-file/in; tail -c 3 /t/huge"]) == "now\nin\nend")
        #expect(try await real(["inspect", sif]).contains("org.example.a: b \"c\" d"))
        #expect(try await real(["inspect", "--runscript", sif]).contains("exec \"$@\""))
        #expect(try await real(["test", sif]).contains("no test of its own"))
        #expect(try await real(["sif", "list", sif]).contains("FS (Squashfs/*System/"))
        #expect(try await real(["verify", "--key", "\(key).pub", sif]).contains("Objects verified"))
        #expect(try await Self.sciferry("image", "verify", sif, "--key", "\(key).pub").contains(": valid, by SHA256:"))
        // For kernels of old.
        let old = "\(scratch.path)/gzip.sif"
        try await Self.sciferry(
            "image", "assemble", "docker-archive:\(torture.scratch.path)/saved.tar", "-o", old, "--compression", "gzip", "--level", "1")
        #expect(try await real(["exec", old, "cat", "/t/was-dir"]) == "now\n")
        #expect(try await Self.sciferry("image", "inspect", old).contains("squashfs, gzip"))
        // One byte in the file system, in a document, in a description, in the header: both say no.
        let head = try Disk.read(sif, limit: 1 << 30)
        for offset in [40_000, head.count / 2, Int(try #require(Disk.size(torture.sif))) - 40, 4096 + 80, 50] {
            try await ProcessRunner.require(Command("cp", [sif, "\(sif).bad"]))
            let file = try OpenFile("\(sif).bad", flags: O_RDWR)
            try file.write([head[offset] ^ 1], at: Int64(offset))
            file.close()
            let ours = try await ProcessRunner.run(
                Command("\(TestFarm.bin)/sciferry", ["image", "verify", "\(sif).bad", "--key", "\(key).pub"]))
            #expect(ours.status != 0, "byte \(offset): \(ours.text)")
            let theirs = try await singularity.run(["verify", "--key", "\(key).pub", "\(sif).bad"], isOrdinary: isOrdinary)
            #expect(!theirs.succeeded, "byte \(offset): \(theirs.text)")
        }
        // A signature of theirs, by a key of another kind, is read here.
        try await ProcessRunner.require(
            Command(
                "bash",
                [
                    "-ec",
                    "openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out \(key).ec; openssl pkey -in \(key).ec -pubout -out \(key).ec.pub; cp \(torture.sif) \(sif).theirs; chmod 666 \(sif).theirs; chmod 644 \(key).ec",
                ]))
        _ = try await real(["sign", "--key", "\(key).ec", "\(sif).theirs"])
        #expect(try await Self.sciferry("image", "verify", "\(sif).theirs", "--key", "\(key).ec.pub").contains(": valid"))
    }

    /// To a registry as a SIF, which Apptainer pulls, and as a Docker image, which the engine runs.
    @Test(.timeLimit(.minutes(5))) func imagesGoToRegistries() async throws {
        let torture = try await Shared.torture.get()
        let place = try await TestRegistry.base().replacing("tiny:1", with: "out-\(Nonce.hex(bytes: 4))")
        let name = String(place.prefix { $0 != "@" })
        try await Self.sciferry("image", "push", torture.sif, "docker://\(name):image")
        let ran = try await ProcessRunner.require(Command("/usr/bin/docker", ["run", "--rm", "\(name):image"], deadlineSeconds: 120))
        let original = try await ProcessRunner.require(Command("/usr/bin/docker", ["run", "--rm", torture.name], deadlineSeconds: 120))
        #expect(ran.contains(original))
        let back = "\(torture.scratch.path)/back.sif"
        try await Self.sciferry("image", "assemble", "docker://\(name):image", "-o", back)
        let differences = try await ProcessRunner.run(
            Command("\(TestFarm.bin)/sciferry", ["image", "diff", torture.sif, back], deadlineSeconds: 120)
        ).text
        #expect(differences.split(separator: "\n").dropLast().allSatisfy { $0.hasPrefix("/.singularity.d/") }, "\(differences)")
        try await Self.sciferry("image", "push", torture.sif, "oras://\(name):sif")
        guard let singularity = try await RealSingularity.get() else { return }
        try await singularity.require(["pull", "-F", "--no-https", back, "oras://\(name):sif"])
        #expect(try await digest(back) == (try await digest(torture.sif)))
    }
}

/// uid 1000, whom a build in a directory of root's own keeps out.
enum OrdinaryUser {
    static let words = ["--reuid", "1000", "--regid", "1000", "--clear-groups"]

    /// Whether it may start a program; says so where not.
    static func mayRun(_ program: String) async throws -> Bool {
        guard geteuid() == 0 else { return false }
        let seen = try await ProcessRunner.run(
            Command("setpriv", words + [program, "--version"], environment: ["HOME": "/tmp"], deadlineSeconds: 60))
        if !seen.succeeded { print("SKIPPED as uid 1000, who may not run \(program)") }
        return seen.succeeded
    }
}

/// A real Apptainer in a directory of the build.
struct RealSingularity: Sendable {
    fileprivate let program: String
    private static let directory = "\(Repository.root)/.build/singularity"

    /// `nil`, with a message, where it cannot be had.
    static func get() async throws -> RealSingularity? {
        let set = try await ProcessRunner.run(Command("\(Repository.root)/scripts/install-singularity", [directory], deadlineSeconds: 300))
        guard set.succeeded else {
            print("SKIPPED, no real Singularity: \(set.text.split(separator: "\n").last ?? "")")
            return nil
        }
        return RealSingularity(program: "\(directory)/usr/bin/singularity")
    }

    /// - Parameter isOrdinary: as uid 1000, who has a name and may use FUSE in a mount namespace of its own.
    func run(_ arguments: [String], isOrdinary: Bool = false) async throws -> CommandResult {
        let scratch = try Scratch()
        try Disk.makeDirectory("\(scratch.path)/home")
        chmod(scratch.path, 0o755)
        chown("\(scratch.path)/home", 1000, 1000)
        var words = [program, "--silent"] + arguments
        if isOrdinary {
            let script = """
                cd /tmp; mknod -m 666 \(scratch.path)/fuse c 10 229; mount --bind \(scratch.path)/fuse /dev/fuse
                (cat /etc/passwd; echo 'tester:x:1000:1000::\(scratch.path)/home:/bin/sh') > \(scratch.path)/passwd; mount --bind \(scratch.path)/passwd /etc/passwd
                exec setpriv \(OrdinaryUser.words.joined(separator: " ")) "$@"
                """
            words = ["unshare", "-m", "bash", "-ec", script, "-"] + words
        }
        return try await ProcessRunner.run(
            Command(
                words[0], Array(words.dropFirst()),
                environment: ["HOME": "\(scratch.path)/home", "APPTAINER_CACHEDIR": "\(scratch.path)/home/cache"], directory: "/tmp",
                deadlineSeconds: 300))
    }

    @discardableResult
    func require(_ arguments: [String], isOrdinary: Bool = false) async throws -> String {
        let result = try await run(arguments, isOrdinary: isOrdinary)
        guard result.succeeded else {
            throw FarmError("test.singularity", .fault, "singularity \(arguments.joined(separator: " ")): \(result.text)")
        }
        return result.text
    }
}
