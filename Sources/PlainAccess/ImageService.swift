import ChunkStore
import FarmModel
import Foundation
import HTTPTypes
import Hummingbird
package import Logging
import NIOCore
import Synchronization

/// Images as ordinary files over HTTP, put together from chunks on the way: for `curl`, `aria2c`, `singularity pull` and the caches between.
package struct ImageService: Sendable {
    private let library: ImageLibrary
    private let logger: Logger
    private let streams = StreamCount(most: 96)
    /// Read and sent at a time; the next one is read meanwhile.
    private static let window: Int64 = 1 << 20

    package init(_ library: ImageLibrary, logger: Logger) {
        self.library = library
        self.logger = logger
    }

    /// Serves until cancelled; throws `serve.listen`.
    ///
    /// - Parameter listening: called once with the port.
    package func run(host: String, port: Int, listening: @escaping @Sendable (Int) async -> Void) async throws {
        let router = Router(options: .autoGenerateHeadEndpoints)
        router.get("/") { _, _ in try await answering { try await page() } }
        router.get("index.json") { _, _ in try await answering { try await index() } }
        router.get("images/:name/:version/:file") { request, context in
            try await answering {
                let path = try ["name", "version", "file"].map { try context.parameters.require($0) }.joined(separator: "/")
                return try await answer(try await library.image(path, now: .now), request, caching: "public, max-age=60, must-revalidate")
            }
        }
        // The address names the bytes: caches may keep them for good.
        router.get("sha256/:file") { request, context in
            try await answering {
                let file = try context.parameters.require("file")
                guard file.hasSuffix(".sif"), let digest = Digest(file.dropLast(4)) else { throw ImageLibrary.absent(file) }
                return try await answer(
                    try await library.image(digest, now: .now), request, caching: "public, max-age=31536000, immutable")
            }
        }
        let application = Application(
            router: router, configuration: .init(address: .hostname(host, port: port), serverName: "sciferry"),
            onServerRunning: { channel in await listening(channel.localAddress?.port ?? port) }, logger: logger)
        do { try await application.run() } catch let error where !(error is CancellationError) {
            throw FarmError("serve.listen", .unavailable, "cannot listen on \(host):\(port)", hint: "choose another --port", cause: error)
        }
    }

    private func answering(_ body: () async throws -> Response) async throws -> Response {
        do { return try await body() } catch let error as FarmError {
            logger.notice("request refused", metadata: ["error.code": "\(error.code.rawValue)", "reason": "\(error.message)"])
            var headers: HTTPFields = [.contentType: "text/plain; charset=utf-8", .cacheControl: "no-store"]
            if error.category == .unavailable { headers[.retryAfter] = "5" }
            // What the regions hold is no fault of who asks.
            let isTheirs = error.category == .corrupt || error.category == .notFound && error.code != "image.absent"
            let status: Int = isTheirs ? 502 : error.category.httpStatus
            return Response(
                status: .init(code: status), headers: headers, body: .init(byteBuffer: ByteBuffer(string: "\(error.message)\n")))
        }
    }

    private func index() async throws -> Response {
        let bytes = try CanonicalJSON.encode(try await library.all(now: .now))
        return Response(
            status: .ok, headers: [.contentType: "application/json", .cacheControl: "max-age=15"],
            body: .init(byteBuffer: ByteBuffer(bytes: bytes)))
    }

    private func page() async throws -> Response {
        // Names hold nothing that a page would read as anything else (`PlainName`).
        let lines = try await library.all(now: .now).map {
            "<a href=\"images/\($0.path)\">\($0.path)</a> \($0.size) <a href=\"sha256/\($0.sha256.hex).sif\">sha256:\($0.sha256.hex)</a>\n"
        }
        let text = "<!DOCTYPE html><title>images</title><pre>\n\(lines.joined())</pre>\n"
        return Response(
            status: .ok, headers: [.contentType: "text/html; charset=utf-8", .cacheControl: "max-age=15"],
            body: .init(byteBuffer: ByteBuffer(string: text)))
    }

    private func answer(_ image: ServedImage, _ request: Request, caching: String) async throws -> Response {
        let tag = "\"sha256-\(image.sha256.hex)\""
        var headers: HTTPFields = [
            .contentType: "application/octet-stream", .eTag: tag, .acceptRanges: "bytes",
            .lastModified: HTTPDate.text(image.publishedAt), .cacheControl: caching,
        ]
        if let status = Precondition(request.headers, tag: tag, modified: image.publishedAt).status {
            return Response(status: status, headers: headers)
        }
        // What a client has the beginning of may be another image by now. Only GET has parts (RFC 9110, section 14.2).
        let isSame = request.headers[.ifRange].map { $0 == tag || $0 == headers[.lastModified] } ?? true
        var range = 0..<image.size
        var status = HTTPResponse.Status.ok
        switch ByteRange(isSame && request.method == .get ? request.headers[.range] : nil, size: image.size) {
        case .whole: break
        case .part(let part):
            range = part
            status = .partialContent
            headers[.contentRange] = "bytes \(part.lowerBound)-\(part.upperBound - 1)/\(image.size)"
        case .none:
            return Response(
                status: .rangeNotSatisfiable, headers: [.contentRange: "bytes */\(image.size)", .eTag: tag, .cacheControl: "no-store"])
        }
        if request.method == .head {
            headers[.contentLength] = "\(range.count)"
            return Response(status: status, headers: headers)
        }
        return Response(status: status, headers: headers, body: try await body(of: image, range))
    }

    /// The bytes as they come. The first are read before anything is said, so that damage is an answer and no broken transfer.
    private func body(of image: ServedImage, _ range: Range<Int64>) async throws -> ResponseBody {
        let place = try await streams.enter()
        let reader = try await library.reader(of: image)
        let first = try await reader.read(range.lowerBound..<min(range.upperBound, range.lowerBound + ImageService.window))
        let logger = logger
        return ResponseBody(contentLength: range.count) { writer in
            defer { withExtendedLifetime(place) {} }
            var bytes = first
            var position = range.lowerBound + Int64(first.count)
            do {
                while position < range.upperBound {
                    let next = position..<min(range.upperBound, position + ImageService.window)
                    async let following = reader.read(next)
                    try await writer.write(ByteBuffer(bytes: bytes))
                    bytes = try await following
                    position = next.upperBound
                }
                try await writer.write(ByteBuffer(bytes: bytes))
            } catch let error as FarmError {
                // Whoever reads sees the line end before the length that was promised.
                logger.error("an image broke off", metadata: ["image": "\(image.path)", "reason": "\(error.message)"])
                throw error
            }
            try await writer.finish(nil)
        }
    }
}

/// How many images are on their way, which bounds the memory that they take.
private final class StreamCount: Sendable {
    private let count = Mutex(0)
    private let most: Int

    init(most: Int) { self.most = most }

    /// Held as long as a transfer goes on.
    final class Place: Sendable {
        private let owner: StreamCount
        fileprivate init(_ owner: StreamCount) { self.owner = owner }
        deinit { owner.count.withLock { $0 -= 1 } }
    }

    /// Waits for a place; throws `serve.busy` when there is none for half a minute.
    func enter() async throws -> Place {
        for _ in 0..<300 {
            let isIn = count.withLock { count in
                guard count < most else { return false }
                count += 1
                return true
            }
            if isIn { return Place(self) }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw FarmError("serve.busy", .unavailable, "\(most) transfers go on; try again in a moment")
    }
}
