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
    private let bytesPerSecond: Int64

    /// Tells the attempt's log what is being waited for.
    private let say: @Sendable (String) async -> Void

    /// - Parameter bytesPerSecond: at most; 0 for any number.
    package init(
        line: FarmLine, client: HTTPClient, attempt: AttemptID, api: String, authority: [UInt8], bytesPerSecond: Int64 = 0,
        say: @escaping @Sendable (String) async -> Void
    ) {
        self.say = say
        self.line = line
        self.client = client
        self.attempt = attempt
        self.api = api
        self.authority = authority
        self.bytesPerSecond = bytesPerSecond
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
            var request = HTTPRequest(
                "PUT", grant.url, headers: grant.headers.map { (name: $0.key, value: $0.value) }, body: body,
                authority: isOurs ? authority : nil, stallSeconds: 30)
            request.bytesPerSecond = bytesPerSecond
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

    /// The bucket of a presigned URL, without what signs it.
    private static func place(of url: String) -> String {
        let plain = url.prefix { $0 != "?" }
        return plain.split(separator: "/").prefix(3).joined(separator: "/")
    }

    /// Which of the digests the farm lacks.
    func missing(_ digests: [Digest]) async throws -> Set<Digest> { try await line.missing(digests, attempt) }
}
