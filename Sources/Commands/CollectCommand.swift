import ArgumentParser
import CoordinatorCore
import FarmModel
import Foundation

/// Takes away from a farm's regions what nothing needs.
struct CollectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "collect", abstract: "Take away from the farm's regions what no release needs; say what each tool costs.",
        discussion: """
            The coordinator does so by itself every day; "retention" in farm.json says what is kept (docs/collection.md). Useless objects are
            condemned first, and go when the grace time is over and they still are of no use.
            Examples:
              sciferry collect --dry-run     what would be done
              sciferry collect --last        what was done last, and what each tool costs
            """)

    @OptionGroup var farm: FarmOptions
    @Flag(help: "Only say what would be done.") var dryRun = false
    @Flag(help: "Show the last collection, and begin none.") var last = false
    @Flag(help: "Show each version of each tool.") var versions = false

    func run() async throws {
        try await reporting {
            let client = try farm.client()
            var report: CollectionReport
            if last {
                report = try await client.get("/api/v1/collections/last")
            } else {
                report = try await client.post("/api/v1/collections", CollectionRequest(isDryRun: dryRun))
                while report.endedAt == nil {
                    try await Task.sleep(for: .milliseconds(200))
                    report = try await client.get("/api/v1/collections/last")
                }
            }
            if farm.json { try Console.json(report) } else { show(report) }
            if let error = report.error { throw FarmError("collection.failed", .corrupt, "the collection ended early: \(error)") }
        }
    }

    private func show(_ report: CollectionReport) {
        Console.table(
            ["TOOL", "VERSION", "IMAGES", "ALONE IN THEM"],
            report.costs.filter { versions || $0.version.isEmpty }.map {
                [$0.name, $0.version.isEmpty ? "all" : $0.version, Console.bytes($0.imageBytes), Console.bytes($0.ownBytes)]
            })
        let share = report.imageBytes > 0 ? Double(report.neededBytes) / Double(report.imageBytes) : 1
        Console.print(
            "\(report.images) \(report.images == 1 ? "image" : "images"), \(Console.bytes(report.imageBytes)), \(report.images == 1 ? "needs" : "need") \(Console.bytes(report.neededBytes)) (\(Console.rounded(share * 100)) %); \(report.packs) packs have \(Console.bytes(report.packBytes))"
        )
        let would = report.isDryRun ? "would be " : ""
        for release in report.retired { Console.print("\(would)retired: \(release.title), \(release.why)") }
        func tell(_ word: String, _ tally: CollectionReport.Tally, always: Bool = false) {
            guard always || tally.objects > 0 else { return }
            Console.print("\(word): \(tally.objects) objects, \(Console.bytes(tally.bytes)) in all regions")
        }
        tell("\(would)removed", report.removed)
        tell("\(would)condemned", report.condemned, always: true)
        tell("waiting", report.waiting)
        tell("spared, as they are needed again", report.spared)
        if report.repackedPacks > 0 {
            Console.print("\(would)written anew: \(report.repackedPacks) packs, \(Console.bytes(report.movedBytes)) of them needed")
        }
        for pack in report.lostPacks {
            Console.print("lost in all regions: pack \(pack.short); build again what needs it, or bring it back: sciferry store repair")
        }
    }
}
