import Attestation
import BucketSync
import ChunkStore
import CoordinatorCore
import FarmIdentity
import FarmModel
import FarmWire
import ISAProof
import Foundation
import Glibc
import ImageAssembly
import ImageCatalogues
import Microarchitecture
import NIOCore
import ObjectStorage
import Recipes
import SingularityImage
import SitePolicy
import Support
import SystemIO
import TemplateEngine
import TestSuites
import Upstream
import WorkerCore

/// Parsers of bytes from outside, each as one function that must end in a value or a typed error, whatever it is given.
///
/// `scripts/fuzz` drives them with libFuzzer; `FuzzTargetsTests` with seeded damage to `seeds`.
package enum FuzzTarget: String, CaseIterable, Sendable {
    /// Frames, and the session's rules and messages behind them.
    case link
    case pack
    case packIndex = "pack-index"
    case manifest
    /// A channel in one file.
    case export
    case image
    /// A layer's tar archive, merged into a tree.
    case layer
    /// A layer's tar archive in gzip or zstd.
    case packed
    /// An image's file system, read from its super block to the last file.
    case squashfs
    case template
    /// A recipe from YAML to the plan.
    case recipe
    /// A Dockerfile that is a recipe.
    case dockerfile
    /// A definition file that is a recipe.
    case definition
    /// neurodocker's JSON, to the Dockerfile.
    case neurodocker
    /// A git server's list of references.
    case references
    /// What services say of versions: the first byte chooses the service.
    case upstream
    /// A worker's list of an image's files, compared with another.
    case listing
    /// What stores say of their objects, and rules that people write for them: the first byte chooses.
    case bucket
    /// What a site shall carry.
    case site
    /// A schedule.
    case cron
    /// What package managers leave in images.
    case packages
    /// Other people's lists of images and checksums: the first byte chooses the list.
    case catalogue
    /// A program or library, and where its code leads.
    case elf
    /// Functional tests of a recipe, strictly and as the collection's runner reads them.
    case suite
    /// What tests leave: the first byte chooses NIfTI, PNG, a screen, JSON against a schema, or a table.
    case media
    case envelope
    case joinToken = "join-token"

    /// Feeds the parser. Everything but a typed error traps, which is what a fuzzer looks for.
    package func feed(_ bytes: [UInt8]) {
        do { try parse(bytes) } catch is FarmError {} catch {
            fatalError("\(rawValue) threw a stranger: \(error)")
        }
    }

    private func parse(_ bytes: [UInt8]) throws {
        switch self {
        case .link: try FuzzTarget.link(bytes)
        case .pack:
            for entry in try Pack.entries(of: bytes, source: "fuzz") {
                bytes.withUnsafeBytes {
                    let range = Int(entry.range.lowerBound)..<Int(entry.range.upperBound)
                    _ = try? entry.open(UnsafeRawBufferPointer(rebasing: $0[range]), source: "fuzz")
                }
            }
        case .packIndex:
            let index = try PackIndex(bytes, source: "fuzz")
            guard try PackIndex.merged([index]) == bytes else { fatalError("an index has two forms") }
        case .export:
            let file = try FuzzTarget.nameless(bytes)
            defer { file.close() }
            _ = try TarStore(file, "fuzz")
        case .manifest: _ = try ImageManifest(bytes, source: "fuzz")
        case .image:
            let file = try FuzzTarget.nameless(bytes)
            defer { file.close() }
            let head = try SingularityImage.read(bytes, fileSize: Int64(bytes.count))
            _ = try ImageSignature.verify(SingularityFile(file, head), by: [])
            guard try SingularityImage.read(bytes, fileSize: Int64(bytes.count) + 100_000).descriptors.count >= head.descriptors.count
            else {
                fatalError("a longer file has fewer objects")
            }
            _ = try SingularityImage.primaryPartition(of: head)
        case .layer: try FuzzTarget.layer(bytes)
        case .packed: try FuzzTarget.packed(bytes)
        case .squashfs: try FuzzTarget.squashfs(bytes)
        case .template:
            let values: [String: TemplateValue] = [
                "a": .text("x"), "n": .integer(3), "l": .list([.text("p"), .integer(2)]), "m": .mapping(["k": .text("v")]),
            ]
            _ = try Template(String(decoding: bytes, as: UTF8.self), dialect: .collection).render(values)
        case .recipe: try FuzzTarget.recipe(bytes)
        case .dockerfile: try FuzzTarget.foreign("dockerfile", "Dockerfile", bytes)
        case .definition: try FuzzTarget.foreign("definition", "Singularity.def", bytes)
        case .neurodocker:
            let text = try NeurodockerRequest(json: bytes, path: "fuzz.json").recipe()
            let source = RecipeSource(path: "build.yaml", files: ["build.yaml": Array(text.utf8)])
            let recipe = try Recipe.read(source)
            _ = try RecipeDraft(recipe, source, target: try recipe.target("")).dockerfile(standalone: true)
        case .references: _ = try GitReferences(bytes).commit(of: "v1")
        case .upstream:
            let kinds = UpstreamSource.Kind.allCases
            let source = UpstreamSource(kind: kinds[Int(bytes.first ?? 0) % kinds.count], name: "edgeR")
            _ = try UpstreamWatch.choose(try UpstreamAnswer.releases(Array(bytes.dropFirst()), source), source, current: "1.0")
        case .listing:
            let listing = try ImageListing(bytes)
            guard try ImageListing(listing.bytes) == listing else { fatalError("a list is read as another") }
            _ = ImageComparison(candidate: Digest(hashing: "a"), rebuilt: Digest(hashing: "b"), ImageListing(), listing)
        case .bucket: try FuzzTarget.bucket(bytes)
        case .site:
            _ = try SiteDeclarationFile.read(Array(bytes.prefix(1 << 16)), path: "site.yaml") { "-- \($0)\n" }
        case .cron:
            let expression = try CronExpression(String(decoding: bytes.prefix(200), as: UTF8.self), zone: "Europe/Berlin")
            let start = Timestamp(seconds: 1_790_000_000)
            if let next = expression.next(after: start), next <= start { fatalError("it is due before it is asked for") }
        case .catalogue: try FuzzTarget.catalogue(bytes)
        case .packages: try FuzzTarget.packages(bytes)
        case .elf:
            guard let target = Microarchitecture.named("x86_64") else { return }
            _ = try ImageProof(target: target).prove([.init(path: "/fuzz") { bytes }])
        case .suite:
            let bytes = Array(bytes.prefix(1 << 16))
            for mode in [RecipeSuite.Mode.strict, .compatible] {
                let suite = try RecipeSuite(bytes, path: "fulltest.yaml", mode: mode).suite
                guard try CanonicalJSON.decode(TestSuite.self, from: CanonicalJSON.encode(suite), source: "fuzz") == suite else {
                    fatalError("a suite is read as another")
                }
            }
        case .media: try FuzzTarget.media(bytes)
        case .envelope:
            let envelope: Envelope = try CanonicalJSON.decode(from: bytes, source: "fuzz")
            let _: Release = try envelope.verified(payloadType: PayloadType.release, by: [], source: "fuzz")
        case .joinToken: _ = try JoinToken(text: String(decoding: bytes, as: UTF8.self))
        }
    }

    /// The first byte chooses the side and how the rest comes in pieces.
    private static func link(_ bytes: [UInt8]) throws {
        guard let choice = bytes.first else { return }
        var decoder = FrameDecoder()
        var session = LinkSession(role: choice & 1 == 0 ? .coordinator : .worker)
        if choice & 2 != 0 { session.welcomed() }
        var buffer = ByteBuffer()
        for start in stride(from: 1, to: bytes.count, by: Int(choice >> 2) + 1) {
            buffer.writeBytes(bytes[start..<min(start + Int(choice >> 2) + 1, bytes.count)])
            while let frame = try decoder.decode(buffer: &buffer) { _ = try session.receive(frame) }
        }
    }

    /// A file without a name, in memory.
    static func nameless(_ bytes: [UInt8]) throws -> OpenFile {
        let path = "/dev/shm/sciferry-fuzz-\(Nonce.hex(bytes: 8))"
        let file = try OpenFile(path, flags: O_RDWR | O_CREAT | O_EXCL)
        unlink(path)
        try file.write(bytes, at: 0)
        return file
    }

    private static func catalogue(_ bytes: [UInt8]) throws {
        let rest = Array(bytes.dropFirst())
        var catalogue: Catalogue
        switch (bytes.first ?? 0) % 5 {
        case 0: catalogue = try NeurodeskCatalogue.apps(rest, source: "apps.json")
        case 1: catalogue = try NeurodeskCatalogue.releases([("a.json", rest)])
        case 2: catalogue = try DepotListing.read(rest)
        case 3: return _ = DepotListing.combinations([("hash.tsv", rest)])
        default: return _ = try ChecksumList.read(rest, source: "sums")
        }
        catalogue.place(at: [.web("https://images.example")])
        for entry in catalogue.entries { try entry.check() }
    }

    private static func squashfs(_ bytes: [UInt8]) throws {
        let file = try nameless(bytes)
        defer { file.close() }
        _ = try ForeignImage(file, .init(offset: 0, size: Int64(bytes.count)), packages: ["x"]) { _ in }
    }

    private static func layer(_ bytes: [UInt8]) throws {
        let file = try nameless(bytes)
        defer { file.close() }
        var limits = EntryTree.Limits()
        limits.bytes = 1 << 20
        // As it is, and as something that is packed.
        let whole = TarFile(file, size: Int64(bytes.count), name: "fuzz")
        let tree = try EntryTree(merging: [whole, whole], limits: limits)
        let contents = LayerContents(layers: [whole, whole])
        for (_, content) in tree.files() { _ = try contents.head(of: content, 1 << 20) }
    }

    /// A layer as registries and archives have it: packed in a way that its first bytes tell.
    private static func packed(_ bytes: [UInt8]) throws {
        let unpacker = try LayerUnpacker("fuzz", scratch: "/dev/shm", limit: 1 << 20)
        for start in stride(from: 0, to: bytes.count, by: 1000) {
            try Array(bytes[start..<min(start + 1000, bytes.count)]).withUnsafeBytes { try unpacker.feed($0) }
        }
        _ = try EntryTree(merging: [try unpacker.finish(digest: nil, diffID: nil)])
    }

    /// A recipe whose build stands in another file.
    private static func foreign(_ kind: String, _ file: String, _ bytes: [UInt8]) throws {
        let metadata = "name: tool\nversion: \"1\"\nbuild: {kind: \(kind)}\n"
        let source = RecipeSource(path: "fuzz/build.yaml", files: ["build.yaml": Array(metadata.utf8), file: bytes])
        let recipe = try Recipe.read(source)
        let draft = try RecipeDraft(recipe, source, target: try recipe.target(""))
        _ = try (draft.dockerfile(), draft.ownFiles())
    }

    private static func packages(_ bytes: [UInt8]) throws {
        var tree = EntryTree()
        for path in [
            "var/lib/dpkg/status", "lib/apk/db/installed", "a/b.dist-info/METADATA", "c/conda-meta/d.json", "r/library/p/DESCRIPTION",
            "g/.git/HEAD", "g/.git/packed-refs", "g/.git/config", "usr/lib/os-release",
        ] { try tree.add(path, bytes, mode: 0o644) }
        var survey = PackageSurvey()
        try survey.look(at: tree) { if case .bytes(let bytes) = $0 { bytes } else { [] } }
        let installed = InstalledPackages(survey.packages, distribution: survey.distribution)
        _ = try CanonicalJSON.encode(installed)
        // The same bytes as advisories, against themselves.
        var list = AdvisoryList()
        try list.add(bytes, source: "fuzz")
        _ = list.mended(in: installed)
    }

    private static func recipe(_ bytes: [UInt8]) throws {
        let source = RecipeSource(path: "fuzz/build.yaml", files: ["build.yaml": bytes, "data.txt": [1, 2, 3]])
        let recipe = try Recipe.read(source)
        for variant in recipe.concreteVariants {
            guard let target = Microarchitecture.named(variant.architecture) else { continue }
            let draft = try RecipeDraft(recipe, source, target: target, variant: variant.variant)
            let lock = draft.inputs.map { input in
                LockedInput(
                    kind: input.kind, name: input.name, architecture: target.family, digest: Digest(hashing: input.name), size: 0,
                    origin: .registry, bootstrap: nil, lockedAt: Timestamp(milliseconds: 0))
            }
            _ = draft.referenceDockerfile
            _ = try draft.render(
                lock: Dictionary(lock.map { ($0.key, $0) }) { first, _ in first }, suite: try RecipeSuite.read(source))
        }
    }
}

extension FuzzTarget {
    private static func media(_ bytes: [UInt8]) throws {
        let rest = Array(bytes.dropFirst())
        switch bytes.first {
        case UInt8(ascii: "n"):
            let volume = try NiftiVolume(rest, source: "fuzz")
            _ = (volume.summary, volume.checksum(step: 0.5))
        case UInt8(ascii: "p"): _ = try Picture(png: rest, source: "fuzz").drawn
        case UInt8(ascii: "x"): _ = Picture(windowDump: rest)?.drawn
        default:
            // The schema, a line, and the document, which is a table, too.
            let parts = rest.split(separator: 10, maxSplits: 1, omittingEmptySubsequences: false)
            let document = Array(parts.count > 1 ? parts[1] : [])
            for row in [1, -1, Int.max, Int.min] {
                let check = NumberCheck(file: nil, place: .table(column: "a", row: row), expected: 1)
                let test = FunctionalTest(name: "t", command: "", checks: [.number(check)])
                _ = test.judge(TestObservation(exitCode: 0, output: String(decoding: document, as: UTF8.self)), files: NoFiles())
            }
            _ = try JSONSchema(String(decoding: parts.first ?? [], as: UTF8.self)).problems(of: document, source: "fuzz")
        }
    }

    private struct NoFiles: TestFiles {
        func exists(_ path: String) throws -> Bool { false }
        func read(_ path: String) throws -> [UInt8] { throw FarmError("test.no-file", .notFound, path) }
        func matching(_ pattern: String) throws -> [String] { [] }
    }

    private static func bucket(_ bytes: [UInt8]) throws {
        let rest = Array(bytes.dropFirst())
        let text = String(decoding: rest.prefix(300), as: UTF8.self)
        switch bytes.first {
        case UInt8(ascii: "l"):
            let page = try ObjectPage(listing: rest, dropping: "p/", source: "fuzz")
            for object in page.objects {
                if object.size < 0 { fatalError("an object has less than nothing") }
                if let tag = object.tag { _ = ContentTag(tag) }
            }
        case UInt8(ascii: "w"):
            for link in WebIndex.links(in: rest, at: "http://host/a/") {
                let name = link.hasSuffix("/") ? String(link.dropLast()) : link
                if name.contains("/") || ["", ".", ".."].contains(name) { fatalError("a page leads out of its directory") }
            }
        case UInt8(ascii: "p"): _ = try GlobPattern(text).matches("a/b/c.txt")
        case UInt8(ascii: "b"):
            let table = try BandwidthTimetable(text)
            for minute in stride(from: 0, to: 1440, by: 97) where (table.rate(weekday: 3, minute: minute).up ?? 1) <= 0 {
                fatalError("a limit is nothing")
            }
        default:
            _ = HTTPDate.read(text)
            _ = ByteCount.read(text)
            var journal = SyncJournal()
            try Array(rest).withUnsafeBytes { try journal.read($0) { _ = Known($0.value) } }
        }
    }
}
