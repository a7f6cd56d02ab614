import FarmModel
import HTTPTransport
import ObjectStorage
import Synchronization

/// Sends one object in parts, and goes on with those that a run before this one had sent.
struct PartedTransfer: Sendable {
    let source: any ObjectStore
    let destination: any MultipartStore
    let options: SyncOptions
    let memory: SyncMemory?
    let progress: SyncProgress
    let watch: LimitWatch
    let resumed: @Sendable (String, Int64) -> Void

    /// Returns the tag of the object in the destination.
    func run(_ object: ObjectInfo, to key: String, _ facts: ObjectFacts) async throws -> String? {
        let upload = try await open(object, to: key, facts)
        let size = upload.partSize
        let count = Int((object.size + size - 1) / size)
        var done = Dictionary(upload.parts.map { ($0.number, $0) }, uniquingKeysWith: { $1 })
        var waiting = (1...count).filter { done[$0] == nil }[...]
        try await withThrowingTaskGroup(of: UploadedPart.self) { tasks in
            var running = 0
            while running > 0 || !waiting.isEmpty {
                while running < max(1, options.partsAtOnce), let number = waiting.popFirst() {
                    tasks.addTask {
                        let range = Int64(number - 1) * size..<min(Int64(number) * size, object.size)
                        let part = try await self.send(object, range, number, upload, to: key)
                        try self.memory?.sent(part, of: upload)
                        return part
                    }
                    running += 1
                }
                guard let part = try await tasks.next() else { break }
                done[part.number] = part
                running -= 1
            }
        }
        let parts = done.values.sorted { $0.number < $1.number }
        let tag = try await destination.completeUpload(key, upload: upload.id, parts)
        try memory?.ended(upload)
        return tag
    }

    /// The upload that was broken off, if it is of the same object and still there; otherwise a new one.
    private func open(_ object: ObjectInfo, to key: String, _ facts: ObjectFacts) async throws -> PendingUpload {
        if var pending = memory?.upload(of: key) {
            if pending.size == object.size, pending.tag == object.tag, object.tag != nil,
                let there = try await destination.parts(key, upload: pending.id)
            {
                pending.parts = try await trusted(there, pending, object)
                let bytes = pending.parts.reduce(0) { $0 + $1.size }
                progress.move(object.key, Int(bytes))
                resumed(object.key, bytes)
                return pending
            }
            try await destination.abortUpload(key, upload: pending.id)
            try memory?.ended(pending)
        }
        let fresh = PendingUpload(
            key: key, id: try await destination.beginUpload(key, facts), partSize: PartLayout.size(of: object), size: object.size,
            tag: object.tag)
        try memory?.began(fresh)
        return fresh
    }

    /// The parts that the journal knows as the store has them, and those that it does not know if they are the source's bytes: they arrived
    /// when nobody was left to write it down.
    private func trusted(_ there: [UploadedPart], _ pending: PendingUpload, _ object: ObjectInfo) async throws -> [UploadedPart] {
        var found: [UploadedPart] = []
        let journal = Dictionary(pending.parts.map { ($0.number, $0) }, uniquingKeysWith: { $1 })
        for part in there {
            let start = Int64(part.number - 1) * pending.partSize
            guard start < object.size, part.size == min(pending.partSize, object.size - start) else { continue }
            if journal[part.number]?.tag == part.tag {
                found.append(part)
            } else if let digest = ContentTag(part.tag).md5 {
                let sum = Mutex(MD5())
                try await source.read(object.key, range: start..<start + part.size, tag: object.tag) { bytes in
                    sum.withLock { $0.update(bytes) }
                }
                if sum.withLock({ $0.finish() }) == digest {
                    try memory?.sent(part, of: pending)
                    found.append(part)
                }
            }
        }
        return found
    }

    private func send(
        _ object: ObjectInfo, _ range: Range<Int64>, _ number: Int, _ upload: PendingUpload, to key: String
    ) async throws -> UploadedPart {
        let policy = RetryPolicy(attempts: max(1, options.tries))
        var (attempt, known) = (1, [UInt8]?.none)
        while true {
            do {
                let (tag, md5) = try await once(object, range, number, upload, to: key, md5: known)
                // Unlike tags: damage, or tags of another kind. Sent again with its MD5 the store itself refuses damage.
                guard tag.md5 == md5 || known != nil else {
                    known = md5
                    throw FarmError(
                        "sync.digest", .unavailable, "\(destination.name) has other bytes in part \(number) of \(key) than were sent to it")
                }
                return UploadedPart(number: number, size: Int64(range.count), tag: tag.text)
            } catch let error as FarmError where error.category.isTransient {
                attempt += 1
                try watch.check()
                guard let delay = policy.delay(beforeTry: attempt, retryAfter: nil) else { throw error }
                try await Task.sleep(for: .seconds(delay))
            }
        }
    }

    private func once(
        _ object: ObjectInfo, _ range: Range<Int64>, _ number: Int, _ upload: PendingUpload, to key: String, md5: [UInt8]?
    ) async throws -> (tag: (text: String, md5: [UInt8]?), md5: [UInt8]) {
        let sum = Mutex(MD5())
        let pipe = BytePipe()
        let feed = ObjectSource.feed(size: Int64(range.count)) { buffer in
            let got = try pipe.read(into: buffer)
            options.bandwidth.take(got, .up)
            return got
        }
        let tag = try await pipe.carry {
            try await source.read(object.key, range: range, tag: object.tag) { bytes in
                if !(source is DirectoryStore) { options.bandwidth.take(bytes.count, .down) }
                try watch.check()
                progress.move(object.key, bytes.count)
                sum.withLock { $0.update(bytes) }
                try pipe.write(bytes)
            }
        } writing: {
            try await destination.writePart(key, upload: upload.id, number: number, feed, md5: md5)
        }
        return ((tag, ContentTag(tag).md5), sum.withLock { $0.finish() })
    }
}
