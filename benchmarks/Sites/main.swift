import Attestation
import ChunkStore
import FarmModel
import FileStore
import Foundation
import HTTPTransport
import ObjectStorage
import SiteDelivery
import Support
import SystemIO

/// A farm without workers, for the benchmarks of sites: takes lines from the standard input and answers each with `ok`.
///
///     launcher                        prints the launcher, and ends
///     site DIRECTORY REGION…          makes a site that follows it
///     add NAME VERSION IMAGE          takes an image into the bucket, as a release of that name
///     publish                         writes the channel
///     modules DIRECTORY TOOLS VERSIONS COMMANDS   makes a site with so many modules, without images
struct SyntheticFarm {
    let bucket: any ObjectStore
    let trust: TrustedFarm
    var entries: [ChannelEntry] = []
    var version = 0

    init(_ directory: String) async throws {
        bucket = try BucketLocation("file:\(directory)").open(client: HTTPClient())
        trust = try TrustedFarm()
        _ = try await FileStore.open(bucket, making: .standard)
    }

    static func release(_ name: String, _ version: String, commands: [String], image: Digest, size: Int64, manifest: Digest) -> Release {
        let base = BaseImage(name: "b", digest: Digest(hashing: "b"), origin: .registry, size: 0, bootstrap: nil)
        let plan = Plan(
            name: name, version: version, architecture: "x86_64", target: "x86_64", base: base, dockerfile: "", context: [],
            commands: commands,
            commandPaths: [], description: "\(name) does what tools do, with images and the like.", categories: ["functional imaging"],
            licences: ["MIT"], suite: TestSuite(), diskBytes: 0)
        let result = BuildResult(
            image: image, imageSize: size, manifest: IncomingObject(digest: manifest, size: 1), packs: [], records: [], chunkCount: 1,
            newChunkCount: 1,
            newBytes: 1, tests: [], testRuntime: "r", commands: [], hostTarget: "x86_64", phaseSeconds: [:])
        return Release(plan: plan, buildKey: Digest(hashing: "\(name) \(version)"), result: result, builtOn: "w", publishedAt: .now)
    }

    mutating func add(_ name: String, _ version: String, _ path: String) async throws {
        let store = try await FileStore(bucket)
        let file = try await store.add(path, as: "\(name) \(version)", jobs: 2).file
        let release = SyntheticFarm.release(
            name, version, commands: ["\(name)-tool"], image: file.digest, size: file.size, manifest: file.manifest)
        let document = try CanonicalJSON.encode(try Envelope.sign(release, type: PayloadType.release, with: trust.image))
        let digest = Digest(hashing: document)
        try await bucket.put(ReleaseDocument.key(name: name, version: version, digest: digest), document)
        entries.removeAll { $0.name == name && $0.version == version }
        entries.append(ChannelEntry(name: name, version: version, target: "x86_64", release: digest))
    }

    mutating func publish() async throws {
        version += 1
        let now = Timestamp.now
        let channel = ReleaseChannel(
            farm: "f", name: "main", version: version, issuedAt: now, expiresAt: Timestamp(milliseconds: now.milliseconds + 86_400_000),
            entries: entries)
        try await bucket.put(
            ReleaseChannel.key("main"), try CanonicalJSON.encode(try Envelope.sign(channel, type: PayloadType.channel, with: trust.channel))
        )
    }

    func makeSite(_ directory: String, _ regions: [String]) throws {
        _ = try Site.create(
            directory, SiteConfiguration(farm: "f", channel: "main", regions: regions.map(BucketLocation.init), root: trust.root))
        try Disk.replace("\(directory)/site.yaml", with: Array("tools: [\"*\"]\ntargets: [x86_64]\n".utf8))
    }

    func makeModules(_ directory: String, _ tools: Int, _ versions: Int, _ commands: Int) async throws {
        let site = try Site.create(directory, SiteConfiguration(farm: "f", channel: "main", regions: [], root: trust.root))
        try site.apply("a benchmark", now: .now) { carried in
            for tool in 0..<tools {
                for version in 0..<versions {
                    let names = (0..<commands).map { "tool\(tool)-\($0)" }
                    let digest = Digest(hashing: "\(tool) \(version)")
                    carried.append(
                        InstalledTool(
                            [
                                SyntheticFarm.release(
                                    "tool\(tool)", "\(version).0", commands: names, image: digest, size: 1, manifest: digest)
                            ],
                            installedAt: .now))
                }
            }
        }
        _ = try await SpiderCache(site).refresh()
    }
}

if CommandLine.arguments.dropFirst().first == "launcher" {
    print(Launcher.script, terminator: "")
    exit(0)
}
guard CommandLine.arguments.count == 2 else {
    print("usage: sciferry-bench-sites launcher|BUCKET-DIRECTORY")
    exit(64)
}
try await SyntheticFarm.serve(CommandLine.arguments[1])

extension SyntheticFarm {
    /// Does what the lines of the standard input say, until they end.
    static func serve(_ directory: String) async throws {
        var farm = try await SyntheticFarm(directory)
        while let line = readLine() {
            let words = line.split(separator: "\t").map(String.init)
            switch (words.first, words.count) {
            case ("site", 3...): try farm.makeSite(words[1], Array(words[2...]))
            case ("add", 4): try await farm.add(words[1], words[2], words[3])
            case ("publish", 1): try await farm.publish()
            case ("modules", 5): try await farm.makeModules(words[1], Int(words[2]) ?? 1, Int(words[3]) ?? 1, Int(words[4]) ?? 1)
            default: fatalError("not understood: \(line)")
            }
            FileHandle.standardOutput.write(Data("ok\n".utf8))
        }
    }
}
