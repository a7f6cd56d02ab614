package import FarmModel
import Foundation
import SystemIO

/// What a collection took away, or would take.
package struct SiteCollection: Codable, Sendable, Hashable {
    package var generations: [Int] = []
    /// `NAME/DIRECTORY`.
    package var tools: [String] = []
    package var images: [Digest] = []
    package var bytes: Int64 = 0
}

extension Site {
    /// Generations that a policy does not keep, oldest first.
    private func past(_ keeps: SiteAppearance.Keeping, now: Timestamp) throws -> [SiteGeneration] {
        let current = try current()?.number ?? 0
        let others = try history().filter { $0.number != current }
        let kept = Set(others.map(\.number).sorted().suffix(max(0, keeps.generations)))
        return others.filter {
            !kept.contains($0.number) && now.seconds(since: hiddenAt($0.number) ?? $0.madeAt) > Double(keeps.days) * 86400
        }
    }

    /// Seconds for which an image stays that no generation has ever shown: whoever brings it may be about to.
    private static let patience: Double = 86400

    /// Takes away what no generation needs that the policy keeps: generations, wrappers, images, and what broken pulls left.
    ///
    /// - Parameters:
    ///   - isTrial: only says what would go.
    ///   - keepsImages: leaves all images, for a person who has told one to stay.
    @discardableResult
    package func collect(_ keeps: SiteAppearance.Keeping, now: Timestamp, isTrial: Bool = false, keepsImages: Bool = false) throws
        -> SiteCollection
    {
        let lock = isTrial ? nil : try self.lock("a collection")
        defer { withExtendedLifetime(lock) {} }
        var result = SiteCollection()
        let gone = try past(keeps, now: now)
        result.generations = gone.map(\.number)
        let kept = try history().filter { !result.generations.contains($0.number) }
        let wrappers = Set(kept.flatMap { $0.tools.map { "\($0.name)/\($0.directory)" } })
        result.tools = Set(gone.flatMap { $0.tools.map { "\($0.name)/\($0.directory)" } }).subtracting(wrappers).sorted()
        func images(_ generations: [SiteGeneration]) -> Set<String> {
            Set(generations.flatMap { $0.tools.flatMap { $0.releases.map(\.image.digest.hex) } })
        }
        let (needed, shown) = (images(kept), images(gone))
        for name in try Disk.list("\(root)/images") where !keepsImages && !name.hasPrefix(".") && !needed.contains(name) {
            guard let digest = Digest(name) else { continue }
            let age = now.seconds(since: Disk.modified("\(root)/images/\(name)") ?? now)
            guard shown.contains(name) || age > Site.patience else { continue }
            result.images.append(digest)
            result.bytes += Disk.size("\(root)/images/\(name)/image.sif") ?? 0
        }
        if isTrial { return result }
        for generation in gone { try putAway("\(root)/generations/\(generation.number)") }
        for name in try Disk.list("\(root)/generations") where name.hasPrefix(".") { try Disk.remove("\(root)/generations/\(name)") }
        for name in try Disk.list("\(root)/tools") {
            for directory in try Disk.list("\(root)/tools/\(name)") where !wrappers.contains("\(name)/\(directory)") {
                let path = "\(root)/tools/\(name)/\(directory)"
                if directory.hasPrefix(".") { try Disk.remove(path) } else { try putAway(path) }
            }
            rmdir("\(root)/tools/\(name)")
        }
        for image in result.images { try putAway(imageDirectory(image)) }
        try sweepStaging()
        return result
    }
}
