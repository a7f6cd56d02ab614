package import ChunkStore
import FarmMessages
package import FarmModel
import Foundation
import Glibc
import ObjectStorage
package import HTTPTransport
import SystemIO

/// Sends objects of an attempt to where the coordinator allows.
package struct Uploader: Sendable {
    private let line: FarmLine
    private let client: HTTPClient
    private let attempt: AttemptID
    private let api: String
    private let authority: [UInt8]
    /// Packs are closed when they reach this size.
    private static let packSize = 32 << 20

    /// Tells the attempt's log what is being waited for.
    private let say: @Sendable (String) async -> Void

    package init(
        line: FarmLine, client: HTTPClient, attempt: AttemptID, api: String, authority: [UInt8],
        say: @escaping @Sendable (String) async -> Void
    ) {
        self.say = say
        self.line = line
        self.client = client
        self.attempt = attempt
        self.api = api
        self.authority = authority
    }

    /// What an upload of an image's chunks came to.
    package struct Sent: Sendable {
        package var packs: [IncomingObject] = []
        package var newChunks = 0
        package var newBytes: Int64 = 0
    }

    /// Sends one object; it is there, durably, when this returns.
    package func send(_ body: HTTPBody, kind: String, digest: Digest, size: Int64) async throws -> IncomingObject {
        var tries = 0
        while true {
            var message = Sciferry_V1_UploadRequest()
            message.kind = kind
            message.digest = Data(digest.bytes)
            message.size = UInt64(size)
            let grant = try await line.ask(attempt, .upload(message)).upload
            if grant.present { return IncomingObject(digest: digest, size: size) }
            let isOurs = grant.url.hasPrefix(api)
            let request = HTTPRequest(
                "PUT", grant.url, headers: grant.headers.map { (name: $0.key, value: $0.value) }, body: body,
                authority: isOurs ? authority : nil, stallSeconds: 30)
            do {
                let response = try await client.performRetrying(request, policy: RetryPolicy(attempts: 3))
                if response.isSuccess { return IncomingObject(digest: digest, size: size) }
                if isOurs { throw response.refusal }
                try S3Answer.check(response, digest.short, "upload", in: Uploader.place(of: grant.url))
            } catch let error as FarmError where error.category == .unavailable && tries < 5 {
                await say("the upload of \(digest.short) waits: \(error.message)")
                // The coordinator may be restarting, and a grant may be out of date: ask anew.
                tries += 1
                try await Task.sleep(for: .seconds(min(5, 0.3 * Double(1 << tries))))
            }
        }
    }

    /// Sends those chunks of an image that the farm lacks, in packs; one pack is on its way while the next is made.
    ///
    /// - Parameter progress: the share of the missing bytes that was packed, 0 to 1.
    package func sendChunks(
        of image: String, _ manifest: ImageManifest, scratch: String, progress: @escaping @Sendable (Double) async -> Void
    ) async throws -> Sent {
        var missing = try await line.missing(Array(Set(manifest.chunks.map(\.digest))), attempt)
        var sent = Sent()
        sent.newChunks = missing.count
        var plan: [(digest: Digest, offset: Int64, size: Int)] = []
        var offset: Int64 = 0
        for chunk in manifest.chunks {
            if missing.remove(chunk.digest) != nil { plan.append((chunk.digest, offset, chunk.size)) }
            offset += Int64(chunk.size)
        }
        let total = max(1, plan.reduce(0) { $0 + $1.size })
        var rest = plan[...]
        var packed = 0
        // In a group, so that a cancellation reaches the upload that is under way.
        try await withThrowingTaskGroup(of: IncomingObject.self) { uploads in
            while !rest.isEmpty {
                try Task.checkCancellation()
                let (pack, used) = try await Blocking.run { [rest] in try Uploader.pack(rest, of: image) }
                packed += rest.prefix(used).reduce(0) { $0 + $1.size }
                rest = rest.dropFirst(used)
                if let before = try await uploads.next() { sent.packs.append(before) }
                uploads.addTask {
                    try await send(.bytes(pack.bytes), kind: "pack", digest: pack.digest, size: Int64(pack.bytes.count))
                }
                sent.newBytes += Int64(pack.bytes.count)
                await progress(Double(packed) / Double(total))
            }
            if let last = try await uploads.next() { sent.packs.append(last) }
        }
        return sent
    }

    /// The bucket of a presigned URL, without what signs it.
    private static func place(of url: String) -> String {
        let plain = url.prefix { $0 != "?" }
        return plain.split(separator: "/").prefix(3).joined(separator: "/")
    }

    private static func pack(
        _ chunks: ArraySlice<(digest: Digest, offset: Int64, size: Int)>, of image: String
    ) throws -> (pack: (digest: Digest, bytes: [UInt8]), used: Int) {
        let file = try OpenFile(image, flags: O_RDONLY)
        defer { file.close() }
        var builder = PackBuilder()
        var used = 0
        for chunk in chunks {
            let bytes = try file.read(at: chunk.offset, count: chunk.size)
            try bytes.withUnsafeBytes { try builder.add(chunk.digest, $0) }
            used += 1
            if builder.size >= packSize { break }
        }
        let pack = builder.finish()
        return ((pack.digest, pack.bytes), used)
    }
}
