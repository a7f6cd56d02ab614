import ArgumentParser
import Attestation
import CoordinatorCore
import FarmIdentity
import FarmModel
import Foundation
import Glibc
import ObjectStorage
import SystemIO

/// Makes a farm's home.
struct InitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Make a farm: authority, release key, journal, configuration.",
        discussion: """
            Examples:
              sciferry init
              sciferry init --home /srv/farm --name nectar --advertise farm.example --link-port 7444 --api-port 7443 \\
                --region melbourne=s3:https://store.example/farm-mel?region=mel --region sydney=file:/mirror/sydney
            """)

    @OptionGroup var homeOptions: HomeOptions

    @Option(help: "The farm's name; signed into everything it publishes.")
    var name = "farm"

    @Option(help: "NAME=BUCKET, repeatable; the first is streamed to, the others mirror it (default: two directories).")
    var region: [String] = []

    @Option(help: "The name or address under which others reach the coordinator; listens on all addresses unless it is 127.0.0.1.")
    var advertise = "127.0.0.1"

    @Option(help: "Port of the worker protocol (default: a free one).")
    var linkPort: Int?

    @Option(help: "Port of the API (default: a free one).")
    var apiPort: Int?

    @Option(help: "Seconds of silence that end a worker's leases.")
    var silence = 60.0

    func run() async throws {
        try await reporting {
            let home = homeOptions.farmHome
            guard !Disk.exists(home.configuration) else {
                throw FarmError("home.exists", .conflict, "\(home.root) holds a farm already", hint: "start it: sciferry up")
            }
            guard PlainName.isValid(name) else { throw FarmError("farm.name", .usage, "\"\(name)\" is no farm name") }
            try Disk.makeDirectory(home.root, mode: 0o700)
            try Disk.makeDirectory(home.identity, mode: 0o700)
            var configuration = FarmConfiguration(farm: name, regions: try regions(home))
            configuration.advertise = advertise
            if advertise != "127.0.0.1" {
                configuration.linkHost = "0.0.0.0"
                configuration.apiHost = "0.0.0.0"
            }
            configuration.linkPort = try linkPort ?? FreePort.find()
            configuration.apiPort = try apiPort ?? FreePort.find()
            configuration.silenceSeconds = silence
            if !Disk.exists("\(home.identity)/ca.key") {
                try CertificateAuthority.create(directory: home.identity, farm: name, now: .now)
            }
            let keys = try FarmKeys.create(home, farm: name, now: .now)
            try Disk.replace(home.uploadKey, with: Array(Nonce.hex(bytes: 32).utf8), mode: 0o600)
            let token = "sf_\(Nonce.hex(bytes: 24))"
            try Disk.replace(home.adminToken, with: Array("\(token)\n".utf8), mode: 0o600)
            let access = AccessRecord(tokenDigest: Digest(hashing: token), name: "admin", role: .admin, createdAt: .now)
            try SQLiteJournal(path: home.journal).commit([.access(access)])
            // Last: a home without it is none, so an interrupted init is simply run again.
            try Disk.replace(home.configuration, with: Array(try CanonicalJSON.pretty(configuration).utf8))
            Console.print("farm \(name) made in \(home.root)")
            Console.print("image key \(keys.image.verifier.keyID), channel key \(keys.channel.verifier.keyID)")
            Console.print(
                "root key \(keys.root.rootKeys.map(\.keyID).joined()): take \(home.rootKey) offline; `sciferry trust renew` will ask for it"
            )
        }
    }

    private func regions(_ home: FarmHome) throws -> [RegionConfiguration] {
        if region.isEmpty {
            return ["region-a", "region-b"].map {
                RegionConfiguration(name: $0, bucket: BucketLocation("file:\(home.root)/regions/\($0)"))
            }
        }
        return try region.map { text in
            guard let equals = text.firstIndex(of: "="), PlainName.isValid(String(text[..<equals])) else {
                throw FarmError(
                    "farm.region", .usage, "\"\(text)\" is no region", hint: "write NAME=BUCKET, for example west=file:/srv/west")
            }
            return RegionConfiguration(name: String(text[..<equals]), bucket: BucketLocation(String(text[text.index(after: equals)...])))
        }
    }
}

/// Makes a token of the API.
struct AccessCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "access", abstract: "Make an API token for a person or a program.",
        discussion: "Example:\n  sciferry access alice --role maintainer")

    @OptionGroup var farm: FarmOptions
    @Argument(help: "Whose token it is.") var name: String
    @Option(help: "reader, contributor, maintainer, releaser, operator or admin.") var role = "reader"

    func run() async throws {
        try await reporting {
            guard let role = AccessRole(rawValue: role) else {
                throw FarmError(
                    "access.role", .usage, "\"\(role)\" is no role", hint: AccessRole.allCases.map(\.rawValue).joined(separator: ", "))
            }
            let reply: AccessReply = try await farm.client().post("/api/v1/access", AccessRequest(name: name, role: role))
            if farm.json { try Console.json(reply) } else { Console.print(reply.token) }
        }
    }
}

/// Lists workers.
struct WorkersCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "workers", abstract: "List the farm's workers.", discussion: "Example:\n  sciferry workers --json")

    @OptionGroup var farm: FarmOptions

    func run() async throws {
        try await reporting {
            let workers: [WorkerView] = try await farm.client().get("/api/v1/workers")
            if farm.json { return try Console.json(workers) }
            Console.table(
                ["NAME", "STATE", "CPU", "CORES", "FREE", "DOING"],
                workers.map { view in
                    let facts = view.worker.facts
                    return [
                        view.worker.name.rawValue, WorkersCommand.state(view), facts?.target ?? "-",
                        facts.map { "\($0.processors)" } ?? "-", facts.map { Console.bytes($0.diskFreeBytes) } ?? "-",
                        view.attempts.map { "\($0.id) \($0.phase.rawValue)" }.joined(separator: ", "),
                    ]
                })
            for view in workers {
                if let labels = view.worker.facts?.labels, !labels.isEmpty {
                    Console.print("\(view.worker.name) has the labels \(labels.joined(separator: ", "))")
                }
                for platform in view.worker.facts?.hardware?.emulated ?? [] {
                    Console.print(
                        "\(view.worker.name) emulates \(platform.architecture) with \(platform.emulator), \(platform.cost) times slower")
                }
            }
            for view in workers {
                guard let uses = view.worker.diskUse, !uses.isEmpty else { continue }
                let list = uses.map { "\(Console.bytes($0.bytes)) of \($0.what.printable())" }.joined(separator: ", ")
                Console.print("\(view.worker.name) holds \(list)")
            }
            for view in workers {
                if let use = view.worker.inputCache, use.requests + use.tunnels > 0 {
                    Console.print("builds of \(view.worker.name) had \(use.sentence)")
                }
            }
            for view in workers {
                guard let quarantine = view.worker.quarantine else { continue }
                Console.print("\(view.worker.name) is quarantined: \(quarantine); sciferry worker resume \(view.worker.name)")
            }
            for view in workers where !view.worker.refusal.isEmpty {
                Console.print("\(view.worker.name) takes no work: \(view.worker.refusal)")
            }
        }
    }

    static func state(_ view: WorkerView) -> String {
        if view.worker.revoked { return "revoked" }
        if !view.connected { return "away" }
        if view.worker.quarantine != nil { return "quarantined" }
        return view.worker.drained ? "drained" : view.attempts.isEmpty ? "idle" : "busy"
    }
}

/// Deeds on one worker.
struct WorkerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "worker", abstract: "Enrol, drain, resume or revoke a worker.",
        subcommands: [TokenCommand.self, DrainCommand.self, ResumeCommand.self, RevokeCommand.self])

    struct TokenCommand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "token", abstract: "Make a one-time join token.",
            discussion:
                "Example, on the new machine:\n  sciferry worker token vm7 | ssh vm7 sciferry-worker join - --home /var/lib/sciferry-worker"
        )

        @OptionGroup var farm: FarmOptions
        @Argument(help: "The new worker's name.") var name: String
        @Option(help: "Minutes until it expires.") var minutes = 60
        @Flag(help: "The worker may not build releases.") var untrusted = false

        func run() async throws {
            try await reporting {
                let reply: JoinTokenReply = try await farm.client().post(
                    "/api/v1/tokens", JoinTokenRequest(worker: name, trusted: !untrusted, minutes: minutes))
                if farm.json { try Console.json(reply) } else { Console.print(reply.token) }
            }
        }
    }

    struct DrainCommand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "drain", abstract: "Let a worker finish and give it nothing new.",
            discussion: "Example:\n  sciferry worker drain vm7")
        @OptionGroup var farm: FarmOptions
        @Argument(help: "The worker's name.") var name: String
        func run() async throws { try await reporting { try await farm.client().post("/api/v1/workers/\(name)/drain") } }
    }

    struct ResumeCommand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "resume", abstract: "Give a drained worker work again.", discussion: "Example:\n  sciferry worker resume vm7")
        @OptionGroup var farm: FarmOptions
        @Argument(help: "The worker's name.") var name: String
        func run() async throws { try await reporting { try await farm.client().post("/api/v1/workers/\(name)/resume") } }
    }

    struct RevokeCommand: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "revoke", abstract: "Shut a worker out at once; its jobs go to others.",
            discussion: "Example:\n  sciferry worker revoke vm7")
        @OptionGroup var farm: FarmOptions
        @Argument(help: "The worker's name.") var name: String
        func run() async throws { try await reporting { try await farm.client().post("/api/v1/workers/\(name)/revoke") } }
    }
}
