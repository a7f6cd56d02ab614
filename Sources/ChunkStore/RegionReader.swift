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
    package let regions: [any ObjectStore]
    private let state = Mutex<[ReadIncident]>([])
    private let rating: Mutex<RegionRating>
    /// So many are kept; more of them tell nothing new.
    private static let mostIncidents = 1000
    /// Packs that are read from side by side.
    private static let mostPacks = 8

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
            // A server without ranges sends the whole object, which is a pack.
            let most = range.map { min(limit, $0.upperBound - $0.lowerBound + (64 << 20)) } ?? limit
            return try verify(try await region.get(key, range: range, limit: most), "\(key) in \(region.name)")
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
            var (isAbsent, isTimed) = (false, false)
            while waiting > 0, let answer = try await tasks.next() {
                switch answer {
                case .late: return found
                case .value(let value):
                    waiting -= 1
                    found.append(value)
                case .failure(let error, let region):
                    waiting -= 1
                    if error.category == .notFound {
                        isAbsent = true
                    } else {
                        failure = failure ?? error
                        note(error, key, region)
                    }
                }
                if !isTimed, waiting > 0, !found.isEmpty || (isAbsent && absenceCounts) {
                    isTimed = true
                    tasks.addTask {
                        try? await Task.sleep(for: .seconds(3))
                        return .late
                    }
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
            // Chosen and counted in one step: what else begins now must see it.
            var waiting = rating.withLock { rating in
                let order = rating.order(bytes, now: RegionReader.now)
                if let first = order.first { rating.began(first, bytes) }
                return order
            }[...]
            var isCounted = true
            var running: Set<Int> = []
            var last: any Error = FarmError("storage.absent", .notFound, "there is no region to read \(key) from")
            defer { tasks.cancelAll() }
            func begin() {
                guard let region = waiting.popFirst() else { return }
                running.insert(region)
                let patience = rating.withLock { [isCounted] rating in
                    if !isCounted { rating.began(region, bytes) }
                    return rating.patience(region)
                }
                isCounted = false
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

    /// Asks a region, for which this was counted as begun.
    private func measured<Value: Sendable>(
        _ region: Int, _ bytes: Int64, _ attempt: @Sendable (_ region: any ObjectStore) async throws -> Value
    ) async throws -> Attempt<Value> {
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
        let key = ImageManifest.coverKey(digest)
        let parse = { @Sendable (bytes: [UInt8], source: String) in
            (cover: try CanonicalJSON.decode(ManifestCover.self, from: bytes, source: source), source: source)
        }
        let first = try await read(key, size: 1 << 10, limit: ManifestCover.largest, verify: parse)
        do { return try await locations(of: manifest, cover: first.cover, source: first.source) } catch let error as FarmError
            where !error.category.isTransient
        {
            let region = first.source.dropFirst("\(key) in ".count)
            state.withLock {
                if $0.count < RegionReader.mostIncidents {
                    $0.append(ReadIncident(region: String(region), object: key, message: error.message))
                }
            }
            for other in try await readAll(key, limit: ManifestCover.largest, verify: parse) where other.cover != first.cover {
                if let found = try? await locations(of: manifest, cover: other.cover, source: other.source) { return found }
            }
            throw error
        }
    }

    /// Where each of a manifest's chunks lies by a cover: in the first of its indexes that has it; throws `manifest.uncovered`.
    package func locations(of manifest: ImageManifest, cover: ManifestCover, source: String) async throws -> [Digest: ChunkLocation] {
        var missing = Set(manifest.chunks)
        var found: [Digest: ChunkLocation] = [:]
        var damage: FarmError?
        for name in cover.indexes where !missing.isEmpty {
            let key = PackIndex.key(name)
            do {
                let index = try PackIndex(try await content(name, key: key), source: key)
                // A chunk of another size is another chunk, whatever the index says.
                for chunk in missing {
                    if let place = try index.locations(of: chunk.digest).first(where: { $0.entry.size == chunk.size }) {
                        found[chunk.digest] = place
                    }
                }
            } catch let error as FarmError where !error.category.isTransient { damage = error }
            missing = missing.filter { found[$0.digest] == nil }
        }
        guard missing.isEmpty else {
            if let damage { throw damage }
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
            var (waiting, running, result) = (packs.map { ($0.key, $0.value) }[...], 0, [Digest: [UInt8]]())
            while running > 0 || !waiting.isEmpty {
                while running < RegionReader.mostPacks, let (pack, entries) = waiting.popFirst() {
                    running += 1
                    tasks.addTask { try await self.chunks(entries, in: pack) }
                }
                if let chunks = try await tasks.next() { result.merge(chunks) { first, _ in first } }
                running -= 1
            }
            return result
        }
    }

    /// The opened bytes of chunks that lie in one pack, in the order asked. Neighbours are read in one request; when a
    /// run is damaged its chunks are read one by one, each from whichever region has it whole.
    package func chunks(_ entries: [PackEntry], in pack: Digest) async throws -> [Digest: [UInt8]] {
        var result: [Digest: [UInt8]] = [:]
        let key = Pack.key(pack)
        for run in RegionReader.runs(entries) {
            guard let first = run.first else { continue }
            let range = first.range.lowerBound..<run.reduce(0) { max($0, $1.range.upperBound) }
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
        // An index may say anything: where chunks overlap, a run ends where the last of them does.
        var end: Int64 = 0
        for entry in entries.sorted(by: { $0.offset < $1.offset }) {
            defer { end = max(end, entry.range.upperBound) }
            if let first = runs.last?.first, entry.offset - end <= 64 << 10, max(end, entry.range.upperBound) - first.offset <= 8 << 20 {
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
        try bytes.withUnsafeBytes { raw in
            let chunks = try PackEntry.open(
                run,
                { entry in
                    let from = Int(entry.offset - start)
                    guard from >= 0, from + entry.storedSize <= raw.count else {
                        throw FarmError("chunk.damaged", .corrupt, "chunk \(entry.digest.short) of \(source) lies beyond what was read")
                    }
                    return UnsafeRawBufferPointer(rebasing: raw[from..<from + entry.storedSize])
                }, source: source)
            return Dictionary(zip(run.map(\.digest), chunks)) { first, _ in first }
        }
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
