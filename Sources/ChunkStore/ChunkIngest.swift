package import FarmModel
import Synchronization
package import SystemIO

/// Reads a file once and hands out what a store lacks of it, in packs: reading and cutting, hashing and compressing, the digest of the
/// whole, and sending go on side by side, each part in the file's order. Memory is bounded by the parts under way, whatever the file's size.
///
/// The packs of a file are the same for the same known chunks, however many processors take part: what was killed makes them again.
package struct ChunkIngest: Sendable {
    /// What a file came to.
    package struct Outcome: Sendable {
        package var manifest: ImageManifest
        package var newChunks: Int
        /// Of new chunks, opened.
        package var newBytes: Int64
        /// Of all packs.
        package var storedBytes: Int64
        /// What was sent, in order.
        package var listings: [PackIndex.Listing]
    }

    /// How a store answers.
    package struct Store: Sendable {
        /// Whether it has a chunk.
        package var has: @Sendable (Digest) throws -> Bool
        /// The digest of a file of these chunks, where it has one: then nobody needs to compute it.
        package var image: @Sendable ([ImageManifest.Chunk]) async throws -> Digest?
        /// Takes a pack, and gives it as it lies there, durable.
        package var send: @Sendable (FinishedPack) async throws -> FinishedPack

        package init(
            has: @escaping @Sendable (Digest) throws -> Bool,
            image: @escaping @Sendable ([ImageManifest.Chunk]) async throws -> Digest? = { _ in nil },
            send: @escaping @Sendable (FinishedPack) async throws -> FinishedPack
        ) {
            self.has = has
            self.image = image
            self.send = send
        }
    }

    private let parameters: ChunkerParameters
    private let level: Int32
    private let jobs: Int
    private let packSize: Int
    private static let partSize = 4 << 20

    /// - Parameters:
    ///   - level: zstd's.
    ///   - jobs: parts that are hashed and compressed at once.
    ///   - packSize: bytes at which packs are closed.
    package init(parameters: ChunkerParameters, level: Int32 = 3, jobs: Int, packSize: Int = PackBuilder.fullSize) throws {
        try parameters.check()
        (self.parameters, self.level, self.jobs, self.packSize) = (parameters, level, max(1, jobs), packSize)
    }

    /// Whole chunks of the file, one behind the other.
    private struct Part: Sendable {
        var number: Int
        var offset: Int64
        var data: [UInt8]
        var lengths: [Int]
        var end: Int64 { offset + Int64(lengths.reduce(0, +)) }
    }

    private struct Prepared: Sendable {
        var chunks: [ImageManifest.Chunk]
        var new: [StoredChunk]
    }

    private enum Event: Sendable {
        case read(Part)
        case prepared(Int, Prepared)
        case hashed(Digest.Hasher, Int64)
        case sent(Int, PackIndex.Listing, Int64)
    }

    /// Takes a file in. A thrown error ends all parts; what was sent stays sent.
    ///
    /// - Parameter progress: called with the bytes that are done.
    package func run(_ file: OpenFile, to store: Store, progress: (Int64) -> Void = { _ in }) async throws -> Outcome {
        let size = try file.size()
        let claims = Claims(store.has)
        return try await withThrowingTaskGroup(of: Event.self) { tasks in
            var state = State(size: size, packSize: packSize)
            repeat {
                while let step = state.next(jobs: jobs) {
                    switch step {
                    case .read(let number, let offset): tasks.addTask { .read(try await read(file, number, offset, size)) }
                    case .prepare(let part): tasks.addTask { .prepared(part.number, try await prepare(part, claims)) }
                    case .hash(let hasher, let range):
                        tasks.addTask { .hashed(try await file.hash(range, after: hasher), range.upperBound) }
                    case .send(let number, let closed):
                        tasks.addTask {
                            let pack = try await store.send(try await Blocking.run { FinishedPack(closed) })
                            return .sent(number, .init(pack: pack.digest, entries: pack.entries), Int64(pack.bytes.count))
                        }
                    }
                }
                guard let event = try await tasks.next() else { break }
                state.take(event)
                progress(state.done)
            } while true
            return try await finish(state, file, size, store)
        }
    }

    private func finish(_ state: State, _ file: OpenFile, _ size: Int64, _ store: Store) async throws -> Outcome {
        let image: Digest
        if let hasher = state.hasher {
            image = hasher.finish()
        } else if let known = try await store.image(state.chunks) {
            image = known
        } else {
            image = try await file.hash(0..<size, after: Digest.Hasher()).finish()
        }
        return Outcome(
            manifest: ImageManifest(image: image, size: size, chunker: parameters, chunks: state.chunks), newChunks: state.newChunks,
            newBytes: state.newBytes, storedBytes: state.storedBytes, listings: state.sent.sorted { $0.key < $1.key }.map(\.value))
    }

    // MARK: the parts, each on a thread of its own

    private func read(_ file: OpenFile, _ number: Int, _ offset: Int64, _ size: Int64) async throws -> Part {
        let parameters = parameters
        return try await Blocking.run {
            let count = Int(min(Int64(max(ChunkIngest.partSize, 2 * parameters.maximum)), size - offset))
            let data = try file.read(at: offset, count: count)
            let chunker = try Chunker(parameters)
            let isLast = offset + Int64(count) == size
            return Part(
                number: number, offset: offset, data: data, lengths: data.withUnsafeBytes { chunker.lengths(in: $0, isLast: isLast) })
        }
    }

    private func prepare(_ part: Part, _ claims: Claims) async throws -> Prepared {
        let level = level
        return try await Blocking.run {
            var prepared = Prepared(chunks: [], new: [])
            prepared.chunks.reserveCapacity(part.lengths.count)
            var start = 0
            var packer: ChunkPacker?
            let digests = part.data.withUnsafeBytes { raw in
                var end = 0
                return Digest.several(
                    part.lengths.map { length in
                        defer { end += length }
                        return UnsafeRawBufferPointer(rebasing: raw[end..<end + length])
                    })
            }
            for (digest, length) in zip(digests, part.lengths) {
                let bytes = part.data[start..<start + length]
                start += length
                prepared.chunks.append(.init(digest: digest, size: length))
                guard try claims.isNew(digest, part.number) else { continue }
                let owner = packer ?? ChunkPacker(level: level)
                packer = owner
                prepared.new.append(try owner.pack(digest, bytes))
            }
            return prepared
        }
    }
}

extension ChunkIngest {
    private enum Step {
        case read(Int, Int64)
        case prepare(Part)
        case hash(Digest.Hasher, Range<Int64>)
        case send(Int, PackBuilder.Closed)
    }

    /// What is done, what is under way and what comes next: events in, steps out.
    private struct State {
        let size: Int64
        private let packSize: Int
        private(set) var chunks: [ImageManifest.Chunk] = []
        /// Bytes whose chunks stand in `chunks`.
        private(set) var done: Int64 = 0
        private(set) var newChunks = 0
        private(set) var newBytes: Int64 = 0
        private(set) var storedBytes: Int64 = 0
        private(set) var sent: [Int: PackIndex.Listing] = [:]
        /// Of the whole file; `nil` while nothing new was found in it.
        private(set) var hasher: Digest.Hasher?

        private var hashedTo: Int64 = 0
        private var isHashing = false
        private var readTo: Int64 = 0
        private var reads = 0
        private var isReading = false
        private var waiting: [Part] = []
        private var preparing = 0
        private var prepared: [Int: Prepared] = [:]
        private var packedParts = 0
        private var packed: Set<Digest> = []
        private var builder = PackBuilder()
        private var full: [(number: Int, pack: PackBuilder.Closed)] = []
        private var packs = 0
        private var sending = 0

        private static let mostSends = 2
        /// So far the digest of the whole may stay behind: it reads what the others have left in the page cache.
        private static let mostBehind: Int64 = 256 << 20

        init(size: Int64, packSize: Int) { (self.size, self.packSize) = (size, packSize) }

        /// What may be begun now.
        mutating func next(jobs: Int) -> Step? {
            if sending < State.mostSends, !full.isEmpty {
                sending += 1
                let first = full.removeFirst()
                return .send(first.number, first.pack)
            }
            if preparing < jobs, !waiting.isEmpty {
                preparing += 1
                return .prepare(waiting.removeFirst())
            }
            if let hasher, !isHashing, readTo > hashedTo {
                isHashing = true
                return .hash(hasher, hashedTo..<min(readTo, hashedTo + (16 << 20)))
            }
            let isBehind = hasher != nil && readTo - hashedTo > State.mostBehind
            if !isReading, readTo < size, waiting.count + preparing + prepared.count < jobs + 2, full.isEmpty, !isBehind {
                isReading = true
                return .read(reads, readTo)
            }
            return nil
        }

        mutating func take(_ event: Event) {
            switch event {
            case .read(let part):
                isReading = false
                reads += 1
                readTo = part.end
                waiting.append(part)
            case .prepared(let number, let part):
                preparing -= 1
                prepared[number] = part
                while let next = prepared.removeValue(forKey: packedParts) { pack(next) }
                if done == size, !builder.isEmpty { closePack() }
            case .hashed(let hasher, let end):
                isHashing = false
                self.hasher = hasher
                hashedTo = end
            case .sent(let number, let listing, let bytes):
                sending -= 1
                sent[number] = listing
                storedBytes += bytes
            }
        }

        private mutating func pack(_ part: Prepared) {
            packedParts += 1
            chunks += part.chunks
            done += part.chunks.reduce(0) { $0 + Int64($1.size) }
            for chunk in part.new where packed.insert(chunk.digest).inserted {
                newChunks += 1
                newBytes += Int64(chunk.size)
                builder.add(chunk)
                if builder.size >= packSize { closePack() }
            }
            if newChunks > 0, hasher == nil { hasher = Digest.Hasher() }
        }

        private mutating func closePack() {
            full.append((packs, builder.close()))
            packs += 1
        }
    }

    /// Who prepares a chunk: the first part of the file that has it, so that packs do not depend on which part was faster.
    private final class Claims: Sendable {
        private let has: @Sendable (Digest) throws -> Bool
        private let parts = Mutex<[Digest: Int]>([:])

        init(_ has: @escaping @Sendable (Digest) throws -> Bool) { self.has = has }

        func isNew(_ digest: Digest, _ part: Int) throws -> Bool {
            if try has(digest) { return false }
            return parts.withLock { parts in
                if let other = parts[digest], other <= part { return false }
                parts[digest] = part
                return true
            }
        }
    }
}
