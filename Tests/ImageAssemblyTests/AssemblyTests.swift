import SingularityImage
import FarmModel
import Foundation
import ImageAssembly
import ProcessRunner
import Support
import SystemIO
import Testing

/// Layers made by Python's tarfile, merged by us, listed by squashfs-tools.
@Suite(.serialized) struct AssemblyTests {
    private static let maker = """
        import hashlib, io, json, sys, tarfile
        def layer(entries):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, kind, extra in entries:
                    info = tarfile.TarInfo(name)
                    info.mtime = 1700000000
                    info.uid, info.gid = 7, 8
                    data = b""
                    if kind == "file":
                        data = extra if isinstance(extra, bytes) else extra.encode()
                        info.size, info.mode = len(data), 0o4755 if name.endswith("setuid") else 0o644
                    elif kind == "dir": info.type, info.mode = tarfile.DIRTYPE, 0o755
                    elif kind == "link": info.type, info.linkname, info.mode = tarfile.SYMTYPE, extra, 0o777
                    elif kind == "hard": info.type, info.linkname = tarfile.LNKTYPE, extra
                    elif kind == "fifo": info.type, info.mode = tarfile.FIFOTYPE, 0o600
                    elif kind == "char": info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
                    tar.addfile(info, io.BytesIO(data))
            return out.getvalue()
        long = "deep/" * 30 + "x" * 120
        layers = [
            layer([("etc", "dir", None), ("etc/a", "file", "old"), ("etc/b", "file", "keep"), ("gone", "dir", None),
                   ("gone/x", "file", "x"), ("opaque", "dir", None), ("opaque/old", "file", "1"), ("was-dir", "dir", None),
                   ("was-dir/y", "file", "y"), ("was-file", "file", "z"), ("first", "file", "hard linked"),
                   ("big", "file", bytes(range(256)) * 2000), ("sparse", "file", bytes(900000))]),
            layer([("etc/.wh.a", "file", ""), (".wh.gone", "file", ""), ("opaque/new", "file", "2"),
                   ("opaque/.wh..wh..opq", "file", ""), ("was-dir", "file", "now a file"), ("was-file", "dir", None),
                   ("was-file/in", "file", "in"), ("second", "hard", "first"), ("link", "link", "etc/b"), ("pipe", "fifo", None),
                   ("null", "char", None), ("setuid", "file", "#!/bin/sh"), (long, "file", "long"),
                   ("caf\\u00e9", "file", "utf8")]),
        ]
        config = {"config": {"Env": ["PATH=/usr/bin", "QUOTE=a b \\"q\\" $HOME"], "Entrypoint": ["run me"], "Cmd": ["c'd"]},
                  "rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
        with tarfile.open(sys.argv[1], "w") as tar:
            def add(name, data):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for index, data in enumerate(layers): add(f"l{index}/layer.tar", data)
            add("config.json", json.dumps(config).encode())
            add("manifest.json", json.dumps([{"Config": "config.json", "Layers": ["l0/layer.tar", "l1/layer.tar"]}]).encode())
        """

    private func archive(_ scratch: Scratch) async throws -> String {
        let path = "\(scratch.path)/image.tar"
        try Disk.replace("\(scratch.path)/make.py", with: Array(Self.maker.utf8))
        try await ProcessRunner.require(Command("python3", ["\(scratch.path)/make.py", path]))
        return path
    }

    private func assemble(_ archive: String, _ output: String, jobs: Int = 2) throws -> ImageAssembler.Report {
        try ImageAssembler(machine: "x86_64", format: ImageFormat(), jobs: jobs)
            .assemble(
                LayeredImage.archive(archive, machine: "x86_64", room: .init(scratch: "/tmp")), to: output,
                papers: ImagePapers(labels: ["org.sciferry.name": "t"]))
    }

    @Test(.timeLimit(.minutes(2))) func layersMergeAsTheSpecificationSays() async throws {
        let scratch = try Scratch()
        let sif = "\(scratch.path)/x.sif"
        let report = try assemble(try await archive(scratch), sif)
        try await ProcessRunner.require(
            Command("unsquashfs", ["-o", String(report.partition.offset), "-d", "\(scratch.path)/out", sif]))
        func text(_ path: String) -> String? { (try? Disk.read("\(scratch.path)/out/\(path)")).map { String(decoding: $0, as: UTF8.self) } }
        #expect(text("etc/a") == nil && text("etc/b") == "keep")
        #expect(!Disk.exists("\(scratch.path)/out/gone"))
        #expect(text("opaque/old") == nil && text("opaque/new") == "2")
        #expect(text("was-dir") == "now a file" && text("was-file/in") == "in")
        #expect(text("first") == "hard linked" && text("second") == "hard linked" && text("link") == "keep")
        #expect(text("café") == "utf8" && text(String(repeating: "deep/", count: 30) + String(repeating: "x", count: 120)) == "long")
        #expect(Disk.size("\(scratch.path)/out/big") == 512_000 && Disk.size("\(scratch.path)/out/sparse") == 900_000)
        let list = try await ProcessRunner.require(Command("unsquashfs", ["-o", String(report.partition.offset), "-lln", sif]))
        let lines = list.split(separator: "\n")
        #expect(lines.contains { $0.hasPrefix("prw-------") && $0.hasSuffix("/pipe") })
        #expect(lines.contains { $0.hasPrefix("c") && $0.hasSuffix("/null") && $0.contains("1,  3") })
        #expect(lines.contains { $0.hasPrefix("-rwsr-xr-x 7/8") && $0.hasSuffix("/setuid") })
        let environment = try #require(text(".singularity.d/env/10-docker2singularity.sh"))
        let value = try await ProcessRunner.require(Command("sh", ["-c", "unset QUOTE; \(environment)\nprintf %s \"$QUOTE\""]))
        #expect(value == "a b \"q\" $HOME")
        let run = try #require(text(".singularity.d/runscript"))
        #expect(run.contains("set -- 'run me' \"$@\"") && run.contains(#"set -- 'c'\''d'"#))
    }

    /// What is read back is what was written: every entry, with owner, size, content and attributes.
    @Test(.timeLimit(.minutes(2))) func anImageIsReadAsItWasWritten() async throws {
        let scratch = try Scratch()
        let sif = "\(scratch.path)/x.sif"
        let report = try assemble(try await archive(scratch), sif)
        let file = try OpenFile(sif, flags: O_RDONLY)
        defer { file.close() }
        let reader = try SquashfsReader(file, report.partition)
        let listing = try ImageListing(reader)
        for (path, facts) in report.listing.facts where path != "/" { #expect(listing.facts[path] == facts, "\(path)") }
        let more = Set(listing.facts.keys).subtracting(report.listing.facts.keys)
        #expect(more.contains("/.singularity.d/runscript") && report.listing.facts.count > 20)
        #expect(reader.summary.compression == "zstd" && reader.summary.blockSize == 131_072)
        #expect(listing.differences(from: listing, names: ("a", "b")).isEmpty)
        let names = ("a", "b")
        #expect(report.listing.differences(from: listing, names: names).allSatisfy { more.contains($0.path) || $0.path == "/" })
        var paths: [[UInt8]] = []
        try reader.walk { entry, _ in paths.append(entry.path) }
        #expect(Set(paths).count == paths.count && paths.first == Array("/".utf8))
    }

    /// File systems of squashfs-tools, with fragments, in every compression that images of others have.
    @Test(.timeLimit(.minutes(2)), arguments: ["gzip", "xz", "lz4", "zstd"]) func foreignFileSystemsAreRead(_ compression: String)
        async throws
    {
        let scratch = try Scratch()
        let script = """
            cd \(scratch.path); mkdir -p tree/deep/er; cd tree
            printf small > small; ln small same; ln -s ../x deep/link; mkfifo pipe; chmod 4711 small
            head -c 700000 /dev/zero > sparse; seq 200000 > numbers; printf x > "deep/er/a b"; : > empty
            for i in $(seq 300); do echo $i > deep/er/$i; done
            setfattr -n user.note -v kept numbers 2>/dev/null || true
            cd ..; mksquashfs tree image -comp \(compression) -no-progress -quiet -all-time 1700000000 >/dev/null
            cd tree; find . -type f -printf 'f %m %U %G %s %p\\n' | sort > ../files; sha256sum numbers sparse | cut -c1-64 > ../sums
            """
        try await ProcessRunner.require(Command("bash", ["-ec", script]))
        let file = try OpenFile("\(scratch.path)/image", flags: O_RDONLY)
        let reader = try SquashfsReader(file, .init(offset: 0, size: try file.size()))
        #expect(reader.summary.compression == compression)
        var files: [String] = []
        var others: [String: Character] = [:]
        try reader.walk { entry, _ in
            let path = String(decoding: entry.path, as: UTF8.self)
            if entry.kind == "f" {
                files.append("f \(String(entry.mode, radix: 8)) \(entry.owner) \(entry.group) \(entry.size) .\(path)")
            } else {
                others[path] = entry.kind
            }
        }
        let expected = String(decoding: try Disk.read("\(scratch.path)/files"), as: UTF8.self).split(separator: "\n").map(String.init)
        #expect(files.sorted() == expected.sorted())
        #expect(others == ["/": "d", "/deep": "d", "/deep/er": "d", "/deep/link": "l", "/pipe": "p"])
        let listing = try ImageListing(reader)
        let sums = String(decoding: try Disk.read("\(scratch.path)/sums"), as: UTF8.self).split(separator: "\n").map(String.init)
        #expect(
            [listing.facts["/numbers"], listing.facts["/sparse"]].map { $0?.split(separator: " ").dropFirst(5).first.map(String.init) }
                == sums)
        // By name, without a walk.
        #expect(try reader.bytes(of: "/deep/er/a b", limit: 9) == Array("x".utf8))
        #expect(try reader.bytes(of: "numbers", limit: 5) == Array("1\n2\n3".utf8) && reader.bytes(of: "/empty", limit: 5) == [])
        for path in ["/nothing", "/deep", "/small/x", "/deep/link", ""] { #expect(try reader.bytes(of: path, limit: 9) == nil, "\(path)") }
        #expect(try reader.find("/deep/er") { entry, _ in entry.kind } == "d")
        #expect(listing.facts["/small"] == listing.facts["/same"] && listing.facts["/deep/link"]?.contains(" ../x ") == true)
    }

    /// Bits flipped anywhere in the file system: read with the right bytes, with others, or refused; never a crash.
    @Test(.timeLimit(.minutes(2))) func damagedImagesAreRefusedOrRead() async throws {
        let scratch = try Scratch()
        let sif = "\(scratch.path)/x.sif"
        let report = try assemble(try await archive(scratch), sif)
        let whole = try Disk.read(sif)
        var refused = 0
        for seed in 0..<150 {
            var generator = SeededGenerator(UInt64(seed))
            var bytes = whole
            let start = Int(report.partition.offset)
            for _ in 0..<6 {
                // Half of them in the tables at the end, and some in the super block.
                let place = seed % 3 == 0 ? Int(generator.next() % 96) : bytes.count - start - 1 - Int(generator.next() % 16_000)
                bytes[start + max(0, place)] = UInt8(truncatingIfNeeded: generator.next())
            }
            if seed % 10 == 0 { bytes = Array(bytes.prefix(start + Int(generator.next() % UInt64(bytes.count - start)))) }
            try Disk.replace(sif, with: bytes)
            let file = try OpenFile(sif, flags: O_RDONLY)
            defer { file.close() }
            do { _ = try ImageListing(SquashfsReader(file, .init(offset: Int64(start), size: Int64(bytes.count - start)))) } catch {
                #expect((error as? FarmError)?.code == "image.squashfs", "seed \(seed): \(error)")
                refused += 1
            }
        }
        #expect(refused > 50)
    }

    @Test(.timeLimit(.minutes(2))) func theBytesDependOnNothingElse() async throws {
        let scratch = try Scratch()
        let archive = try await archive(scratch)
        _ = try assemble(archive, "\(scratch.path)/1.sif", jobs: 1)
        _ = try assemble(archive, "\(scratch.path)/2.sif", jobs: 2)
        _ = try assemble(archive, "\(scratch.path)/3.sif", jobs: 2)
        let first = try Disk.read("\(scratch.path)/1.sif")
        #expect(try Disk.read("\(scratch.path)/2.sif") == first)
        #expect(try Disk.read("\(scratch.path)/3.sif") == first)
    }

    @Test(.timeLimit(.minutes(2))) func damagedArchivesAreRefused() async throws {
        let scratch = try Scratch()
        let path = try await archive(scratch)
        let whole = try Disk.read(path)
        for seed in 0..<60 {
            var generator = SeededGenerator(UInt64(seed))
            var bytes = whole
            if seed % 3 == 0 { bytes = Array(bytes.prefix(Int(generator.next() % UInt64(bytes.count)))) }
            for _ in 0..<8 where !bytes.isEmpty {
                bytes[Int(generator.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: generator.next())
            }
            try Disk.replace(path, with: bytes)
            do { _ = try assemble(path, "\(scratch.path)/d.sif") } catch { #expect(error is FarmError, "seed \(seed)") }
        }
        try Disk.replace(path, with: [])
        #expect(throws: FarmError.self) { try assemble(path, "\(scratch.path)/d.sif") }
    }

    /// As docker2singularity, Apptainer and recipes write them.
    @Test func listsInAnImagesEnvironmentAreRead() {
        let script = """
            #!/bin/sh
            export PATH="/opt/x/bin:$PATH"
            export DEPLOY_BINS="${DEPLOY_BINS:-"bet:fslmaths"}"
              DEPLOY_PATH='/opt/fsl/bin/:/opt/more'
            export OTHER_DEPLOY_BINS=no
            if [ -z "${DEPLOY_MORE+set}" ]; then export DEPLOY_MORE='a:b'; fi
            """
        #expect(ForeignImage.values(of: "DEPLOY_MORE", in: script) == ["a", "b"])
        #expect(ForeignImage.values(of: "DEPLOY_BINS", in: script) == ["bet", "fslmaths"])
        #expect(ForeignImage.values(of: "DEPLOY_PATH", in: script) == ["/opt/fsl/bin/", "/opt/more"])
        #expect(ForeignImage.values(of: "DEPLOY", in: script).isEmpty)
    }

    @Test func aPlanForAnotherWriterIsRefused() {
        #expect(throws: FarmError.self) { try ImageAssembler(machine: "x86_64", format: ImageFormat(writer: 99), jobs: 1) }
        #expect(throws: FarmError.self) { try ImageAssembler(machine: "vax", format: ImageFormat(), jobs: 1) }
    }
}
