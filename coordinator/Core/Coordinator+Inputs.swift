import ChunkStore
package import FarmModel
import Foundation
import Glibc
import Logging
import ObjectStorage
import SystemIO

/// The archive of inputs in the first region: what a recipe once declared stays to be had when upstream loses it, and when
/// the coordinator's own disk is lost. `inputs/SHA-256` is an object's key.
extension Coordinator {
    private static let piece: Int64 = 8 << 20

    static func archiveKey(_ digest: Digest) -> String { "inputs/\(digest.hex)" }

    /// Learns what the archive holds, however long the region is away, and then brings new inputs into it.
    func keepArchive() async throws {
        var isKnown = false
        while !Task.isCancelled {
            do {
                if !isKnown {
                    for object in try await firstRegion.all(prefix: "inputs/") {
                        if let digest = Digest(String(object.key.dropFirst("inputs/".count))) { archived[digest] = object.size }
                    }
                    try await recallDatasets()
                    isKnown = true
                }
                try await archiveInputs()
                try await archiveDatasets()
                try await Task.sleep(for: .seconds(1))
            } catch let error as CancellationError { throw error } catch {
                logger.warning("the archive of inputs waits", metadata: ["reason": "\(error)"])
                try await Task.sleep(for: .seconds(10))
            }
        }
    }

    private func archiveInputs() async throws {
        for input in state.inputs.values {
            guard let object = Coordinator.object(of: input), archived[object.digest] == nil, blobs.contains(object.digest) else {
                continue
            }
            try await firstRegion.put(Coordinator.archiveKey(object.digest), .file(path: blobs.path(object.digest), size: object.size))
            archived[object.digest] = object.size
            logger.info("input archived", metadata: ["name": "\(input.name)", "digest": "\(object.digest.hex)"])
        }
    }

    /// The file that the farm keeps of an input; `nil` where it keeps none.
    private static func object(of input: LockedInput) -> IncomingObject? {
        if let archive = input.archive { return archive }
        guard input.kind == .download || input.kind == .base && input.origin == .bootstrap else { return nil }
        return IncomingObject(digest: input.digest, size: input.size)
    }

    /// The blob that a worker means: base images of registries go by a name of their own.
    func blob(named digest: Digest) -> Digest {
        if blobs.contains(digest) || archived[digest] != nil { return digest }
        let held = state.inputs.values.first { $0.archive != nil && BaseImage.archiveName($0.digest, $0.architecture) == digest }
        return held?.archive?.digest ?? digest
    }

    /// A published record's bytes; throws `storage.absent`.
    package func record(_ digest: Digest) async throws -> [UInt8] {
        for record in state.openPublications where record.step == .held {
            // What its builder says of it may be wrong; then it is not what was asked for.
            if let bytes = try? await publisher.heldRecord(digest, of: record) { return bytes }
        }
        return try await firstRegion.get(ImageRecord.key(digest))
    }

    /// Makes sure that a blob lies in the home: one that does not is brought back from the archive and checked.
    func recall(_ digest: Digest) async throws {
        guard !blobs.contains(digest), let size = archived[digest] else { return }
        if let there = recalls[digest] { return try await there.value }
        let task = Task { try await bringBack(digest, size) }
        recalls[digest] = task
        defer { recalls[digest] = nil }
        try await task.value
    }

    /// Away from the coordinator's own executor, which leases wait for.
    private nonisolated func bringBack(_ digest: Digest, _ size: Int64) async throws {
        let path = "\(home.uploads)/recall-\(digest.hex)-\(Nonce.hex(bytes: 4))"
        defer { try? Disk.remove(path) }
        let file = try OpenFile(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
        var hasher = Digest.Hasher()
        var position: Int64 = 0
        while position < size {
            let bytes = try await firstRegion.get(
                Coordinator.archiveKey(digest), range: position..<min(position + Coordinator.piece, size))
            hasher.update(bytes)
            try await Blocking.run { try file.write(bytes) }
            position += Int64(bytes.count)
        }
        try await Blocking.run { try file.sync() }
        file.close()
        guard hasher.finish() == digest else {
            throw FarmError(
                "input.damaged", .corrupt, "\(Coordinator.archiveKey(digest)) in \(firstRegion.name) is damaged",
                hint: "bring the object back from a mirror with sciferry sync")
        }
        try blobs.adopt(path, as: digest)
        logger.notice("input recalled from the archive", metadata: ["digest": "\(digest.hex)"])
    }
}
