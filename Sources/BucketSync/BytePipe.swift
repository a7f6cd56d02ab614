import FarmModel
import Foundation

/// Hands bytes from a thread that reads to one that writes, with a bounded number of them between the two.
final class BytePipe: @unchecked Sendable {
    // All of it is touched under the condition's lock only, but for the bytes themselves: those between `head` and `tail` belong to
    // the reader, the others to the writer.
    private let condition = NSCondition()
    private let ring: UnsafeMutableRawBufferPointer
    private var head = 0
    private var count = 0
    private var isEnded = false
    private var failure: (any Error)?
    private var isClosed = false

    init(capacity: Int = 1 << 20) { ring = .allocate(byteCount: capacity, alignment: 16) }

    deinit { ring.deallocate() }

    /// Takes bytes in, waiting for room; throws when nobody reads any more.
    func write(_ bytes: UnsafeRawBufferPointer) throws {
        var place = 0
        while place < bytes.count {
            condition.lock()
            while count == ring.count, !isClosed { condition.wait() }
            if isClosed {
                condition.unlock()
                throw FarmError("sync.closed", .cancelled, "the other side of the transfer has ended")
            }
            let tail = (head + count) % ring.count
            let room = min(ring.count - count, ring.count - tail, bytes.count - place)
            condition.unlock()
            UnsafeMutableRawBufferPointer(rebasing: ring[tail..<tail + room]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: bytes[place..<place + room]))
            condition.lock()
            count += room
            condition.signal()
            condition.unlock()
            place += room
        }
    }

    /// Nothing more comes: all is there, or `error` kept it from coming.
    func end(_ error: (any Error)? = nil) {
        condition.lock()
        isEnded = true
        failure = failure ?? error
        condition.broadcast()
        condition.unlock()
    }

    /// Gives bytes out, waiting for some; 0 at the end. Throws what `end` was told.
    func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
        condition.lock()
        while count == 0, !isEnded, !isClosed { condition.wait() }
        if let failure {
            condition.unlock()
            throw failure
        }
        if isClosed {
            condition.unlock()
            throw CancellationError()
        }
        let size = min(count, ring.count - head, buffer.count)
        condition.unlock()
        guard size > 0 else { return 0 }
        UnsafeMutableRawBufferPointer(rebasing: buffer[..<size]).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: ring[head..<head + size]))
        condition.lock()
        head = (head + size) % ring.count
        count -= size
        condition.signal()
        condition.unlock()
        return size
    }

    /// Nobody reads any more.
    func close() {
        condition.lock()
        isClosed = true
        condition.broadcast()
        condition.unlock()
    }
}
