import ChunkStore
import FarmModel
import Glibc
import SingularityImage
import Synchronization
import SystemIO

/// Cuts and sends an image while somebody writes it.
final class ImageStream: Sendable {
    let sender: ChunkSender
    private let first: GrowingImage
    private let last = Mutex<GrowingImage?>(nil)
    /// Marks come closer together than it is worth waking up for.
    private static let step: Int64 = 16 << 20

    /// - Parameter path: the image's file, which is made here, empty.
    init(_ path: String, _ uploader: Uploader) throws {
        try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC).close()
        sender = try ChunkSender(uploader, image: path)
        // Behind the head and the super block of the file system, which are written last.
        let start = SingularityImage.partitionStart + Int64(SingularityImage.partitionAlignment)
        first = GrowingImage(try OpenFile(path, flags: O_RDONLY), from: start, parameters: .standard)
    }

    /// What was cut when the writer had ended.
    var growing: GrowingImage { last.withLock { $0 } ?? first }

    /// Runs the writer on a thread for blocking work and sends what settles meanwhile.
    ///
    /// - Parameter write: gets a function to call with how far the image has settled, and one that says whether to give up.
    func during<Value: Sendable>(
        _ write: @escaping @Sendable (@escaping (Int64) -> Void, @escaping @Sendable () -> Bool) throws -> Value
    ) async throws -> Value {
        let (marks, continuation) = AsyncStream<Int64>.makeStream(bufferingPolicy: .bufferingNewest(1))
        return try await withThrowingTaskGroup(of: Value?.self) { tasks in
            tasks.addTask {
                defer { continuation.finish() }
                return try await Blocking.interruptible { isOver in
                    var told: Int64 = 0
                    return try write(
                        { settled in
                            guard settled - told >= ImageStream.step else { return }
                            told = settled
                            continuation.yield(settled)
                        }, { isOver.isRaised })
                }
            }
            tasks.addTask { [self] in
                var growing = first
                for await mark in marks {
                    let now = growing
                    let (next, cuts) = try await Blocking.run {
                        var next = now
                        let cuts = try next.advance(to: mark)
                        return (next, cuts)
                    }
                    growing = next
                    try await sender.add(cuts)
                }
                let end = growing
                last.withLock { $0 = end }
                return nil
            }
            var result: Value?
            do { while let ended = try await tasks.next() { if let ended { result = ended } } } catch {
                // Whoever failed first says why; the other one is told to stop.
                tasks.cancelAll()
                while !tasks.isEmpty { _ = try? await tasks.next() }
                await sender.cancel()
                throw error
            }
            guard let result else { throw FarmError("image.stream", .fault, "the writer of the image gave nothing") }
            return result
        }
    }
}
