import ArgumentParser
import FarmModel
import Foundation
import HTTPTransport
import Logging
import ObjectStorage
import PlainAccess
import SiteDelivery
import SystemIO

/// Offers images as ordinary files.
struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Offer every image of the site's channel as an ordinary file over HTTP.",
        discussion: """
            Files are put together from the regions' chunks while they are sent; nothing is kept but a cache in memory. Ranges, HEAD, ETag and
            conditional requests work, so downloads can be resumed, split and cached.
            Example:
              sciferry serve --site /software --port 8080
              singularity pull http://localhost:8080/images/fsl/6.0.7/fsl_6.0.7_x86_64.sif
            With --static nothing is served: whole files are written into a bucket, with the same names and an index.json.
              sciferry serve --site /software --static s3:https://store.example/images
            """)

    @OptionGroup var farm: FarmOptions
    @OptionGroup var site: SiteOptions
    @Option(help: "The address to listen on.") var host = "127.0.0.1"
    @Option(help: "The port; 0 takes a free one.") var port = 8080
    @Option(name: .customLong("static"), help: "Write whole files into this bucket instead; what it has already stays.") var bucket: String?
    @Flag(help: "With --static: delete images there that the channel no longer has.") var delete = false

    func validate() throws {
        guard !delete || bucket != nil else { throw ValidationError("--delete goes with --static") }
    }

    func run() async throws {
        try await reporting {
            let site = try await SiteAccess.open(site, farm: farm)
            var logger = Logger(label: "serve")
            logger.logLevel = .notice
            let library = ImageLibrary(try SiteAccess.pull(site), logger: logger)
            if let bucket { return try await write(library, to: bucket, of: site) }
            let images = try await library.all(now: .now)
            let (host, count) = (host, images.count)
            try await ImageService(library, logger: logger).run(host: host, port: port) { port in
                Console.print("\(count) images at http://\(host.contains(":") ? "[\(host)]" : host):\(port)/")
            }
        }
    }

    private func write(_ library: ImageLibrary, to bucket: String, of site: Site) async throws {
        let images = StaticImages(library, in: try BucketLocation(bucket).open(client: HTTPClient()))
        let scratch = "\(ProcessInfo.processInfo.environment["TMPDIR"] ?? "/var/tmp")/sciferry-static-\(Nonce.hex(bytes: 6))"
        try Disk.makeNewDirectory(scratch, mode: 0o700)
        defer { try? Disk.remove(scratch) }
        let report = try await images.write(scratch: scratch, deletes: delete, now: .now) { path, size in
            if !farm.json { Console.print("\(path)  \(Console.bytes(size))") }
        }
        if farm.json { return try Console.json(report) }
        Console.print("\(report.written) written, \(report.unchanged) were there, \(report.deleted) deleted")
    }
}
