package import FarmModel
package import ObjectStorage

/// Copies what a destination bucket lacks from a source bucket, in an order that never shows a reader half a release:
/// packs, indexes, manifests and covers, releases, then the channels that point at them.
package struct RegionSync: Sendable {
    /// What a run did, or would do.
    package struct Report: Codable, Sendable, Hashable {
        package var examined = 0
        package var copied = 0
        package var copiedBytes: Int64 = 0
        package var unchanged = 0
        package var deleted = 0
        /// Source objects that were refused because their bytes are not those of their name.
        package var damaged: [String] = []
    }

    /// Limits of one run.
    package struct Options: Sendable, Hashable {
        /// Only say what would be done.
        package var dryRun: Bool
        /// Remove what the source does not have, after everything is copied and only if nothing failed.
        package var deletes: Bool

        package init(dryRun: Bool = false, deletes: Bool = false) {
            self.dryRun = dryRun
            self.deletes = deletes
        }
    }

    private let source: any ObjectStore
    private let destination: any ObjectStore
    private static let atOnce = 4

    package init(from source: any ObjectStore, to destination: any ObjectStore) {
        self.source = source
        self.destination = destination
    }

    /// Runs to the end. A damaged source object is skipped and reported; any other error stops the run, and a later run
    /// goes on from there.
    package func run(_ options: Options = Options(), progress: @escaping @Sendable (Report) -> Void = { _ in }) async throws -> Report {
        var report = Report()
        // Pointers are read before anything is listed: all that they name is then in the listing.
        let pointers = try await readPointers()
        let wanted = try await source.all().filter { !RegionSync.isTransient($0.key) && !RegionSync.isPointer($0.key) }
        if options.deletes, wanted.isEmpty {
            throw FarmError("sync.empty", .usage, "\(source.name) is empty; nothing is deleted", hint: "check the source's address")
        }
        try await checkFarms()
        let present = Dictionary(
            try await destination.all().map { ($0.key, $0) }, uniquingKeysWith: { first, _ in first })
        for group in RegionSync.inOrder(wanted) {
            try await copy(group, present, options, &report, progress)
        }
        if report.damaged.isEmpty { try await writePointers(pointers, present, options, &report) }
        if options.deletes, report.damaged.isEmpty {
            let names = Set(wanted.map(\.key) + pointers.keys)
            // Pointers go first, so that nothing points at what is already gone.
            for key in present.keys.filter({ !names.contains($0) && !RegionSync.isTransient($0) }).sorted(by: RegionSync.deletedBefore) {
                if !options.dryRun { try await destination.delete(key) }
                report.deleted += 1
            }
        }
        return report
    }

    private func copy(
        _ group: [ObjectInfo], _ present: [String: ObjectInfo], _ options: Options, _ report: inout Report,
        _ progress: @Sendable (Report) -> Void
    ) async throws {
        var waiting = group[...]
        try await withThrowingTaskGroup(of: Outcome.self) { tasks in
            var running = 0
            while running > 0 || !waiting.isEmpty {
                while running < RegionSync.atOnce, let object = waiting.popFirst() {
                    let there = present[object.key]
                    tasks.addTask { try await copy(object, there, options) }
                    running += 1
                }
                guard let outcome = try await tasks.next() else { break }
                running -= 1
                report.examined += 1
                switch outcome {
                case .copied(let size):
                    report.copied += 1
                    report.copiedBytes += size
                case .unchanged: report.unchanged += 1
                case .damaged(let key): report.damaged.append(key)
                }
                progress(report)
            }
        }
    }

    private enum Outcome: Sendable {
        case copied(Int64)
        case unchanged
        case damaged(String)
    }

    private func copy(_ object: ObjectInfo, _ there: ObjectInfo?, _ options: Options) async throws -> Outcome {
        let name = RegionSync.contentName(of: object.key)
        // A content-named object of the right size is the same object; others are compared by their bytes.
        if name != nil, there?.size == object.size { return .unchanged }
        if options.dryRun, name != nil { return .copied(object.size) }
        let bytes = try await source.get(object.key)
        if let name, Digest(hashing: bytes) != name { return .damaged(object.key) }
        if name == nil, there?.size == object.size, try await destination.get(object.key) == bytes { return .unchanged }
        if !options.dryRun { try await destination.put(object.key, bytes) }
        return .copied(Int64(bytes.count))
    }

    private func readPointers() async throws -> [String: [UInt8]] {
        var pointers: [String: [UInt8]] = [:]
        for prefix in RegionSync.pointers {
            for object in try await source.all(prefix: prefix) { pointers[object.key] = try await source.get(object.key) }
        }
        return pointers
    }

    private func writePointers(
        _ pointers: [String: [UInt8]], _ present: [String: ObjectInfo], _ options: Options, _ report: inout Report
    ) async throws {
        for (key, bytes) in pointers.sorted(by: { $0.key < $1.key }) {
            report.examined += 1
            if present[key]?.size == Int64(bytes.count), try await destination.get(key) == bytes {
                report.unchanged += 1
                continue
            }
            if !options.dryRun { try await destination.put(key, bytes) }
            report.copied += 1
            report.copiedBytes += Int64(bytes.count)
        }
    }

    /// Two farms' buckets are never poured together.
    private func checkFarms() async throws {
        let key = "sciferry.json"
        guard try await source.head(key) != nil, try await destination.head(key) != nil else { return }
        guard try await source.get(key) == destination.get(key) else {
            throw FarmError(
                "store.foreign", .conflict, "\(destination.name) belongs to another farm than \(source.name)",
                hint: "give the copy a bucket of its own")
        }
    }

    /// Of farms, and of stores without one.
    private static let pointers = ["channels/", "files/"]

    private static func isPointer(_ key: String) -> Bool { pointers.contains { key.hasPrefix($0) } }

    /// The digest that a key promises, for objects named by their content.
    package static func contentName(of key: String) -> Digest? {
        guard ["packs/", "indexes/", "manifests/", "releases/", "records/", "inputs/"].contains(where: { key.hasPrefix($0) }),
            let last = key.split(separator: "/").last
        else { return nil }
        return Digest(last)
    }

    /// Uploads that nobody has verified yet stay where they are, and so does what a store's collections decided.
    private static func isTransient(_ key: String) -> Bool { key.hasPrefix("incoming/") || key.hasPrefix("condemned/") }

    private static func rank(_ key: String) -> Int {
        let order = ["packs/", "indexes/", "manifests/", "covers/", "records/", "releases/", "", "roots/", "channels/", "files/"]
        return order.firstIndex { !$0.isEmpty && key.hasPrefix($0) } ?? 6
    }

    private static func deletedBefore(_ left: String, _ right: String) -> Bool {
        (-rank(left), left) < (-rank(right), right)
    }

    private static func inOrder(_ objects: [ObjectInfo]) -> [[ObjectInfo]] {
        Dictionary(grouping: objects) { rank($0.key) }.sorted { $0.key < $1.key }.map(\.value)
    }
}
