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

    /// Returns the tag of the object in the destination, which is what was read: of the source's tag and of its name where they tell it, and of
    /// every byte that went over the line. What is anything else is never put together.
    ///
    /// - Parameters:
    ///   - md5: of the whole, if it is known: the parts then go one after another.
    ///   - name: the digest of the whole, if that is known.
    func run(_ object: ObjectInfo, to key: String, _ facts: ObjectFacts, md5: [UInt8]?, name: Digest?) async throws -> String? {
        let upload = try await open(object, to: key, facts)
        let sent: [SentPart]
        do {
            if md5 != nil || name != nil {
                sent = try await inOrder(object, upload, to: key, md5: md5, name: name)
            } else {
                sent = try await atOnce(object, upload, to: key)
                try await compareWithTag(object, sent, upload)
            }
        } catch let error as FarmError where error.code == "sync.digest" || error.code == "sync.damaged" {
            // Nobody knows which of the parts it was.
            try await destination.abortUpload(key, upload: upload.id)
            try memory?.ended(upload)
            throw error
        }
        let tag = try await destination.completeUpload(key, upload: upload.id, sent.map(\.part))
        try memory?.ended(upload)
        try await confirm(key, object.size, upload.partSize, sent, tag)
        return tag
    }

    private struct SentPart: Sendable {
        var part: UploadedPart
        /// Of the bytes that were read.
        var md5: [UInt8]

        init(_ part: UploadedPart, _ md5: [UInt8]) { (self.part, self.md5) = (part, md5) }
    }

    private func range(_ number: Int, _ object: ObjectInfo, _ upload: PendingUpload) -> Range<Int64> {
        Int64(number - 1) * upload.partSize..<min(Int64(number) * upload.partSize, object.size)
    }

    /// Parts of an earlier run, by number.
    private func known(_ upload: PendingUpload) -> [Int: SentPart] {
        upload.parts.reduce(into: [:]) { found, part in
            if let md5 = upload.sums[part.number] { found[part.number] = SentPart(part, md5) }
        }
    }

    private func atOnce(_ object: ObjectInfo, _ upload: PendingUpload, to key: String) async throws -> [SentPart] {
        var done = known(upload)
        var waiting = (1...upload.count).filter { done[$0] == nil }[...]
        try await withThrowingTaskGroup(of: SentPart.self) { tasks in
            var running = 0
            while running > 0 || !waiting.isEmpty {
                while running < max(1, options.partsAtOnce), let number = waiting.popFirst() {
                    tasks.addTask { try await self.send(object, number, upload, to: key) }
                    running += 1
                }
                guard let sent = try await tasks.next() else { break }
                done[sent.part.number] = sent
                running -= 1
            }
        }
        return done.values.sorted { $0.part.number < $1.part.number }
    }

    /// One after another, so that the sums of the whole can be made; what an earlier run sent is read again for them.
    private func inOrder(
        _ object: ObjectInfo, _ upload: PendingUpload, to key: String, md5: [UInt8]?, name: Digest?
    ) async throws -> [SentPart] {
        let sums = WholeSums(md5: md5, digest: name)
        let known = known(upload)
        var done: [SentPart] = []
        for number in 1...upload.count {
            if let part = known[number] {
                guard try await again(object, range(number, object, upload), sums) == part.md5 else {
                    throw ObjectTransfer.unlike(object.key, source.name)
                }
                done.append(part)
            } else {
                done.append(try await send(object, number, upload, to: key, sums))
            }
        }
        let end = sums.finish()
        if let name, end.digest != name { throw ObjectTransfer.damaged(object.key, source.name) }
        if let md5, end.md5 != md5 { throw ObjectTransfer.unlike(object.key, source.name) }
        return done
    }

    /// The MD5 of a range of the source.
    private func again(_ object: ObjectInfo, _ range: Range<Int64>, _ sums: WholeSums?) async throws -> [UInt8] {
        let sum = Mutex(MD5())
        try await source.read(object.key, range: range, tag: object.tag) { bytes in
            if !(source is DirectoryStore) { options.bandwidth.take(bytes.count, .down) }
            try watch.check()
            sum.withLock { $0.update(bytes) }
            sums?.update(bytes)
        }
        return sum.withLock { $0.finish() }
    }

    /// Where the source's tag is of parts, too, it is that of ours, or was made of parts of another size: then the source is read again.
    private func compareWithTag(_ object: ObjectInfo, _ sent: [SentPart], _ upload: PendingUpload) async throws {
        guard case .parts(let digest, _) = object.tag.map(ContentTag.init), MD5.of(sent.flatMap(\.md5)) != digest else { return }
        for one in sent where try await again(object, range(one.part.number, object, upload), nil) != one.md5 {
            throw ObjectTransfer.unlike(object.key, source.name)
        }
    }

    /// The tag says that the parts were put together to what was read, or else the object is read back.
    private func confirm(_ key: String, _ size: Int64, _ partSize: Int64, _ sent: [SentPart], _ tag: String?) async throws {
        let digest = MD5.of(sent.flatMap(\.md5))
        if case .parts(digest, sent.count) = tag.map(ContentTag.init) { return }
        let sum = Mutex((PartedMD5(partSize: partSize), Int64(0)))
        try await destination.read(key, range: nil, tag: tag) { bytes in
            sum.withLock { sum in
                sum.0.update(bytes)
                sum.1 += Int64(bytes.count)
            }
        }
        guard sum.withLock({ $0.0.finish() == digest && $0.1 == size }) else { throw ObjectTransfer.spoilt(key, destination.name) }
    }

    /// The upload that was broken off, if it is of the same object and still there; otherwise a new one.
    private func open(_ object: ObjectInfo, to key: String, _ facts: ObjectFacts) async throws -> PendingUpload {
        if var pending = memory?.upload(of: key) {
            if pending.size == object.size, pending.tag == object.tag, object.tag != nil,
                let there = try await destination.parts(key, upload: pending.id)
            {
                try await trust(there, &pending, object)
                let bytes = pending.parts.reduce(0) { $0 + $1.size }
                progress.resume(object.key, bytes)
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
    private func trust(_ there: [UploadedPart], _ pending: inout PendingUpload, _ object: ObjectInfo) async throws {
        let journal = Dictionary(pending.parts.map { ($0.number, $0) }, uniquingKeysWith: { $1 })
        pending.parts = []
        for part in there where part.number <= pending.count {
            let range = range(part.number, object, pending)
            guard part.size == range.count else { continue }
            if journal[part.number]?.tag == part.tag, pending.sums[part.number] != nil {
                pending.parts.append(part)
            } else if let digest = ContentTag(part.tag).md5, try await again(object, range, nil) == digest {
                pending.sums[part.number] = digest
                try memory?.sent(part, digest, of: pending)
                pending.parts.append(part)
            }
        }
    }

    private func send(
        _ object: ObjectInfo, _ number: Int, _ upload: PendingUpload, to key: String, _ sums: WholeSums? = nil
    ) async throws -> SentPart {
        let policy = options.patience
        let range = range(number, object, upload)
        let before = sums?.state
        var (attempt, known) = (1, [UInt8]?.none)
        while true {
            do {
                let (tag, md5) = try await once(object, range, number, upload, to: key, md5: known, sums)
                // Unlike tags: damage, or tags of another kind. Sent again with its MD5 the store itself refuses damage.
                guard tag.md5 == md5 || known != nil else {
                    known = md5
                    throw FarmError(
                        "sync.part", .unavailable, "\(destination.name) has other bytes in part \(number) of \(key) than were sent to it")
                }
                let part = UploadedPart(number: number, size: Int64(range.count), tag: tag.text)
                try memory?.sent(part, md5, of: upload)
                return SentPart(part, md5)
            } catch let error as FarmError where error.category.isTransient {
                attempt += 1
                try watch.check()
                guard let delay = policy.delay(beforeTry: attempt, retryAfter: error.retryAfter) else { throw error }
                if let before { sums?.state = before }
                try await watch.pause(delay)
            }
        }
    }

    private func once(
        _ object: ObjectInfo, _ range: Range<Int64>, _ number: Int, _ upload: PendingUpload, to key: String, md5: [UInt8]?,
        _ sums: WholeSums?
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
                sums?.update(bytes)
                try pipe.write(bytes)
            }
        } writing: {
            try await destination.writePart(key, upload: upload.id, number: number, feed, md5: md5)
        }
        return ((tag, ContentTag(tag).md5), sum.withLock { $0.finish() })
    }
}
