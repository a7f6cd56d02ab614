import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation

struct RegionsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "regions", abstract: "See how the farm's regions stand, and have them audited.",
        subcommands: [RegionsStatusCommand.self, RegionsAuditCommand.self], defaultSubcommand: RegionsStatusCommand.self)
}

struct RegionsStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Tell for each region how far it is behind, and what is missing or damaged.",
        discussion: """
            Examples:
              sciferry regions status                            what the last questions and audits found
              sciferry regions status --check --patience 600     for monitoring: the exit status says whether all is well
            """)

    @OptionGroup var farm: FarmOptions
    @Flag(help: "Fail when a region does not answer, is behind for too long, or has anything missing or damaged.") var check = false
    @Option(help: "Seconds that a region may be behind.") var patience: Double = 3600
    @Flag(help: "Tell what each region's store can do.") var stores = false

    func run() async throws {
        try await reporting {
            let regions: [RegionStatus] = try await farm.client().get("/api/v1/regions")
            if farm.json { try Console.json(regions) } else { RegionsDisplay.show(regions, stores: stores) }
            guard check else { return }
            let troubles = regions.flatMap { region in
                region.troubles(now: .now, patience: patience).map { "region \(region.name) \($0)" }
            }
            if !troubles.isEmpty { throw FarmError("regions.trouble", .unavailable, troubles.joined(separator: "; ")) }
        }
    }
}

struct RegionsAuditCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit", abstract: "Compare regions with what releases need, and bring what is missing or damaged.",
        discussion: """
            The coordinator does so by itself: listings every day, and every week a share of the packs is read; "audits" in farm.json says when
            (docs/regions.md).
            Examples:
              sciferry regions audit                          compare listings, repair
              sciferry regions audit --read                   also read the next share of the packs
              sciferry regions audit --all --region west      read every pack of one region
            """)

    @OptionGroup var farm: FarmOptions
    @Option(help: ArgumentHelp("Only this region; may be repeated.", valueName: "name")) var region: [String] = []
    @Flag(help: "Read the next share of the packs.") var read = false
    @Flag(help: "Read all packs.") var all = false
    @Flag(inversion: .prefixedNo, help: "Whether what is missing or damaged is brought from another region.") var repair = true

    func run() async throws {
        try await reporting {
            let client = try farm.client()
            let request = AuditRequest(kind: all ? .whole : read ? .reading : .listing, regions: region, repairs: repair)
            var regions: [RegionStatus] = try await client.post("/api/v1/regions/audits", request)
            while regions.contains(where: \.isAudited) {
                try await Task.sleep(for: .milliseconds(200))
                regions = try await client.get("/api/v1/regions")
            }
            let audited = regions.filter { region.isEmpty || region.contains($0.name) }
            if farm.json { try Console.json(audited) } else { RegionsDisplay.show(audited, stores: false) }
            let bad = audited.filter { !($0.record.lastAudit?.isSound ?? false) }
            guard bad.isEmpty else {
                throw FarmError(
                    "regions.damaged", .corrupt, "not all is well in \(bad.map(\.name).joined(separator: ", "))",
                    hint: "what no region has whole comes again when what needs it is built again: sciferry build")
            }
        }
    }
}

enum RegionsDisplay {
    static func show(_ regions: [RegionStatus], stores: Bool) {
        Console.table(
            ["REGION", "CHANNEL", "BEHIND", "WAITING", "OBJECTS", "MISSING", "DAMAGED", "AUDITED", "READ"], regions.map(row))
        for region in regions {
            if let error = region.error { Console.print("\(region.name): does not answer: \(error)") }
            if region.isFilling { Console.print("\(region.name): is new, and gets what the others have before its channel") }
            for audit in [region.record.listing, region.record.reading].compactMap(\.self) {
                if let error = audit.error { Console.print("\(region.name): the last audit ended early: \(error)") }
                if audit.repaired > 0 {
                    Console.print(
                        "\(region.name): \(audit.repaired) objects were repaired at the audit of \(Console.date(audit.startedAt))")
                }
                for fault in audit.faults { Console.print("\(region.name): \(fault.key.isEmpty ? "" : "\(fault.key): ")\(fault.message)") }
                let more = audit.missing + audit.damaged - audit.faults.count
                if more > 0 { Console.print("\(region.name): and \(more) more") }
            }
            if stores, let abilities = region.record.abilities {
                Console.print("\n\(region.name), \(region.bucket):")
                AbilitiesDisplay.show(abilities)
            }
        }
    }

    private static func row(_ region: RegionStatus) -> [String] {
        let audit = region.record.lastAudit
        let lag = region.lag(now: .now)
        return [
            region.name, region.version.map(String.init) ?? "none", region.behindSince == nil ? "no" : Console.seconds(lag),
            "\(region.waiting)", audit.map { "\($0.objects)" } ?? "-", audit.map { "\($0.missing)" } ?? "-",
            audit.map { "\($0.damaged)" } ?? "-", audit.map { Console.date($0.startedAt) } ?? "never",
            region.record.reading.map { "\($0.packsRead) packs, \(Console.bytes($0.bytesRead))" } ?? "-",
        ]
    }
}
