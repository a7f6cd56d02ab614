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
    private let streams = StreamCount(most: 64)
    /// Read and sent at a time; the next one is read meanwhile.
    private static let window: Int64 = 2 << 20

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
        router.get("images/:file") { request, context in
            try await answering { try await image(try context.parameters.require("file"), request, isForever: false) }
        }
        router.get("sha256/:file") { request, context in
            try await answering { try await image(try context.parameters.require("file"), request, isForever: true) }
        }
        let application = Application(
            router: router, configuration: .init(address: .hostname(host, port: port), serverName: "sciferry"),
            onServerRunning: { channel in await listening(channel.localAddress?.port ?? port) }, logger: logger)
        do { try await application.run() } catch let error as IOError {
            throw FarmError("serve.listen", .unavailable, "cannot listen on \(host):\(port)", hint: "choose another --port", cause: error)
        }
    }

    private func answering(_ body: () async throws -> Response) async throws -> Response {
        do { return try await body() } catch let error as FarmError {
            logger.notice("request refused", metadata: ["error.code": "\(error.code.rawValue)", "reason": "\(error.message)"])
            var headers: HTTPFields = [.contentType: "text/plain; charset=utf-8", .cacheControl: "no-store"]
            if error.category == .unavailable { headers[.retryAfter] = "5" }
            // What the regions hold is no fault of who asks.
            let status: Int = error.category == .corrupt ? 502 : error.category.httpStatus
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
            "<a href=\"images/\($0.file)\">\($0.file)</a> \($0.size) sha256:\($0.sha256.hex)\n"
        }
        let text = "<!DOCTYPE html><title>images</title><pre>\n\(lines.joined())</pre>\n"
        return Response(
            status: .ok, headers: [.contentType: "text/html; charset=utf-8", .cacheControl: "max-age=15"],
            body: .init(byteBuffer: ByteBuffer(string: text)))
    }

    /// - Parameter isForever: whether the address names the bytes, so that caches may keep them for good.
    private func image(_ file: String, _ request: Request, isForever: Bool) async throws -> Response {
        let image = try await library.image(file, now: .now)
        guard !isForever || file == "\(image.sha256.hex).sif" else {
            throw FarmError("image.absent", .notFound, "there is no image with the digest \(file.printable())")
        }
        let tag = "\"sha256-\(image.sha256.hex)\""
        var headers: HTTPFields = [
            .contentType: "application/octet-stream", .eTag: tag, .acceptRanges: "bytes",
            .lastModified: ImageService.date(image.publishedAt),
            .cacheControl: isForever ? "public, max-age=31536000, immutable" : "public, max-age=60, must-revalidate",
        ]
        if let known = request.headers[.ifNoneMatch], known == "*" || known.contains(tag) {
            return Response(status: .notModified, headers: headers)
        }
        // What a client has the beginning of may be another image by now.
        let isSame = request.headers[.ifRange].map { $0 == tag || $0 == headers[.lastModified] } ?? true
        var range = 0..<image.size
        var status = HTTPResponse.Status.ok
        switch ByteRange(isSame ? request.headers[.range] : nil, size: image.size) {
        case .whole: break
        case .part(let part):
            range = part
            status = .partialContent
            headers[.contentRange] = "bytes \(part.lowerBound)-\(part.upperBound - 1)/\(image.size)"
        case .none:
            headers[.contentRange] = "bytes */\(image.size)"
            return Response(status: .rangeNotSatisfiable, headers: headers)
        }
        if request.method == .head {
            headers[.contentLength] = "\(range.count)"
            return Response(status: status, headers: headers)
        }
        return Response(status: status, headers: headers, body: try await body(of: image, range))
    }

    /// The bytes as they come. The first are read before anything is said, so that damage is an answer and no broken transfer.
    private func body(of image: ServedImage, _ range: Range<Int64>) async throws -> ResponseBody {
        let place = try streams.enter()
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
                logger.error("an image broke off", metadata: ["image": "\(image.file)", "reason": "\(error.message)"])
                throw error
            }
            try await writer.finish(nil)
        }
    }

    /// RFC 9110, section 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
    static func date(_ time: Timestamp) -> String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(identifier: "GMT")
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
        return formatter.string(from: Date(timeIntervalSince1970: Double(time.milliseconds / 1000)))
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

    /// Throws `serve.busy` when there is no place.
    func enter() throws -> Place {
        try count.withLock { count in
            guard count < most else { throw FarmError("serve.busy", .unavailable, "\(most) transfers go on; try again in a moment") }
            count += 1
        }
        return Place(self)
    }
}
