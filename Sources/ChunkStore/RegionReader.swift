package import FarmModel
package import ObjectStorage
import Synchronization
import SystemIO

/// A damage or failure that a reader met and went around.
package struct ReadIncident: Sendable, Hashable, Codable {
    package var region: String
    package var object: String
    package var message: String
}

/// Reads verified objects from several regions: the one that is expected to answer first is asked, another one when the answer is missing,
/// damaged or late. What went wrong is kept for a report, so that damage never passes in silence.
package final class RegionReader: Sendable {
    /// Regions in order of preference.
    private let regions: [any ObjectStore]
    private let state = Mutex<[ReadIncident]>([])
    private let rating: Mutex<RegionRating>
    /// So many are kept; more of them tell nothing new.
    private static let mostIncidents = 1000

    /// - Parameters:
    ///   - regions: in order of preference, which counts while nobody knows better.
    ///   - patience: seconds that a region gets for an answer at least, before another one is asked beside it.
    package init(regions: [any ObjectStore], patience: Double = 5) {
        self.regions = regions
        rating = Mutex(RegionRating(regions: regions.count, leastPatience: patience))
    }

    /// What was met so far.
    package var incidents: [ReadIncident] { state.withLock { $0 } }

    /// What was met since this was asked last.
    package func takeIncidents() -> [ReadIncident] {
        state.withLock { incidents in
            defer { incidents = [] }
            return incidents
        }
    }

    /// The first answer that `verify` accepts. Throws when none does: the error of a region that could not be asked, else
    /// the last region's.
    ///
    /// - Parameter size: of the whole object, about.
    package func read<Value: Sendable>(
        _ key: String, range: Range<Int64>? = nil, size: Int64 = 1 << 20, limit: Int64 = 1 << 30,
        verify: @escaping @Sendable (_ bytes: [UInt8], _ source: String) throws -> Value
    ) async throws -> Value {
        try await fromAnyRegion(key, bytes: range.map { $0.upperBound - $0.lowerBound } ?? size) { region in
            try verify(try await region.get(key, range: range, limit: limit), "\(key) in \(region.name)")
        }
    }

    /// What all regions have that `verify` accepts; they are asked side by side, and once one has answered the others get three seconds more.
    /// Nothing when no region has such an object. Throws when none is accepted and one had it or could not be asked.
    ///
    /// - Parameter absenceCounts: whether it is enough that one region says that it has no such object.
    package func readAll<Value: Sendable>(
        _ key: String, limit: Int64, absenceCounts: Bool = false,
        verify: @escaping @Sendable (_ bytes: [UInt8], _ source: String) throws -> Value
    ) async throws -> [Value] {
        try await withThrowingTaskGroup(of: Answer<Value>.self) { tasks in
            for number in regions.indices {
                let region = regions[number]
                tasks.addTask {
                    do {
                        let bytes = try await region.get(key, range: nil, limit: limit)
                        return .value(try verify(bytes, "\(key) in \(region.name)"))
                    } catch let error as FarmError { return .failure(error, number) }
                }
            }
            defer { tasks.cancelAll() }
            var (found, failure, waiting): ([Value], FarmError?, Int) = ([], nil, regions.count)
            var isAbsent = false
            while waiting > 0, let answer = try await tasks.next() {
                switch answer {
                case .late: return found
                case .value(let value):
                    waiting -= 1
                    if found.isEmpty, waiting > 0 {
                        tasks.addTask {
                            try? await Task.sleep(for: .seconds(3))
                            return .late
                        }
                    }
                    found.append(value)
                case .failure(let error, let region):
                    waiting -= 1
                    guard error.category != .notFound else {
                        isAbsent = true
                        continue
                    }
                    failure = failure ?? error
                    note(error, key, region)
                }
            }
            if found.isEmpty, let failure, !(isAbsent && absenceCounts) { throw failure }
            return found
        }
    }

    private enum Answer<Value: Sendable>: Sendable {
        case value(Value)
        case failure(FarmError, Int)
        case late
    }

    /// Asks the region that should answer first, and another one when it fails or takes much longer than it should.
    ///
    /// - Parameter bytes: how many are asked for, about.
    private func fromAnyRegion<Value: Sendable>(
        _ key: String, bytes: Int64, _ attempt: @escaping @Sendable (_ region: any ObjectStore) async throws -> Value
    ) async throws -> Value {
        try await withThrowingTaskGroup(of: Attempt<Value>.self) { tasks in
            var waiting = rating.withLock { $0.order(bytes, now: RegionReader.now) }[...]
            var running: Set<Int> = []
            var last: any Error = FarmError("storage.absent", .notFound, "there is no region to read \(key) from")
            defer { tasks.cancelAll() }
            func begin() {
                guard let region = waiting.popFirst() else { return }
                running.insert(region)
                let patience = rating.withLock { $0.patience(region, bytes) }
                tasks.addTask { try await self.measured(region, bytes, attempt) }
                if waiting.isEmpty { return }
                tasks.addTask {
                    try? await Task.sleep(for: .seconds(patience))
                    return .late(region, patience)
                }
            }
            begin()
            while !running.isEmpty, let answer = try await tasks.next() {
                switch answer {
                case .value(let value): return value
                case .failure(let error, let region):
                    running.remove(region)
                    // A region that did not answer may have it whole: then absence and damage elsewhere prove nothing.
                    if !((last as? FarmError)?.category.isTransient ?? false) { last = error }
                    note(error, key, region)
                    begin()
                case .late(let region, let seconds):
                    guard !Task.isCancelled, running.contains(region), !waiting.isEmpty else { continue }
                    let error = FarmError(
                        "storage.slow", .unavailable, "it has not answered within \(Int(seconds)) s, so another one is asked")
                    note(error, key, region)
                    begin()
                }
            }
            throw last
        }
    }

    private enum Attempt<Value: Sendable>: Sendable {
        case value(Value)
        case failure(FarmError, Int)
        case late(Int, Double)
    }

    private func measured<Value: Sendable>(
        _ region: Int, _ bytes: Int64, _ attempt: @Sendable (_ region: any ObjectStore) async throws -> Value
    ) async throws -> Attempt<Value> {
        rating.withLock { $0.began(region, bytes) }
        let start = ContinuousClock.now
        func end(isWhole: Bool) {
            let time = (ContinuousClock.now - start).components
            let seconds = Double(time.seconds) + Double(time.attoseconds) / 1e18
            rating.withLock { $0.ended(region, bytes, seconds: isWhole || Task.isCancelled ? seconds : 0, isWhole: isWhole) }
        }
        do {
            let value = try await attempt(regions[region])
            end(isWhole: true)
            return .value(value)
        } catch {
            end(isWhole: false)
            guard let error = error as? FarmError else { throw error }
            return .failure(error, region)
        }
    }

    private func note(_ error: FarmError, _ key: String, _ region: Int) {
        let incident = ReadIncident(region: regions[region].name, object: key, message: error.message)
        state.withLock { if $0.count < RegionReader.mostIncidents { $0.append(incident) } }
        // Every further read would wait for it again.
        if error.category == .unavailable { rating.withLock { $0.failed(region, now: RegionReader.now) } }
    }

    private static var now: Double { Double(Timestamp.now.milliseconds) / 1000 }

    /// Seconds that so many bytes will take, by what the regions did so far; `nil` before anything was read.
    package func seconds(for bytes: Int64) -> Double? { rating.withLock { $0.seconds(for: bytes, now: RegionReader.now) } }

    /// An object whose name is the digest of its bytes.
    ///
    /// - Parameter size: of the object, about: a long one may take long before another region is asked for it, too.
    package func content(_ digest: Digest, key: String, size: Int64 = 1 << 20) async throws -> [UInt8] {
        try await read(key, size: size) { bytes, source in
            guard Digest(hashing: bytes) == digest else {
                throw FarmError("object.damaged", .corrupt, "\(source) is damaged: its bytes are not those of its name")
            }
            return bytes
        }
    }

    /// A manifest by its digest.
    package func manifest(_ digest: Digest) async throws -> ImageManifest {
        let key = ImageManifest.key(digest)
        return try ImageManifest(try await content(digest, key: key), source: key)
    }

    /// Where each of a manifest's chunks lies; throws `manifest.uncovered` when one lies nowhere. A cover has no digest in
    /// its name, so a region's cover is believed only when its indexes hold everything.
    package func locations(of manifest: ImageManifest, digest: Digest) async throws -> [Digest: ChunkLocation] {
        let coverKey = ImageManifest.coverKey(digest)
        return try await fromAnyRegion(coverKey, bytes: 1 << 10) { region in
            let source = "\(coverKey) in \(region.name)"
            let cover = try CanonicalJSON.decode(ManifestCover.self, from: try await region.get(coverKey), source: source)
            return try await self.locations(of: manifest, cover: cover, source: source)
        }
    }

    /// Where each of a manifest's chunks lies by a cover: in the first of its indexes that has it; throws `manifest.uncovered`.
    package func locations(of manifest: ImageManifest, cover: ManifestCover, source: String) async throws -> [Digest: ChunkLocation] {
        var missing = Set(manifest.chunks.map(\.digest))
        var found: [Digest: ChunkLocation] = [:]
        for name in cover.indexes where !missing.isEmpty {
            let key = PackIndex.key(name)
            let index = try PackIndex(try await content(name, key: key), source: key)
            for digest in missing { if let location = try index.locations(of: digest).first { found[digest] = location } }
            missing.subtract(found.keys)
        }
        guard missing.isEmpty else {
            throw FarmError(
                "manifest.uncovered", .corrupt,
                "\(missing.count) chunks of image \(manifest.image.short) lie in none of the indexes of \(source)")
        }
        return found
    }

    /// The opened bytes of chunks, fetched from all their packs side by side.
    package func chunks(at locations: some Sequence<ChunkLocation>) async throws -> [Digest: [UInt8]] {
        let packs = Dictionary(grouping: locations, by: \.pack).mapValues { $0.map(\.entry) }
        return try await withThrowingTaskGroup(of: [Digest: [UInt8]].self) { tasks in
            for (pack, entries) in packs { tasks.addTask { try await self.chunks(entries, in: pack) } }
            return try await tasks.reduce(into: [:]) { $0.merge($1) { first, _ in first } }
        }
    }

    /// The opened bytes of chunks that lie in one pack, in the order asked. Neighbours are read in one request; when a
    /// run is damaged its chunks are read one by one, each from whichever region has it whole.
    package func chunks(_ entries: [PackEntry], in pack: Digest) async throws -> [Digest: [UInt8]] {
        var result: [Digest: [UInt8]] = [:]
        let key = Pack.key(pack)
        for run in RegionReader.runs(entries) {
            guard let first = run.first, let last = run.last else { continue }
            let range = first.range.lowerBound..<last.range.upperBound
            let opened: [Digest: [UInt8]]
            do {
                opened = try await read(key, range: range) { try RegionReader.open(run, from: $0, at: range.lowerBound, source: $1) }
            } catch is FarmError where run.count > 1 && answersSomewhere {
                // Where none answers, asking for each of them would only take longer.
                var single: [Digest: [UInt8]] = [:]
                for entry in run {
                    single.merge(
                        try await read(key, range: entry.range) {
                            try RegionReader.open([entry], from: $0, at: entry.offset, source: $1)
                        }
                    ) { first, _ in first }
                }
                opened = single
            }
            result.merge(opened) { first, _ in first }
        }
        return result
    }

    private var answersSomewhere: Bool {
        rating.withLock { rating in regions.indices.contains { !rating.isLate($0, RegionReader.now) } }
    }

    /// Groups entries whose bytes lie close together: gaps up to 64 KiB are read along, runs end at 8 MiB.
    package static func runs(_ entries: [PackEntry]) -> [[PackEntry]] {
        var runs: [[PackEntry]] = []
        for entry in entries.sorted(by: { $0.offset < $1.offset }) {
            if let last = runs.last?.last, let first = runs.last?.first,
                entry.offset - last.range.upperBound <= 64 << 10, entry.range.upperBound - first.offset <= 8 << 20
            {
                runs[runs.count - 1].append(entry)
            } else {
                runs.append([entry])
            }
        }
        return runs
    }

    private static func open(
        _ run: [PackEntry], from bytes: [UInt8], at start: Int64, source: String
    ) throws -> [Digest: [UInt8]] {
        var result: [Digest: [UInt8]] = [:]
        try bytes.withUnsafeBytes { raw in
            for entry in run {
                let from = Int(entry.offset - start)
                result[entry.digest] = try entry.open(
                    UnsafeRawBufferPointer(rebasing: raw[from..<from + entry.storedSize]), source: source)
            }
        }
        return result
    }
}

/// A chunk's place in the store.
package struct ChunkLocation: Sendable, Hashable {
    package var pack: Digest
    package var entry: PackEntry

    package init(pack: Digest, entry: PackEntry) {
        self.pack = pack
        self.entry = entry
    }
}
