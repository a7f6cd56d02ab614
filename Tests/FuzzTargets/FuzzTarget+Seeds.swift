import Attestation
import ChunkStore
import FarmModel
import ImageAssembly
import ObjectStorage
import Foundation
import SingularityImage
import Support
import TestSuites
import SystemIO
import Zstandard

extension FuzzTarget {
    /// Sound inputs to start from.
    package func seeds() throws -> [[UInt8]] {
        switch self {
        case .link:
            let directory = "\(Repository.root)/protocol/vectors"
            return try FileManager.default.contentsOfDirectory(atPath: directory).sorted().filter { $0.hasSuffix(".hex") }.flatMap { name in
                let digits = try Repository.file("protocol/vectors/\(name)").filter(\.isAlphanumeric)
                let bytes = stride(from: 0, to: digits.count - 1, by: 2).compactMap {
                    UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)
                }
                return (UInt8(252)...255).map { [$0] + bytes }
            }
        case .pack: return [try FuzzTarget.pack().bytes]
        case .packIndex:
            let pack = try FuzzTarget.pack()
            return [try PackIndex.bytes(of: [.init(pack: pack.digest, entries: pack.entries)])]
        case .manifest:
            let chunks = (0..<3).map { ImageManifest.Chunk(digest: Digest(hashing: "\($0)"), size: 100_000) }
            let manifest = ImageManifest(image: Digest(hashing: "i"), size: 300_000, chunker: .standard, chunks: chunks)
            return [manifest.bytes]
        case .export:
            let file = try FuzzTarget.nameless([])
            defer { file.close() }
            var writer = TarStoreWriter(file)
            for key in ["sciferry.json", "releases/\(String(repeating: "n", count: 120))/1.0", "channels/main.json"] {
                try writer.add(key, Array(key.utf8))
            }
            try writer.finish()
            return [try file.read(at: 0, count: Int(writer.size))]
        case .image: return [try FuzzTarget.imageHead()]
        case .layer: return [FuzzTarget.archive()]
        case .packed:
            let layer = FuzzTarget.archive()
            let zstd = try layer.withUnsafeBytes { try Zstandard.compress($0, level: 3, using: Zstandard.Compressor()) }
            return [
                layer, FuzzTarget.stored(layer),
                FuzzTarget.stored(Array(layer.prefix(700))) + FuzzTarget.stored(Array(layer.dropFirst(700))), zstd,
            ]
        case .squashfs: return [try FuzzTarget.fileSystem()]
        case .template:
            return [
                "{{ a }} and {{ n + 1 }}", "{{ 'x' if n > 2 and a == 'x' else l[0] }}", "{{ m.k | upper }}{{ l | join(',') }}",
                "{{ -n * 2 // 3 % 2 ~ 'z' }}{{ not a in l }}", "{{ [1, 'b', [2.5]] }}{{ (a) }}",
            ].map { Array($0.utf8) }
        case .recipe: return try ["dcm2niix", "nibabel", "nifti-header"].map { try Repository.file("recipes/\($0)/build.yaml") }
        case .dockerfile:
            return [
                Array(
                    "ARG V=12\nFROM debian:${V:-11} AS a\nRUN x \\\n # c\n y\nFROM scratch\nCOPY --from=a /b /c\nCOPY --from=busybox:1 /d /e\n"
                        .utf8)
            ]
        case .definition:
            return [
                Array(
                    "Bootstrap: docker\nFrom: a:{{ V }}\nStage: s\n\n%arguments\n V=1\n%files from s\n /a /b\n%post -c /bin/bash\n echo\n%labels\n a b\n%environment\n export A=1\n"
                        .utf8)
            ]
        case .neurodocker:
            return [
                Array(
                    "{\"pkg_manager\": \"apt\", \"instructions\": [{\"name\": \"from_\", \"kwds\": {\"base_image\": \"d:1\"}}, {\"name\": \"jq\", \"kwds\": {\"version\": \"1.6\", \"method\": \"source\"}}, {\"name\": \"install\", \"kwds\": {\"pkgs\": [\"a\"], \"opts\": null}}]}"
                        .utf8)
            ]
        case .references:
            let id = String(repeating: "a", count: 40)
            return [Array("001e# service=git-upload-pack\n00000033\(id) HEAD\u{0}x\n003d\(id) refs/tags/v1\n0000".utf8)]
        case .upstream:
            return try UpstreamSource.Kind.allCases.enumerated().map { index, kind in
                [UInt8(index)] + (try Repository.file("Tests/UpstreamTests/answers/\(kind.rawValue)"))
            }
        case .listing:
            var listing = ImageListing()
            listing.add(
                Array("/usr/bin/a b".utf8), kind: "f", mode: 0o755, owner: 0, group: 0, size: "12", content: Digest(hashing: "c").hex)
            listing.add(Array("/dev/null".utf8), kind: "c", mode: 0o666, owner: 0, group: 0, size: "1:3")
            return [listing.bytes]
        case .suite:
            return try ["dcm2niix", "nibabel", "nifti-header"].map { try Repository.file("recipes/\($0)/fulltest.yaml") }
                + ["script", "matlab-runtime", "strict-checks", "idle-keys", "variables"].map {
                    try Repository.file("Tests/EndToEndTests/suites/\($0).yaml")
                }
        case .media:
            let picture = Picture(width: 5, height: 3, pixels: (0..<60).map { UInt8($0 * 4) })
            let volume = Array((Phantoms.dataset.files["volume.nii"] ?? []).prefix(352 + 64))
            // Eight by four voxels in one slice.
            let small = volume[..<42] + [8, 0, 4, 0, 1, 0] + volume[48...]
            let schema = #"{"type":"object","required":["a"],"properties":{"a":{"minimum":1e300,"type":"number"},"b":{"minItems":2}}}"#
            return [
                [UInt8(ascii: "n")] + small, [UInt8(ascii: "p")] + picture.png, [UInt8(ascii: "x")] + [UInt8](repeating: 0, count: 120),
                Array("j\(schema)\n{\"a\": 3, \"b\": [1]}".utf8), Array("t{}\na,b\n1,\"2,3\"\n".utf8),
            ]
        case .bucket:
            return [
                "l<ListBucketResult><Contents><Key>p/a&amp;&#x41;</Key><LastModified>2026-11-23T03:12:40.000Z</LastModified><ETag>&quot;0a-2&quot;</ETag><Size>5</Size></Contents><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
                "w<html><a href=\"a%20b.txt\">x</a> <a href='d/'>d</a> <a href=\"../up\">u</a></html>",
                "p/a[b-d]{e,f{g,h}}**/{{[0-9]+}}?\\*.txt",
                "b08:00,512k 12:00,10M:1M Sat-13:00,off",
                "jeyJ9\n{\"upload\":{\"key\":\"a\",\"id\":\"u\",\"partSize\":5,\"size\":9,\"parts\":[]}}\n{\"ended\":\"a\"}",
            ].map { Array($0.utf8) }
        case .site:
            return [
                """
                tools: [fsl, afni/24.*, {name: "ants*", versions: 2}, {category: imaging, versions: all}, {name: m, versions: [3.0.10]}]
                except: ["fsl/5.*"]
                targets: [zen4, x86_64_v2]
                modules: {naming: category, defaults: {fsl: 6.0.10}, hidden: [old/*], hook: hooks/site.lua}
                workflows: [{name: fmri, version: 2026.10, description: Both., modules: [fsl, afni/24.*]}]
                """,
                "run: {runtime: bwrap, bind: [/scratch], gpu: false, environment: [MINE]}\nlicences: {A: l/fs.txt, B: 27000@host}\n",
                "prefix: /cvmfs/software\nkeep: {generations: 5, days: 30}\n",
            ].map { Array($0.utf8) }
        case .cron: return ["30 2 * * 1-5", "*/15 0-23/2 1,15 jan,jul *", "@weekly"].map { Array($0.utf8) }
        case .packages:
            return [
                "Package: a\nStatus: install ok installed\nVersion: 1\n\nP:b\nV:2\n", "ref: refs/heads/main\n",
                "{\"name\": \"c\", \"version\": \"3\"}",
            ]
            .map { Array($0.utf8) }
        case .catalogue:
            let apps = #"{"t": {"apps": {"t 1": {"version": "20260101", "exec": ""}, "g-t 1": {"version": "20260101", "exec": "x"}}}}"#
            let release = #"{"apps": {"t 1": {"version": "20260101", "exec": "", "apptainer_args": ["--nv"]}}, "categories": ["c"]}"#
            let page = #"<a href="samtools%3A1.9--h0_8">x</a> <A HREF='mulled-v2-ab:cd-0'>y</A>"#
            let sums = "\(String(repeating: "a", count: 32))  x\nSHA256 (y) = \(String(repeating: "b", count: 64))\n"
            return [apps, release, page, "a=1,b=2=h\tbase\t0\n", sums].enumerated().map { [UInt8($0.offset)] + Array($0.element.utf8) }
        case .envelope: return [try CanonicalJSON.encode(try Envelope.sign(["k": "v"], type: "t", with: try SigningKey.generate()))]
        case .elf: return [try Disk.read("/bin/true")]
        case .joinToken: return [Array("https://farm.example:7443#ca=\(Digest(hashing: "ca").hex)&token=abc.def".utf8)]
        }
    }

    private static func pack() throws -> FinishedPack {
        var builder = PackBuilder()
        for text in ["some text, some text, some text, some text", "another", String(repeating: "z", count: 5000)] {
            builder.add(try ChunkPacker().pack(Digest(hashing: text), Array(text.utf8)[...]))
        }
        return builder.finish()
    }

    private static func imageHead() throws -> [UInt8] {
        var head = SingularityImage.Head(architecture: .x86_64, identifier: [UInt8](repeating: 7, count: 16), created: 0)
        _ = try head.append(
            .init(type: .partition, size: 4096, name: "root", extra: SingularityImage.partitionExtra(.x86_64)))
        let metadata = Array(
            #"{"header":{"digest":"sha256:00"},"objects":[{"descriptorDigest":"sha256:00","objectDigest":"sha256:00","relativeId":0}],"version":1}"#
                .utf8)
        let signature = Array(
            #"{"payload":"\#(Data(metadata).base64EncodedString())","payloadType":"\#(SignatureMetadata.payloadType)","signatures":[{"keyid":"k","sig":"AAAA"}]}"#
                .utf8)
        let placed = try head.append(
            .init(
                type: .signature, group: SingularityImage.noGroup, link: SingularityImage.firstGroup, size: Int64(signature.count),
                name: "signature"))
        var bytes = [UInt8](repeating: 0, count: Int(placed.end))
        bytes.replaceSubrange(0..<SingularityImage.headerSize, with: head.header)
        bytes.replaceSubrange(SingularityImage.descriptorOffset..<SingularityImage.dataOffset, with: head.table)
        bytes.replaceSubrange(Int(placed.offset)..., with: signature)
        return bytes
    }

    /// A gzip member that stores its bytes as they are (RFC 1951, "Non-compressed blocks").
    private static func stored(_ bytes: [UInt8]) -> [UInt8] {
        func little(_ value: UInt32, _ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * UInt32($0))) } }
        var sum: UInt32 = 0xFFFF_FFFF
        for byte in bytes {
            sum ^= UInt32(byte)
            for _ in 0..<8 { sum = sum & 1 == 1 ? sum >> 1 ^ 0xEDB8_8320 : sum >> 1 }
        }
        let length = UInt32(bytes.count)
        return [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 1] + little(length, 2) + little(~length, 2) + bytes + little(~sum, 4)
            + little(length, 4)
    }

    /// A ustar archive of a directory, a file, a link, and a whiteout.
    private static func member(_ name: String, type: Character, content: String = "", link: String = "") -> [UInt8] {
        member(name, type: type, bytes: Array(content.utf8), link: link)
    }

    private static func member(_ name: String, type: Character, bytes: [UInt8], link: String = "") -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, at offset: Int) { header.replaceSubrange(offset..<offset + text.utf8.count, with: text.utf8) }
        put(name, at: 0)
        put("0000755\0", at: 100)
        put("0000000\0", at: 108)
        put("0000000\0", at: 116)
        let size = String(bytes.count, radix: 8)
        put(String(repeating: "0", count: 11 - size.count) + size + "\0", at: 124)
        put("00000000000\0", at: 136)
        put("        ", at: 148)
        put(String(type), at: 156)
        put(link, at: 157)
        put("ustar\u{0}00", at: 257)
        let sum = String(header.reduce(0) { $0 + Int($1) }, radix: 8)
        put(String(repeating: "0", count: 6 - sum.count) + sum + "\0 ", at: 148)
        let padding = (512 - bytes.count % 512) % 512
        return header + bytes + [UInt8](repeating: 0, count: padding)
    }

    /// What `docker save` writes, of one layer, assembled: the file system behind the head of the image.
    static func fileSystem() throws -> [UInt8] {
        let end = [UInt8](repeating: 0, count: 1024)
        let layer = archive()
        let configuration = #"{"config": {}, "rootfs": {"diff_ids": ["sha256:\#(Digest(hashing: layer).hex)"]}}"#
        let manifest = #"[{"Config": "config.json", "Layers": ["layer.tar"]}]"#
        let saved =
            member("layer.tar", type: "0", bytes: layer) + member("config.json", type: "0", content: configuration)
            + member("manifest.json", type: "0", content: manifest) + end
        let path = "/dev/shm/sciferry-seed-\(Nonce.hex(bytes: 8))"
        defer { for name in [path, "\(path).sif"] { try? Disk.remove(name) } }
        try Disk.replace(path, with: saved)
        let report = try ImageAssembler(machine: "x86_64", format: ImageFormat(), jobs: 1)
            .assemble(LayeredImage.archive(path, machine: "x86_64", room: .init(scratch: "/dev/shm")), to: "\(path).sif")
        return Array(try Disk.read("\(path).sif").dropFirst(Int(report.partition.offset)))
    }

    private static func archive() -> [UInt8] {
        return member("a/", type: "5") + member("a/file", type: "0", content: "hello") + member("a/link", type: "2", link: "file")
            + member("a/hard", type: "1", link: "a/file") + member("a/.wh.gone", type: "0")
            + member("pax", type: "x", content: "20 path=long/name/x\n") + member("x", type: "0", content: "y")
            + [UInt8](repeating: 0, count: 1024)
    }
}
