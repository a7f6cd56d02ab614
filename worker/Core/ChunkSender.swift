import HTTPTransport
import ChunkStore
import FarmModel
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
        let (file, uploader, cuts) = (file, uploader, taken)
        let pack = try await Blocking.run { try ChunkSender.pack(cuts, of: file) }
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

    private static func pack(_ cuts: [ImageChunker.Cut], of file: OpenFile) throws -> FinishedPack {
        var builder = PackBuilder()
        let packer = ChunkPacker()
        for cut in cuts { builder.add(try packer.pack(cut.chunk.digest, try file.read(at: cut.offset, count: cut.chunk.size)[...])) }
        return builder.finish()
    }
}
