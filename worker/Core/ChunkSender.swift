import HTTPTransport
import ChunkStore
import FarmModel
import Foundation
import Glibc
import SystemIO

/// Sends those chunks of an image that the farm lacks, in packs, while the image grows: one pack is on its way while the next is made.
actor ChunkSender {
    private let uploader: Uploader
    private let file: OpenFile
    private var seen: Set<Digest> = []
    /// Not asked for yet.
    private var unasked: [ImageChunker.Cut] = []
    /// Missing, and in no pack yet.
    private var waiting: [ImageChunker.Cut] = []
    private var waitingBytes = 0
    private var upload: Task<IncomingObject, any Error>?
    private(set) var packs: [IncomingObject] = []
    private(set) var newChunks = 0
    private(set) var newBytes: Int64 = 0

    init(_ uploader: Uploader, image: String) throws {
        self.uploader = uploader
        file = try OpenFile(image, flags: O_RDONLY)
    }

    /// Takes chunks that will not change any more.
    func add(_ cuts: [ImageChunker.Cut]) async throws {
        take(cuts)
        if unasked.count >= 256 { try await ask() }
        while waitingBytes >= PackBuilder.fullSize { try await sendPack() }
    }

    /// Sends the last chunks and what is left; all of it is there when this returns.
    ///
    /// - Parameter progress: the share of what was left that is packed, 0 to 1.
    func finish(_ rest: [ImageChunker.Cut], progress: (Double) async -> Void) async throws {
        take(rest)
        try await ask()
        let total = Double(max(1, waitingBytes))
        while !waiting.isEmpty {
            try await sendPack()
            await progress(1 - Double(waitingBytes) / total)
        }
        try await settle()
    }

    /// Ends what is under way, of an image that comes to nothing.
    func cancel() async {
        upload?.cancel()
        _ = await upload?.result
        upload = nil
    }

    private func take(_ cuts: [ImageChunker.Cut]) { unasked += cuts.filter { seen.insert($0.chunk.digest).inserted } }

    private func ask() async throws {
        let asked = unasked
        unasked = []
        guard !asked.isEmpty else { return }
        let missing = try await uploader.missing(asked.map(\.chunk.digest))
        let new = asked.filter { missing.contains($0.chunk.digest) }
        waiting += new
        waitingBytes += new.reduce(0) { $0 + $1.chunk.size }
        newChunks += new.count
    }

    private func sendPack() async throws {
        var taken: [ImageChunker.Cut] = []
        var bytes = 0
        for cut in waiting where bytes < PackBuilder.fullSize {
            taken.append(cut)
            bytes += cut.chunk.size
        }
        waiting.removeFirst(taken.count)
        waitingBytes -= bytes
        let (file, uploader) = (file, uploader)
        let pack = try await ChunkSender.pack(taken, of: file)
        try await settle()
        newBytes += Int64(pack.bytes.count)
        upload = Task { try await uploader.send(.bytes(pack.bytes), kind: "pack", digest: pack.digest, size: Int64(pack.bytes.count)) }
    }

    private func settle() async throws {
        guard let upload else { return }
        packs.append(
            try await withTaskCancellationHandler {
                try await upload.value
            } onCancel: {
                upload.cancel()
            })
        self.upload = nil
    }

    /// Compresses on all processors; the pack is the same for any number of them.
    private static func pack(_ cuts: [ImageChunker.Cut], of file: OpenFile) async throws -> FinishedPack {
        let jobs = ProcessInfo.processInfo.activeProcessorCount
        let share = max(1, (cuts.count + jobs - 1) / jobs)
        let parts = try await withThrowingTaskGroup(of: (Int, [StoredChunk]).self) { tasks in
            for start in stride(from: 0, to: cuts.count, by: share) {
                let part = cuts[start..<min(start + share, cuts.count)]
                tasks.addTask {
                    try await Blocking.run {
                        let packer = ChunkPacker()
                        return (
                            start,
                            try part.map { try packer.pack($0.chunk.digest, try file.read(at: $0.offset, count: $0.chunk.size)[...]) }
                        )
                    }
                }
            }
            return try await tasks.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
        var builder = PackBuilder()
        for (_, chunks) in parts.sorted(by: { $0.key < $1.key }) { for chunk in chunks { builder.add(chunk) } }
        let closed = builder.close()
        return try await Blocking.run { FinishedPack(closed) }
    }
}
